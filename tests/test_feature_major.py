"""Columns of events as rows of memory: picked, put in order, and transposed once."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal

from tfp_flows import bijectors
from tfp_flows.ops.feature_major import permute_features, select_features

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers


@pytest.mark.parametrize("numbers", [[0, 1], [3, 4], [1, 3], [], [4]])
def test_picked_rows_are_the_rows(numbers):
    numbers = np.array(numbers, int)
    rows = tf.constant(normal(5, 6))
    weight = normal(6, len(numbers))
    with tf.GradientTape() as tape:
        tape.watch(rows)
        found = select_features(rows, numbers)
        total = tf.reduce_sum(found * weight)
    np.testing.assert_array_equal(found, rows.numpy()[numbers].T)
    expected = np.zeros((5, 6), "float32")
    expected[numbers] = weight.T
    np.testing.assert_array_equal(tape.gradient(total, rows), expected)


def test_an_infinite_column_does_not_reach_the_others():
    x = np.array([[np.inf, 1.0, -np.inf, 2.0]], "float32")
    np.testing.assert_array_equal(select_features(tf.constant(x.T), np.array([1, 3])), [[1.0, 2.0]])


def test_rows_in_another_order_and_their_gradient():
    rows, order = tf.constant(normal(4, 3)), np.array([2, 0, 3, 1])
    weight = normal(4, 3, seed=1)
    with tf.GradientTape() as tape:
        tape.watch(rows)
        found = permute_features(rows, order)
        total = tf.reduce_sum(found * weight)
    np.testing.assert_array_equal(found, rows.numpy()[order])
    np.testing.assert_array_equal(tape.gradient(total, rows).numpy()[order], weight)


def test_a_coupling_takes_infinite_values_column_by_column():
    for transformer in (transformers.Affine(), transformers.RationalQuadraticSpline()):
        layer = bijectors.Coupling(4, transformer, (8,), mask=[True, False, True, False], seed=0)
        y = np.array([[1.0, np.inf, 2.0, 3.0]], "float32")
        np.testing.assert_allclose(layer.inverse(y), y, rtol=1e-6)


def test_a_coupling_transposes_events_once_on_each_side():
    """In the backward pass too: a transposition takes as long as a product of the network.

    What the network reads is one more, forward only.
    """
    layer = bijectors.Coupling(4, transformers.Affine(), (8,), seed=0)

    @tf.function(autograph=False)
    def gradient(y):
        with tf.GradientTape() as tape:
            tape.watch(y)
            x = layer.inverse(y)
        return tape.gradient(x, y)

    graph = gradient.get_concrete_function(tf.TensorSpec([6, 4])).graph
    assert [op.type for op in graph.get_operations()].count("Transpose") == 5


def test_columns_of_unknown_number_are_taken():
    for transformer in (transformers.Affine(), transformers.RationalQuadraticSpline()):
        layer = bijectors.Coupling(3, transformer, (8,), mask="alternate", seed=0)
        forward = tf.function(layer.forward, input_signature=[tf.TensorSpec([None, None])])
        np.testing.assert_allclose(forward(np.ones([4, 3], "float32")), np.ones([4, 3]), rtol=1e-6)
