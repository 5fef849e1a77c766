"""The rational-quadratic spline as arithmetic on whole arrays, with its analytic gradient.

The formulas are those of `RationalQuadraticSpline`, bin by bin, so that every operation is
elementwise; TensorFlow's own gradient of them would take three times as many. Sums of bins are
compared unnormalized, and only the bin that is found is brought to scale. Second and higher
derivatives are TensorFlow's, of this gradient.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.transformers.base import Pair
from tfp_flows.ops.internals import in_xla
from tfp_flows.ops.internals import prefer_static as ps
from tfp_flows.ops.xla import call_compiled

__all__ = ["Grid", "spline", "wrap"]


class Grid(NamedTuple):
    """What stays the same for all scalars: see `RationalQuadraticSpline` and `CircularSpline`."""

    bins: int
    bound: float
    min_bin: float
    min_slope: float
    inverse: bool
    circular: bool = False
    shared_axes: tuple[int, ...] = ()  # Of the values: one set of parameters serves all along them.

    @property
    def slope_offset(self) -> float:
        """What is added to 0 for a slope of 1."""
        return math.log(math.expm1(1 - self.min_slope))


class _Bin(NamedTuple):
    """The bin that a value is in: corner and sizes, slopes at the ends, and place inside."""

    x: tf.Tensor
    y: tf.Tensor
    w: tf.Tensor
    h: tf.Tensor
    d0: tf.Tensor
    d1: tf.Tensor
    s: tf.Tensor  # h / w
    t: tf.Tensor  # From 0 to 1.


def spline(grid: Grid, value: tf.Tensor, parameters: tf.Tensor) -> Pair:
    """The map of `value`, or its inverse, and the logarithm of that direction's slope.

    Args:
      grid: the spline's constants, and its direction.
      value: `(..., units)`.
      parameters: `(..., count, units)`, which may broadcast with the values: raw widths, heights
        and slopes, `3 bins - 1` together; of a circular spline `3 bins` and the phase.
    """
    value, parameters, shared_axes = _match(value, parameters)
    grid = grid._replace(shared_axes=shared_axes)
    y, log_slope = call_compiled(
        _values, grid, value, parameters, shapes=(0, 0), gradient=_gradients
    )
    return y, log_slope


def wrap(angle: tf.Tensor) -> tf.Tensor:
    """The same angle in `[-π, π)`, in radians; unchanged if it is there, with gradient 1."""
    turn = 2 * math.pi
    angle -= turn * tf.round(angle / turn)
    # Rounding leaves π itself, and may go a little beyond both ends.
    inside = tf.maximum(tf.where(angle >= math.pi, angle - turn, angle), -math.pi)
    return angle + tf.stop_gradient(inside - angle)


def _match(value: tf.Tensor, parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tuple[int, ...]]:
    """Both with the same axes, but for parameters' size of 1 along those that are returned.

    The static shapes agree, too: what one of them knows of a size, so does the other.
    """
    batch = (parameters.shape[:-2] + parameters.shape[-1:]).as_list()
    if batch == value.shape.as_list() and (in_xla() or None not in batch):
        return value, parameters, ()
    missing = value.shape.rank - len(batch)
    if missing < 0 or not _fit(batch, value.shape[missing:].as_list()):
        known = tf.broadcast_static_shape(value.shape, tf.TensorShape(batch))
        sizes, count = ps.shape(parameters), parameters.shape[-2]
        batch_sizes = ps.concat([sizes[:-2], sizes[-1:]], 0)
        value = tf.broadcast_to(value, ps.broadcast_shape(ps.shape(value), batch_sizes))
        # What is not known to be shared is made of the same size.
        full = ps.shape(value)[-len(batch) :]
        kept = [1 if size == 1 else full[axis] for axis, size in enumerate(batch)]
        parameters = tf.broadcast_to(parameters, ps.stack([*kept[:-1], sizes[-2], kept[-1]]))
        value.set_shape(known)
        own = known.as_list()[known.rank - len(batch) :]
        *own, last = (1 if one == 1 else n for one, n in zip(batch, own, strict=True))
        parameters.set_shape([*own, count, last])
    missing = value.shape.rank - len(batch)
    parameters = tf.reshape(parameters, ps.concat([[1] * missing, ps.shape(parameters)], 0))
    shared = [axis for axis, size in enumerate([1] * missing + batch) if size == 1]
    return value, parameters, tuple(shared)


def _fit(batch: list[int | None], shape: list[int | None]) -> bool:
    """Whether a batch of parameters is known to serve values of this shape without more ado.

    XLA knows all sizes when it compiles, and could not compile gradients in loops otherwise.
    """
    pairs = zip(batch, shape, strict=True)
    return all(size == 1 or (size == n and (in_xla() or n is not None)) for size, n in pairs)


def _values(grid: Grid, value: tf.Tensor, parameters: tf.Tensor) -> Pair:
    found = _find(value, parameters, grid)
    result, log_slope = _evaluate(found.at, grid)
    if grid.circular:
        return wrap(result if grid.inverse else result + found.phase), log_slope
    inside = tf.abs(value) < grid.bound
    return tf.where(inside, result, value), tf.where(inside, log_slope, tf.zeros_like(log_slope))


def _gradients(
    grid: Grid,
    value: tf.Tensor,
    parameters: tf.Tensor,
    upstream: tf.Tensor,
    log_upstream: tf.Tensor,
) -> Pair:
    # Found once more: to keep some 60 arrays from the forward pass takes longer.
    found = _find(value, parameters, grid)
    inner = upstream, log_upstream
    if not grid.circular:
        inside, zeros = tf.abs(value) < grid.bound, tf.zeros_like(upstream)
        inner = tf.where(inside, upstream, zeros), tf.where(inside, log_upstream, zeros)
    back, (g_x, g_y, g_w, g_h, g_d0, g_d1) = _gradient_in_bin(*inner, found.at, grid)
    parts = _weights_gradient(g_x, g_w, found.widths, found.beyond, grid)
    parts += _weights_gradient(g_y, g_h, found.heights, found.beyond, grid)
    parts += _slopes_gradient(g_d0, g_d1, found, grid)
    if grid.circular:
        parts.append(_sum_shared(-back if grid.inverse else upstream, grid))
    else:
        back = tf.where(inside, back, upstream)
    return back, tf.stack(parts, -2)


def _softplus(x: tf.Tensor) -> tf.Tensor:
    # In less time than `tf.nn.softplus`; beyond 40 even float64 has nothing to add to `x`.
    return tf.where(x > 40.0, x, tf.math.log1p(tf.exp(tf.minimum(x, 40.0))))


class _Weights(NamedTuple):
    """Sizes of the bins up to a factor: the exponentials of a softmax, and what is added."""

    exponentials: list[tf.Tensor]
    sizes: list[tf.Tensor]  # Exponentials and, for every bin, the same more.
    total: tf.Tensor


def _weights(logits: list[tf.Tensor], grid: Grid) -> _Weights:
    largest = logits[0]
    for logit in logits[1:]:
        largest = tf.maximum(largest, logit)
    largest = tf.stop_gradient(largest)  # Shares do not depend on it.
    exponentials = [tf.exp(logit - largest) for logit in logits]
    # Sizes of at least `min_bin` of their sum, which is `total`.
    total = tf.add_n(exponentials) / (1 - grid.bins * grid.min_bin)
    return _Weights(exponentials, [e + grid.min_bin * total for e in exponentials], total)


class _Found(NamedTuple):
    widths: _Weights
    heights: _Weights
    beyond: list[tf.Tensor]  # Whether the value is, of each inner knot.
    at: _Bin
    phase: tf.Tensor | None


def _find(value: tf.Tensor, parameters: tf.Tensor, grid: Grid) -> _Found:
    """The bin of `value`, and what it was found from."""
    raw = tf.unstack(parameters, axis=-2)
    widths = _weights(raw[: grid.bins], grid)
    heights = _weights(raw[grid.bins : 2 * grid.bins], grid)
    # Raw slopes are found, and only the two made positive.
    if grid.circular:
        *raw_slopes, phase = raw[2 * grid.bins :]
        raw_slopes.append(raw_slopes[0])
        value = wrap(value - phase if grid.inverse else value)
    else:
        phase, slope_of_one = None, tf.zeros_like(raw[0])
        raw_slopes = [slope_of_one, *raw[2 * grid.bins :], slope_of_one]
    value = tf.clip_by_value(value, -grid.bound, grid.bound)
    x = y = tf.zeros_like(value)
    w, h = widths.sizes[0], heights.sizes[0]
    raw_d0, raw_d1 = raw_slopes[:2]
    knot_x, knot_y, beyond = w, h, []
    scaled = (value + grid.bound) / (2 * grid.bound)
    scaled *= heights.total if grid.inverse else widths.total
    for k in range(1, grid.bins):
        here = scaled >= (knot_y if grid.inverse else knot_x)
        x, y = tf.where(here, knot_x, x), tf.where(here, knot_y, y)
        w, h = tf.where(here, widths.sizes[k], w), tf.where(here, heights.sizes[k], h)
        raw_d0 = tf.where(here, raw_slopes[k], raw_d0)
        raw_d1 = tf.where(here, raw_slopes[k + 1], raw_d1)
        knot_x, knot_y = knot_x + widths.sizes[k], knot_y + heights.sizes[k]
        beyond.append(here)
    place = (scaled - (y if grid.inverse else x)) / (h if grid.inverse else w)
    # Only rounding leads out: what is clipped keeps its derivatives.
    place += tf.stop_gradient(tf.clip_by_value(place, 0.0, 1.0) - place)
    to_x, to_y = 2 * grid.bound / widths.total, 2 * grid.bound / heights.total
    x, y, w, h = x * to_x - grid.bound, y * to_y - grid.bound, w * to_x, h * to_y
    d0, d1 = (_softplus(r + grid.slope_offset) + grid.min_slope for r in (raw_d0, raw_d1))
    s = h / w
    t = _root(place, s, d0, d1) if grid.inverse else place
    return _Found(widths, heights, beyond, _Bin(x, y, w, h, d0, d1, s, t), phase)


def _root(r: tf.Tensor, s: tf.Tensor, d0: tf.Tensor, d1: tf.Tensor) -> tf.Tensor:
    """The `t` at which the share `r` of a bin's height is reached.

    It solves `(s t² + d0 t(1-t)) = r (s + (d0 + d1 - 2s) t(1-t))`, as a ratio `t : 1-t` of sums
    without cancellation.
    """
    b = d0 * (1 - r) - d1 * r
    # Away from 0, where the root has no gradient.
    root = tf.sqrt(b * b + 4 * s * s * r * (1 - r) + np.finfo(r.dtype.as_numpy_dtype).tiny)
    positive = b >= 0
    up = tf.where(positive, 2 * s * r, root - b)
    down = tf.where(positive, root + b, 2 * s * (1 - r))
    return up / (up + down)


def _evaluate(at: _Bin, grid: Grid) -> Pair:
    """The result, and the logarithm of its slope."""
    q, slope = _quotient(at)
    s, t = at.s, at.t
    log_slope = 2 * tf.math.log(s / q) + tf.math.log(slope)
    if grid.inverse:
        return at.x + at.w * t, -log_slope
    return at.y + at.h * (s * t * t + at.d0 * t * (1 - t)) / q, log_slope


def _quotient(at: _Bin) -> Pair:
    """`q`, and `m` with `dy/dx = s² m / q²`."""
    t, u = at.t, 1 - at.t
    q = at.s + (at.d0 + at.d1 - 2 * at.s) * t * u
    return q, at.d1 * t * t + 2 * at.s * t * u + at.d0 * u * u


def _gradient_in_bin(
    upstream: tf.Tensor, log_upstream: tf.Tensor, at: _Bin, grid: Grid
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Gradients by the value and by the bin's `x`, `y`, `w`, `h`, `d0`, `d1`.

    With `y = g(x; p)` and `l = log g'`, the inverse has `dx = (dy - g_p dp) / g'` and the
    log-slope `-l`: its gradients are those of `g` and `l` with other upstream gradients.
    """
    w, h, d0, d1, s, t = at.w, at.h, at.d0, at.d1, at.s, at.t
    u, tu = 1 - t, t * (1 - t)
    q, m = _quotient(at)
    n = (s * t * t + d0 * tu) / q
    a = d0 + d1 - 2 * s
    slope = s * s * m / (q * q)
    # dl/dt; q' = a (1 - 2t), m' = 2 (d1 t + s (1 - 2t) - d0 u).
    log_slope_t = 2 * ((d1 * t + s * (u - t) - d0 * u) / m - a * (u - t) / q)
    if grid.inverse:
        back = (upstream - log_upstream * log_slope_t / w) / slope
        upstream, log_upstream = -back, -log_upstream
    share, log_m, log_q = upstream * h / q, log_upstream / m, 2 * log_upstream / q
    g_t = upstream * slope * w + log_upstream * log_slope_t
    g_s = share * (t * t - n * (1 - 2 * tu)) + 2 * tu * log_m - (1 - 2 * tu) * log_q
    g_s += 2 * log_upstream / s
    g_d0 = tu * (share * (1 - n) - log_q) + u * u * log_m
    g_d1 = t * t * log_m - tu * (share * n + log_q)
    g_x = -g_t / w
    g_w = -(g_t * t + g_s * s) / w
    g_h = upstream * n + g_s / w
    if not grid.inverse:
        back = -g_x
    return back, [g_x, upstream, g_w, g_h, g_d0, g_d1]


def _weights_gradient(
    g_corner: tf.Tensor,
    g_size: tf.Tensor,
    weights: _Weights,
    beyond: list[tf.Tensor],
    grid: Grid,
) -> list[tf.Tensor]:
    """Gradients by the logits: bins below the one that was found move its corner."""
    to_scale = 2 * grid.bound / weights.total
    g_corner, g_size = g_corner * to_scale, g_size * to_scale
    zeros = tf.zeros_like(g_size)
    here = [tf.where(next_one, g_corner, g_size) for next_one in beyond] + [g_size]
    here[1:] = [tf.where(m, g, zeros) for m, g in zip(beyond, here[1:], strict=True)]
    here = [_sum_shared(g, grid) for g in here]
    free = weights.total * (1 - grid.bins * grid.min_bin)
    mean = tf.add_n([g * e for g, e in zip(here, weights.exponentials, strict=True)]) / free
    return [(g - mean) * e for g, e in zip(here, weights.exponentials, strict=True)]


def _slopes_gradient(
    g_d0: tf.Tensor, g_d1: tf.Tensor, found: _Found, grid: Grid
) -> list[tf.Tensor]:
    """Gradients by the raw slopes: each is at the right of one bin and at the left of the next."""
    # The softplus' derivative is 1 - exp(-softplus).
    g_d0, g_d1 = (
        g * -tf.math.expm1(grid.min_slope - d)
        for g, d in ((g_d0, found.at.d0), (g_d1, found.at.d1))
    )
    beyond, zeros = found.beyond, tf.zeros_like(g_d0)
    gradients = []
    if grid.circular:  # The first one is at the right of the last bin.
        gradients.append(tf.where(beyond[-1], g_d1, tf.where(beyond[0], zeros, g_d0)))
    for k in range(len(beyond)):
        g_right = tf.where(beyond[k + 1], zeros, g_d0) if k + 1 < len(beyond) else g_d0
        g_left = tf.where(beyond[k - 1], g_d1, zeros) if k else g_d1
        gradients.append(tf.where(beyond[k], g_right, g_left))
    return [_sum_shared(g, grid) for g in gradients]


def _sum_shared(gradient: tf.Tensor, grid: Grid) -> tf.Tensor:
    """Gradients by parameters, of those by what each value makes of them."""
    if not grid.shared_axes:
        return gradient
    return tf.reduce_sum(gradient, grid.shared_axes, keepdims=True)
