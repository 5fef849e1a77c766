"""The rational-quadratic spline: its kernel is the plain formula, with its gradient."""

import numpy as np
import pytest
import tensorflow as tf
from cases import BOUND
from helpers import normal
from rational_quadratic_oracle import interval

from tfp_flows import bijectors, flows

transformers = t = bijectors.transformers


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_spline_at_knots_and_bound(dtype):
    """A fresh spline has even knots: values, slopes and gradients are those of the identity."""
    spline = t.RationalQuadraticSpline(bins=8, bound=4.0)
    knots = np.arange(-4.0, 4.5)
    number = np.dtype(dtype).type
    points = np.concatenate([f(knots.astype(dtype)) for f in (lambda k: k, *_steps(number))])[
        :, None
    ]
    parameters = tf.zeros([1, spline.parameter_count, 1], dtype)
    for direction in (spline.forward, spline.inverse):
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            y, log_det = direction(tf.constant(points), parameters)
        tolerance = 10 * np.finfo(dtype).eps
        np.testing.assert_allclose(y, points, atol=4 * tolerance)
        np.testing.assert_allclose(log_det, np.zeros_like(points), atol=tolerance)
        assert np.isfinite(tape.gradient(y, parameters)).all()


def _steps(number: type):
    return (
        lambda k: np.nextafter(k, number(np.inf), dtype=number),
        lambda k: np.nextafter(k, number(-np.inf), dtype=number),
    )


def test_spline_is_monotone_and_the_identity_outside():
    spline = t.RationalQuadraticSpline(bins=6, bound=BOUND)
    rng = np.random.default_rng(0)
    parameters = tf.constant(rng.normal(0, 3, (1, spline.parameter_count, 1)))
    x = np.linspace(-2 * BOUND, 2 * BOUND, 2001)[:, None]
    y, log_det = (np.asarray(v) for v in spline.forward(tf.constant(x), parameters))
    assert (np.diff(y[:, 0]) > 0).all()
    outside = np.abs(x) >= BOUND
    np.testing.assert_array_equal(y[outside], x[outside])
    np.testing.assert_array_equal(log_det[outside], 0.0)
    assert (np.abs(y[~outside]) < BOUND).all() and np.abs(y - x)[~outside].max() > 0.1
    # The slope goes to 1 at the bound, where the identity takes over.
    edge = tf.constant([[BOUND - 1e-9], [1e-9 - BOUND]], tf.float64)
    np.testing.assert_allclose(spline.forward(edge, parameters)[1], 0.0, atol=1e-6)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("direction", ["forward", "inverse"])
@pytest.mark.parametrize("bins", [1, 2, 8])
def test_the_spline_is_the_plain_formula_with_its_gradient(bins, direction, mode):
    spline = transformers.RationalQuadraticSpline(bins=bins, bound=3.0)
    x = tf.constant(normal(50, 4, dtype="float64", scale=2.0))
    parameters = tf.constant(normal(50, 3 * bins - 1, 4, seed=1, dtype="float64", scale=2.0))
    upstream = normal(2, 50, 4, seed=2, dtype="float64")

    def plain(x, parameters):
        return interval(spline, x, parameters, inverse=direction == "inverse")

    def with_gradients(function):
        with tf.GradientTape() as tape:
            tape.watch([x, parameters])
            y, log_det = function(x, parameters)
        sources = [x, parameters]
        return y, log_det, *tape.gradient([y, log_det], sources, list(map(tf.constant, upstream)))

    fast = getattr(spline, direction)
    fast = tf.function(fast) if mode == "graph" else fast
    assert (np.abs(x) > 3).any() and (np.abs(x) < 3).any()
    for found, expected in zip(with_gradients(fast), with_gradients(plain), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("rows", "known"), [(None, 100), (100, None)])
def test_gradients_may_know_more_or_less_of_their_shape(rows, known):
    spline = transformers.RationalQuadraticSpline(bins=4)
    x, parameters = tf.constant(normal(100)), tf.constant(normal(11, 100, seed=1))
    upstream = tf.constant(normal(100, seed=2))

    def gradients(x, parameters, upstream):
        with tf.GradientTape() as tape:
            tape.watch([x, parameters])
            y, _ = spline.inverse(x, parameters)
        return tape.gradient(y, [x, parameters], upstream)

    shapes = [rows], [11, rows], [known]
    signature = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
    found = tf.function(gradients, input_signature=signature)(x, parameters, upstream)
    for a, b in zip(found, gradients(x, parameters, upstream), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_parameters_may_be_shared_by_many_values():
    spline = transformers.RationalQuadraticSpline()
    x, parameters = normal(5, 4), normal(1, spline.parameter_count, 4)
    each = np.repeat(parameters, 5, axis=0)
    for found, expected in zip(
        spline.forward(tf.constant(x), tf.constant(parameters)),
        spline.forward(tf.constant(x), tf.constant(each)),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("make", [flows.neural_spline, flows.autoregressive_spline])
def test_splines_of_any_number_of_rows_share_what_is_compiled(make):
    flow = make(3, layers=2, hidden_units=(8,), dtype="float64", seed=0)
    for i, variable in enumerate(flow.trainable_variables):
        variable.assign_add(normal(*variable.shape, seed=i, dtype="float64", scale=0.2))

    def with_gradients(x):
        with tf.GradientTape() as tape:
            log_prob = flow.log_prob(x)
        return log_prob, *tape.gradient(log_prob, flow.trainable_variables)

    signature = [tf.TensorSpec([None, 3], tf.float64)]
    function = tf.function(with_gradients, input_signature=signature)
    for rows in (1, 90, 130):
        x = normal(rows, 3, dtype="float64")
        for found, expected in zip(function(x), with_gradients(x), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
