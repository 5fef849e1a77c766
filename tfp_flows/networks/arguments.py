"""Checks of arguments that every part of the package takes."""

from __future__ import annotations

import tensorflow as tf

__all__ = ["floating", "positive_int"]


def positive_int(value: int, name: str) -> int:
    """Return `value`; raise a ValueError that names it unless it is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
    return value


def floating(dtype: str | tf.DType) -> tf.DType:
    """Return `dtype`; raise a ValueError unless it is float32 or float64."""
    dtype = tf.as_dtype(dtype)
    if dtype not in (tf.float32, tf.float64):
        raise ValueError(f"`dtype` must be float32 or float64. Received: dtype={dtype.name!r}")
    return dtype
