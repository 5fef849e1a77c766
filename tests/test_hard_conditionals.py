"""Conditional densities that a grid or draws easily get wrong: narrow modes, edges, heavy tails."""

import numpy as np
import pytest
import scipy.stats
import tensorflow_probability as tfp

from tfp_flows import Flow

tfd, tfb = tfp.distributions, tfp.bijectors


def mixture(probs, locs, scales):
    parts = tfd.MultivariateNormalDiag(np.array(locs), np.array(scales))
    return Flow(
        tfd.MixtureSameFamily(tfd.Categorical(probs=np.array(probs)), parts), tfb.Identity()
    )


@pytest.mark.parametrize("narrow", [1e-2, 1e-4])
def test_modes_much_narrower_than_cells_keep_their_weights(narrow):
    """In the first, a cell of the grid is 1 % of the distance; the second lies in a wide mode."""
    two = mixture([0.5, 0.5], [[0.0, -1.0], [0.0, 2.0]], [[1.0, narrow], [1.0, 0.7 * narrow]])
    nested = mixture([0.5, 0.5], [[0.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [1.0, narrow]])
    for flow, mean in ((two, 0.5), (nested, 1.0)):
        given = flow.conditional([0], [0.3])
        known = scipy.stats.norm.logpdf(0.3)
        assert abs(given.log_normalizer - known) < given.error < 0.02
        np.testing.assert_allclose(given.mean(), [mean], atol=1e-3)
        low = given.sample(2000, seed=0).numpy() < mean
        assert 0.4 < low.mean() < 0.6 or flow is nested


def test_two_modes_of_two_columns_are_right_or_refused():
    def given(narrow):
        locs, scales = [[0.0, -1, 1], [0.0, 2, 0.2]], [[1, narrow, narrow], [1, narrow, 2 * narrow]]
        return mixture([0.5, 0.5], locs, scales).conditional([0], [0.3])

    found = given(0.01)
    assert abs(found.log_normalizer - scipy.stats.norm.logpdf(0.3)) < found.error < 0.05
    np.testing.assert_allclose(found.mean(), [0.5, 0.6], atol=2e-3)
    with pytest.raises(ValueError, match="`points` must be more"):
        given(1e-3)


@pytest.mark.parametrize("rest", [1, 2])
def test_at_edges_of_the_support_errors_are_told_and_draws_are_inside(rest):
    rates = np.arange(1.0, 2.0 + rest)
    exponential = tfd.Independent(tfd.Exponential(rates), 1)
    given = Flow(exponential, tfb.Identity()).conditional([0], [0.5])
    assert abs(given.log_normalizer + 0.5) < given.error < 0.02
    np.testing.assert_allclose(given.stddev(), 1 / rates[1:], rtol=0.01)
    drawn = given.sample(20_000, seed=0)
    assert np.isfinite(given.log_prob(drawn)).all()
    np.testing.assert_allclose(np.mean(drawn, 0), 1 / rates[1:], rtol=0.03)
    gamma = tfd.Independent(tfd.Gamma(np.full(2, 0.5), np.ones(2)), 1)  # Infinite at its edge.
    given = Flow(gamma, tfb.Identity()).conditional([0], [0.5])
    assert abs(given.log_normalizer - scipy.stats.gamma(0.5).logpdf(0.5)) < given.error < 1e-3


def test_heavy_tails_are_part_of_the_error():
    cauchy = tfd.Independent(tfd.StudentT(np.full(2, 1.0), 0.0, 1.0), 1)
    given = Flow(cauchy, tfb.Identity()).conditional([0], [0.5])
    assert abs(given.log_normalizer - scipy.stats.t(1).logpdf(0.5)) < given.error < 1e-3


def test_a_mode_away_from_the_nearest_draws_is_found_by_wide_ones():
    flow = mixture(
        [0.9, 0.1], [[0.0, 0, 0, 0], [0.0, 3, 3, 3]], [[1.0, 1, 1, 1], [1.0, 0.2, 0.2, 0.2]]
    )
    given = flow.conditional([0], [3.5])
    np.testing.assert_allclose(given.mean(), np.full(3, 0.3), atol=0.15)
    assert abs(given.log_normalizer - scipy.stats.norm.logpdf(3.5)) < 4 * given.error


def test_weighted_draws_of_heavy_tails_are_right_within_four_errors():
    cauchy = tfd.Independent(tfd.StudentT(np.full(4, 1.0), 0.0, 1.0), 1)
    flow, known = Flow(cauchy, tfb.Identity()), scipy.stats.t(1).logpdf(0.5)
    found = [flow.conditional([0], [0.5], points=40_000, seed=seed) for seed in range(8)]
    z = [(given.log_normalizer - known) / given.error for given in found]
    assert np.abs(z).max() < 4
