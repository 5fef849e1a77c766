"""Sphere: the unit sphere in three dimensions, as a rectangle of equal areas."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.base import Bijector, check_event_size
from tfp_flows.bijectors.transformers.base import Pair
from tfp_flows.ops.checks import floating

__all__ = ["Sphere"]


class Sphere(Bijector):
    """Wrap a rectangle around the sphere: longitude and height to unit vectors.

    Forward: `(φ, h)` to `(r cos φ, r sin φ, z)` with `z = h / π` and `r = sqrt(1 - z²)`
    Inverse: `φ = atan2(y_2, y_1)`, `h = π y_3`
    Log-det: `-log π`, of areas on the sphere over those of the rectangle

    By Archimedes' theorem a sphere has the area of the cylinder around it. So densities of two
    columns in [-π, π] are densities on the sphere, with respect to area, but for a constant.
    Longitudes are angles; heights end at the poles, where all longitudes are one point. Both
    directions cost a few operations. In float32, what is nearer to a pole than 3e-4 lies at it.

    Shapes: events `(2,)` to events `(3,)`. Heights beyond ±π are taken for these. Of vectors whose
    squared length is not 1, to about half of the digits of the dtype, the log-det is `-inf`.

    Args:
      dtype: floating dtype of events.
      validate_args: as in every `tfb.Bijector`.
      name: name of the bijector.

    Raises:
      ValueError: `dtype` is neither float32 nor float64; an event does not fit.

    Source: Danilo Jimenez Rezende et al., "Normalizing Flows on Tori and Spheres" (2020).

    Example:
      >>> sphere = bijectors.Sphere()
      >>> sphere.inverse([[0.0, 1.0, 0.0]])    # [[1.5707964, 0.0]]
    """

    independent_over_batch = True
    needs_raw_data = True

    def __init__(
        self,
        dtype: str | tf.DType = "float32",
        *,
        validate_args: bool = False,
        name: str = "sphere",
    ):
        parameters = dict(locals())
        super().__init__(parameters=parameters, dtype=floating(dtype))

    def _forward_and_log_det(self, x: tf.Tensor) -> Pair:
        angle, height = tf.unstack(check_event_size(self, x, 2), axis=-1)
        z = tf.clip_by_value(height / math.pi, -1.0, 1.0)
        tiny = np.finfo(x.dtype.as_numpy_dtype).eps ** 2
        radius = tf.sqrt(tf.maximum((1 - z) * (1 + z), tiny))
        y = tf.stack([radius * tf.cos(angle), radius * tf.sin(angle), z], -1)
        return y, tf.fill(tf.shape(angle), tf.constant(-math.log(math.pi), x.dtype))

    def _inverse_and_log_det(self, y: tf.Tensor) -> Pair:
        a, b, z = tf.unstack(check_event_size(self, y, 3), axis=-1)
        # At a pole any longitude would do; that of 0 and 0 has no derivative. Close to one, the
        # derivative's squares would underflow.
        radius = tf.stop_gradient(tf.maximum(tf.abs(a), tf.abs(b)))
        at_pole = radius < np.finfo(y.dtype.as_numpy_dtype).tiny
        radius = tf.where(at_pole, tf.ones_like(a), radius)
        angle = tf.math.atan2(b / radius, tf.where(at_pole, tf.ones_like(a), a / radius))
        eps = float(np.finfo(y.dtype.as_numpy_dtype).eps)
        far = tf.abs(a * a + b * b + z * z - 1) > 10 * math.sqrt(eps)
        known, nothing, missing = (
            tf.constant(value, y.dtype) for value in (math.log(math.pi), -math.inf, math.nan)
        )
        log_det = tf.where(tf.math.is_nan(a + b + z), missing, tf.where(far, nothing, known))
        # Never ±π: layers of angles would take the one pole for the other.
        height = math.pi * tf.clip_by_value(z, 8 * eps - 1, 1 - 8 * eps)
        return tf.stack([angle, height], -1), log_det

    # There is one column more on the sphere.

    def _forward_event_shape(self, shape: tf.TensorShape) -> tf.TensorShape:
        return tf.TensorShape([*shape[:-1], 3])

    def _inverse_event_shape(self, shape: tf.TensorShape) -> tf.TensorShape:
        return tf.TensorShape([*shape[:-1], 2])

    def _forward_event_shape_tensor(self, shape: tf.Tensor) -> tf.Tensor:
        return tf.concat([shape[:-1], [3]], 0)

    def _inverse_event_shape_tensor(self, shape: tf.Tensor) -> tf.Tensor:
        return tf.concat([shape[:-1], [2]], 0)
