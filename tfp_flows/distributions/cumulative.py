"""Cumulative distribution and quantiles of flows over a single column."""

from __future__ import annotations

import math

import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows.distributions.chain import flatten_chain
from tfp_flows.distributions.edges import has_edges, inverse_within
from tfp_flows.ops.capabilities import is_monotone
from tfp_flows.ops.internals import TransformedDistributionBase, is_injective

__all__ = ["cumulative", "quantile"]

# Of a map that falls, P(Y <= y) is P(X >= x).
_MIRRORED = {
    "cdf": "survival_function",
    "survival_function": "cdf",
    "log_cdf": "log_survival_function",
    "log_survival_function": "log_cdf",
}
# What each is below and above the support.
_BEYOND = {
    "cdf": (0.0, 1.0),
    "survival_function": (1.0, 0.0),
    "log_cdf": (-math.inf, 0.0),
    "log_survival_function": (0.0, -math.inf),
}


def cumulative(flow: TransformedDistributionBase, y: tf.Tensor, name: str) -> tf.Tensor:
    """The method `name` of TFP's four, `cdf` and so on, of a flow over one column.

    Raises:
      NotImplementedError: there are several columns, a bijector is not known to be monotone, or the
        base has no such method.
    """
    base, bijector = _one_column(flow, name)
    y = tf.cast(y, flow.dtype)
    rank = flow.event_shape.rank
    first, second = _quartiles(base, bijector, flow.dtype, rank)
    x, is_outside = _inverse(bijector, y, rank)
    rises, falls = getattr(base, name)(x), getattr(base, _MIRRORED[name])(x)
    value = tf.where(first < second, rises, falls)
    below, above = (tf.constant(end, value.dtype) for end in _BEYOND[name])
    value = tf.where(is_outside, tf.where(y < first, below, above), value)
    # Quartiles that are no numbers, of parameters that are none, leave the direction open.
    known = tf.math.is_finite(first - second) & ~tf.math.is_nan(y)
    value = tf.where(known, value, tf.constant(math.nan, value.dtype))
    return value[..., 0] if rank else value


def _inverse(bijector: tfb.Bijector, y: tf.Tensor, rank: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The inverse, and where events are infinite or outside of the range."""
    is_outside = tf.math.is_inf(y)
    x = tf.where(is_outside, tf.zeros_like(y), y)  # A new tensor, which no cache knows.
    for part in flatten_chain(bijector):
        ndims = part.inverse_min_event_ndims
        if has_edges(part):
            x, _, beyond = inverse_within(part, x, edges=False)
        else:
            # Those of this package have an inverse everywhere, and say by the log-det where the
            # event is beyond their range.
            log_det = part.inverse_log_det_jacobian(x, ndims)
            x, beyond = part.inverse(x), log_det == -math.inf
        is_outside |= beyond[..., tf.newaxis] if ndims == rank == 1 else beyond
    return x, is_outside


def quantile(flow: TransformedDistributionBase, p: tf.Tensor) -> tf.Tensor:
    """The events below which draws fall with probability `p`, `(...)`: `(..., 1)`, or `(...)`.

    Raises:
      NotImplementedError: as in `cumulative`.
    """
    base, bijector = _one_column(flow, "quantile")
    rank = flow.event_shape.rank
    first, second = _quartiles(base, bijector, flow.dtype, rank)
    p = tf.cast(p, flow.dtype)
    p = p[..., tf.newaxis] if rank else p
    x = base.quantile(tf.where(first < second, p, 1 - p))
    first, second = _quartiles(base, tfb.Identity(), flow.dtype, rank)
    for part in reversed(flatten_chain(bijector)):
        y, first, second = part.forward(x), part.forward(first), part.forward(second)
        # Of infinity networks and roots make NaN: it goes to infinity, where the map has no end.
        end = tf.where(first < second, x, -x)
        x = tf.where(tf.math.is_inf(x) & tf.math.is_nan(y), end, y)
    return x


def _quartiles(
    base: tfd.Distribution, bijector: tfb.Bijector, dtype: tf.DType, rank: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Where the quartiles of the base go: in the other order, if the map falls."""
    first, second = (tf.fill([1] * rank, tf.constant(p, dtype)) for p in (0.25, 0.75))
    return bijector.forward(base.quantile(first)), bijector.forward(base.quantile(second))


def _one_column(
    flow: TransformedDistributionBase, name: str
) -> tuple[tfd.Distribution, tfb.Bijector]:
    """The column of the base, as a distribution of scalars, and the map of it."""
    base: tfd.Distribution = flow
    parts: list[tfb.Bijector] = []
    while isinstance(base, TransformedDistributionBase) and not isinstance(
        base, tfd.MultivariateNormalLinearOperator
    ):
        parts += flatten_chain(base.bijector)
        base = base.distribution
    if not (flow.event_shape == base.event_shape and flow.event_shape in ((), (1,))):
        raise NotImplementedError(
            f"`{name}` needs a flow over one column. Received: event_shape={flow.event_shape}"
        )
    for part in parts:
        if not (is_injective(part) and is_monotone(part)):
            raise NotImplementedError(
                f"`{name}` needs bijectors that are known to be monotone in one column. "
                f"Received: bijector={part!r}"
            )
    bijector = tfb.Chain(parts)
    if base.event_shape == ():
        return base, bijector
    # In these, the last axis of the batch is the only column.
    if isinstance(base, tfd.MultivariateNormalLinearOperator):
        return tfd.Normal(base.mean(), base.stddev()), bijector
    if isinstance(base, tfd.Independent) and base.distribution.event_shape == ():
        return base.distribution, bijector
    if isinstance(base, tfd.Sample) and base.distribution.event_shape == base.batch_shape == ():
        return base.distribution, bijector
    raise NotImplementedError(
        f"`{name}` needs a base that is scalar, or independent or normal in its columns. "
        f"Received: distribution={base!r}"
    )
