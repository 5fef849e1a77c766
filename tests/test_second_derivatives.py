"""Second and third derivatives of maps that are found by roots, in every mode of TensorFlow."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import randomize

from tfp_flows import bijectors
from tfp_flows.ops.implicit import implicit_root

t = bijectors.transformers
SMALL = {
    "DeepSigmoidal": t.DeepSigmoidal(components=3),
    "DeepDenseSigmoidal": t.DeepDenseSigmoidal(components=2, layers=2),
    "MixtureOfLogistics": t.MixtureOfLogistics(components=3),
    "Bernstein": t.Bernstein(degree=5, bound=3.0),
    "SumOfSquares": t.SumOfSquares(polynomials=2, degree=2, bound=3.0),
    "UnconstrainedMonotonic": t.UnconstrainedMonotonic(hidden_units=3, nodes=16, bound=3.0),
    "LinearSpline": t.LinearSpline(bins=4, bound=3.0),
    "QuadraticSpline": t.QuadraticSpline(bins=4, bound=3.0),
    "CubicSpline": t.CubicSpline(bins=4, bound=3.0),
    "Affine": t.Affine(),
}


def identity():
    return keras.layers.Identity(dtype="float64")


def conditional(transformer):
    """One column, whose parameters are a linear function of one context."""
    return bijectors.Coupling(1, transformer, identity(), context_size=1, dtype="float64", seed=0)


# Derivatives by the context are those by the parameters, along one direction.
MAPS = {name: lambda one=one: conditional(one) for name, one in SMALL.items()} | {
    name: lambda make=make: make(2, "float64", context_size=1, conditioner=identity(), seed=0)
    for name, make in (
        ("Planar", bijectors.Planar),
        ("Radial", bijectors.Radial),
        (
            "Sylvester",
            lambda size, dtype, **kwargs: bijectors.Sylvester(size, dtype=dtype, **kwargs),
        ),
    )
}
every = pytest.mark.parametrize("name", MAPS)
# One of each kind: Newton in a bracket, a cubic, a scalar equation, a system.
by_roots = pytest.mark.parametrize("name", ["SumOfSquares", "CubicSpline", "Planar", "Sylvester"])


def build(name):
    return randomize(MAPS[name](), seed=3, stddev=0.6)


def with_context(bijector, direction):
    """The map of `(event, context)` to `(event, context, log-det)`."""

    def of(z):
        x, context = z[:-1], z[-1:]
        y = getattr(bijector, direction)(x, context=context)
        log_det = getattr(bijector, f"{direction}_log_det_jacobian")(x, 1, context=context)
        return tf.concat([y, context, log_det[None]], 0)

    return of


def derivatives(function, z):
    """The value, the Jacobian and the second derivatives, `(outputs, inputs, inputs)`."""
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(z)
        with tf.GradientTape(persistent=True) as inner:
            inner.watch(z)
            value = function(z)
        first = inner.jacobian(value, z, experimental_use_pfor=False)
    return value, first, outer.jacobian(first, z, experimental_use_pfor=False)


@every
def test_the_inverse_function_theorem(name):
    """Of the inverse, from the derivatives of the forward map; of log-dets, from those of maps."""
    bijector = build(name)
    x = tf.constant([0.4, -0.3, 0.2][-bijector.event_size - 1 :], tf.float64)
    value, first, second = (
        np.asarray(a) for a in derivatives(with_context(bijector, "forward"), x)
    )
    jacobian, by_log_det = first[:-1], first[-1]
    back = np.linalg.inv(jacobian)
    np.testing.assert_allclose(value[-1], np.linalg.slogdet(jacobian)[1], rtol=1e-8)
    trace = np.einsum("ij,jik->k", back, second[:-1])
    np.testing.assert_allclose(by_log_det, trace, rtol=1e-7, atol=1e-8)

    hessians = -np.einsum("kl,lab,ai,bj->kij", back, second[:-1], back, back)
    log_det = -by_log_det @ back
    by_log_det_twice = -(back.T @ second[-1] @ back + np.einsum("k,kij->ij", by_log_det, hessians))
    y = tf.constant(value[:-1])
    found = derivatives(with_context(bijector, "inverse"), y)
    np.testing.assert_allclose(found[0], [*x, -value[-1]], rtol=1e-9)
    np.testing.assert_allclose(found[1], [*back, log_det], rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(found[2], [*hessians, by_log_det_twice], rtol=1e-6, atol=1e-7)
    if name not in ("Affine", "LinearSpline"):
        assert np.abs(found[2]).max() > 1e-2  # Else nothing was tested.


@pytest.mark.parametrize("name", ["SumOfSquares", "CubicSpline", "MixtureOfLogistics"])
def test_third_derivatives(name):
    """`x''' = (3 f''² - f' f''') / f'⁵`."""
    transformer = SMALL[name]
    parameters = tf.constant(
        np.random.default_rng(0).normal(0, 0.6, (transformer.parameter_count, 4))
    )
    x = tf.constant([-1.3, -0.2, 0.4, 1.1], tf.float64)

    def thrice(function, x):
        with tf.GradientTape() as third, tf.GradientTape() as second, tf.GradientTape() as first:
            for tape in (first, second, third):
                tape.watch(x)
            y = function(x, parameters)[0]
            a = first.gradient(y, x)
            b = second.gradient(a, x)
        return y, a, b, third.gradient(b, x)

    y, a, b, c = thrice(transformer.forward, x)
    *_, found = thrice(transformer.inverse, y)
    np.testing.assert_allclose(found, (3 * b * b - a * c) / a**5, rtol=1e-6)


def along(function, x, direction):
    """The derivative along a direction, in forward mode."""
    with tf.autodiff.ForwardAccumulator(x, direction) as accumulator:
        value = function(x)
    return accumulator.jvp(value)


def gradient(function, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    return tape.gradient(value, x)


def by_pfor(function, x, direction):
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        value = gradient(function, x)
    return tf.linalg.matvec(tape.batch_jacobian(value, x, experimental_use_pfor=True), direction)


def mapped(function, x, direction):
    def of_one(pair):
        return tf.linalg.matvec(one_hessian(function, pair[0][None]), pair[1])[0]

    return tf.vectorized_map(of_one, (x, direction), fallback_to_while_loop=False)


def one_hessian(function, x):
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        columns = tf.unstack(gradient(function, x), axis=-1)
    return tf.stack([tape.gradient(column, x) for column in columns], -2)


MODES = {
    "function": lambda f, x, v: tf.function(hessian_times)(f, x, v),
    "XLA": lambda f, x, v: tf.function(hessian_times, jit_compile=True)(f, x, v),
    "forward over reverse": lambda f, x, v: along(lambda x: gradient(f, x), x, v),
    "forward inside a function": lambda f, x, v: tf.function(
        lambda x: along(lambda x: gradient(f, x), x, v)
    )(x),
    "forward around a function": lambda f, x, v: along(tf.function(lambda x: gradient(f, x)), x, v),
    "batch_jacobian": by_pfor,
    "vectorized_map": mapped,
}


def hessian_times(function, x, direction):
    return tf.linalg.matvec(one_hessian(function, x), direction)


@by_roots
@pytest.mark.parametrize("mode", MODES)
def test_modes(name, mode):
    """The Hessian of a density, times a vector, against differences of the gradient."""
    transformer = SMALL.get(name)
    if transformer is None:
        bijector = randomize(getattr(bijectors, name)(2, dtype="float64", seed=0), 3, 0.6)
    else:
        bijector = randomize(bijectors.Elementwise(2, transformer, dtype="float64"), 3, 0.6)

    def log_prob(y):
        x = bijector.inverse(tf.identity(y))
        return bijector.inverse_log_det_jacobian(y, 1) - 0.5 * tf.reduce_sum(x * x, -1)

    rng = np.random.default_rng(1)
    x, direction = (tf.constant(rng.normal(0, 0.8, (3, 2))) for _ in range(2))
    h = 1e-5 * direction
    expected = (gradient(log_prob, x + h) - gradient(log_prob, x - h)) / 2e-5
    found = MODES[mode](log_prob, x, direction)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("jit", [False, True])
def test_samples_of_an_autoregressive_map(jit):
    """Roots inside the loop over columns; its Hessian, times a vector."""
    inverse = t.Inverse(t.SumOfSquares(polynomials=1, degree=2))
    layer = bijectors.MaskedAutoregressive(2, inverse, (4,), dtype="float64", seed=0)
    randomize(layer, stddev=0.5)

    def total(x):
        return tf.reduce_sum(layer.forward(tf.identity(x)) ** 2)

    x, direction = (tf.constant(np.random.default_rng(i).normal(size=(2, 2))) for i in range(2))
    h = 1e-5 * direction
    expected = (gradient(total, x + h) - gradient(total, x - h)) / 2e-5
    product = tf.function(
        lambda x: gradient(lambda x: tf.reduce_sum(gradient(total, x) * direction), x),
        jit_compile=jit,
    )
    np.testing.assert_allclose(product(x), expected, rtol=1e-6, atol=1e-7)


@by_roots
def test_score_matching(name):
    """The gradient by parameters of `‖∂ log p / ∂x‖²`, against differences."""
    bijector = build(name)
    size = bijector.event_size
    y = tf.constant(np.random.default_rng(1).normal(0, 0.8, (3, size)))

    def loss(context):
        def log_prob(y):
            x = bijector.inverse(tf.identity(y), context=context)
            log_det = bijector.inverse_log_det_jacobian(y, 1, context=context)
            return log_det - 0.5 * tf.reduce_sum(x * x, -1)

        return tf.reduce_sum(gradient(log_prob, y) ** 2)

    context = tf.constant([[0.3]], tf.float64)
    expected = (loss(context + 1e-5) - loss(context - 1e-5)) / 2e-5
    np.testing.assert_allclose(gradient(loss, context), [[expected]], rtol=1e-6)
    parameters = bijector.trainable_variables
    with tf.GradientTape() as tape:
        value = loss(context)
    assert all(np.isfinite(part).all() for part in tape.gradient(value, parameters))


def square_root(s):
    return implicit_root(lambda x, s: (x * x - s, 2 * x), tf.sqrt(s), s)


@pytest.mark.parametrize(("reverse", "forward"), [(0, 1), (1, 1), (3, 1)])
def test_roots_in_forward_mode(reverse, forward):
    """Of `sqrt`, by accumulators around tapes."""
    s = tf.constant([0.7], tf.float64)
    function, expected, exponent = square_root, 1.0, 0.5
    for i in range(reverse + forward):
        function = (
            (lambda s, f=function: gradient(f, s))
            if i < reverse
            else (lambda s, f=function: along(f, s, tf.ones_like(s)))
        )
        expected, exponent = expected * exponent, exponent - 1
    np.testing.assert_allclose(function(s), expected * 0.7**exponent, rtol=1e-8)


def test_nested_accumulators_raise():
    """TensorFlow's own results for them can be wrong."""
    s = tf.constant([0.7], tf.float64)
    one = tf.ones_like(s)
    with pytest.raises(NotImplementedError, match="Received: 2 accumulators"):
        along(lambda s: along(square_root, s, one), s, one)


@pytest.mark.parametrize("order", [1, 2, 4, 5])
def test_roots_in_reverse_mode_to_any_order(order):
    function, expected, exponent = square_root, 1.0, 0.5
    for _ in range(order):
        function = lambda s, f=function: gradient(f, s)  # noqa: E731
        expected, exponent = expected * exponent, exponent - 1
    s = tf.constant([0.7], tf.float64)
    np.testing.assert_allclose(function(s), expected * 0.7**exponent, rtol=1e-8)


@pytest.mark.parametrize("name", SMALL)
def test_edges(name):
    """NaN stays NaN, and at the bound and far out derivatives are finite, in float32."""
    transformer = SMALL[name]
    parameters = np.random.default_rng(0).normal(0, 0.6, (1, transformer.parameter_count, 1))
    y = tf.constant([[np.nan], [3.0], [-3.0], [0.0], [1e4], [-1e4]], tf.float32)

    def total(y):
        x, log_det = transformer.inverse(y, tf.constant(parameters, tf.float32))
        return x * x + log_det

    for value in (total(y), gradient(total, y), gradient(lambda y: gradient(total, y), y)):
        assert np.isfinite(value[1:]).all()
    assert np.isnan(total(y)[0]).all()
