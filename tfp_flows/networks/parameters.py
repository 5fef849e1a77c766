"""Parameters: what a bijector learns, as free variables or as a function of context."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tfp_flows.networks.conditioner import Conditioner

__all__ = ["Parameters"]


class Parameters(tf.Module):
    """The parameters of a bijector: a variable or, given context, the output of a network.

    Both start at `initial`.

    Shapes: called without context, the result is `shape`; called with context `(..., C)`, it is
    `(..., *shape)`.

    Args:
      initial: array of the initial values, which gives the shape.
      context_size: width of the context, or `None` for a free variable.
      conditioner: hidden widths of an MLP that reads the context, or a Keras 3 layer
        `(batch, context_size) -> (batch, features)`.
      dtype: floating dtype, by name.
      seed: integer for reproducible initial weights of the network, or `None`.

    Raises:
      ValueError: as in `Conditioner`.

    Example:
      >>> networks.Parameters(np.zeros(3))().shape                                     # (3,)
      >>> networks.Parameters(np.zeros(3), context_size=2)(context=tf.ones([5, 2]))    # (5, 3)
    """

    def __init__(
        self,
        initial: np.ndarray,
        *,
        context_size: int | None = None,
        conditioner: Sequence[int] | keras.layers.Layer = (64, 64),
        dtype: str = "float32",
        seed: int | None = None,
    ):
        super().__init__(name="parameters")
        initial = tf.constant(initial, dtype)
        if context_size is None:
            self._values = tf.Variable(initial, name="parameters")
            return
        self._values = None
        self._conditioner = Conditioner(
            conditioner,
            input_size=0,
            output_shape=tuple(initial.shape),
            context_size=context_size,
            dtype=dtype,
            seed=seed,
        )
        # In the bias, and so in the weights: a start that was drawn at random must be saved.
        self.assign(initial)

    def assign(self, values: np.ndarray) -> None:
        """Set what the parameters are: of a network the bias, to which contexts add."""
        target = self._values if self._values is not None else self._conditioner.layer.head.bias
        target.assign(tf.reshape(tf.cast(values, target.dtype), target.shape))

    def __call__(self, context: tf.Tensor | None = None) -> tf.Tensor:
        if self._values is not None:
            return tf.convert_to_tensor(self._values)
        if context is None:
            raise ValueError(
                "`context` is missing: these parameters depend on it. Received: context=None"
            )
        return self._conditioner(context[..., :0], context)
