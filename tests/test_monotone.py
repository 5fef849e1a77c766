"""Transformers without a closed inverse, the root finder behind them, and `Inverse`."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tfp_flows import serialization
from tfp_flows.bijectors.transformers.affine import Affine
from tfp_flows.bijectors.transformers.integral import UnconstrainedMonotonic
from tfp_flows.bijectors.transformers.inverse import Inverse
from tfp_flows.bijectors.transformers.numerical import numerical_inverse
from tfp_flows.bijectors.transformers.polynomials import Bernstein, SumOfSquares
from tfp_flows.bijectors.transformers.sigmoidal import (
    DeepDenseSigmoidal,
    DeepSigmoidal,
    MixtureOfLogistics,
)

TRANSFORMERS = {
    "DeepSigmoidal": DeepSigmoidal(components=4),
    "DeepDenseSigmoidal": DeepDenseSigmoidal(components=3, layers=2),
    "MixtureOfLogistics": MixtureOfLogistics(components=4),
    "Bernstein": Bernstein(degree=8, bound=3.0),
    "SumOfSquares": SumOfSquares(polynomials=2, degree=3, bound=3.0),
    "UnconstrainedMonotonic": UnconstrainedMonotonic(hidden_units=4, bound=3.0),
}
every = pytest.mark.parametrize("transformer", TRANSFORMERS.values(), ids=TRANSFORMERS)


def random_parameters(transformer, units=6, *, sd=0.5, dtype="float64"):
    rng = np.random.default_rng(0)
    return tf.constant(rng.normal(0, sd, (1, transformer.parameter_count, units)), dtype)


# The root finder.


@every
@pytest.mark.parametrize("parameter_scale, scale", [(0.5, 1e9), (1e5, 1e5)])
def test_far_out_inverses_are_as_good_as_the_dtype(transformer, parameter_scale, scale):
    """Where y - 1 is y, and where what rounds to 0 would be a long step on flat ground."""
    parameters = random_parameters(transformer, 400, sd=parameter_scale, dtype="float32")
    y = tf.constant(scale * np.random.default_rng(1).normal(size=(1, 400)), "float32")
    y, _ = transformer.forward(y, parameters)
    finite = np.isfinite(y[0])
    y, parameters = (tf.constant(part.numpy()[..., finite]) for part in (y, parameters))
    x, _ = transformer.inverse(y, parameters)
    exact, _ = transformer.inverse(*(tf.cast(part, "float64") for part in (y, parameters)))
    back, _ = transformer.forward(x, parameters)
    # Both are right where the map is steep, or flat.
    near = np.abs(x.numpy() - exact) <= 1e-3 * (1 + np.abs(exact))
    assert np.all(near | (np.abs(back - y) <= 1e-3 * (1 + np.abs(y))))


@every
def test_gradients_of_the_inverse_are_implicit(transformer):
    parameters = random_parameters(transformer)
    inverse = tf.function(transformer.inverse)
    y = tf.constant(np.random.default_rng(1).normal(size=(5, 6)))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([y, parameters])
        x, log_det = inverse(y, parameters)
        total = tf.reduce_sum(x * x) + tf.reduce_sum(log_det)
    log_slope = transformer.forward(x, parameters)[1]
    np.testing.assert_allclose(tape.gradient(x, y), np.exp(-log_slope), rtol=1e-10)
    np.testing.assert_allclose(log_det, -log_slope, rtol=1e-12)
    # The same along one direction of all inputs, by central differences.
    rng = np.random.default_rng(2)
    along_y, along_p = rng.normal(size=y.shape), rng.normal(size=parameters.shape)

    def difference(step):
        values = []
        for sign in (1, -1):
            x, log_det = inverse(y + sign * step * along_y, parameters + sign * step * along_p)
            values.append(tf.reduce_sum(x * x) + tf.reduce_sum(log_det))
        return (values[0] - values[1]) / (2 * step)

    expected = (4 * difference(0.5e-5) - difference(1e-5)) / 3  # Without the error of order h².
    by_y, by_p = tape.gradient(total, [y, parameters])
    found = tf.reduce_sum(by_y * along_y) + tf.reduce_sum(by_p * along_p)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bracket_widens(dtype):
    """Roots far from `y`: a shift of 50, slopes from exp(-2) to exp(2), y up to 1e4."""
    affine = Affine(max_log_scale=10.0)
    shifts, scales = np.meshgrid([-50.0, 0.0, 50.0], [-2.0, 0.0, 2.0])
    parameters = tf.constant(np.stack([scales.ravel(), shifts.ravel()])[None], dtype)
    y = tf.constant(np.repeat([[-1e4], [-1.0], [0.0], [1e4]], 9, 1), dtype)
    x, log_det = numerical_inverse(affine.forward, y, parameters)
    expected, expected_log_det = affine.inverse(y, parameters)
    tolerance = 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(x, expected, rtol=tolerance, atol=50 * tolerance)
    np.testing.assert_allclose(log_det, expected_log_det, rtol=tolerance)


@every
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inverse_is_accurate_to_the_dtype(transformer, dtype):
    parameters = random_parameters(transformer, sd=1.0, dtype=dtype).numpy()
    if not isinstance(transformer, Bernstein | DeepSigmoidal | DeepDenseSigmoidal):
        parameters[:, -1] += 50.0  # The shift of all others.
    y = tf.constant(np.repeat([[-1e4], [-2.9], [-1.0], [0.0], [0.5], [1e4]], 6, 1), dtype)
    x, _ = transformer.inverse(y, tf.constant(parameters))
    again, _ = transformer.forward(x, tf.constant(parameters))
    tolerance = 200 * np.finfo(dtype).eps
    np.testing.assert_allclose(again, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("transformer", "jit"),
    [*((transformer, False) for transformer in TRANSFORMERS.values()), (SumOfSquares(), True)],
)
def test_missing_values_do_not_hang_the_inverse(transformer, jit):
    parameters = random_parameters(transformer, units=4)
    y = tf.constant([[0.5, np.nan, 0.5, np.inf], [0.5, 0.5, np.nan, -np.inf]], tf.float64)
    x, log_det = tf.function(transformer.inverse, jit_compile=jit)(y, parameters)
    missing = np.isnan(y)
    assert np.isnan(x.numpy()[missing]).all() and np.isnan(log_det.numpy()[missing]).all()
    finite = np.isfinite(y)
    assert np.isfinite(x.numpy()[finite]).all() and np.isfinite(log_det.numpy()[finite]).all()
    x, log_det = transformer.inverse(y[:, :1], parameters[..., :1] * np.nan)
    assert np.isnan(x).all() and np.isnan(log_det).all()


# What all families have in common.


@every
def test_increases_with_the_slope_it_states(transformer):
    """With strong parameters too. A grid's mean slope is that stated at its centre, nearly."""
    parameters = random_parameters(transformer, units=20, sd=2.0)
    x = tf.constant(np.repeat(np.linspace(-6, 6, 2401)[:, None], 20, 1))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y, log_det = transformer.forward(x, parameters)
    assert (np.diff(y, axis=0) > 0).all()
    # The sum that stands for an integral has an error of its own.
    tolerance = 1e-4 if isinstance(transformer, UnconstrainedMonotonic) else 1e-9
    np.testing.assert_allclose(np.log(tape.gradient(y, x)), log_det, atol=tolerance)


@every
def test_starts_as_the_identity_and_away_from_a_saddle(transformer):
    x = tf.constant(np.random.default_rng(0).normal(size=(50, 1)))
    parameters = tf.zeros([1, transformer.parameter_count, 1], "float64")
    for direction in (transformer.forward, transformer.inverse):
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            y, log_det = direction(x, parameters)
            loss = tf.reduce_mean(0.5 * y**2 - log_det)
        np.testing.assert_allclose(y, x, atol=1e-12)
        np.testing.assert_allclose(log_det, 0 * x, atol=1e-12)
    gradient = tape.gradient(loss, parameters)[0, :, 0].numpy()
    # Weights and places of hidden units wait for the units' output weights, which start at 0.
    waiting = 2 * getattr(transformer, "hidden_units", 0)
    assert (gradient[waiting:] != 0).all()
    # No two parameters do the same: equal ones would stay equal.
    assert len(np.unique(np.round(gradient[waiting:], 12))) == len(gradient) - waiting


@every
@pytest.mark.parametrize("sign", [1, -1])
def test_far_out_the_map_is_a_line(transformer, sign):
    """Finite with a finite gradient at 1e4 in float32; two steps of equal size are equal."""
    parameters = random_parameters(transformer, dtype="float32")
    x = sign * tf.constant([[1.0e4], [1.1e4], [1.2e4]]) * tf.ones([1, 6])
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        y, log_det = transformer.forward(x, parameters)
        total = tf.reduce_sum(y) + tf.reduce_sum(log_det)
    steps = np.diff(y, axis=0)
    np.testing.assert_allclose(steps[0], steps[1], rtol=1e-4)
    np.testing.assert_allclose(sign * steps[0] / 1e3, np.exp(log_det[0]), rtol=5e-3)
    assert np.isfinite(tape.gradient(total, parameters)).all()


# Each family, against figures worked out by hand.


def logit(p):
    return np.log(p) - np.log1p(-p)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def column(*values):
    return tf.constant(values, "float64")[None, :, None]


@every
def test_far_out_log_dets_keep_the_digits_of_the_dtype(transformer):
    """Those of sigmoids are differences of logarithms near -1e6, with digits of 0.06."""
    x = np.array([-1e6, -1e4, -1e2, 0.3, 1e2, 1e4, 1e6])[:, None] * np.ones(6)
    parameters = random_parameters(transformer, dtype="float32")
    found, exact = (
        transformer.forward(tf.constant(x, dtype), tf.cast(parameters, dtype))[1]
        for dtype in ("float32", "float64")
    )
    np.testing.assert_allclose(found, exact, atol=1e-5)


def test_deep_sigmoidal_by_hand():
    # Slopes 2 and 1/2, shifts 1 and 0 beside the fixed -1/2 and 1/2, weights 3/4 and 1/4.
    parameters = column(np.log(2), -np.log(2), 1.0, 0.0, np.log(3), 0.0)
    sum_of_sigmoids = DeepSigmoidal(components=2, max_log_slope=1e6, min_slope=0.01)
    f = logit(0.75 * sigmoid(2 * 0.3 + 0.5) + 0.25 * sigmoid(0.3 / 2 + 0.5))
    start = logit(0.5 * sigmoid(0.3 - 0.5) + 0.5 * sigmoid(0.3 + 0.5))
    y, _ = sum_of_sigmoids.forward(tf.constant([[0.3]], tf.float64), parameters)
    np.testing.assert_allclose(y, [[0.3 + 0.99 * (f - start)]], rtol=1e-9)


def test_dense_sigmoidal_of_one_layer_is_deep_sigmoidal():
    one, other = DeepDenseSigmoidal(components=4, layers=1), DeepSigmoidal(components=4)
    parameters = random_parameters(one, sd=1.0)
    x = tf.constant(np.random.default_rng(1).normal(size=(5, 6)))
    for found, expected in zip(
        one.forward(x, parameters), other.forward(x, parameters), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_dense_sigmoidal_by_hand():
    dense = DeepDenseSigmoidal(components=2, layers=2, max_log_slope=1e6, min_slope=0.01)
    values = np.random.default_rng(0).normal(size=dense.parameter_count)

    def network(x, values):
        a, b, mix, inner, a2, b2, mix2 = np.split(values, [2, 4, 8, 12, 14, 16])
        spread = np.array([-0.5, 0.5])
        # The fixed logits of W: cos(π i (j + 1/2) / 2).
        rows = np.array([[1, 1], [np.sqrt(0.5), -np.sqrt(0.5)]])
        mix = np.exp(mix.reshape(2, 2) + rows)
        w = mix / mix.sum(1, keepdims=True)
        u = np.exp(inner.reshape(2, 2))
        u /= u.sum(1, keepdims=True)
        h = logit(w @ sigmoid(np.exp(a) * x + b + spread))
        w2 = np.exp(mix2) / np.exp(mix2).sum()
        return logit(w2 @ sigmoid(np.exp(a2) * (u @ h) + b2 + spread))

    y, _ = dense.forward(tf.constant([[0.3]], tf.float64), column(*values))
    expected = 0.3 + 0.99 * (network(0.3, values) - network(0.3, 0 * values))
    np.testing.assert_allclose(y, [[expected]], rtol=1e-9)


def test_mixture_of_logistics_by_hand():
    # Scales 2 and 1/2, locations 1 - 1/2 and 0 + 1/2, weights 3/4 and 1/4, then 3 y - 1.
    parameters = column(np.log(2), -np.log(2), 1.0, 0.0, np.log(3), 0.0, np.log(3), -1.0)
    mixture = MixtureOfLogistics(components=2, max_log_slope=1e6, min_slope=0.01)
    f = logit(0.75 * sigmoid((0.3 - 0.5) / 2) + 0.25 * sigmoid((0.3 - 0.5) * 2))
    start = logit(0.5 * sigmoid(0.3 + 0.5) + 0.5 * sigmoid(0.3 - 0.5))
    y, _ = mixture.forward(tf.constant([[0.3]], tf.float64), parameters)
    np.testing.assert_allclose(y, [[3 * (0.3 + 0.99 * (f - start)) - 1]], rtol=1e-9)


def test_bernstein_by_hand():
    # Inner increments 3/4 and 1/4 of their sum: coefficients -2, -1, 0.5, 1, 2 on [-2, 2].
    polynomial = Bernstein(degree=4, bound=2.0, min_slope=1e-12)
    x = tf.constant([[0.0], [-2.0], [2.0], [7.0]], tf.float64)
    y, log_det = polynomial.forward(x, column(np.log(3), 0.0))
    np.testing.assert_allclose(y[0], [(-2 + 4 * -1 + 6 * 0.5 + 4 * 1 + 2) / 16], rtol=1e-9)
    np.testing.assert_allclose(log_det[0], np.log((1 + 3 * 1.5 + 3 * 0.5 + 1) / 8), atol=1e-9)
    # At the bound and beyond, the identity.
    np.testing.assert_array_equal(y[1:], x[1:])
    np.testing.assert_array_equal(log_det[1:], np.zeros([3, 1]))


def test_sum_of_squares_by_hand():
    # One square, of 1 + sqrt(3) a u = 1 + u/2 with u = x / 2: its integral is u + u²/2 + u³/12.
    squares = SumOfSquares(polynomials=1, degree=1, bound=2.0, min_slope=1e-12, max_mean_slope=20.0)
    a = 1 / (2 * np.sqrt(3))
    parameters = column(0.0, a / 1.5, 3.0)  # The factors are 1/2 and 3/2.
    k = 20 / (19 + 1 + a**2)
    x = tf.constant([[1.0], [-1.0], [2.0], [4.0]], tf.float64)
    y, log_det = squares.forward(x, parameters)
    inside = [3 + 2 * k * (u + u**2 / 2 + u**3 / 12) for u in (0.5, -0.5, 1.0)]
    end = k * 1.5**2
    # Beyond the bound by as much as the bound: half of `end - 1` over the way, a quarter there.
    np.testing.assert_allclose(y[:, 0], [*inside, inside[-1] + 2 + (end - 1)], rtol=1e-9)
    slopes = [k * 1.25**2, k * 0.75**2, end, 1 + (end - 1) / 4]
    np.testing.assert_allclose(log_det[:, 0], np.log(slopes), rtol=1e-9)


def test_unconstrained_monotonic_by_hand():
    # One unit, v tanh(w x / 2) with w = 48 / 12: for a wide bound on the log-slope,
    # g = exp(r + v tanh), whose integral a fine sum over midpoints gives.
    integral = UnconstrainedMonotonic(hidden_units=1, nodes=48, bound=2.0, max_log_slope=1e6)
    parameters = column(0.0, 0.0, 0.7, -0.2, 3.0)

    def g(t):
        return np.exp(-0.2 + 0.7 * np.tanh(48 / 12 * t / 2))

    x = tf.constant([[1.5], [-1.0], [4.0]], tf.float64)
    y, log_det = integral.forward(x, parameters)
    middles = (np.arange(100_000) + 0.5) / 100_000
    expected = [3 + end * g(end * middles).mean() for end in (1.5, -1.0, 2.0)]
    expected[2] += 2 * g(2.0)
    np.testing.assert_allclose(y[:, 0], expected, rtol=1e-9)
    np.testing.assert_allclose(log_det[:, 0], np.log(g(np.array([1.5, -1.0, 2.0]))), rtol=1e-9)


# Inverse, and arguments.


def test_inverse_swaps_the_directions():
    affine = Affine()
    inverse, parameters = Inverse(affine), random_parameters(affine)
    x = tf.constant(np.random.default_rng(1).normal(size=(5, 6)))
    for one, other in ((inverse.forward, affine.inverse), (inverse.inverse, affine.forward)):
        for found, expected in zip(one(x, parameters), other(x, parameters), strict=True):
            np.testing.assert_array_equal(found, expected)
    assert inverse.parameter_count == 2


@every
def test_configs_round_trip(transformer):
    for one in (transformer, Inverse(transformer)):
        assert type(one).from_config(one.get_config()) == one
        assert serialization.deserialize(serialization.serialize(one)) == one


@pytest.mark.parametrize(
    ("transformer", "name", "value"),
    [
        (transformer, field.name, value)
        for transformer in TRANSFORMERS.values()
        for field in dataclasses.fields(transformer)
        for value in (0, -1.0)
    ]
    + [(TRANSFORMERS[name], "min_slope", 1.0) for name in ("DeepSigmoidal", "Bernstein")]
    + [(TRANSFORMERS["Bernstein"], "degree", degree) for degree in (3, 101)],
)
def test_arguments_are_checked(transformer, name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be .*Received: {name}={value}"):
        dataclasses.replace(transformer, **{name: value})


def test_inverse_needs_a_transformer():
    with pytest.raises(TypeError, match=r"must be .*Received: transformer='affine'"):
        Inverse("affine")
