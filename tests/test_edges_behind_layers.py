"""Edges of bijectors with variables, and of those between and behind layers."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import randomize

from tfp_flows import Flow, bijectors

tfd, tfb = tfp.distributions, tfp.bijectors
INF = np.inf


def base(size=2, dtype="float32"):
    return tfd.Independent(tfd.Normal(*tf.constant([[0.2] * size, [1.5] * size], dtype)), 1)


def coupling(size=2, dtype="float32"):
    affine = bijectors.transformers.Affine()
    return randomize(bijectors.Coupling(size, affine, (4,), dtype=dtype, seed=0), stddev=0.3)


v = tf.Variable
# Bijectors with variables, with an event inside of their range and one outside.
LEARNED = {
    "scale": (lambda: tfb.Chain([tfb.Scale(v([2.0, -1.0])), tfb.Exp()]), [1.0, -1.0], [1.0, 1.0]),
    "shift": (lambda: tfb.Chain([tfb.Shift(v([2.0, 1.0])), tfb.Softplus()]), [3, 3], [3, 1]),
    "soft_clip": (lambda: tfb.SoftClip(v(-1.0), v(1.0)), [0.5, 0.5], [0.5, -1.0]),
    "behind_tanh": (lambda: tfb.Chain([tfb.Scale(v(3.0)), tfb.Tanh()]), [1.0, 2.0], [3.0, 2.0]),
    "actnorm": (lambda: tfb.Chain([bijectors.ActNorm(2), tfb.Exp()]), [1.0, 1.0], [0.0, 1.0]),
    "parts": (
        lambda: tfb.Blockwise([tfb.Exp(), bijectors.ActNorm(1)], [1, 1]),
        [1.0, -1.0],
        [-1.0, -1.0],
    ),
}


@pytest.mark.parametrize("further", [False, True])
@pytest.mark.parametrize("name", LEARNED)
def test_learned_formulas_have_edges(name, further):
    make, inside, outside = LEARNED[name]
    bijector = make()
    flow = Flow(base(), tfb.Chain([bijector, coupling()] if further else [bijector]))
    x = tf.constant([inside, outside], tf.float32)
    with tf.GradientTape() as tape:
        log_probs = flow.log_prob(x)
        total = tf.reduce_sum(tf.where(tf.math.is_inf(log_probs), 0.0, log_probs))
    gradients = tape.gradient(total, flow.trainable_variables)
    assert np.isfinite(log_probs[0]) and log_probs[1] == -INF
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    variable = bijector.trainable_variables[0]
    variable.assign(np.nan * variable)
    assert np.isnan(flow.log_prob(x)).all()


t = bijectors.transformers
BETWEEN = {
    "coupling": coupling,
    "radial": lambda: randomize(bijectors.Radial(2, seed=0)),
    "planar": lambda: randomize(bijectors.Planar(2, seed=0)),
    "bernstein": lambda: randomize(bijectors.Elementwise(2, t.Bernstein(5))),
    "mixture": lambda: randomize(bijectors.Elementwise(2, t.MixtureOfLogistics(3))),
    "autoregressive": lambda: randomize(
        bijectors.MaskedAutoregressive(2, t.Affine(), (4,), seed=0)
    ),
}


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("name", BETWEEN)
def test_edges_behind_what_is_learned(name, graph):
    layer = BETWEEN[name]()
    flow = Flow(base(), tfb.Chain([layer, tfb.Tanh(), tfb.Scale(0.5)]))
    x = tf.constant([[0.1, 0.2], [3.0, 0.2], [INF, 0.0], [0.1, 0.2]])
    log_prob = tf.function(flow.log_prob) if graph else flow.log_prob
    with tf.GradientTape() as tape:
        log_probs = log_prob(x)
        total = tf.reduce_sum(tf.where(tf.math.is_inf(log_probs), 0.0, log_probs))
    with tf.GradientTape() as alone:
        expected = 2 * flow.log_prob(x[0])
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    np.testing.assert_array_equal(log_probs[1:3], -INF)
    variables = layer.trainable_variables
    for found, wanted in zip(
        tape.gradient(total, variables), alone.gradient(expected, variables), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)
