"""The edges of a flow's support, where formulas at the data's end, as `tfb.Exp`, begin or end.

At and beyond the edge of its range a bijector of TFP gives infinite values or NaN, and the sum of a
log-density of `-inf` and a log-determinant of `inf` is NaN. There, densities are 0. Only maps
without a network are looked at, which cost little to compute twice. A NaN in what is learned stays
one, for training has to stop at it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tfp_flows.distributions.chain import flatten_chain
from tfp_flows.networks.conditioner import Conditioner
from tfp_flows.ops.capabilities import has_closed_inverse, is_formula, is_learned
from tfp_flows.ops.internals import is_injective

__all__ = ["as_wide_as_events", "edged_maps", "outside", "with_edges"]


def edged_maps(bijector: tfb.Bijector) -> list[tfb.Bijector] | None:
    """The maps at the data's end that may have edges, the last applied first; None without any.

    Those further inside than all others that have none, as affine maps, are left out: of fixed ones
    alone, the list is empty.
    """
    parts = flatten_chain(bijector)
    maps = list(itertools.takewhile(_is_cheap, parts))
    while maps and (maps[-1].is_constant_jacobian or has_closed_inverse(maps[-1])):
        maps.pop()
    return maps if maps or not is_learned(parts[0]) else None


def _is_cheap(part: tfb.Bijector) -> bool:
    networks = any(isinstance(inside, Conditioner) for inside in part.submodules)
    return not networks and (not is_learned(part) or is_formula(part))


def outside(
    maps: Sequence[tfb.Bijector], y: tf.Tensor, event_ndims: int, *, edges: bool = True
) -> tf.Tensor:
    """Whether events `(..., *event)` lie outside the range of the maps: `(...)`.

    So do infinite events. Events with a NaN do not, and none does where a variable of the maps
    is not finite: nothing is known of them.

    Args:
      maps: what `edged_maps` returns.
      y: events.
      event_ndims: rank of an event.
      edges: whether points where a log-determinant is infinite lie outside too.
    """
    y = tf.stop_gradient(y)
    known = ~_any(tf.math.is_nan(y), event_ndims)
    for variable in (variable for part in maps for variable in part.variables):
        if variable.dtype.is_floating:
            known &= tf.reduce_all(tf.math.is_finite(variable))
    found = _any(tf.math.is_inf(y), event_ndims)
    for part in maps:
        if not is_injective(part):
            # Of TFP's there is one. Its inverse has two values, from which no map goes on.
            below = y < 0 if isinstance(part, tfb.AbsoluteValue) else tf.zeros_like(y, tf.bool)
            return known & (found | _any(below, event_ndims))
        log_det = part.inverse_log_det_jacobian(y, event_ndims)
        event_ndims = part.inverse_event_ndims(event_ndims)
        y = part.inverse(y)
        # Beyond the range of `tfb.Softsign`, only the log-determinant is NaN.
        has_none = ~tf.math.is_finite(log_det) if edges else tf.math.is_nan(log_det)
        found |= _any(~tf.math.is_finite(y), event_ndims) | has_none
    return known & found


def with_edges(
    log_prob: Callable[[tf.Tensor], tf.Tensor],
    maps: Sequence[tfb.Bijector] | None,
    y: tf.Tensor,
    event_ndims: int,
) -> tf.Tensor:
    """`log_prob(y)`, and `-inf` with gradients 0 for events outside the range of the maps.

    Infinite events are, even of affine maps, which are not in `maps` and would make NaN of them.
    """
    if maps is None:
        return log_prob(y)
    is_outside = outside(maps, y, event_ndims)
    mask = as_wide_as_events(is_outside, event_ndims)
    # Events that are replaced have no NaN in their gradients, by which 0 would be multiplied.
    log_density = log_prob(tf.where(mask, _inside_point(maps, y, event_ndims), y))
    return tf.where(is_outside, tf.constant(-math.inf, log_density.dtype), log_density)


def as_wide_as_events(per_event: tf.Tensor, event_ndims: int) -> tf.Tensor:
    """One value an event, with as many axes as the event behind it."""
    for _ in range(event_ndims):
        per_event = per_event[..., tf.newaxis]
    return per_event


def _inside_point(maps: Sequence[tfb.Bijector], y: tf.Tensor, event_ndims: int) -> tf.Tensor:
    """An event within the range: where the maps take 0.5, which most of TFP's are defined at."""
    shape = tf.shape(y)[tf.rank(y) - event_ndims :]
    for part in maps:
        shape = part.inverse_event_shape_tensor(shape)
    point = tf.fill(shape, tf.constant(0.5, y.dtype))
    for part in reversed(maps):
        point = part.forward(point)
    return tf.stop_gradient(point)


def _any(x: tf.Tensor, event_ndims: int) -> tf.Tensor:
    return tf.reduce_any(x, axis=list(range(-event_ndims, 0)))
