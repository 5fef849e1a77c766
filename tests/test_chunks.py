"""Chunks of a batch side by side: they give what the whole gives, where they pay."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal

from tfp_flows import Flow, bijectors, flows
from tfp_flows.distributions import chunks

tfd = tfp.distributions
transformers = bijectors.transformers


class Mine(keras.layers.Dense):
    """A layer of which nothing is known."""


@pytest.fixture(scope="module")
def conditional():
    flow = flows.real_nvp(3, layers=2, hidden_units=(8,), context_size=2, seed=0)
    for i, variable in enumerate(flow.trainable_variables):
        variable.assign_add(tf.random.stateless_normal(variable.shape, (0, i), stddev=0.2))
    return flow


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("rows", [128, 201])
def test_halves_give_what_the_whole_gives(conditional, rows, known):
    x, context = normal(rows, 3), normal(rows, 2, seed=1)
    expected = conditional.log_prob(x, context=context)
    size = rows if known else None
    signature = [tf.TensorSpec([size, 3]), tf.TensorSpec([size, 2])]
    halved = tf.function(
        lambda x, context: conditional.log_prob(x, context=context), input_signature=signature
    )
    np.testing.assert_allclose(halved(x, context), expected, rtol=1e-5, atol=1e-5)
    one = normal(1, 2, seed=1)
    found = tf.function(lambda: conditional.log_prob(x, context=one))()
    np.testing.assert_allclose(found, conditional.log_prob(x, context=one), rtol=1e-5, atol=1e-5)


def test_halves_give_the_gradients_of_the_whole(conditional):
    x, context = tf.constant(normal(128, 3)), tf.constant(normal(128, 2, seed=1))
    sources = [x, context, *conditional.trainable_variables]

    def gradients():
        with tf.GradientTape() as tape:
            tape.watch(sources[:2])
            loss = tf.reduce_mean(conditional.log_prob(x, context=context))
        return tape.gradient(loss, sources)

    for found, expected in zip(tf.function(gradients)(), gradients(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(), 128, 201, [2, 100], [[128]]])
def test_draws_in_halves_are_those_of_the_whole(shape):
    flow = flows.real_nvp(3, layers=2, hidden_units=(8,), seed=0)
    for i, variable in enumerate(flow.trainable_variables):
        variable.assign_add(tf.random.stateless_normal(variable.shape, (0, i), stddev=0.2))
    shape = tf.constant(shape[0]) if np.ndim(shape) == 2 else shape  # A tensor.
    draw, draw_both = (
        tf.function(lambda shape, method=method: method(shape, seed=1))
        for method in (flow.sample, flow.sample_and_log_prob)
    )
    x = flow.sample(shape, seed=1)
    np.testing.assert_allclose(draw(shape), x, rtol=1e-5, atol=1e-5)
    found, log_prob = draw_both(shape)
    np.testing.assert_allclose(found, x, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(log_prob, flow.log_prob(x), rtol=1e-4, atol=1e-4)


def test_a_flow_may_change_the_rank_of_events():
    base = tfd.Sample(tfd.Normal(0.0, 1.0), [200, 3])
    chain = tfp.bijectors.Chain(
        [tfp.bijectors.Scale(2.0), tfp.bijectors.Reshape([600], event_shape_in=[200, 3])]
    )
    flow = Flow(base, chain)
    for shape in ((), 300):
        x, log_prob = flow.sample_and_log_prob(shape, seed=0)
        expected = tf.reduce_sum(tfd.Normal(0.0, 2.0).log_prob(x), -1)
        draw = tf.function(lambda shape=shape: flow.sample_and_log_prob(shape, seed=0))
        np.testing.assert_array_equal(draw()[0], x)
        for found in (log_prob, draw()[1], flow.log_prob(x), tf.function(flow.log_prob)(x)):
            np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_halves_are_taken_where_they_pay(monkeypatch):
    def halved(rows, jit=False, cores=2):
        traces = []
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), False)

        def total(x):
            traces.append(x.shape[0])
            return tf.reduce_sum(x, -1)

        x = tf.ones([rows, 2])
        found = tf.function(lambda: chunks.map_chunks(total, x), jit_compile=jit)()
        np.testing.assert_array_equal(found, np.full(rows, 2.0))
        return traces

    assert halved(256) == [128]  # Traced once, for both.
    assert halved(100) == [100]
    assert halved(256, jit=True) == [256]
    assert halved(256, cores=1) == [256]
    traces = []
    chunks.map_chunks(lambda x: traces.append(len(x)) or x, tf.ones([256]))
    assert traces == [256]  # Not in eager mode.


@pytest.mark.parametrize(
    "layers",
    [
        [keras.layers.Dense(4), keras.layers.BatchNormalization()],
        [keras.layers.Dense(4, activity_regularizer="l2")],
        [keras.layers.ActivityRegularization(l2=0.1)],
        [keras.layers.Lambda(lambda h: h - tf.reduce_mean(h, 0))],
    ],
)
def test_layers_of_batches_see_whole_batches(layers):
    def halves_of(network):
        layer = bijectors.Coupling(2, transformers.Affine(), network)
        flow = Flow(tfd.MultivariateNormalDiag([0.0, 0.0]), layer)
        graph = tf.function(flow.log_prob).get_concrete_function(tf.TensorSpec([256, 2])).graph
        return sum("Call" in op.type for op in graph.get_operations())

    assert halves_of((4,)) == halves_of(keras.Sequential([keras.layers.Dense(4)])) == 2
    assert halves_of(keras.Sequential(layers)) == 0
    assert halves_of(Mine(4)) == 0


def test_batches_of_distributions_are_not_halved(conditional):
    x, contexts = normal(200, 3), normal(200, 2, seed=1)
    shifts = normal(200, 3, seed=2)
    bijector = conditional.given(contexts[0]).bijector
    cases = [
        conditional.given(contexts),
        conditional.given(contexts[:5, None]),
        Flow(tfd.MultivariateNormalDiag(shifts), bijector),
        Flow(tfd.MultivariateNormalDiag(np.zeros(3, "float32")), tfp.bijectors.Shift(shifts)),
    ]
    for flow in cases:
        expected = flow.log_prob(x)
        found = tf.function(flow.log_prob)(x)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
