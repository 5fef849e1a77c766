"""The bounds of `SumOfSquares`: whatever its parameters are, far from the data it is a line."""

import numpy as np
import pytest
import tensorflow as tf

from tfp_flows.bijectors.transformers import SumOfSquares


@pytest.mark.parametrize("spread", [0.0, 1.0, 100.0, 1e6])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_slopes_are_bounded(spread, dtype):
    squares = SumOfSquares(polynomials=2, degree=4, bound=3.0, max_mean_slope=10.0)
    rng = np.random.default_rng(0)
    parameters = rng.normal(0, spread, (1, squares.parameter_count, 50))
    parameters[:, -1] = 0.0
    parameters = tf.constant(parameters, dtype)
    x = np.concatenate(
        [np.linspace(-3, 3, 201), np.geomspace(3, 1e6, 20), -np.geomspace(3, 1e6, 20)]
    )
    y, log_det = squares.forward(tf.constant(x[:, None], dtype), parameters)
    assert np.exp(log_det).min() >= 0.999e-3
    assert np.exp(log_det).max() <= 1 + 10 * 5**2
    # The mean slope over the interval.
    ends = np.asarray(y)[[0, 200]]
    assert (ends[1] - ends[0] <= 6.0001 * 10).all()
    far = np.abs(x) > 1e5
    np.testing.assert_allclose(log_det.numpy()[far], 0.0, atol=1e-5)
    np.testing.assert_allclose(y.numpy()[far], (x[:, None] + 0 * y)[far], rtol=0.01)


def test_value_and_slope_are_continuous_at_the_bound():
    squares = SumOfSquares(bound=3.0)
    parameters = np.random.default_rng(0).normal(size=(1, squares.parameter_count, 4))
    for end in (3.0, -3.0):
        x = tf.constant([[end * (1 - 1e-9)], [end * (1 + 1e-9)]], "float64")
        for inside, outside in squares.forward(x, tf.constant(parameters)):
            np.testing.assert_allclose(inside, outside, atol=1e-6)


def test_the_largest_mean_slope_is_above_1():
    with pytest.raises(ValueError, match="`max_mean_slope` must be above 1"):
        SumOfSquares(max_mean_slope=1.0)


def test_a_config_from_before_the_bounds_is_refused():
    """Its weights would load, and give another density."""
    config = SumOfSquares(3, 4).get_config()
    assert SumOfSquares.from_config(config) == SumOfSquares(3, 4)
    del config["max_mean_slope"]
    with pytest.raises(ValueError, match="another density: train it again"):
        SumOfSquares.from_config(config)
