"""Censored columns: probabilities of intervals, training, cumulative probabilities."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal, randomize
from scipy import stats

from tfp_flows import Flow, FlowModel, bijectors, distributions, flows

tfd, tfb = tfp.distributions, tfp.bijectors
INF = np.inf
INTERVALS = np.array(
    [[1.0, 1.0], [1.0, INF], [-INF, 0.5], [0.3, 2.0], [30.0, 31.0], [-INF, INF], [2.0, 2.0 + 1e-6]]
)
PAIRS = {
    "normal": (tfd.Normal, stats.norm(0.5, 2.0), (0.5, 2.0)),
    "exponential": (tfd.Exponential, stats.expon(scale=2.0), (0.5,)),
    "weibull": (tfd.Weibull, stats.weibull_min(1.5, scale=20.0), (1.5, 20.0)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", PAIRS)
def test_probabilities_of_intervals(name, dtype):
    """Exact values, right-, left- and interval-censored ones, far tails and narrow intervals."""
    make, truth, parameters = PAIRS[name]
    censored = distributions.Censored(make(*(tf.constant(p, dtype) for p in parameters)))
    intervals = INTERVALS.astype(dtype)
    lower, upper = intervals.astype("float64").T
    with np.errstate(divide="ignore"):
        right = truth.logsf(lower) + np.log1p(-np.exp(truth.logsf(upper) - truth.logsf(lower)))
        left = np.log(truth.cdf(upper) - truth.cdf(lower))
    expected = np.where(truth.cdf(lower) > 0.5, right, left)
    expected[0] = truth.logpdf(1.0)
    expected[-1] = truth.logpdf(2.0) + np.log(upper[-1] - lower[-1])
    tolerance = 2e-4 if dtype == "float32" else 1e-6
    np.testing.assert_allclose(censored.log_prob(intervals), expected, rtol=tolerance)


def test_what_is_empty_missing_or_outside():
    censored = distributions.Censored(flows.neural_spline(1, layers=1, support="positive"))
    events = [[2.0, 1.0], [-2.0, -1.0], [-INF, -1.0], [INF, INF], [np.nan, 1.0], [-1.0, -1.0]]
    expected = [-INF, -INF, -INF, -INF, np.nan, -INF]
    np.testing.assert_array_equal(censored.log_prob(events), expected)


@pytest.mark.parametrize("support", [None, "positive"])
def test_gradients_are_finite_and_right(support):
    flow = flows.neural_spline(1, layers=2, hidden_units=(8,), support=support, dtype="float64")
    censored = distributions.Censored(randomize(flow, stddev=0.3))
    for intervals in (INTERVALS, INTERVALS[:4]):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(censored.log_prob(intervals))
        gradients = tape.gradient(total, flow.trainable_variables)
        assert all(np.isfinite(gradient).all() for gradient in gradients)
    variable, gradient = flow.trainable_variables[-1], gradients[-1]
    direction = normal(*variable.shape, dtype="float64")
    values = []
    for step in (1e-5, -2e-5):
        variable.assign_add(step * direction)
        values.append(np.sum(censored.log_prob(INTERVALS[:4])))
    slope = (values[0] - values[1]) / 2e-5
    np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-6)


def test_given_context_there_are_cumulative_probabilities_and_quantiles():
    flow = randomize(flows.neural_spline(1, layers=2, hidden_units=(8,), context_size=2))
    context = normal(5, 2)
    y = flow.quantile(0.3, context)
    assert y.shape == (5, 1)
    np.testing.assert_allclose(flow.cdf(y, context), 0.3 * np.ones(5), atol=1e-5)
    np.testing.assert_allclose(flow.survival(y, context), 0.7 * np.ones(5), atol=1e-5)
    intervals = np.concatenate([np.full([5, 1], -INF), y], 1)
    found = distributions.Censored(flow).log_prob(intervals, context=context)
    np.testing.assert_allclose(found, np.log(0.3) * np.ones(5), rtol=1e-4)
    with pytest.raises(ValueError, match="`context` is missing"):
        flow.cdf(y)


def test_training_finds_what_censoring_hides(tmp_path):
    """An exponential time that depends on context: maximum likelihood is known, and unbiased."""
    rng = np.random.default_rng(0)
    context = rng.integers(0, 2, (1500, 1)).astype("float32")
    times = rng.exponential(np.where(context, 3.0, 1.0))
    ends = rng.exponential(2.0, times.shape)
    seen = times <= ends
    lower = np.minimum(times, ends)
    data = np.concatenate([lower, np.where(seen, lower, INF)], 1).astype("float32")
    assert 0.3 < seen.mean() < 0.8
    # exp of a shift by context, of minus a standard Gumbel variable: an exponential variable.
    gumbel = tfb.Chain([tfb.Exp(), bijectors.Coupling(1, ADDITIVE, (8,), context_size=1, seed=0)])
    base = tfd.TransformedDistribution(
        tfd.Sample(tfd.Gumbel(0.0, 1.0), [1]), tfb.Scale(-1.0), name="base"
    )
    model = FlowModel(distributions.Censored(Flow(base, gumbel)))
    model.compile(keras.optimizers.Adam(2e-2))
    model.fit(context, data, batch_size=500, epochs=60, verbose=0)
    groups = np.array([[0.0], [1.0]], "float32")
    medians = np.ravel(model.distribution.distribution.quantile(0.5, groups))
    expected = [np.log(2) * lower[context == c].sum() / seen[context == c].sum() for c in (0, 1)]
    np.testing.assert_allclose(medians, expected, rtol=0.03)
    model.save(tmp_path / "times.keras")
    loaded = FlowModel.load(tmp_path / "times.keras")
    before = model.predict((context, data), verbose=0)
    np.testing.assert_array_equal(loaded.predict((context, data), verbose=0), before)


ADDITIVE = bijectors.transformers.Additive()


def test_adapt_takes_a_point_of_each_interval():
    flow = flows.neural_spline(1, layers=1, support="positive", seed=0)
    model = FlowModel(distributions.Censored(flow))
    data = np.array([[1.0, 1.0], [2.0, INF], [-INF, 4.0], [7.0, 9.0], [-INF, INF]])
    model.adapt(data)
    other = flows.neural_spline(1, layers=1, support="positive", seed=0)
    other.adapt(np.array([[1.0], [2.0], [4.0], [8.0]]))
    for one, two in zip(flow.bijector.bijectors[0].variables, other.variables, strict=False):
        np.testing.assert_allclose(one, two)
    with pytest.raises(ValueError, match="must be finite"):
        model.adapt(np.array([[1.0, np.nan], [2.0, 3.0]]))


def test_adapt_leaves_out_what_says_nothing_and_refuses_what_cannot_be():
    flow = flows.neural_spline(1, layers=1, support="positive", seed=0)
    model = FlowModel(distributions.Censored(flow))
    data = np.array([[1.0, 1.0], [0.0, INF], [-3.0, 1.0], [-INF, INF], [4.0, 4.0]])
    model.adapt(data)
    np.testing.assert_allclose(flow.bijector.bijectors[0].shift, [np.log(4) / 2], rtol=1e-5)
    for impossible in ([-2.0, -2.0], [-3.0, -2.0], [-INF, -1.0], [3.0, 1.0]):
        with pytest.raises(ValueError, match=r"a part in the support.*\(.*\) in row 4"):
            model.adapt(np.concatenate([data[:4], [impossible]]))


def test_adapt_keeps_context_beside_its_rows():
    flow = flows.neural_spline(1, layers=1, context_size=1, support="positive", seed=0)
    model = FlowModel(distributions.Censored(flow))
    data = np.array([[1.0, 1.0], [0.0, INF], [4.0, 4.0]])
    model.adapt(np.arange(3.0)[:, np.newaxis], data)
    with pytest.raises(ValueError, match="in row 1"):
        model.adapt(np.arange(3.0)[:, np.newaxis], np.array([[1.0, 1.0], [-1, -1], [4.0, 4.0]]))


def test_bad_input():
    with pytest.raises(ValueError, match="one column"):
        distributions.Censored(flows.real_nvp(2, layers=1))
    with pytest.raises(TypeError, match="`distribution` must be"):
        distributions.Censored("flow")
    raw = distributions.Censored(flows.real_nvp(1, layers=1))
    with pytest.raises(ValueError, match="their own units"):
        raw.adapt(INTERVALS)
