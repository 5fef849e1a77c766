"""Embedding: sequences, images and other contexts to the vectors that conditioners read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfp_flows.networks.mlp import without_trainable
from tfp_flows.ops.capabilities import Adaptable
from tfp_flows.ops.grids import Size, check_shape, one_batch_axis
from tfp_flows.ops.internals import prefer_static as ps
from tfp_flows.ops.limits import claim

__all__ = ["ContextDropout", "Embedding"]


class Embedding(tf.Module):
    """A Keras layer that turns contexts of any shape into vectors, as a part of a flow.

    Shapes: `(..., *context_shape)` to `(..., context_size)`, or to `(..., *context_size)`, what
    couplings on a grid read, where that is a shape; the layer itself is called with one
    batch axis.

    Args:
      layer: Keras 3 layer `(batch, *context_shape) -> (batch, context_size)`.
      context_shape: shape of one context.
      context_size: width, or shape, of what the layer has to return.
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
        context_size: Size | None,
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
        shape = (None,) if context_size is None else check_shape(context_size, "context_size")
        self._ndims = len(shape)
        if context_size is None or not returned.is_compatible_with((1, *shape)):
            need = ", ".join(map(str, ("batch", *shape)))
            raise ValueError(
                f"`embedding` must return shape ({need}), the `context_size` of the bijectors. "
                f"Received: {tuple(returned)} for one context"
            )
        self._layer_variables = [v.value for v in layer.variables]

    def adapt(self, context: Any) -> None:
        """Hand contexts on to the layer, if it is one that adapts to data before training."""
        if isinstance(self.layer, Adaptable):
            self.layer.adapt(context)

    def __call__(self, context: tf.Tensor) -> tf.Tensor:
        batch = ps.shape(context)[: context.shape.rank - len(self.context_shape)]
        flat = one_batch_axis(context, len(self.context_shape))
        embedded = tf.cast(self.layer(flat), self._dtype)
        return tf.reshape(embedded, ps.concat([batch, ps.shape(embedded)[-self._ndims :]], 0))


@keras.saving.register_keras_serializable("tfp_flows")
class ContextDropout(keras.layers.Layer):
    """Embedding that leaves contexts as they are, but in training makes some of them zeros.

    So a flow learns the density without context, too; see `flows.guided`.

    Shapes: `(batch, ...)` to the same; whole contexts go.

    Args:
      rate: share of the contexts, in `[0, 1)`.
      seed: integer for reproducible draws, or `None`.
      dtype: Keras dtype policy; the global one by default.
      name: name of the layer.

    Raises:
      ValueError: `rate` is outside `[0, 1)`.

    Source: Jonathan Ho and Tim Salimans, "Classifier-Free Diffusion Guidance" (2022).

    Example:
      >>> float(tf.reduce_sum(networks.ContextDropout(0.1)(np.ones((2, 3), "float32"))))
      6.0
    """

    independent_over_batch = True

    def __init__(
        self,
        rate: float,
        *,
        seed: int | None = None,
        dtype: str | keras.DTypePolicy | None = None,
        name: str | None = None,
    ):
        # A float64 context is not to be rounded to the layer's float32.
        super().__init__(dtype=dtype, autocast=False, name=name)
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"`rate` must be in [0, 1). Received: rate={rate!r}")
        self.rate = rate
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if not training:
            return tf.convert_to_tensor(inputs)
        shape = ps.concat([ps.shape(inputs)[:1], [1] * (len(inputs.shape) - 1)], 0)
        kept = keras.random.uniform(shape, seed=self.seed_generator) >= self.rate
        return tf.where(kept, inputs, tf.zeros([], inputs.dtype))

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """The shape of the result, by that of the inputs."""
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ContextDropout:
        return without_trainable(cls, config)
