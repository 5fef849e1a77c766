"""Polynomial splines: linear, quadratic and cubic, by rising smoothness and cost."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfp_flows.bijectors.transformers.base import Pair, check_positive
from tfp_flows.bijectors.transformers.spline_base import (
    Spline,
    check_bins,
    find_bin,
    shares,
    slopes_at_ends,
)
from tfp_flows.ops.implicit import implicit_root

__all__ = ["CubicSpline", "LinearSpline", "QuadraticSpline"]

# Newton steps inside a bracket, from `t = rise / h`: 12 reach float64 where the slopes of a bin are
# 1e-4 of `h / w`, 16 where they are 1e-6, 20 where they are 1e-8.
_STEPS = 20


@dataclasses.dataclass(frozen=True)
class LinearSpline(Spline):
    """Monotone piecewise linear map of `[-bound, bound]`; the identity outside.

    In bin `k`, of width `w = 2 bound / bins`, height `h` and lower left knot `(x_k, y_k)`:

    Forward: `y = y_k + h t`, where `t = (x - x_k) / w`
    Inverse: `x = x_k + w t`, where `t = (y - y_k) / h`
    Log-det: `log(h / w)`

    Heights are a softmax of parameters. The slope is constant in a bin and jumps at the knots and
    at `±bound`, and so does the density, a histogram: where a smooth one matters, take a smoother
    spline. `bins` parameters a scalar. Both directions cost about `10 bins` elementwise operations.

    Args:
      bins: number of bins, at least 2.
      bound: half-width of the interval that is transformed, in the units of `x`.
      min_bin: smallest height of a bin, as a share of the interval; the smallest slope is
        `bins * min_bin`.

    Raises:
      ValueError, TypeError: an argument is not a positive finite number, `bins` is not an integer
        or too small, or `bins * min_bin` is not below 1.

    Source: Thomas Müller, Brian McWilliams, Fabrice Rousselle, Markus Gross and Jan Novák, "Neural
    Importance Sampling" (2019).

    Example:
      >>> bijectors.Elementwise(2, bijectors.transformers.LinearSpline(bins=32, bound=4.0))
    """

    closed_inverse = True

    bins: int = 8
    bound: float = 5.0
    min_bin: float = 5e-3

    def __post_init__(self) -> None:
        check_positive(self, "bound")
        check_bins(self, at_least=2)

    @property
    def parameter_count(self) -> int:
        return self.bins

    def _bin(self, value: tf.Tensor, parameters: tf.Tensor, *, search: int) -> list[tf.Tensor]:
        heights = shares(parameters, 2 * self.bound, self.min_bin)
        widths = 2 * self.bound / self.bins * tf.ones_like(heights)
        return find_bin(value, tf.stack([widths, heights]), start=-self.bound, search=search)

    @staticmethod
    def _forward_in_bin(
        x: tf.Tensor, x_k: tf.Tensor, y_k: tf.Tensor, w: tf.Tensor, h: tf.Tensor
    ) -> Pair:
        return y_k + h * tf.clip_by_value((x - x_k) / w, 0.0, 1.0), tf.math.log(h / w)

    @staticmethod
    def _inverse_in_bin(
        y: tf.Tensor, x_k: tf.Tensor, y_k: tf.Tensor, w: tf.Tensor, h: tf.Tensor
    ) -> Pair:
        return x_k + w * tf.clip_by_value((y - y_k) / h, 0.0, 1.0), tf.math.log(w / h)


@dataclasses.dataclass(frozen=True)
class QuadraticSpline(Spline):
    """Monotone piecewise quadratic map of `[-bound, bound]`; the identity outside.

    Its slope is piecewise linear and continuous. In bin `k`, of width `w`, lower left knot
    `(x_k, y_k)` and slopes `d0`, `d1` at its ends, with `t = (x - x_k) / w`:

    Forward: `y = y_k + w t (d0 (1 - t/2) + d1 t/2)`
    Inverse: `t = r (d0 + d1) / (d0 + d)`, where `r = (y - y_k) / h`, the height of the bin is
      `h = w (d0 + d1) / 2` and `d² = d0² (1 - r) + d1² r`, `d` being the slope at `x`
    Log-det: `log(d0 (1 - t) + d1 t)`

    At `±bound` the slope is 1, so that the map and its derivative continue into the identity. An
    inner knot between bins of widths `u` and `v` has the slope `2 a / (u + v)`: `a` is the area
    under the slope that belongs to the knot. Widths are a softmax of parameters; areas are one of
    what the two ends leave of the whole, which makes the image `[-bound, bound]` too. `2 bins - 1`
    parameters a scalar. Both directions cost about `20 bins` elementwise operations.

    Args:
      bins: number of bins, at least 3; with fewer, nothing but the identity has those ends.
      bound: half-width of the interval that is transformed, in the units of `x`.
      min_bin: smallest width of a bin, as a share of the interval, and smallest slope.

    Raises:
      ValueError, TypeError: an argument is not a positive finite number, `bins` is not an integer
        or too small, or `bins * min_bin` is not below 1.

    Source: Thomas Müller, Brian McWilliams, Fabrice Rousselle, Markus Gross and Jan Novák, "Neural
    Importance Sampling" (2019); the slopes at the bounds, and slopes from areas, are added here.

    Example:
      >>> bijectors.Elementwise(2, bijectors.transformers.QuadraticSpline(bins=16, bound=4.0))
    """

    closed_inverse = True

    bins: int = 8
    bound: float = 5.0
    min_bin: float = 5e-3

    def __post_init__(self) -> None:
        check_positive(self, "bound")
        check_bins(self, at_least=3)

    @property
    def parameter_count(self) -> int:
        return 2 * self.bins - 1

    def _bin(self, value: tf.Tensor, parameters: tf.Tensor, *, search: int) -> list[tf.Tensor]:
        widths = shares(parameters[..., : self.bins, :], 2 * self.bound, self.min_bin)
        # Areas, not slopes, are free: else a fresh spline's widths would have no gradient.
        reaches = (widths[..., :-1, :] + widths[..., 1:, :]) / 2
        free = tf.reduce_sum(reaches, -2, keepdims=True)
        inner = shares(parameters[..., self.bins :, :], free, self.min_bin) / reaches
        slopes = slopes_at_ends(inner, bound_slope=tf.ones_like(free))
        heights = widths * tf.reduce_mean(slopes, 0)
        sizes = tf.stack([widths, heights])
        return find_bin(value, sizes, slopes, start=-self.bound, search=search)

    @staticmethod
    def _forward_in_bin(
        x: tf.Tensor,
        x_k: tf.Tensor,
        y_k: tf.Tensor,
        w: tf.Tensor,
        h: tf.Tensor,
        d0: tf.Tensor,
        d1: tf.Tensor,
    ) -> Pair:
        t = tf.clip_by_value((x - x_k) / w, 0.0, 1.0)
        y = y_k + w * t * (d0 * (1 - t / 2) + d1 * t / 2)
        return y, tf.math.log(d0 * (1 - t) + d1 * t)

    @staticmethod
    def _inverse_in_bin(
        y: tf.Tensor,
        x_k: tf.Tensor,
        y_k: tf.Tensor,
        w: tf.Tensor,
        h: tf.Tensor,
        d0: tf.Tensor,
        d1: tf.Tensor,
    ) -> Pair:
        r = tf.clip_by_value((y - y_k) / h, 0.0, 1.0)
        slope = tf.sqrt(d0 * d0 * (1 - r) + d1 * d1 * r)
        return x_k + w * (r * (d0 + d1) / (d0 + slope)), -tf.math.log(slope)


@dataclasses.dataclass(frozen=True)
class CubicSpline(Spline):
    """Monotone piecewise cubic map of `[-bound, bound]`; the identity outside.

    In bin `k`, of width `w`, height `h`, lower left knot `(x_k, y_k)` and slopes `d0`, `d1` at its
    ends, with `t = (x - x_k) / w`:

    Forward: `y = y_k + w d0 t(1-t)² + (3h - w d1) t²(1-t) + h t³`
    Inverse: the root `t` of the same equation, by Newton steps inside a bracket, fixed in number
    Log-det: `log(d0 (1-t)² + 2 (3 h/w - d0 - d1) t(1-t) + d1 t²)`

    The slope at a knot follows from the bins beside it by Steffen's rule, with `s = h / w`: the
    slope there of the parabola through three knots, `(s_l w_r + s_r w_l) / (w_l + w_r)`, but at
    most `2 s_l` and `2 s_r`. A bin is monotone if neither of its slopes exceeds `3 s`. At `±bound`
    the slope is 1, so that the map and its derivative continue into the identity: for this the
    heights of the two outer bins are `(w + 2g) / 3`, never below `w / 3`, and those of the others
    are proportional to `g`, where `g` are the heights wanted. The widths `w` and `g` are a softmax
    of parameters. `2 bins` parameters a scalar.

    Forward costs about `25 bins` elementwise operations; the inverse takes 20 steps more, of about
    30 each, through which no gradient runs: derivatives, to any order, are those of the root.

    Args:
      bins: number of bins, at least 3.
      bound: half-width of the interval that is transformed, in the units of `x`.
      min_bin: smallest width of a bin, as a share of the interval, and smallest wanted height.

    Raises:
      ValueError, TypeError: an argument is not a positive finite number, `bins` is not an integer
        or too small, or `bins * min_bin` is not below 1.

    Source: Conor Durkan, Artur Bekasov, Iain Murray and George Papamakarios, "Cubic-Spline Flows"
    (2019), where the slopes at the bounds are free; after Matthias Steffen, "A Simple Method for
    Monotonic Interpolation in One Dimension" (1990).

    Example:
      >>> bijectors.Elementwise(2, bijectors.transformers.CubicSpline(bins=16, bound=4.0))
    """

    closed_inverse = True

    bins: int = 8
    bound: float = 5.0
    min_bin: float = 5e-3

    def __post_init__(self) -> None:
        check_positive(self, "bound")
        check_bins(self, at_least=3)

    @property
    def parameter_count(self) -> int:
        return 2 * self.bins

    def _bin(self, value: tf.Tensor, parameters: tf.Tensor, *, search: int) -> list[tf.Tensor]:
        bins = self.bins
        logits = tf.stack([parameters[..., :bins, :], parameters[..., bins:, :]])
        widths, wanted = tf.unstack(shares(logits, 2 * self.bound, self.min_bin))
        first, last = ((widths[..., k, :] + 2 * wanted[..., k, :]) / 3 for k in (0, -1))
        first, last = first[..., None, :], last[..., None, :]
        inner = wanted[..., 1:-1, :]
        inner *= (2 * self.bound - first - last) / tf.reduce_sum(inner, -2, keepdims=True)
        heights = tf.concat([first, inner, last], -2)
        slopes = slopes_at_ends(_steffen(widths, heights), bound_slope=tf.ones_like(first))
        sizes = tf.stack([widths, heights])
        return find_bin(value, sizes, slopes, start=-self.bound, search=search)

    @staticmethod
    def _forward_in_bin(x: tf.Tensor, x_k: tf.Tensor, y_k: tf.Tensor, *piece: tf.Tensor) -> Pair:
        t = tf.clip_by_value((x - x_k) / piece[0], 0.0, 1.0)
        return y_k + _cubic(t, *piece), tf.math.log(_cubic_slope(t, *piece))

    @staticmethod
    def _inverse_in_bin(y: tf.Tensor, x_k: tf.Tensor, y_k: tf.Tensor, *piece: tf.Tensor) -> Pair:
        w, h, _, _ = piece
        sources = (tf.clip_by_value(y - y_k, 0.0, h), *piece)
        t = implicit_root(_cubic_equation, _root(*map(tf.stop_gradient, sources)), *sources)
        return x_k + w * t, -tf.math.log(_cubic_slope(t, *piece))


def _steffen(widths: tf.Tensor, heights: tf.Tensor) -> tf.Tensor:
    """Steffen's slopes at the inner knots."""
    slopes = heights / widths
    left, right = slopes[..., :-1, :], slopes[..., 1:, :]
    w_left, w_right = widths[..., :-1, :], widths[..., 1:, :]
    parabola = (left * w_right + right * w_left) / (w_left + w_right)
    return tf.minimum(parabola, 2 * tf.minimum(left, right))


def _cubic(t: tf.Tensor, w: tf.Tensor, h: tf.Tensor, d0: tf.Tensor, d1: tf.Tensor) -> tf.Tensor:
    u = 1 - t
    return t * (w * d0 * u * u + t * ((3 * h - w * d1) * u + h * t))


def _cubic_slope(
    t: tf.Tensor, w: tf.Tensor, h: tf.Tensor, d0: tf.Tensor, d1: tf.Tensor
) -> tf.Tensor:
    u = 1 - t
    return d0 * u * u + 2 * (3 * h / w - d0 - d1) * t * u + d1 * t * t


def _cubic_equation(t: tf.Tensor, rise: tf.Tensor, *piece: tf.Tensor) -> Pair:
    """By how much the cubic has risen more than `rise`, and its derivative by `t`."""
    return _cubic(t, *piece) - rise, piece[0] * _cubic_slope(t, *piece)


def _root(rise: tf.Tensor, *piece: tf.Tensor) -> tf.Tensor:
    """Where in the bin, from 0 to 1, the cubic has risen by `rise`."""

    def step(low: tf.Tensor, high: tf.Tensor, t: tf.Tensor) -> tuple[tf.Tensor, ...]:
        miss, slope = _cubic_equation(t, rise, *piece)
        low, high = tf.where(miss < 0, t, low), tf.where(miss < 0, high, t)
        change = -miss / slope
        # `t` is an end now, and Newton's step goes inward. XLA may compute `miss` more than once,
        # and not to the same bit: at a root, a step the other way must not count as too far.
        safe = tf.abs(change) <= high - low
        return low, high, tf.where(safe, t + change, (low + high) / 2)

    start = (tf.zeros_like(rise), tf.ones_like(rise), rise / piece[1])
    # A loop, not unrolled: traced once, and no long chain for XLA to fuse.
    _, _, t = tf.while_loop(lambda *_: True, step, start, maximum_iterations=_STEPS)
    return t
