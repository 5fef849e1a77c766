"""Increasing polynomials on an interval: Bernstein's, and integrals of sums of squares."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.transformers.base import (
    Pair,
    Transformer,
    check_below_one,
    check_positive,
    log_softmax,
    of_nothing,
)
from tfp_flows.bijectors.transformers.numerical import numerical_inverse
from tfp_flows.ops.checks import positive_int

__all__ = ["Bernstein", "SumOfSquares"]


@dataclasses.dataclass(frozen=True)
class Bernstein(Transformer):
    """Increasing Bernstein polynomial on `[-bound, bound]`; the identity outside.

    With `n = degree`, `t = (x + bound) / (2 bound)` and `B_{k,n}(t) = C(n,k) tᵏ (1-t)ⁿ⁻ᵏ`:

    Forward: `y = Σ_k α_k B_{k,n}(t)`
    Inverse: numerical, to the accuracy of the dtype, with implicit gradients
    Log-det: `log(n Σ_k (α_{k+1} - α_k) B_{k,n-1}(t) / (2 bound))`

    The coefficients run from `-bound` to `bound`. Their first and last increments are those of the
    identity, `2 bound / n`, which gives the slope 1 at `±bound`: value and slope continue into the
    identity. The `n - 2` increments between are a softmax of parameters, each at least `min_slope`
    times the identity's, so that slopes are in `[min_slope, n - 1]`. `degree - 2` parameters a
    scalar. Forward costs about `6 degree` multiplications, the inverse 5 to 20 times that. All
    terms of the slope are positive: nothing cancels. Details finer than about
    `bound / sqrt(degree)` are smoothed away.

    Args:
      degree: `n`, from 4 to 100, beyond which float32 cannot hold the binomial coefficients.
      bound: half-width of the interval that is transformed, in the units of `x`.
      min_slope: smallest slope, below 1.

    Raises:
      ValueError, TypeError: `degree` is not an integer from 4 to 100, another argument not a
        positive finite number, or `min_slope` not below 1.

    Source: Sameera Ramasinghe, Kasun Fernando, Salman Khan and Nick Barnes, "Robust Normalizing
    Flows using Bernstein-type Polynomials" (2022).

    Example:
      >>> polynomial = bijectors.transformers.Bernstein(degree=12, bound=4.0)
      >>> bijectors.Elementwise(2, bijectors.transformers.Inverse(polynomial))
    """

    degree: int = 32
    bound: float = 5.0
    min_slope: float = 1e-3

    def __post_init__(self) -> None:
        positive_int(self.degree, "degree")
        if not 4 <= self.degree <= 100:
            raise ValueError(
                f"`degree` must be at least 4 and at most 100. Received: degree={self.degree}"
            )
        check_positive(self, "bound", "min_slope")
        check_below_one(self, "min_slope")

    @property
    def parameter_count(self) -> int:
        return self.degree - 2

    def forward(self, x: tf.Tensor, parameters: tf.Tensor) -> Pair:
        n = self.degree
        t = tf.clip_by_value(x / (2 * self.bound) + 0.5, 0.0, 1.0)
        up, down = _powers(t, n), tf.reverse(_powers(1 - t, n), [-2])
        basis = _binomials(n, x.dtype) * up * down
        slope_basis = _binomials(n - 1, x.dtype) * up[..., :-1, :] * down[..., 1:, :]
        # In units of the identity's increments, which are 1: what the parameters change.
        # By way of the logarithm: on some machines, `tf.nn.softmax` takes 5 dimensions at most.
        shares = tf.exp(log_softmax(parameters))
        changes = (1 - self.min_slope) * ((n - 2) * shares - 1)
        outer = [[0, 0]] * (parameters.shape.rank - 2)
        increments = tf.pad(changes, [*outer, [1, 1], [0, 0]]) + 1
        rises = tf.cumsum(changes, axis=-2)[..., :-1, :]
        coefficients = tf.pad(rises, [*outer, [2, 2], [0, 0]]) * (2 * self.bound / n)
        y = x + tf.reduce_sum(coefficients * basis, -2)
        return y, tf.math.log(tf.reduce_sum(increments * slope_basis, -2))

    def inverse(self, y: tf.Tensor, parameters: tf.Tensor) -> Pair:
        return numerical_inverse(self.forward, y, parameters)


@dataclasses.dataclass(frozen=True)
class SumOfSquares(Transformer):
    """Integral of a sum of squared polynomials on `[-bound, bound]`, of bounded slope everywhere.

    With Legendre's polynomials `P_l`, `u = x / bound` and `M = max_mean_slope`:

    Forward: `y = c + bound ∫_0^u g(v) dv` for `|u| <= 1`, where
      `g(u) = min_slope + (1 - min_slope) M Σ_k (Σ_l a_kl sqrt(2l + 1) P_l(u))² / (M - 1 + Σ a²)`.
      Beyond, at `x = ±(bound + e)`, `y = y(±bound) ± (e + (g(±1) - 1) bound e / (bound + e))`
    Inverse: numerical, to the accuracy of the dtype, with implicit gradients
    Log-det: `log g(u)`; beyond the bound `log(1 + (g(±1) - 1) (bound / (bound + e))²)`

    The squares' mean over the interval is `Σ a²`: so the mean slope is below `M`, and no slope
    above `1 + M (degree + 1)²` or below `min_slope`. Value and slope are continuous at the bound;
    far beyond it the map is a line of slope 1, whatever the parameters are. `c` is free, and `a` is
    a parameter times a fixed factor, added to a start at which `Σ_k a_k0² = 1` and the rest is 0:
    the identity. Factors and start are distinct, so that the polynomials differ from the first step
    on. `polynomials (degree + 1) + 1` parameters a scalar. The integral is a Gauss-Legendre sum of
    `degree + 1` terms, which is exact. Forward costs about `4 polynomials degree²` multiplications,
    the inverse 5 to 20 times that.

    Args:
      polynomials: number of squares.
      degree: degree of each polynomial that is squared.
      bound: half-width of the interval of the polynomials, in the units of `x`.
      min_slope: smallest slope, below 1.
      max_mean_slope: largest mean slope over the interval, above 1.

    Raises:
      ValueError, TypeError: a size is not a positive integer, another argument not a positive
        finite number, `min_slope` not below 1, or `max_mean_slope` not above 1.

    Source: Priyank Jaini, Kira Selby and Yaoliang Yu, "Sum-of-Squares Polynomial Flow" (2019); the
    bounds of the slope are added here.

    Example:
      >>> squares = bijectors.transformers.SumOfSquares(polynomials=3, degree=4)
      >>> bijectors.Elementwise(2, bijectors.transformers.Inverse(squares))
    """

    polynomials: int = 2
    degree: int = 3
    bound: float = 5.0
    min_slope: float = 1e-3
    max_mean_slope: float = 20.0

    def __post_init__(self) -> None:
        positive_int(self.polynomials, "polynomials")
        positive_int(self.degree, "degree")
        check_positive(self, "bound", "min_slope", "max_mean_slope")
        check_below_one(self, "min_slope")
        if self.max_mean_slope <= 1:
            raise ValueError(
                "`max_mean_slope` must be above 1. "
                f"Received: max_mean_slope={self.max_mean_slope!r}"
            )

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SumOfSquares:
        """Construct from `get_config()`.

        Raises:
          ValueError: the config is from before slopes were bounded: its weights mean another map.
        """
        if "max_mean_slope" not in config:
            raise ValueError(
                "A `SumOfSquares` must be saved with its `max_mean_slope`. This one is from before "
                "slopes were bounded, and its weights would give another density: train it again. "
                f"Received: config={config!r}"
            )
        return cls(**config)

    @property
    def parameter_count(self) -> int:
        return self.polynomials * (self.degree + 1) + 1

    def forward(self, x: tf.Tensor, parameters: tf.Tensor) -> Pair:
        if 0 in x.shape:
            return of_nothing(x, parameters)
        clipped = tf.clip_by_value(x, -self.bound, self.bound)
        nodes, weights = np.polynomial.legendre.leggauss(self.degree + 1)
        # The end of the interval goes along with the nodes: one pass gives integral and slope.
        places = tf.constant(np.append((nodes + 1) / 2, 1.0)[:, None], x.dtype)
        slopes = self._slopes((clipped / self.bound)[..., None, :] * places, parameters)
        weights = tf.constant(weights[:, None] / 2, x.dtype)
        inside = clipped * tf.reduce_sum(weights * slopes[..., :-1, :], -2)
        beyond = x - clipped
        nearness = self.bound / (self.bound + tf.abs(beyond))
        excess = (slopes[..., -1, :] - 1) * nearness
        y = parameters[..., -1, :] + inside + beyond * (1 + excess)
        return y, tf.math.log1p(excess * nearness)

    def inverse(self, y: tf.Tensor, parameters: tf.Tensor) -> Pair:
        return numerical_inverse(self.forward, y, parameters)

    def _slopes(self, u: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """`g` at `u`, `(..., nodes, units)`, all from -1 to 1."""
        a = self._coefficients(parameters)
        values = sum(
            a[..., power :: self.degree + 1, :][..., None, :, :] * basis[..., None, :]
            for power, basis in enumerate(_legendre(u, self.degree))
        )
        m = self.max_mean_slope
        share = (1 - self.min_slope) * m / (m - 1 + tf.reduce_sum(a * a, -2))
        return self.min_slope + share[..., None, :] * tf.reduce_sum(values * values, -2)

    def _coefficients(self, parameters: tf.Tensor) -> tf.Tensor:
        """`a_kl`, `(..., polynomials (degree + 1), units)`, one polynomial after another."""
        rows, columns = self.polynomials, self.degree + 1
        start = np.zeros((rows, columns))
        start[:, 0] = np.arange(1, rows + 1)
        start /= np.linalg.norm(start)
        # Proportional polynomials would stay so under gradient descent: rows of the factors differ
        # in shape.
        factors = np.linspace(0.5, 1.5, rows * columns)
        a = parameters[..., :-1, :] * tf.constant(factors[:, None], parameters.dtype)
        return a + tf.constant(start.reshape(-1, 1), parameters.dtype)


def _powers(t: tf.Tensor, n: int) -> tf.Tensor:
    """`1, t, ..., tⁿ` on a new last axis but one; unlike `tf.pow`, with gradients at 0."""
    powers = [tf.ones_like(t)]
    for _ in range(n):
        powers.append(powers[-1] * t)
    return tf.stack(powers, -2)


def _binomials(n: int, dtype: tf.DType) -> tf.Tensor:
    return tf.constant([[math.comb(n, k)] for k in range(n + 1)], dtype)


def _legendre(u: tf.Tensor, degree: int) -> list[tf.Tensor]:
    """Legendre's polynomials to `degree`, scaled to the mean square 1 over `[-1, 1]`."""
    values = [tf.ones_like(u), u]
    for n in range(1, degree):
        values.append(((2 * n + 1) * u * values[n] - n * values[n - 1]) / (n + 1))
    return [math.sqrt(2 * n + 1) * value for n, value in enumerate(values)]
