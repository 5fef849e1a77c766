"""Splines of angles."""

from __future__ import annotations

import dataclasses
import math

import tensorflow as tf

from tfp_flows.bijectors.transformers.base import Pair, Transformer
from tfp_flows.bijectors.transformers.rational_quadratic_kernel import Grid, spline, wrap
from tfp_flows.bijectors.transformers.spline_base import check_bins, check_min_slope

__all__ = ["CircularSpline", "wrap"]


@dataclasses.dataclass(frozen=True)
class CircularSpline(Transformer):
    """Monotone rational-quadratic map of the circle onto itself: angles in `[-π, π)`, radians.

    With `g` a rational-quadratic spline of `[-π, π]` that has the same slope at both ends, and a
    phase `p`:

    Forward: `y = wrap(g(wrap(x)) + p)`
    Inverse: `x = wrap(g⁻¹(wrap(y - p)))`
    Log-det: `log g'(wrap(x))`, as in `RationalQuadraticSpline`

    where `wrap` adds the multiple of 2π that leads into `[-π, π)`. Both directions are functions on
    the circle: inputs outside `[-π, π)` mean the angle that they wrap to, results lie in
    `[-π, π)`, a round trip returns `x` up to a multiple of 2π, and the density of the result is
    continuous across `±π`. It is a density on the circle: the base must be one too, `tfd.VonMises`
    or `tfd.Uniform(-π, π)`, say, and its integral is over one turn.

    Widths and heights are a softmax of parameters and at least `min_bin` of the turn, slopes a
    shifted softplus and at least `min_slope`; the phase is a parameter as it is. `3 bins + 1`
    parameters a scalar. Both directions cost about `20 bins` elementwise operations.

    Args:
      bins: number of bins, at least 2.
      min_bin: smallest width and height of a bin, as a share of the turn.
      min_slope: smallest slope at a knot; inside a bin the slope can be smaller.

    Raises:
      ValueError, TypeError: an argument is not a positive finite number, `bins` is not an integer
        or too small, `bins * min_bin` is not below 1, or `min_slope` is not below 1.

    Source: Danilo J. Rezende, George Papamakarios, Sébastien Racanière, Michael S. Albergo, Gurtej
    Kanwar, Phiala E. Shanahan and Kyle Cranmer, "Normalizing Flows on Tori and Spheres" (2020).

    Example:
      >>> spline = bijectors.transformers.CircularSpline(bins=16)
      >>> torus = tfd.Independent(tfd.Uniform([-np.pi] * 2, [np.pi] * 2), 1)
      >>> angles = Flow(torus, bijectors.Elementwise(2, spline))
    """

    is_monotone = False  # On a circle, nothing is.
    needs_raw_data = True

    bins: int = 8
    min_bin: float = 5e-3
    min_slope: float = 1e-2

    def __post_init__(self) -> None:
        check_bins(self, at_least=2)
        check_min_slope(self)

    @property
    def parameter_count(self) -> int:
        return 3 * self.bins + 1

    def forward(self, x: tf.Tensor, parameters: tf.Tensor) -> Pair:
        return spline(self._grid(inverse=False), x, parameters)

    def inverse(self, y: tf.Tensor, parameters: tf.Tensor) -> Pair:
        return spline(self._grid(inverse=True), y, parameters)

    def _grid(self, *, inverse: bool) -> Grid:
        return Grid(self.bins, math.pi, self.min_bin, self.min_slope, inverse, circular=True)
