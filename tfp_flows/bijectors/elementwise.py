"""Elementwise: every column through a transformer of its own, with free parameters."""

from __future__ import annotations

import tensorflow as tf

from tfp_flows.bijectors.base import Bijector, check_event_size
from tfp_flows.bijectors.transformers import Transformer
from tfp_flows.ops.capabilities import has_closed_inverse
from tfp_flows.ops.checks import floating, positive_int

__all__ = ["Elementwise"]


class Elementwise(Bijector):
    """Apply a transformer to every column, each with its own trained parameters.

    Forward: `y_i = transformer(x_i; p_i)`
    Inverse: `x_i = transformer⁻¹(y_i; p_i)`
    Log-det: `Σ_i log |dy_i / dx_i|`

    Both directions cost what the transformer costs, and no network. Columns do not interact, so
    this alone learns marginals, never dependence. Starts as the identity.

    Shapes: events `(event_size,)`; the variable `parameters` is
    `(transformer.parameter_count, event_size)`.

    Args:
      event_size: number of columns.
      transformer: a `bijectors.transformers.Transformer`.
      dtype: floating dtype of events and parameters.
      validate_args: as in every `tfb.Bijector`.
      name: name of the bijector.

    Raises:
      ValueError: `event_size` is not a positive integer, or an event has another size.
      TypeError: `transformer` is not a `Transformer`.

    Source: the marginal step of Scott Chen and Ramesh Gopinath, "Gaussianization" (2000).

    Example:
      >>> spline = bijectors.transformers.RationalQuadraticSpline()
      >>> marginals = Flow(tfd.MultivariateNormalDiag([0.0, 0.0]), bijectors.Elementwise(2, spline))
    """

    independent_over_batch = True

    def __init__(
        self,
        event_size: int,
        transformer: Transformer,
        dtype: str | tf.DType = "float32",
        *,
        validate_args: bool = False,
        name: str = "elementwise",
    ):
        parameters = dict(locals())
        dtype = check_structure(event_size, transformer, dtype)
        self.event_size = event_size
        self.transformer = transformer
        self.needs_raw_data = transformer.needs_raw_data
        self.transformer_parameters = tf.Variable(
            tf.zeros([transformer.parameter_count, event_size], dtype), name="parameters"
        )
        affine = transformer.is_affine
        super().__init__(parameters=parameters, dtype=dtype, is_constant_jacobian=affine)

    @property
    def closed_inverse(self) -> bool:
        """Whether the transformer has one."""
        return has_closed_inverse(self.transformer)

    @property
    def is_monotone(self) -> bool:
        """Whether the transformer is monotone, as all are that are not circular."""
        return self.transformer.is_monotone

    def _forward_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = check_event_size(self, x, self.event_size)
        y, log_det = self.transformer.forward(x, self._parameters_for(x))
        return y, tf.reduce_sum(log_det, -1)

    def _inverse_and_log_det(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        y = check_event_size(self, y, self.event_size)
        x, log_det = self.transformer.inverse(y, self._parameters_for(y))
        return x, tf.reduce_sum(log_det, -1)

    def _parameters_for(self, x: tf.Tensor) -> tf.Tensor:
        """The parameters with as many batch dimensions as `x` has, all of size 1."""
        ones = [1] * (x.shape.rank - 1)
        return tf.reshape(self.transformer_parameters, [*ones, *self.transformer_parameters.shape])


def check_structure(event_size: int, transformer: Transformer, dtype: str | tf.DType) -> tf.DType:
    """Check the arguments that every structure takes; return the dtype."""
    positive_int(event_size, "event_size")
    if not isinstance(transformer, Transformer):
        raise TypeError(
            "`transformer` must be an instance of bijectors.transformers.Transformer. "
            f"Received: transformer={transformer!r}"
        )
    return floating(dtype)
