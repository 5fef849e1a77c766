"""Two-dimensional toy densities: distributions with `sample` and an exact `log_prob`.

Flows are usually shown on bare samples of such toys. Here each toy is a `tfd.Distribution`, so
the Kullback-Leibler divergence of a flow from its target is a number that can be measured:

```python
toy = TwoMoons(noise=0.2)
x = toy.sample(1000, seed=0)        # (1000, 2)
toy.log_prob(x)                     # (1000,), in nats
```

The event shape is (2,), the batch shape (), and nearly all mass lies in [-4, 4]^2. Densities are
closed forms, or quadratures within 1e-6 nats (in float64) wherever there is mass. Options are
plain Python numbers; one out of its range is a ValueError. `dtype` is float32 or float64. An
integer `seed` gives the same sample at every call, which TFP itself does not promise.

Every toy is a map of two uniforms and two standard normals to the plane (`_place`), together with
the density of the result (`_log_density`).
"""

import functools
import math
import numbers
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows.distributions.edges import without_density, without_infinite
from tfp_flows.ops.checks import finite_number
from tfp_flows.ops.seeds import stateless_seed

__all__ = ["Checkerboard", "Circles", "EightGaussians", "Pinwheel", "TwoMoons", "TwoSpirals"]

DType: TypeAlias = "tf.DType | str"


def _polar(radius: tf.Tensor | float, angle: tf.Tensor) -> tf.Tensor:
    """Points (..., 2) from polar coordinates (...); angles in radians."""
    return tf.stack([radius * tf.cos(angle), radius * tf.sin(angle)], axis=-1)


def _turn(x: tf.Tensor, angle: tf.Tensor) -> tf.Tensor:
    """Turns points x (..., 2) counterclockwise about the origin by `angle` radians (...)."""
    c, s = tf.cos(angle), tf.sin(angle)
    return tf.stack([c * x[..., 0] - s * x[..., 1], s * x[..., 0] + c * x[..., 1]], axis=-1)


def _log_noise(gap: tf.Tensor, noise: float | tuple[float, float]) -> tf.Tensor:
    """Log-density (...) at gap (..., 2) of two independent normals with deviations `noise`."""
    scale = np.broadcast_to(noise, 2)
    z = gap / tf.constant(scale, gap.dtype)
    return -0.5 * tf.reduce_sum(tf.square(z), axis=-1) - math.log(2 * math.pi * scale.prod())


def _no_tensors(cls: type, dtype: Any, num_classes: int | None = None) -> dict[str, Any]:
    """No option is a tensor, hence the batch shape (). TFP wants each class to say so itself."""
    return {}


class _Toy(tfd.Distribution):
    """What all toys share. A subclass has two methods:

    `_place(u, e)` maps uniforms u in [0, 1) and standard normals e, both (n, 2), to n points.
    `_log_density(x)` is the log-density (...) at x (..., 2), in nats.
    """

    def __init__(self, dtype: DType, parameters: dict[str, Any]):
        if dtype not in (tf.float32, tf.float64):
            raise ValueError(f"`dtype` must be float32 or float64. Received: dtype={dtype!r}")
        super().__init__(
            dtype=tf.as_dtype(dtype),
            reparameterization_type=tfd.NOT_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=True,
            parameters=parameters,
            name=type(self).__name__,
        )

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape([2])

    def _event_shape_tensor(self) -> tf.Tensor:
        return tf.constant([2])

    def _default_event_space_bijector(self) -> tfb.Bijector:
        return tfb.Identity()

    def _sample_n(self, n: tf.Tensor, seed: Any = None) -> tf.Tensor:
        seed = stateless_seed(seed)
        uniform_seed, normal_seed = tfp.random.split_seed(seed, n=2, salt=type(self).__name__)
        u = tf.random.stateless_uniform([n, 2], uniform_seed, dtype=self.dtype)
        e = tf.random.stateless_normal([n, 2], normal_seed, dtype=self.dtype)
        return self._place(u, e)

    def _log_prob(self, x: tf.Tensor) -> tf.Tensor:
        if x.dtype != self.dtype:
            raise TypeError(f"`value` must be {self.dtype.name}. Received: dtype={x.dtype.name}")
        if not x.shape[-1:].is_compatible_with([2]):
            raise ValueError(f"`value` must have shape (..., 2). Received: shape={x.shape}")
        x, infinite, far_out = without_infinite(x, 1)
        log_prob = self._log_density(x) + 0 * tf.reduce_sum(x, -1)  # A NaN stays one.
        return without_density(log_prob, infinite, far_out)


class _Arms(_Toy):
    """An even mixture of `_arms` copies of one density, turned by multiples of 2 pi / `_arms`.

    `_place_arm(u, e)`, where u has shape (n,), and `_log_arm(z)` describe the arm at angle 0.
    """

    _arms: int

    def _place(self, u: tf.Tensor, e: tf.Tensor) -> tf.Tensor:
        arm = tf.floor(u[:, 0] * self._arms)
        return _turn(self._place_arm(u[:, 1], e), arm * (2 * math.pi / self._arms))

    def _log_density(self, x: tf.Tensor) -> tf.Tensor:
        angles = tf.constant(-2 * np.pi * np.arange(self._arms) / self._arms, self.dtype)
        z = _turn(x[..., tf.newaxis, :], angles)
        return tf.reduce_logsumexp(self._log_arm(z), axis=-1) - math.log(self._arms)


class _NoisyCurve(_Arms):
    """Arms that are a curve blurred by isotropic Gaussian noise.

    `_curve` maps m, uniform in [0, 1], to points (..., 2). The density is the integral over m of
    N(x; curve(m), noise^2 I), by Gauss-Legendre quadrature on panels that are `_PANEL` noises long
    at most: `_speed` is the largest |d curve / dm|.
    """

    _NODES, _PANEL = 16, 6.0
    _speed: float

    def __init__(self, noise: float, dtype: DType, parameters: dict[str, Any]):
        super().__init__(dtype, parameters)
        self._noise = finite_number("noise", noise, 0.01)

    def _place_arm(self, u: tf.Tensor, e: tf.Tensor) -> tf.Tensor:
        return self._curve(u) + self._noise * e

    def _log_arm(self, z: tf.Tensor) -> tf.Tensor:
        # Two more than the noise asks for: where it is large, the bends of the curve need them.
        panels = 2 + math.ceil(self._speed / (self._PANEL * self._noise))
        nodes, weights = np.polynomial.legendre.leggauss(self._NODES)
        log_weights = tf.constant(np.log(weights / 2 / panels), self.dtype)

        def log_panel(k: tf.Tensor) -> tf.Tensor:
            m = (k + (nodes + 1) / 2) / panels
            gap = z[..., tf.newaxis, :] - self._curve(tf.constant(m, self.dtype))
            return tf.reduce_logsumexp(log_weights + _log_noise(gap, self._noise), axis=-1)

        # Panel by panel: all nodes at once would take gigabytes for the points of one picture.
        return functools.reduce(tfp.math.log_add_exp, map(log_panel, range(panels)))


class TwoMoons(_NoisyCurve):
    """Two interleaved half circles of radius 2, blurred.

    The upper moon is `(2 cos t - 1, 2 sin t - 1/2) + noise * e`, with t uniform in [0, pi] radians
    and e standard normal; the lower is the upper turned by pi. (The shape of scikit-learn's
    `make_moons`, centred and twice the size.) The density is a quadrature over t.

    Args:
      noise: standard deviation of the noise, at least 0.01.
    """

    _parameter_properties: Any = classmethod(_no_tensors)
    _arms, _speed = 2, 2 * math.pi

    def __init__(self, *, noise: float = 0.2, dtype: DType = "float32"):
        parameters = dict(locals())
        super().__init__(noise, dtype, parameters)

    def _curve(self, m: tf.Tensor) -> tf.Tensor:
        return _polar(2.0, math.pi * m) - tf.constant([1.0, 0.5], self.dtype)


class TwoSpirals(_NoisyCurve):
    """Two entwined spirals of one and a quarter turns, blurred.

    One spiral is `t / 3 * (cos t, sin t) + noise * e`, with t between pi / 2 and 3 pi radians,
    t^2 uniform (so that the points are spread about evenly) and e standard normal; the other is
    the first turned by pi. The density is a quadrature over t^2.

    Args:
      noise: standard deviation of the noise, at least 0.01.
    """

    _parameter_properties: Any = classmethod(_no_tensors)
    _arms, _speed = 2, 17.1

    def __init__(self, *, noise: float = 0.1, dtype: DType = "float32"):
        parameters = dict(locals())
        super().__init__(noise, dtype, parameters)

    def _curve(self, m: tf.Tensor) -> tf.Tensor:
        start, stop = math.pi / 2, 3 * math.pi
        t = tf.sqrt(start**2 + m * (stop**2 - start**2))
        return _polar(t / 3, t)


class EightGaussians(_Arms):
    """Eight equal Gaussians, evenly spaced on a circle about the origin.

    Args:
      radius: radius of the circle, at least 0.
      noise: standard deviation of each Gaussian, at least 0.01.
    """

    _parameter_properties: Any = classmethod(_no_tensors)
    _arms = 8

    def __init__(self, *, radius: float = 3.0, noise: float = 0.3, dtype: DType = "float32"):
        parameters = dict(locals())
        super().__init__(dtype, parameters)
        self._radius = finite_number("radius", radius, 0.0)
        self._noise = finite_number("noise", noise, 0.01)

    def _place_arm(self, u: tf.Tensor, e: tf.Tensor) -> tf.Tensor:
        return self._noise * e + tf.constant([self._radius, 0.0], self.dtype)

    def _log_arm(self, z: tf.Tensor) -> tf.Tensor:
        return _log_noise(z - tf.constant([self._radius, 0.0], self.dtype), self._noise)


class Pinwheel(_Arms):
    """Arms of a pinwheel: Gaussians stretched along their radius and twisted about the origin.

    With e standard normal, an arm is `y = (2 + radial * e0, tangential * e1)`, turned by
    `twist * |y|^2` radians. The angle depends on the radius alone, so the twist keeps areas and
    the density is a closed form. After the pinwheel of Johnson, Duvenaud, Wiltschko, Datta and
    Adams, "Composing graphical models with neural networks for structured representations and
    fast inference" (2016), whose angle depends on y0 instead and whose density has no such form.

    Args:
      arms: number of arms, a positive integer.
      radial: standard deviation along the arm, at least 0.01.
      tangential: standard deviation across the arm, at least 0.01.
      twist: radians by which a point is turned, per squared distance from the origin.
    """

    _parameter_properties: Any = classmethod(_no_tensors)

    def __init__(
        self,
        *,
        arms: int = 5,
        radial: float = 0.6,
        tangential: float = 0.2,
        twist: float = 0.1,
        dtype: DType = "float32",
    ):
        parameters = dict(locals())
        super().__init__(dtype, parameters)
        if not isinstance(arms, numbers.Integral) or arms < 1:
            raise ValueError(f"`arms` must be a positive integer. Received: arms={arms!r}")
        self._arms = int(arms)
        noise = finite_number("radial", radial, 0.01), finite_number("tangential", tangential, 0.01)
        self._noise: tuple[float, float] = noise
        self._twist: float = finite_number("twist", twist)

    def _place_arm(self, u: tf.Tensor, e: tf.Tensor) -> tf.Tensor:
        y = tf.constant([2.0, 0.0], self.dtype) + e * self._noise
        return self._twisted(y, self._twist)

    def _log_arm(self, z: tf.Tensor) -> tf.Tensor:
        y = self._twisted(z, -self._twist)
        return _log_noise(y - tf.constant([2.0, 0.0], self.dtype), self._noise)

    def _twisted(self, x: tf.Tensor, twist: float) -> tf.Tensor:
        return _turn(x, twist * tf.reduce_sum(tf.square(x), axis=-1))


class Circles(_Toy):
    """Concentric circles about the origin, equally likely, blurred.

    `R (cos t, sin t) + noise * e`, with R one of the radii, t uniform and e standard normal. At
    distance r from the origin a circle has the density
    `exp(-(r - R)^2 / (2 noise^2)) I0e(r R / noise^2) / (2 pi noise^2)`, where
    `I0e(z) = exp(-|z|) I0(z)` is the exponentially scaled modified Bessel function of order 0.

    Args:
      radii: radii of the circles, one or more numbers of at least 0.
      noise: standard deviation of the noise, at least 0.01.
    """

    _parameter_properties: Any = classmethod(_no_tensors)

    def __init__(
        self, *, radii: Sequence[float] = (1.5, 3.0), noise: float = 0.2, dtype: DType = "float32"
    ):
        parameters = dict(locals())
        super().__init__(dtype, parameters)
        if not isinstance(radii, Sequence) or isinstance(radii, str) or len(radii) == 0:
            raise ValueError(f"`radii` must be a tuple of numbers. Received: radii={radii!r}")
        self._radii = [finite_number("radii", radius, 0.0) for radius in radii]
        self._noise = finite_number("noise", noise, 0.01)

    def _place(self, u: tf.Tensor, e: tf.Tensor) -> tf.Tensor:
        circle = tf.cast(u[:, 0] * len(self._radii), tf.int32)
        radius = tf.gather(tf.constant(self._radii, self.dtype), circle)
        return _polar(radius, 2 * math.pi * u[:, 1]) + self._noise * e

    def _log_density(self, x: tf.Tensor) -> tf.Tensor:
        # The floor keeps the gradient at the origin 0, where that of a square root is infinite.
        square = tf.reduce_sum(tf.square(x), axis=-1, keepdims=True)
        r = tf.sqrt(tf.maximum(square, np.finfo(self.dtype.as_numpy_dtype).tiny))
        radii = tf.constant(self._radii, self.dtype)
        log_bessel = tf.math.log(tf.math.bessel_i0e(r * radii / self._noise**2))
        log_terms = log_bessel - 0.5 * tf.square((r - radii) / self._noise)
        total = len(self._radii) * 2 * math.pi * self._noise**2
        return tf.reduce_logsumexp(log_terms, axis=-1) - math.log(total)


class Checkerboard(_Toy):
    """Uniform on the eight dark squares of a 4 x 4 board on [-4, 4]^2.

    The dark squares, 2 wide, are those where `floor(x0 / 2) + floor(x1 / 2)` is even. `log_prob`
    is -log 32 on them (lower edges included, upper edges not) and -inf elsewhere.
    """

    _parameter_properties: Any = classmethod(_no_tensors)

    def __init__(self, *, dtype: DType = "float32"):
        parameters = dict(locals())
        super().__init__(dtype, parameters)

    def _place(self, u: tf.Tensor, e: tf.Tensor) -> tf.Tensor:
        x0 = 8 * u[:, 0] - 4
        height = 4 * u[:, 1]  # within the two dark squares of a column, stacked
        lift = 2 * tf.floor(height / 2) + 2 * (tf.floor(x0 / 2) % 2)
        return tf.stack([x0, height + lift - 4], axis=-1)

    def _log_density(self, x: tf.Tensor) -> tf.Tensor:
        dark = tf.reduce_sum(tf.floor(x / 2), axis=-1) % 2 == 0
        board = tf.reduce_all((x >= -4) & (x < 4), axis=-1)
        zero = tf.zeros_like(x[..., 0])
        return tf.where(dark & board, zero - math.log(32), zero - math.inf)
