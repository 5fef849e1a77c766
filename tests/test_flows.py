"""The factories: every family by name, close to its base when fresh, reproducible by seed."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal, randomize

from tfp_flows import Flow, bijectors, flows, networks
from tfp_flows.ops.internals import layers_of

tfd, tfb = tfp.distributions, tfp.bijectors

COUPLINGS = ["neural_spline", "nice", "real_nvp"]


CONTINUOUS = ("ffjord", "ot_flow")


def small_flow(name, event_size=3, **options):
    few = {"steps": 2} if name in CONTINUOUS else {}
    return flows.get(name, event_size, **{"layers": 2, "hidden_units": (8,), **few, **options})


def test_names_are_the_functions_that_make_flows():
    assert flows.names() == sorted(flows.names())
    others = {"autoregressive", "coupling", "get", "names"}
    others |= {"denoised", "glow", "guided", "sphere", "tarflow", "waveglow"}
    assert set(flows.names()) == set(flows.__all__) - others
    for name in flows.names():
        flow = flows.get(name, 2, layers=2)
        assert isinstance(flow, Flow)
        assert flow.name == name
        assert flow.event_shape == (2,)
        assert flow.batch_shape == ()


def test_an_unknown_name_is_an_error():
    with pytest.raises(ValueError, match=r"`name` must be one of \['autoreg.*name='splines'"):
        flows.get("splines", 2)


@pytest.mark.parametrize("name", flows.names())
def test_all_take_event_size_and_then_keywords(name):
    parameters = list(inspect.signature(getattr(flows, name)).parameters.values())
    assert parameters[0].name == "event_size"
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters[1:])
    shared = {"layers", "hidden_units", "context_size", "base", "dtype", "seed"}
    assert shared <= {p.name for p in parameters}


@pytest.mark.parametrize("event_size", [1, 2, 3, 5])
@pytest.mark.parametrize("name", flows.names())
def test_a_fresh_flow_is_its_base(name, event_size):
    flow = small_flow(name, event_size, layers=3)
    x = 3 * normal(20, event_size)
    if name == "circular_spline":
        x = np.pi * np.tanh(x)
    np.testing.assert_allclose(flow.log_prob(x), flow.distribution.log_prob(x), atol=1e-3)
    np.testing.assert_allclose(flow.bijector.forward(x), x, atol=1e-3)


@pytest.mark.parametrize("event_size", [1, 2, 3, 5])
@pytest.mark.parametrize("name", flows.names())
def test_every_column_is_transformed_and_the_density_is_right(name, event_size):
    options = {"layers": 4}
    if name in CONTINUOUS:  # Densities are right as far as steps are short.
        options = {"layers": 1, "solver": "dopri5", "rtol": 1e-11, "atol": 1e-11}
    flow = randomize(small_flow(name, event_size, dtype="float64", **options))
    x = tf.constant(normal(4, event_size, dtype="float64"))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        z = flow.bijector.inverse(x)
    jacobian = tape.batch_jacobian(z, x, experimental_use_pfor=False)
    expected = flow.distribution.log_prob(z) + np.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(flow.log_prob(x), expected, atol=1e-9)
    assert flow.log_prob(x).dtype == flow.dtype == tf.float64
    assert (np.abs(z - x).max(0) > 1e-3).all()
    depends = (np.abs(jacobian) > 1e-12).any(0)
    if name == "elementwise_spline":
        assert (depends == np.eye(event_size, dtype=bool)).all()
    else:
        assert depends.all()  # four layers are enough for all columns to act on all


@pytest.mark.parametrize("event_size", [1, 3])
@pytest.mark.parametrize("name", flows.names())
def test_context_reaches_every_column(name, event_size):
    flow = small_flow(name, event_size, context_size=2)
    context, x = normal(6, 2), normal(6, event_size, seed=1)
    # Fresh, the context does not matter; later it does.
    np.testing.assert_allclose(
        flow.log_prob(x, context=context), flow.distribution.log_prob(x), atol=1e-3
    )
    randomize(flow)
    z = flow.given(context).bijector.inverse(np.zeros((6, event_size), "float32"))
    assert (np.ptp(z, axis=0) > 1e-3).all()


def test_columns_of_an_elementwise_spline_are_independent_given_context():
    flow = randomize(small_flow("elementwise_spline", 3, context_size=2))
    given, x = flow.given(normal(2)), normal(5, 3, seed=1)
    moved = x + np.array([0.7, 0.0, 0.0], "float32")
    change = (given.bijector.inverse(moved) - given.bijector.inverse(x)).numpy()
    assert (change[:, 0] > 0.01).all()
    assert (change[:, 1:] == 0).all()


def state(flow):
    return [variable.numpy() for variable in flow.variables]


def masks(flow):
    return [step.mask.tolist() for step in flow.bijector.bijectors if hasattr(step, "mask")]


@pytest.mark.parametrize("name", flows.names())
def test_a_seed_fixes_weights_and_masks(name):
    options = {"layers": 4, "context_size": 2}
    make = {seed: [small_flow(name, 8, seed=seed, **options) for _ in range(2)] for seed in (0, 1)}
    (first, again), (other, _) = make[0], make[1]
    for a, b in zip(state(first), state(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert masks(first) == masks(again)
    if name in COUPLINGS:
        assert masks(first) != masks(other)
    assert any((a != b).any() for a, b in zip(state(first), state(other), strict=True))
    # The layers of one flow differ from each other.
    kernels = [
        layer.conditioner.layer.variables[0].numpy()
        for layer in first.bijector.bijectors
        if isinstance(layer, bijectors.Coupling)
    ]
    assert all((kernels[0] != kernel).any() for kernel in kernels[1:])


def test_without_a_seed_weights_differ_but_masks_do_not():
    first, second = (small_flow("nice", 8, layers=6) for _ in range(2))
    assert any((a != b).any() for a, b in zip(state(first), state(second), strict=True))
    assert masks(first) == masks(second)  # or saved weights would fit without being right


def test_a_column_is_kept_and_moved_in_turn():
    flow = small_flow("real_nvp", 5, layers=6, seed=0)
    for kept, moved in zip(masks(flow)[::2], masks(flow)[1::2], strict=True):
        assert [not k for k in kept] == moved
    assert masks(flow)[0] == [True, True, False, False, False]


@pytest.mark.parametrize("name", flows.names())
def test_a_base_of_ones_own(name):
    base = tfd.Independent(tfd.StudentT(tf.Variable(5.0), tf.zeros(3), 2.0), 1)
    flow = small_flow(name, 3, base=base)
    x = normal(4, 3)
    assert flow.distribution is base
    np.testing.assert_allclose(flow.log_prob(x), base.log_prob(x), atol=1e-3)
    assert any(variable is base.distribution.df for variable in flow.trainable_variables)


def test_spline_options_are_used():
    flow = flows.neural_spline(2, layers=1, hidden_units=(8,), bins=5, bound=2.0)
    spline = flow.bijector.bijectors[0].transformer
    assert (spline.bins, spline.bound) == (5, 2.0)
    flow = randomize(flows.elementwise_spline(2, bins=5, bound=2.0))
    assert flow.trainable_variables[0].shape == (14, 2)
    outside = np.full((1, 2), 2.5, "float32")
    np.testing.assert_array_equal(flow.bijector.forward(outside), outside)


def test_layers_are_counted():
    assert len(small_flow("real_nvp", layers=5).stages()) == 6
    assert len(small_flow("nice", layers=5).stages()) == 7  # and the scale
    assert len(flows.elementwise_spline(2, layers=3).stages()) == 4


@pytest.mark.parametrize("name", flows.names())
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, r"`layers` must be a positive integer.*layers=0"),
        ({"layers": 2.0}, r"`layers` must be a positive integer.*2\.0"),
        ({"layers": True}, r"`layers` must be a positive integer.*True"),
        ({"event_size": 0}, r"`event_size` must be a positive integer.*event_size=0"),
        ({"event_size": "2"}, r"`event_size` must be a positive integer.*'2'"),
        ({"dtype": "int32"}, r"`dtype` must be float32 or float64.*int32"),
        ({"dtype": "float16"}, r"`dtype` must be float32 or float64.*float16"),
    ],
)
def test_bad_options_are_errors_of_all(name, options, message):
    with pytest.raises(ValueError, match=message):
        small_flow(name, **options)


@pytest.mark.parametrize("name", flows.names())
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_units": ()}, r"`hidden_units`.*Received: \(\)"),
        ({"hidden_units": (8, -1)}, r"`hidden_units` must be a positive integer.*-1"),
        ({"hidden_units": 8}, r"sequence of hidden widths.*Received: 8"),
        ({"context_size": 0}, r"`context_size` must be a positive integer.*0"),
        ({"context_size": 1.5}, r"`context_size` must be a positive integer.*1\.5"),
    ],
)
def test_bad_options_of_networks_are_errors(name, options, message):
    with pytest.raises(ValueError, match=message):
        small_flow(name, **{"context_size": 2, **options})


def test_a_base_that_does_not_fit_is_an_error():
    wrong_size = tfd.MultivariateNormalDiag(tf.zeros(2))
    with pytest.raises(ValueError, match=r"`base` must have events of shape \(3,\).*\(2,\)"):
        small_flow("real_nvp", 3, base=wrong_size)
    with pytest.raises(ValueError, match=r"`base`.*float64.*float32"):
        small_flow("real_nvp", 2, base=wrong_size, dtype="float64")
    with pytest.raises(TypeError, match="`base` must be a tfd"):
        small_flow("real_nvp", 2, base="normal")


def test_bad_spline_options_are_errors():
    for make in (flows.neural_spline, flows.elementwise_spline):
        with pytest.raises(ValueError, match="`bins` must be positive"):
            make(2, bins=0)
        with pytest.raises(ValueError, match="`bound` must be positive"):
            make(2, bound=-1.0)


def test_dropout_masks_differ_from_layer_to_layer():
    first, second = (
        layer
        for layer in layers_of(networks.MLP((64, 64), dropout=0.5, seed=3))
        if isinstance(layer, keras.layers.Dropout)
    )
    ones = np.ones((8, 64), "float32")
    assert not np.array_equal(first(ones, training=True), second(ones, training=True))
