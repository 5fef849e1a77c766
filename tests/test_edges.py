"""Edges of the support: densities are 0 at and beyond them, and no gradient is poisoned."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import randomize

from tfp_flows import Flow, FlowModel, bijectors, datasets, flows, networks
from tfp_flows.distributions import bases, reversible

tfd, tfb = tfp.distributions, tfp.bijectors
INF = np.inf

# A bijector of constants of a dtype `c`, a value inside of its range, and some at its edges and
# beyond.
MAPS = {
    "exp": (lambda c: tfb.Exp(), 0.5, [0.0, -1.0, INF, -INF]),
    "expm1": (lambda c: tfb.Expm1(), 0.5, [-1.0, -2.0, INF]),
    "softplus": (lambda c: tfb.Softplus(), 0.5, [0.0, -1e-30, -3.0, INF]),
    "square": (lambda c: tfb.Square(), 0.5, [0.0, -1.0, INF]),
    "sigmoid": (lambda c: tfb.Sigmoid(), 0.3, [0.0, 1.0, -0.5, 1.5]),
    "wide_sigmoid": (lambda c: tfb.Sigmoid(c(-1), c(2)), 0.3, [-1.0, 2.0, 3.0]),
    "tanh": (lambda c: tfb.Tanh(), 0.5, [-1.0, 1.0, -2.0, 2.0]),
    "softsign": (lambda c: tfb.Softsign(), 0.3, [-1.0, 1.0, -2.0, 2.0]),
    "soft_clip": (lambda c: tfb.SoftClip(c(-1), c(1)), 0.5, [-1.0, 1.0, -2.0, 2.0]),
    "soft_clip_low": (lambda c: tfb.SoftClip(c(0), None), 0.5, [0.0, -1.0, INF]),
    "log": (lambda c: tfb.Log(), 0.5, [INF, -INF]),
    "reciprocal": (lambda c: tfb.Reciprocal(), 0.5, [0.0, INF, -INF]),
    "normal_cdf": (lambda c: tfb.NormalCDF(), 0.3, [0.0, 1.0, -1.0, 2.0]),
    "gumbel_cdf": (lambda c: tfb.GumbelCDF(c(0), c(1)), 0.5, [0.0, 1.0, 2.0]),
    "kumaraswamy_cdf": (lambda c: tfb.KumaraswamyCDF(c(2), c(3)), 0.5, [0.0, 1.0, -1.0, 2.0]),
    "power_transform": (lambda c: tfb.PowerTransform(2.0), 0.5, [0.0, -1.0]),
    "behind_shift": (lambda c: tfb.Chain([tfb.Shift(c(1)), tfb.Exp()]), 1.5, [1.0, 0.5, INF]),
    "behind_exp": (lambda c: tfb.Chain([tfb.Exp(), tfb.Sigmoid()]), 1.5, [1.0, 0.5, np.e, 4.0]),
    "inverted_chain": (
        lambda c: tfb.Invert(tfb.Chain([tfb.Invert(tfb.Softplus()), tfb.Shift(c(1))])),
        0.5,
        [-1.0, -2.0, INF],
    ),
    "nested": (
        lambda c: tfb.Chain([tfb.Chain([tfb.Scale(c(-1)), tfb.Exp()]), tfb.Shift(c(2))]),
        -0.5,
        [0.0, 1.0, -INF],
    ),
}
# Maps of (0, ∞) or (0, 1) only, which nothing can stand behind that leaves these.
BEHIND = sorted(set(MAPS) - {"square", "log", "kumaraswamy_cdf", "power_transform"})


def base(size=2, dtype="float32"):
    return tfd.Independent(tfd.Normal(*tf.constant([[0.2] * size, [1.5] * size], dtype)), 1)


def coupling(size=2, dtype="float32"):
    affine = bijectors.transformers.Affine()
    return randomize(bijectors.Coupling(size, affine, (4,), dtype=dtype, seed=0), stddev=0.3)


def events(name, dtype):
    """Events inside and outside, one of which has one column outside, one is NaN."""
    _, inside, outside = MAPS[name]
    rows = [[inside, inside], *([value, inside] for value in outside), [inside, outside[0]]]
    return tf.constant([*rows, [outside[0], np.nan], [np.nan, inside]], dtype)


def check(log_prob, x, variables=()):
    """Of rows as `events` makes them: the first inside, the last two NaN, the others outside."""
    with tf.GradientTape() as tape:
        tape.watch([x, *variables])
        log_probs = log_prob(x)
        # The rows with NaN are left out: their gradients are NaN rightly.
        total = tf.reduce_sum(
            tf.where(tf.math.is_inf(log_probs), tf.zeros_like(log_probs), log_probs)[:-2]
        )
    by_x, *by_variables = tape.gradient(total, [x, *variables])
    assert np.isfinite(log_probs[0])
    np.testing.assert_array_equal(log_probs[1:-2], -INF)
    assert np.isnan(log_probs[-2:]).all()
    assert np.isfinite(by_x[:-2]).all()
    assert np.abs(by_x[0]).max() > 0
    np.testing.assert_array_equal(by_x[1:-2], 0)
    return by_variables


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MAPS)
def test_densities_are_zero_at_the_edges_and_beyond(name, dtype):
    make = MAPS[name][0]
    flow = Flow(base(dtype=dtype), make(np.dtype(dtype).type))
    x = events(name, dtype)
    check(flow.log_prob, x)
    np.testing.assert_array_equal(flow.prob(x)[1:-2], 0)


@pytest.mark.parametrize("name", BEHIND)
def test_one_row_outside_leaves_the_gradients_of_a_batch_finite(name):
    layer = coupling()
    flow = Flow(base(), tfb.Chain([MAPS[name][0](np.float32), layer]))
    x = events(name, "float32")
    variables = layer.trainable_variables
    with tf.GradientTape() as tape:
        log_probs = flow.log_prob(x[:-2])
        total = tf.reduce_sum(tf.where(tf.math.is_inf(log_probs), 0.0, log_probs))
    with tf.GradientTape() as alone:
        expected = flow.log_prob(x[:1])
    np.testing.assert_array_equal(log_probs[1:], -INF)
    gradients = zip(
        tape.gradient(total, variables), alone.gradient(expected, variables), strict=True
    )
    for found, wanted in gradients:
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    assert np.isnan(flow.log_prob(x)[-2:]).all()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_graphs_and_xla_agree(jit_compile):
    flow = Flow(base(), tfb.Chain([tfb.Exp(), coupling()]))
    x = events("exp", "float32")
    graph = tf.function(flow.log_prob, jit_compile=jit_compile, autograph=False)
    check(graph, x)
    np.testing.assert_allclose(graph(x), flow.log_prob(x), rtol=1e-5)


def test_log_det_that_alone_is_nan_or_infinite_counts():
    """Beyond the range of `Softsign` the inverse is finite: at 2 it is -2."""
    assert tfb.Softsign().inverse(2.0) == -2.0
    for y in (2.0, -3.0):
        assert Flow(tfd.Normal(0.0, 1.0), tfb.Softsign()).log_prob(y) == -INF


def test_flows_of_scalars_matrices_and_a_fold():
    flow = Flow(tfd.Normal(0.0, 1.0), tfb.Exp())
    np.testing.assert_array_equal(flow.log_prob([0.0, -1.0, INF]), -INF)
    assert np.isnan(flow.log_prob(np.nan))
    matrices = Flow(tfd.Sample(tfd.Normal(0.0, 1.0), [2, 3]), tfb.Exp())
    y = np.ones((4, 2, 3), "float32")
    y[1, 1, 2] = 0
    np.testing.assert_array_equal(np.isinf(matrices.log_prob(y)), [False, True, False, False])
    fold = Flow(tfd.Normal(0.5, 1.0), tfb.AbsoluteValue())
    expected = tfd.Normal(0.5, 1.0).prob(1.0) + tfd.Normal(0.5, 1.0).prob(-1.0)
    np.testing.assert_allclose(fold.prob([1.0, -1.0]), [expected, 0], rtol=1e-5)
    assert fold.log_prob(-1.0) == -INF


def test_simplex():
    flow = Flow(base(), tfb.IteratedSigmoidCentered())
    x = tf.constant([[0.2, 0.3, 0.5], [0.0, 0.5, 0.5], [-0.2, 0.7, 0.5]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        log_probs = flow.log_prob(x)
    np.testing.assert_array_equal(np.isfinite(log_probs), [True, False, False])
    np.testing.assert_array_equal(log_probs[1:], -INF)
    assert np.isfinite(tape.gradient(log_probs, x)).all()


def test_a_flow_as_base_keeps_its_edges():
    inner = Flow(base(), tfb.Exp())
    flow = Flow(inner, tfb.Shift([1.0, 1.0]))
    np.testing.assert_array_equal(flow.log_prob([[1.0, 2.0], [0.0, 2.0]]), -INF)
    expected = inner.log_prob([[0.5, 1.0]])
    np.testing.assert_allclose(flow.log_prob([[1.5, 2.0]]), expected, rtol=1e-6)
    independent = tfd.Independent(Flow(tfd.Normal([0.0, 0.0], 1.0), tfb.Exp()), 1)
    assert independent.log_prob([0.0, 1.0]) == -INF


def test_conditional_flows_have_edges():
    affine = bijectors.transformers.Affine()
    layer = randomize(bijectors.Coupling(2, affine, (4,), context_size=1, seed=0))
    flow = Flow(base(), tfb.Chain([tfb.Softplus(), layer]))
    context = np.array([[0.0], [1.0], [np.nan]])
    log_probs = flow.log_prob([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]], context=context)
    assert np.isfinite(log_probs[0]) and log_probs[1] == -INF and np.isnan(log_probs[2])


def test_nan_of_learned_parameters_stays():
    layer = coupling()
    flow = Flow(base(), tfb.Chain([tfb.Exp(), layer]))
    layer.trainable_variables[0].assign_add(np.nan * np.ones(layer.trainable_variables[0].shape))
    assert np.isnan(flow.log_prob([[1.0, 1.0]])).all()
    learned = Flow(base(), tfb.Chain([tfb.Shift(tf.Variable([np.nan, 0.0])), tfb.Exp()]))
    assert np.isnan(learned.log_prob([[1.0, 1.0]])).all()


@pytest.mark.parametrize(
    "inner", [lambda: tfd.Beta([2.0, 2.0], 2.0), lambda: tfd.LogNormal([0.0, 0.0], 1.0)]
)
def test_bases_of_part_of_the_line_have_edges(inner):
    flow = Flow(tfd.Independent(inner(), 1), tfb.Chain([coupling(), tfb.Shift(1.0)]))
    y = flow.bijector.forward([[0.5, 0.3], [-1.0, 0.3], [0.2, -0.1]])
    with tf.GradientTape() as tape:
        log_probs = flow.log_prob(y)
        total = tf.reduce_sum(log_probs[:1])
    np.testing.assert_array_equal(np.isinf(log_probs), [False, True, True])
    plain = tfd.TransformedDistribution(flow.distribution, flow.bijector)
    np.testing.assert_allclose(log_probs[0], plain.log_prob(tf.identity(y[:1]))[0], rtol=1e-5)
    assert all(np.isfinite(g).all() for g in tape.gradient(total, flow.trainable_variables))


@pytest.mark.parametrize(
    "inner",
    [
        lambda: tfd.Sample(tfd.Exponential(1.0), 2),
        lambda: tfd.Sample(tfd.Gamma(2.0, 1.0), 2),
        lambda: tfd.MixtureSameFamily(
            tfd.Categorical([0.0, 0.0]), tfd.Independent(tfd.Gamma([[2.0] * 2, [3.0] * 2], 1.0), 1)
        ),
        lambda: tfd.Sample(tfd.InverseGamma(2.0, 1.0), 2),
        lambda: tfd.Sample(tfd.LogNormal(0.0, 1.0), 2),
        lambda: tfd.Blockwise([tfd.Gamma(2.0, 1.0), tfd.Normal(0.0, 1.0)]),
    ],
)
def test_bases_made_of_scalars_have_edges(inner):
    flow = Flow(inner(), tfb.Shift(1.0))
    found = flow.log_prob([[1.5, 2.0], [0.5, 2.0], [1.0, 2.0]])
    assert np.isfinite(found[0]) and found[1] == -INF and not np.isnan(found[2])


def test_bases_without_edges_are_as_in_tfp():
    proportions = tfd.Dirichlet([1.0, 2.0, 3.0])
    for inner, y in ((proportions, [0.4, 0.6, 1.0]), (tfd.VonMises(0.0, 1.0), [4.3, 5.0])):
        plain = tfd.TransformedDistribution(inner, tfb.Scale(2.0))
        flow = Flow(inner, tfb.Scale(2.0))
        np.testing.assert_allclose(flow.log_prob(y), plain.log_prob(y), rtol=1e-5)


def test_ratios_of_densities_have_edges():
    flow = Flow(base(), tfb.Chain([tfb.Exp(), coupling()]))
    ratio = tfp.experimental.distributions.log_prob_ratio
    x, y = [[1.0, 2.0], [-1.0, 1.0], [1.0, 1.0]], [[2.0, 1.0], [1.0, 1.0], [0.0, 1.0]]
    found = ratio(flow, x, flow, y)
    np.testing.assert_array_equal(found[1:], [-INF, INF])
    np.testing.assert_allclose(found[0], flow.log_prob(x[0]) - flow.log_prob(y[0]), rtol=1e-5)


def test_quantiles_of_0_and_1_are_the_ends():
    for layer in (
        bijectors.Radial(1),
        bijectors.Elementwise(1, bijectors.transformers.MixtureOfLogistics(3)),
    ):
        for further, ends in (([], [-INF, INF]), ([tfb.Scale(-2.0)], [-INF, INF])):
            flow = Flow(tfd.Sample(tfd.Normal(0.0, 1.0), 1), tfb.Chain([*further, layer]))
            assert flow.quantile([0.0, 1.0])[:, 0].numpy().tolist() == ends
        bounded = Flow(tfd.Sample(tfd.Normal(0.0, 1.0), 1), tfb.Chain([tfb.Sigmoid(), layer]))
        np.testing.assert_allclose(bounded.quantile([0.0, 0.5, 1.0])[:, 0], [0, 0.5, 1], atol=1e-6)


def test_networks_of_tfp_are_not_computed_twice():
    """What they learn is hidden in a function, and layers take matrices only."""
    layer = keras.layers.Dense(2)
    layer.build((None, 1))
    network = tfb.RealNVP(
        num_masked=1, shift_and_log_scale_fn=lambda x, *_, **__: tf.split(layer(x), 2, -1)
    )
    x = tf.constant([[1.0, 1.0], [2.0, 0.0]])
    for bijector in (network, tfb.Blockwise([network], [2]), tfb.Chain([tfb.Invert(network)])):
        plain = tfd.TransformedDistribution(base(), bijector)
        layer.bias.assign([0.5, -0.5])
        np.testing.assert_allclose(Flow(base(), bijector).log_prob(x), plain.log_prob(x), rtol=1e-5)
        edged = Flow(base(), tfb.Chain([tfb.Exp(), bijector]))
        np.testing.assert_array_equal(np.isinf(edged.log_prob(x)), [False, True])
        layer.bias.assign([np.nan, 0.0])
        assert np.isnan(Flow(base(), bijector).log_prob(x)).all()
        assert np.isnan(edged.log_prob(x)).all()


def test_reversible_densities_and_models_have_edges():
    flow = Flow(base(), tfb.Chain([tfb.Exp(), coupling()]))
    x = events("exp", "float32")
    expected = flow.log_prob(x)
    np.testing.assert_allclose(reversible.log_prob(flow, x), expected, rtol=1e-5)
    np.testing.assert_allclose(FlowModel(flow).log_prob(x), expected, rtol=1e-5)


def test_affine_maps_at_the_end_are_not_looked_at():
    """They have no edges: nothing is computed twice."""
    calls = []

    class Counted(tfb.Shift):
        def _inverse(self, y):
            calls.append(1)
            return super()._inverse(y)

    Flow(base(), tfb.Chain([Counted([1.0, 1.0]), coupling()])).log_prob([[0.0, 1.0]])
    assert len(calls) == 1


def test_draws_of_a_fold_have_log_densities():
    fold = Flow(tfd.Normal(0.5, 1.0), tfb.AbsoluteValue())
    drawn, log_probs = fold.sample_and_log_prob(5, seed=0)
    np.testing.assert_array_equal(log_probs, fold.log_prob(drawn))


def test_infinite_events_behind_an_affine_map():
    flow = Flow(base(), tfb.Chain([bijectors.Rotation2D(0.7), coupling()]))
    np.testing.assert_array_equal(flow.log_prob([[np.inf, np.inf], [0.0, -np.inf]]), -INF)
    assert np.isnan(flow.log_prob([np.inf, np.nan]))


def test_finite_events_whose_sum_is_infinite_have_a_density():
    wide = tfd.Independent(tfd.Laplace([0.0, 0.0], 1e30), 1)
    largest = np.array([[3e38, -3e38], [np.inf, -3e38], [np.nan, -np.inf]], "float32")
    found = Flow(wide, tfb.Shift([0.0, 0.0])).log_prob(largest)
    expected = [wide.log_prob(largest[0]), -INF, np.nan]
    np.testing.assert_array_equal(found, expected)
    assert np.isfinite(expected[0])


def test_infinite_events_of_half_precision():
    zero, one = tf.constant(0, tf.float16), tf.constant(1, tf.float16)
    found = Flow(tfd.Normal(zero, one), tfb.Shift(one)).log_prob([-INF, INF, 1.0])
    np.testing.assert_array_equal(np.isinf(found), [True, True, False])


@pytest.mark.parametrize("last", [2e19, -1.0])
def test_infinite_events_have_no_gradient(last):
    """Their other entries have none either, where those alone would have NaN."""
    power = Flow(base(), tfb.Power(3.0))
    radial = flows.radial(2, layers=1, seed=0)
    for flow in (radial, power, datasets.two_moons()):
        y = tf.constant([[0.1, 0.2], [INF, last]])
        with tf.GradientTape() as tape:
            tape.watch(y)
            log_prob = flow.log_prob(y)
        gradients = tape.gradient(log_prob, [y, *flow.trainable_variables])
        np.testing.assert_array_equal(np.isinf(log_prob), [False, True])
        np.testing.assert_array_equal(gradients[0][1], [0.0, 0.0])
        assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_events_that_overflow_before_a_coupling_have_no_density():
    network = networks.MLP((6,), activation="tanh", seed=3)
    layer = bijectors.Coupling(4, bijectors.transformers.Affine(), network, seed=1)
    flow = Flow(bases.normal(4), tfb.Chain([tfb.Scale(1e-30), layer]))
    y = [[1e9, 1e9, 1.0, 1.0], [1e10, -1e10, 1.0, 1.0]]
    np.testing.assert_array_equal(flow.log_prob(y), -INF)


@pytest.mark.parametrize("family", ["sum_of_squares", "neural_spline", "maf", "real_nvp"])
def test_events_that_are_far_out_have_a_density_and_no_nan(family):
    """Squares of these values leave float32, and networks make NaN of some."""
    flow = randomize(flows.get(family, 2, layers=2, hidden_units=(8,), seed=0), stddev=0.8)
    values = [1e18, 1e19, 1e20, 1e30, 3e38]
    rows = [[sign * value, 0.1] for value in values for sign in (1, -1)]
    events = np.array([[0.1, 0.2], *rows, *(row[::-1] for row in rows), [np.nan, 1e30]], "float32")
    found = flow.log_prob(events).numpy()
    assert np.isfinite(found[0]) and np.isnan(found[-1])
    assert (found[1:-1] < -1e30).all()
