"""Checks of what agents and critics are given, which name the argument that is wrong."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

__all__ = ["in_interval", "rows_of"]


def in_interval(value: Any, name: str, interval: str) -> float:
    """Return a number; raise a ValueError unless it is finite and in an interval, as "[0, 1)"."""
    low, high = map(float, interval[1:-1].split(","))
    fits = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if fits and math.isfinite(value):
        above = value >= low if interval[0] == "[" else value > low
        below = value <= high if interval[-1] == "]" else value < high
        if above and below:
            return float(value)
    what = "a finite number" if (low, high) == (-math.inf, math.inf) else f"in {interval}"
    raise ValueError(f"`{name}` must be {what}. Received: {name}={value!r}")


def rows_of(value: Any, size: int | None, name: str, dtype: str) -> np.ndarray:
    """Return numbers `(n, size)`, or `(n,)` where `size` is None; else raise a ValueError."""
    array = np.asarray(value)
    wanted = (len(array), *(() if size is None else (size,))) if array.ndim else None
    if array.shape != wanted:
        expected = "(n,)" if size is None else f"(n, {size})"
        raise ValueError(
            f"`{name}` must have shape {expected}. Received: {name} of shape {array.shape}"
        )
    return array.astype(dtype)
