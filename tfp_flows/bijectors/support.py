"""Support: the last step to data that live on part of the line, on angles or on a simplex."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.base import Bijector, check_event_size
from tfp_flows.bijectors.constraints import Columns, Entry, Simplex, checked_support
from tfp_flows.ops.checks import floating, positive_int
from tfp_flows.ops.columns import check_unit, check_varies, constant_columns, moments

__all__ = ["Support"]


class Support(Bijector):
    """Map unconstrained, standardized columns onto the supports of the data, as a flow's last step.

    With `u = scale * x + shift` for every column, then, by its support,

    "real":      `y = u`, log-slope 0
    "positive":  `y = exp(u)`, log-slope `u`
    (low, high): `y = low + w σ(u)`, log-slope `log w + log σ(u) + log σ(-u)`, `w = high - low`
    "angle":     the interval (-π, π), in radians, its ends included
    "simplex":   `D + 1` proportions by breaking a stick: `y_k = v_k Π_{j<k} (1 - v_j)` with
                 `v_k = σ(u_k - log(D - k))`, `k = 0, ..., D - 1`, and `y_D` the rest

    Forward: `x -> y`
    Inverse: `y -> x`
    Log-det: `Σ log scale + Σ log-slope`; on the simplex `Σ_k log y_k + log (1 - v_k)`, the Jacobian
      of the first `D` proportions, with respect to which `tfd.Dirichlet` has its density too

    Both directions cost a handful of elementwise operations a column. Positive columns go through
    the logarithm, not softplus: then a change of units is a shift, which standardization takes
    away. At `x = 0` proportions are all `1 / (D + 1)`, with `shift` 0.

    `shift` and `scale` are variables that are saved but not trained, 0 and 1 until `adapt` sets
    them. The density that a flow gives an "angle" has no need to be the same at -π and π; for one
    that is periodic, use circular splines on a uniform base instead.

    Outside the support the density is 0: the inverse returns the preimage of the nearest point
    inside that can be represented, and its log-determinant is `-inf`, so `log_prob` is `-inf`, and
    never NaN. Proportions must sum to 1 within the square root of the dtype's epsilon.

    Shapes: events `(event_size,)` to `(event_size,)`; on the simplex to `(event_size + 1,)`.

    Args:
      event_size: number of unconstrained columns, `D`.
      support: `"real"`, `"positive"`, `"angle"` or an interval `(low, high)` for all columns; a
        list of these, one per column; or `"simplex"` for the whole event.
      dtype: floating dtype of events.
      validate_args: as in every `tfb.Bijector`.
      name: name of the bijector.

    Raises:
      ValueError: a size or the dtype is not what it must be; a support is unknown, an interval is
        empty or infinite, or there is not one support a column; an event does not fit.

    Source: Bob Carpenter et al., "Stan: A Probabilistic Programming Language" (2017), whose
    transforms of constrained parameters these are.

    Example:
      >>> last = bijectors.Support(3, ["real", "positive", (0.0, 100.0)])
      >>> last.adapt([[-3.0, 0.1, 5.0], [2.0, 4.0, 99.0]])     # shift and scale, from data
      >>> spline = bijectors.transformers.RationalQuadraticSpline()
      >>> flow = Flow(base, tfb.Chain([last, bijectors.Coupling(3, spline)]))
    """

    is_monotone = True
    independent_over_batch = True
    needs_raw_data = True

    def __init__(
        self,
        event_size: int,
        support: Entry | Sequence[Entry],
        dtype: str | tf.DType = "float32",
        *,
        validate_args: bool = False,
        name: str = "support",
    ):
        parameters = dict(locals())
        positive_int(event_size, "event_size")
        dtype = floating(dtype)
        numpy_dtype = dtype.as_numpy_dtype
        support = parameters["support"] = checked_support(support, event_size, numpy_dtype)
        self.event_size = event_size
        self.support = support
        self._map: Columns | Simplex
        if support == "simplex":
            self._map = Simplex(event_size, numpy_dtype)
        else:
            entries = support if isinstance(support, list) else [support] * event_size
            self._map = Columns(entries, numpy_dtype)
        self.shift = tf.Variable(tf.zeros([event_size], dtype), trainable=False, name="shift")
        self.scale = tf.Variable(tf.ones([event_size], dtype), trainable=False, name="scale")
        super().__init__(parameters=parameters, dtype=dtype)

    def _forward_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = check_event_size(self, x, self.event_size)
        y, log_slopes = self._map.constrain(x * self.scale + self.shift)
        return y, tf.reduce_sum(log_slopes + tf.math.log(self.scale), -1)

    def _inverse_and_log_det(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        y = check_event_size(self, y, self._map.output_size)
        u, log_slopes = self._map.unconstrain(y)
        log_det = -tf.reduce_sum(log_slopes + tf.math.log(self.scale), -1)
        inside = tf.reduce_all(self._map.inside(y), -1)
        log_det = tf.where(inside, log_det, tf.constant(-math.inf, log_det.dtype))
        return (u - self.shift) / self.scale, log_det

    # The simplex has one column more than its preimage.

    def _forward_event_shape(self, shape: tf.TensorShape) -> tf.TensorShape:
        return tf.TensorShape([*shape[:-1], self._map.output_size])

    def _inverse_event_shape(self, shape: tf.TensorShape) -> tf.TensorShape:
        return tf.TensorShape([*shape[:-1], self.event_size])

    def _forward_event_shape_tensor(self, shape: tf.Tensor) -> tf.Tensor:
        return tf.concat([shape[:-1], [self._map.output_size]], 0)

    def _inverse_event_shape_tensor(self, shape: tf.Tensor) -> tf.Tensor:
        return tf.concat([shape[:-1], [self.event_size]], 0)

    def unconstrain(self, y: Any) -> tf.Tensor:
        """The unconstrained columns `u` of events, as they are before `shift` and `scale`."""
        return self._map.unconstrain(tf.convert_to_tensor(y, self.dtype))[0]

    def inside(self, y: Any) -> tf.Tensor:
        """Which events lie in the support."""
        return tf.reduce_all(self._map.inside(tf.convert_to_tensor(y, self.dtype)), -1)

    def adapt(self, y: Any) -> None:
        """Set `shift` and `scale` so that the unconstrained columns have mean 0 and deviation 1.

        Args:
          y: data in their own units, `(n, event_size)`, or `(n, event_size + 1)` on the simplex.

        Raises:
          ValueError: `y` has another shape or one row; a value lies outside its support; a column
            is constant, or its unit does not fit the dtype.
        """
        size, dtype = self._map.output_size, self.dtype.as_numpy_dtype
        names = getattr(y, "columns", range(size))
        given = np.asarray(y, "float64")
        if given.ndim != 2 or given.shape[1] != size or len(given) < 2:
            raise ValueError(
                f"`y` must have shape (n, {size}), with two rows or more. "
                f"Received: shape={given.shape}"
            )
        # Small units are no matter: of positive columns, the logarithm is taken.
        check_unit(given, np.maximum(moments(given)[1], 1.0), self.dtype, "y", names)
        y = tf.constant(given.astype(dtype))
        outside = np.argwhere(~self._map.inside(y).numpy())
        if len(outside):
            row, column = outside[0]
            total = f", in a row that sums to {given[row].sum()}" * (self.support == "simplex")
            tiny = bool(0 < abs(given[row, column]) < np.finfo(dtype).tiny)
            unit = f", which {self.dtype.name} takes for 0: rescale the column" * tiny
            raise ValueError(
                f"The data must lie inside the support, {self._map.entries[column]!r} for column "
                f"{names[column]!r}. Received: {given[row, column]} in row {row}{total}{unit}"
            )
        u = self._map.unconstrain(y)[0].numpy().astype("float64")
        check_varies(constant_columns(u, self.dtype), self.dtype, "y", names)
        mean, deviation = moments(u)
        check_unit(u, deviation, self.dtype, "y", names)
        self.shift.assign(mean)
        self.scale.assign(deviation)
