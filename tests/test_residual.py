"""Residual flows: Lipschitz constants, log-dets and their estimates, inverses, training, saving."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal, randomize

from tfp_flows import Flow, FlowModel, bijectors, datasets, flows
from tfp_flows.bijectors import residual
from tfp_flows.networks import LipschitzNet
from tfp_flows.ops import spectral
from tfp_flows.ops.fixed_point import fixed_point

tfd, tfb = tfp.distributions, tfp.bijectors


def matrix_of(kernel, grid):
    """The map of images that a convolution is, as a matrix."""
    size = int(np.prod(grid)) * kernel.shape[-2]
    images = tf.reshape(tf.eye(size, dtype=kernel.dtype), [size, *grid, kernel.shape[-2]])
    return tf.reshape(tf.nn.convolution(images, kernel, padding="SAME"), [size, -1]).numpy()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 5), (2, 64), (64, 64), (7, 3)])
def test_bound_of_a_matrix(shape, dtype):
    matrix = normal(*shape, dtype=dtype)
    orthogonal = np.linalg.svd(matrix, full_matrices=False)[0]
    for factor in (1e-3, 1.0, 1e3):
        bounds = np.exp(spectral.log_spectral_bound(tf.constant(factor * matrix)))
        np.testing.assert_allclose(bounds, factor * np.linalg.norm(matrix, 2), rtol=1e-3)
    bound = np.exp(spectral.log_spectral_bound(tf.constant(orthogonal)))
    assert 1 - 1e-6 < bound < 1.017


@pytest.mark.parametrize(("grid", "size"), [((12, 9), 3), ((9,), 5), ((6, 6), 1)])
def test_bound_of_a_convolution(grid, size):
    kernel = tf.constant(normal(*[size] * len(grid), 2, 3, dtype="float64"))
    exact = np.linalg.norm(matrix_of(kernel, grid), 2)
    bound = np.exp(spectral.log_spectral_bound_of_convolution(kernel, grid))
    assert exact * (1 - 1e-9) < bound < 1.06 * exact
    reshaped = np.linalg.norm(np.reshape(kernel, [-1, 3]), 2)
    assert size == 1 or reshaped < 0.8 * exact  # What others take for it.


def test_fixed_points_are_found_row_by_row():
    matrix = normal(30, 30, dtype="float64")
    matrix *= 0.98 / np.linalg.norm(matrix, 2)
    shift, calls = normal(50, 30, dtype="float64"), []

    def step(x, shift=shift):
        calls.append(1)
        return shift - tf.tanh(x @ matrix)

    found = fixed_point(step, tf.constant(shift))
    assert len(calls) < 60
    np.testing.assert_allclose(step(found), found, atol=1e-13)
    alone = fixed_point(lambda x: step(x, shift[:1]), tf.constant(shift[:1]))
    np.testing.assert_allclose(alone, found[:1], atol=1e-13)
    shift[3] = np.nan
    found = fixed_point(step, tf.constant(shift)).numpy()
    assert np.isnan(found[3]).all()
    assert np.isfinite(np.delete(found, 3, axis=0)).all()
    nowhere = fixed_point(
        lambda x: x * shift[:, :1] ** 0 + shift[:, :1], tf.zeros([50, 30], tf.float64)
    )
    assert np.isnan(nowhere[3]).all()


def test_draws_given_what_is_missing_are_missing():
    flow = flows.residual(2, layers=1, hidden_units=(4,), context_size=1, seed=0)
    drawn = flow.sample(context=np.array([[np.nan], [0.0]]), seed=0).numpy()
    np.testing.assert_array_equal(np.isnan(drawn), [[True, True], [False, False]])


@pytest.mark.parametrize("event", [(3,), (4, 5, 2)])
def test_constant_holds_after_training(event):
    """Steps that blow the weights up leave the network as Lipschitz as it has to be."""
    layer = bijectors.Residual(event, (16, 16), 0.9, "roulette", dtype="float64", seed=0)
    base = tfd.Sample(tfd.Normal(tf.zeros([], "float64"), 1.0), event)
    model = FlowModel(Flow(base, layer))
    model.compile(keras.optimizers.Adam(0.3))
    x = 3 * normal(64, *event) + 5
    before = model.evaluate(x, verbose=0)
    history = model.fit(x, batch_size=16, epochs=3, verbose=0)
    assert history.history["loss"][-1] < before
    network = layer.conditioner.layer.network
    kernels = network.given()[0][::3]
    raw = [kernel for kernel, _ in network._layers_of_weights]
    for used, free in zip(kernels, raw, strict=True):
        matrix, larger = used.numpy(), free.numpy()
        if len(event) > 1:
            matrix, larger = (matrix_of(tf.constant(k), event[:-1]) for k in (matrix, larger))
        assert np.linalg.norm(larger, 2) > 1.2
        assert 0.7 < np.linalg.norm(matrix, 2) <= 0.9 ** (1 / 3) + 1e-12
    y = normal(200, *event, dtype="float64", seed=1)
    near = y + 1e-3 * normal(*y.shape, dtype="float64", seed=2)
    moved = np.ravel(tf.norm(tf.reshape(network(near) - network(y), [200, -1]), axis=1))
    assert np.max(moved / np.linalg.norm((near - y).reshape(200, -1), axis=1)) < 0.9


def twins(size, **options):
    """The same layer twice, with an exact log-det and an estimated one."""
    pair = [
        bijectors.Residual(size, (8, 8), log_det=log_det, dtype="float64", seed=0, **options)
        for log_det in ("exact", "roulette")
    ]
    randomize(pair[0], stddev=1.0)
    for one, other in zip(pair[0].trainable_variables, pair[1].trainable_variables, strict=True):
        other.assign(one)
    return pair


class Training(keras.layers.Layer):
    """As a model in training does, it tells the layers inside that it is."""

    def __init__(self, function):
        super().__init__(dtype="float64")
        self.function = function

    def call(self, x, training=None):
        return self.function(x)


def test_roulette_is_unbiased_and_so_is_its_gradient():
    exact, roulette = twins(8)
    x = tf.constant(normal(1, 8, dtype="float64"))

    def log_det_and_slope(layer, log_det, x):
        with tf.GradientTape() as tape:
            log_dets = log_det(x)
            total = tf.reduce_mean(log_dets)
        return total, tape.gradient(total, layer.trainable_variables[0])

    value, slope = log_det_and_slope(exact, exact.inverse_log_det_jacobian, x)
    in_training = Training(lambda x: roulette.inverse_log_det_jacobian(tf.identity(x), 1))

    @tf.function
    def draw():
        rows = tf.repeat(x, 40, axis=0)
        mean, found = log_det_and_slope(roulette, lambda x: in_training(x, training=True), rows)
        return mean, tf.reduce_sum(found * slope)

    means, slopes = np.transpose([draw() for _ in range(250)])  # Of 10,000 draws.
    for found, expected in ((means, value), (slopes, tf.reduce_sum(slope**2))):
        error = found.std() / np.sqrt(len(found))
        assert abs(found.mean() - expected) < 3 * error
        assert error < 0.1 * abs(expected)


def test_values_are_those_of_the_series():
    """Twenty terms, with the signs of the seed; the value of the surrogate is nowhere."""
    exact, roulette = twins(5)
    x = tf.constant(normal(6, 5, dtype="float64"))
    weights, _ = exact.conditioner.given(None)
    slopes = residual.value(x, weights)[1]
    jacobians = np.transpose(exact._jacobian(x, weights, slopes), [1, 2, 0])
    np.testing.assert_allclose(
        exact.inverse_log_det_jacobian(x), np.linalg.slogdet(np.eye(5) + jacobians)[1]
    )
    signs = np.random.default_rng(0).choice([-1.0, 1.0], 5)
    powers = [signs @ np.linalg.matrix_power(-jacobians, k) @ signs / k for k in range(1, 21)]
    found = roulette.inverse_log_det_jacobian(x)
    np.testing.assert_allclose(found, -np.sum(powers, axis=0), rtol=1e-12)
    np.testing.assert_array_equal(roulette.inverse_log_det_jacobian(tf.identity(x)), found)


def test_fixed_points_have_the_same_derivatives_by_products_as_by_matrices():
    exact, roulette = twins(4, context_size=2)
    x, context = normal(3, 4, dtype="float64"), normal(3, 2, dtype="float64", seed=1)
    found = []
    for layer in (exact, roulette):
        with tf.GradientTape(persistent=True) as outer:
            event, given = tf.constant(x), tf.constant(context)
            outer.watch([event, given])
            with tf.GradientTape() as inner:
                inner.watch(event)
                total = tf.reduce_sum(layer.forward(event, context=given) ** 3)
            first = inner.gradient(total, event)
            square = tf.reduce_sum(first**2)
        sources = [event, given, *layer.trainable_variables]
        firsts = outer.gradient(total, sources, unconnected_gradients="zero")
        seconds = outer.gradient(square, sources, unconnected_gradients="zero")
        found.append([*firsts, *seconds])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)


def test_forward_mode():
    exact, roulette = twins(3)
    x, direction = (tf.constant(normal(2, 3, dtype="float64", seed=i)) for i in (0, 1))
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(exact.forward(x) ** 2)
    expected = tf.reduce_sum(tape.gradient(total, x) * direction)
    with tf.autodiff.ForwardAccumulator(x, direction) as accumulator:
        total = tf.reduce_sum(exact.forward(x) ** 2)
    np.testing.assert_allclose(accumulator.jvp(total), expected, rtol=1e-8)
    with (
        pytest.raises(NotImplementedError, match="log_det='exact'"),
        tf.autodiff.ForwardAccumulator(x, direction),
    ):
        roulette.forward(x)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inverse_of_a_trained_flow(dtype, monkeypatch):
    flow = flows.residual(2, hidden_units=(32, 32), dtype=dtype, seed=0)
    model = FlowModel(flow)
    x = datasets.two_moons().sample(2048, seed=0).numpy().astype(dtype)
    model.adapt(x)
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(x, batch_size=256, epochs=6, verbose=0)
    z = flow.distribution.sample(200, seed=1)
    value, calls = residual.value, []
    monkeypatch.setattr(residual, "value", lambda *args: calls.append(1) or value(*args))
    y = flow.bijector.forward(z)
    assert len(calls) <= 8 * 60
    back = flow.bijector.inverse(tf.identity(y))
    np.testing.assert_allclose(back, z, atol=1e-5 if dtype == "float32" else 1e-10)


def test_training_can_be_repeated_and_saved(tmp_path):
    """With estimated log-dets and context: equal seeds give equal numbers, other seeds others."""
    x, context = normal(64, 3), normal(64, 2, seed=1)
    models = []
    for seed in (0, 0, 1):
        keras.utils.set_random_seed(0)
        flow = flows.residual(
            3, layers=2, hidden_units=(8,), log_det="roulette", context_size=2, seed=seed
        )
        model = FlowModel(flow)
        model.adapt(context, x)
        model.compile(keras.optimizers.Adam(1e-2))
        history = model.fit(context, x, batch_size=16, epochs=2, verbose=0)
        models.append((model, history.history["loss"]))
    assert models[0][1] == models[1][1] != models[2][1]
    model = models[0][0]
    expected = model.predict((context, x), verbose=0)
    np.testing.assert_array_equal(model.predict((context, x), verbose=0), expected)
    model.save(tmp_path / "flow.keras")
    loaded = FlowModel.load(tmp_path / "flow.keras")
    np.testing.assert_array_equal(loaded.predict((context, x), verbose=0), expected)
    draws = loaded.sample(5, context=context[:2], seed=0)
    np.testing.assert_array_equal(draws, model.sample(5, context=context[:2], seed=0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bijectors.Residual(2, lipschitz=1.0), "`lipschitz` must be in"),
        (lambda: bijectors.Residual(2, log_det="series"), "`log_det` must be one of"),
        (lambda: bijectors.Residual((None, None, 1)), "known sizes"),
        (lambda: bijectors.Residual(2, ()), "`hidden_units` must be"),
        (lambda: bijectors.Residual((4, 4, 1), (8, 8), kernel_size=(3, 1)), "`kernel_size` must"),
        (lambda: LipschitzNet(3)(tf.zeros([1, 2])), "C >= 3"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
