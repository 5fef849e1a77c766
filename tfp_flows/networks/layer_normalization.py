"""Normalization over features, whose derivatives are right to any order."""

from __future__ import annotations

from collections.abc import Iterable

import keras
import tensorflow as tf

__all__ = ["LayerNormalization", "check_derivatives"]

# They use `tf.nn.moments`, which holds the mean constant in the variance: the first derivative is
# right, and the second is not.
_WRONG = (
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
    keras.layers.BatchNormalization,
)


class LayerNormalization(keras.layers.LayerNormalization):
    """Keras' layer over the last axis, the second derivatives of which are wrong."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        # In half precision, squares overflow.
        x = inputs if inputs.dtype == tf.float64 else tf.cast(inputs, tf.float32)
        centred = x - tf.reduce_mean(x, -1, keepdims=True)
        variance = tf.reduce_mean(centred * centred, -1, keepdims=True)
        scaled = centred * tf.math.rsqrt(variance + self.epsilon)
        gamma, beta = (tf.cast(weight, x.dtype) for weight in (self.gamma, self.beta))
        return tf.cast(scaled * gamma + beta, self.compute_dtype)


def check_derivatives(layers: Iterable[keras.layers.Layer], name: str) -> None:
    """Raise a ValueError for a layer whose second derivatives are wrong."""
    for layer in layers:
        if isinstance(layer, _WRONG) and not isinstance(layer, LayerNormalization):
            raise ValueError(
                f"`{name}` must not normalize by mean and variance, of which TensorFlow has wrong "
                "second derivatives; use keras.layers.RMSNormalization. Received: a layer "
                f"{layer.name!r}"
            )
