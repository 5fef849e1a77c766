"""grid_points: cells around all of a density in one or two dimensions, small where it is steep."""

from __future__ import annotations

import dataclasses
from math import log

import numpy as np

from tfp_flows.distributions.conditional_points import (
    NO_DENSITY,
    Array,
    Frame,
    LogDensity,
    Points,
    log_sum,
    moments,
)
from tfp_flows.distributions.modes import ValueAndSlope, climb
from tfp_flows.ops.blocks import bends, neighbours

__all__ = ["grid_points"]

_ROUNDS = 20
_TAIL = 1e-7  # Mass that a grid may leave out at each end.
_SETTLED = 1e-3  # In nats.
_PARTS = {1: 32, 2: 8}  # Of a steep cell on each axis.
_CUTS = 4  # How often a cell and its parts are cut.
# Second differences of the masses of cells along an axis.
_TOLERANCES = {1: (5e-6, 5e-6), 2: (5e-4, 2e-5)}  # Of cells of the grid, and of their parts.
_MOST_STEEP, _MOST_CELLS = 4096, 2**21  # At a time, and of all rounds.
_LOWEST, _HIGHEST = -1e300, 50.0  # Logarithms.
_PEAKS, _STARTS = 8, 16
_FLAT = 1e-2  # Slope at a maximum, in nats a deviation of the whole density.


def _axes(n: int, r: int) -> Array:
    """The place of each of `n ** r` cells on each axis, `(r, n ** r)`."""
    return np.indices([n] * r).reshape(r, -1)


@dataclasses.dataclass(frozen=True)
class _Grid:
    """`n` cells an axis between corners `(B, r)`, in the coordinates of a frame."""

    frame: Frame
    lower: Array
    upper: Array
    n: int

    @property
    def width(self) -> Array:
        return (self.upper - self.lower) / self.n

    def cells_of(self, u: Array) -> Array:
        """The number of the cell that each of `(B, m, r)` is in, or of the nearest one."""
        place = np.floor((u - self.lower[:, None]) / self.width[:, None])
        return np.clip(place, 0, self.n - 1).astype(int) @ self.n ** np.arange(u.shape[-1])[::-1]

    @property
    def centers(self) -> Array:
        """`(B, n ** r, r)`."""
        places = _axes(self.n, self.lower.shape[-1]).T
        return self.lower[:, None] + (places + 0.5) * self.width[:, None]

    def log_density(self, log_density: LogDensity, u: Array) -> Array:
        """In the grid's coordinates, `(B, ..., r)` to `(B, ...)`."""
        x = self.frame.points(u.reshape(len(u), -1, u.shape[-1]))
        return log_density(x).reshape(u.shape[:-1])


@dataclasses.dataclass(frozen=True)
class _Peaks:
    """Local maxima: places `(B, K, r)` of x, and log-densities there, `(B, K)`."""

    x: Array
    log_prob: Array


@dataclasses.dataclass(frozen=True)
class _Cells:
    """Cells of one size: `(B, P, r)` and `(B, P)`.

    Attributes:
      u: their centers.
      log_mass: the density at their centers times their volume, `-inf` where they are cut.
      root: the number of the cell of the grid that they are part of.
      size: of an edge, in edges of the grid.
    """

    u: Array
    log_mass: Array
    root: Array
    size: Array


def _joined(cells: list[_Cells], name: str) -> Array:
    return np.concatenate([getattr(part, name) for part in cells], 1)


def grid_points(
    log_density: LogDensity,
    value_and_slope: ValueAndSlope,
    frame: Frame,
    u: Array,
    starts: Array,
    n: int,
) -> Points:
    """A grid of `n` cells an axis around all that is not negligible, by a rule of third order.

    From a first grid around some points, in rounds, the next one is made in coordinates in which
    the density has covariance 1, around all but the last 1e-7 of the mass at each end of an axis;
    where that lies at the end of the grid, it grows. Cells whose mass differs much from the mean of
    their neighbours, as at edges of the support, are cut, and their parts again; so are those with
    a maximum that is narrower than cells, however low the density is at their centers.

    Args:
      log_density: of `(B, P, r)`, `(B, P)`; `-inf` where there is none.
      value_and_slope: the same with its derivatives, `(B, P)` and `(B, P, r)`.
      frame: first coordinates.
      u: points in these, `(B, P, r)`, whose range is where the first grid is.
      starts: points, `(B, m, r)`, at which narrow maxima may be.
      n: cells an axis.

    Returns:
      points whose error is twice the difference to coarser grids, or the mass of tails and of
      steep cells that are not cut.
    """
    lower, upper = u.min(1), u.max(1)  # (B, r)
    pad = 0.1 * (upper - lower) + 1e-3
    grid = _Grid(frame, lower - pad, upper + pad, n)
    peaks = _Peaks(starts[:, :0], starts[:, :0, 0])
    log_total, rounds, count = np.full(len(u), np.inf), 0, 0
    while True:
        log_prob = grid.log_density(log_density, grid.centers)
        peaks = _peaks(value_and_slope, grid, log_prob, starts, peaks)
        cells, leftover = _cut(log_density, grid, log_prob, peaks)
        log_mass = _joined(cells, "log_mass")
        count += log_mass.shape[1]
        before, log_total = log_total, log_sum(log_mass)
        if not np.isfinite(log_total).all():
            raise ValueError(NO_DENSITY)
        log_weights = log_mass - log_total[:, None]
        kept, outside = _kept(grid, cells, log_weights)
        axes = _axes(n, u.shape[-1])
        ends = np.array([[kept[:, a == i].any(1) for i in (0, n - 1)] for a in axes])
        ends = np.moveaxis(ends, -1, 0)  # (B, r, 2)
        if np.abs(log_total - before).max() < _SETTLED and not ends.any():
            break
        rounds += 1
        if rounds == _ROUNDS or count > _MOST_CELLS:
            raise ValueError(
                "`points` must be more, for the grid to settle, unless the density has no end or "
                f"is too rough. Received: points={n}, {rounds} rounds and {count:,} cells"
            )
        grid = _next_grid(grid, cells, log_weights, kept, ends)
    error = leftover + outside
    for part in (2 / 3, 4 / 5):
        rough = dataclasses.replace(grid, n=max(round(part * n), 1))
        log_prob = rough.log_density(log_density, rough.centers)
        rough_cells, _ = _cut(log_density, rough, log_prob, peaks)
        rough_total = log_sum(_joined(rough_cells, "log_mass"))
        error = np.maximum(error, 2 * np.abs(rough_total - log_total))
    return Points(
        x=grid.frame.points(_joined(cells, "u")),
        log_weights=log_weights,
        cells=grid.frame.factor * grid.width[:, None],
        sizes=_joined(cells, "size"),
        log_normalizer=log_total,
        error=error,
    )


def _cut(
    log_density: LogDensity, grid: _Grid, log_prob: Array, peaks: _Peaks
) -> tuple[list[_Cells], Array]:
    """All cells, the whole ones first, and the part of the mass in steep cells that are left whole.

    Args:
      log_density: as in `grid_points`; at the centers of the grid it is `log_prob`.
      grid: of the cells.
      log_prob: `(B, n ** r)`.
      peaks: maxima, around which cells are cut.
    """
    (batch, r), n, width = grid.lower.shape, grid.n, grid.width
    log_volume = (np.log(width).sum(-1) + np.linalg.slogdet(grid.frame.factor)[1])[:, None]
    # Blocks of n ** r cells: one at first, then one for every cell that is cut.
    corners, u, log_prob = grid.lower[:, None], grid.centers[:, None], log_prob[:, None]
    root = np.broadcast_to(np.arange(n**r), log_prob.shape)
    found: list[_Cells] = []
    leftover = np.zeros(batch)
    log_total = np.full(batch, _LOWEST)
    for cut in range(_CUTS + 1):
        log_mass = log_prob.reshape(batch, -1) + log_volume
        log_total = np.logaddexp(log_total, log_sum(log_mass))
        unit = (log_volume - log_total[:, None])[..., None]
        mass = np.exp(np.minimum(log_prob + unit, _HIGHEST))
        largest, bend = bends(mass, n, r)
        highest = _highest_peak(grid, peaks, corners, width, n)
        above = np.exp(np.minimum(highest + unit, _HIGHEST)) - mass
        rough = np.maximum(largest, above).reshape(batch, -1)
        steep = rough > _TOLERANCES[r][min(cut, 1)]
        count = 0 if cut == _CUTS else min(int(steep.sum(1).max()), _MOST_STEEP)
        index = np.argsort(-rough, 1)[:, :count]
        is_cut = np.zeros_like(steep)
        np.put_along_axis(is_cut, index, np.take_along_axis(steep, index, 1), 1)
        leftover += np.where(steep & ~is_cut, np.exp(log_mass - log_total[:, None]), 0.0).sum(1)
        u, root = u.reshape(batch, -1, r), root.reshape(batch, -1)
        # The mean of a parabola over a cell is that of its value in the middle and its bend.
        mean = np.log1p(np.clip(bend / (24 * np.maximum(mass, 1e-300)), -0.5, 0.5))
        whole = np.where(is_cut, -np.inf, log_mass + mean.reshape(batch, -1))
        found.append(_Cells(u, whole, root, np.full(whole.shape, float(_PARTS[r]) ** -cut)))
        if not count:
            break
        log_total = np.logaddexp.reduce([log_sum(part.log_mass) for part in found])
        log_total = np.maximum(log_total, _LOWEST)
        corners = np.take_along_axis(u, index[..., None], 1) - width[:, None] / 2
        n = _PARTS[r]
        width, log_volume = width / n, log_volume - r * log(n)
        u = corners[:, :, None] + (_axes(n, r).T + 0.5) * width[:, None, None]
        log_prob = grid.log_density(log_density, u)
        # Some of the batch have fewer cells to cut than others.
        real = np.take_along_axis(is_cut, index, 1)[..., None]
        log_prob = np.where(real, log_prob, -np.inf)
        root = np.broadcast_to(np.take_along_axis(root, index, 1)[..., None], log_prob.shape)
    return found, leftover


def _highest_peak(grid: _Grid, peaks: _Peaks, corners: Array, width: Array, n: int) -> Array:
    """Of those in a cell or beside it, `(B, C, n ** r)`; `-inf` for none."""
    u = grid.frame.coordinates(peaks.x)
    place = np.floor((u[:, None] - corners[:, :, None]) / width[:, None, None])  # (B, C, K, r)
    b, c, k = np.nonzero(((place >= -1) & (place <= n)).all(-1))
    r = u.shape[-1]
    cell = np.clip(place[b, c, k], 0, n - 1).astype(int) @ n ** np.arange(r)[::-1]
    highest = np.full((*corners.shape[:2], n**r), -np.inf)
    np.maximum.at(highest, (b, c, cell), peaks.log_prob[b, k])
    return neighbours(highest, n, r).max(-1)


def _peaks(
    value_and_slope: ValueAndSlope, grid: _Grid, log_prob: Array, starts: Array, before: _Peaks
) -> _Peaks:
    """The highest maxima that are narrower than cells, and those that were found before.

    They are climbed from cells that are higher than all around them, and from starts that are
    higher than their cell, by more than a nat.
    """
    batch, r = grid.lower.shape
    near = neighbours(log_prob[:, None], grid.n, r)[:, 0]
    candidates = (log_prob >= near.max(-1)) & (near.min(-1) < log_prob - 1)
    u = grid.frame.coordinates(starts)
    height, _ = value_and_slope(starts)
    above = height > np.take_along_axis(near.max(-1), grid.cells_of(u), 1) + 1
    highest = np.argsort(np.where(candidates, -log_prob, np.inf), 1)[:, :_PEAKS]
    first = np.argsort(~above, 1, kind="stable")[:, :_STARTS]
    u = np.concatenate(
        [
            np.take_along_axis(grid.centers, highest[..., None], 1),
            np.take_along_axis(u, first[..., None], 1),
        ],
        1,
    )
    real = np.concatenate(
        [np.take_along_axis(candidates, highest, 1), np.take_along_axis(above, first, 1)], 1
    )
    if not real.any():
        return before

    def climbed(u: Array) -> tuple[Array, Array]:
        log_prob, slope = value_and_slope(grid.frame.points(u.reshape(batch, -1, r)))
        return log_prob.reshape(-1), (slope @ grid.frame.factor).reshape(-1, r)

    u, value = climb(climbed, u.reshape(-1, r), _FLAT)
    value = np.where(real, value.reshape(batch, -1), -np.inf)
    u = np.concatenate([grid.frame.coordinates(before.x), u.reshape(batch, -1, r)], 1)
    value = np.concatenate([before.log_prob, value], 1)
    order = np.argsort(-value, 1)
    u, value = np.take_along_axis(u, order[..., None], 1), np.take_along_axis(value, order, 1)
    between, _ = value_and_slope(
        grid.frame.points((u[:, :, None] + u[:, None]).reshape(batch, -1, r) / 2)
    )
    # Points of one maximum: between them it is as dense as at the lower one.
    again = np.tril(between.reshape(batch, len(u[0]), -1) >= value[..., None] - _FLAT, -1).any(-1)
    order = np.argsort(again, 1, kind="stable")[:, :_PEAKS]
    value = np.take_along_axis(np.where(again, -np.inf, value), order, 1)
    return _Peaks(grid.frame.points(np.take_along_axis(u, order[..., None], 1)), value)


def _kept(grid: _Grid, cells: list[_Cells], log_weights: Array) -> tuple[Array, Array]:
    """Which cells lie, on every axis, between the first and the last 1e-7 of the mass.

    Also how much mass may be outside, `(B,)`: as the last two cells fall, and three times
    that, since tails may end like a power.
    """
    batch, r = grid.lower.shape
    mass = np.zeros((batch, grid.n**r))
    places = np.arange(batch)[:, None], _joined(cells, "root")
    np.add.at(mass, places, np.exp(log_weights))
    kept, shaped = np.ones(mass.shape, bool), mass.reshape(batch, *[grid.n] * r)
    outside = np.zeros(batch)
    for j, axis in enumerate(_axes(grid.n, r)):
        marginal = shaped.sum(tuple(i + 1 for i in range(r) if i != j))  # (B, n)
        below, above = np.cumsum(marginal, 1), np.cumsum(marginal[:, ::-1], 1)[:, ::-1]
        kept &= ((below > _TAIL) & (above > _TAIL))[:, axis]
        for last, inner in ((0, 1), (-1, -2)):
            fall = np.maximum(marginal[:, inner] - marginal[:, last], 1e-300)
            outside += 3 * marginal[:, last] ** 2 / fall
    return kept, outside


def _next_grid(
    grid: _Grid, cells: list[_Cells], log_weights: Array, kept: Array, ends: Array
) -> _Grid:
    """Coordinates with covariance 1, and the ends of a grid around the cells that are kept."""
    weights = np.exp(log_weights)
    u = _joined(cells, "u")
    mean, covariance = moments(u, weights)
    # Within a cell, the density may lie anywhere.
    spread = (weights * _joined(cells, "size") ** 2).sum(1)[:, None] * grid.width**2 / 12
    covariance += np.eye(u.shape[-1]) * spread[:, None]
    inner = Frame(mean, np.linalg.cholesky(covariance))
    new = inner.coordinates(cells[0].u)
    # A cell, of edges `width`, as it is seen in the new coordinates; at an end, a whole range.
    reach = grid.width[:, :, None] * np.where(ends, grid.n, 1.5)  # (B, r, 2)
    scale = np.abs(np.linalg.inv(inner.factor))
    low = np.where(kept[..., None], new, np.inf).min(1) - (scale @ reach)[..., 0]
    high = np.where(kept[..., None], new, -np.inf).max(1) + (scale @ reach)[..., 1]
    frame = grid.frame
    outer = Frame(frame.points(mean[:, None])[:, 0], frame.factor @ inner.factor)
    return _Grid(outer, low, high, grid.n)
