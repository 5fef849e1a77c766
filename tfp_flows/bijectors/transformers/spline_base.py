"""What polynomial splines are made of, and the checks of every spline's arguments."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Protocol

import tensorflow as tf

from tfp_flows.bijectors.transformers.base import Pair, Transformer, check_positive

__all__ = ["Spline", "check_bins", "check_min_slope", "find_bin", "shares", "slopes_at_ends"]


class Spline(Transformer):
    """A monotone piecewise map of `[-bound, bound]`; the identity outside.

    A subclass finds the bin that a value is in, and maps inside a bin, given what `_bin` returned.
    """

    bound: float

    def forward(self, x: tf.Tensor, parameters: tf.Tensor) -> Pair:
        return self._map(x, parameters, self._forward_in_bin, search=0)

    def inverse(self, y: tf.Tensor, parameters: tf.Tensor) -> Pair:
        return self._map(y, parameters, self._inverse_in_bin, search=1)

    def _map(
        self, value: tf.Tensor, parameters: tf.Tensor, in_bin: Callable[..., Pair], *, search: int
    ) -> Pair:
        # Clipped before the spline, so that nothing infinite stands behind `tf.where`.
        inside = tf.abs(value) < self.bound
        clipped = tf.clip_by_value(value, -self.bound, self.bound)
        mapped, log_det = in_bin(clipped, *self._bin(clipped, parameters, search=search))
        return tf.where(inside, mapped, value), tf.where(inside, log_det, tf.zeros_like(log_det))

    @abc.abstractmethod
    def _bin(self, value: tf.Tensor, parameters: tf.Tensor, *, search: int) -> list[tf.Tensor]:
        """What describes the bin that `value` is in, along x (0) or y (1)."""

    @staticmethod
    @abc.abstractmethod
    def _forward_in_bin(x: tf.Tensor, *piece: tf.Tensor) -> Pair:
        """`y` and `log dy/dx` in the bin."""

    @staticmethod
    @abc.abstractmethod
    def _inverse_in_bin(y: tf.Tensor, *piece: tf.Tensor) -> Pair:
        """`x` and `log dx/dy` in the bin."""


def shares(logits: tf.Tensor, total: float | tf.Tensor, min_share: float) -> tf.Tensor:
    """Softmax over axis -2, at least `min_share` each, times `total`."""
    weights = tf.exp(logits - tf.reduce_max(logits, -2, keepdims=True))
    free = total * (1 - logits.shape[-2] * min_share)
    return weights * (free / tf.reduce_sum(weights, -2, keepdims=True)) + total * min_share


def slopes_at_ends(inner: tf.Tensor, bound_slope: tf.Tensor) -> tf.Tensor:
    """Slopes at the left and the right end of every bin: `(2, ..., bins, units)`."""
    return tf.stack([tf.concat([bound_slope, inner], -2), tf.concat([inner, bound_slope], -2)])


def find_bin(
    value: tf.Tensor,
    sizes: tf.Tensor,
    slopes: tf.Tensor | None = None,
    *,
    start: float,
    search: int,
) -> list[tf.Tensor]:
    """Corner `x, y`, width, height and end slopes of the bin of `value`, along x (0) or y (1).

    `sizes` and `slopes` are `(2, ..., bins, units)`; both axes begin at `start`. The loop over the
    bins selects all at once, elementwise: few operations to trace, and none that gathers.
    """
    parts = [tf.unstack(part, axis=-2) for part in (sizes, slopes) if part is not None]
    corner = start * tf.ones_like(parts[0][0])
    found = None
    for size, *ends in zip(*parts, strict=True):
        here = tf.concat([corner, size, *ends], 0)
        if found is None:
            found = here
        else:
            beyond = value >= tf.stop_gradient(corner[search])
            found = tf.where(beyond, here, found)
        corner += size
    return tf.unstack(found)


class _HasBins(Protocol):
    @property
    def bins(self) -> int: ...

    @property
    def min_bin(self) -> float: ...


class _HasMinSlope(Protocol):
    @property
    def min_slope(self) -> float: ...


def check_bins(spline: _HasBins, *, at_least: int) -> None:
    """Check the fields `bins` and `min_bin`."""
    check_positive(spline, "bins", "min_bin")
    if not isinstance(spline.bins, int):
        raise TypeError(f"`bins` must be an integer. Received: bins={spline.bins!r}")
    if spline.bins < at_least:
        raise ValueError(f"`bins` must be at least {at_least}. Received: bins={spline.bins}")
    if spline.bins * spline.min_bin >= 1:
        raise ValueError(
            "`min_bin` must be below 1 / bins. "
            f"Received: min_bin={spline.min_bin!r}, bins={spline.bins}"
        )


def check_min_slope(spline: _HasMinSlope) -> None:
    """Check that the field `min_slope` leaves room for the slope 1 of the identity."""
    check_positive(spline, "min_slope")
    if spline.min_slope >= 1:
        raise ValueError(f"`min_slope` must be below 1. Received: min_slope={spline.min_slope!r}")
