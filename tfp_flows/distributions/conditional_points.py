"""Weighted points that stand for a density known up to its normalizer, and draws as such.

All of it is NumPy in float64. A log-density takes points `(B, P, r)`, P of each of B densities, and
returns `(B, P)`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = [
    "NO_DENSITY",
    "Array",
    "Frame",
    "LogDensity",
    "Points",
    "Regression",
    "importance_points",
    "log_sum",
    "moments",
    "root",
]

Array = np.ndarray
LogDensity = Callable[[Array], Array]

_ROUNDS = 20
_NARROW = 1e-9  # Part of a variance that stays, where columns depend on each other exactly.
_FIRST_DEVIATIONS = 6.0
_NEAREST = 256
_CENTERS = 400
_WIDE, _WIDE_FREEDOM = 0.1, 1.0  # Part of the draws, of tails that bound weights of heavy ones.
_FREEDOM = 5.0  # Of Student's t: tails that are wider than the density's keep weights bounded.
_ENOUGH = 0.5  # Of the draws, as ESS.
NO_DENSITY = (
    "`values` must have a density together with some values of the other columns. Received: values "
    "without, as far as draws of the joint density tell"
)


@dataclasses.dataclass(frozen=True)
class Frame:
    """Coordinates `u` of `x = mean + factor u`: `(B, r)` and `(B, r, r)`."""

    mean: Array
    factor: Array

    def points(self, u: Array) -> Array:
        """`(B, P, r)` of `(B, P, r)`."""
        return self.mean[:, None] + np.einsum("bij,bpj->bpi", self.factor, u)

    def coordinates(self, x: Array) -> Array:
        """The inverse of `points`."""
        return np.linalg.solve(self.factor[:, None], (x - self.mean[:, None])[..., None])[..., 0]


@dataclasses.dataclass(frozen=True)
class Points:
    """Points with weights.

    Attributes:
      x: `(B, P, r)`.
      log_weights: `(B, P)`, normalized.
      cells: `(B, r, r)`, edges of a parallelogram.
      sizes: `(B, P)`, of the one around each point, in these edges; 0 for mere points.
      log_normalizer: `(B,)`, log of the integral of the density, in nats.
      error: `(B,)`, of the normalizer, in nats.
      ess: `(B,)`, how many independent draws they are worth, or None of a grid.
    """

    x: Array
    log_weights: Array
    cells: Array
    sizes: Array
    log_normalizer: Array
    error: Array
    ess: Array | None = None

    def at(self, index: Array) -> Points:
        """Those of some densities."""
        parts: dict[str, Any] = dict(vars(self))
        for name, part in parts.items():
            parts[name] = None if part is None else part[index]
        return Points(**parts)

    @classmethod
    def concatenate(cls, parts: list[Points]) -> Points:
        """Those of all densities."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def importance_points(
    log_density: LogDensity, centers: Array, draws: int, rng: np.random.Generator
) -> Points:
    """Draws of a mixture of Student's t, which adapts to the density, with weights.

    The components stand at points that are resampled from the weighted draws of the round before,
    and have their covariance, times the squared bandwidth of a kernel density estimate. A tenth of
    the draws always come from one wide component, by which a mode can be found later.

    Args:
      log_density: as in `grid_points`, with B = 1.
      centers: `(m, r)`, where the density may be.
      draws: how many, a round and at the end.
      rng: for all of them.

    Source: Mike West, "Approximating Posterior Distributions by Mixtures" (1993).
    """
    size = centers.shape[1]
    covariance = np.atleast_2d(np.cov(centers.T))
    wide = centers.mean(0)[None], root(covariance), _WIDE_FREEDOM
    few = max(int(_WIDE * draws), 1)

    def weighted(centers: Array, factor: Array) -> tuple[Array, Array, Array]:
        """Draws, their log-weights, and the logarithm of the sum of these."""
        narrow = centers, factor, _FREEDOM
        x = np.concatenate(
            [_draw_student(*narrow, draws - few, rng), _draw_student(*wide, few, rng)]
        )
        log_weights = log_density(x[None])[0] - np.logaddexp(
            _log_student(x, *narrow) + math.log(max(1 - few / draws, 1e-300)),
            _log_student(x, *wide) + math.log(few / draws),
        )
        if not np.isfinite(log_weights.max()):
            raise ValueError(NO_DENSITY)
        log_total = log_sum(log_weights[None])
        return x, log_weights - log_total, log_total

    best, worth = None, 0.0
    for _ in range(_ROUNDS):
        proposal = centers, root(covariance) * _bandwidth(len(centers), size)
        x, log_weights, _ = weighted(*proposal)
        before, ess = worth, _ess(log_weights)
        if ess > worth:
            best, worth = proposal, ess
        if ess > _ENOUGH * draws or ess < 1.05 * before:
            break
        weights = np.exp(log_weights)
        covariance = moments(x[None], weights[None])[1][0]
        centers = x[rng.choice(draws, _CENTERS, p=weights / weights.sum())]
    # New draws: of those by which a round was chosen, large weights are missing.
    x, log_weights, log_total = weighted(*(best or proposal))
    ess = _ess(log_weights)
    return Points(
        x[None],
        log_weights[None],
        np.zeros([1, size, size]),
        np.zeros([1, draws]),
        log_total - math.log(draws),
        np.array([max(1 / ess - 1 / draws, 0.0) ** 0.5]),
        np.array([ess]),
    )


def _ess(log_weights: Array) -> float:
    return float(1 / np.sum(np.exp(2 * log_weights)))


def _bandwidth(n: int, size: int) -> float:
    """Silverman's, for a normal of covariance 1."""
    return (4 / (n * (size + 2))) ** (1 / (size + 4))


def root(covariance: Array) -> Array:
    """A triangle `L` with `L Lᵀ` the covariance, where this may be singular."""
    floor = _NARROW * np.diag(np.diag(covariance)) + np.finfo(float).tiny * np.eye(len(covariance))
    return np.linalg.cholesky(covariance + floor)


def _draw_student(
    centers: Array, factor: Array, freedom: float, n: int, rng: np.random.Generator
) -> Array:
    noise = rng.standard_normal((n, centers.shape[1])) @ factor.T
    noise /= np.sqrt(rng.chisquare(freedom, (n, 1)) / freedom)
    return centers[rng.integers(len(centers), size=n)] + noise


def _log_student(x: Array, centers: Array, factor: Array, freedom: float) -> Array:
    """Log-density of the mixture, `(n,)`."""
    size = x.shape[1]
    a, b = (np.linalg.solve(factor, (part - centers.mean(0)).T).T for part in (x, centers))
    squares = np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0)
    kernel = -0.5 * (freedom + size) * np.log1p(squares / freedom)
    constant = math.lgamma(0.5 * (freedom + size)) - math.lgamma(0.5 * freedom)
    constant -= 0.5 * size * math.log(freedom * math.pi) + np.log(np.diag(factor)).sum()
    return log_sum(kernel) - math.log(len(centers)) + constant


def moments(x: Array, weights: Array) -> tuple[Array, Array]:
    """Means `(B, r)` and covariances `(B, r, r)` of points with normalized weights."""
    mean = np.einsum("bp,bpi->bi", weights, x)
    centered = x - mean[:, None]
    return mean, np.einsum("bp,bpi,bpj->bij", weights, centered, centered)


def log_sum(x: Array) -> Array:
    return np.logaddexp.reduce(x, -1)


class Regression:
    """Some columns by the others, of draws: where conditional densities may be."""

    def __init__(self, given: Array, rest: Array):
        self._given, self._rest = given, rest
        self._center = given.mean(0)
        scale = given.std(0)
        self._scale = np.where(scale > 0, scale, 1.0)
        design = np.column_stack([np.ones(len(given)), self._standardized(given)])
        self._weights = np.linalg.lstsq(design, rest, rcond=None)[0]
        self._residuals = rest - design @ self._weights

    def _standardized(self, given: Array) -> Array:
        return (given - self._center) / self._scale

    def _means(self, given: Array) -> Array:
        return self._weights[0] + self._standardized(given) @ self._weights[1:]

    def frame(self, rows: Array) -> tuple[Frame, Array]:
        """Coordinates for all rows of values, and points in these around which to look first."""
        covariance = np.atleast_2d(np.cov(self._residuals.T))
        factor = np.broadcast_to(root(covariance), (len(rows), *covariance.shape))
        frame = Frame(self._means(rows), factor)
        around = np.broadcast_to(self._rest, (len(rows), *self._rest.shape))
        u = frame.coordinates(around)
        ends = np.full([len(rows), 1, u.shape[-1]], _FIRST_DEVIATIONS)
        return frame, np.concatenate([u, ends, -ends], 1)

    def nearest(self, row: Array) -> Array:
        """Draws whose given columns are nearest to `row`, moved by the regression to it."""
        far = np.linalg.norm(self._standardized(self._given) - self._standardized(row), axis=1)
        near = np.argsort(far)[:_NEAREST]
        return self._rest[near] + self._means(row) - self._means(self._given[near])
