"""ActNorm: shift and scale of every column, with data-dependent initialization."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.base import Bijector, check_event_size
from tfp_flows.ops.checks import floating, positive_int
from tfp_flows.ops.columns import check_unit, constant_columns, moments

__all__ = ["ActNorm"]


class ActNorm(Bijector):
    """Scale and shift every column, by trained values that `adapt` can first take from data.

    Forward: `y_i = x_i exp(log_scale_i) + shift_i`
    Inverse: `x_i = (y_i - shift_i) exp(-log_scale_i)`
    Log-det: `Σ_i log_scale_i`

    Both directions cost one product and one sum. Starts as the identity; `adapt(y)` makes
    `inverse(y)` have mean 0 and deviation 1 on those data. Nothing else does so: no call of
    `log_prob` or `sample` ever changes a variable. Unlike other scales here `log_scale` has no
    bound, for the scale of data may be anything.

    Shapes: events `(event_size,)`; the variables `log_scale` and `shift` are `(event_size,)`. The
    boolean variable `initialized` is saved with the weights, and not trained.

    Args:
      event_size: number of columns.
      dtype: floating dtype of events and variables.
      validate_args: as in every `tfb.Bijector`.
      name: name of the bijector.

    Raises:
      ValueError: `event_size` is not a positive integer, `dtype` is neither float32 nor float64,
        or an event has another size.

    Source: Diederik P. Kingma and Prafulla Dhariwal, "Glow: Generative Flow with Invertible 1×1
    Convolutions" (2018).

    Example:
      >>> norm = bijectors.ActNorm(2)
      >>> norm.adapt([[1.0, 10.0], [3.0, 30.0]])
      >>> norm.inverse([[1.0, 10.0], [3.0, 30.0]])     # [[-1., -1.], [1., 1.]]
    """

    closed_inverse = True
    is_monotone = True
    independent_over_batch = True
    needs_raw_data = True  # It standardizes by itself.

    def __init__(
        self,
        event_size: int,
        dtype: str | tf.DType = "float32",
        *,
        validate_args: bool = False,
        name: str = "act_norm",
    ):
        parameters = dict(locals())
        positive_int(event_size, "event_size")
        dtype = floating(dtype)
        self.event_size = event_size
        self.log_scale = tf.Variable(tf.zeros([event_size], dtype), name="log_scale")
        self.shift = tf.Variable(tf.zeros([event_size], dtype), name="shift")
        self.initialized = tf.Variable(False, trainable=False, name="initialized")
        super().__init__(parameters=parameters, dtype=dtype, is_constant_jacobian=True)

    @property
    def is_initialized(self) -> bool:
        """Whether `adapt` was called, or weights were loaded of a bijector where it was."""
        return bool(self.initialized.numpy())

    def adapt(self, y: np.ndarray | tf.Tensor) -> None:
        """Set `shift` and `log_scale` so that `inverse(y)` has mean 0 and deviation 1.

        To be called outside of `tf.function`. A column that is constant, or varies in no digit of
        the dtype, is shifted but not scaled.

        Args:
          y: data `(..., event_size)`, at least one event.

        Raises:
          ValueError: `y` has another shape, a value that is not finite, or a column in a unit that
            does not fit the dtype.
        """
        y = np.asarray(y, "float64")
        if y.ndim < 2 or y.shape[-1] != self.event_size or not y.size:
            raise ValueError(
                f"`y` must be data of shape (n, {self.event_size}), n at least 1. "
                f"Received: shape={y.shape}"
            )
        y = y.reshape(-1, self.event_size)
        row, column = np.unravel_index(np.argmin(np.isfinite(y)), y.shape)
        if not np.isfinite(y[row, column]):
            raise ValueError(
                f"`y` must be finite. Received: {y[row, column]} in row {row}, column {column}"
            )
        mean, deviation = moments(y)
        deviation = np.where(constant_columns(y, self.dtype), 1.0, deviation)
        check_unit(y, deviation, self.dtype, "y")
        self.shift.assign(mean)
        self.log_scale.assign(np.log(deviation))
        self.initialized.assign(True)

    def _forward_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = check_event_size(self, x, self.event_size)
        y = x * tf.exp(self.log_scale) + self.shift
        return y, self._log_det(y)

    def _inverse_and_log_det(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        y = check_event_size(self, y, self.event_size)
        x = (y - self.shift) * tf.exp(-self.log_scale)
        return x, -self._log_det(x)

    def _log_det(self, x: tf.Tensor) -> tf.Tensor:
        return tf.broadcast_to(tf.reduce_sum(self.log_scale), tf.shape(x)[:-1])
