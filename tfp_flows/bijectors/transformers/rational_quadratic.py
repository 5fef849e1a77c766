"""Rational-quadratic splines, and what all splines are made of."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.transformers.base import Pair, Transformer, check_positive
from tfp_flows.bijectors.transformers.rational_quadratic_kernel import Grid, spline

__all__ = ["RationalQuadraticSpline"]


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


@dataclasses.dataclass(frozen=True)
class RationalQuadraticSpline(Spline):
    """Monotone piecewise rational-quadratic map of `[-bound, bound]`; the identity outside.

    In bin `k`, of width `w`, height `h`, lower left knot `(x_k, y_k)` and slopes `d0`, `d1` at its
    ends, with `s = h / w` and `t = (x - x_k) / w`:

    Forward: `y = y_k + h (s t² + d0 t(1-t)) / q`, where `q = s + (d0 + d1 - 2s) t(1-t)`
    Inverse: the root `t = 2c / (-b - sqrt(b² - 4ac))` of the quadratic `a t² + b t + c = 0`, with
      `e = (y - y_k)(d0 + d1 - 2s)`, `a = h (s - d0) + e`, `b = h d0 - e`, `c = -s (y - y_k)`
    Log-det: `log(s² (d1 t² + 2 s t(1-t) + d0 (1-t)²)) - 2 log q`

    Widths and heights are a softmax of parameters and at least `min_bin` of the whole, slopes at
    the inner knots a shifted softplus and at least `min_slope`; at `±bound` the slope is 1, so that
    the map and its derivative continue into the identity. `3 bins - 1` parameters a scalar. Both
    directions cost about `20 bins` elementwise operations: the bins are unrolled, and no gather is
    needed.

    Args:
      bins: number of bins, at least 1.
      bound: half-width of the interval that is transformed, in the units of `x`.
      min_bin: smallest width and height of a bin, as a share of the interval.
      min_slope: smallest slope at a knot; inside a bin the slope can be smaller.

    Raises:
      ValueError, TypeError: an argument is not a positive finite number, `bins` is no integer, or
        `bins * min_bin` is not below 1.

    Source: Conor Durkan, Artur Bekasov, Iain Murray and George Papamakarios, "Neural Spline Flows"
    (2019), after John A. Gregory and Roger Delbourgo, "Piecewise Rational Quadratic Interpolation
    to Monotonic Data" (1982).

    Example:
      >>> spline = bijectors.transformers.RationalQuadraticSpline(bins=16, bound=4.0)
      >>> bijectors.Elementwise(2, spline)
    """

    closed_inverse = True

    bins: int = 8
    bound: float = 5.0
    min_bin: float = 5e-3
    min_slope: float = 1e-2

    def __post_init__(self):
        check_positive(self, "bound", "min_slope")
        check_bins(self, at_least=1)
        check_min_slope(self)

    @property
    def parameter_count(self) -> int:
        return 3 * self.bins - 1

    def _map(
        self, value: tf.Tensor, parameters: tf.Tensor, in_bin: Callable[..., Pair], *, search: int
    ) -> Pair:
        # Of parameters that many values share, the bins are found once, in the plain way.
        shape = parameters.shape
        if (shape[:-2] + shape[-1:]).as_list() != value.shape.as_list():
            return super()._map(value, parameters, in_bin, search=search)
        offset = slope_offset(self.min_slope)
        grid = Grid(self.bins, self.bound, self.min_bin, self.min_slope, offset, search == 1)
        return spline(grid, value, parameters)

    def _bin(self, value: tf.Tensor, parameters: tf.Tensor, *, search: int) -> list[tf.Tensor]:
        bins = self.bins
        logits = tf.stack([parameters[..., :bins, :], parameters[..., bins : 2 * bins, :]])
        sizes = shares(logits, 2 * self.bound, self.min_bin)
        inner = positive_slopes(parameters[..., 2 * bins :, :], self.min_slope)
        slopes = slopes_at_ends(inner, bound_slope=tf.ones_like(parameters[..., :1, :]))
        return find_bin(value, sizes, slopes, start=-self.bound, search=search)

    @staticmethod
    def _forward_in_bin(x: tf.Tensor, *piece: tf.Tensor) -> Pair:
        return rational_quadratic(x, *piece)

    @staticmethod
    def _inverse_in_bin(y: tf.Tensor, *piece: tf.Tensor) -> Pair:
        return inverse_rational_quadratic(y, *piece)


def rational_quadratic(
    x: tf.Tensor,
    x_k: tf.Tensor,
    y_k: tf.Tensor,
    w: tf.Tensor,
    h: tf.Tensor,
    d0: tf.Tensor,
    d1: tf.Tensor,
) -> Pair:
    """`y` and `log dy/dx` in the bin of these corner, sizes and slopes."""
    t = tf.clip_by_value((x - x_k) / w, 0.0, 1.0)
    s = h / w
    q = s + (d0 + d1 - 2 * s) * t * (1 - t)
    y = y_k + h * (s * t * t + d0 * t * (1 - t)) / q
    return y, _log_slope(t, s, q, d0, d1)


def inverse_rational_quadratic(
    y: tf.Tensor,
    x_k: tf.Tensor,
    y_k: tf.Tensor,
    w: tf.Tensor,
    h: tf.Tensor,
    d0: tf.Tensor,
    d1: tf.Tensor,
) -> Pair:
    """`x` and `log dx/dy` in the bin of these corner, sizes and slopes."""
    s = h / w
    rise = tf.clip_by_value(y - y_k, 0.0, h)
    e = rise * (d0 + d1 - 2 * s)
    a, b, c = h * (s - d0) + e, h * d0 - e, -s * rise
    # Rounding can push the discriminant below 0; the floor keeps the root's gradient finite.
    tiny = np.finfo(y.dtype.as_numpy_dtype).tiny
    root = tf.sqrt(tf.maximum(b * b - 4 * a * c, tiny))
    t = tf.clip_by_value(2 * c / (-b - root), 0.0, 1.0)
    q = s + (d0 + d1 - 2 * s) * t * (1 - t)
    return x_k + w * t, -_log_slope(t, s, q, d0, d1)


def _log_slope(t: tf.Tensor, s: tf.Tensor, q: tf.Tensor, d0: tf.Tensor, d1: tf.Tensor) -> tf.Tensor:
    slope = d1 * t * t + 2 * s * t * (1 - t) + d0 * (1 - t) * (1 - t)
    return 2 * (tf.math.log(s) - tf.math.log(q)) + tf.math.log(slope)


def shares(logits: tf.Tensor, total: float | tf.Tensor, min_share: float) -> tf.Tensor:
    """Softmax over axis -2, at least `min_share` each, times `total`."""
    weights = tf.exp(logits - tf.reduce_max(logits, -2, keepdims=True))
    free = total * (1 - logits.shape[-2] * min_share)
    return weights * (free / tf.reduce_sum(weights, -2, keepdims=True)) + total * min_share


def positive_slopes(raw: tf.Tensor, min_slope: float) -> tf.Tensor:
    """Slopes above `min_slope`; 1 where `raw` is 0, so that zeros give the identity."""
    return tf.nn.softplus(raw + slope_offset(min_slope)) + min_slope


def slope_offset(min_slope: float) -> float:
    """What is added to 0 for a slope of 1."""
    return math.log(math.expm1(1 - min_slope))


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


def check_bins(spline: Transformer, *, at_least: int) -> None:
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


def check_min_slope(spline: Transformer) -> None:
    """Check that the field `min_slope` leaves room for the slope 1 of the identity."""
    check_positive(spline, "min_slope")
    if spline.min_slope >= 1:
        raise ValueError(f"`min_slope` must be below 1. Received: min_slope={spline.min_slope!r}")
