"""Sums of sigmoids: deep sigmoidal flows, and the logistic mixture of Flow++."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.transformers.affine import Affine
from tfp_flows.bijectors.transformers.base import (
    Pair,
    Transformer,
    bounded,
    check_below_one,
    check_positive,
    log_softmax,
    of_nothing,
)
from tfp_flows.bijectors.transformers.numerical import numerical_inverse
from tfp_flows.ops.checks import positive_int

__all__ = ["DeepDenseSigmoidal", "DeepSigmoidal", "MixtureOfLogistics"]

# Half-width of the fixed, distinct locations that components start from.
_SPREAD = 0.5


@dataclasses.dataclass(frozen=True)
class DeepDenseSigmoidal(Transformer):
    """Dense layers of sigmoids, each between logits: `h ↦ logit(W σ(a ⊙ U h + b))`.

    With `h⁰ = x`, `f` the last layer's single output, and `f₀` the same network with all
    parameters zero:

    Forward: `hˡ = logit(Wˡ σ(aˡ ⊙ Uˡ hˡ⁻¹ + bˡ))`, `y = x + (1 - min_slope) (f(x) - f₀(x))`
    Inverse: numerical, to the accuracy of the dtype, with implicit gradients
    Log-det: `log(1 + (1 - min_slope) (f'(x) - f₀'(x)))`

    Rows of `W` and `U` are softmaxes of parameters, `a = exp(m tanh(r / m))` with
    `m = max_log_slope`, and `b` is free. Fixed, distinct terms are added to `b` and to the logits
    of `W`, so that components differ from the start. With `a = 1` no such network is steeper than
    1, hence `f₀' <= 1`: `y` increases with a slope of at least `min_slope`, and starts as the
    identity. All is computed from logarithms of σ, so that no input saturates it.

    `2 n layers + 2 n² (layers - 1) + n` parameters a scalar, `n = components`. Forward costs two
    networks, about `4 n² layers` exponentials; the inverse 5 to 20 times that.

    Args:
      components: `n`, sigmoids in a layer.
      layers: number of layers.
      max_log_slope: `m`; a layer's slope is below `exp(m)`.
      min_slope: smallest slope, below 1.

    Raises:
      ValueError, TypeError: a size is not a positive integer, another argument not a positive
        finite number, or `min_slope` not below 1.

    Source: Chin-Wei Huang, David Krueger, Alexandre Lacoste and Aaron Courville, "Neural
    Autoregressive Flows" (2018).

    Example:
      >>> network = bijectors.transformers.DeepDenseSigmoidal(components=4, layers=2)
      >>> bijectors.Elementwise(2, bijectors.transformers.Inverse(network))
    """

    components: int = 8
    layers: int = 2
    max_log_slope: float = 5.0
    min_slope: float = 1e-3

    def __post_init__(self) -> None:
        positive_int(self.components, "components")
        positive_int(self.layers, "layers")
        check_positive(self, "max_log_slope", "min_slope")
        check_below_one(self, "min_slope")

    @property
    def parameter_count(self) -> int:
        return sum(self._sizes())

    def forward(self, x: tf.Tensor, parameters: tf.Tensor) -> Pair:
        return _from_identity(self._network, x, parameters, self.min_slope)

    def inverse(self, y: tf.Tensor, parameters: tf.Tensor) -> Pair:
        return numerical_inverse(self.forward, y, parameters)

    def _sizes(self) -> list[int]:
        """Sizes of `a`, `b` and `W` of every layer, and of the next layer's `U`."""
        n, between = self.components, self.layers - 1
        return [n, n, n * n, n * n] * between + [n, n, n]

    def _network(self, x: tf.Tensor, parameters: tf.Tensor) -> Pair:
        n = self.components
        parts = tf.split(parameters, self._sizes(), axis=-2)
        # Logits of W that differ from row to row: rows that start equal would stay equal.
        rows = np.cos(np.pi * np.outer(np.arange(n), np.arange(n) + 0.5) / n)
        rows = tf.constant(rows[:, :, None], x.dtype)

        def sigmoids(raw: tf.Tensor, shift: tf.Tensor, h: tf.Tensor, log_slope: tf.Tensor) -> Pair:
            log_a = bounded(raw, self.max_log_slope)
            return tf.exp(log_a) * h + shift + _spread(n, x.dtype), log_a + log_slope

        h, log_slope = x[..., None, :], tf.zeros_like(x[..., None, :])
        for layer in range(self.layers - 1):
            raw, shift, mix, inner = parts[4 * layer : 4 * layer + 4]
            u, log_du = sigmoids(raw, shift, h, log_slope)
            h, log_slope = _logit_of_mixture(
                _matrix(mix, n) + rows, u[..., None, :, :], log_du[..., None, :, :]
            )
            # U of the next layer.
            log_u = log_softmax(_matrix(inner, n))
            h = tf.reduce_sum(tf.exp(log_u) * h[..., None, :, :], -2)
            log_slope = tf.reduce_logsumexp(log_u + log_slope[..., None, :, :], -2)
        raw, shift, mix = parts[-3:]
        return _logit_of_mixture(mix, *sigmoids(raw, shift, h, log_slope))


@dataclasses.dataclass(frozen=True)
class DeepSigmoidal(Transformer):
    """The logit of a weighted sum of sigmoids.

    With `f(x) = logit(Σ_j w_j σ(a_j x + b_j))`, and `f₀` the same with all parameters zero:

    Forward: `y = x + (1 - min_slope) (f(x) - f₀(x))`
    Inverse: numerical, to the accuracy of the dtype, with implicit gradients
    Log-det: `log(1 + (1 - min_slope) (f'(x) - f₀'(x)))`

    `w`, `a` and `b` are made from parameters, and `y` is the identity at the start and increasing,
    as in `DeepDenseSigmoidal`, of which this is one layer. `3 components` parameters a scalar.
    Forward costs about `10 components` exponentials and logarithms, the inverse 5 to 20 times
    that.

    Args:
      components: number of sigmoids.
      max_log_slope: `log a_j` is within ± this.
      min_slope: smallest slope, below 1.

    Raises:
      ValueError, TypeError: `components` is not a positive integer, another argument not a
        positive finite number, or `min_slope` not below 1.

    Source: Chin-Wei Huang, David Krueger, Alexandre Lacoste and Aaron Courville, "Neural
    Autoregressive Flows" (2018).

    Example:
      >>> sigmoids = bijectors.transformers.DeepSigmoidal(components=8)
      >>> bijectors.Elementwise(2, bijectors.transformers.Inverse(sigmoids))
    """

    components: int = 16
    max_log_slope: float = 5.0
    min_slope: float = 1e-3

    def __post_init__(self) -> None:
        positive_int(self.components, "components")
        check_positive(self, "max_log_slope", "min_slope")
        check_below_one(self, "min_slope")

    @property
    def parameter_count(self) -> int:
        return 3 * self.components

    def forward(self, x: tf.Tensor, parameters: tf.Tensor) -> Pair:
        return _from_identity(self._sum, x, parameters, self.min_slope)

    def inverse(self, y: tf.Tensor, parameters: tf.Tensor) -> Pair:
        return numerical_inverse(self.forward, y, parameters)

    def _sum(self, x: tf.Tensor, parameters: tf.Tensor) -> Pair:
        raw, shift, mix = tf.split(parameters, 3, axis=-2)
        log_a = bounded(raw, self.max_log_slope)
        u = tf.exp(log_a) * x[..., None, :] + shift + _spread(self.components, x.dtype)
        return _logit_of_mixture(mix, u, log_a)


@dataclasses.dataclass(frozen=True)
class MixtureOfLogistics(Transformer):
    """The logit of a logistic mixture's distribution function, then a scale and shift.

    With `f(x) = logit(Σ_j w_j σ((x - μ_j) exp(-s_j)))`, and `f₀` the same with all parameters zero:

    Forward: `y = exp(a) (x + (1 - min_slope) (f(x) - f₀(x))) + b`
    Inverse: numerical, to the accuracy of the dtype, with implicit gradients
    Log-det: `a + log(1 + (1 - min_slope) (f'(x) - f₀'(x)))`

    `w` is a softmax of parameters, `μ_j` and `b` are free, `s_j` and `a` bounded as `Affine` bounds
    its log-scale. Fixed, distinct terms are added to `μ`, so that components differ from the start;
    `f₀` is nowhere steeper than 1, so that `y` increases. Starts as the identity.
    `3 components + 2` parameters a scalar. Forward costs about `10 components` exponentials and
    logarithms, the inverse 5 to 20 times that.

    Args:
      components: number of logistics in the mixture.
      max_log_slope: `s_j` and `a` are within ± this.
      min_slope: smallest slope before the scale, below 1.

    Raises:
      ValueError, TypeError: `components` is not a positive integer, another argument not a
        positive finite number, or `min_slope` not below 1.

    Source: Jonathan Ho, Xi Chen, Aravind Srinivas, Yan Duan and Pieter Abbeel, "Flow++: Improving
    Flow-Based Generative Models with Variational Dequantization and Architecture Design" (2019).

    Example:
      >>> mixture = bijectors.transformers.MixtureOfLogistics(components=4)
      >>> bijectors.Coupling(4, bijectors.transformers.Inverse(mixture))
    """

    components: int = 8
    max_log_slope: float = 5.0
    min_slope: float = 1e-3

    def __post_init__(self) -> None:
        positive_int(self.components, "components")
        check_positive(self, "max_log_slope", "min_slope")
        check_below_one(self, "min_slope")

    @property
    def parameter_count(self) -> int:
        return 3 * self.components + 2

    def forward(self, x: tf.Tensor, parameters: tf.Tensor) -> Pair:
        mixture, affine = parameters[..., :-2, :], parameters[..., -2:, :]
        y, log_det = _from_identity(self._mixture, x, mixture, self.min_slope)
        y, log_scale = Affine(self.max_log_slope).forward(y, affine)
        return y, log_det + log_scale

    def inverse(self, y: tf.Tensor, parameters: tf.Tensor) -> Pair:
        return numerical_inverse(self.forward, y, parameters)

    def _mixture(self, x: tf.Tensor, parameters: tf.Tensor) -> Pair:
        raw, location, mix = tf.split(parameters, 3, axis=-2)
        log_scale = bounded(raw, self.max_log_slope)
        centred = x[..., None, :] - location - _spread(self.components, x.dtype)
        return _logit_of_mixture(mix, tf.exp(-log_scale) * centred, -log_scale)


def _spread(components: int, dtype: tf.DType) -> tf.Tensor:
    """Fixed locations `(components, 1)`: parameters cannot tell components apart that are equal."""
    locations = np.linspace(-_SPREAD, _SPREAD, components) if components > 1 else np.zeros(1)
    return tf.constant(locations[:, None], dtype)


def _matrix(flat: tf.Tensor, n: int) -> tf.Tensor:
    """`(..., n * n, units)` as `(..., n, n, units)`."""
    return tf.stack(tf.split(flat, n, axis=-2), axis=-3)


def _logit_of_mixture(mix: tf.Tensor, u: tf.Tensor, log_du: tf.Tensor) -> Pair:
    """`logit(Σ_j w_j σ(u_j))` and its log-slope, where `w = softmax(mix)` and `log_du = log u_j'`.

    The sum is over the last axis but one. σ and 1 - σ stay logarithms: neither rounds to 1. Of
    their sums `p` and `q = 1 - p`, the smaller one may have a logarithm of -1e6, to whose digits
    the slope must not be rounded: `Σ_j w_j σ_j (1 - σ_j) u_j' / (p q)` is taken as a mean over its
    shares, divided by the other sum.
    """
    log_w = log_softmax(mix)
    log_s, log_not_s = tf.math.log_sigmoid(u), tf.math.log_sigmoid(-u)
    log_p = tf.reduce_logsumexp(log_w + log_s, -2)
    log_q = tf.reduce_logsumexp(log_w + log_not_s, -2)
    above = (log_q < log_p)[..., None, :]
    log_less, log_more = tf.where(above, log_not_s, log_s), tf.where(above, log_s, log_not_s)
    largest = tf.stop_gradient(tf.reduce_max(log_less, -2, keepdims=True))
    log_share = log_softmax(log_w + (log_less - largest))
    log_slope = tf.reduce_logsumexp(log_share + log_more + log_du, -2)
    return log_p - log_q, log_slope - tf.maximum(log_p, log_q)


def _from_identity(
    function: Callable[[tf.Tensor, tf.Tensor], Pair],
    x: tf.Tensor,
    parameters: tf.Tensor,
    min_slope: float,
) -> Pair:
    """The identity plus what the parameters change in an increasing function."""
    if 0 in x.shape:
        return of_nothing(x, parameters)
    # One constant for all scalars: cheaper than zeros of the parameters' shape, with no gradient.
    zeros = tf.zeros([1] * (parameters.shape.rank - 2) + [parameters.shape[-2], 1], x.dtype)
    value, log_slope = function(x, parameters)
    start, log_start_slope = function(x, zeros)
    share = 1 - min_slope
    # Above 0 by rounding alone.
    rest = 1 - share * tf.exp(tf.minimum(log_start_slope, 0.0))
    return x + share * (value - start), tf.math.log(rest + share * tf.exp(log_slope))
