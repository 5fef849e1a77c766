"""Bijectors with a few named parameters and closed formulas: teaching pieces that compose.

Every scalar argument may be a Python float, a tensor, a `tf.Variable` (then it is trained) or a
`tfp.util.TransformedVariable`. With Python floats the bijector follows the dtype of its input;
otherwise it has the dtype of its parameters. Parameters of shape `(B...)` give a batch of maps.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.bijectors.base import Bijector, check_event_size
from tfp_flows.ops.internals import convert_nonref_to_tensor, is_ref

__all__ = ["BimodalSoftsign", "Rotation2D", "ShiftAndCube"]

# A float, a `tf.Tensor`, a `tf.Variable` or a `tfp.util.DeferredTensor`.
Scalar: TypeAlias = Any


def _parameter(value: Any, name: str, *, positive: bool = False) -> Any:
    """Keep floats and variables as they are, make tensors of the rest, and check known values."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool | str) or value is None:
        raise TypeError(
            f"`{name}` must be a float, a tensor or a tf.Variable. Received: {name}={value!r}"
        )
    if isinstance(value, int | float):
        value = float(value)
        if not math.isfinite(value) or (positive and value <= 0):
            need = "positive and finite" if positive else "finite"
            raise ValueError(f"`{name}` must be {need}. Received: {name}={value!r}")
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":  # The hint would round it.
        return tf.convert_to_tensor(value, name=name)
    return convert_nonref_to_tensor(value, dtype_hint=tf.float32, name=name)


def _assertions(
    bijector: Bijector, is_init: bool, *names: str, positive: bool = False
) -> list[tf.Operation | tf.Tensor]:
    """With `validate_args`, checks of tensors at the start, and of variables at every call."""
    found: list[tf.Operation | tf.Tensor] = []
    for name in names:
        value = getattr(bijector, name)
        if not bijector.validate_args or isinstance(value, float) or is_init == is_ref(value):
            continue
        value = tf.convert_to_tensor(value)
        found.append(tf.debugging.assert_all_finite(value, f"`{name}` must be finite."))
        if positive:
            found.append(tf.debugging.assert_positive(value, message=f"`{name}` must be positive."))
    return found


def _dtype(*parameters: Any) -> tf.DType | None:
    """The dtype of the first parameter that has one; None, "as the input", for floats."""
    return next((tf.as_dtype(p.dtype) for p in parameters if not isinstance(p, float)), None)


class _PlaneMap(Bijector):
    """What the maps of the plane share: events of shape (2,), one scalar parameter, log-det 0."""

    def _tensors(self, x: tf.Tensor, parameter: Scalar) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        x = check_event_size(self, x, 2)
        return x[..., 0], x[..., 1], tf.convert_to_tensor(parameter, x.dtype)

    @staticmethod
    def _event(first: tf.Tensor, second: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Stack the coordinates, broadcasting, and return the event with its log-det of 0."""
        shape = tf.broadcast_static_shape(first.shape, second.shape)
        if not shape.is_fully_defined():
            shape = tf.broadcast_dynamic_shape(tf.shape(first), tf.shape(second))
        event = tf.stack([tf.broadcast_to(first, shape), tf.broadcast_to(second, shape)], -1)
        return event, tf.zeros_like(event[..., 0])


class ShiftAndCube(_PlaneMap):
    """Shift the second coordinate by the cube of the first; volume is preserved.

    Forward: `(x0, x1) -> (x0, x1 + coefficient * x0**3)`
    Inverse: `(y0, y1) -> (y0, y1 - coefficient * y0**3)`
    Log-det: `0`: the Jacobian is triangular with ones on its diagonal.

    Both directions cost a handful of elementwise operations. Events have shape `(2,)`.

    Args:
      coefficient: strength of the shift, shape `(B...)`.
      validate_args: whether tensors are checked too, and variables at every call.
      name: name of the bijector.

    Raises:
      TypeError: `coefficient` is a string, a bool or None.
      ValueError: `coefficient` is a float that is not finite, or the event size is not 2.
      tf.errors.InvalidArgumentError: with `validate_args`, `coefficient` is not finite.

    Source: a coupling layer without a network; Laurent Dinh, David Krueger and Yoshua Bengio,
    "NICE: Non-linear Independent Components Estimation" (2014).

    Example:
      >>> cube = bijectors.ShiftAndCube(0.5)
      >>> cube.forward([2.0, 1.0])        # [2., 5.]
      >>> banana = tfd.TransformedDistribution(tfd.MultivariateNormalDiag([0.0, 0.0]), cube)
    """

    closed_inverse = True
    independent_over_batch = True

    def __init__(
        self, coefficient: Scalar, *, validate_args: bool = False, name: str = "shift_and_cube"
    ):
        parameters = dict(locals())
        self.coefficient = _parameter(coefficient, "coefficient")
        super().__init__(parameters=parameters, dtype=_dtype(self.coefficient))

    @classmethod
    def _parameter_properties(cls, dtype: tf.DType | None) -> dict[str, Any]:
        return {"coefficient": tfp.util.ParameterProperties()}

    def _parameter_control_dependencies(self, is_init: bool) -> list[tf.Operation | tf.Tensor]:
        return _assertions(self, is_init, "coefficient")

    def _forward_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x0, x1, coefficient = self._tensors(x, self.coefficient)
        return self._event(x0, x1 + coefficient * x0**3)

    def _inverse_and_log_det(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        y0, y1, coefficient = self._tensors(y, self.coefficient)
        return self._event(y0, y1 - coefficient * y0**3)


class Rotation2D(_PlaneMap):
    """Rotate the plane counter-clockwise by `angle` radians.

    Forward: `(x0, x1) -> (cos(a) x0 - sin(a) x1, sin(a) x0 + cos(a) x1)`
    Inverse: `(y0, y1) -> (cos(a) y0 + sin(a) y1, cos(a) y1 - sin(a) y0)`
    Log-det: `0`: rotations preserve volume.

    Both directions cost one sine, one cosine and a handful of products. Events have shape `(2,)`.

    Args:
      angle: angle in radians, shape `(B...)`.
      validate_args: whether tensors are checked too, and variables at every call.
      name: name of the bijector.

    Raises:
      TypeError: `angle` is a string, a bool or None.
      ValueError: `angle` is a float that is not finite, or the event size is not 2.
      tf.errors.InvalidArgumentError: with `validate_args`, `angle` is not finite.

    Source: any linear algebra text, e.g. Gilbert Strang, "Introduction to Linear Algebra" (2016).

    Example:
      >>> quarter = bijectors.Rotation2D(np.pi / 2)
      >>> quarter.forward([1.0, 0.0])     # [0., 1.]
    """

    closed_inverse = True
    independent_over_batch = True

    def __init__(self, angle: Scalar, *, validate_args: bool = False, name: str = "rotation_2d"):
        parameters = dict(locals())
        self.angle = _parameter(angle, "angle")
        super().__init__(parameters=parameters, is_constant_jacobian=True, dtype=_dtype(self.angle))

    @classmethod
    def _parameter_properties(cls, dtype: tf.DType | None) -> dict[str, Any]:
        return {"angle": tfp.util.ParameterProperties()}

    def _parameter_control_dependencies(self, is_init: bool) -> list[tf.Operation | tf.Tensor]:
        return _assertions(self, is_init, "angle")

    def _forward_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x0, x1, angle = self._tensors(x, self.angle)
        cos, sin = tf.cos(angle), tf.sin(angle)
        return self._event(cos * x0 - sin * x1, sin * x0 + cos * x1)

    def _inverse_and_log_det(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        y0, y1, angle = self._tensors(y, self.angle)
        cos, sin = tf.cos(angle), tf.sin(angle)
        return self._event(cos * y0 + sin * y1, cos * y1 - sin * y0)


class BimodalSoftsign(Bijector):
    """Squash the line into `(-scale, scale)` by softsign: a standard normal becomes bimodal.

    With `u = sharpness * x` and `v = y / scale`:

    Forward: `y = scale * u / (1 + |u|)`
    Inverse: `x = v / (1 - |v|) / sharpness`
    Log-det: `log(scale * sharpness) - 2 log(1 + |u|)`, elementwise

    Softsign approaches its limits slowly, so the tails of a normal pile up on both sides: the
    density has a mode on either side of 0 and goes to 0 at `±scale`. The larger `sharpness`, the
    closer the modes are to `±scale`. Both directions cost a handful of elementwise operations.
    Acts on every entry of an event of any rank.

    Outside the support, at `|y| >= scale`, the density is 0: the inverse returns the nearest point
    of the support's image that can be represented, and its log-determinant is `-inf`, so
    `log_prob` is `-inf` there, and never NaN.

    Args:
      sharpness: positive, shape `(B...)`. To train it, give a `tfp.util.TransformedVariable` that
        keeps it positive.
      scale: positive half-width of the support, in the units of `y`, shape `(B...)`.
      validate_args: whether tensors are checked too, and variables at every call.
      name: name of the bijector.

    Raises:
      TypeError: a parameter is a string, a bool or None.
      ValueError: a Python float given as a parameter is not positive and finite.
      tf.errors.InvalidArgumentError: with `validate_args`, a parameter is not.

    Source: the activation of James Bergstra, Guillaume Desjardins, Pascal Lamblin and Yoshua
    Bengio, "Quadratic Polynomials Learn Better Image Features" (2009), used as a map of densities.

    Example:
      >>> two_modes = tfd.TransformedDistribution(tfd.Normal(0.0, 1.0), bijectors.BimodalSoftsign())
      >>> two_modes.prob([-0.5, 0.0, 0.5])    # [0.967883, 0.398942, 0.967883]
    """

    is_monotone = True
    independent_over_batch = True

    def __init__(
        self,
        sharpness: Scalar = 1.0,
        scale: Scalar = 1.0,
        *,
        validate_args: bool = False,
        name: str = "bimodal_softsign",
    ):
        parameters = dict(locals())
        self.sharpness = _parameter(sharpness, "sharpness", positive=True)
        self.scale = _parameter(scale, "scale", positive=True)
        super().__init__(
            parameters=parameters,
            forward_min_event_ndims=0,
            dtype=_dtype(self.sharpness, self.scale),
        )

    @classmethod
    def _parameter_properties(cls, dtype: tf.DType | None) -> dict[str, Any]:
        positive = tfp.util.ParameterProperties(
            default_constraining_bijector_fn=tfp.bijectors.Softplus
        )
        return {"sharpness": positive, "scale": positive}

    def _parameter_control_dependencies(self, is_init: bool) -> list[tf.Operation | tf.Tensor]:
        return _assertions(self, is_init, "sharpness", "scale", positive=True)

    def _is_increasing(self) -> bool:
        return True

    def _tensors(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        sharpness = tf.convert_to_tensor(self.sharpness, x.dtype)
        scale = tf.convert_to_tensor(self.scale, x.dtype)
        return sharpness, scale, tf.math.log(sharpness) + tf.math.log(scale)

    def _forward_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        sharpness, scale, log_slope = self._tensors(x)
        u = sharpness * x
        return scale * tf.math.softsign(u), log_slope - 2 * tf.math.log1p(tf.abs(u))

    def _inverse_and_log_det(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        sharpness, scale, log_slope = self._tensors(y)
        v = y / scale
        # Clip before the maths, so that neither branch of the `where` below can make a NaN.
        edge = 1 - np.finfo(y.dtype.as_numpy_dtype).epsneg
        clipped = tf.clip_by_value(v, -edge, edge)
        gap = 1 - tf.abs(clipped)
        log_det = -log_slope - 2 * tf.math.log(gap)
        outside = tf.constant(-math.inf, y.dtype)
        return clipped / gap / sharpness, tf.where(tf.abs(v) < 1, log_det, outside)
