"""Dequantized: bounds of probabilities that are known exactly, and the warning about ties."""

import re
import warnings

import keras
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import Flow, FlowModel, bijectors
from tfp_flows.bijectors.support import Support
from tfp_flows.distributions import bases
from tfp_flows.distributions.dequantized import Dequantized
from tfp_flows.model.ties import TiedValuesWarning, tied_columns, warn_of_ties

tfd, tfb = tfp.distributions, tfp.bijectors

VALUES = np.array([0.0, 1.0, -2.0], "float32")
CENTRED = scipy.stats.norm.logcdf(VALUES + 0.5), scipy.stats.norm.logcdf(VALUES - 0.5)
EXACT = CENTRED[0] + np.log1p(-np.exp(CENTRED[1] - CENTRED[0]))


def standard_normal(size, dtype="float32"):
    return bases.normal(size, trainable=False, dtype=dtype)


def average_log_prob(distribution, repeats=2000):
    """The mean of `log_prob` at `VALUES`, over the noise."""
    x = np.repeat(VALUES, repeats)[:, None]
    return distribution.log_prob(x).numpy().reshape(len(VALUES), repeats).mean(1)


def affine(size, context_size=None, dtype="float32", **options):
    return bijectors.Coupling(
        size,
        bijectors.transformers.Affine(),
        (8,),
        context_size=context_size,
        dtype=dtype,
        seed=0,
        **options,
    )


def rounded_data(rows=256, seed=0):
    """An integer column that depends on a continuous one, around 50."""
    rng = np.random.default_rng(seed)
    second = rng.normal(0, 0.1, rows)
    first = np.round(50 + 20 * second + rng.normal(0, 1.5, rows))
    return np.stack([first, second], 1).astype("float32")


def test_bound_of_a_rounded_normal():
    gaps = []
    for samples in (1, 10, 200):
        distribution = Dequantized(standard_normal(1), 1.0, samples=samples, seed=0)
        gaps.append(EXACT - average_log_prob(distribution))
    one, ten, many = np.array(gaps)
    assert (one[1:] > 0.02).all()  # At 0 the density is nearly flat, and so is the noise.
    assert (many > -0.002).all() and (many < 0.005).all()
    assert (one[1:] > ten[1:]).all() and ten[2] > many[2]
    # With one sample the bound is an integral: E[log φ(x + u)] = -(x² + 1/12 + log 2π) / 2.
    expected = -(VALUES**2 + 1 / 12 + np.log(2 * np.pi)) / 2
    np.testing.assert_allclose(EXACT - one, expected, atol=0.05)


def test_probabilities_sum_to_one():
    distribution = Dequantized(standard_normal(1, "float64"), 0.5, samples=2000, seed=0)
    x = np.arange(-12, 13)[:, None] / 2
    assert abs(distribution.prob(x).numpy().sum() - 1) < 0.005


def test_left_cells():
    distribution = Dequantized(standard_normal(1), 1.0, samples=500, align="left", seed=0)
    found = average_log_prob(distribution, repeats=50)
    expected = np.log(scipy.stats.norm.cdf(VALUES + 1) - scipy.stats.norm.cdf(VALUES))
    np.testing.assert_allclose(found, expected, atol=0.01)
    draws = distribution.sample(4000, seed=0).numpy()
    np.testing.assert_allclose((draws == 0).mean(), scipy.stats.norm.cdf(1) - 0.5, atol=0.03)


def test_continuous_columns_keep_their_density():
    distribution = Dequantized(standard_normal(2), [0.0, 1.0], samples=500, seed=0)
    x = np.stack([np.full(3, 0.7, "float32"), VALUES], 1)
    expected = scipy.stats.norm.logpdf(0.7) + EXACT
    np.testing.assert_allclose(distribution.log_prob(x), expected, atol=0.05)
    draws = distribution.sample(1000, seed=0).numpy()
    assert len(np.unique(draws[:, 0])) == 1000
    assert set(np.unique(draws[:, 1])) <= set(range(-5, 6))


def test_draws_have_the_probabilities_of_their_cells():
    draws = Dequantized(standard_normal(1), 1.0).sample(20_000, seed=0).numpy()[:, 0]
    shares = [(draws == value).mean() for value in VALUES]
    np.testing.assert_allclose(shares, np.exp(EXACT), atol=0.015)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_draws_are_the_numbers_that_are_written(dtype):
    draws = Dequantized(standard_normal(2, dtype), [0.1, 2.5]).sample(500, seed=0).numpy()
    assert draws.dtype == dtype
    np.testing.assert_array_equal(draws, draws.astype(str).astype("float64").astype(dtype))
    tenths, halves = draws.T
    np.testing.assert_array_equal(tenths, np.round(tenths.astype("float64"), 1).astype(dtype))
    assert (halves % 2.5 == 0).all()


def test_a_seed_makes_figures_reproducible():
    x = np.zeros([100, 1], "float32")
    distribution = Dequantized(standard_normal(1), 1.0)
    assert (distribution.log_prob(x) != distribution.log_prob(tf.identity(x))).numpy().any()
    assert len(np.unique(distribution.log_prob(x))) > 50  # Every row has its own noise.
    distribution.seed = 3
    first = distribution.log_prob(x)
    np.testing.assert_array_equal(first, distribution.log_prob(tf.identity(x)))
    assert (first != distribution.log_prob(x + 1)).numpy().all()
    for jit in (False, True):
        found = tf.function(distribution.log_prob, jit_compile=jit)(x).numpy().mean()
        np.testing.assert_allclose(found, np.mean(first), atol=0.03)


def test_noise_is_new_at_every_step_of_a_graph():
    distribution = Dequantized(standard_normal(1), 1.0)
    log_prob = tf.function(distribution.log_prob)
    x = tf.zeros([5, 1])
    assert (log_prob(x) != log_prob(x)).numpy().any()


# Learned noise.


def test_fresh_learned_noise_is_uniform():
    flow = standard_normal(2)
    uniform = Dequantized(flow, [1.0, 0.0], samples=200, seed=0)
    learned = Dequantized(flow, [1.0, 0.0], noise=(8,), samples=200, seed=0)
    x = np.zeros([200, 2], "float32")
    np.testing.assert_allclose(
        np.mean(learned.log_prob(x)), np.mean(uniform.log_prob(x)), atol=0.002
    )


def test_learned_noise_closes_the_gap():
    keras.utils.set_random_seed(0)  # Of shuffling: at the end, the gap jumps from step to step.
    base = standard_normal(1)
    distribution = Dequantized(base, 1.0, noise=(16,), seed=0)
    model = FlowModel(distribution)
    model.compile(keras.optimizers.Adam(0.02))
    x = np.repeat(VALUES, 100)[:, None]
    model.fit(x, epochs=25, batch_size=100, verbose=0)
    distribution.seed = 1
    gap = EXACT - average_log_prob(distribution)
    uniform = EXACT - average_log_prob(Dequantized(base, 1.0, seed=1))
    assert gap[2] < uniform[2] / 4
    assert (gap > -0.005).all()


def test_a_noise_flow_of_ones_own_gets_all_columns_as_context():
    noise = Flow(standard_normal(1), affine(1, context_size=2))
    distribution = Dequantized(standard_normal(2), [0.0, 1.0], noise=noise)
    found = {v.ref() for v in distribution.trainable_variables}
    assert found == {v.ref() for v in noise.trainable_variables}
    with pytest.raises(ValueError, match=re.escape("events of shape (2,)")):
        Dequantized(standard_normal(2), 1.0, noise=noise)
    with pytest.raises(TypeError, match="`noise` must be hidden widths, a Flow or None"):
        Dequantized(standard_normal(2), 1.0, noise="uniform")


# Around a flow, and in a model.


def conditional_flow(context_size):
    layers = [Support(2, "real"), affine(2, context_size), affine(2, context_size, flip=True)]
    return Flow(standard_normal(2), tfb.Chain(layers))


@pytest.mark.parametrize("noise", [None, (8,)])
def test_context_reaches_the_flow(noise):
    distribution = Dequantized(conditional_flow(3), [1.0, 0.0], noise=noise, samples=2)
    assert distribution.context_size == 3
    for variable in distribution.trainable_variables:
        variable.assign_add(tf.random.stateless_normal(variable.shape, (0, 1), stddev=0.3))
    context = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    x = distribution.sample(4, context=context, seed=0)
    assert x.shape == (4, 5, 2)
    assert distribution.given(context).batch_shape == (5,)
    assert distribution.log_prob(x, context=context).shape == (4, 5)
    x, log_prob = distribution.sample_and_log_prob(context=context, seed=0)
    assert (x.shape, log_prob.shape) == ((5, 2), (5,))
    with tf.GradientTape() as tape:
        tf.function(lambda: distribution.log_prob(x, context=context))()
    watched = {v.ref() for v in tape.watched_variables()}
    assert watched == {v.ref() for v in distribution.trainable_variables}
    with pytest.raises(ValueError, match="`context` is missing"):
        distribution.log_prob(x)
    with pytest.raises(ValueError, match="is unconditional"):
        Dequantized(standard_normal(2), 1.0).log_prob(x, context=context)


@pytest.mark.parametrize("noise", [None, (8,)])
def test_a_model_fits_and_saves(noise, tmp_path):
    x = rounded_data()
    distribution = Dequantized(conditional_flow(None), [1.0, 0.0], noise=noise, seed=0)
    model = FlowModel(distribution)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TiedValuesWarning)
        model.adapt(x)
    model.compile(keras.optimizers.Adam(0.02))
    model.fit(x, epochs=20, batch_size=64, verbose=0)
    found = model.evaluate(x, verbose=0)
    assert found == model.evaluate(x, verbose=0)
    # The truth: a density of the second column, then a probability of the first given it.
    scale = 1.5
    middle = 50 + 20 * x[:, 1]
    cells = scipy.stats.norm.cdf(x[:, 0] + 0.5, middle, scale)
    cells -= scipy.stats.norm.cdf(x[:, 0] - 0.5, middle, scale)
    truth = -np.mean(scipy.stats.norm.logpdf(x[:, 1], 0, 0.1) + np.log(cells))
    assert abs(found - truth) < 0.15
    draws = model.sample(1000, seed=0).numpy()
    np.testing.assert_array_equal(draws[:, 0], np.round(draws[:, 0]))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.log_prob(x), model.log_prob(x))


def test_adapt_adds_noise_and_adapts_what_is_inside():
    class Adapted(tfd.MultivariateNormalDiag):
        needs_raw_data = True

        def adapt(self, x, context, again):
            self.seen, self.context, self.again = x, context, again

    inner = Adapted(tf.zeros([2]))
    x = rounded_data()
    for align, low in (("center", -0.5), ("left", 0.0)):
        distribution = Dequantized(inner, [1.0, 0.0], align=align, noise=(4,))
        distribution.adapt(x, "context", again=False)
        assert (inner.context, inner.again) == ("context", False)
        assert (distribution.noise.scale.numpy() == 1).all()
        distribution.adapt(x)
        noise = inner.seen - x
        assert (noise[:, 1] == 0).all()
        assert low <= noise[:, 0].min() < low + 0.05 < low + 0.95 < noise[:, 0].max() <= low + 1
        np.testing.assert_allclose(distribution.noise.shift, x.mean(0), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(distribution.noise.scale, x.std(0), rtol=1e-5)
    with pytest.raises(ValueError, match="`distribution` must take data in their own units"):
        Dequantized(standard_normal(2), 1.0).adapt(x)


@pytest.mark.parametrize("steps", [0.0, -1.0, np.inf, [1.0, 1.0, 1.0], "one", None, [0.0, 0.0]])
def test_wrong_steps_are_refused(steps):
    with pytest.raises(ValueError, match="`steps` must be a number or 2, one per column"):
        Dequantized(standard_normal(2), steps)


def test_wrong_arguments_are_refused():
    base = standard_normal(2)
    with pytest.raises(TypeError, match=r"`distribution` must be a tfd.Distribution"):
        Dequantized("flow", 1.0)
    with pytest.raises(ValueError, match=r"must have events of shape \(D,\)"):
        Dequantized(tfd.Normal(0.0, 1.0), 1.0)
    with pytest.raises(ValueError, match="`samples` must be a positive integer"):
        Dequantized(base, 1.0, samples=0)
    with pytest.raises(ValueError, match="`align` must be 'center' or 'left'"):
        Dequantized(base, 1.0, align="right")
    with pytest.raises(ValueError, match="`seed` must be an integer or None"):
        Dequantized(base, 1.0, seed=0.5)


# Ties.


def columns_with_ties(rows=3000):
    rng = np.random.default_rng(0)
    return {
        "normal": rng.normal(size=rows),
        "tenths": np.round(rng.normal(size=rows), 1),
        "counts": rng.poisson(3, rows),
        "many zeros": np.where(rng.random(rows) < 0.3, 0, rng.normal(size=rows)),
        "quarters, moved": np.round(4 * rng.normal(size=rows)) / 4 + 0.125,
        "sevenths": rng.integers(0, 30, rows) / 7,
        "fine": np.round(rng.normal(size=rows), 5),
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tied_columns_are_found_with_their_steps(dtype):
    columns = columns_with_ties()
    x = np.stack(list(columns.values()), 1).astype(dtype)
    found = {column: (share, step) for column, share, step in tied_columns(x)}
    assert list(found) == [1, 2, 3, 4, 5]
    steps = [found[column][1] for column in (1, 2, 4, 5)]
    np.testing.assert_allclose(steps, [0.1, 1, 0.25, 1 / 7], rtol=1e-5)
    assert found[3][1] is None
    share = len(np.unique(x[:, 1])) / len(x)
    assert found[1][0] == share


def test_few_equal_rows_are_no_ties():
    x = np.arange(20.0)[:, None]
    x[:9] = 0
    assert tied_columns(x) == []
    x[:10] = 0
    assert [column for column, _, _ in tied_columns(x)] == [0]
    assert tied_columns(np.zeros([0, 2])) == []


def test_the_warning_names_columns_steps_and_remedy():
    columns = columns_with_ties()
    x = np.stack(list(columns.values()), 1)[:, :4]
    with pytest.warns(TiedValuesWarning) as caught:
        warn_of_ties(x, list(columns)[:4])
    message = str(caught[0].message)
    assert "'tenths' (2.1 % of its values are distinct, in steps of 0.1)" in message
    assert "'many zeros' (72 % of its values are distinct)" in message
    assert "Dequantized(distribution, steps=[0, 0.1, 1, 0])" in message
    assert "'normal'" not in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_ties(x[:, :1])
        warn_of_ties(x[:, :3], steps=[0, 0.1, 1])
    with pytest.warns(TiedValuesWarning, match=re.escape("steps=[0, 0.1, 1, 0]")) as caught:
        warn_of_ties(x, steps=[0, 0, 1, 0])
    assert "column 2" not in str(caught[0].message)
    with pytest.warns(TiedValuesWarning, match="They lie on no grid"):
        warn_of_ties(x[:, 3:])


def test_the_warning_knows_tables():
    with pytest.warns(TiedValuesWarning, match="'age'"):
        warn_of_ties(pd.DataFrame({"age": np.arange(500) % 20}))


def test_values_off_the_grid_are_refused():
    flow = Flow(standard_normal(1), Support(1, "real"))
    with pytest.raises(ValueError, match=r"multiples of `steps`, 1 in column 0.*0\.5 in row 0"):
        Dequantized(flow, 1.0).adapt(np.arange(20.0)[:, None] + 0.5)
