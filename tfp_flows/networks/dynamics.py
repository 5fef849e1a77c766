"""Velocities of events in time, with the traces of their Jacobians: the networks of ODE flows."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfp_flows.networks.activations import SMOOTH
from tfp_flows.networks.layer_normalization import check_derivatives
from tfp_flows.networks.mlp import without_trainable
from tfp_flows.networks.signs import RandomSigns
from tfp_flows.networks.times import FEATURES, features_of, of_times
from tfp_flows.ops.checks import floating, one_of, positive_int
from tfp_flows.ops.internals import layers_of
from tfp_flows.ops.internals import prefer_static as ps
from tfp_flows.ops.limits import claim
from tfp_flows.ops.seeds import derived_seed

__all__ = ["Dynamics", "LayerDynamics", "VelocityMLP"]

Pair = tuple[tf.Tensor, tf.Tensor]


class Dynamics(keras.layers.Layer, abc.ABC):
    """The velocity `f(t, x; context)` of an event that moves, and the trace of `∂f/∂x`.

    What does not change on the way, weights and what is made of the context, comes from
    `parameters`, once for a whole path. The methods of a step depend on their arguments alone.

    Shapes: `t` is a scalar or `(n,)`, `x` is `(n, event_size)`, traces are `(n,)`. As a Keras
    layer it takes `x`, `t` and the context side by side, `(n, event_size + 1 + context_size)`.

    Args:
      event_size: number of columns.
      context_size: width of the context, or `None`.
      seed: integer for reproducible initial weights and signs, or `None`.
      dtype: "float32" or "float64", also under mixed precision: errors add up along a path.
      name: name of the layer.

    Example:
      >>> dynamics = networks.VelocityMLP(2, (8,))
      >>> weights = dynamics.parameters(None)
      >>> dynamics.with_trace(tf.constant(0.5), tf.ones([3, 2]), weights)[1].shape
      TensorShape([3])
    """

    independent_over_batch = True
    exact_is_cheap = False  # Whether a trace costs about as much as the velocity.

    def __init__(
        self,
        event_size: int,
        *,
        context_size: int | None = None,
        seed: int | None = None,
        dtype: str = "float32",
        name: str | None = None,
    ):
        super().__init__(dtype=dtype, name=name)
        floating(self.variable_dtype)
        self.event_size = positive_int(event_size, "event_size")
        self.context_size = context_size
        self.seed = seed
        self.signs = RandomSigns(seed, self.dtype_policy)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Nothing: weights are made by the constructor."""
        self.built = True

    def _built(self) -> None:
        """To be called once all weights are made: Keras' `summary` knows shapes from `build`."""
        self.build((None, self.event_size + 1 + (self.context_size or 0)))

    @abc.abstractmethod
    def parameters(self, context: tf.Tensor | None) -> list[tf.Tensor]:
        """What the other methods need, of which derivatives are taken; context is `(n, C)`."""

    @abc.abstractmethod
    def velocity(self, t: tf.Tensor, x: tf.Tensor, parameters: Sequence[tf.Tensor]) -> tf.Tensor:
        """`f(t, x)`."""

    @abc.abstractmethod
    def with_trace(self, t: tf.Tensor, x: tf.Tensor, parameters: Sequence[tf.Tensor]) -> Pair:
        """The velocity, and the exact trace of its Jacobian."""

    @abc.abstractmethod
    def with_product(
        self, t: tf.Tensor, x: tf.Tensor, parameters: Sequence[tf.Tensor], probe: tf.Tensor
    ) -> Pair:
        """The velocity, and the product `εᵀ ∂f/∂x` with a probe `ε`, `(n, event_size)`."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        x, t, context = tf.split(inputs, [self.event_size, 1, self.context_size or 0], -1)
        parameters = self.parameters(None if self.context_size is None else context)
        return self.velocity(t[:, 0], x, parameters)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """The shape of the result, by that of the inputs."""
        return (*input_shape[:-1], self.event_size)


@keras.saving.register_keras_serializable("tfp_flows")
class VelocityMLP(Dynamics):
    """A dense network whose hidden layers see the time: `h_l = a(h_{l-1} W_l + shift_l(t, c))`.

    The shifts are linear in the context and in `t`, `sin πkt` and `cos πkt`, `k = 1, 2`. The trace
    is exact at the cost of one more product for one and two hidden layers:

    one: `Σ_j a'_j (W₁W₂)_jj`
    two: `Σ_jk a'_j M_jk b'_k` with `M = W₂ ∘ (W₃W₁)ᵀ`, which is computed once a path

    With more, it costs as much as `event_size` velocities. The last layer starts at 0.

    Args:
      event_size: number of columns.
      hidden_units: widths of the hidden layers.
      context_size: width of the context, or `None`.
      activation: "tanh", "softplus" or "silu": densities need derivatives that are smooth.
      seed: integer for reproducible initial weights and signs, or `None`.
      dtype: "float32" or "float64".
      name: name of the layer.

    Raises:
      ValueError: a width is not a positive integer, or the activation is another one.

    Source: the exact traces of a few layers as in Derek Onken, Samy Wu Fung, Xingjian Li and Lars
    Ruthotto, "OT-Flow" (2021).

    Example:
      >>> dynamics = networks.VelocityMLP(2, (64, 64), activation="tanh")
      >>> layer = bijectors.Continuous(2, dynamics)
    """

    independent_over_batch = True

    def __init__(
        self,
        event_size: int,
        hidden_units: Sequence[int] = (64, 64),
        *,
        context_size: int | None = None,
        activation: str = "silu",
        seed: int | None = None,
        dtype: str = "float32",
        name: str | None = None,
    ):
        super().__init__(event_size, context_size=context_size, seed=seed, dtype=dtype, name=name)
        if not isinstance(hidden_units, Sequence) or not hidden_units:
            raise ValueError(
                "`hidden_units` must be a sequence of hidden widths, at least one. "
                f"Received: {hidden_units!r}"
            )
        one_of(activation, "activation", sorted(SMOOTH))
        self.hidden_units = tuple(positive_int(units, "hidden_units") for units in hidden_units)
        self.activation = activation
        self.exact_is_cheap = len(self.hidden_units) <= 2
        widths = (self.event_size, *self.hidden_units, self.event_size)
        claim(len(widths), max(widths), max(widths))
        self._kernels, self._shifts, self._biases, self._of_context = [], [], [], []
        for i, (rows, units) in enumerate(itertools.pairwise(widths)):
            last = i == len(self.hidden_units)
            seeds = [derived_seed(seed, 3 * i + part) for part in range(3)]
            start = [
                keras.initializers.Zeros() if last else keras.initializers.HeUniform(seed=one)
                for one in seeds
            ]
            self._kernels.append(self._weight((rows, units), start[0], f"kernel_{i}"))
            self._shifts.append(self._weight((FEATURES, units), start[1], f"time_kernel_{i}"))
            self._biases.append(self._weight((units,), "zeros", f"bias_{i}"))
            if context_size is not None:
                shape = (positive_int(context_size, "context_size"), units)
                self._of_context.append(self._weight(shape, start[2], f"context_kernel_{i}"))
        self._built()

    def _weight(self, shape: tuple[int, ...], start: Any, name: str) -> Any:
        return self.add_weight(shape=shape, initializer=start, name=name)

    def parameters(self, context: tf.Tensor | None) -> list[tf.Tensor]:
        """Kernels; kernel of the time, and shifts, of all layers; and what makes the trace."""
        kernels = [tf.convert_to_tensor(kernel) for kernel in self._kernels]
        shifts = tf.concat(self._biases, -1)
        if context is not None:
            shifts += tf.matmul(context, tf.concat(self._of_context, -1))
        found = [*kernels, tf.concat(self._shifts, -1), shifts]
        if len(kernels) == 2:
            found.append(tf.einsum("ij,ji->j", *kernels))
        elif len(kernels) == 3:
            found.append(kernels[1] * tf.matmul(kernels[0], kernels[2], True, True))
        return found

    def velocity(self, t: tf.Tensor, x: tf.Tensor, parameters: Sequence[tf.Tensor]) -> tf.Tensor:
        """`f(t, x)`."""
        return self._values_and_slopes(t, x, parameters)[0]

    def with_trace(self, t: tf.Tensor, x: tf.Tensor, parameters: Sequence[tf.Tensor]) -> Pair:
        """The velocity, and the exact trace of its Jacobian."""
        velocity, slopes = self._values_and_slopes(t, x, parameters)
        if len(slopes) == 1:
            return velocity, tf.linalg.matvec(slopes[0], parameters[-1])
        if len(slopes) == 2:
            moved = tf.matmul(slopes[0], parameters[-1])
            return velocity, tf.reduce_sum(moved * slopes[1], -1)
        # How all units change with every column, (n, D, units).
        first, *inner, last = parameters[: len(slopes) + 1]
        change = first * slopes[0][:, None]
        for kernel, slope in zip(inner, slopes[1:], strict=True):
            change = tf.matmul(change, kernel) * slope[:, None]
        return velocity, tf.einsum("nij,ji->n", change, last)

    def with_product(
        self, t: tf.Tensor, x: tf.Tensor, parameters: Sequence[tf.Tensor], probe: tf.Tensor
    ) -> Pair:
        """The velocity, and the product `εᵀ ∂f/∂x`."""
        velocity, slopes = self._values_and_slopes(t, x, parameters)
        first, *others = parameters[: len(slopes) + 1]
        product = probe
        for kernel, slope in zip(reversed(others), reversed(slopes), strict=True):
            product = tf.matmul(product, kernel, transpose_b=True) * slope
        return velocity, tf.matmul(product, first, transpose_b=True)

    def _values_and_slopes(
        self, t: tf.Tensor, x: tf.Tensor, parameters: Sequence[tf.Tensor]
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The velocity, and the derivatives of the activations in all layers."""
        count = len(self._kernels)
        kernels, (of_time, shift) = parameters[:count], parameters[count : count + 2]
        widths = (*self.hidden_units, self.event_size)
        shifts = tf.split(of_times(features_of(t), of_time) + shift, widths, -1)
        slopes: list[tf.Tensor] = []
        for kernel, shift in zip(kernels, shifts, strict=True):
            x = tf.matmul(x, kernel) + shift
            if len(slopes) < count - 1:
                x, slope = SMOOTH[self.activation](x)
                slopes.append(slope)
        return x, slopes

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "event_size": self.event_size,
            "hidden_units": self.hidden_units,
            "context_size": self.context_size,
            "activation": self.activation,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> VelocityMLP:
        return without_trainable(cls, config)


class LayerDynamics(Dynamics):
    """The velocity that any Keras layer makes of event, time and context side by side.

    Products with the Jacobian are those of automatic differentiation; a trace costs as much as
    `event_size` of them.

    Args:
      layer: a Keras 3 layer `(batch, event_size + 1 + context_size) -> (batch, event_size)`.
      event_size: number of columns.
      context_size: width of the context, or `None`.
      seed: integer for reproducible signs, or `None`.
      dtype: "float32" or "float64".
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        event_size: int,
        *,
        context_size: int | None,
        seed: int | None,
        dtype: str,
    ):
        super().__init__(event_size, context_size=context_size, seed=seed, dtype=dtype)
        self.layer = layer
        check_derivatives(layers_of(layer), "dynamics")  # The gradient of a trace needs the second.
        made = layer(tf.zeros([1, event_size + 1 + (context_size or 0)], dtype))
        if tuple(made.shape) != (1, event_size):
            raise ValueError(
                f"`dynamics` must return {event_size} values an event. Received: a layer "
                f"{layer.name!r} that makes {tuple(made.shape)} of one event"
            )
        self._built()

    def parameters(self, context: tf.Tensor | None) -> list[tf.Tensor]:
        """The weights, and the context."""
        weights = [tf.convert_to_tensor(v) for v in self.layer.trainable_variables]
        return weights if context is None else [*weights, context]

    def velocity(self, t: tf.Tensor, x: tf.Tensor, parameters: Sequence[tf.Tensor]) -> tf.Tensor:
        """`f(t, x)`."""
        count = len(self.layer.trainable_variables)
        weights, context = parameters[:count], parameters[count:]
        column = tf.broadcast_to(t[..., None], ps.concat([ps.shape(x)[:1], [1]], 0))
        fixed = [v.value for v in self.layer.non_trainable_variables]
        made, _ = self.layer.stateless_call(
            list(weights), fixed, tf.concat([x, column, *context], -1)
        )
        return tf.cast(made, x.dtype)

    def with_trace(self, t: tf.Tensor, x: tf.Tensor, parameters: Sequence[tf.Tensor]) -> Pair:
        """The velocity, and the exact trace of its Jacobian."""
        size, count = self.event_size, len(self.layer.trainable_variables)
        weights, rest = parameters[:count], parameters[count:]

        def repeated(part: tf.Tensor) -> tf.Tensor:
            return tf.repeat(part, size, axis=0)

        basis = tf.tile(tf.eye(size, dtype=x.dtype), ps.stack([ps.shape(x)[0], 1]))
        times = repeated(t) if t.shape.rank else t
        wide = [*weights, *map(repeated, rest)]
        velocity, product = self.with_product(times, repeated(x), wide, basis)
        trace = tf.reduce_sum(tf.reshape(product * basis, [-1, size * size]), -1)
        return tf.reshape(velocity, [-1, size, size])[:, 0], trace

    def with_product(
        self, t: tf.Tensor, x: tf.Tensor, parameters: Sequence[tf.Tensor], probe: tf.Tensor
    ) -> Pair:
        """The velocity, and the product `εᵀ ∂f/∂x`."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            velocity = self.velocity(t, x, parameters)
        product = tape.gradient(
            velocity, x, probe, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return velocity, product
