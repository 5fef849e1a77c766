"""Planar, radial and Sylvester flows: constraints, roots and their gradients."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tfp_flows import bijectors, serialization, testing
from tfp_flows.bijectors.planar import MIN_SLOPE, above_minus_one, tanh_root

MAPS = {
    "Planar": bijectors.Planar,
    "Radial": bijectors.Radial,
    "Sylvester": bijectors.Sylvester,
    "Sylvester of rank 2": lambda size, **options: bijectors.Sylvester(size, 2, **options),
}


def perturbed(bijector, deviation, seed=0):
    rng = np.random.default_rng(seed)
    for variable in bijector.trainable_variables:
        variable.assign_add(rng.normal(0, deviation, variable.shape))
    return bijector


# What public implementations got wrong: the battery must see it.


class PlanarUnconstrained(bijectors.Planar):
    @staticmethod
    def _constrained(w, u):
        return u, tf.reduce_sum(w * u, -1)


class RadialUnconstrained(bijectors.Radial):
    @staticmethod
    def _constrained(raw_alpha, raw_beta):
        return tf.exp(raw_alpha), raw_beta


class SylvesterUnconstrained(bijectors.Sylvester):
    @staticmethod
    def _constrained(outer, inner):
        shape = tf.linalg.eye(2, dtype=outer.dtype)
        return outer[0] * shape, inner[0] * shape


class PlanarWithWrongSign(bijectors.Planar):
    def _map(self, x, *arrays):
        y, log_det = super()._map(x, *arrays)
        return y, -log_det

    def _unmap(self, y, *arrays):
        x, log_det = super()._unmap(y, *arrays)
        return x, -log_det


def with_parameters(bijector, values):
    bijector.trainable_variables[0].assign(values)
    return bijector


X = np.random.default_rng(0).normal(size=(20, 2))
FOLDS = {
    # wᵀu = -3, m = -3, r_ii r̃_ii = -3: each would fold space over.
    "Planar": (PlanarUnconstrained, bijectors.Planar, [1.0, 1.0, -1.5, -1.5, 0.1]),
    "Radial": (RadialUnconstrained, bijectors.Radial, [0.1, 0.2, 0.0, -3.0]),
    "Sylvester": (
        SylvesterUnconstrained,
        bijectors.Sylvester,
        [1.0, 2.0, 2.0, 1.0, -3.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.1, 0.2],
    ),
}


@pytest.mark.parametrize("name", FOLDS)
def test_without_its_constraint_it_breaks_a_law(name):
    wrong, right, values = FOLDS[name]
    skip = set(testing.BIJECTOR_LAWS) - {"round trip"}
    testing.check_bijector(with_parameters(right(2, dtype="float64"), values), X, skip=skip)
    with pytest.raises(AssertionError, match="breaks the law 'round trip'"):
        testing.check_bijector(with_parameters(wrong(2, dtype="float64"), values), X, skip=skip)


def test_a_log_det_of_the_wrong_sign_breaks_a_law():
    values = [1.0, 1.0, 0.5, 0.7, 0.1]
    skip = set(testing.BIJECTOR_LAWS) - {"log-det"}
    planar = with_parameters(bijectors.Planar(2, "float64"), values)
    testing.check_bijector(planar, X, skip=skip)
    with pytest.raises(AssertionError, match="breaks the law 'log-det'"):
        wrong = with_parameters(PlanarWithWrongSign(2, "float64"), values)
        testing.check_bijector(wrong, X, skip=skip)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_constraints_hold_for_all_parameters(dtype):
    raw = tf.constant([-1e30, -1e4, -10.0, -1.0, 0.0, 1.0, 1e4], dtype)
    gain = above_minus_one(raw).numpy()
    assert (gain >= MIN_SLOPE - 1 - 1e-6).all() and (np.diff(gain) >= 0).all()
    np.testing.assert_allclose(gain[4], 0.0, atol=np.finfo(dtype).eps)
    rng = np.random.default_rng(0)
    w, u = tf.constant(rng.normal(0, 10, (2, 1000, 3)), dtype)
    push, gain = bijectors.Planar._constrained(w, u)
    assert (gain.numpy() >= MIN_SLOPE - 1 - 1e-6).all()
    lengths = [np.linalg.norm(vector, axis=-1) for vector in (w, u, push)]
    scale = lengths[0] * (lengths[1] + lengths[2])
    error = np.abs(np.sum(w * push, -1) - gain) / scale
    assert error.max() < 10 * np.finfo(dtype).eps
    outer, inner = bijectors.Sylvester._constrained(
        *tf.constant(rng.normal(0, 10, (2, 1000, 6)), dtype)
    )
    gains = np.diagonal(outer, axis1=-2, axis2=-1) * np.diagonal(inner, axis1=-2, axis2=-1)
    assert gains.min() >= MIN_SLOPE - 1 - 1e-6
    alpha, m = bijectors.Radial._constrained(*tf.constant(rng.normal(0, 10, (2, 1000)), dtype))
    assert (alpha.numpy() > 0).all() and m.numpy().min() >= MIN_SLOPE - 1 - 1e-6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MAPS)
def test_extremes_are_finite(name, dtype):
    rng = np.random.default_rng(2)
    for seed in range(3):
        bijector = perturbed(MAPS[name](5, dtype=dtype, seed=seed), 10.0, seed)
        for x in (np.full([1, 5], 1e4), np.zeros([1, 5]), 1e4 * rng.normal(size=(20, 5))):
            x = tf.constant(x, dtype)
            for direction, log_det in (
                (bijector.forward, bijector.forward_log_det_jacobian),
                (bijector.inverse, bijector.inverse_log_det_jacobian),
            ):
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    results = direction(tf.identity(x)), log_det(tf.identity(x), 1)
                gradients = tape.gradient(results, [x, *bijector.trainable_variables])
                for value in (*results, *gradients):
                    assert np.isfinite(value).all()


def test_radial_at_its_centre():
    """The length of 0 has no gradient; the map has one."""
    radial = with_parameters(bijectors.Radial(2, "float64"), [0.5, -0.5, 0.3, 2.0])
    x = tf.constant([0.5, -0.5], "float64")
    for direction in (radial._forward_and_log_det, radial._inverse_and_log_det):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y, log_det = direction(x)
        np.testing.assert_allclose(y, x)
        gradients = tape.gradient([y, log_det], [x, *radial.trainable_variables])
        assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_planar_by_hand():
    # wᵀu = 0.5; k = 0.99 (softplus(0.5 + log(e - 1)) - 1), û = u + (k - 0.5) w / 2.
    planar = with_parameters(bijectors.Planar(2, "float64"), [1.0, 1.0, 0.5, 0.0, 0.3])
    k = 0.99 * (np.log1p(np.exp(0.5) * (np.e - 1)) - 1)
    push = np.array([0.5, 0.0]) + (k - 0.5) / 2
    h = np.tanh(0.2 - 0.7 + 0.3)
    np.testing.assert_allclose(planar.forward([0.2, -0.7]), [0.2, -0.7] + push * h)
    log_det = planar.forward_log_det_jacobian(np.array([0.2, -0.7]), 1)
    np.testing.assert_allclose(log_det, np.log(1 + k * (1 - h**2)))


def test_radial_by_hand():
    radial = with_parameters(bijectors.Radial(2, "float64"), [1.0, 0.0, 0.4, 0.6])
    alpha = np.log1p(np.exp(0.4) * (np.e - 1))
    beta = alpha * 0.99 * (np.log1p(np.exp(0.6) * (np.e - 1)) - 1)
    x = np.array([4.0, 4.0])  # 5 from the centre.
    expected = x + beta / (alpha + 5) * (x - [1.0, 0.0])
    np.testing.assert_allclose(radial.forward(x), expected)
    np.testing.assert_allclose(radial.inverse(expected), x)


@pytest.mark.parametrize("size, rank, reflections", [(1, 1, 1), (5, 2, 3), (5, 5, 4), (20, 7, 20)])
def test_sylvester_by_hand(size, rank, reflections):
    """Against the formula with dense matrices; the columns of `Q` are orthonormal."""
    layer = bijectors.Sylvester(size, rank, reflections, "float64", seed=0)
    perturbed(layer, 0.5)
    vectors, outer, inner, shift = layer._arrays(None)
    q = np.eye(size)
    for v in vectors.numpy():
        q = q @ (np.eye(size) - 2 * np.outer(v, v) / (v @ v))
    q = q[:, :rank]
    np.testing.assert_allclose(q.T @ q, np.eye(rank), atol=1e-12)
    outer, inner = (matrix.numpy() for matrix in layer._constrained(outer, inner))
    assert (np.tril(outer, -1) == 0).all() and (np.tril(inner, -1) == 0).all()
    x = np.random.default_rng(1).normal(size=size)
    expected = x + q @ outer @ np.tanh(inner @ q.T @ x + shift)
    np.testing.assert_allclose(layer.forward(x), expected, rtol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_root(dtype):
    """The residual is that of rounding, over all gains and right-hand sides."""
    gain = np.concatenate([[MIN_SLOPE - 1, -0.9, -0.5, 0.0], np.logspace(-3, 6, 40)])
    everywhere = np.concatenate([[0.0], np.logspace(-12, 6, 200)])[:, None] * np.ones_like(gain)
    near_the_bend = np.linspace(0.9, 1.1, 50)[:, None] * gain
    grid = np.concatenate([everywhere, near_the_bend])
    gain, grid = gain.astype(dtype), np.concatenate([grid, -grid]).astype(dtype)
    a = np.asarray(tf.function(tanh_root, jit_compile=True)(gain, grid), "float64")
    residual = np.abs(a + gain * np.tanh(a) - grid) / (np.abs(a) + np.abs(grid) + 1e-30)
    assert residual.max() < 8 * np.finfo(dtype).eps


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", MAPS)
def test_gradients_of_the_inverse(name, jit):
    """Those of the root, against differences along every event and parameter."""
    bijector = perturbed(MAPS[name](3, dtype="float64", seed=0), 0.4)
    (variable,) = bijector.trainable_variables
    rng = np.random.default_rng(1)
    y = tf.Variable(rng.normal(size=(4, 3)))
    weights = rng.normal(size=(4, 3))

    @tf.function(jit_compile=jit)
    def value_and_gradients():
        with tf.GradientTape() as tape:
            x = bijector.inverse(tf.identity(y))
            log_det = bijector.inverse_log_det_jacobian(tf.identity(y), 1)
            total = tf.reduce_sum(weights * x) + tf.reduce_sum(log_det)
        return total, tape.gradient(total, [variable, y])

    _, gradients = value_and_gradients()
    for source, gradient in zip((variable, y), gradients, strict=True):
        start = source.numpy()
        directions = np.reshape(np.eye(start.size), [-1, *start.shape])
        for direction in directions:
            ends = []
            for sign in (1, -1):
                source.assign(start + sign * 1e-5 * direction)
                ends.append(value_and_gradients()[0].numpy())
            difference = (ends[0] - ends[1]) / 2e-5
            found = np.sum(gradient * direction)
            np.testing.assert_allclose(found, difference, rtol=1e-6, atol=1e-7)
        source.assign(start)


@pytest.mark.parametrize("name", MAPS)
def test_starts_as_the_identity_and_can_leave_it(name):
    bijector = MAPS[name](5, dtype="float64", seed=0)
    rng = np.random.default_rng(1)
    x, target = rng.normal(size=(2, 20, 5))
    (variable,) = bijector.trainable_variables
    start = variable.numpy()
    with tf.GradientTape() as tape:
        y = bijector.forward(tf.constant(x))
        loss = tf.reduce_sum((y - target) ** 2)
    np.testing.assert_allclose(y, x, atol=1e-12)
    gradient = tape.gradient(loss, variable)
    assert np.abs(gradient).max() > 0.1
    # From the next step on, directions, centres and reflections have gradients too.
    variable.assign(start - 1e-3 * gradient)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum((bijector.forward(tf.constant(x)) - target) ** 2)
    assert (np.abs(tape.gradient(loss, variable)) > 0).all()


@pytest.mark.parametrize("name", MAPS)
def test_a_start_that_was_drawn_is_saved_with_the_weights(name):
    """With context the parameters are the start plus what the network says."""
    bijector = perturbed(MAPS[name](3, context_size=2, conditioner=(4,)), 0.2)
    copy = serialization.deserialize(json.loads(json.dumps(serialization.serialize(bijector))))
    for new, old in zip(copy.variables, bijector.variables, strict=True):
        new.assign(old)
    x, context = np.ones([5, 3], "float32"), np.ones([5, 2], "float32")
    expected = bijector.forward(x, context=context)
    np.testing.assert_array_equal(copy.forward(x, context=context), expected)


@pytest.mark.parametrize("name", MAPS)
def test_context_broadcasts_with_events(name):
    bijector = perturbed(MAPS[name](3, context_size=2, conditioner=(4,), seed=0), 0.3)
    x = tf.random.stateless_normal([4, 1, 3], seed=(0, 1))
    context = tf.random.stateless_normal([5, 2], seed=(0, 2))
    y = bijector.forward(x, context=context)
    assert y.shape == (4, 5, 3)
    np.testing.assert_allclose(y[2, 3], bijector.forward(x[2, 0], context=context[3]), rtol=1e-5)
    back = bijector.inverse(tf.identity(y), context=context)
    np.testing.assert_allclose(back, np.broadcast_to(x, y.shape), atol=1e-5)


BAD_INPUT = {
    "size": (lambda: bijectors.Planar(0), "`event_size` must be a positive"),
    "radial size": (lambda: bijectors.Radial("2"), "`event_size` must be a positive"),
    "dtype": (lambda: bijectors.Radial(2, "int32"), "`dtype` must be float32 or float64"),
    "rank": (lambda: bijectors.Sylvester(3, 4), "`rank` must be at most .*rank=4, event_size=3"),
    "no rank": (lambda: bijectors.Sylvester(3, 0), "`rank` must be a positive integer"),
    "reflections": (lambda: bijectors.Sylvester(3, 2, -1), "`reflections` must be a positive"),
    "event": (lambda: bijectors.Planar(3).forward(tf.zeros([2, 4])), "needs events of size 3"),
    "context": (
        lambda: bijectors.Radial(3).forward(tf.zeros([2, 3]), context=tf.zeros([2, 1])),
        "unconditional",
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_raises(name):
    make, message = BAD_INPUT[name]
    with pytest.raises(ValueError, match=message):
        make()
