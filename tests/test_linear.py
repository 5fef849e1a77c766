"""Linear maps, permutations and ActNorm: what is particular to each."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import Flow, bijectors, serialization

tfd = tfp.distributions

MAPS = {
    "LU": bijectors.LU,
    "LU permuted": lambda size, **options: bijectors.LU(size, permutation="random", **options),
    "Triangular": bijectors.Triangular,
    "Triangular upper": lambda size, **options: bijectors.Triangular(size, False, **options),
    "QR": bijectors.QR,
    "Householder": bijectors.Householder,
    "Rotation": bijectors.Rotation,
}
ORTHOGONAL = ("Householder", "Rotation")


def perturbed(bijector, deviation):
    rng = np.random.default_rng(0)
    for variable in bijector.trainable_variables:
        variable.assign_add(rng.normal(0, deviation, variable.shape))
    return bijector


def matrix_of(bijector, size):
    zero = np.zeros(size, bijector.dtype.as_numpy_dtype)
    eye = np.eye(size, dtype=zero.dtype)
    return (bijector.forward(eye) - bijector.forward(zero)).numpy().T


def copy_of(bijector):
    """A bijector of the same config and weights."""
    config = json.loads(json.dumps(serialization.serialize(bijector)))
    copy = serialization.deserialize(config)
    for new, old in zip(copy.variables, bijector.variables, strict=True):
        new.assign(old)
    return copy


@pytest.mark.parametrize("name", ["LU", "LU permuted", "Triangular", "Triangular upper", "QR"])
def test_log_det_is_that_of_the_matrix(name):
    bijector = perturbed(MAPS[name](4, dtype="float64", seed=0), 0.7)
    log_det = bijector.forward_log_det_jacobian(np.zeros(4), 1)
    expected = np.linalg.slogdet(matrix_of(bijector, 4))[1]
    assert abs(expected) > 0.1
    np.testing.assert_allclose(log_det, expected, rtol=1e-10)


@pytest.mark.parametrize("lower", [True, False])
def test_a_triangle_has_zeros_on_its_other_side(lower):
    matrix = matrix_of(perturbed(bijectors.Triangular(4, lower), 0.7), 4)
    above, below = np.triu_indices(4, 1), np.tril_indices(4, -1)
    empty, full = (above, below) if lower else (below, above)
    assert (matrix[empty] == 0).all() and (matrix[full] != 0).all()
    assert (np.diag(matrix) > 0).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("deviation", [0.0, 0.2, 10.0])
@pytest.mark.parametrize("size", [2, 5, 43])
@pytest.mark.parametrize("name", ORTHOGONAL)
def test_orthogonal_maps_are_rotations(name, size, deviation, dtype):
    q = matrix_of(perturbed(MAPS[name](size, dtype=dtype, seed=0), deviation), size)
    np.testing.assert_allclose(q.T @ q, np.eye(size), atol=100 * np.finfo(dtype).eps)
    np.testing.assert_allclose(np.linalg.det(q), 1.0, atol=1e3 * np.finfo(dtype).eps)


def test_reflections_by_hand():
    """Two reflections in the plane turn by twice the angle between their vectors."""
    turn = bijectors.Householder(2, dtype="float64")
    one, other = 0.5, 0.2
    vectors = [3 * np.cos(one), 3 * np.sin(one), np.cos(other), np.sin(other)]
    turn.trainable_variables[0].assign(vectors)
    expected = bijectors.Rotation2D(0.6)
    x = np.array([1.0, 2.0])
    np.testing.assert_allclose(turn.forward(x), expected.forward(x), rtol=1e-12)


def test_rotation_of_the_plane_by_hand():
    turn = bijectors.Rotation(2, "float64")
    turn.trainable_variables[0].assign([0.7])
    expected = bijectors.Rotation2D(2 * np.arctan(0.35))
    x = np.array([1.0, 2.0])
    np.testing.assert_allclose(turn.forward(x), expected.forward(x), rtol=1e-12)


@pytest.mark.parametrize("entry", [1e4, 1e10, 1e30])
def test_a_rotation_stays_one_whatever_its_entries(entry):
    turn = bijectors.Rotation(3)
    turn.trainable_variables[0].assign(np.array([0.3, -0.7, 1.1]) * entry)
    matrix = matrix_of(turn, 3)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-4)


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("name", [name for name in MAPS if name != "LU permuted"])
def test_starts_as_the_identity_where_every_parameter_has_a_gradient(name, size):
    bijector = MAPS[name](size, dtype="float64", seed=0)
    rng = np.random.default_rng(1)
    x, target = rng.normal(size=(2, 20, size))
    with tf.GradientTape() as tape:
        y = bijector.forward(tf.constant(x))
        loss = tf.reduce_sum((y - target) ** 2)
    np.testing.assert_allclose(y, x, atol=1e-12)
    gradient = tape.gradient(loss, bijector.trainable_variables[0])
    assert (np.abs(gradient) > 1e-6).all()


@pytest.mark.parametrize("name", MAPS)
def test_extremes_are_finite(name):
    bijector = perturbed(MAPS[name](5, seed=0), 10.0)
    rng = np.random.default_rng(2)
    for x in (np.full([1, 5], 1e4), np.zeros([1, 5]), 1e4 * rng.normal(size=(20, 5))):
        x = tf.constant(x, "float32")
        with tf.GradientTape() as tape:
            tape.watch(x)
            results = bijector.forward(x), bijector.forward_log_det_jacobian(x, 1)
        gradients = tape.gradient(results, [x, *bijector.trainable_variables])
        for value in (*results, *gradients):
            assert np.isfinite(value).all()


def test_lu_starts_as_its_permutation():
    order = [2, 0, 1]
    x = np.array([1.0, 2.0, 3.0], "float32")
    lu = bijectors.LU(3, permutation=order)
    np.testing.assert_array_equal(lu.forward(x), [3.0, 1.0, 2.0])
    np.testing.assert_array_equal(bijectors.Permutation(3, order).forward(x), [3.0, 1.0, 2.0])


@pytest.mark.parametrize("seed", [None, 3])
def test_a_permutation_that_was_drawn_is_saved(seed):
    permutation = bijectors.Permutation(50, "random", seed)
    order = permutation.get_config()["permutation"]
    assert isinstance(order, list) and all(type(column) is int for column in order)
    x = np.arange(50.0)
    np.testing.assert_array_equal(permutation.forward(x), order)
    np.testing.assert_array_equal(copy_of(permutation).forward(x), order)
    np.testing.assert_array_equal(permutation.copy().forward(x), order)
    lu = bijectors.LU(50, permutation="random", seed=seed)
    x = x.astype("float32")
    np.testing.assert_array_equal(copy_of(lu).forward(x), lu.forward(x))
    np.testing.assert_array_equal(lu.copy().forward(x), lu.forward(x))


def test_seed_fixes_the_permutation():
    def order(seed):
        return bijectors.Permutation(50, seed=seed).permutation

    np.testing.assert_array_equal(order(3), order(3))
    assert not np.array_equal(order(3), order(4))


@pytest.mark.parametrize("name", ["QR", "Householder"])
def test_a_start_that_was_drawn_is_saved_with_the_weights(name):
    """With context the reflections are the start plus what the network says."""
    bijector = perturbed(MAPS[name](3, context_size=2, conditioner=(4,)), 0.2)
    x, context = np.ones([5, 3], "float32"), np.ones([5, 2], "float32")
    expected = bijector.forward(x, context=context)
    np.testing.assert_array_equal(copy_of(bijector).forward(x, context=context), expected)


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
    log_det = bijector.inverse_log_det_jacobian(tf.identity(y), 1, context=context)
    assert log_det.shape == (4, 5)
    missing = tf.constant([np.nan, 0.0])
    assert np.isnan(bijector.forward_log_det_jacobian(x, 1, context=missing)).all()


# ActNorm.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_act_norm_adapts(dtype):
    y = np.random.default_rng(0).normal([5.0, -300.0, 0.1, 0.0], [1e-3, 1e4, 0.0, 0.0], (200, 4))
    norm = bijectors.ActNorm(4, dtype)
    assert not norm.is_initialized
    norm.adapt(y)
    assert norm.is_initialized
    x = norm.inverse(y.astype(dtype)).numpy()
    tolerance = 1e-3 if dtype == "float32" else 1e-9
    np.testing.assert_allclose(x.mean(0), 0.0, atol=tolerance)
    # Columns that do not vary are shifted only.
    np.testing.assert_allclose(x.std(0), [1.0, 1.0, 0.0, 0.0], atol=tolerance)
    np.testing.assert_array_equal(norm.log_scale[2:], 0.0)
    expected = np.log(y[:, :2].std(0)).sum()
    np.testing.assert_allclose(norm.forward_log_det_jacobian(x[0], 1), expected, rtol=1e-5)


def test_act_norm_is_saved_with_its_state():
    norm = bijectors.ActNorm(2)
    norm.adapt([[1.0, 10.0], [3.0, 30.0]])
    np.testing.assert_allclose(norm.inverse([1.0, 30.0]), [-1.0, 1.0], rtol=1e-6)
    assert [v.name for v in norm.non_trainable_variables] == ["act_norm/initialized:0"]
    copy = copy_of(norm)
    assert copy.is_initialized
    np.testing.assert_array_equal(copy.inverse([1.0, 3.0]), norm.inverse([1.0, 3.0]))


def test_act_norm_learns_nothing_from_calls():
    flow = Flow(tfd.MultivariateNormalDiag([0.0, 0.0]), bijectors.ActNorm(2))
    flow.log_prob(flow.sample(10, seed=0) + 7.0)
    assert not flow.bijector.is_initialized
    for variable in flow.trainable_variables:
        np.testing.assert_array_equal(variable, [0.0, 0.0])


BAD_INPUT = {
    "size": (lambda: bijectors.LU(0), "`event_size` must be a positive"),
    "dtype": (lambda: bijectors.LU(2, "int32"), "`dtype` must be float32 or float64"),
    "scale": (lambda: bijectors.QR(2, max_log_scale=0.0), "`max_log_scale` must be positive"),
    "LU order": (lambda: bijectors.LU(3, permutation=[0, 1]), "`permutation` must be 'reversed'"),
    "twice": (lambda: bijectors.Permutation(3, [0, 1, 1]), r"Received.*\[0, 1, 1\]"),
    "word": (lambda: bijectors.Permutation(3, "sorted"), "`permutation` must be.*='sorted'"),
    "matrix": (lambda: bijectors.Permutation(2, [[0, 1]]), "`permutation` must be"),
    "odd": (lambda: bijectors.Householder(4, 3), "`reflections` must be even.*=3"),
    "odd in QR": (lambda: bijectors.QR(4, 1), "`reflections` must be even"),
    "none": (lambda: bijectors.Householder(4, 0), "`reflections` must be a positive integer"),
    "line": (lambda: bijectors.Rotation(1), "`event_size` must be at least 2"),
    "reflected line": (lambda: bijectors.Householder(1), "`event_size` must be at least 2"),
    "event": (lambda: bijectors.LU(3).forward(tf.zeros([2, 4])), "needs events of size 3"),
    "permuted event": (
        lambda: bijectors.Permutation(3).forward(tf.zeros([2, 4])),
        "needs events of size 3",
    ),
    "context missing": (
        lambda: bijectors.LU(3, context_size=2).forward(tf.zeros([2, 3])),
        "`context` is missing",
    ),
    "ActNorm size": (lambda: bijectors.ActNorm(-1), "`event_size` must be a positive"),
    "ActNorm event": (lambda: bijectors.ActNorm(3).inverse(tf.zeros([4])), "events of size 3"),
    "ActNorm rows": (lambda: bijectors.ActNorm(2).adapt(np.zeros([0, 2])), r"\(n, 2\), n at"),
    "ActNorm columns": (lambda: bijectors.ActNorm(2).adapt(np.zeros([5, 3])), r"shape=\(5, 3\)"),
    "ActNorm value": (
        lambda: bijectors.ActNorm(2).adapt([[0.0, 1.0], [2.0, np.nan]]),
        "nan in row 1, column 1",
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_raises(name):
    make, message = BAD_INPUT[name]
    with pytest.raises(ValueError, match=message):
        make()


def test_a_flag_must_be_one():
    with pytest.raises(TypeError, match=r"`lower` must be True or False\..*='yes'"):
        bijectors.Triangular(2, "yes")


@pytest.mark.parametrize("permutation", [None, [2, 0, 3, 1]])
def test_lu_of_a_grid_is_that_of_its_positions(permutation):
    lu = perturbed(bijectors.LU(4, "float64", permutation=permutation), 0.5)
    x = np.random.default_rng(1).normal(size=(2, 3, 5, 4))
    for direction in (lu.forward, lu.inverse):
        rows = direction(x.reshape(-1, 4))
        np.testing.assert_allclose(np.reshape(direction(x), (-1, 4)), rows, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("permutation", [None, [2, 0, 3, 1]])
def test_lu_whitens(permutation):
    mix = np.array([[1.0, 0, 0, 0], [0.9, 0.3, 0, 0], [-2, 1, 0.5, 0], [0.1, 0, 3, 4]])
    y = np.random.default_rng(0).normal(size=(500, 4)) @ mix.T + [1.0, -5.0, 0.0, 30.0]
    layer = bijectors.LU(4, dtype="float64", permutation=permutation)
    layer.adapt(y)
    x = layer.inverse(y).numpy()
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(np.cov(x.T), np.eye(4), atol=1e-4)
    with pytest.raises(ValueError, match=r"`y` must have shape \(n, 4\)"):
        layer.adapt(y[:, :3])
