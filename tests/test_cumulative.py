"""Cumulative probabilities and quantiles of flows of one column."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal, randomize

from tfp_flows import Flow, bijectors, distributions, flows

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers
SMALL = {"layers": 2, "hidden_units": (4,), "seed": 0}


def independent(size=2, loc=0.0):
    return tfd.Independent(tfd.Normal(tf.fill([size], loc), 1.0), 1)


# One column.

COLUMNS = {
    "scalar": lambda: Flow(tfd.Normal(0.0, 1.0), tfb.Exp()),
    "vector": lambda: Flow(independent(1), tfb.Exp()),
    "falling": lambda: Flow(independent(1), tfb.Chain([tfb.Scale(-2.0), tfb.Exp()])),
    "falling_learned": lambda: Flow(
        independent(1), tfb.Chain([tfb.Scale(tf.Variable(-2.0)), flows.real_nvp(1).bijector])
    ),
    "mvn": lambda: Flow(tfd.MultivariateNormalDiag([0.5], [2.0]), tfb.Tanh()),
    "sample": lambda: Flow(tfd.Sample(tfd.Logistic(0.0, 1.0), [1]), tfb.Softsign()),
    "flow_of_flow": lambda: Flow(Flow(independent(1), tfb.Exp()), tfb.Scale(-1.0)),
    "spline": lambda: randomize(flows.neural_spline(1, **SMALL), stddev=0.3),
    "maf": lambda: randomize(flows.maf(1, **SMALL), stddev=0.3),
    "positive": lambda: randomize(flows.neural_spline(1, support="positive", **SMALL)),
    "lu": lambda: randomize(Flow(independent(1), bijectors.LU(1)), stddev=0.3),
    "inverted": lambda: randomize(Flow(independent(1), tfb.Invert(bijectors.Planar(1, seed=0)))),
    "softsign": lambda: Flow(tfd.Normal(0.0, 1.0), bijectors.BimodalSoftsign(1.0)),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_one_column_has_cumulative_probabilities_and_quantiles(name):
    flow = COLUMNS[name]()
    p = np.array([0.01, 0.2, 0.5, 0.9], "float32")
    y = flow.quantile(p)
    assert y.shape == (4, *flow.event_shape)
    x = np.ravel(flow.sample(20_000, seed=0))
    empirical = [(x <= value).mean() for value in np.ravel(y)]
    np.testing.assert_allclose(empirical, p, atol=0.015)
    np.testing.assert_allclose(flow.cdf(y), p, atol=1e-4)
    np.testing.assert_allclose(flow.survival_function(y), 1 - p, atol=1e-4)
    np.testing.assert_allclose(flow.log_cdf(y), np.log(p), atol=2e-3)
    np.testing.assert_allclose(flow.log_survival_function(y), np.log(1 - p), atol=2e-3)
    # Far out, beyond every edge, and of another dtype.
    ends = np.array([-np.inf, -1e6, 1e6, np.inf, np.nan]).reshape(-1, *flow.event_shape)
    np.testing.assert_allclose(flow.cdf(tf.constant(ends)), [0, 0, 1, 1, np.nan], atol=1e-6)
    np.testing.assert_allclose(flow.survival_function(ends), [1, 1, 0, 0, np.nan], atol=1e-6)
    slope = (flow.cdf(y + 1e-3) - flow.cdf(y - 1e-3)) / 2e-3
    np.testing.assert_allclose(slope[1:3], flow.prob(y)[1:3], rtol=0.05)


def adapted_support(low, high):
    support = bijectors.Support(1, (low, high))
    share = np.random.default_rng(0).beta(0.05, 0.05, size=(2000, 1))
    support.adapt(low + (high - low) * np.clip(share, 1e-3, 1 - 1e-3))
    return support


@pytest.mark.parametrize(
    ("make", "below", "above"),
    [
        (lambda: Flow(independent(1), adapted_support(0.0, 1.0)), -1.0, 2.0),
        (lambda: Flow(independent(1), adapted_support(1000.0, 1001.0)), 0.0, 2000.0),
        (
            lambda: Flow(
                tfd.Independent(tfd.StudentT([1.5], 0.0, 1.0), 1), bijectors.Support(1, (0.0, 1.0))
            ),
            -1.0,
            2.0,
        ),
        (lambda: Flow(independent(1), bijectors.BimodalSoftsign(1e7)), -2.0, 2.0),
        (lambda: flows.neural_spline(1, support=(0.0, 1.0), **SMALL), -1.0, 2.0),
        (
            lambda: Flow(independent(1), tfb.Chain([tfb.Scale(-1.0), adapted_support(0.0, 1.0)])),
            -2.0,
            1.0,
        ),
    ],
)
def test_beyond_the_support_probabilities_are_0_and_1(make, below, above):
    flow = make()
    y = np.array([[below], [above]], "float32")
    assert (flow.log_prob(y).numpy() == -np.inf).all()
    np.testing.assert_array_equal(flow.cdf(y), [0, 1])
    np.testing.assert_array_equal(flow.survival_function(y), [1, 0])
    np.testing.assert_array_equal(flow.log_cdf(y), [-np.inf, 0])
    np.testing.assert_array_equal(flow.log_survival_function(y), [0, -np.inf])


def test_one_column_given_context():
    flow = randomize(flows.real_nvp(1, context_size=2, **SMALL), stddev=0.3)
    with pytest.raises(ValueError, match="`context` is missing"):
        flow.cdf([[0.0]])
    given = flow.given(normal(3, 2))
    y = given.quantile([0.1, 0.5, 0.9])
    assert y.shape == (3, 1)
    np.testing.assert_allclose(given.cdf(y), [0.1, 0.5, 0.9], atol=1e-5)
    assert given.cdf(np.zeros((5, 1, 1), "float32")).shape == (5, 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Flow(independent(2), tfb.Exp()),
        lambda: Flow(independent(1), tfb.Reciprocal()),  # It falls, but not over its pole.
        lambda: Flow(independent(1), tfb.AbsoluteValue()),
        lambda: flows.circular_spline(1, layers=1, hidden_units=(4,)),
        lambda: Flow(distributions.bases.mixture(1), tfb.Exp()),
    ],
    ids=["columns", "pole", "fold", "circle", "mixture"],
)
def test_what_has_no_known_cumulative_probability_is_not_implemented(make):
    flow = make()
    y = np.full((1, *flow.event_shape), 0.5, "float32")
    for name in ("cdf", "log_cdf", "survival_function", "log_survival_function"):
        with pytest.raises(NotImplementedError):
            getattr(flow, name)(y)
    with pytest.raises(NotImplementedError, match="`quantile` needs"):
        flow.quantile([0.5])
