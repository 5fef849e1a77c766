"""Densities of some columns given the others, against what is known in closed form."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal

from tfp_flows import Flow, FlowModel, distributions, flows

tfd, tfb = tfp.distributions, tfp.bijectors


def gaussian(size, seed=0, dtype="float64"):
    """A standard normal behind a known map, with its mean and covariance."""
    rng = np.random.default_rng(seed)
    factor = np.tril(rng.normal(size=(size, size))) + 0.5 * np.eye(size)
    loc = rng.normal(size=size)
    chain = tfb.Chain([tfb.Shift(loc.astype(dtype)), tfb.ScaleMatvecTriL(factor.astype(dtype))])
    base = tfd.MultivariateNormalDiag(np.zeros(size, dtype), np.ones(size, dtype))
    return Flow(base, chain), loc, factor @ factor.T


def exact(loc, covariance, columns, values):
    """Mean and covariance of the rest of a normal, and the log-density of the values."""
    rest = [i for i in range(len(loc)) if i not in columns]
    inner = covariance[np.ix_(columns, columns)]
    slope = np.linalg.solve(inner, covariance[np.ix_(columns, rest)]).T
    mean = loc[rest] + slope @ (np.asarray(values) - loc[columns])
    spread = covariance[np.ix_(rest, rest)] - slope @ covariance[np.ix_(columns, rest)]
    marginal = scipy.stats.multivariate_normal(loc[columns], inner).logpdf(values)
    return mean, spread, marginal


@pytest.mark.parametrize(
    ("size", "columns", "dtype", "within"),
    [(3, [0, 2], "float64", 1e-6), (4, [3, 1], "float64", 1e-6), (3, [1], "float32", 2e-5)],
)
def test_on_a_grid_a_gaussian_is_exact(size, columns, dtype, within):
    flow, loc, covariance = gaussian(size, dtype=dtype)
    values = loc[columns] + [0.7, -3.0][: len(columns)]
    given = flow.conditional(columns, values)
    mean, spread, marginal = exact(loc, covariance, columns, values)
    assert given.dtype == dtype and given.event_shape == mean.shape and given.ess is None
    np.testing.assert_allclose(given.log_normalizer, marginal, atol=within)
    assert given.error < within
    np.testing.assert_allclose(given.mean(), mean, atol=20 * within)
    np.testing.assert_allclose(given.covariance(), spread, rtol=5e-3, atol=1e-4)
    x = scipy.stats.multivariate_normal(mean, spread).rvs(5, random_state=0).reshape(5, -1)
    known = scipy.stats.multivariate_normal(mean, spread).logpdf(x)
    np.testing.assert_allclose(given.log_prob(x), known, atol=50 * within)
    drawn = given.sample(40_000, seed=1).numpy()
    error = (np.diag(spread) / len(drawn)) ** 0.5
    np.testing.assert_array_less(np.abs(drawn.mean(0) - mean) / error, 4.5)
    np.testing.assert_allclose(np.cov(drawn.T), spread, rtol=0.05, atol=0.02)
    np.testing.assert_array_equal(drawn, given.sample(40_000, seed=1))
    assert len(np.unique(drawn, axis=0)) > 39_000  # Anywhere in their cells.


def test_many_values_at_once_are_those_one_by_one():
    flow, loc, covariance = gaussian(3)
    values = loc[[0]] + normal(2, 3, 1, dtype="float64")
    given = flow.conditional([0], values)
    assert given.batch_shape == (2, 3) and given.sample(5, seed=0).shape == (5, 2, 3, 2)
    assert given.log_prob(np.zeros([2, 3, 2])).shape == (2, 3)
    for index in np.ndindex(2, 3):
        mean, _, marginal = exact(loc, covariance, [0], values[index])
        np.testing.assert_allclose(given.mean()[index], mean, atol=1e-5)
        np.testing.assert_allclose(given.log_normalizer[index], marginal, atol=1e-6)


def test_beyond_two_columns_weighted_draws_are_right_within_their_error():
    flow, loc, covariance = gaussian(7)
    columns = [1, 4]
    values = loc[columns] + [1.0, -2.0]
    given = flow.conditional(columns, values, seed=3)
    mean, spread, marginal = exact(loc, covariance, columns, values)
    assert 1000 < given.ess <= 4000 and 0 < given.error < 0.03
    assert abs(given.log_normalizer - marginal) < 4 * given.error
    error = (np.diag(spread) / given.ess) ** 0.5
    np.testing.assert_array_less(np.abs(given.mean() - mean) / error, 4.5)
    np.testing.assert_allclose(given.stddev(), np.diag(spread) ** 0.5, rtol=0.1)
    drawn = given.sample(2000, seed=0).numpy()
    np.testing.assert_array_less(np.abs(drawn.mean(0) - mean) / error, 6.5)


def nonlinear():
    """x = z₁, y = x² + σ(x) z₂ with σ = 0.1 + 0.2 x²: known given x, by quadrature given y."""

    shift = tfb.RealNVP(
        1, shift_and_log_scale_fn=lambda x, _: (x**2, tf.math.log(0.1 + 0.2 * x**2))
    )
    return Flow(tfd.MultivariateNormalDiag(np.zeros(2), np.ones(2)), shift)


def test_two_modes_of_a_parabola_are_found_and_normalized():
    flow = nonlinear()
    given_x = flow.conditional([0], [1.5])
    np.testing.assert_allclose(given_x.mean(), [2.25], atol=1e-5)
    np.testing.assert_allclose(given_x.stddev(), [0.55], rtol=1e-3)
    np.testing.assert_allclose(given_x.log_normalizer, scipy.stats.norm.logpdf(1.5), atol=1e-6)
    given_y = flow.conditional([1], [2.0])

    def joint(x):
        return scipy.stats.norm.pdf(x) * scipy.stats.norm.pdf(2.0, x**2, 0.1 + 0.2 * x**2)

    total = scipy.integrate.quad(joint, -10, 10, points=[-1.4, 0.0, 1.4], limit=500)[0]
    np.testing.assert_allclose(given_y.log_normalizer, np.log(total), atol=1e-5)
    x = np.array([[-1.3], [0.5], [1.3]])
    np.testing.assert_allclose(given_y.prob(x), joint(x[:, 0]) / total, rtol=1e-4)
    np.testing.assert_allclose(given_y.mean(), [0.0], atol=1e-4)
    drawn = given_y.sample(4000, seed=0).numpy()
    assert 0.46 < (drawn > 0).mean() < 0.54 and np.abs(np.abs(drawn).mean() - 1.36) < 0.1


def test_a_ridge_and_heavy_tails_are_no_trouble():
    factor = np.array([[1.0, 0, 0], [1.0, 1.0, 0], [1.0, 1.0, 1e-3]])  # A ridge.
    ridge = Flow(
        tfd.MultivariateNormalDiag(np.zeros(3), np.ones(3)), tfb.ScaleMatvecTriL(factor)
    ).conditional([0], [0.5])
    np.testing.assert_allclose(ridge.log_normalizer, scipy.stats.norm.logpdf(0.5), atol=1e-5)
    np.testing.assert_allclose(ridge.mean(), [0.5, 0.5], atol=1e-4)
    tails = tfd.Independent(tfd.StudentT(np.full(2, 3.0), 0.0, 1.0), 1)
    heavy = Flow(tails, tfb.Shift(np.array([1.0, 2.0]))).conditional([1], [2.0])
    np.testing.assert_allclose(heavy.log_normalizer, scipy.stats.t(3).logpdf(0.0), atol=1e-4)


def test_supports_and_far_values():
    positive = Flow(tfd.MultivariateNormalDiag(np.zeros(2), np.ones(2)), tfb.Exp())
    given = positive.conditional([0], [1e-3])
    known = scipy.stats.lognorm(1.0)
    assert abs(given.log_normalizer - known.logpdf(1e-3)) < given.error < 0.05
    np.testing.assert_allclose(given.mean(), [known.mean()], rtol=1e-3)
    assert given.log_prob([-1.0]) == -np.inf
    with pytest.raises(ValueError, match="`values` must have a density"):
        positive.conditional([0], [-1.0])
    flow, loc, covariance = gaussian(2)
    values = loc[[0]] + 30 * covariance[0, 0] ** 0.5  # No draw is there.
    far = flow.conditional([0], values)
    mean, _, marginal = exact(loc, covariance, [0], values)
    np.testing.assert_allclose(far.mean(), mean, rtol=1e-5)
    np.testing.assert_allclose(far.log_normalizer, marginal, rtol=1e-6)


def test_models_take_and_return_units_of_the_data():
    x = np.random.default_rng(0).normal([100.0, -5.0], [20.0, 0.1], (500, 2)).astype("float32")
    model = FlowModel(flows.real_nvp(2, layers=2, hidden_units=(8,), context_size=1, seed=0))
    context = normal(500, 1)
    model.adapt(context, x)
    given = model.conditional([1], [-5.05], context=context[0])
    assert isinstance(given, distributions.GivenColumns) and 95 < given.mean()[0] < 105
    line = np.linspace(0, 200, 4001, dtype="float32")
    rows = np.stack([line, np.full_like(line, -5.05)], 1)
    log_joint = model.log_prob(rows, np.tile(context[0], (len(rows), 1))).numpy()
    total = np.log(np.trapezoid(np.exp(log_joint), line))
    np.testing.assert_allclose(given.log_normalizer, total, atol=1e-4)
    np.testing.assert_allclose(given.log_prob(rows[:, :1]), log_joint - total, atol=1e-3)


@pytest.mark.parametrize(
    ("columns", "values", "options", "message"),
    [
        ([0, 1, 2], [0.0] * 3, {}, "`columns` must be different numbers from 0 to 2"),
        ([], [], {}, "`columns` must"),
        ([3], [0.0], {}, "`columns` must"),
        ([1, 1], [0.0, 0.0], {}, "`columns` must"),
        ([0.5], [0.0], {}, "`columns` must"),
        ([0], [0.0, 1.0], {}, "`values` must be finite and have shape"),
        ([0], [np.nan], {}, "`values` must be finite"),
        ([0], [0.0], {"points": 0}, "`points` must be a positive integer"),
        ([0, 1], [0.0, 0.0], {"points": 1}, "`points` must be 2 or more"),
        ([0], [0.0], {"context": [1.0]}, "`context` was given"),
        ([0], [0.0], {"seed": -1}, "`seed` must"),
    ],
)
def test_what_is_refused(columns, values, options, message):
    with pytest.raises(ValueError, match=message):
        gaussian(3)[0].conditional(columns, values, **options)


def test_few_draws_are_an_error_or_a_warning():
    flow = gaussian(6)[0]
    for points in (1, 40):
        with pytest.raises(ValueError, match=r"worth .* independent"):
            flow.conditional([0], [0.0], points=points)
    with pytest.warns(RuntimeWarning, match=r"worth .* independent"):
        flow.conditional([0], [0.0], points=400)


def test_without_a_seed_draws_differ():
    flow, loc, _ = gaussian(2)
    given = flow.conditional([0], loc[[0]])
    assert not np.array_equal(given.sample(5), given.sample(5))
    assert np.array_equal(given.sample(5, seed=1), given.sample(5, seed=1))


def test_log_densities_broadcast_and_slices_are_those_of_some_values():
    flow, loc, _ = gaussian(3)
    given = flow.conditional([0], loc[[0]] + normal(2, 3, 1, dtype="float64"))
    x = normal(2, dtype="float64")
    every = given.log_prob(np.broadcast_to(x, (2, 3, 2))).numpy()
    np.testing.assert_allclose(given.log_prob(x), every)
    np.testing.assert_allclose(given.log_prob(np.broadcast_to(x, (4, 1, 1, 2))), [every] * 4)
    for index in (1, (0, 2), (slice(None), [0, 2]), (..., 0)):
        part = given[index]
        assert part.batch_shape == every[index].shape
        np.testing.assert_allclose(part.log_prob(x), every[index])
        np.testing.assert_array_equal(part.mean()[..., 0], given.mean().numpy()[..., 0][index])
        np.testing.assert_array_equal(part.error, given.error[index])
        assert part.sample(3, seed=0).shape == (3, *part.batch_shape, 2)


def test_events_have_the_columns_that_are_left_alone():
    given = gaussian(3)[0].conditional([1], [0.0])
    for width in (1, 3):
        with pytest.raises(ValueError, match=r"`value` must hold columns \[0, 2\]"):
            given.log_prob(np.zeros(width))


def test_it_stays_when_the_density_is_trained_on():
    flow = flows.real_nvp(2, layers=2, hidden_units=(8,), seed=0)
    for density in (flow, FlowModel(flow)):
        given = density.conditional([0], [0.5])
        before = given.log_prob([0.1])
        for variable in flow.trainable_variables:
            variable.assign_add(0.3 * tf.ones_like(variable))
        assert np.abs(density.log_prob([[0.5, 0.1]]) - flow.log_prob([0.5, 0.1])) < 1e-5
        np.testing.assert_array_equal(given.log_prob([0.1]), before)
        assert np.abs(density.conditional([0], [0.5]).log_prob([0.1]) - before) > 0.01


@pytest.mark.parametrize("unit", [1e-25, 1e25])
def test_deviations_of_any_unit_are_right_in_float32(unit):
    base = tfd.MultivariateNormalDiag(np.zeros(2, "float32"), np.ones(2, "float32"))
    given = Flow(base, tfb.Scale(np.float32(unit))).conditional([0], [0.5 * unit])
    np.testing.assert_allclose(given.stddev(), [unit], rtol=1e-4)
    known = scipy.stats.norm.logpdf(0.5) - np.log(unit)
    assert abs(given.log_normalizer - known) < given.error < 1e-4


def test_densities_that_have_no_volume_are_refused():
    with pytest.raises(ValueError, match="not one of a surface"):
        flows.sphere(layers=1).conditional([0], [0.1])
    with pytest.raises(ValueError, match="not one of a surface"):
        FlowModel(flows.sphere(layers=1)).conditional([0], [0.1])
    fisher = tfd.VonMisesFisher([1.0, 0.0, 0.0], 2.0)
    with pytest.raises(ValueError, match="not one of a surface"):
        Flow(fisher, tfb.Identity()).conditional([0], [0.1])
    whole = flows.neural_spline(3, layers=1, support="real")
    rounded = FlowModel(distributions.Dequantized(whole, steps=[1.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match="`columns` must be all that are not continuous"):
        rounded.conditional([0], [1.0])
    with pytest.raises(ValueError, match="the same at every call"):
        rounded.conditional([0, 2], [1.0, 0.0])
    infinite = Flow(
        tfd.MultivariateNormalDiag(np.zeros(2), np.ones(2)), tfb.Scale(np.array(np.inf))
    )
    with pytest.raises(ValueError, match="finite draws"):
        infinite.conditional([0], [1.0])
    many = Flow(tfd.MultivariateNormalDiag(np.zeros((4, 2))), tfb.Identity())
    with pytest.raises(ValueError, match="Received: a batch of them"):
        many.conditional([0], [1.0])
    times = distributions.Censored(flows.neural_spline(1, layers=1, support="positive"))
    with pytest.raises(ValueError, match="Received: intervals of a Censored"):
        FlowModel(times).conditional([0], [1.0])
    with pytest.raises(ValueError, match=r"outside of a `tf\.function`"):
        tf.function(lambda: gaussian(2)[0].conditional([0], [1.0]).mean())()
    conditional = flows.real_nvp(2, layers=2, hidden_units=(8,), context_size=1)
    with pytest.raises(ValueError, match="`context` must be finite"):
        conditional.conditional([0], [1.0], context=[np.nan])
    with pytest.raises(ValueError, match=r"`context` must be one, of shape \(1,\)"):
        conditional.conditional([0], [1.0], context=np.zeros((2, 1)))


def test_in_a_loop_tensorflow_warns_of_no_traces(caplog, monkeypatch):
    monkeypatch.setattr(tf.get_logger(), "propagate", True)
    flow = gaussian(2)[0]
    for value in range(6):
        flow.conditional([0], [0.1 * value])
        Flow(flow, tfb.Exp()).mode(starts=2)
    assert "retracing" not in caplog.text


@pytest.mark.parametrize(("size", "within"), [(2, 1e-6), (3, 1e-3), (5, 0.05)])
def test_of_angles_one_turn_is_normalized_and_drawn(size, within):
    """Independent ones, some about the cut at ±π; and values a turn on mean the same angle."""
    loc, concentration = np.array([0.5, 3.0, 0.0, -3.1, 1.0])[:size], np.array([2, 4, 0.5, 9, 1])
    angles = tfd.VonMises(loc, concentration[:size].astype("float64"))
    flow = Flow(tfd.Independent(angles, 1), tfb.Identity())
    known = scipy.stats.vonmises(2.0, loc=0.5).logpdf(1.0)
    for value in (1.0, 1.0 + 2 * np.pi):
        given = flow.conditional([0], [value], points=20_000 if size == 5 else None)
        np.testing.assert_allclose(given.log_normalizer, known, atol=3 * given.error)
        assert given.error < within
    drawn = tf.function(lambda: given.sample(20_000, seed=0))().numpy()
    assert np.abs(drawn).max() <= np.pi
    means = np.exp(1j * drawn).mean(0)
    expected = scipy.special.ive(1, concentration) / scipy.special.ive(0, concentration)
    error = 4 / np.sqrt(20_000 if given.ess is None else given.ess)
    np.testing.assert_allclose(means, (expected[:size] * np.exp(1j * loc))[1:], atol=error)
    np.testing.assert_allclose(given.log_prob(drawn[:9]), given.log_prob(drawn[:9] + 2 * np.pi))


@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_angles_of_a_circular_flow_given_another_are_those_of_a_sum_over_the_turn(shift):
    flow = flows.circular_spline(2, layers=2, hidden_units=(8,), seed=0)
    for variable in flow.trainable_variables:
        variable.assign_add(0.2 * normal(*variable.shape))
    flow = Flow(tfd.TransformedDistribution(flow, tfb.Shift([0.0, shift])), tfb.Identity())
    given = flow.conditional([0], [0.5])
    turn = np.linspace(-np.pi, np.pi, 20_000, endpoint=False, dtype="float32")[:, None]
    density = flow.prob(np.concatenate([0.5 + 0 * turn, turn], 1)).numpy()
    known = np.log(density.mean() * 2 * np.pi)
    assert abs(given.log_normalizer - known) < max(given.error, 1e-4) and given.error < 1e-3
    drawn = given.sample(20_000, seed=0).numpy()
    assert np.ptp(drawn) <= 2 * np.pi
    expected = (density * np.exp(1j * turn[:, 0])).sum() / density.sum()
    np.testing.assert_allclose(np.exp(1j * drawn).mean(), expected, atol=0.02)
