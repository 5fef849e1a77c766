"""Standardizer: shift and scale columns to mean 0 and deviation 1, as weights of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_flows.model.data import check_finite

__all__ = ["Standardizer"]


class Standardizer(keras.layers.Layer):
    """`z = (x - shift) / scale`, the identity until `adapt`; its weights are saved, not trained.

    Keras' `Normalization` does the same to inputs; this one also goes back, and has the log-det
    that a density needs.

    Args:
      shape: shape of one event or context.
      dtype: floating dtype of what is standardized.
      name: name of the layer.
    """

    def __init__(self, shape: Sequence[int], *, dtype: str, name: str):
        super().__init__(dtype=dtype, autocast=False, trainable=False, name=name)
        self.shape = tuple(shape)
        # No autocast: `log_det` runs within a model's call, in half under mixed precision.
        options = {"shape": self.shape, "autocast": False}
        self.shift = self.add_weight(initializer="zeros", name="shift", **options)
        self.scale = self.add_weight(initializer="ones", name="scale", **options)
        self.built = True

    def adapt(self, data: Any, name: str) -> None:
        """Take mean and standard deviation of the columns of `data`, which `name` names in errors.

        Raises:
          ValueError: a value is not finite, there is only one row, or a column is constant.
        """
        check_finite(data, name)
        columns = getattr(data, "columns", None)
        data = np.asarray(data, "float64")
        if data.shape[1:] != self.shape:
            expected = ", ".join(map(str, ("n", *self.shape)))
            raise ValueError(f"`{name}` must have shape ({expected}). Received: {data.shape}")
        if len(data) < 2:
            raise ValueError(f"`{name}` must have two rows or more. Received: {len(data)}")
        # A column that varies only in digits beyond the dtype's would come out as a few steps.
        eps = np.finfo(self.dtype).eps
        constant = np.argwhere(data.std(0) <= 100 * eps * np.abs(data).max(0))
        if len(constant):
            index = ", ".join(map(str, constant[0])) or "0"
            column = index if columns is None else repr(columns[constant[0][0]])
            raise ValueError(
                f"`{name}` must vary in every column. Received: a constant column, {column}, which "
                f"has no density, or one that varies in no digit of {self.dtype}: subtract its "
                "offset, or use float64"
            )
        self.shift.assign(data.mean(0))
        self.scale.assign(data.std(0))

    def call(self, x: Any) -> tf.Tensor:
        """From data units to standardized ones.

        Raises:
          ValueError: the last axes of `x` are not the shape of an event.
        """
        x = tf.cast(tf.convert_to_tensor(x), self.dtype)
        rank = x.shape.rank
        if rank is not None and (
            rank < len(self.shape)
            or not x.shape[rank - len(self.shape) :].is_compatible_with(self.shape)
        ):
            expected = ", ".join(map(str, ("...", *self.shape)))
            raise ValueError(f"Events must have shape ({expected}). Received: {tuple(x.shape)}")
        return (x - self.shift) / self.scale

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return tuple(input_shape)

    def inverse(self, z: tf.Tensor) -> tf.Tensor:
        """From standardized units to those of the data."""
        return z * self.scale + self.shift

    def log_det(self) -> tf.Tensor:
        """The log-determinant of `call`, the same everywhere: `-Σ log scale`."""
        return -tf.reduce_sum(tf.math.log(self.scale.value))
