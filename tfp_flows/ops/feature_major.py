"""Columns of events, picked and put back without `tf.gather(x, ..., axis=-1)`.

That operation copies numbers one by one, and its gradient adds up segments: in a coupling of 43
columns the two took longer than the networks.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfp_flows.ops.internals import prefer_static as ps

__all__ = [
    "flatten_batch",
    "from_feature_major",
    "permute_features",
    "select_features",
    "to_feature_major",
]


def select_features(rows: tf.Tensor, numbers: np.ndarray) -> tf.Tensor:
    """Of `(D, n)`, the rows with these numbers, as columns `(n, len(numbers))` for a network.

    It is a product with zeros and ones: infinite values become the largest finite ones, and a NaN
    at one place of a row reaches that place of all.
    """
    matrix = tf.constant(np.eye(rows.shape[0])[:, numbers], rows.dtype)

    @tf.custom_gradient
    def picked(rows: tf.Tensor) -> tf.Tensor:
        finite = tf.clip_by_value(rows, rows.dtype.min, rows.dtype.max)
        columns = tf.matmul(finite, matrix, transpose_a=True)
        return columns, lambda g: tf.matmul(matrix, g, transpose_b=True)

    return picked(rows)


def flatten_batch(x: tf.Tensor) -> tf.Tensor:
    """`(..., D)` as a matrix `(n, D)`, `n` the size of the batch."""
    return x if x.shape.rank == 2 else tf.reshape(x, [-1, x.shape[-1]])


def to_feature_major(x: tf.Tensor) -> tf.Tensor:
    """`(..., D)` as `(D, n)`: each column is contiguous, and elementwise maps run along it."""
    return tf.transpose(flatten_batch(x))


def from_feature_major(rows: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """`(D, n)` as `(..., D)`, the shape of `like`."""
    columns = tf.transpose(rows)
    return columns if like.shape.rank == 2 else tf.reshape(columns, ps.shape(like))


def permute_features(rows: tf.Tensor, order: np.ndarray) -> tf.Tensor:
    """The rows in another order: row `order[i]` comes i-th."""
    if (order == np.arange(len(order))).all():
        return rows

    @tf.custom_gradient
    def gathered(rows: tf.Tensor) -> tf.Tensor:
        return tf.gather(rows, order), lambda gradient: permute_features(
            gradient, np.argsort(order)
        )

    return gathered(rows)
