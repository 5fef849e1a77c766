"""Parametric: the base of maps of vectors whose parameters are free, or a function of context."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.base import (
    Bijector,
    check_context,
    check_event_size,
    mark_missing,
)
from tfp_flows.bijectors.transformers.base import Pair
from tfp_flows.networks.conditioner import match_batch
from tfp_flows.networks.parameters import Parameters
from tfp_flows.ops.checks import floating
from tfp_flows.ops.internals import prefer_static as ps

__all__ = ["Parametric"]


class Parametric(Bijector):
    """A map of vectors with some arrays of parameters, trained as they are or made from context.

    A subclass gives the initial arrays to this constructor, and `_map` and `_unmap`, which take an
    event and the arrays in the same order. The arrays are pieces of one vector, so that one
    network makes all of them.

    Shapes: events `(event_size,)`, context `(..., context_size)`; the batch shapes of both
    broadcast. Without context an array reaches `_map` in its own shape, with context behind the
    context's batch shape. `_map` and `_unmap` return the value and a log-det that broadcasts to
    its batch shape.

    Args:
      event_size: number of columns.
      initial: values at the start, an array for every parameter of `_map`.
      context_size: width of the context, or `None`.
      conditioner: hidden widths of an MLP that reads the context, or a Keras 3 layer
        `(batch, context_size) -> (batch, features)`.
      dtype: floating dtype of events and parameters.
      seed: integer for reproducible initial weights of the network, or `None`.
      parameters: the arguments of the subclass's constructor.
      is_affine: whether every map is a matrix and a shift.

    Raises:
      ValueError: `dtype` is neither float32 nor float64, or `context_size` no positive integer.
    """

    def __init__(
        self,
        event_size: int,
        initial: Sequence[np.ndarray],
        *,
        context_size: int | None,
        conditioner: Sequence[int] | keras.layers.Layer,
        dtype: str | tf.DType,
        seed: int | None,
        parameters: dict[str, Any],
        is_affine: bool = False,
    ):
        dtype = floating(dtype)
        self.event_size = event_size
        self.context_size = context_size
        self._shapes = tuple(array.shape for array in initial)
        vector = np.concatenate([array.ravel() for array in initial])
        self._values = Parameters(
            vector,
            context_size=context_size,
            conditioner=conditioner,
            dtype=dtype.name,
            seed=seed,
        )
        super().__init__(parameters=parameters, dtype=dtype, is_constant_jacobian=is_affine)

    @abc.abstractmethod
    def _map(self, x: tf.Tensor, *arrays: tf.Tensor) -> Pair:
        """Forward value and log-det, given the parameters."""

    @abc.abstractmethod
    def _unmap(self, y: tf.Tensor, *arrays: tf.Tensor) -> Pair:
        """Inverse value and log-det, given the parameters."""

    def _forward_and_log_det(
        self, x: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        return self._transform(x, context, self._map)

    def _inverse_and_log_det(
        self, y: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        return self._transform(y, context, self._unmap)

    def _transform(
        self, x: tf.Tensor, context: tf.Tensor | None, direction: Callable[..., Pair]
    ) -> Pair:
        x = check_event_size(self, x, self.event_size)
        context = check_context(self, context, x.dtype)
        if context is not None:
            x = match_batch(x, context)
        y, log_det = direction(x, *self._arrays(context))
        log_det = tf.broadcast_to(log_det, ps.shape(y)[:-1])
        return y, mark_missing(log_det, context)

    def _arrays(self, context: tf.Tensor | None) -> list[tf.Tensor]:
        vector = self._values(context)
        batch = ps.shape(vector)[:-1]
        pieces = tf.split(vector, [math.prod(shape) for shape in self._shapes], axis=-1)
        return [
            tf.reshape(piece, ps.concat([batch, ps.cast(shape, tf.int32)], 0))
            for piece, shape in zip(pieces, self._shapes, strict=True)
        ]
