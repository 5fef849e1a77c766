"""Flows on the sphere: densities by area, poles, saving, training."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal, randomize

from tfp_flows import FlowModel, flows

tfd = tfp.distributions
POLES = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])


def small(dtype="float64", **options):
    return flows.sphere(layers=2, hidden_units=(8,), bins=4, dtype=dtype, seed=0, **options)


def points():
    """Points of a grid on the sphere, and the area around each."""
    z = (np.arange(400) + 0.5) / 200 - 1
    angle = (np.arange(800) + 0.5) * np.pi / 400
    z, angle = (part.ravel() for part in np.meshgrid(z, angle))
    r = np.sqrt(1 - z * z)
    return np.stack([r * np.cos(angle), r * np.sin(angle), z], -1), 4 * np.pi / len(z)


def test_a_fresh_flow_is_uniform():
    flow, x = small("float32"), points()[0][::1000].astype("float32")
    np.testing.assert_allclose(flow.log_prob(x), -np.log(4 * np.pi), rtol=1e-4)


def test_density_integrates_to_one_and_is_that_of_samples():
    flow = randomize(small(), stddev=0.3)
    x, area = points()
    p = np.exp(flow.log_prob(x))
    assert p.max() > 4 * p.min()
    np.testing.assert_allclose(p.sum() * area, 1, atol=1e-3)
    draws, log_prob = flow.sample_and_log_prob(5_000, seed=1)
    np.testing.assert_allclose(tf.norm(draws, axis=-1), 1, atol=1e-12)
    np.testing.assert_allclose(flow.log_prob(tf.identity(draws)), log_prob, atol=1e-8)
    for function in (lambda x: x, lambda x: x**2):  # Moments, by the draws and by the density.
        found, error = np.mean(function(draws), 0), np.std(function(draws), 0) / 5_000**0.5
        expected = (p[:, None] * function(x)).sum(0) * area
        assert (np.abs(found - expected) < 4 * error).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_poles_and_what_is_off_the_sphere(dtype):
    flow = randomize(small(dtype), stddev=0.3)
    with tf.GradientTape() as tape:
        x = tf.constant([*POLES, [1e-20, 0, 1], [1e-20, -2e-20, -1], [0, 1e-41, 1]], dtype)
        tape.watch(x)
        log_prob = flow.log_prob(x)
    assert np.isfinite(log_prob).all()
    for gradient in tape.gradient(log_prob, [x, *flow.trainable_variables]):
        assert np.isfinite(gradient).all()
    assert abs(log_prob[0] - log_prob[1]) > 0.01  # The one pole is not taken for the other.
    near = POLES + np.array([1e-9, 0, 0])
    np.testing.assert_allclose(flow.log_prob(near.astype(dtype)), log_prob[:2], atol=1e-3)
    off = np.array([[0.0, 0.0, 1.1], [0.0, 0.0, 0.0], [np.nan, 0.0, 1.0]], dtype)
    np.testing.assert_array_equal(flow.log_prob(off), [-np.inf, -np.inf, np.nan])


@pytest.mark.slow
def test_training_and_saving_with_context(tmp_path):
    """Draws around a direction that the context gives."""
    context = normal(2500, 3)
    context /= np.linalg.norm(context, axis=1, keepdims=True)
    x = tfd.VonMisesFisher(context, 10.0).sample(seed=0).numpy()
    model = FlowModel(flows.sphere(layers=2, hidden_units=(32,), context_size=3, seed=0))
    model.adapt(context, x)
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(context[:2000], x[:2000], epochs=15, batch_size=100, verbose=0)
    held_out = model.predict((context[2000:], x[2000:]), verbose=0)
    truth = tfd.VonMisesFisher(context, 10.0).log_prob(x).numpy()[2000:]
    assert held_out.mean() > truth.mean() - 0.6 > -np.log(4 * np.pi)
    model.save(tmp_path / "flow.keras")
    loaded = FlowModel.load(tmp_path / "flow.keras")
    again = loaded.predict((context[2000:], x[2000:]), verbose=0)
    np.testing.assert_array_equal(again, held_out)
