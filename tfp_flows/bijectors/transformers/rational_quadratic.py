"""Rational-quadratic splines of an interval."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfp_flows.bijectors.transformers.base import Pair, Transformer, check_positive
from tfp_flows.bijectors.transformers.rational_quadratic_kernel import Grid, spline
from tfp_flows.bijectors.transformers.spline_base import check_bins, check_min_slope

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
      ValueError, TypeError: an argument is not a positive finite number, `bins` is not an integer,
        or `bins * min_bin` is not below 1.

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

    def __post_init__(self) -> None:
        check_positive(self, "bound", "min_slope")
        check_bins(self, at_least=1)
        check_min_slope(self)

    @property
    def parameter_count(self) -> int:
        return 3 * self.bins - 1

    def forward(self, x: tf.Tensor, parameters: tf.Tensor) -> Pair:
        return spline(self._grid(inverse=False), x, parameters)

    def inverse(self, y: tf.Tensor, parameters: tf.Tensor) -> Pair:
        return spline(self._grid(inverse=True), y, parameters)

    def _grid(self, *, inverse: bool) -> Grid:
        return Grid(self.bins, self.bound, self.min_bin, self.min_slope, inverse)
