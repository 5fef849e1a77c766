"""Events on a grid: squeezing, several scales, and flows of images."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal

from tfp_flows import (
    Flow,
    FlowModel,
    bijectors,
    distributions,
    flows,
    networks,
    testing,
)
from tfp_flows.distributions import reversible

tfd, tfb = tfp.distributions, tfp.bijectors
t = bijectors.transformers
SMALL = {"levels": 2, "steps": 2, "width": 8, "seed": 0}


def disturbed(flow, deviation=0.1):
    """The flow with random values added to its variables."""
    rng = np.random.default_rng(0)
    for variable in flow.trainable_variables:
        variable.assign_add(rng.normal(0, deviation, variable.shape))
    return flow


def images(n=8, shape=(4, 4, 1), dtype="float32"):
    return np.random.default_rng(0).normal(size=(n, *shape)).astype(dtype)


def test_no_images_have_no_densities():
    flow = flows.glow((4, 4, 1), levels=1, steps=1, width=4, seed=0)
    signature = [tf.TensorSpec([None, 4, 4, 1])]
    nothing = tf.zeros([0, 4, 4, 1])
    assert flow.sample(0).shape == (0, 4, 4, 1)
    for jit in (False, True):
        log_prob = tf.function(flow.log_prob, signature, jit_compile=jit)
        assert log_prob(nothing).shape == flow.log_prob(nothing).shape == (0,)
        np.testing.assert_allclose(log_prob(images(2)), flow.log_prob(images(2)), rtol=1e-5)
    given = flows.waveglow(16, mels=8, hop=8, flows=2, width=4, layers=2, seed=0)
    frames = tf.zeros([0, 2, 8])
    assert given.log_prob(tf.zeros([0, 16, 1]), context=frames).shape == (0,)


def test_squeezed_blocks_stand_row_by_row():
    x = np.arange(16.0).reshape(4, 4, 1)
    y = bijectors.Squeeze(2).forward(x)
    np.testing.assert_array_equal(y[0, 0], [0, 1, 4, 5])
    np.testing.assert_array_equal(y[1, 0], [8, 9, 12, 13])
    sound = bijectors.Squeeze(4, event_ndims=2).forward(np.arange(16.0).reshape(8, 2))
    np.testing.assert_array_equal(sound[1], np.arange(8.0, 16.0))


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_squeezed_shapes_are_known_before_and_in_graphs(batch):
    squeeze = bijectors.Squeeze(2)
    assert squeeze.forward_event_shape((28, 28, 1)) == (14, 14, 4)
    assert squeeze.inverse_event_shape((14, 14, 4)) == (28, 28, 1)
    np.testing.assert_array_equal(squeeze.forward_event_shape_tensor([6, 4, 2]), [3, 2, 8])
    np.testing.assert_array_equal(squeeze.inverse_event_shape_tensor([3, 2, 8]), [6, 4, 2])
    x = np.random.default_rng(0).normal(size=(*batch, 6, 4, 2))
    unknown = tf.TensorSpec([*(None for _ in batch), None, None, 2], "float64")
    there = tf.function(squeeze.forward, input_signature=[unknown])(x)
    np.testing.assert_array_equal(there, squeeze.forward(x))
    np.testing.assert_array_equal(squeeze.inverse(tf.identity(there)), x)
    assert there.shape == (*batch, 3, 2, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bijectors.Squeeze(2).forward(np.zeros((28, 27, 1))), "of 27, 26 or 28 would do"),
        (lambda: bijectors.Squeeze(4).forward(np.zeros((3, 4, 1))), "of 3, 4 would do"),
        (lambda: bijectors.Squeeze(2).inverse(np.zeros((4, 4, 6))), "multiples of 4"),
        (lambda: bijectors.Squeeze(2).forward(np.zeros((4, 4))), "events of rank 3"),
        (lambda: bijectors.Squeeze(2, event_ndims=1), "`event_ndims`"),
        (lambda: bijectors.Squeeze(0), "`factor`"),
        (lambda: flows.glow((27, 28, 1)), "of 27, 26 or 28 would do"),
        (lambda: flows.glow((28, 28)), "`event_shape`"),
        (lambda: flows.glow((4, 4, 1), steps=0), "`steps`"),
        (lambda: flows.glow((4, 4, 1), levels=5, steps=1, width=4), "`levels` must be 4"),
        (lambda: bijectors.Coupling((4, 4, 1), t.Affine()), "mask='checkerboard', or squeeze"),
        (lambda: bijectors.Coupling((4, 4, 2), t.Affine(), mask="x"), "'checkerboard' on a grid"),
        (lambda: bijectors.Coupling((None, 4, 2), t.Affine(), mask="checkerboard"), "known"),
        (lambda: bijectors.Coupling((4, 4, 2), t.Affine(), mask=[True]), r"of shape \(4, 4, 2\)"),
        (lambda: bijectors.Coupling((4, 4, 0), t.Affine()), "`event_size`"),
        (lambda: bijectors.Coupling((), t.Affine()), "one axis or more"),
        (lambda: bijectors.Coupling((4, 4, 2), t.CircularSpline()), "of angles"),
        (
            lambda: bijectors.Coupling((4, 4, 2), t.Affine(), context_size=(6, 4, 1)),
            r"a multiple of that of events, \(4, 4\)",
        ),
        (
            lambda: bijectors.Coupling((4, 4, 2), t.Affine()).forward(np.zeros((4, 2, 2), "f")),
            r"events of shape \(4, 4, 2\). Received: shape=\(4, 2, 2\)",
        ),
        (
            lambda: bijectors.Coupling((4, 4, 2), t.Affine(), keras.layers.Conv2D(3, 2)),
            r"on a grid of shape \(4, 4\)",
        ),
        (lambda: bijectors.MultiScale((4, 4, 1), []), "two channels"),
        (
            lambda: bijectors.MultiScale(
                (4, 4, 2), [bijectors.Coupling((4, 4, 1), t.Affine(), (4,), context_size=2)]
            ),
            "`context_size` must be that",
        ),
        (lambda: networks.ConvNet((4, 4), kernel_size=(3,)), "`kernel_size`"),
        (lambda: networks.ConvNet(()), "`filters`"),
        (lambda: networks.GatedResNet(4).build((None, 3)), r"\(batch, H, W, C\)"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message) if "\\" not in message else message):
        call()


def test_layers_that_are_no_bijectors_are_refused():
    with pytest.raises(TypeError, match="`layers` must be a list of bijectors"):
        bijectors.MultiScale((4, 4, 2), [tf.identity])


@pytest.mark.parametrize("make", [bijectors.ActNorm, bijectors.LU])
def test_log_dets_of_channels_count_at_every_position(make):
    layer = make(3, dtype="float64")
    layer.adapt(5.0 * images(50, (4, 2, 3), "float64"))
    per_position = layer.forward_log_det_jacobian(np.zeros((1, 3)), 1)[0]
    total = layer.forward_log_det_jacobian(images(2, (4, 2, 3), "float64"), 3)
    np.testing.assert_allclose(total, [8 * per_position] * 2, rtol=1e-12)
    assert abs(per_position) > 4.0


def test_channels_that_leave_are_normal_given_the_others():
    layer = disturbed(bijectors.MultiScale((2, 2, 2), [], (4,), dtype="float64", seed=0), 0.5)
    base = tfd.Independent(tfd.Normal(tf.zeros((2, 2, 2), "float64"), 1), 3)
    x = images(5, (2, 2, 2), "float64")
    z = layer.inverse(x)
    np.testing.assert_array_equal(z[..., :1], x[..., :1])
    scale = np.exp(layer.forward_log_det_jacobian(z, 3) / 4)  # A mean over positions.
    assert np.ptp(scale) > 0
    other = x.copy()
    other[..., 1:] += 1.0
    steps = layer.inverse(other) - z  # One over the deviation, wherever the half begins.
    again = layer.inverse(other + (other - x)) - layer.inverse(other)
    np.testing.assert_allclose(steps, again, rtol=1e-9, atol=1e-12)
    expected = tfd.Normal(0.0, 1.0).log_prob(z.numpy().astype("float32")).numpy().sum((1, 2, 3))
    found = Flow(base, layer).log_prob(x) - layer.inverse_log_det_jacobian(x, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_glow_obeys_all_laws(dtype):
    flow = disturbed(flows.glow((4, 4, 1), dtype=dtype, **SMALL))
    testing.check_flow(flow, images(dtype=dtype))


@pytest.mark.parametrize("context", [3, (8, 4, 2)])
def test_conditional_glow_obeys_all_laws(context):
    flow = flows.glow((4, 4, 1), context_size=context, dtype="float64", **SMALL)
    given = normal(8, *(context if isinstance(context, tuple) else (context,)))
    testing.check_flow(disturbed(flow), images(dtype="float64"), given)


@pytest.mark.parametrize(
    "transformer", [t.RationalQuadraticSpline(bins=4), t.MixtureOfLogistics(2)]
)
def test_glow_takes_any_transformer(transformer):
    flow = disturbed(flows.glow((4, 4, 1), transformer=transformer, dtype="float64", **SMALL))
    x = flow.sample(5, seed=0)
    with tf.GradientTape(persistent=True) as tape:
        z = tf.identity(x)
        tape.watch(z)
        base = tf.reshape(flow.bijector.inverse(z), [5, 16])
    jacobian = tf.reshape(tape.batch_jacobian(base, z, experimental_use_pfor=False), [5, 16, 16])
    expected = (
        flow.distribution.log_prob(tf.reshape(base, x.shape)) + np.linalg.slogdet(jacobian)[1]
    )
    np.testing.assert_allclose(flow.log_prob(x), expected, rtol=1e-8)


def test_an_odd_level_is_not_squeezed():
    flow = flows.glow((28, 28, 1), levels=3, steps=1, width=4, seed=0)
    x = images(2, (28, 28, 1))
    shapes = {stage.event_shape for stage in flow.stages()}
    assert shapes == {tf.TensorShape([28, 28, 1]), tf.TensorShape([14, 14, 4])}
    np.testing.assert_allclose(flow.bijector.forward(flow.bijector.inverse(x)), x, atol=1e-5)


def test_every_layer_is_initialized_from_data():
    flow = flows.glow((8, 8, 1), context_size=2, **SMALL)
    norms = [part for part in flow.submodules if isinstance(part, bijectors.ActNorm)]
    assert len(norms) == 5 and not any(norm.is_initialized for norm in norms)
    x, context = 50 + 9 * images(200, (8, 8, 1)), normal(200, 2)
    flow.adapt(x, context)
    assert all(norm.is_initialized for norm in norms)
    deep = norms[-1]
    before = deep.shift.numpy()
    z = flow.given(context).bijector.inverse(x).numpy()
    assert abs(z.mean()) < 0.05 and abs(z.std() - 1) < 0.05
    deep.initialized.assign(False)
    deep.shift.assign(0 * before)
    flow.adapt(x, context, again=False)
    np.testing.assert_allclose(deep.shift, before, atol=1e-5)


def test_reversible_training_has_the_same_gradients():
    flow = disturbed(flows.glow((4, 4, 1), context_size=2, dtype="float64", **SMALL))
    x, context = images(dtype="float64"), tf.constant(normal(8, 2), "float64")
    gradients = []
    for log_prob in (flow.log_prob, lambda *given: reversible.log_prob(flow, *given)):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(log_prob(x, context))
        gradients.append(tape.gradient(loss, flow.trainable_variables))
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-10)


def test_temperature_scales_the_base():
    flow = disturbed(flows.glow((4, 4, 1), **SMALL))
    cool = flow.sample(5, seed=3, temperature=0.5)
    z = flow.bijector.inverse(tf.identity(flow.sample(5, seed=3)))
    np.testing.assert_allclose(cool, flow.bijector.forward(0.5 * z), atol=1e-4)
    still = flow.sample(2, seed=3, temperature=0.0)
    np.testing.assert_allclose(still[0], flow.bijector.forward(tf.zeros((4, 4, 1))), atol=1e-5)
    vectors = flows.real_nvp(2, context_size=2, seed=0)
    assert vectors.sample(3, normal(4, 2), seed=0, temperature=0.7).shape == (3, 4, 2)


@pytest.mark.parametrize(
    ("base", "temperature"),
    [(None, -1.0), (None, np.inf), (distributions.bases.box(2), 0.5)],
)
def test_temperatures_without_a_meaning_are_refused(base, temperature):
    flow = flows.real_nvp(2, base=base, seed=0)
    with pytest.raises(ValueError, match="`temperature`"):
        flow.sample(3, temperature=temperature)


def pixels(n=96):
    """Images of integers, with a frame that is always 0."""
    x = np.random.default_rng(0).integers(0, 16, (n, 4, 4, 1))
    x[:, 0] = 0
    return x


@pytest.mark.parametrize("noise", [None, (4,)])
def test_a_model_of_pixels_trains_and_saves(noise, tmp_path):
    flow = flows.glow((4, 4, 1), context_size=2, **SMALL)
    model = FlowModel(distributions.Dequantized(flow, 1.0, noise=noise, align="left"))
    x, context = pixels(), normal(96, 2)
    model.adapt(context, x)
    model.compile(keras.optimizers.Adam(3e-3))
    history = model.fit(context, x, epochs=4, batch_size=32, verbose=0, validation_split=0.25)
    losses = history.history
    assert losses["loss"][-1] < losses["loss"][0]
    np.testing.assert_allclose(
        losses["val_bits_per_dim"], np.array(losses["val_loss"]) / (16 * np.log(2)), rtol=1e-6
    )
    drawn = model.sample(2, context[:3], seed=0)
    assert drawn.shape == (2, 3, 4, 4, 1)
    np.testing.assert_array_equal(drawn, np.round(drawn))
    model.distribution.seed = 0
    model.save(tmp_path / "pixels.keras")
    loaded = FlowModel.load(tmp_path / "pixels.keras")
    loaded.distribution.seed = 0
    np.testing.assert_array_equal(
        loaded.log_prob(x[:5], context[:5]), model.log_prob(x[:5], context[:5])
    )


def test_bits_are_a_probability():
    """Of a flow that is uniform on its cells, whatever the bound: log 16 nats, 4 bits a pixel."""
    base = tfd.Independent(tfd.Uniform(tf.zeros((2, 2, 1)), 16.0), 3)
    model = FlowModel(
        distributions.Dequantized(
            Flow(base, bijectors.ActNorm(1)), 1.0, noise=(4,), align="left", samples=3
        )
    )
    model.compile()
    found = model.evaluate(pixels(8)[:, :2, :2], verbose=0, return_dict=True)
    assert found["bits_per_dim"] == pytest.approx(4.0, abs=0.05)
    continuous = FlowModel(flows.glow((4, 4, 1), **SMALL))
    continuous.compile()
    assert set(continuous.evaluate(images(), verbose=0, return_dict=True)) == {"loss"}


def test_steps_of_images():
    flow = flows.glow((4, 4, 1), **SMALL)
    assert distributions.Dequantized(flow, 2.0).steps == 2.0
    some = np.ones((4, 4, 1))
    some[0] = 0.0
    assert np.shape(distributions.Dequantized(flow, some).steps) == (4, 4, 1)
    with pytest.raises(ValueError, match="`steps` must all be above 0"):
        distributions.Dequantized(flow, some, noise=(4,))
    with pytest.raises(ValueError, match=r"numbers of shape \(4, 4, 1\)"):
        distributions.Dequantized(flow, [1.0, 2.0])
    with pytest.raises(ValueError, match=r"in column 1, 2, 0.*0.5 in row 3"):
        x = pixels().astype("float32")
        x[3, 1, 2] = 0.5
        FlowModel(distributions.Dequantized(flow, 1.0)).adapt(x)


def test_sounds_of_any_length():
    """The same weights map shorter and longer events."""
    layer = disturbed(bijectors.Coupling((None, 2), t.Affine(), (4,), dtype="float64", seed=0), 0.3)
    for length in (5, 9):
        x = normal(3, length, 2).astype("float64")
        y = layer.forward(x)
        np.testing.assert_allclose(layer.inverse(tf.identity(y)), x, rtol=1e-9, atol=1e-12)
        assert layer.forward_log_det_jacobian(x, 2).shape == (3,)


def test_shapes_of_context_may_be_lists():
    layer = bijectors.Coupling((4, 4, 1), t.Affine(), (4,), "checkerboard", context_size=[4, 4, 2])
    both = bijectors.MultiScale((4, 4, 2), [layer], (4,), context_size=(4, 4, 2))
    assert both.context_size == layer.context_size == (4, 4, 2)
