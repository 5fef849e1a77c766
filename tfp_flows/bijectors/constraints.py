"""The maps behind `Support`: the line onto what columns allow, and vectors onto the simplex.

Each has `constrain(u)` and `unconstrain(y)`, which return the value and the log-slopes of
*`constrain`*, one per column of `u`, and `inside(y)`, true where `y` lies in the support.
Everything is clipped before the maths, so that no branch of a `where` can make a NaN; what lies
outside is taken to the nearest number inside.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["Columns", "Entry", "Simplex", "checked_support"]

Entry = str | tuple[float, float]
Pair = tuple[tf.Tensor, tf.Tensor]


class Columns:
    """Every column onto a support of its own: all numbers, the positive ones, or an interval.

    Args:
      entries: `"real"`, `"positive"`, `"angle"` or `(low, high)`, one per column.
      dtype: NumPy's type of the columns.
    """

    def __init__(self, entries: Sequence[Entry], dtype: type):
        self.entries = entries
        self.output_size = len(entries)
        info = np.finfo(dtype)
        self._tiny, self._huge = info.tiny, info.max
        self._positive = np.array([entry == "positive" for entry in entries])
        self._bounded = np.array([entry not in ("positive", "real") for entry in entries])
        self._low, self._high = np.array([_ends(entry, dtype) for entry in entries], dtype).T
        self._width = self._high - self._low
        # The outermost numbers inside. Next to 0, numbers are too small for the maths.
        self._lowest = np.maximum(np.nextafter(self._low, self._high), self._low + info.tiny)
        self._highest = np.minimum(np.nextafter(self._high, self._low), self._high - info.tiny)

    def constrain(self, u: tf.Tensor) -> Pair:
        y, log_slopes = u, tf.zeros_like(u)
        if self._positive.any():
            logs = tf.clip_by_value(u, math.log(self._tiny) + 1, math.log(self._huge) - 1)
            y = tf.where(self._positive, tf.exp(logs), y)
            log_slopes = tf.where(self._positive, logs, log_slopes)
        if self._bounded.any():
            # From the nearer end, where numbers may be finer.
            raised = self._low + self._width * tf.sigmoid(u)
            lowered = self._high - self._width * tf.sigmoid(-u)
            inside = tf.clip_by_value(tf.where(u < 0, raised, lowered), self._lowest, self._highest)
            slopes = np.log(self._width) - tf.math.softplus(u) - tf.math.softplus(-u)
            y = tf.where(self._bounded, inside, y)
            log_slopes = tf.where(self._bounded, slopes, log_slopes)
        return y, log_slopes

    def unconstrain(self, y: tf.Tensor) -> Pair:
        u, log_slopes = y, tf.zeros_like(y)
        if self._positive.any():
            logs = tf.math.log(tf.clip_by_value(y, self._tiny, self._huge))
            u = tf.where(self._positive, logs, u)
            log_slopes = tf.where(self._positive, logs, log_slopes)
        if self._bounded.any():
            inside = tf.clip_by_value(y, self._lowest, self._highest)
            above, below = tf.math.log(inside - self._low), tf.math.log(self._high - inside)
            u = tf.where(self._bounded, above - below, u)
            log_slopes = tf.where(self._bounded, above + below - np.log(self._width), log_slopes)
        return u, log_slopes

    def inside(self, y: tf.Tensor) -> tf.Tensor:
        infinity = self._low.dtype.type(np.inf)
        low = np.where(self._bounded, self._low, np.where(self._positive, 0 * self._low, -infinity))
        return (y > low) & (y < np.where(self._bounded, self._high, infinity))


class Simplex:
    """`D` numbers to `D + 1` proportions, by breaking a stick; zeros give equal proportions.

    Args:
      size: `D`.
      dtype: NumPy's type of the columns.
    """

    def __init__(self, size: int, dtype: type):
        self.entries = ["simplex"] * (size + 1)
        self.output_size = size + 1
        info = np.finfo(dtype)
        self._tiny, self._sum_tolerance = info.tiny, math.sqrt(info.eps)
        self._offset: np.ndarray = np.log(np.arange(size, 0, -1)).astype(dtype)

    def constrain(self, u: tf.Tensor) -> Pair:
        log_part = tf.math.log_sigmoid(u - self._offset)
        log_rest = tf.math.log_sigmoid(self._offset - u)
        log_before = tf.cumsum(log_rest, axis=-1, exclusive=True)
        last = tf.reduce_sum(log_rest, -1, keepdims=True)
        log_y = tf.concat([log_part + log_before, last], -1)
        y = tf.exp(tf.maximum(log_y, math.log(self._tiny) + 1))
        return y, log_part + log_rest + log_before

    def unconstrain(self, y: tf.Tensor) -> Pair:
        y = tf.clip_by_value(y, self._tiny, 1.0)
        # What is left of the stick is summed from its end: to subtract from 1 would lose digits.
        log_left = tf.math.log(tf.cumsum(y, axis=-1, reverse=True))
        log_before, log_after = log_left[..., :-1], log_left[..., 1:]
        log_y = tf.math.log(y[..., :-1])
        return log_y - log_after + self._offset, log_y + log_after - log_before

    def inside(self, y: tf.Tensor) -> tf.Tensor:
        gap = tf.abs(tf.reduce_sum(y, -1, keepdims=True) - 1)
        return (y > 0) & (gap < self._sum_tolerance)


def checked_support(support: Any, size: int, dtype: type) -> Entry | list[Entry]:
    """`support` in plain Python: a name, a pair, or a list of these; a ValueError if it is none."""
    if isinstance(support, str) and support == "simplex":
        return support
    if isinstance(support, str) or _is_pair(support):
        entry = _entry(support, dtype)
        if entry is not None:
            return entry
    elif hasattr(support, "__len__") and len(support) == size:
        entries = [_entry(value, dtype) for value in support]
        checked = [entry for entry in entries if entry is not None]
        if len(checked) == size:
            return checked
    raise ValueError(
        "`support` must be 'real', 'positive', 'angle', 'simplex', an interval (low, high) "
        f"with low < high, or a list of {size}, one per column, without 'simplex'. "
        f"Received: support={support!r}"
    )


def _is_pair(value: Any) -> bool:
    if isinstance(value, str) or not hasattr(value, "__len__") or len(value) != 2:
        return False
    return all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in value)


def _entry(value: Any, dtype: type) -> Entry | None:
    """The support of one column in plain Python; None if it is none."""
    if isinstance(value, str):
        return value if value in ("real", "positive", "angle") else None
    if not _is_pair(value):
        return None
    low, high = map(float, value)
    with np.errstate(over="ignore", invalid="ignore"):
        ends: np.ndarray = np.array([low, high], dtype)
        room = np.isfinite(ends[1] - ends[0]) and np.nextafter(ends[0], ends[1]) < ends[1]
    return (low, high) if room else None


def _ends(entry: Entry, dtype: type) -> tuple[float, float]:
    """The ends of the open interval of a column; any will do where it has none."""
    if entry == "angle":
        # One number further out than ±π, angles that are found in data.
        end = np.nextafter(dtype(np.pi), dtype(4))
        return -end, end
    return (0.0, 1.0) if isinstance(entry, str) else entry
