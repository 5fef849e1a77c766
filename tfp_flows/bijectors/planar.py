"""Planar and radial flows: push along one direction, or around one point."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.parametric import Parametric
from tfp_flows.ops.checks import positive_int
from tfp_flows.ops.implicit import implicit_root
from tfp_flows.ops.seeds import check_seed

__all__ = ["MIN_SLOPE", "Planar", "Radial", "above_minus_one", "tanh_root"]

MIN_SLOPE = 1e-2
"""The smallest slope along the direction in which a map here contracts."""

_UNIT_SOFTPLUS = math.log(math.e - 1)  # softplus of it is 1.


class Planar(Parametric):
    """Push along one direction, by a sigmoid of the position along another.

    Forward: `y = x + û tanh(wᵀx + b)`
    Inverse: `x = y - û tanh(a)`, where `a + k tanh(a) = wᵀy + b` and `k = wᵀû`
    Log-det: `log(1 + k (1 - tanh²(wᵀx + b)))`

    Invertible where `k > -1`. That is made so: `û = u + (k - wᵀu) w / (wᵀw)` with
    `k = (1 - ε)(softplus(wᵀu + log(e - 1)) - 1)` and `ε = 0.01`, so that `u` is free, `u = 0` gives
    `û = 0`, and no slope is below `ε`. The forward direction costs two products with vectors; the
    inverse also a scalar root, by Newton's method, which takes about 5 steps and cannot fail here.
    Its derivatives, to any order, are those of the root. Starts as the identity, `w` in a random
    direction.

    Shapes: events `(event_size,)`, context `(..., context_size)`; the batch shapes of both
    broadcast. `2 event_size + 1` parameters.

    Args:
      event_size: number of columns.
      dtype: floating dtype of events.
      context_size: width of the context, or `None`.
      conditioner: hidden widths of an MLP that reads the context, or a Keras 3 layer
        `(batch, context_size) -> (batch, features)`.
      seed: integer for a reproducible first `w` and reproducible initial weights, or `None`.
      validate_args: as in every `tfb.Bijector`.
      name: name of the bijector.

    Raises:
      ValueError: a size is not a positive integer, `dtype` is neither float32 nor float64; an
        event or context does not fit; context is missing, or given to an unconditional bijector.

    Source: Danilo Jimenez Rezende and Shakir Mohamed, "Variational Inference with Normalizing
    Flows" (2015), with their softplus shifted to start at the identity.

    Example:
      >>> layers = [bijectors.Planar(2, seed=i) for i in range(16)]
      >>> flow = Flow(tfd.MultivariateNormalDiag([0.0, 0.0]), tfb.Chain(layers))
    """

    is_monotone = True
    independent_over_batch = True

    def __init__(
        self,
        event_size: int,
        dtype: str | tf.DType = "float32",
        *,
        context_size: int | None = None,
        conditioner: Sequence[int] | keras.layers.Layer = (64, 64),
        seed: int | None = None,
        validate_args: bool = False,
        name: str = "planar",
    ):
        parameters = dict(locals())
        size = positive_int(event_size, "event_size")
        direction = np.random.default_rng(check_seed(seed)).normal(size=size) / math.sqrt(size)
        super().__init__(
            event_size,
            [direction, np.zeros(size), np.zeros([])],
            context_size=context_size,
            conditioner=conditioner,
            dtype=dtype,
            seed=seed,
            parameters=parameters,
        )

    def _map(
        self, x: tf.Tensor, w: tf.Tensor, u: tf.Tensor, b: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        push, gain = self._constrained(w, u)
        h = tf.tanh(tf.reduce_sum(w * x, -1) + b)
        return x + push * h[..., None], tf.math.log1p(gain * (1 - h * h))

    def _unmap(
        self, y: tf.Tensor, w: tf.Tensor, u: tf.Tensor, b: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        push, gain = self._constrained(w, u)
        c = tf.reduce_sum(w * y, -1) + b
        h = tf.tanh(implicit_root(_tanh_equation, tanh_root(gain, c), gain, c))
        return y - push * h[..., None], -tf.math.log1p(gain * (1 - h * h))

    @staticmethod
    def _constrained(w: tf.Tensor, u: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`û` and `wᵀû`, which is above -1."""
        product = tf.reduce_sum(w * u, -1)
        gain = above_minus_one(product)
        tiny = np.finfo(w.dtype.as_numpy_dtype).tiny
        square = tf.maximum(tf.reduce_sum(w * w, -1), tiny)
        return u + ((gain - product) / square)[..., None] * w, gain


class Radial(Parametric):
    """Pull everything towards a point, or push it away.

    With `r = ‖x - x0‖`, `q = α / (α + r)` and `m = β / α`:

    Forward: `y = x + m q (x - x0)`, which is `x + β h(α, r) (x - x0)` with `h = 1 / (α + r)`
    Inverse: `x = x0 + (y - x0) / (1 + m q)`, where `r` is the positive root of
      `r² + (α (1 + m) - R) r - α R = 0` with `R = ‖y - x0‖`
    Log-det: `(event_size - 1) log(1 + m q) + log(1 + m q²)`

    Invertible where `β > -α`. That is made so: `α = softplus(α' + log(e - 1))` and
    `m = (1 - ε)(softplus(β' + log(e - 1)) - 1)` with `ε = 0.01`, for free `α'` and `β'`; zeros give
    `α = 1` and `β = 0`, the identity. Both directions cost one norm. Starts as the identity, with
    `x0` drawn from a standard normal.

    Shapes: as in `Planar`; `event_size + 2` parameters.

    Args:
      event_size: number of columns.
      dtype: floating dtype of events.
      context_size, conditioner, validate_args, name: as in `Planar`.
      seed: integer for a reproducible first `x0` and reproducible initial weights, or `None`.

    Raises:
      ValueError: as in `Planar`.

    Source: Danilo Jimenez Rezende and Shakir Mohamed, "Variational Inference with Normalizing
    Flows" (2015), with their softplus shifted to start at the identity.

    Example:
      >>> flow = Flow(tfd.MultivariateNormalDiag([0.0, 0.0]), bijectors.Radial(2))
    """

    is_monotone = True
    independent_over_batch = True

    def __init__(
        self,
        event_size: int,
        dtype: str | tf.DType = "float32",
        *,
        context_size: int | None = None,
        conditioner: Sequence[int] | keras.layers.Layer = (64, 64),
        seed: int | None = None,
        validate_args: bool = False,
        name: str = "radial",
    ):
        parameters = dict(locals())
        size = positive_int(event_size, "event_size")
        super().__init__(
            event_size,
            [np.random.default_rng(check_seed(seed)).normal(size=size), np.zeros([]), np.zeros([])],
            context_size=context_size,
            conditioner=conditioner,
            dtype=dtype,
            seed=seed,
            parameters=parameters,
        )

    def _map(
        self, x: tf.Tensor, center: tf.Tensor, raw_alpha: tf.Tensor, raw_beta: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        alpha, m = self._constrained(raw_alpha, raw_beta)
        q = alpha / (alpha + _norm(x - center))
        return x + (m * q)[..., None] * (x - center), self._log_det(m, q)

    def _unmap(
        self, y: tf.Tensor, center: tf.Tensor, raw_alpha: tf.Tensor, raw_beta: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        alpha, m = self._constrained(raw_alpha, raw_beta)
        radius = _norm(y - center)
        p = alpha * (1 + m) - radius
        # The roots' product is -α R. The larger one, in size, has no cancellation.
        larger = (tf.where(p < 0, -p, p) + tf.sqrt(p * p + 4 * alpha * radius)) / 2
        q = alpha / (alpha + tf.where(p < 0, larger, alpha * radius / larger))
        return center + (y - center) / (1 + m * q)[..., None], -self._log_det(m, q)

    def _log_det(self, m: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
        return (self.event_size - 1) * tf.math.log1p(m * q) + tf.math.log1p(m * q * q)

    @staticmethod
    def _constrained(raw_alpha: tf.Tensor, raw_beta: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`α`, which is positive, and `β / α`, which is above -1."""
        return tf.nn.softplus(raw_alpha + _UNIT_SOFTPLUS), above_minus_one(raw_beta)


def _norm(x: tf.Tensor) -> tf.Tensor:
    """The length of a vector, with a gradient at 0."""
    tiny = np.finfo(x.dtype.as_numpy_dtype).tiny
    return tf.sqrt(tf.reduce_sum(x * x, -1) + tiny)


def above_minus_one(raw: tf.Tensor) -> tf.Tensor:
    """Map any number to one above `MIN_SLOPE - 1`, and 0 to 0."""
    return (1 - MIN_SLOPE) * (tf.nn.softplus(raw + _UNIT_SOFTPLUS) - 1)


def _tanh_equation(a: tf.Tensor, gain: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`a + gain tanh(a) - c`, and its derivative by `a`."""
    h = tf.tanh(a)
    return a + gain * h - c, 1 + gain * (1 - h * h)


def tanh_root(gain: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
    """The `a` at which `a + gain tanh(a) = c`, for `gain` above -1; without gradients.

    The left side is odd. For positive `a` it is concave where `gain > 0`, convex where `gain < 0`;
    so Newton's method, started on the proper side of the root, goes to it from one side and needs
    no bracket. `|tanh|` is at most 1 and at most `|a|`: each gives a bound, and the start is the
    closer one.
    """
    gain, c = tf.stop_gradient(gain), tf.stop_gradient(c)
    size = tf.abs(c)
    near, far = size / (1 + gain), size - gain
    start = tf.where(gain > 0, tf.maximum(near, far), tf.minimum(near, far))
    eps = np.finfo(c.dtype.as_numpy_dtype).eps

    def newton(a: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        h = tf.tanh(a)
        step = (size - a - gain * h) / (1 + gain * (1 - h * h))
        return a + step, step

    def unfinished(a: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        return tf.reduce_any(tf.abs(step) > 4 * eps * a)

    # Gains up to 1e6 need 20 steps at most; the limit stops only steps that are rounding noise.
    root, _ = tf.while_loop(
        unfinished, newton, (start, start + 1), maximum_iterations=40, parallel_iterations=1
    )
    return root * tf.sign(c)
