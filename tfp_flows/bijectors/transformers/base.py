"""What every transformer is: a monotone scalar map, with parameters given at the call."""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["Transformer", "log_softmax"]

Pair = tuple[tf.Tensor, tf.Tensor]


class Transformer(abc.ABC):
    """An elementwise monotone map `x -> y` of scalars, with parameters given at the call."""

    # True for a few operations: `MaskedAutoregressive` then lets XLA compile its loop over columns.
    compile_loop = False

    @property
    def needs_raw_data(self) -> bool:
        """True where inputs must come in their own units, as angles must."""
        return False

    @property
    def is_monotone(self) -> bool:
        """True of all transformers but those of a circle."""
        return True

    @property
    def is_affine(self) -> bool:
        """True of those that scale and shift, whatever the parameters."""
        return False

    @property
    @abc.abstractmethod
    def parameter_count(self) -> int:
        """How many parameters one scalar needs."""

    @abc.abstractmethod
    def forward(self, x: tf.Tensor, parameters: tf.Tensor) -> Pair:
        """Return `y` and `log dy/dx`, elementwise, both of the shape of `x`."""

    @abc.abstractmethod
    def inverse(self, y: tf.Tensor, parameters: tf.Tensor) -> Pair:
        """Return `x` and `log dx/dy`, elementwise, both of the shape of `y`."""

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        if not dataclasses.is_dataclass(self):
            raise TypeError(
                "A transformer that is to be saved must be a dataclass, or define `get_config`. "
                f"Received: transformer={self!r}"
            )
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Transformer:
        """Construct from `get_config()`."""
        return cls(**config)


def match_shape(log_det: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """`log_det` broadcast to the shape of `y`, where it does not have it."""
    if log_det.shape.is_fully_defined() and log_det.shape == y.shape:
        return log_det
    # Not `tf.broadcast_to`, whose gradient XLA cannot compile in loops, as those of sampling are.
    return log_det + tf.zeros_like(y)


def of_nothing(x: tf.Tensor, parameters: tf.Tensor) -> Pair:
    """What the map of no scalars at all returns.

    In graphs, of a product of ones and a tensor that is known to be empty, the optimizer of
    TensorFlow 2.21 divides by 0, which ends the process.
    """
    y = x + parameters[..., 0, :]
    return y, tf.zeros_like(y)


def log_softmax(raw: tf.Tensor) -> tf.Tensor:
    """`log(exp r_k / Σ_j exp r_j)` over the axis of parameters, the last but one.

    The gradient of `tf.nn.log_softmax` over another axis than the last cannot be compiled by XLA
    within a loop, as that of sampling is.
    """
    return raw - tf.reduce_logsumexp(raw, axis=-2, keepdims=True)


def bounded(raw: tf.Tensor, bound: float) -> tf.Tensor:
    """`bound tanh(raw / bound)`: within `±bound`, and about `raw` near 0, where training starts."""
    return bound * tf.tanh(raw / bound)


def check_positive(transformer: object, *names: str) -> None:
    for name in names:
        value = getattr(transformer, name)
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise TypeError(f"`{name}` must be a number. Received: {name}={value!r}")
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"`{name}` must be positive and finite. Received: {name}={value!r}")


def check_below_one(transformer: Transformer, name: str) -> None:
    """Check a field that is known to be a number."""
    value = getattr(transformer, name)
    if value >= 1:
        raise ValueError(f"`{name}` must be below 1. Received: {name}={value!r}")
