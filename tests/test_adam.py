"""Adam in one operation a weight: the updates of Keras."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal

from tfp_flows import FlowModel, bijectors, flows
from tfp_flows.model.adam import one_operation_a_weight

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers


def updated(optimizer, dtype, context, steps=5):
    """Weights and the optimizer's variables after some steps; the types of operations in a step."""
    weights = [keras.Variable(normal(*shape), dtype=dtype) for shape in ((3, 2), (2,))]
    optimizer.build(weights)

    @tf.function
    def step(*gradients):
        with context(optimizer):
            optimizer.apply(list(gradients), weights)

    for i in range(steps):
        step(*(tf.constant(normal(*w.shape, seed=i + 1), dtype) for w in weights))
    types = types_of_operations(step.get_concrete_function(*weights).graph)
    return [v.numpy() for v in (*weights, *optimizer.variables)], types


def types_of_operations(graph):
    graph = graph.as_graph_def()
    nodes = [graph.node, *(function.node_def for function in graph.library.function)]
    return [node.op for some in nodes for node in some]


ADAMS = {
    "plain": {},
    "other constants": {"beta_1": 0.7, "beta_2": 0.9, "epsilon": 0.1},
    "accumulated": {"gradient_accumulation_steps": 2},
    "clipped": {"clipnorm": 0.1},
    "decayed": {"weight_decay": 0.1},
    "averaged": {"use_ema": True, "ema_overwrite_frequency": 2},
    "schedule": {"learning_rate": keras.optimizers.schedules.CosineDecay(0.3, 4)},
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", ADAMS)
def test_one_operation_a_weight_makes_the_updates_of_keras(case, dtype):
    options = {"learning_rate": 0.1, **ADAMS[case]}
    plain = lambda optimizer: contextlib.nullcontext()  # noqa: E731
    expected, types = updated(keras.optimizers.Adam(**options), dtype, plain)
    assert "ResourceApplyAdam" not in types
    found, types = updated(keras.optimizers.Adam(**options), dtype, one_operation_a_weight)
    assert types.count("ResourceApplyAdam") == 2
    # Weights move by 0.1 a step. Keras rounds its constants to float32, where 1 - 0.999 has four
    # digits; see the next test.
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)


def test_in_float64_the_updates_are_those_of_the_formula():
    rate = 0.125  # Keras keeps it in float32, which has this one.
    (found, *_), _ = updated(keras.optimizers.Adam(rate), "float64", one_operation_a_weight)
    weight, m, v = normal(3, 2).astype("float64"), 0.0, 0.0
    for n in range(1, 6):
        g = normal(3, 2, seed=n).astype("float64")
        m, v = m + 0.1 * (g - m), v + 0.001 * (g**2 - v)
        unbiased = np.sqrt(1 - 0.999**n) / (1 - 0.9**n)
        weight = weight - rate * unbiased * m / (np.sqrt(v) + 1e-7)
    np.testing.assert_allclose(found, weight, rtol=1e-12)


def test_of_other_optimizers_nothing_is_changed():
    class Own(keras.optimizers.Adam):
        pass

    for optimizer in (
        Own(0.1),
        keras.optimizers.Adam(0.1, amsgrad=True),
        keras.optimizers.Nadam(0.1),
    ):
        _, types = updated(optimizer, "float32", one_operation_a_weight, steps=1)
        assert "ResourceApplyAdam" not in types
    optimizer = keras.optimizers.AdamW(0.1)
    _, types = updated(optimizer, "float32", one_operation_a_weight, steps=1)
    assert types.count("ResourceApplyAdam") == 2
    assert "update_step" not in vars(optimizer)  # Taken back after the block.


def test_sparse_gradients_are_taken():
    weight, optimizer = keras.Variable(np.ones([3, 2])), keras.optimizers.Adam(0.1)
    optimizer.build([weight])
    with one_operation_a_weight(optimizer):
        slices = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([1]), tf.constant([3, 2]))
        optimizer.apply([slices], [weight])
    np.testing.assert_allclose(weight.numpy(), [[1, 1], [0.9, 0.9], [1, 1]], atol=1e-6)


def test_a_flow_is_trained_so_whatever_scales_its_loss():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-3))
    for chosen in (keras.optimizers.Adam(1e-3), optimizer):
        model = FlowModel(flows.real_nvp(2, layers=1, hidden_units=(4,), seed=0))
        model.compile(chosen)
        model.build_optimizer()
        graph = tf.function(model.train_step).get_concrete_function(tf.ones([8, 2])).graph
        types = types_of_operations(graph)
        assert types.count("ResourceApplyAdam") == len(model.trainable_variables)
