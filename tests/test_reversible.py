"""Constant-memory training: the gradients are the ordinary ones."""

import functools

import helpers
import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import Flow, FlowModel, bijectors, flows, networks
from tfp_flows.distributions import reversible

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers

EVENT, CONTEXT, ROWS = 4, 2, 12
SMALL = {"layers": 2, "hidden_units": (8,), "seed": 0}
normal, randomize = helpers.normal, functools.partial(helpers.randomize, stddev=0.1)
RTOL = {"float32": 1e-4, "float64": 1e-10}


def base(size=EVENT, dtype="float32"):
    return tfd.MultivariateNormalDiag(tf.zeros([size], dtype))


def real_nvp(dtype):
    return flows.real_nvp(EVENT, linear="lu", actnorm=True, dtype=dtype, **SMALL), None


def neural_spline(dtype):
    return flows.neural_spline(EVENT, linear="lu", actnorm=True, dtype=dtype, **SMALL), None


def with_context(dtype):
    flow = flows.neural_spline(EVENT, context_size=CONTEXT, linear="lu", dtype=dtype, **SMALL)
    return flow, normal(ROWS, CONTEXT, seed=1, dtype=dtype)


def with_embedding(dtype):
    flow = flows.real_nvp(
        EVENT,
        context_size=CONTEXT,
        embedding=keras.layers.SimpleRNN(CONTEXT, dtype=dtype, kernel_initializer="ones"),
        context_shape=(3, 1),
        actnorm=True,
        dtype=dtype,
        **SMALL,
    )
    return flow, normal(ROWS, 3, 1, seed=1, dtype=dtype)


def with_steps_that_are_kept(dtype):
    """MAF, a bijector of TFP, and a numerical inverse between reversible ones, some inverted."""
    coupling = bijectors.Coupling(EVENT, transformers.Affine(), (8,), dtype=dtype, seed=0)
    maf = flows.maf(EVENT, dtype=dtype, layers=1, hidden_units=(8,), seed=1).bijector
    chain = [
        tfb.Scale(np.full(EVENT, 2.0, dtype)),
        tfb.Invert(tfb.Chain([coupling, bijectors.QR(EVENT, dtype=dtype, seed=0)])),
        maf,
        bijectors.Householder(EVENT, dtype=dtype, seed=0),
        bijectors.Elementwise(EVENT, transformers.SumOfSquares(), dtype=dtype),
        bijectors.Triangular(EVENT, dtype=dtype),
        coupling,  # Again, and once more: its gradients add up.
        bijectors.Permutation(EVENT, "reversed"),
        coupling,
        bijectors.Rotation(EVENT, dtype=dtype),
    ]
    # A standard normal would not see the rotation.
    scales = np.arange(1, 1 + EVENT).astype(dtype)
    return Flow(tfd.MultivariateNormalDiag(0 * scales, scales), tfb.Chain(chain)), None


class Doubled(bijectors.Coupling):
    """A coupling that does more than its base class."""

    def _forward_and_log_det(self, x, context=None):
        y, log_det = super()._forward_and_log_det(x, context)
        return 2 * y, log_det + EVENT * np.log(2)

    def _inverse_and_log_det(self, y, context=None):
        x, log_det = super()._inverse_and_log_det(y / 2, context)
        return x, log_det - EVENT * np.log(2)


def with_couplings_of_other_kinds(dtype):
    options = {"context_size": CONTEXT, "dtype": dtype, "seed": 0}
    nothing_kept = np.zeros(EVENT, bool)
    chain = [
        Doubled(EVENT, transformers.Affine(), (8,), **options),
        bijectors.Coupling(EVENT, transformers.Affine(), (8,), mask=nothing_kept, **options),
        bijectors.Coupling(EVENT, transformers.Affine(), (8,), flip=True, **options),
    ]
    return Flow(base(dtype=dtype), tfb.Chain(chain)), normal(ROWS, CONTEXT, seed=1, dtype=dtype)


FLOWS = [
    real_nvp,
    neural_spline,
    with_context,
    with_embedding,
    with_steps_that_are_kept,
    with_couplings_of_other_kinds,
]


def in_mode(function, mode):
    if mode == "eager":
        return function
    return tf.function(function, autograph=False, jit_compile=mode == "xla")


def values_and_gradients(log_prob, flow, x, context, mode="eager"):
    """Log-densities, and gradients of a function of them by data, context and variables."""
    inputs = [tf.constant(array) for array in (x, context) if array is not None]
    variables = list(flow.trainable_variables)

    def run(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            log_probs = log_prob(flow, *inputs)
            loss = tf.reduce_mean(log_probs**2)
        return [log_probs, *tape.gradient(loss, [*inputs, *variables])]

    return [np.asarray(value) for value in in_mode(run, mode)(*inputs)]


def assert_same(found, expected, rtol):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert np.linalg.norm(b) > 0  # Else any factor would do.
        assert np.linalg.norm(a - b) <= rtol * np.linalg.norm(b)


@pytest.mark.parametrize("make", FLOWS, ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    ("dtype", "mode"),
    [("float32", "graph"), ("float64", "eager"), ("float64", "graph"), ("float64", "xla")],
)
def test_gradients_are_the_ordinary_ones(make, dtype, mode):
    flow, context = make(dtype)
    randomize(flow)
    x = normal(ROWS, EVENT, dtype=dtype)
    expected = values_and_gradients(Flow.log_prob, flow, x, context)
    found = values_and_gradients(reversible.log_prob, flow, x, context, mode)
    assert_same(found, expected, RTOL[dtype])


def test_gradients_in_float32_with_xla():
    flow, context = with_embedding("float32")
    randomize(flow)
    x = normal(ROWS, EVENT)
    expected = values_and_gradients(Flow.log_prob, flow, x, context, "xla")
    found = values_and_gradients(reversible.log_prob, flow, x, context, "xla")
    assert_same(found, expected, RTOL["float32"])


@pytest.mark.parametrize(
    ("x", "context"),
    [((EVENT,), (3, CONTEXT)), ((5, 3, EVENT), (3, CONTEXT)), ((3, EVENT), (CONTEXT,))],
)
def test_batches_of_events_and_contexts_broadcast(x, context):
    flow = randomize(with_context("float64")[0])
    data = normal(*x, dtype="float64"), normal(*context, seed=1, dtype="float64")
    expected = values_and_gradients(Flow.log_prob, flow, *data)
    found = values_and_gradients(reversible.log_prob, flow, *data)
    assert found[0].shape == expected[0].shape
    assert_same(found, expected, 1e-10)


def test_batches_of_maps_are_kept_and_differentiated_the_ordinary_way():
    angles = tf.Variable([0.1, 0.7, 1.1], dtype="float64")
    cube = bijectors.ShiftAndCube(tf.Variable(0.3, dtype="float64"))
    chain = tfb.Chain([cube, bijectors.Rotation2D(angles), cube])
    flow = Flow(base(2, "float64"), chain)
    x = normal(2, dtype="float64")
    expected = values_and_gradients(Flow.log_prob, flow, x, None)
    found = values_and_gradients(reversible.log_prob, flow, x, None)
    assert_same(found, expected, 1e-10)


def test_plain_transformed_distributions():
    chain = tfb.Chain([bijectors.ShiftAndCube(tf.Variable(0.3)), tfb.Shift(tf.Variable([1.0, 2]))])
    plain = tfd.TransformedDistribution(base(2), chain)
    assert not isinstance(plain, Flow)
    x = normal(ROWS, 2)
    expected = values_and_gradients(lambda d, x: d.log_prob(x), plain, x, None)
    assert_same(values_and_gradients(reversible.log_prob, plain, x, None), expected, 1e-6)
    with pytest.raises(ValueError, match="only a Flow takes one"):
        reversible.log_prob(plain, x, context=x)


def test_second_derivatives():
    flow = randomize(real_nvp("float64")[0])
    x = tf.constant(normal(ROWS, EVENT, dtype="float64"))
    variables = flow.trainable_variables

    def curvature(log_prob):
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                loss = tf.reduce_mean(log_prob(flow, x))
            slope = tf.add_n([tf.reduce_sum(g**2) for g in inner.gradient(loss, variables)])
        return outer.gradient(slope, variables)

    # What moves events alike at the base and at the data's end has first derivatives only.
    pairs = zip(curvature(reversible.log_prob), curvature(Flow.log_prob), strict=True)
    assert_same(*zip(*((a, b) for a, b in pairs if np.linalg.norm(b) > 0), strict=True), 1e-9)


def test_outside_of_the_support_is_minus_infinity():
    fixed = [tfb.Sigmoid(), bijectors.Permutation(EVENT, "reversed")]
    flow = Flow(base(), tfb.Chain([*fixed, real_nvp("float32")[0].bijector]))
    x = np.array([[0.5] * EVENT, [2.0] + [0.5] * (EVENT - 1), [np.nan] * EVENT], "float32")
    expected = flow.log_prob(x).numpy()
    assert expected[1] == -np.inf and np.isnan(expected[2])
    np.testing.assert_allclose(reversible.log_prob(flow, x), expected, rtol=1e-6)


def test_infinite_events_have_density_zero_behind_a_fixed_map():
    coupling = bijectors.Coupling(2, transformers.Affine(), (8,))
    flow = Flow(base(2), tfb.Chain([bijectors.Rotation2D(0.7), coupling]))
    x = np.full([1, 2], np.inf, "float32")
    assert flow.log_prob(x).numpy() == -np.inf
    assert reversible.log_prob(flow, x).numpy() == -np.inf


def test_nothing_is_stale():
    flow = randomize(real_nvp("float32")[0])
    x = tf.constant(normal(ROWS, EVENT))
    before = values_and_gradients(reversible.log_prob, flow, x, None)
    randomize(flow, seed=1)
    found = values_and_gradients(reversible.log_prob, flow, x, None)
    assert all((a != b).any() for a, b in zip(before, found, strict=True))
    assert_same(found, values_and_gradients(Flow.log_prob, flow, x, None), 1e-4)


def small_model(**options):
    return FlowModel(flows.real_nvp(EVENT, **SMALL), **options)


def test_files_from_before_there_was_a_choice_load():
    config = small_model().get_config()
    assert config.pop("memory") == "ordinary"
    assert FlowModel.from_config(config).memory == "ordinary"


def flow_with(network):
    return Flow(base(), bijectors.Coupling(EVENT, transformers.Affine(), network, name="layer"))


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: networks.MLP((8,), dropout=0.5), "random numbers.*Dropout .*in 'layer'"),
        (lambda: keras.layers.GaussianNoise(0.1), "random numbers.*GaussianNoise"),
        (
            lambda: keras.Sequential([keras.layers.Dense(3), keras.layers.BatchNormalization()]),
            "state.*BatchNormalization 'batch_normalization",
        ),
        (lambda: keras.layers.Dense(3, activity_regularizer="l2"), "loss.*Dense"),
    ],
)
def test_conditioners_that_would_not_compute_the_same_again_are_refused(layer, reason):
    flow = flow_with(layer())
    with pytest.raises(ValueError, match=reason):
        FlowModel(flow, memory="reversible")
    with pytest.raises(ValueError, match=reason):
        reversible.log_prob(flow, normal(ROWS, EVENT))
    FlowModel(flow)


def test_dropout_is_no_matter_where_nothing_is_recomputed():
    kept = bijectors.Coupling(EVENT, transformers.SumOfSquares(), networks.MLP((8,), dropout=0.5))
    without = bijectors.Coupling(EVENT, transformers.Affine(), networks.MLP((8,), dropout=0.0))
    flow = randomize(Flow(base(), tfb.Chain([kept, without])))
    model, x = FlowModel(flow, memory="reversible"), normal(ROWS, EVENT)
    np.testing.assert_allclose(model.log_prob(x), flow.log_prob(x), rtol=1e-5, atol=1e-5)


def test_other_arguments_are_refused():
    with pytest.raises(ValueError, match="Received: memory='constant'"):
        small_model(memory="constant")
    normals = tfd.Independent(tfd.Normal(tf.Variable([0.0, 0.0]), 1.0), 1)
    with pytest.raises(ValueError, match="must be a Flow or another"):
        FlowModel(normals, memory="reversible")
    unconditional, x = flows.real_nvp(EVENT, **SMALL), normal(ROWS, EVENT)
    with pytest.raises(ValueError, match="this Flow is unconditional"):
        reversible.log_prob(unconditional, x, context=normal(ROWS, 2))
    with pytest.raises(ValueError, match="`context` is missing"):
        reversible.log_prob(with_context("float32")[0], x)
