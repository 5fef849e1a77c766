"""Embedding: sequences, images and other contexts to the vectors that conditioners read."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from tfp_flows.ops.internals import prefer_static as ps
from tfp_flows.ops.limits import claim

__all__ = ["Embedding"]


class Embedding(tf.Module):
    """A Keras layer that turns contexts of any shape into vectors, as a part of a flow.

    Shapes: `(..., *context_shape)` to `(..., context_size)`; the layer itself is called with one
    batch axis.

    Args:
      layer: Keras 3 layer `(batch, *context_shape) -> (batch, context_size)`.
      context_shape: shape of one context.
      context_size: width of what the layer has to return.
      dtype: dtype of the result.

    Raises:
      TypeError: `layer` is not a Keras layer.
      ValueError: `context_shape` is missing, or the layer returns another shape.

    Example:
      >>> gru = keras.layers.GRU(8)
      >>> flow = flows.neural_spline(2, layers=2, embedding=gru, context_shape=(10, 3))
      >>> flow.log_prob(np.zeros((5, 2)), context=np.zeros((5, 10, 3)))     # (5,)
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        *,
        context_shape: Sequence[int] | None,
        context_size: int | None,
        dtype: str,
    ):
        super().__init__(name="embedding")
        if not isinstance(layer, keras.layers.Layer):
            raise TypeError(f"`embedding` must be a Keras 3 layer. Received: {layer!r}")
        if context_shape is None:
            raise ValueError(
                "`context_shape` is needed with `embedding`: the shape of one context. "
                "Received: context_shape=None"
            )
        self.layer = layer
        self.context_shape = tuple(context_shape)
        self.context_size = context_size
        self._dtype = dtype
        claim(*self.context_shape)
        returned = layer(tf.zeros([1, *self.context_shape], dtype)).shape
        if returned != (1, context_size):
            raise ValueError(
                f"`embedding` must return shape (batch, {context_size}), as wide as the "
                f"`context_size` of the bijectors. Received: {tuple(returned)} for one context"
            )
        self._layer_variables = [v.value for v in layer.variables]

    def __call__(self, context: tf.Tensor) -> tf.Tensor:
        batch = ps.shape(context)[: context.shape.rank - len(self.context_shape)]
        flat = tf.reshape(context, [-1, *self.context_shape])
        embedded = tf.cast(self.layer(flat), self._dtype)
        return tf.reshape(embedded, ps.concat([batch, [math.prod(embedded.shape[1:])]], 0))
