"""The edges of a flow's support, where maps such as `tfb.Exp` begin or end.

At and beyond the edge of its range a bijector of TFP gives infinite values or NaN, and the sum of a
log-density of `-inf` and a log-determinant of `inf` is NaN. There, densities are 0. A NaN of an
event, or in what is learned, stays one, for training has to stop at it.
"""

from __future__ import annotations

import math

import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows.bijectors.base import Bijector
from tfp_flows.distributions.chain import flatten_chain
from tfp_flows.distributions.conditional import Conditional
from tfp_flows.networks.conditioner import Conditioner
from tfp_flows.ops.capabilities import has_closed_inverse, is_formula, is_learned
from tfp_flows.ops.internals import InvertBase, TransformedDistributionBase, is_injective

__all__ = [
    "has_edges",
    "inverse_within",
    "is_below_fold",
    "with_edges",
    "without_density",
    "without_infinite",
]


# Distributions of TFP made of those of scalars, and those that give NaN where their density is 0.
_OF_SCALARS = (tfd.Independent, tfd.Sample, tfd.MixtureSameFamily)
_NAN_AT_THE_ENDS = (TransformedDistributionBase, tfd.InverseGamma, tfd.InverseGaussian)


def with_edges(bijector: tfb.Bijector, base: tfd.Distribution) -> tfb.Bijector:
    """The map with log-determinants of `-inf` for events outside of the range of one of its parts.

    So are those that do not lie in the support of the base, as far as TFP tells it. For densities
    only: of such events, the inverse is a point inside.
    """
    parts = flatten_chain(bijector)
    edged = [_Edged(part) if has_edges(part) else part for part in parts]
    support = _support(base)
    if support is not None:
        edged.append(support)
    return bijector if edged == parts else tfb.Chain(edged)


def without_infinite(y: tf.Tensor, event_ndims: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Events with zeros in place of infinite ones, and which are infinite or far out: `(...)`.

    Infinite are those with an infinite entry and no NaN. Of those far out, squares of what networks
    make of them may leave the dtype: some have a density of NaN.
    """
    # One sum serves both, for operations on all entries take their time. Scaled, that of finite
    # numbers is finite.
    scale = y.dtype.max**-0.5
    scaled = tf.abs(y) * tf.constant(scale, y.dtype)
    size = tf.reduce_sum(scaled, axis=list(range(-event_ndims, 0)))  # NaN of what has a NaN.
    infinite = tf.math.is_inf(size)
    far_out = size > tf.constant(scale * y.dtype.max**0.375, y.dtype)
    # Whole events: the other entries may have gradients of NaN, by which 0 would be multiplied.
    y = tf.where(_widen(infinite, event_ndims), tf.constant(0, y.dtype), y)
    return y, infinite, far_out


def without_density(log_prob: tf.Tensor, infinite: tf.Tensor, far_out: tf.Tensor) -> tf.Tensor:
    """Log-densities with `-inf` for infinite events, and for NaN of those that are far out."""
    none = tf.where(tf.math.is_nan(log_prob), far_out, infinite)
    return tf.where(none, tf.constant(-math.inf, log_prob.dtype), log_prob)


def is_below_fold(bijector: tfb.Bijector, y: tf.Tensor, event_ndims: int) -> tf.Tensor:
    """Which events `(..., *event)` `tfb.AbsoluteValue` does not reach: `(...)`.

    Of TFP's maps that are not injective there is no other.
    """
    for part in flatten_chain(bijector):
        if not is_injective(part):
            below = y < 0 if isinstance(part, tfb.AbsoluteValue) else tf.zeros_like(y, tf.bool)
            return _any(below, event_ndims)
        y = part.inverse(tf.identity(y))
    return tf.zeros_like(_any(tf.math.is_nan(y), event_ndims))


def inverse_within(
    part: tfb.Bijector, y: tf.Tensor, *, edges: bool = True
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The inverse and its log-det, and which events of `part` lie outside of its range.

    Of these, both are those of a point inside. Events with a NaN are inside, and so are all where a
    variable of the part is not finite: nothing is known of them.

    Args:
      part: a bijector.
      y: events with any batch shape; the log-det is for the least rank of an event.
      edges: whether points where the log-determinant is infinite lie outside too.
    """
    ndims = part.inverse_min_event_ndims
    at = tf.stop_gradient(y)
    known = ~_any(tf.math.is_nan(at), ndims)
    for variable in part.variables:
        if variable.dtype.is_floating:
            known &= tf.reduce_all(tf.math.is_finite(variable))
    log_det = part.inverse_log_det_jacobian(at, ndims)
    # Beyond the range of `tfb.Softsign`, only the log-determinant is NaN.
    has_none = ~tf.math.is_finite(log_det) if edges else tf.math.is_nan(log_det)
    not_finite = ~tf.math.is_finite(part.inverse(at))
    outside = known & (has_none | _any(not_finite, part.forward_min_event_ndims))
    # Events that are replaced have no NaN in their gradients, by which 0 would be multiplied.
    y = tf.where(_widen(outside, ndims), _inside_point(part, y), y)
    x = part.inverse(y)
    return x, part.inverse_log_det_jacobian(y, ndims), outside


def has_edges(part: tfb.Bijector) -> bool:
    """Whether a part may have edges that it does not see to itself, as those of this package do.

    Of parts with a network, which would run twice, that is not asked.
    """
    while isinstance(part, InvertBase):
        part = part.bijector
    networks = any(isinstance(inside, Conditioner) for inside in part.submodules)
    if not is_injective(part) or networks or part.is_constant_jacobian or has_closed_inverse(part):
        return False
    return is_formula(part) or not (is_learned(part) or isinstance(part, Bijector))


class _Edged(Bijector):
    """A bijector with a log-determinant of `-inf` where an event is outside of its range."""

    independent_over_batch = True  # Flows look at what it holds.

    def __init__(self, bijector: tfb.Bijector):
        self.bijector = bijector
        super().__init__(
            forward_min_event_ndims=bijector.forward_min_event_ndims,
            inverse_min_event_ndims=bijector.inverse_min_event_ndims,
            dtype=bijector.dtype,
            parameters={"bijector": bijector},
            name=bijector.name,
        )

    def _inverse_and_log_det(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x, log_det, outside = inverse_within(self.bijector, y)
        return x, tf.where(outside, tf.constant(-math.inf, log_det.dtype), log_det)

    def _forward_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        raise NotImplementedError("A map with edges is for densities, which start from events.")


class _Within(Bijector):
    """The identity, with a log-determinant of `-inf` where a map has no inverse.

    Args:
      support: a map of all numbers to those that are inside.
      ends: whether the ends of the support, to which it takes infinity, count as inside.
    """

    independent_over_batch = True

    def __init__(self, support: tfb.Bijector, ends: bool):
        self.support, self.ends = support, ends
        parameters = {"support": support, "ends": ends}
        super().__init__(forward_min_event_ndims=0, parameters=parameters, name="within")

    def _inverse_and_log_det(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        at = tf.stop_gradient(y)
        back = self.support.inverse(at)
        outside = tf.math.is_nan(back) if self.ends else ~tf.math.is_finite(back)
        outside &= ~tf.math.is_nan(at)
        x = tf.where(outside, tf.stop_gradient(self.support.forward(tf.zeros_like(y))), y)
        return x, tf.where(outside, tf.constant(-math.inf, y.dtype), tf.zeros_like(y))

    def _forward_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        raise NotImplementedError("A support is for densities, which start from events.")


def _support(base: tfd.Distribution) -> tfb.Bijector | None:
    """The support of each column of the base, where that is a part of all numbers."""
    while isinstance(base, _OF_SCALARS):
        mixture = isinstance(base, tfd.MixtureSameFamily)
        base = base.components_distribution if mixture else base.distribution
    if isinstance(base, tfd.Blockwise) and isinstance(base.distributions, list | tuple):
        supports = [_support(part) for part in base.distributions]
        if all(support is None for support in supports):
            return None
        sizes = [part.event_shape.num_elements() for part in base.distributions]
        return tfb.Blockwise([support or tfb.Identity() for support in supports], sizes)
    # Flows have edges of their own, and circles have none.
    if isinstance(base, Conditional | tfd.VonMises) or base.event_shape != ():
        return None
    try:
        space = base.experimental_default_event_space_bijector()
    except NotImplementedError:
        return None
    if space is None or isinstance(space, tfb.Identity) or is_learned(space):
        return None
    return _Within(space, ends=not isinstance(base, _NAN_AT_THE_ENDS))


def _inside_point(part: tfb.Bijector, y: tf.Tensor) -> tf.Tensor:
    """An event within the range: where the map takes 0.5, which most of TFP's are defined at."""
    ndims = part.inverse_min_event_ndims
    shape = part.inverse_event_shape_tensor(tf.shape(y)[tf.rank(y) - ndims :])
    return tf.stop_gradient(part.forward(tf.fill(shape, tf.constant(0.5, y.dtype))))


def _any(x: tf.Tensor, ndims: int) -> tf.Tensor:
    return tf.reduce_any(x, axis=list(range(-ndims, 0)))


def _widen(per_event: tf.Tensor, ndims: int) -> tf.Tensor:
    """One value an event, with as many axes as the event behind it."""
    for _ in range(ndims):
        per_event = per_event[..., tf.newaxis]
    return per_event
