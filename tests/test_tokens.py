"""Tokens: causal transformers, sampling with a cache, and flows of patches."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import normal, randomize
from tensorflow_probability import distributions as tfd

from tfp_flows import FlowModel, bijectors, distributions, flows, networks, testing
from tfp_flows.networks.layer_normalization import LayerNormalization

t = bijectors.transformers
SMALL = {"patch": 2, "blocks": 2, "layers": 1, "width": 8, "seed": 0}


@pytest.fixture(scope="module")
def conditional():
    return randomize(flows.tarflow((4, 4, 1), context_size=3, **SMALL), stddev=0.2)


def test_a_place_depends_on_those_before_it():
    layer = randomize(networks.CausalTransformer(5, width=8, layers=2, seed=0), stddev=0.2)
    x = normal(1, 5, 3)
    for i in range(5):
        other = x.copy()
        other[:, i] += 1.0
        changed = np.any(layer(other) != layer(x), axis=(0, 2))
        assert changed.tolist() == [False] * i + [True] * (5 - i)


@pytest.mark.parametrize("policy", ["mixed_bfloat16"], indirect=True)
def test_steps_with_a_cache_run_in_half(policy):
    flow = randomize(flows.tarflow((4, 4, 1), **SMALL), stddev=0.1)
    drawn, log_prob = flow.sample_and_log_prob(4, seed=0)
    np.testing.assert_allclose(flow.log_prob(drawn), log_prob, rtol=0.05)


def test_fewer_tokens_than_places():
    layer = networks.CausalTransformer(5, width=8, layers=2, seed=0)
    x = normal(2, 5, 3)
    np.testing.assert_allclose(layer(x[:, :3]), layer(x)[:, :3], atol=1e-5)
    with pytest.raises(ValueError, match="5 tokens at most"):
        layer(normal(1, 6, 3))


@pytest.mark.parametrize(
    ("context", "guidance"), [(None, 0.0), (2, 0.0), ((4, 3), 0.0), (2, 1.5), ((4, 3), 1.5)]
)
def test_sampling_with_a_cache_is_sampling_token_by_token(context, guidance):
    """Each token by a whole call of the network on those before."""
    layer = bijectors.TokenAutoregressive(
        (4, 3), t.Affine(), (8, 8), context_size=context, dtype="float64", seed=0, guidance=guidance
    )
    randomize(layer, stddev=0.3)
    x = normal(5, 4, 3).astype("float64")
    kwargs = {}
    if context is not None:
        kwargs["context"] = normal(5, *np.atleast_1d(context), seed=1).astype("float64")
    y = np.zeros_like(x)
    for i in range(4):
        unit = layer.inverse(tf.constant(y), **kwargs)  # (y - shift) / scale, of zeros up to i.
        ones = y.copy()
        ones[:, i] += 1.0
        scale = 1 / (layer.inverse(tf.constant(ones), **kwargs) - unit)[:, i]
        y[:, i] = (x[:, i] - unit[:, i]) * scale
    np.testing.assert_allclose(layer.forward(x, **kwargs), y, rtol=1e-9, atol=1e-10)


class Running(keras.layers.Layer):
    """The mean of all tokens so far, which is causal."""

    independent_over_batch = True

    def call(self, x):
        counts = tf.range(1, x.shape[1] + 1, dtype=x.dtype)
        return tf.cumsum(x, 1) / counts[:, None]


def test_a_causal_layer_of_ones_own():
    layer = bijectors.TokenAutoregressive(
        (4, 2), t.Affine(), Running(dtype="float64"), dtype="float64"
    )
    randomize(layer)
    testing.check_bijector(layer, normal(6, 4, 2).astype("float64"), skip=["config", "one pass"])
    with pytest.raises(ValueError, match="must be causal"):
        bijectors.TokenAutoregressive((4, 2), t.Affine(), keras.layers.Conv1D(3, 3, padding="same"))


def dequantized():
    return distributions.Dequantized(flows.tarflow((4, 4, 1), **SMALL), 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bijectors.TokenAutoregressive(3, t.Affine()), "`event_size`"),
        (lambda: bijectors.TokenAutoregressive((None, 3), t.Affine()), "`event_size`"),
        (lambda: bijectors.TokenAutoregressive((4, 3), t.Affine(), (8, 4)), "`conditioner`"),
        (lambda: bijectors.TokenAutoregressive((4, 3), t.Affine(), guidance=1.0), "`guidance`"),
        (lambda: networks.CausalTransformer(4, width=6, heads=4), "multiple of `heads`"),
        (lambda: networks.ContextDropout(1.0), "`rate`"),
        (lambda: flows.tarflow((6, 8, 1), patch=4), "of 6, 4 or 8 would do"),
        (lambda: flows.tarflow((8, 8), patch=4), "`event_shape`"),
        (lambda: flows.guided(flows.tarflow((4, 4, 1), **SMALL), 1.0), "with context"),
        (lambda: flows.denoised(flows.tarflow((4, 4, 1), **SMALL), 0.0, 0.0), "`noise`"),
        (lambda: flows.denoised(dequantized(), np.zeros((2, 4, 4, 1)), 0.1), "have a density"),
        (
            lambda: flows.denoised(FlowModel(dequantized()), np.zeros((2, 4, 4, 1)), 0.1),
            "have a density",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tarflow_obeys_all_laws(dtype):
    flow = randomize(flows.tarflow((4, 4, 1), dtype=dtype, **SMALL), stddev=0.2)
    testing.check_flow(flow, normal(6, 4, 4, 1).astype(dtype))


def test_conditional_tarflow_obeys_all_laws(conditional):
    testing.check_flow(conditional, normal(6, 4, 4, 1), normal(6, 3))


def test_guidance_moves_draws_and_keeps_densities_exact(conditional):
    more = flows.guided(conditional, 2.0)
    context = np.eye(3, dtype="float32")
    testing.check_flow(more, normal(6, 4, 4, 1), context[[0, 1, 2, 0, 1, 2]])
    assert (
        np.abs(
            more.sample(context=context, seed=0) - conditional.sample(context=context, seed=0)
        ).max()
        > 0.01
    )
    zeros = np.zeros_like(context)
    np.testing.assert_allclose(
        more.sample(context=zeros, seed=0), conditional.sample(context=zeros, seed=0), atol=1e-5
    )
    assert {v.ref() for v in more.trainable_variables} == {
        v.ref() for v in conditional.trainable_variables
    }


def test_contexts_are_dropped_in_training_only():
    layer = networks.ContextDropout(0.5, seed=0)
    x = np.ones((2000, 3), "float32")
    np.testing.assert_array_equal(layer(x), x)
    dropped = layer(x, training=True).numpy()
    assert set(dropped.sum(1)) == {0.0, 3.0}
    assert abs((dropped == 0).mean() - 0.5) < 0.05
    fine = tf.constant([[1 + 1e-12]], "float64")
    assert layer(fine).numpy() == fine.numpy()  # As fine as it came, in a layer of float32.


def test_a_model_of_patches_trains_and_saves(tmp_path):
    flow = flows.tarflow((4, 4, 1), context_size=3, **SMALL)
    model = FlowModel(distributions.Dequantized(flow, 1.0, seed=0))
    x = np.random.default_rng(0).integers(0, 16, (96, 4, 4, 1))
    context = np.eye(3)[np.arange(96) % 3]
    model.adapt(context, x)
    model.compile(keras.optimizers.Adam(3e-3))
    losses = model.fit(context, x, epochs=4, batch_size=32, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "patches.keras")
    loaded = FlowModel.load(tmp_path / "patches.keras")
    found, expected = (m.log_prob(x[:5], context[:5]) for m in (loaded, model))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("batch", [(), (7,), (2, 3)])
def test_denoised_events_are_posterior_means(batch):
    """Of normal data, whose posterior given a noisy event is known."""
    noise, mean = 0.7, np.array([1.0, -2.0])
    root = np.array([[1.0, 0.0], [0.6, 0.3]])
    covariance = root @ root.T
    noisy = covariance + noise**2 * np.eye(2)
    flow = tfd.MultivariateNormalTriL(mean, np.linalg.cholesky(noisy))
    y = normal(*batch, 2, dtype="float64")
    expected = mean + (y - mean) @ np.linalg.solve(noisy, covariance)
    np.testing.assert_allclose(flows.denoised(flow, y, noise), expected, rtol=1e-10)


def test_models_denoise_in_units_of_the_data():
    x = 5 + 3 * normal(200, 2)
    model = FlowModel(flows.real_nvp(2, layers=2, seed=0))  # Starts as a standard normal.
    model.adapt(x)
    y = x[:4]
    expected = y - 0.5**2 * (y - x.mean(0)) / x.var(0)
    np.testing.assert_allclose(flows.denoised(model, y, 0.5), expected, rtol=1e-5)


def test_a_tarflow_is_trained_with_noise_and_its_draws_denoised():
    model, noise = FlowModel(flows.tarflow((4, 4, 1), **{**SMALL, "blocks": 1})), 0.3
    data = tf.data.Dataset.from_tensor_slices(np.ones((128, 4, 4, 1), "float32")).batch(64)
    data = data.map(lambda x: x + noise * tf.random.normal(tf.shape(x)))
    model.adapt(data)
    model.compile(keras.optimizers.Adam(1e-3))
    model.fit(data, epochs=2, verbose=0)
    assert set(model.evaluate(data, return_dict=True, verbose=0)) == {"loss"}
    draws = model.sample(64, seed=0)
    errors = [
        np.sqrt(np.mean((drawn - 1) ** 2)) for drawn in (draws, flows.denoised(model, draws, noise))
    ]
    assert errors[1] < 0.3 * errors[0]


def test_second_derivatives_are_those_of_the_first():
    """Keras' normalization over features has wrong ones."""
    flow = flows.tarflow((4, 4, 1), 2, 2, width=8, dtype="float64", seed=0)
    randomize(flow, stddev=0.2)
    rng = np.random.default_rng(0)
    x, way = tf.constant(rng.normal(size=(1, 4, 4, 1))), tf.constant(rng.normal(size=(1, 4, 4, 1)))
    with tf.GradientTape() as tape:
        tape.watch(x)
        slope = tf.reduce_sum(flow.score(x) * way)
    found = tf.reduce_sum(tape.gradient(slope, x) * way)
    ends = [tf.reduce_sum(flow.score(x + h * way) * way) for h in (1e-5, -1e-5)]
    np.testing.assert_allclose(found, (ends[0] - ends[1]) / 2e-5, rtol=1e-5)


def test_normalization_is_that_of_keras():
    x = tf.constant(np.random.default_rng(0).normal(3.0, 2.0, (4, 5, 8)), "float32")
    ours, theirs = LayerNormalization(), keras.layers.LayerNormalization()
    for layer in (ours, theirs):
        layer.build(x.shape)
        layer.gamma.assign(np.linspace(0.5, 1.5, 8))
        layer.beta.assign(np.linspace(-1, 1, 8))
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-5)
