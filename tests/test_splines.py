"""Polynomial and circular splines: what the battery does not see."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import Flow, bijectors
from tfp_flows.bijectors.transformers.circular import CircularSpline, wrap
from tfp_flows.bijectors.transformers.splines import CubicSpline, LinearSpline, QuadraticSpline

tfd = tfp.distributions
BOUND = 3.0
POLYNOMIAL = {
    cls.__name__: cls(bins=6, bound=BOUND) for cls in (LinearSpline, QuadraticSpline, CubicSpline)
}
SPLINES = {**POLYNOMIAL, "CircularSpline": CircularSpline(bins=6)}
SMOOTH = {name: SPLINES[name] for name in ("QuadraticSpline", "CubicSpline")}


def each(splines):
    return pytest.mark.parametrize("spline", splines.values(), ids=splines)


def strong(spline, rows=1, dtype="float64", seed=0):
    """Parameters far from those of the identity."""
    rng = np.random.default_rng(seed)
    return tf.constant(rng.normal(0, 3, (rows, spline.parameter_count, 1)).astype(dtype))


def column(*values):
    return tf.constant(np.reshape(values, [-1, 1]), tf.float64)


def raw(*values):
    """Parameters of one scalar."""
    return tf.constant(np.reshape(values, [1, -1, 1]), tf.float64)


def turns_apart(a, b):
    """Distance of angles."""
    return np.abs(np.remainder(np.asarray(a) - b + np.pi, 2 * np.pi) - np.pi)


# By hand. A minimum share next to nothing makes the softmax of log(a) the share a.


def test_linear_by_hand():
    spline = LinearSpline(bins=2, bound=1.0, min_bin=1e-12)
    parameters = raw(np.log(3.0), 0.0)  # Heights 3/2 and 1/2 of two bins of width 1.
    x = column(-1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
    y, log_det = spline.forward(x, parameters)
    np.testing.assert_allclose(y, column(-1.0, -0.25, 0.5, 0.75, 1.0, 2.0), atol=1e-9)
    # At both bounds the identity begins, and the slope jumps to 1.
    expected = np.log(column(1.0, 1.5, 0.5, 0.5, 1.0, 1.0))
    np.testing.assert_allclose(log_det, expected, atol=1e-9)
    np.testing.assert_allclose(spline.inverse(y, parameters)[0], x, atol=1e-9)


def test_quadratic_by_hand():
    spline = QuadraticSpline(bins=3, bound=1.5, min_bin=1e-12)
    # Three bins of width 1. Two hats of area 2 together: 3/2 and 1/2, which are their slopes too.
    parameters = raw(0.0, 0.0, 0.0, np.log(3.0), 0.0)
    x = column(-1.5, -0.5, 0.0, 0.5, 1.0, 1.5)
    y, log_det = spline.forward(x, parameters)
    # Trapezoids: bins of height 5/4, 1 and 3/4; in the middle of a bin, half of each is shaped so:
    middle = -0.25 + (1.5 + 1.0) / 2 / 2
    last = 0.75 + (0.5 + 0.75) / 2 / 2
    np.testing.assert_allclose(y, column(-1.5, -0.25, middle, 0.75, last, 1.5), atol=1e-9)
    slopes = column(1.0, 1.5, 1.0, 0.5, 0.75, 1.0)
    np.testing.assert_allclose(log_det, np.log(slopes), atol=1e-9)
    np.testing.assert_allclose(spline.inverse(y, parameters)[0], x, atol=1e-9)


def test_cubic_by_hand():
    spline = CubicSpline(bins=4, bound=2.0, min_bin=1e-12)
    # Four bins of width 1; wanted heights 1, 1/2, 3/2, 1 suit the outer bins, and stay.
    parameters = raw(0.0, 0.0, 0.0, 0.0, np.log(2.0), 0.0, np.log(3.0), np.log(2.0))
    x = column(-2.0, -1.0, -0.5, 0.0, 1.0, 2.0)
    y, log_det = spline.forward(x, parameters)
    # Steffen: means 3/4 and 5/4 at the outer of the inner knots; at 0 the mean is 1 and twice the
    # smaller neighbour is 1 as well.
    middle = -1.0 + (0.75 - 1.0) / 8 + 0.5 / 2  # Hermite: (d0 - d1) w/8 + h/2.
    np.testing.assert_allclose(y, column(-2.0, -1.0, middle, -0.5, 1.0, 2.0), atol=1e-9)
    slope = 1.5 * 0.5 - (0.75 + 1.0) / 4
    slopes = column(1.0, 0.75, slope, 1.0, 1.25, 1.0)
    np.testing.assert_allclose(log_det, np.log(slopes), atol=1e-9)
    np.testing.assert_allclose(spline.inverse(y, parameters)[0], x, atol=1e-9)


def test_cubic_limits_the_slopes_of_uneven_bins():
    spline = CubicSpline(bins=4, bound=2.0, min_bin=1e-12)
    # Wanted heights 1/2, 2, 1/2, 1 of bins of width 1. First and last become (1 + 2g)/3 = 2/3 and
    # 1; the other two share 7/3 as 4 to 1: 28/15 and 7/15.
    parameters = raw(0.0, 0.0, 0.0, 0.0, 0.0, np.log(4.0), 0.0, np.log(2.0))
    y, log_det = spline.forward(column(-1.0, 0.0, 1.0), parameters)
    np.testing.assert_allclose(y, column(-4 / 3, 8 / 15, 1.0), atol=1e-9)
    # The parabolas' slopes are 19/15, 7/6, 11/15: the second is above twice 7/15.
    np.testing.assert_allclose(log_det, np.log(column(19 / 15, 14 / 15, 11 / 15)), atol=1e-9)


def test_circular_by_hand():
    spline = CircularSpline(bins=2, min_bin=1e-12)
    # Widths (π/2, 3π/2), heights (3π/2, π/2); slope 1 at both knots; phase π.
    parameters = raw(0.0, np.log(3.0), np.log(3.0), 0.0, 0.0, 0.0, np.pi)
    # The spline takes the knots -π, -π/2 to -π, π/2, and the phase those to 0, -π/2. In the middle
    # of a bin the rise is half its height, as both slopes are equal.
    x = column(-np.pi, -np.pi / 2, -3 * np.pi / 4, np.pi / 4)
    y, log_det = spline.forward(x, parameters)
    expected = column(0.0, -np.pi / 2, np.pi - np.pi / 4, -np.pi / 4)
    np.testing.assert_allclose(y, expected, atol=1e-9)
    np.testing.assert_allclose(log_det[:2], np.zeros((2, 1)), atol=1e-9)
    # Log-det in the middle: s² (d1/4 + s/2 + d0/4) / q², with q = s + (2 - 2s)/4, s = 3 and 1/3.
    slopes = [s**2 * (1 + s) / 2 / ((1 + s) / 2) ** 2 for s in (3.0, 1 / 3)]
    np.testing.assert_allclose(log_det[2:], np.log(column(*slopes)), atol=1e-9)
    np.testing.assert_allclose(spline.inverse(y, parameters)[0], x, atol=1e-9)


# Monotone, onto, with slope 1 at the bound.


@each(POLYNOMIAL)
def test_monotone_and_the_identity_outside(spline):
    x = np.linspace(-1.5 * BOUND, 1.5 * BOUND, 1001)
    parameters = strong(spline, 200)[None]
    y, log_det = (v[..., 0].numpy() for v in spline.forward(x[:, None, None], parameters))
    assert y.shape == (1001, 200) and (np.diff(y, axis=0) > 0).all()
    outside = np.abs(x) >= BOUND
    np.testing.assert_array_equal(y[outside], np.repeat(x[outside, None], 200, 1))
    np.testing.assert_array_equal(log_det[outside], 0.0)
    assert (np.abs(y[~outside]) < BOUND).all()
    assert np.abs(y - x[:, None])[~outside].max(0).min() > 0.1


@each(SMOOTH)
def test_slope_is_one_at_the_bound(spline):
    parameters = strong(spline, 200)
    for edge in (BOUND - 1e-12, 1e-12 - BOUND):
        for direction in (spline.forward, spline.inverse):
            y, log_det = direction(tf.fill([200, 1], tf.constant(edge, tf.float64)), parameters)
            np.testing.assert_allclose(y, np.full((200, 1), edge), atol=1e-11)
            np.testing.assert_allclose(log_det, np.zeros((200, 1)), atol=1e-6)


@each(SMOOTH)
def test_slope_is_continuous(spline):
    """A grid step changes the slope by little, knots included."""
    x = np.linspace(-BOUND, BOUND, 200_001)[:, None]
    slope = np.exp(spline.forward(tf.constant(x), strong(spline))[1])
    assert slope.max() > 2 and np.abs(np.diff(slope, axis=0)).max() < 0.01 * slope.max()


# Circular.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_wrap(dtype):
    pi = np.dtype(dtype).type(np.pi)
    below, above = np.nextafter(pi, pi.dtype.type(0)), np.nextafter(pi, pi.dtype.type(4))
    inside = np.array([-pi, -below, -1e-30, 0.0, 1.5, below], dtype)
    np.testing.assert_array_equal(wrap(tf.constant(inside)), inside)
    rng = np.random.default_rng(0)
    edges = np.array([pi, above, -above, 3 * pi, -3 * pi, 4.0], dtype)
    for angles in (edges, rng.uniform(-1e4, 1e4, 100_000).astype(dtype)):
        x = tf.constant(angles)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = wrap(x)
        assert (y.numpy() >= -pi).all() and (y.numpy() < pi).all()
        tolerance = 8 * np.finfo(dtype).eps * np.abs(angles).max()
        assert turns_apart(np.float64(y), np.float64(angles)).max() < tolerance
        np.testing.assert_array_equal(tape.gradient(y, x), np.ones_like(angles))


def test_circular_is_continuous_and_periodic():
    spline = SPLINES["CircularSpline"]
    parameters = strong(spline, 50)[None]
    for direction in (spline.forward, spline.inverse):
        # Inside, at the ends of [-π, π), and where the phase carries over them.
        for x in (0.3, -np.pi, np.pi / 2):
            angles = tf.constant(x + np.array([-1e-10, 1e-10])[:, None, None], tf.float64)
            y, log_det = direction(angles, parameters)
            assert turns_apart(y[0], y[1]).max() < 1e-6
            np.testing.assert_allclose(log_det[0], log_det[1], atol=1e-4)
            again, log_det_again = direction(angles + 2 * np.pi, parameters)
            assert turns_apart(y, again).max() < 1e-9
            np.testing.assert_allclose(log_det, log_det_again, atol=1e-7)
            assert (np.abs(y) <= np.pi).all() and (y.numpy() < np.pi).all()


def test_circular_keeps_the_direction_and_covers_the_circle_once():
    spline = SPLINES["CircularSpline"]
    x = tf.constant(np.linspace(-np.pi, np.pi, 20_001)[:, None, None])
    y = spline.forward(x, strong(spline, 20)[None])[0].numpy()[..., 0]
    steps = np.remainder(np.diff(y, axis=0) + 1e-9, 2 * np.pi) - 1e-9
    assert (steps > 0).all()
    np.testing.assert_allclose(steps.sum(0), 2 * np.pi, rtol=1e-9)


def test_circular_phase_moves_everything():
    spline = SPLINES["CircularSpline"]
    shift = np.zeros((1, spline.parameter_count, 1))
    shift[:, -1] = 100.0
    x = column(-3.0, 0.0, 3.0)
    parameters = tf.constant(shift)
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        y, log_det = spline.forward(x, parameters)
    assert turns_apart(y, x + 100.0).max() < 1e-12
    np.testing.assert_allclose(log_det, np.zeros((3, 1)), atol=1e-12)
    assert tape.gradient(y, parameters)[0, -1, 0] == 3.0


def test_circular_flow_integrates_to_one_turn():
    layer = bijectors.Elementwise(1, SPLINES["CircularSpline"], dtype="float64")
    layer.trainable_variables[0].assign(strong(layer.transformer)[0] / 3)
    flow = Flow(tfd.Independent(tfd.Uniform([-np.pi], np.float64([np.pi])), 1), layer)
    edges = np.linspace(-np.pi, np.pi, 50_001)
    density = flow.prob((edges[1:] + edges[:-1])[:, None] / 2).numpy()
    assert density.max() > 2 * density.min()
    np.testing.assert_allclose(density.mean() * 2 * np.pi, 1.0, atol=1e-4)
    draws = flow.sample(1000, seed=0).numpy()
    assert np.isfinite(flow.log_prob(draws)).all()
    assert (draws >= -np.pi).all() and (draws < np.pi).all()


# Inverses.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@each(SPLINES)
def test_round_trips_with_strong_parameters(spline, dtype):
    rng = np.random.default_rng(1)
    half = getattr(spline, "bound", np.pi)
    x = rng.uniform(-half, half, (20_000, 1)).astype(dtype)
    parameters = strong(spline, len(x), dtype)
    y, log_det = spline.forward(tf.constant(x), parameters)
    back, inverse_log_det = spline.inverse(y, parameters)
    again, _ = spline.forward(back, parameters)
    # Where the map is flat, x is known no better than the rounding of y over the slope, and the
    # rational-quadratic inverse loses some digits more.
    y_loss = (300 if isinstance(spline, CircularSpline) else 4) * 8 * np.finfo(dtype).eps
    assert turns_apart(again, y).max() < y_loss
    assert (turns_apart(back, x) * np.exp(np.minimum(log_det, 0))).max() < y_loss
    error = np.abs(log_det + inverse_log_det)
    assert np.quantile(error, 0.99) < {"float32": 1e-2, "float64": 1e-9}[dtype]


@each(SPLINES)
def test_gradients_of_the_inverse_are_those_of_the_forward(spline):
    """With `x = f⁻¹(y; p)`: `dx/dy = 1 / f'` and `dx/dp = -(∂f/∂p) / f'`, log-det alike."""
    x = tf.constant(np.random.default_rng(2).uniform(-2.5, 2.5, (8, 1)))
    parameters = strong(spline, 8) / 3

    def derivatives(direction, value):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([value, parameters])
            result, log_det = direction(value, parameters)
        # Rows do not depend on each other, so that gradients of sums are those of the rows.
        return result, [
            [g.numpy() if g is not None else 0.0 for g in tape.gradient(out, [value, parameters])]
            for out in (result, log_det)
        ]

    y, ((slope, by_p), (curve, log_by_p)) = derivatives(spline.forward, x)
    back, ((inverse_slope, inverse_by_p), (inverse_curve, inverse_log_by_p)) = derivatives(
        spline.inverse, tf.identity(y)
    )
    np.testing.assert_allclose(back, x, atol=1e-12)
    np.testing.assert_allclose(inverse_slope, 1 / slope, rtol=1e-9)
    x_by_p = -by_p / slope[..., None]
    np.testing.assert_allclose(inverse_by_p, x_by_p, atol=1e-9)
    np.testing.assert_allclose(inverse_curve, -curve / slope, rtol=1e-7, atol=1e-9)
    expected = -log_by_p - np.reshape(curve, [-1, 1, 1]) * x_by_p
    np.testing.assert_allclose(inverse_log_by_p, expected, rtol=1e-7, atol=1e-9)


@each(SPLINES)
def test_fresh_splines_are_the_identity_and_every_parameter_learns(spline):
    x = tf.constant(np.random.default_rng(3).uniform(-2.9, 2.9, (50, 1)))
    for direction in (spline.forward, spline.inverse):
        parameters = tf.zeros([1, spline.parameter_count, 1], tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            y, log_det = direction(x, parameters)
            total = tf.reduce_sum(y * tf.sin(3 * x))
        np.testing.assert_allclose(y, x, atol=1e-12)
        np.testing.assert_allclose(log_det, np.zeros_like(x), atol=1e-12)
        assert np.abs(tape.gradient(total, parameters)).min() > 1e-3


def test_cubic_inverse_with_slopes_far_apart():
    """Newton alone would leave the bin; the bracket keeps it, to the accuracy of the dtype."""
    spline = CubicSpline(bins=4, bound=1.0, min_bin=1e-8)
    # Widths 0.9, 0.9, 0.1, 0.1; the second bin is flat, and so the first one ends flat, at -0.1.
    parameters = raw(*np.log([0.45, 0.45, 0.05, 0.05]), -20.0, -20.0, 0.0, -20.0)
    x = column(*(-0.1 - np.logspace(-6, -0.1, 200)))
    y, log_det = spline.forward(x, parameters)
    assert log_det.numpy().min() < np.log(1e-6) and log_det.numpy().max() > np.log(0.5)
    again, _ = spline.forward(spline.inverse(y, parameters)[0], parameters)
    np.testing.assert_allclose(again, y, rtol=0, atol=1e-15)


BAD = {
    "linear bins": (lambda: LinearSpline(bins=1), ValueError, "`bins`.*at least 2.*bins=1"),
    "quadratic bins": (lambda: QuadraticSpline(bins=2), ValueError, "`bins`.*at least 3"),
    "cubic bins": (lambda: CubicSpline(bins=2), ValueError, "`bins`.*at least 3"),
    "circular bins": (lambda: CircularSpline(bins=1), ValueError, "`bins`.*at least 2"),
    "bins type": (lambda: CubicSpline(bins=4.0), TypeError, "`bins`.*integer.*bins=4.0"),
    "bound": (lambda: LinearSpline(bound=-1.0), ValueError, "`bound`.*positive.*bound=-1.0"),
    "min_bin": (lambda: QuadraticSpline(min_bin=0.2), ValueError, "`min_bin`.*min_bin=0.2, bins=8"),
    "min_slope": (lambda: CircularSpline(min_slope=2.0), ValueError, "`min_slope`.*min_slope=2.0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name):
    make, error, match = BAD[name]
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_roots_of_cubics_are_exact_in_xla_too(jit_compile):
    spline = bijectors.transformers.CubicSpline(bins=5)
    rng = np.random.default_rng(0)
    x = tf.constant(rng.uniform(-2, 2, (2000, 3)))
    parameters = tf.constant(rng.normal(size=(2000, spline.parameter_count, 3)))
    y, log_det = spline.forward(x, parameters)
    inverse = tf.function(spline.inverse, jit_compile=jit_compile)
    for found, expected in zip(inverse(y, parameters), (x, -log_det), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)
