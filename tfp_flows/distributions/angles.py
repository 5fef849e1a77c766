"""Angles: which columns a density repeats in, turn after turn, and one turn without edges."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["Angles", "find_angles"]

Array = np.ndarray

_TURN = 2 * np.pi
_ROWS = 64
_SAME = 0.01  # In nats.
_ROUNDING = 1e-5  # In radians.
_WIDTH = 0.5  # In radians, of the edge of the window.


@dataclasses.dataclass(frozen=True)
class Angles:
    """The columns of events that are angles, each by the middle of the turn that draws lie in.

    A density that repeats has no integral over all numbers. Times a window whose sum over all turns
    is 1 it has that of one turn, whatever it is, and falls to 0 without an edge. With `s` the width
    and `x` from the middle of the turn, the window is

        sigmoid((x + π) / s) - sigmoid((x - π) / s) = sinh(π / s) / (cosh(x / s) + cosh(π / s))

    Args:
      middle: `(D,)`, in radians, NaN of columns that are not angles.
    """

    middle: Array

    def of(self, columns: list[int]) -> Angles:
        """Those of some columns."""
        return Angles(self.middle[columns])

    def log_window(self, x: Array) -> tuple[Array, Array]:
        """Of `(..., D)` the logarithm of the product over angles, `(...)`, and its slope."""
        is_angle = np.isfinite(self.middle)
        x = np.where(is_angle, x - self.middle, 0.0) / _WIDTH
        high = np.pi / _WIDTH
        log_sum = np.logaddexp(np.logaddexp(x, -x), np.logaddexp(high, -high))
        log_window = high + np.log1p(-np.exp(-2 * high)) - log_sum
        slope = (np.exp(-x - log_sum) - np.exp(x - log_sum)) / _WIDTH
        return np.where(is_angle, log_window, 0.0).sum(-1), np.where(is_angle, slope, 0.0)

    def wrapped(self, x: Any) -> Any:
        """Points `(..., D)`, an array or a tensor, with all angles in their turn."""
        is_angle = np.isfinite(self.middle)
        first = np.where(is_angle, self.middle - np.pi, 0.0)
        return x - np.where(is_angle, _TURN, 0.0) * ((x - first) // _TURN)


def find_angles(log_prob: Callable[[tf.Tensor], tf.Tensor], drawn: tf.Tensor) -> Angles:
    """The columns that are angles, of a log-density and draws of it, `(n, D)`.

    Draws of an angle lie within one turn, and the density is the same one turn on. Of a density
    that does not repeat, there would be draws there, too.
    """
    x = drawn[:_ROWS]
    low, high = np.min(drawn, 0).astype("float64"), np.max(drawn, 0).astype("float64")
    middle = np.full(len(low), np.nan)
    for i in np.flatnonzero(high - low <= _TURN):
        turn = _TURN * tf.one_hot(i, len(low), dtype=x.dtype)
        change = np.abs(log_prob(x + turn) - log_prob(x))
        if np.median(change) < _SAME:  # Infinite or NaN where there is no density.
            near_zero = max(-low[i], high[i]) <= np.pi + _ROUNDING
            middle[i] = 0.0 if near_zero else (low[i] + high[i]) / 2
    return Angles(middle)
