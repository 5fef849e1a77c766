"""A velocity that is the gradient of a potential: paths that can be straight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfp_flows.networks.dynamics import Dynamics, Pair
from tfp_flows.networks.mlp import without_trainable
from tfp_flows.networks.times import of_times
from tfp_flows.ops.checks import positive_int
from tfp_flows.ops.internals import prefer_static as ps
from tfp_flows.ops.limits import claim
from tfp_flows.ops.seeds import derived_seed

__all__ = ["Potential"]

_RANK = 10  # Of the quadratic part, as in the paper.


@keras.saving.register_keras_serializable("tfp_flows")
class Potential(Dynamics):
    """The velocity `-∇ₓ Φ(x, t; c)`, which optimal transport has, with its trace in closed form.

    `Φ = w · N(s) + |A s|² / 2 + b · s`, where `s = (x, t)` and `N` is a residual network of two
    layers, `N = u + a(K₁ u + b₁)` and `u = a(K₀ s + C c + b₀)`, with `a(z) = log(2 cosh z)`. The
    context `c` shifts the first layer. The trace is that of the Hessian of `-Φ`, exact, at a cost
    of `width² · event_size` products an event. Starts at 0.

    Args:
      event_size: number of columns.
      width: of both layers.
      context_size: width of the context, or `None`.
      seed: integer for reproducible initial weights and signs, or `None`.
      dtype: "float32" or "float64".
      name: name of the layer.

    Raises:
      ValueError: a number is not a positive integer.

    Source: Derek Onken, Samy Wu Fung, Xingjian Li and Lars Ruthotto, "OT-Flow: Fast and Accurate
    Continuous Normalizing Flows via Optimal Transport" (2021), whose penalty of the
    Hamilton-Jacobi-Bellman equation is left out.

    Example:
      >>> bijectors.Continuous(3, networks.Potential(3, width=16)).forward(tf.ones([2, 3])).shape
      TensorShape([2, 3])
    """

    independent_over_batch = True
    exact_is_cheap = True

    def __init__(
        self,
        event_size: int,
        width: int = 32,
        *,
        context_size: int | None = None,
        seed: int | None = None,
        dtype: str = "float32",
        name: str | None = None,
    ):
        super().__init__(event_size, context_size=context_size, seed=seed, dtype=dtype, name=name)
        self.width = positive_int(width, "width")
        claim(width, max(width, event_size + 1))
        start = [keras.initializers.GlorotUniform(seed=derived_seed(seed, i)) for i in range(4)]
        rank = min(_RANK, self.event_size)
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "first": ((self.event_size, width), start[0]),
            "time": ((1, width), start[1]),
            "first_bias": ((width,), "zeros"),
            "second": ((width, width), start[2]),
            "second_bias": ((width,), "zeros"),
            "read": ((width,), "zeros"),
            "quadratic": ((self.event_size, rank), "zeros"),
            "mixed": ((1, rank), start[3]),
            "linear": ((self.event_size,), "zeros"),
        }
        if context_size is not None:
            rows = positive_int(context_size, "context_size")
            shapes["context"] = ((rows, width), keras.initializers.GlorotUniform(seed=seed))
        self._parts = {
            name: self.add_weight(shape=shape, initializer=initializer, name=name)
            for name, (shape, initializer) in shapes.items()
        }
        self._built()

    def parameters(self, context: tf.Tensor | None) -> list[tf.Tensor]:
        """All weights; those of the context as a shift of the first layer."""
        parts = {name: tf.convert_to_tensor(part) for name, part in self._parts.items()}
        if context is not None:
            parts["first_bias"] += tf.matmul(context, parts.pop("context"))
        return list(parts.values())

    def velocity(self, t: tf.Tensor, x: tf.Tensor, parameters: Sequence[tf.Tensor]) -> tf.Tensor:
        """`f(t, x)`."""
        return self._gradient(t, x, parameters)[0]

    def with_trace(self, t: tf.Tensor, x: tf.Tensor, parameters: Sequence[tf.Tensor]) -> Pair:
        """The velocity, and the exact trace of its Jacobian."""
        velocity, slope, outer, inner = self._gradient(t, x, parameters)
        first, _, _, second, _, _, quadratic, *_ = parameters
        of_first = tf.linalg.matvec(outer, tf.reduce_sum(first * first, 0))
        change = tf.matmul(first * slope[:, None], second)  # (n, D, width)
        of_second = tf.reduce_sum(inner * tf.reduce_sum(change * change, 1), -1)
        return velocity, -(of_first + of_second + tf.reduce_sum(quadratic * quadratic))

    def with_product(
        self, t: tf.Tensor, x: tf.Tensor, parameters: Sequence[tf.Tensor], probe: tf.Tensor
    ) -> Pair:
        """The velocity, and the product `εᵀ ∂f/∂x`, of a symmetric matrix."""
        velocity, slope, outer, inner = self._gradient(t, x, parameters)
        first, _, _, second, _, _, quadratic, *_ = parameters
        seen = tf.matmul(probe, first)
        back = tf.matmul(inner * tf.matmul(slope * seen, second), second, transpose_b=True)
        product = tf.matmul(outer * seen + slope * back, first, transpose_b=True)
        straight = tf.matmul(tf.matmul(probe, quadratic), quadratic, transpose_b=True)
        return velocity, -(product + straight)

    def _gradient(
        self, t: tf.Tensor, x: tf.Tensor, parameters: Sequence[tf.Tensor]
    ) -> tuple[tf.Tensor, ...]:
        """`-∇Φ`, the slope of the first layer, and what both layers curve."""
        first, time, first_bias, second, second_bias, read, quadratic, mixed, linear = parameters
        t = tf.reshape(t, [-1, 1])
        before = tf.matmul(x, first) + (of_times(t, time) + first_bias)
        slope = tf.tanh(before)
        bent = tf.tanh(tf.matmul(_log_cosh(before), second) + second_bias)
        read_back = read + tf.matmul(bent * read, second, transpose_b=True)
        gradient = tf.matmul(slope * read_back, first, transpose_b=True)
        straight = tf.matmul(x, quadratic) + of_times(t, mixed)
        gradient += tf.matmul(straight, quadratic, transpose_b=True) + linear
        gradient = tf.broadcast_to(gradient, ps.shape(x))
        return -gradient, slope, (1 - slope * slope) * read_back, (1 - bent * bent) * read

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "event_size": self.event_size,
            "width": self.width,
            "context_size": self.context_size,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Potential:
        return without_trainable(cls, config)


def _log_cosh(z: tf.Tensor) -> tf.Tensor:
    """`log(2 cosh z)`, which does not overflow."""
    return tf.abs(z) + tf.math.log1p(tf.exp(-2 * tf.abs(z)))
