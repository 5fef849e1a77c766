"""Rational-quadratic splines."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.transformers.base import Pair, Transformer, check_positive

__all__ = ["RationalQuadraticSpline"]


@dataclasses.dataclass(frozen=True)
class RationalQuadraticSpline(Transformer):
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

    bins: int = 8
    bound: float = 5.0
    min_bin: float = 5e-3
    min_slope: float = 1e-2

    def __post_init__(self):
        check_positive(self, "bins", "bound", "min_bin", "min_slope")
        if not isinstance(self.bins, int):
            raise TypeError(f"`bins` must be an integer. Received: bins={self.bins!r}")
        if self.bins * self.min_bin >= 1:
            raise ValueError(
                "`min_bin` must be below 1 / bins. "
                f"Received: min_bin={self.min_bin!r}, bins={self.bins}"
            )
        if self.min_slope >= 1:
            raise ValueError(f"`min_slope` must be below 1. Received: min_slope={self.min_slope!r}")

    @property
    def parameter_count(self) -> int:
        return 3 * self.bins - 1

    def forward(self, x: tf.Tensor, parameters: tf.Tensor) -> Pair:
        inside = tf.abs(x) < self.bound
        clipped = tf.clip_by_value(x, -self.bound, self.bound)
        x_k, y_k, w, h, d0, d1 = self._bin(clipped, parameters, search=0)
        t = tf.clip_by_value((clipped - x_k) / w, 0.0, 1.0)
        s = h / w
        q = s + (d0 + d1 - 2 * s) * t * (1 - t)
        y = y_k + h * (s * t * t + d0 * t * (1 - t)) / q
        log_det = self._log_slope(t, s, q, d0, d1)
        return tf.where(inside, y, x), tf.where(inside, log_det, tf.zeros_like(log_det))

    def inverse(self, y: tf.Tensor, parameters: tf.Tensor) -> Pair:
        inside = tf.abs(y) < self.bound
        clipped = tf.clip_by_value(y, -self.bound, self.bound)
        x_k, y_k, w, h, d0, d1 = self._bin(clipped, parameters, search=1)
        s = h / w
        rise = tf.clip_by_value(clipped - y_k, 0.0, h)
        e = rise * (d0 + d1 - 2 * s)
        a, b, c = h * (s - d0) + e, h * d0 - e, -s * rise
        # Rounding can push the discriminant below 0; the floor keeps the root's gradient finite.
        tiny = np.finfo(y.dtype.as_numpy_dtype).tiny
        root = tf.sqrt(tf.maximum(b * b - 4 * a * c, tiny))
        t = tf.clip_by_value(2 * c / (-b - root), 0.0, 1.0)
        q = s + (d0 + d1 - 2 * s) * t * (1 - t)
        log_det = -self._log_slope(t, s, q, d0, d1)
        x = x_k + w * t
        return tf.where(inside, x, y), tf.where(inside, log_det, tf.zeros_like(log_det))

    @staticmethod
    def _log_slope(
        t: tf.Tensor, s: tf.Tensor, q: tf.Tensor, d0: tf.Tensor, d1: tf.Tensor
    ) -> tf.Tensor:
        slope = d1 * t * t + 2 * s * t * (1 - t) + d0 * (1 - t) * (1 - t)
        return 2 * (tf.math.log(s) - tf.math.log(q)) + tf.math.log(slope)

    def _bin(self, value: tf.Tensor, parameters: tf.Tensor, *, search: int) -> list[tf.Tensor]:
        """Knot, size and end slopes of the bin that `value` is in, along x (0) or y (1).

        The loop over bins selects all six at once, elementwise: few operations to trace, and none
        that gathers.
        """
        bins = self.bins
        logits = tf.stack([parameters[..., :bins, :], parameters[..., bins : 2 * bins, :]])
        sizes = tf.unstack(self._shares(logits), axis=-2)
        # softplus(0 + offset) + min_slope = 1: zeros give the identity.
        offset = math.log(math.expm1(1 - self.min_slope))
        inner = tf.nn.softplus(parameters[..., 2 * bins :, :] + offset) + self.min_slope
        one = tf.ones_like(parameters[..., :1, :])
        slopes = tf.stack([tf.concat([one, inner], -2), tf.concat([inner, one], -2)])
        corner = -self.bound * tf.ones_like(sizes[0])
        found = None
        for size, slope in zip(sizes, tf.unstack(slopes, axis=-2), strict=True):
            here = tf.concat([corner, size, slope], 0)
            if found is None:
                found = here
            else:
                beyond = value >= tf.stop_gradient(corner[search])
                found = tf.where(beyond, here, found)
            corner += size
        return tf.unstack(found)

    def _shares(self, logits: tf.Tensor) -> tf.Tensor:
        """Softmax over the bins, at least `min_bin` each, scaled to the whole interval."""
        weights = tf.exp(logits - tf.reduce_max(logits, -2, keepdims=True))
        free = 2 * self.bound * (1 - self.bins * self.min_bin)
        shares = weights * (free / tf.reduce_sum(weights, -2, keepdims=True))
        return shares + 2 * self.bound * self.min_bin
