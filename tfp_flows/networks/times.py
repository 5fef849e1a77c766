"""What the networks of velocities see of the time."""

from __future__ import annotations

import math

import tensorflow as tf

__all__ = ["FEATURES", "features_of", "of_times"]

_FREQUENCIES = (math.pi, 2 * math.pi, math.pi, 2 * math.pi)
_PHASES = (0.0, 0.0, math.pi / 2, math.pi / 2)  # Cosines.
FEATURES = 1 + len(_FREQUENCIES)


def features_of(t: tf.Tensor) -> tf.Tensor:
    """What networks see of the time, `(1, 5)` or `(n, 5)`."""
    t = tf.reshape(t, [-1, 1])
    angles = t * tf.constant(_FREQUENCIES, t.dtype) + tf.constant(_PHASES, t.dtype)
    return tf.concat([2 * t - 1, tf.sin(angles)], -1)


def of_times(seen: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """`seen @ kernel`, `(n, units)`, or `(units,)` where all rows have the same time.

    As `(1, units)`, TensorFlow's optimizer of graphs may take it for the bias of another product,
    and then refuse its rank.
    """
    product = tf.matmul(seen, kernel)
    return product[0] if product.shape[0] == 1 else product
