"""MADE: one network whose output for each column sees only the columns before it."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_flows.networks.mlp import dense_initializer, without_trainable
from tfp_flows.networks.periodic import waves
from tfp_flows.ops.checks import permutation, positive_int
from tfp_flows.ops.limits import claim

__all__ = ["MADE"]


@keras.saving.register_keras_serializable("tfp_flows")
class MADE(keras.layers.Layer):
    """Masked autoencoder: parameters for every column, computed from the columns before it.

    The columns stand in an order, in blocks of equal size, and every hidden unit has a degree: it
    sees blocks up to that one. A weight between two units is multiplied by 0 in every call unless
    the later unit may see what the earlier one saw; so the Jacobian has exact zeros whatever an
    optimizer does. Units that see the context only let the first block depend on it.

    Shapes: events `(batch, event_size)`, or, with context, both side by side,
    `(batch, event_size + context_size)`, to `(batch, parameter_count, event_size)`. The last layer
    starts at 0.

    Args:
      event_size: number of columns, D.
      parameter_count: how many parameters each column needs.
      hidden_units: widths of the hidden layers.
      order: `None` for the columns as they come, `"reversed"`, `"random"` (drawn by `seed`), or a
        permutation: `order[i]` is the column that comes i-th.
      passes: columns go in blocks of `ceil(D / passes)`, and do not see each other within one;
        D by default, for blocks of one. 2 makes a coupling's network.
      harmonics: for angles: inputs are read through `cos kx` and `sin kx`, `k` up to this number;
        0 for plain columns.
      residual: add each hidden layer of even number to the one two before. Widths must be equal
        and odd in number.
      activation: any elementwise Keras activation.
      context_size: width of the context, or `None`.
      seed: integer for reproducible initial weights and order. A random order without a seed is
        always the same, so that saved weights fit.
      dtype: Keras dtype policy; parameters come out in its variable dtype.
      name: name of the layer.

    Raises:
      ValueError: a size is not a positive integer; `order` is not a permutation; `passes` is larger
        than D; `residual` with widths that differ or are even in number.

    Source: Mathieu Germain et al., "MADE: Masked Autoencoder for Distribution Estimation" (2015);
    residual masks as in Conor Durkan and Charlie Nash, "Autoregressive Energy Machines" (2019).

    Example:
      >>> made = networks.MADE(3, parameter_count=2, hidden_units=(32, 32))
      >>> made(tf.ones([5, 3])).shape     # (5, 2, 3)
    """

    independent_over_batch = True

    def __init__(
        self,
        event_size: int,
        parameter_count: int,
        hidden_units: Sequence[int] = (64, 64),
        *,
        order: str | Sequence[int] | None = None,
        passes: int | None = None,
        harmonics: int = 0,
        residual: bool = False,
        activation: str = "relu",
        context_size: int | None = None,
        seed: int | None = None,
        dtype: str | keras.DTypePolicy | None = None,
        name: str | None = None,
    ):
        super().__init__(dtype=dtype, name=name)
        self.event_size = positive_int(event_size, "event_size")
        self.parameter_count = positive_int(parameter_count, "parameter_count")
        if context_size is not None:
            positive_int(context_size, "context_size")
        self.context_size = context_size
        self.hidden_units = _widths(hidden_units, residual)
        columns = range(event_size) if order is None else order
        self.order = np.array(permutation(columns, event_size, "order", seed))
        self.passes = event_size if passes is None else positive_int(passes, "passes")
        if self.passes > event_size:
            raise ValueError(
                f"`passes` must be at most event_size={event_size}. Received: passes={passes}"
            )
        self.harmonics = harmonics if harmonics == 0 else positive_int(harmonics, "harmonics")
        self.residual = residual
        self.activation = keras.activations.get(activation)
        self.seed = seed
        # Degrees are block numbers; without context, units of degree -1 would see nothing.
        self.block_size = -(-event_size // self.passes)
        self.blocks = -(-event_size // self.block_size)
        self.first_degree = 0 if context_size is None else -1
        self.degrees = self.blocks - 1 - self.first_degree  # Of hidden units, how many differ.
        self.column_degrees = np.argsort(self.order) // self.block_size
        self.hidden_degrees = [
            np.arange(width) * self.degrees // width + self.first_degree
            for width in (self.hidden_units if self.degrees else ())
        ]
        if min(self.hidden_units) < self.degrees:
            warnings.warn(
                f"`hidden_units` should be {self.degrees} or more for {event_size} columns: with "
                "fewer, some columns cannot see all before them. "
                f"Received: hidden_units={self.hidden_units}",
                stacklevel=2,
            )
        sizes = [
            event_size * (2 * self.harmonics or 1) + (context_size or 0),
            *self.hidden_units,
            event_size * parameter_count,
        ]
        for below, above in itertools.pairwise(sizes):
            claim(below, above)
        column_degrees = np.tile(self.column_degrees, 2 * self.harmonics or 1)
        context_degrees = np.full(context_size or 0, -1)
        degrees = [np.concatenate([column_degrees, context_degrees]), *self.hidden_degrees]
        masks = [below[:, None] <= above for below, above in itertools.pairwise(degrees)]
        self._masks = [mask.astype("float32") for mask in masks]
        output_mask = degrees[-1][:, None] < self.column_degrees  # All 0 without hidden units.
        self._output_mask = np.tile(output_mask, (1, parameter_count)).astype("float32")

    @property
    def fixed_structure(self) -> dict[str, Any]:
        return {"order": self.order, "passes": self.passes}

    def build(self, input_shape: Sequence[int | None] | None = None) -> None:
        self._weights_of = []
        for i, mask in enumerate(self._masks):
            kernel = self.add_weight(
                shape=mask.shape, initializer=dense_initializer(self.seed, i), name=f"kernel_{i}"
            )
            bias = self.add_weight(shape=mask.shape[1:], initializer="zeros", name=f"bias_{i}")
            self._weights_of.append((kernel, bias))
        shape = self._output_mask.shape
        options = {"initializer": "zeros", "autocast": False}
        self._output_kernel = None  # One block without context: free parameters.
        if self.degrees:
            self._output_kernel = self.add_weight(shape=shape, name="output_kernel", **options)
        self._output_bias = self.add_weight(shape=shape[1:], name="output_bias", **options)
        self.built = True

    def masked_weights(self) -> list[tuple[tf.Tensor, tf.Tensor]]:
        """Kernels, masked, and biases of all hidden layers and of the output, which comes last."""
        dtype = self.compute_dtype
        pairs = [
            (tf.cast(kernel.value, dtype) * tf.cast(mask, dtype), tf.cast(bias.value, dtype))
            for (kernel, bias), mask in zip(self._weights_of, self._masks, strict=True)
        ]
        bias = tf.convert_to_tensor(self._output_bias.value)
        kernel = tf.cast(self._output_mask, bias.dtype)
        if self._output_kernel is not None:
            kernel *= self._output_kernel.value
        return [*pairs, (kernel, bias)]

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        *hidden_weights, (output_kernel, output_bias) = self.masked_weights()
        outputs: list[tf.Tensor] = []
        hidden = inputs
        if self.harmonics:
            hidden = waves(inputs, self.event_size, self.harmonics)
        for i, (kernel, bias) in enumerate(hidden_weights):
            value = tf.matmul(hidden, kernel) + bias
            if self.adds(i):
                value += outputs[i - 2]
            outputs.append(value)
            hidden = self.activation(value)
        hidden = tf.cast(hidden, output_kernel.dtype)
        parameters = tf.matmul(hidden, output_kernel) + output_bias
        return tf.reshape(parameters, [-1, self.parameter_count, self.event_size])

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """`(batch, parameter_count, event_size)`, for `summary` and symbolic calls."""
        return (input_shape[0], self.parameter_count, self.event_size)

    def adds(self, layer: int) -> bool:
        """Whether a hidden layer is added to the one two before it."""
        return self.residual and layer >= 2 and layer % 2 == 0

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "event_size": self.event_size,
            "parameter_count": self.parameter_count,
            "hidden_units": self.hidden_units,
            "order": self.order.tolist(),
            "passes": self.passes,
            "harmonics": self.harmonics,
            "residual": self.residual,
            "activation": keras.activations.serialize(self.activation),
            "context_size": self.context_size,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MADE:
        return without_trainable(cls, config)


def _widths(hidden_units: Sequence[int], residual: bool) -> tuple[int, ...]:
    if not isinstance(hidden_units, Sequence) or isinstance(hidden_units, str) or not hidden_units:
        raise ValueError(
            "`hidden_units` must be a sequence of hidden widths, at least one. "
            f"Received: {hidden_units!r}"
        )
    widths = tuple(positive_int(units, "hidden_units") for units in hidden_units)
    if residual and (len(set(widths)) > 1 or len(widths) % 2 == 0):
        raise ValueError(
            "`hidden_units` must be equal and odd in number with `residual`. "
            f"Received: hidden_units={widths}"
        )
    return widths
