"""Seeds: one clear error for those that are none, and equal draws for equal ones."""

import numpy as np
import pytest
import tensorflow as tf

from tfp_flows import bijectors, flows


@pytest.mark.parametrize("seed", [-1, 1.5, "a", True])
def test_a_seed_of_initial_values_is_an_integer_from_0_on(seed):
    affine = bijectors.transformers.Affine()
    makers = [
        lambda: flows.real_nvp(2, layers=1, seed=seed),
        lambda: flows.planar(2, layers=1, seed=seed),
        lambda: bijectors.Coupling(2, affine, (4,), seed=seed),
        lambda: bijectors.MaskedAutoregressive(2, affine, (4,), order="random", seed=seed),
        lambda: bijectors.Permutation(3, "random", seed=seed),
        lambda: bijectors.Householder(2, seed=seed),
        lambda: bijectors.Radial(2, seed=seed),
    ]
    for make in makers:
        with pytest.raises(ValueError, match="`seed` must be an integer from 0 on, or None"):
            make()


def test_a_seed_of_draws_is_any_integer():
    flow = flows.elementwise_spline(2)
    np.testing.assert_array_equal(flow.sample(3, seed=-1), flow.sample(3, seed=-1))
    assert not np.array_equal(flow.sample(3, seed=-1), flow.sample(3, seed=1))
    assert not np.array_equal(flow.sample(3, seed=2**40), flow.sample(3, seed=0))
    for seed in (5, 2**40 + 5, -5):
        of_tensor = flow.sample(3, seed=tf.constant(seed, tf.int64))
        np.testing.assert_array_equal(of_tensor, flow.sample(3, seed=seed))
    for seed in (1.5, "a", True):
        with pytest.raises(TypeError, match="`seed` must be an integer, a seed of TFP's"):
            flow.sample(3, seed=seed)
