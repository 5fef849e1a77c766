"""The solver of ordinary differential equations: values, derivatives, rows by themselves."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import randomize

from tfp_flows import bijectors
from tfp_flows.ops.ode import integrate

tfd, tfb = tfp.distributions, tfp.bijectors

SOLVERS = {
    "rk4": {"steps": 100},
    "tsit5": {"steps": 40},
    "dopri5": {"rtol": 1e-10, "atol": 1e-10},
}


def linear(t, x, parameters):
    (matrix,) = parameters
    trace = tf.linalg.trace(matrix)
    return tf.matmul(x, matrix, transpose_b=True), tf.fill([tf.shape(x)[0], 1], trace)


def problem(dtype, seed=0):
    rng = np.random.default_rng(seed)
    x, matrix = rng.normal(size=(5, 3)), rng.normal(size=(3, 3))
    return tf.constant(x, dtype), tf.constant(matrix, dtype)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-4), ("float64", 1e-7)])
def test_linear_equation_against_the_matrix_exponential(solver, dtype, tolerance):
    x, matrix = problem(dtype)
    options = SOLVERS[solver] if dtype == "float64" or solver != "dopri5" else {}
    solve = tf.function(functools.partial(integrate, linear, solver=solver, **options))
    for start, end in ((0.0, 1.0), (1.0, 0.0)):
        found = solve(x, start, end, parameters=[matrix])
        expected = tf.matmul(x, tf.linalg.expm((end - start) * matrix), transpose_b=True)
        np.testing.assert_allclose(found.x, expected, rtol=tolerance, atol=tolerance)
        trace = (end - start) * tf.linalg.trace(matrix)
        np.testing.assert_allclose(found.integrals, np.full((5, 1), trace), atol=tolerance)


@pytest.mark.parametrize("solver", SOLVERS)
def test_gradients_are_those_of_the_steps(solver):
    x, matrix = problem("float64")
    few = {"steps": 5, "rtol": 1e-5, "atol": 1e-5}

    def value(x, matrix):
        found = integrate(linear, x, 0.0, 1.0, parameters=[matrix], solver=solver, **few)
        return tf.reduce_sum(found.x**3) + tf.reduce_sum(found.integrals)

    with tf.GradientTape() as tape:
        tape.watch([x, matrix])
        total = value(x, matrix)
    by_x, by_matrix = tape.gradient(total, [x, matrix])
    step = 1e-5
    for i, j in ((0, 0), (2, 1), (1, 2)):
        for gradient, shift in ((by_matrix, (0, step)), (by_x, (step, 0))):
            one = np.zeros((5, 3)), np.zeros((3, 3))
            one[0][i, j], one[1][i, j] = shift
            up, down = value(x + one[0], matrix + one[1]), value(x - one[0], matrix - one[1])
            # The steps of dopri5 move with the start, and count as constants.
            tolerance = 1e-3 if solver == "dopri5" else 1e-6
            np.testing.assert_allclose(gradient[i, j], (up - down) / (2 * step), rtol=tolerance)


@pytest.mark.parametrize("steps, jit", [(17, False), (40, True), (300, False)])
def test_long_ways_are_solved_segment_by_segment(steps, jit):
    """Of an equation that depends on the time, whose segments begin at other times."""

    def swinging(t, x, parameters):
        (rate,) = parameters
        return rate * tf.cos(3 * t) * x, tf.stack([3 * t**2 + 0 * x[:, 0], rate + 0 * x[:, 0]], -1)

    x, rate = tf.constant([[1.0, -2.0], [0.5, 3.0]], "float64"), tf.constant(0.7, "float64")

    @tf.function(jit_compile=jit)
    def solved(start, end):
        with tf.GradientTape() as tape:
            tape.watch([x, rate])
            found = integrate(swinging, x, start, end, parameters=[rate], steps=steps, rates=2)
            total = tf.reduce_sum(found.x)
        return found, tape.gradient(total, [x, rate])

    for start, end, sign in ((0.0, 1.0, 1), (1.0, 0.0, -1)):
        found, (by_x, by_rate) = solved(start, end)
        way = sign * np.sin(3) / 3
        y = x * np.exp(rate * way)
        np.testing.assert_allclose(found.x, y, rtol=1e-5)
        np.testing.assert_allclose(found.integrals, [[sign, sign * 0.7]] * 2, rtol=1e-5)
        np.testing.assert_allclose(by_x, np.full((2, 2), np.exp(rate * way)), rtol=1e-5)
        np.testing.assert_allclose(by_rate, tf.reduce_sum(y) * way, rtol=1e-5)
        np.testing.assert_array_equal(found.evaluations, [4 * steps] * 2)


def test_only_segments_are_solved_twice_more():
    """What a step computes is never kept: of 40 steps, 32 are two segments, and 8 remain."""
    calls = 0
    x, matrix = problem("float64")

    def counted(t, x, parameters):
        nonlocal calls
        calls += 1
        return linear(t, x, parameters)

    with tf.GradientTape() as tape:
        tape.watch(x)
        y = integrate(counted, x, 0.0, 1.0, parameters=[matrix], steps=40).x
    assert calls == 4 * 40
    tape.gradient(y, x)
    assert calls == 4 * (40 + 32 + 40)


@pytest.mark.parametrize("solver, jit", [("rk4", False), ("rk4", True), ("dopri5", False)])
def test_second_derivatives(solver, jit):
    x, matrix = problem("float64")
    options = {**SOLVERS[solver], "steps": 40}

    def solved(x, matrix):
        found = integrate(linear, x, 0.0, 1.0, parameters=[matrix], solver=solver, **options)
        return tf.reduce_sum(found.x**3) + tf.reduce_sum(found.integrals)

    def exact(x, matrix):
        y = tf.matmul(x, tf.linalg.expm(matrix), transpose_b=True)
        return tf.reduce_sum(y**3) + 5 * tf.linalg.trace(matrix)

    def curvature(of):
        with tf.GradientTape() as outer:
            outer.watch([x, matrix])
            with tf.GradientTape() as inner:
                inner.watch([x, matrix])
                total = of(x, matrix)
            gradients = inner.gradient(total, [x, matrix])
            total = tf.add_n([tf.reduce_sum(g**2) for g in gradients])
        return outer.gradient(total, [x, matrix])

    found = tf.function(curvature, jit_compile=jit)(solved)
    for one, other in zip(found, curvature(exact), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("solver", ["rk4", "dopri5"])
def test_rows_do_not_influence_each_other(solver):
    layer = bijectors.Continuous(2, (8,), solver=solver, seed=0)
    randomize(layer, stddev=1.0)
    solve = tf.function(layer._inverse_and_log_det)
    x = np.random.default_rng(0).normal(size=(6, 2)).astype("float32")
    other = np.concatenate([x[:1], 100 * x[1:] + 7])
    for one, two in zip(*map(solve, (x, other)), strict=True):
        np.testing.assert_array_equal(one[0], two[0])


def test_solver_agrees_with_that_of_tfp():
    layer = bijectors.Continuous(3, (8, 8), solver="dopri5", rtol=1e-9, atol=1e-9, dtype="float64")
    randomize(layer, stddev=0.4)
    x = tf.constant(np.random.default_rng(0).normal(size=(4, 3)))
    parameters = layer.dynamics.parameters(None)
    reference = tfp.math.ode.DormandPrince(rtol=1e-9, atol=1e-9).solve(
        lambda t, x: layer.dynamics.velocity(t, x, parameters), 0.0, x, solution_times=[1.0]
    )
    np.testing.assert_allclose(layer.forward(x), reference.states[-1], atol=1e-8)
    assert 7 < int(tf.reduce_max(layer.evaluations(x))) < 1000


def test_dopri5_that_does_not_arrive_says_so():
    def stiff(t, x, parameters):
        return -1e7 * (x - tf.sin(1e4 * t)[:, None] if t.shape.rank else -1e7 * x), x

    with pytest.raises(tf.errors.InvalidArgumentError, match="did not arrive in 20 steps"):
        integrate(stiff, tf.ones([2, 1]), 0.0, 1.0, solver="dopri5", max_steps=20)


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_rows_have_no_gradient_where_their_number_is_not_known(solver):
    """As of the last rows of an epoch, of which one of several devices may see none."""
    x, matrix = problem("float64")

    @tf.function(input_signature=[tf.TensorSpec([None, 3], "float64")])
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(matrix)
            found = integrate(linear, x, 0.0, 1.0, parameters=[matrix], solver=solver)
            total = tf.reduce_sum(found.x)
        return tape.gradient(total, matrix)

    np.testing.assert_array_equal(gradient(x[:0]), np.zeros((3, 3)))
    assert np.abs(gradient(x)).min() > 0
