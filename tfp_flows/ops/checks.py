"""Checks of arguments that every part of the package takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfp_flows.ops.limits import check_size

__all__ = ["floating", "permutation", "positive_int"]


def positive_int(value: int, name: str) -> int:
    """Return `value`; raise a ValueError that names it unless it is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
    check_size(value)
    return value


def floating(dtype: str | tf.DType) -> tf.DType:
    """Return `dtype`; raise a ValueError unless it is float32 or float64."""
    dtype = tf.as_dtype(dtype)
    if dtype not in (tf.float32, tf.float64):
        raise ValueError(f"`dtype` must be float32 or float64. Received: dtype={dtype.name!r}")
    return dtype


def permutation(
    value: str | Sequence[int] | np.ndarray, size: int, name: str, seed: int | None
) -> list[int]:
    """An order of `size` columns: "reversed", "random" or given; else a ValueError names it.

    Without a seed a random order is always the same, so that saved weights fit.
    """
    columns = np.arange(size)
    if isinstance(value, str):
        if value == "reversed":
            return columns[::-1].tolist()
        if value == "random":
            return np.random.default_rng(seed or 0).permutation(columns).tolist()
    elif np.ndim(value) == 1 and np.array_equal(np.sort(value), columns):
        return [int(column) for column in value]
    raise ValueError(
        f"`{name}` must be 'reversed', 'random' or a permutation of 0, ..., {size - 1}. "
        f"Received: {name}={value!r}"
    )
