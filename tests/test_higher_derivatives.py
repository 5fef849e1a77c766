"""Second and higher derivatives, forward mode and vectorized maps: right in every mode."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from helpers import normal
from rational_quadratic_oracle import circle, interval

from tfp_flows import bijectors, flows
from tfp_flows.distributions import reversible

transformers = bijectors.transformers
FAMILIES = ["real_nvp", "neural_spline", "circular_spline", "maf", "autoregressive_spline"]
DIRECTIONS = ["log_prob", "forward"]
X = tf.constant(normal(3, 2, dtype="float64", scale=0.7))
ANY_BATCH = [tf.TensorSpec([None, 2], tf.float64)]


@functools.cache
def flow_of(family, layers=2):
    options = {"bins": 3} if "spline" in family else {"activation": "tanh"}
    flow = flows.get(
        family, 2, layers=layers, hidden_units=(4,), dtype="float64", seed=0, **options
    )
    for i, variable in enumerate(flow.trainable_variables):
        variable.assign_add(normal(*variable.shape, seed=i, dtype="float64", scale=0.3))
    return flow


def value_of(family, direction, layers=2):
    """A number for every event; `tf.identity` keeps TFP's cache out."""
    flow = flow_of(family, layers)
    if direction == "log_prob":
        return lambda x: flow.log_prob(tf.identity(x))
    return lambda x: tf.reduce_sum(tf.sin(flow.bijector.forward(tf.identity(x))), -1)


def gradient_of(function):
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(function(x))
        return tape.gradient(total, x)

    return gradient


def hessian_of(function, pfor=False):
    gradient = gradient_of(function)

    def hessian(x):
        with tf.GradientTape(persistent=not pfor) as tape:
            tape.watch(x)
            found = gradient(x)
        return tape.batch_jacobian(found, x, experimental_use_pfor=pfor)

    return hessian


def forward_mode(function):
    """Derivatives of `function(x)`, along a last axis, by both features."""

    def derivatives(x):
        found = []
        for direction in np.eye(2):
            tangents = tf.ones_like(x) * tf.constant(direction, x.dtype)
            with tf.autodiff.ForwardAccumulator(x, tangents) as accumulator:
                value = function(x)
            found.append(accumulator.jvp(value, unconnected_gradients="zero"))
        return tf.stack(found, -1)

    return derivatives


@functools.cache
def by_differences(family, direction):
    """The Hessian, from differences of the gradient."""
    gradient, step = gradient_of(value_of(family, direction)), 1e-5
    columns = [
        (gradient(X + step * unit) - gradient(X - step * unit)) / (2 * step) for unit in np.eye(2)
    ]
    return np.stack(columns, -1)


def assert_close(found, expected, tolerance=1e-7):
    scale = 1 + np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_hessians(family, direction):
    value, expected = value_of(family, direction), by_differences(family, direction)
    assert np.abs(expected).max() > 0.01
    assert_close(hessian_of(value)(X), expected)
    assert_close(forward_mode(gradient_of(value))(X), expected)
    assert_close(forward_mode(value)(X), gradient_of(value)(X))


@pytest.mark.parametrize(
    ("family", "direction"),
    [("maf", "forward"), ("autoregressive_spline", "forward"), ("neural_spline", "log_prob")],
)
def test_forward_mode_within_a_function(family, direction):
    """Where the pieces are that XLA compiles."""
    value = value_of(family, direction)
    assert_close(tf.function(forward_mode(value))(X), gradient_of(value)(X))


@pytest.mark.parametrize("family", ["real_nvp", "neural_spline"])
def test_hessians_without_a_loop(family):
    """`experimental_use_pfor` and `tf.vectorized_map` rewrite every operation for a batch."""
    value, expected = value_of(family, "log_prob"), by_differences(family, "log_prob")
    assert_close(hessian_of(value, pfor=True)(X), expected)
    gradient = gradient_of(value)
    assert_close(
        tf.vectorized_map(gradient, X, fallback_to_while_loop=False), gradient_of(value)(X)
    )
    of_map = gradient_of(lambda x: tf.vectorized_map(value, x, fallback_to_while_loop=False))
    assert_close(of_map(X), gradient(X))


def penalty_gradient_of(function):
    """The gradient of the squared gradient."""
    return gradient_of(lambda x: tf.reduce_sum(gradient_of(function)(x) ** 2))


COMPILED = [("neural_spline", "log_prob"), ("maf", "forward")]  # In parts, by XLA.


@pytest.mark.parametrize(("family", "direction"), COMPILED)
def test_functions_traced_before_any_tape(family, direction):
    """For batches of any size."""
    value = value_of(family, direction, layers=1)
    function = tf.function(value, input_signature=ANY_BATCH, autograph=False)
    function.get_concrete_function()
    assert_close(penalty_gradient_of(function)(X), penalty_gradient_of(value)(X))


@pytest.mark.parametrize(("family", "direction"), COMPILED)
def test_inside_of_functions(family, direction):
    value = value_of(family, direction, layers=1)
    found = tf.function(penalty_gradient_of(value), autograph=False)(X)
    assert_close(found, penalty_gradient_of(value)(X))


def test_inside_of_what_xla_compiles_as_a_whole():
    value = value_of("maf", "forward", layers=1)
    found = tf.function(penalty_gradient_of(value), autograph=False, jit_compile=True)(X)
    assert_close(found, penalty_gradient_of(value)(X))


def test_outside_of_what_xla_compiles_as_a_whole():
    """What XLA keeps inside of a loop it cannot hand to a tape outside: the loop runs again."""
    value = value_of("autoregressive_spline", "forward", layers=1)
    sampled = tf.function(value, jit_compile=True, autograph=False)
    assert_close(gradient_of(sampled)(X), gradient_of(value)(X))


@pytest.mark.parametrize("family", ["real_nvp", "neural_spline", "maf"])
def test_score_matching_by_weights(family):
    """Of the squared score, the gradient by all weights, along one direction."""
    flow = flow_of(family)
    weights = flow.trainable_variables

    def penalty():
        with tf.GradientTape() as tape:
            tape.watch(X)
            total = tf.reduce_sum(flow.log_prob(X))
        return tf.reduce_sum(tape.gradient(total, X) ** 2)

    def found():
        with tf.GradientTape() as tape:
            value = penalty()
        return tape.gradient(value, weights, unconnected_gradients="zero")

    directions = [normal(*w.shape, seed=9 + i, dtype="float64") for i, w in enumerate(weights)]
    slope = sum(tf.reduce_sum(g * d) for g, d in zip(found(), directions, strict=True))
    kept, step, values = [w.numpy() for w in weights], 1e-5, []
    for sign in (1, -1):
        for weight, start, direction in zip(weights, kept, directions, strict=True):
            weight.assign(start + sign * step * direction)
        values.append(penalty())
    for weight, start in zip(weights, kept, strict=True):
        weight.assign(start)
    assert_close(slope, (values[0] - values[1]) / (2 * step))


def test_what_recomputes_its_activations():
    flow = flow_of("neural_spline")
    value = functools.partial(reversible.log_prob, flow)
    expected = by_differences("neural_spline", "log_prob")
    assert_close(hessian_of(value)(X), expected)
    with pytest.raises(NotImplementedError, match="no forward-mode differentiation"):
        forward_mode(value)(X)


SPLINES = {
    "interval": (transformers.RationalQuadraticSpline(bins=3, bound=2.0), interval),
    "one bin": (transformers.RationalQuadraticSpline(bins=1, bound=2.0), interval),
    "circle": (transformers.CircularSpline(bins=3), circle),
    "two bins": (transformers.CircularSpline(bins=2), circle),
}


@pytest.mark.parametrize("shapes", [((9, 2), (9,)), ((9, 2), (1,)), ((3, 1, 2), (4,))])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("case", SPLINES)
def test_the_spline_is_the_plain_formula_to_the_third_derivative(case, inverse, shapes):
    """Also where many values share parameters, or many parameters a value."""
    spline, plain = SPLINES[case]
    shape, batch = shapes
    x = tf.constant(normal(*shape, dtype="float64", scale=2.0))
    parameters = tf.constant(
        normal(*batch, spline.parameter_count, 2, seed=1, dtype="float64", scale=1.5)
    )
    sources = [x, parameters]

    def derivatives(function):
        with tf.GradientTape() as third:
            third.watch(sources)
            with tf.GradientTape() as second:
                second.watch(sources)
                with tf.GradientTape() as first:
                    first.watch(sources)
                    y, log_slope = function(x, parameters)
                    total = tf.reduce_sum(tf.sin(y)) + tf.reduce_sum(tf.cos(log_slope))
                once = first.gradient(total, sources)
                total = sum(tf.reduce_sum(tf.sin(g)) for g in once)
            twice = second.gradient(total, sources)
            total = sum(tf.reduce_sum(tf.sin(g)) for g in twice)
        return [y, log_slope, *once, *twice, *third.gradient(total, sources)]

    found = derivatives(spline.inverse if inverse else spline.forward)
    expected = derivatives(functools.partial(plain, spline, inverse=inverse))
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert_close(one, other, 1e-6)


def test_slopes_at_a_kink_of_the_softplus():
    """At a raw slope of -offset, `max(x, 0)` has no derivative; the softplus has every."""
    spline = transformers.RationalQuadraticSpline(bins=2, bound=2.0)
    offset = np.log(np.expm1(1 - spline.min_slope))
    parameters = tf.constant([0.3, 0.0, 0.0, 0.2, -offset], tf.float64)[:, None]

    def second(function):
        with tf.GradientTape() as outer:
            outer.watch(parameters)
            with tf.GradientTape() as inner:
                inner.watch(parameters)
                y, _ = function(tf.constant([0.4], tf.float64), parameters)
            found = inner.gradient(y, parameters)
        return outer.gradient(found, parameters)

    assert_close(second(spline.forward), second(functools.partial(interval, spline)), 1e-10)
