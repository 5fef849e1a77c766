"""Weighted points that stand for a density known up to its normalizer: grids, importance samples.

All of it is NumPy in float64. A log-density takes points `(B, P, r)`, P of each of B densities, and
returns `(B, P)`.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from math import lgamma, log, pi

import numpy as np

__all__ = ["Frame", "Points", "grid_points", "importance_points", "moments", "root"]

Array = np.ndarray
LogDensity = Callable[[Array], Array]

_ROUNDS = 20
_TAIL = 1e-7  # Mass that a grid may leave out at each end.
_SETTLED = 1e-3  # In nats.
_NARROW = 1e-9  # Part of a variance that stays, where columns depend on each other exactly.
_CENTERS = 400
_FREEDOM = 5.0  # Of Student's t: tails that are wider than the density's keep weights bounded.
_ENOUGH = 0.5  # Of the draws, as ESS.
_NO_DENSITY = (
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
      cells: `(B, r, r)`, the edges of the parallelogram around each point, 0 for mere points.
      log_normalizer: `(B,)`, log of the integral of the density, in nats.
      error: `(B,)`, of the normalizer, in nats.
      ess: `(B,)`, how many independent draws they are worth, or None of a grid.
    """

    x: Array
    log_weights: Array
    cells: Array
    log_normalizer: Array
    error: Array
    ess: Array | None = None

    @classmethod
    def concatenate(cls, parts: list[Points]) -> Points:
        """Those of all densities."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def grid_points(log_density: LogDensity, frame: Frame, u: Array, n: int) -> Points:
    """A grid of `n` cells an axis around all that is not negligible, by the midpoint rule.

    From a first grid around some points, in rounds, the next one is made in coordinates in which
    the density has covariance 1, around all but the last 1e-7 of the mass at each end of an axis;
    where that lies at the end of the grid, it grows.

    Args:
      log_density: see above; `-inf` where there is none.
      frame: first coordinates.
      u: points in these, `(B, P, r)`, whose range is where the first grid is.
      n: cells an axis.

    Returns:
      points with the error that half as many cells an axis have, which is larger than theirs.
    """
    batch, _, r = u.shape
    axes = np.indices([n] * r).reshape(r, -1)  # (r, n ** r): the cell of each point.
    lower, upper = u.min(1), u.max(1)  # (B, r)
    pad = 0.1 * (upper - lower) + 1e-3
    lower, upper = lower - pad, upper + pad
    log_total = np.full(batch, np.inf)
    for _ in range(_ROUNDS):
        width = (upper - lower) / n
        at = lower[:, None] + (axes.T + 0.5) * width[:, None]
        x = frame.points(at)
        log_prob = log_density(x)
        if not np.isfinite(log_prob.max(1)).all():
            raise ValueError(_NO_DENSITY)
        before, log_cells = log_total, _log_sum(log_prob)
        log_total = log_cells + np.log(width).sum(-1) + np.linalg.slogdet(frame.factor)[1]
        kept = _without_tails(log_prob - log_cells[:, None], axes, n)
        ends = np.array([[kept[:, axis == i].any(1) for i in (0, n - 1)] for axis in axes])
        ends = np.moveaxis(ends, -1, 0)  # (B, r, 2)
        if np.abs(log_total - before).max() < _SETTLED and not ends.any():
            break
        frame, lower, upper = _next_grid(frame, at, log_prob, kept, width, ends)
    else:
        raise ValueError(
            f"`points` must be more, for the grid to settle in {_ROUNDS} rounds, unless the "
            f"density has no end. Received: points={n}"
        )
    coarse = _log_sum(log_prob[:, (axes % 2 == 0).all(0)]) + r * log(2)
    return Points(
        x,
        log_prob - log_cells[:, None],
        frame.factor * width[:, None],
        log_total,
        np.abs(coarse - log_cells),
    )


def _without_tails(log_weights: Array, axes: Array, n: int) -> Array:
    """Which cells lie, on every axis, between the first and the last 1e-7 of the mass."""
    weights = np.exp(log_weights).reshape(-1, *[n] * len(axes))
    kept = np.ones(log_weights.shape, bool)
    for j, axis in enumerate(axes):
        marginal = weights.sum(tuple(i + 1 for i in range(len(axes)) if i != j))  # (B, n)
        below, above = np.cumsum(marginal, 1), np.cumsum(marginal[:, ::-1], 1)[:, ::-1]
        kept &= ((below > _TAIL) & (above > _TAIL))[:, axis]
    return kept


def _next_grid(
    frame: Frame, u: Array, log_prob: Array, kept: Array, width: Array, ends: Array
) -> tuple[Frame, Array, Array]:
    """Coordinates with covariance 1, and the ends of a grid around the cells that are kept."""
    weights = np.exp(log_prob - _log_sum(log_prob)[:, None])
    mean, covariance = moments(u, weights)
    # Within a cell, the density may lie anywhere.
    r = u.shape[-1]
    covariance += np.eye(r) * (width**2 / 12)[:, None]
    inner = Frame(mean, np.linalg.cholesky(covariance))
    new = inner.coordinates(u)
    # A cell, of edges `width`, as it is seen in the new coordinates; at an end, a whole range.
    count = round(u.shape[1] ** (1 / r))
    reach = width[:, :, None] * np.where(ends, count, 1.5)  # (B, r, 2)
    scale = np.abs(np.linalg.inv(inner.factor))
    low = np.where(kept[..., None], new, np.inf).min(1) - (scale @ reach)[..., 0]
    high = np.where(kept[..., None], new, -np.inf).max(1) + (scale @ reach)[..., 1]
    outer = Frame(frame.points(mean[:, None])[:, 0], frame.factor @ inner.factor)
    return outer, low, high


def importance_points(
    log_density: LogDensity, centers: Array, draws: int, rng: np.random.Generator
) -> Points:
    """Draws of a mixture of Student's t, which adapts to the density, with weights.

    The components stand at points that are resampled from the weighted draws of the round before,
    and have their covariance, times the squared bandwidth of a kernel density estimate.

    Args:
      log_density: as in `grid_points`, with B = 1.
      centers: `(m, r)`, where the density may be.
      draws: how many, a round and at the end.
      rng: for all of them.

    Source: Mike West, "Approximating Posterior Distributions by Mixtures" (1993).
    """
    rounds: list[tuple[float, Points]] = []
    size = centers.shape[1]
    covariance = np.atleast_2d(np.cov(centers.T))
    for _ in range(_ROUNDS):
        factor = root(covariance) * _bandwidth(len(centers), size)
        x = _draw_student(centers, factor, draws, rng)
        log_weights = log_density(x[None])[0] - _log_student(x, centers, factor)
        if not np.isfinite(log_weights.max()):
            raise ValueError(_NO_DENSITY)
        log_total = _log_sum(log_weights[None])
        log_weights = log_weights - log_total
        ess = float(1 / np.sum(np.exp(2 * log_weights)))
        before = max((worth for worth, _ in rounds), default=0.0)
        found = Points(
            x[None],
            log_weights[None],
            np.zeros([1, size, size]),
            log_total - np.log(draws),
            np.array([max(1 / ess - 1 / draws, 0.0) ** 0.5]),
            np.array([ess]),
        )
        rounds.append((ess, found))
        if ess > _ENOUGH * draws or ess < 1.05 * before:
            break
        weights = np.exp(log_weights)
        covariance = moments(x[None], weights[None])[1][0]
        centers = x[rng.choice(draws, _CENTERS, p=weights / weights.sum())]
    return max(rounds, key=operator.itemgetter(0))[1]


def _bandwidth(n: int, size: int) -> float:
    """Silverman's, for a normal of covariance 1."""
    return (4 / (n * (size + 2))) ** (1 / (size + 4))


def root(covariance: Array) -> Array:
    """A triangle `L` with `L Lᵀ` the covariance, where this may be singular."""
    floor = _NARROW * np.diag(np.diag(covariance)) + np.finfo(float).tiny * np.eye(len(covariance))
    return np.linalg.cholesky(covariance + floor)


def _draw_student(centers: Array, factor: Array, n: int, rng: np.random.Generator) -> Array:
    noise = rng.standard_normal((n, centers.shape[1])) @ factor.T
    noise /= np.sqrt(rng.chisquare(_FREEDOM, (n, 1)) / _FREEDOM)
    return centers[rng.integers(len(centers), size=n)] + noise


def _log_student(x: Array, centers: Array, factor: Array) -> Array:
    """Log-density of the mixture, `(n,)`."""
    size = x.shape[1]
    a, b = (np.linalg.solve(factor, (part - centers.mean(0)).T).T for part in (x, centers))
    squares = np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0)
    kernel = -0.5 * (_FREEDOM + size) * np.log1p(squares / _FREEDOM)
    constant = lgamma(0.5 * (_FREEDOM + size)) - lgamma(0.5 * _FREEDOM)
    constant -= 0.5 * size * log(_FREEDOM * pi) + np.log(np.diag(factor)).sum()
    return _log_sum(kernel) - log(len(centers)) + constant


def moments(x: Array, weights: Array) -> tuple[Array, Array]:
    """Means `(B, r)` and covariances `(B, r, r)` of points with normalized weights."""
    mean = np.einsum("bp,bpi->bi", weights, x)
    centered = x - mean[:, None]
    return mean, np.einsum("bp,bpi,bpj->bij", weights, centered, centered)


def _log_sum(x: Array) -> Array:
    return np.logaddexp.reduce(x, -1)
