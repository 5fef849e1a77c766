"""Censored: one column of which some values are known only to lie in an interval."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import distributions as tfd

from tfp_flows.bijectors.support import Support
from tfp_flows.distributions.chain import flatten_chain
from tfp_flows.distributions.conditional import Conditional, context_shape_of
from tfp_flows.distributions.flow import Flow
from tfp_flows.ops.capabilities import context_size_of, needs_raw_data

__all__ = ["Censored"]

_NARROW = 1e-3  # Probability, relative to that of the tail.


class Censored(Conditional):
    """The distribution of one column whose values may be censored: times until an event, say.

    An event is an interval, `(lower, upper)`, in which the value lies. With the density `p` and the
    cumulative probability `F` of a distribution of one column,

    log_prob: `log p(lower)` where `lower = upper`, else `log (F(upper) - F(lower))`, in nats
    sample: draws, as they are before anything is censored: `lower = upper`

    Right-censored values have `upper = inf`, left-censored ones `lower = -inf`; of times, which are
    positive, 0 will do. That is the likelihood if values are censored independently of what they
    are, given the context. Differences are taken in the nearer tail, and of intervals too narrow
    for these the probability is the density in the middle times the width. An interval that is
    empty, or outside of the support, has probability 0.

    Costs a density and the cumulative probabilities of both ends. `FlowModel` takes the infinite
    ends that it refuses otherwise. `distribution` is in the units of the data: to standardize them,
    let its last bijector be a `Support`, which `adapt` sets.

    Shapes: events `(2,)`; context as for `distribution`.

    Args:
      distribution: a `Flow`, or another distribution with `cdf` and `quantile`, with events `(1,)`
        or `()`; it may take context.
      name: name of the distribution.

    Raises:
      TypeError: `distribution` is no `tfd.Distribution`.
      ValueError: it has several columns.
      NotImplementedError: by `log_prob`, where `distribution` has no cumulative probability: a flow
        has one if its bijectors are monotone in one column.

    Source: David Cox and David Oakes, "Analysis of Survival Data" (1984).

    Example:
      >>> flow = flows.neural_spline(1, layers=2, support="positive", seed=0)
      >>> times = distributions.Censored(flow)
      >>> times.log_prob([[2.0, 2.0], [1.0, np.inf], [0.0, 1.0], [1.0, 2.0]]).shape
      TensorShape([4])
    """

    needs_raw_data = True
    infinite_events = True  # For `FlowModel`, which checks data.

    def __init__(self, distribution: tfd.Distribution, *, name: str = "Censored"):
        parameters = dict(locals())
        if not isinstance(distribution, tfd.Distribution):
            raise TypeError(
                "`distribution` must be a tfd.Distribution. "
                f"Received: distribution={distribution!r}"
            )
        if distribution.event_shape not in ((), (1,)):
            raise ValueError(
                "`distribution` must have one column, events of shape (1,) or (). "
                f"Received: event_shape={distribution.event_shape}"
            )
        self.distribution = distribution
        self.context_size = context_size_of(distribution)
        super().__init__(
            dtype=distribution.dtype,
            reparameterization_type=distribution.reparameterization_type,
            validate_args=False,
            allow_nan_stats=True,
            parameters=parameters,
            name=name,
        )

    @classmethod
    def _parameter_properties(
        cls, dtype: tf.DType | None, num_classes: int | None = None
    ) -> dict[str, Any]:
        return {"distribution": tfp.util.BatchedComponentProperties()}

    @property
    def context_shape(self) -> tuple[int, ...] | None:
        """Shape of one context as `distribution` takes it, or None."""
        return context_shape_of(self.distribution)

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape([2])

    def _event_shape_tensor(self) -> tf.Tensor:
        return tf.constant([2])

    def _default_event_space_bijector(self) -> None:
        return None  # Intervals with equal ends have no volume.

    def _given(self, context: tf.Tensor) -> Censored:
        return self.copy(distribution=self.distribution.given(context))

    def _call_sample_n(self, sample_shape: Any, seed: Any) -> tf.Tensor:
        x = self.distribution.sample(sample_shape, seed=seed)
        x = x if self.distribution.event_shape.rank else x[..., None]
        return tf.concat([x, x], -1)

    def adapt(self, x: Any, context: Any | None = None, *, again: bool = True) -> None:
        """Call `distribution.adapt` with a point of each interval: the middle, or its finite end.

        Intervals whose point is outside of the support, as of `(0, inf)`, say nothing of units.

        Raises:
          ValueError: `distribution` does not take data in their own units, as ends are; or a row
            has no part in the support.
        """
        if again and not needs_raw_data(self.distribution):
            raise ValueError(
                "`distribution` must take data in their own units, as the ends of intervals are: "
                f"let its last bijector be a Support. Received: distribution={self.distribution!r}"
            )
        ends = np.asarray(x, "float64")
        known = np.isfinite(ends)
        points = np.where(known, ends, 0.0).sum(-1, keepdims=True)
        points = points / np.maximum(known.sum(-1, keepdims=True), 1)
        rows = known.any(-1) & self._inside(points)
        doubtful = np.flatnonzero(~rows | (ends[:, 0] > ends[:, 1]))
        given = None if context is None else tf.gather(context, doubtful)
        for row, log_prob in zip(doubtful, self.log_prob(ends[doubtful], given), strict=True):
            if np.isneginf(log_prob):
                raise ValueError(
                    "`x` must hold intervals with a part in the support of `distribution`. "
                    f"Received: ({ends[row, 0]:g}, {ends[row, 1]:g}) in row {row}"
                )
        points = points[rows]
        context = None if context is None else tf.boolean_mask(tf.convert_to_tensor(context), rows)
        self.distribution.adapt(points, context, again=again)

    def _inside(self, points: np.ndarray) -> np.ndarray:
        """Which points, `(n, 1)`, lie in the support, as far as a `Support` tells."""
        flow = self.distribution
        last = flatten_chain(flow.bijector)[0] if isinstance(flow, Flow) else None
        if isinstance(last, Support):
            return last.inside(points).numpy()
        return np.ones(len(points), bool)

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        lower, upper = tf.unstack(value, axis=-1)
        is_exact = lower == upper
        # Whatever is not used is computed at the median, where nothing is infinite.
        half = tf.constant(0.5, self.dtype)
        median = tf.stop_gradient(self._columns(self.distribution.quantile(half)))
        is_bounded = tf.math.is_finite(lower) & tf.math.is_finite(upper)
        middle = tf.where(is_exact, lower, lower + 0.5 * (upper - lower))
        density = self._of(self.distribution.log_prob, tf.where(is_bounded, middle, median))
        nothing = tf.constant(-math.inf, self.dtype)

        inner = [tf.where(is_exact, median, end) for end in (lower, upper)]
        (below, beyond_lower), (above, beyond_upper) = (self._tails(x, median) for x in inner)
        right = below > math.log(0.5)
        probability, is_narrow = _log_difference(
            tf.where(right, beyond_lower, above), tf.where(right, beyond_upper, below)
        )
        width = tf.where(is_bounded & (upper > lower), upper - lower, tf.ones_like(lower))
        interval = tf.where(is_bounded & is_narrow, density + tf.math.log(width), probability)
        interval = tf.where(upper > lower, interval, nothing)
        exact = tf.where(is_bounded, density, nothing)
        missing = tf.reduce_any(tf.math.is_nan(value), -1)
        result = tf.where(is_exact, exact, interval)
        return tf.where(missing, tf.constant(math.nan, self.dtype), result)

    def _tails(self, x: tf.Tensor, median: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Logarithms of the probabilities up to `x` and above it."""
        is_finite = tf.math.is_finite(x)
        inner = tf.where(is_finite, x, median)
        ends = (
            tf.math.log(tf.cast(x > median, self.dtype)),
            tf.math.log(tf.cast(x <= median, self.dtype)),
        )
        of = (self.distribution.log_cdf, self.distribution.log_survival_function)
        below, above = (
            tf.where(is_finite, self._of(method, inner), end)
            for method, end in zip(of, ends, strict=True)
        )
        return below, above

    def _of(self, method: Any, x: tf.Tensor) -> tf.Tensor:
        return method(x[..., None] if self.distribution.event_shape.rank else x)

    def _columns(self, x: tf.Tensor) -> tf.Tensor:
        return x[..., 0] if self.distribution.event_shape.rank else x


def _log_difference(larger: tf.Tensor, smaller: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`log(e^a - e^b)`, and where `a` and `b` are too near for it; `-inf` where `a` is."""
    finite = [tf.math.is_finite(part) for part in (larger, smaller)]
    a, b = (
        tf.where(f, x, tf.zeros_like(x)) for f, x in zip(finite, (larger, smaller), strict=True)
    )
    both = finite[0] & finite[1]
    is_narrow = both & (a - b < _NARROW)
    gap = tf.where(both & ~is_narrow, a - b, tf.ones_like(a))
    return tf.where(both, a + tfp.math.log1mexp(gap), larger), is_narrow
