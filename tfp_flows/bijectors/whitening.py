"""Whitening: a fixed matrix and shift, standardization of columns that are correlated."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.base import Bijector, check_event_size
from tfp_flows.bijectors.matrices import gaussian_of, multiply, solve_triangular
from tfp_flows.ops.checks import floating, positive_int
from tfp_flows.ops.limits import claim

__all__ = ["Whitening"]


class Whitening(Bijector):
    """Scale, mix and shift columns by values that are not trained, as a flow's last step.

    Forward: `y = L x + b`
    Inverse: `x = L⁻¹ (y - b)`
    Log-det: `Σ_i log L_ii`

    `L` is lower triangular with a positive diagonal. The forward direction costs a product with the
    triangle, the inverse a solve. Starts as the identity; `adapt(y)` makes `inverse(y)` have mean 0
    and covariance 1 on those data, or with `diagonal` deviations of 1. Layers before it then see
    columns of one unit, whatever those of the data are, and the steps of an optimizer mean the same
    for all.

    Shapes: events `(event_size,)`; the variables `scale_tril` `(event_size, event_size)`,
    `shift` `(event_size,)` and the boolean `initialized` are saved with the weights, and not
    trained.

    Args:
      event_size: number of columns.
      dtype: floating dtype of events and variables.
      diagonal: whether `adapt` leaves columns as correlated as they are.
      validate_args: as in every `tfb.Bijector`.
      name: name of the bijector.

    Raises:
      ValueError: `event_size` is not a positive integer, `dtype` is neither float32 nor float64,
        or an event has another size.

    Source: Agnan Kessy, Alex Lewin and Korbinian Strimmer, "Optimal Whitening and Decorrelation"
    (2018).

    Example:
      >>> last = bijectors.Whitening(2)
      >>> last.adapt([[1.0, 10.0], [3.0, 30.0], [5.0, 10.0]])
      >>> last.inverse([[3.0, 50.0 / 3]])     # [[0.0, 0.0]]
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
        diagonal: bool = False,
        validate_args: bool = False,
        name: str = "whitening",
    ):
        parameters = dict(locals())
        self.diagonal = diagonal
        size = self.event_size = positive_int(event_size, "event_size")
        dtype = floating(dtype)
        claim(size, size)
        self.scale_tril = tf.Variable(tf.eye(size, dtype=dtype), trainable=False, name="scale_tril")
        self.shift = tf.Variable(tf.zeros([size], dtype), trainable=False, name="shift")
        self.initialized = tf.Variable(False, trainable=False, name="initialized")
        super().__init__(parameters=parameters, dtype=dtype, is_constant_jacobian=True)

    @property
    def is_initialized(self) -> bool:
        """Whether `adapt` was called, or weights were loaded of a bijector where it was."""
        return bool(self.initialized.numpy())

    def _forward_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = check_event_size(self, x, self.event_size)
        y = multiply(tf.convert_to_tensor(self.scale_tril), x) + self.shift
        return y, self._log_det(y)

    def _inverse_and_log_det(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        y = check_event_size(self, y, self.event_size)
        triangle = tf.convert_to_tensor(self.scale_tril)
        x = solve_triangular(triangle, y - self.shift, lower=True)
        return x, -self._log_det(x)

    def _log_det(self, x: tf.Tensor) -> tf.Tensor:
        log_scales = tf.math.log(tf.linalg.diag_part(self.scale_tril))
        return tf.broadcast_to(tf.reduce_sum(log_scales), tf.shape(x)[:-1])

    def adapt(self, y: np.ndarray | tf.Tensor) -> None:
        """Set `scale_tril` and `shift` so that `inverse(y)` has mean 0 and covariance 1.

        Args:
          y: data `(..., event_size)`, finite, two events or more.

        Raises:
          ValueError: `y` has another shape, or a value that is not finite.
        """
        mean, triangle = gaussian_of(y, self.event_size)
        if self.diagonal:
            triangle = np.diag(np.linalg.norm(triangle, axis=1))
        self.shift.assign(mean)
        self.scale_tril.assign(triangle)
        self.initialized.assign(True)
