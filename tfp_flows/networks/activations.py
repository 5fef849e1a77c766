"""Smooth activations, each with its derivative, which share what is costly."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

__all__ = ["SMOOTH"]

Pair = tuple[tf.Tensor, tf.Tensor]


def _tanh(x: tf.Tensor) -> Pair:
    value = tf.tanh(x)
    return value, 1 - value * value


def _softplus(x: tf.Tensor) -> Pair:
    return tf.nn.softplus(x), tf.sigmoid(x)


def _silu(x: tf.Tensor) -> Pair:
    sigmoid = tf.sigmoid(x)  # Once, for it is most of the cost of a small network.
    value = x * sigmoid
    return value, value + sigmoid * (1 - value)


# By name.
SMOOTH: dict[str, Callable[[tf.Tensor], Pair]] = {
    "tanh": _tanh,
    "softplus": _softplus,
    "silu": _silu,
}
