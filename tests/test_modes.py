"""Modes of flows, against those known in closed form."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal, randomize

from tfp_flows import Flow, FlowModel, bases, bijectors, flows

tfd, tfb = tfp.distributions, tfp.bijectors


def standard(size=2, dtype="float64"):
    return tfd.MultivariateNormalDiag(np.zeros(size, dtype), np.ones(size, dtype))


def curved(size, dtype="float64"):
    """A map that is not affine, though it is close: the search runs on it."""
    return bijectors.Coupling(size, bijectors.transformers.Affine(), (4,), dtype=dtype, seed=0)


def test_of_a_gaussian_it_is_the_mean():
    factor = np.array([[2.0, 0, 0], [1.0, 0.1, 0], [-3.0, 0.5, 4.0]])
    loc = np.array([100.0, -5.0, 0.01])
    chain = [tfb.Shift(loc), tfb.ScaleMatvecTriL(factor), curved(3)]  # A fresh one is the identity.
    flow = Flow(standard(3), tfb.Chain(chain))
    np.testing.assert_allclose(flow.mode(), loc, atol=1e-6)
    np.testing.assert_array_equal(flow.mode(seed=1), flow.mode(seed=1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_is_that_of_the_data_and_not_of_the_base(dtype):
    loc, scale = np.array([1.0, -2.0], dtype), np.array([0.5, 1.0], dtype)
    flow = Flow(tfd.MultivariateNormalDiag(loc, scale), tfb.Exp())
    assert flow.mode().dtype == dtype
    np.testing.assert_allclose(flow.mode(), np.exp(loc - scale**2), rtol=1e-3)
    # Beta(2, 5), whose mode is 0.2, behind a map of its support.
    beta = tfd.Independent(tfd.Beta(np.full(1, 2.0, dtype), np.full(1, 5.0, dtype)), 1)
    stretched = Flow(beta, tfb.Chain([tfb.Scale(np.array(10.0, dtype)), curved(1, dtype)]))
    np.testing.assert_allclose(stretched.mode(), [2.0], atol=0.01)


def test_of_several_maxima_it_is_the_highest():
    mixture = tfd.MixtureSameFamily(
        tfd.Categorical(probs=np.array([0.5, 0.3, 0.2])),
        tfd.MultivariateNormalDiag(
            np.array([[-6.0, 0], [6.0, 0], [0, 6.0]]), np.array([[2.0, 2], [0.5, 0.5], [1, 1]])
        ),
    )
    np.testing.assert_allclose(Flow(mixture, tfb.Identity()).mode(), [6.0, 0.0], atol=1e-2)


def test_kinks_are_no_hindrance():
    """p ∝ exp(-|x - 1| - 2 |y + x|), which has no gradient at its peak."""
    laplace = tfd.Independent(tfd.Laplace(np.zeros(2), np.array([1.0, 0.5])), 1)
    skew = tfb.ScaleMatvecTriL(np.array([[1.0, 0], [-1.0, 1.0]]))
    flow = Flow(laplace, tfb.Chain([skew, tfb.Shift(np.array([1.0, 0.0])), curved(2)]))
    np.testing.assert_allclose(flow.mode(), [1.0, -1.0], atol=2e-3)


def test_given_context_there_is_one_for_each():
    flow = randomize(flows.real_nvp(2, layers=2, hidden_units=(8,), context_size=1, seed=0))
    context = np.float32([[-2.0], [0.0], [2.0]])
    modes = flow.mode(context)
    assert modes.shape == (3, 2)
    for row, mode in zip(context, modes, strict=True):
        np.testing.assert_allclose(flow.mode(row), mode, atol=5e-3)
        beside = flow.log_prob(mode + 0.05 * normal(200, 2), context=row)
        assert np.max(beside) < flow.log_prob(mode, context=row) + 2e-3


@pytest.mark.parametrize("name", ["neural_spline", "maf", "iaf"])
def test_all_families_have_one(name):
    flow = randomize(flows.get(name, 2, layers=2, hidden_units=(8,), seed=0), stddev=0.2)
    mode = flow.mode(starts=8)
    found = flow.log_prob(mode)
    assert np.max(flow.log_prob(flow.sample(5000, seed=0))) < found + 1e-2
    assert np.max(flow.log_prob(mode + 0.05 * normal(500, 2))) < found + 1e-2


def test_models_take_and_return_units_of_the_data():
    x = np.random.default_rng(0).normal([100.0, -5.0], [20.0, 0.1], (500, 2)).astype("float32")
    model = FlowModel(flows.real_nvp(2, layers=2, hidden_units=(8,), seed=0))
    model.adapt(x)
    np.testing.assert_allclose(model.mode(), x.mean(0), rtol=1e-3)
    mixture = FlowModel(bases.mixture(2, 2))
    with pytest.raises(TypeError, match="`mode` needs a Flow"):
        mixture.mode()


@pytest.mark.parametrize(
    ("base", "known"),
    [
        (tfd.Exponential(np.ones(2)), 0.0),
        (tfd.Gamma(np.ones(2), np.ones(2)), 0.0),
        (tfd.Gamma(np.full(2, 3.0), np.ones(2)), 2.0),
        (tfd.Beta(np.full(2, 1.0), np.full(2, 3.0)), 0.0),
        (tfd.Kumaraswamy(np.full(2, 2.0), np.full(2, 2.0)), (1 / 3) ** 0.5),
    ],
)
def test_behind_affine_maps_it_is_found_where_that_of_the_base_is_no_event(base, known):
    shift = tfb.Chain([tfb.Shift(np.array(1.0)), tfb.Scale(np.array(2.0))])
    flow = Flow(tfd.Independent(base, 1), shift)
    np.testing.assert_allclose(flow.mode(), np.full(2, 1 + 2 * known), atol=2e-3)
    assert np.isfinite(flow.log_prob(flow.mode()))


def test_what_has_no_mode_is_refused():
    for endless in (tfd.Gamma, tfd.Beta):
        flow = Flow(
            tfd.Independent(endless(np.full(2, 0.5), np.ones(2)), 1), tfb.Shift(np.array(0.5))
        )
        with pytest.raises(ValueError, match="`mode` must have a densest event"):
            flow.mode()
    endless = tfd.Independent(tfd.Gamma(np.full(2, 0.5), np.ones(2)), 1)
    with pytest.raises(ValueError, match="`mode` must have a densest event"):
        Flow(endless, tfb.Chain([curved(2), tfb.Scale(np.array(2.0))])).mode()
    flow = flows.real_nvp(2, layers=2, hidden_units=(8,))
    with pytest.raises(ValueError, match=r"outside of a `tf\.function`"):
        tf.function(flow.mode)()
    with pytest.raises(ValueError, match="`starts` must be a positive integer"):
        flow.mode(starts=0)
    with pytest.raises(ValueError, match="`context` was given"):
        flow.mode([1.0])
    with pytest.raises(NotImplementedError, match="vectors as events"):
        Flow(tfd.Normal(0.0, 1.0), tfb.Exp()).mode()
