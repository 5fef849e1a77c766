"""Keras 3 networks for conditioners, and the holder that makes a network part of a bijector.

A conditioner turns the part of an event that passes through unchanged, and the context if there
is one, into the parameters of a transformer. `MLP` and `ResidualMLP` compute features;
`Conditioner` puts a zero-initialised `Dense` behind any feature network, so that a fresh flow is
the identity, and shows its variables to `tf.Module`, which knows nothing of Keras 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import tensorflow as tf
from tensorflow_probability.python.internal import prefer_static as ps

__all__ = ["MLP", "Conditioner", "ResidualMLP"]


def positive_int(value: int, name: str) -> int:
    """Return `value`; raise a ValueError that names it unless it is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
    return value


def _dense_initializer(seed: int | None, layer: int) -> keras.initializers.Initializer:
    return keras.initializers.HeUniform(seed=None if seed is None else seed + layer)


@keras.saving.register_keras_serializable("tfp_flows")
class MLP(keras.layers.Layer):
    """Feature network: one `Dense` layer with an activation for every entry of `hidden_units`.

    Shapes: `(batch, inputs) -> (batch, hidden_units[-1])`.

    Args:
      hidden_units: widths of the hidden layers, positive integers, at least one.
      activation: any Keras activation.
      dropout: rate in `[0, 1)` of the `Dropout` behind every hidden layer; active in training only.
      seed: integer for reproducible initial weights and dropout, or `None`.
      dtype: Keras dtype policy; the global one by default.
      name: name of the layer.

    Raises:
      ValueError: a width is not a positive integer, or `dropout` is outside `[0, 1)`.

    Example:
      >>> features = networks.MLP((64, 64), activation="silu")
      >>> coupling = bijectors.Coupling(4, bijectors.transformers.Affine(), conditioner=features)
    """

    def __init__(
        self,
        hidden_units: Sequence[int] = (64, 64),
        *,
        activation: str = "relu",
        dropout: float = 0.0,
        seed: int | None = None,
        dtype: str | keras.DTypePolicy | None = None,
        name: str | None = None,
    ):
        super().__init__(dtype=dtype, name=name)
        if not hidden_units:
            raise ValueError(f"`hidden_units` must name a width. Received: {hidden_units!r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"`dropout` must be in [0, 1). Received: dropout={dropout!r}")
        self.hidden_units = tuple(positive_int(units, "hidden_units") for units in hidden_units)
        self.activation = keras.activations.get(activation)
        self.dropout = dropout
        self.seed = seed
        self._stack = []
        for i, units in enumerate(self.hidden_units):
            dense = keras.layers.Dense(
                units,
                activation=self.activation,
                kernel_initializer=_dense_initializer(seed, i),
                dtype=self.dtype_policy,
            )
            self._stack.append(dense)
            if dropout:
                layer_seed = None if seed is None else seed + i  # Else all masks are equal.
                self._stack.append(
                    keras.layers.Dropout(dropout, seed=layer_seed, dtype=self.dtype_policy)
                )

    def build(self, input_shape: Sequence[int | None]) -> None:
        for layer in self._stack:
            layer.build(input_shape)
            input_shape = layer.compute_output_shape(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        for layer in self._stack:
            inputs = layer(inputs)
        return inputs

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "hidden_units": self.hidden_units,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict) -> MLP:
        return _without_trainable(cls, config)


@keras.saving.register_keras_serializable("tfp_flows")
class ResidualMLP(keras.layers.Layer):
    """Feature network with pre-activation residual blocks: `h + W2 a(W1 a(h))`.

    Shapes: `(batch, inputs) -> (batch, units)`.

    Args:
      units: width of every layer.
      blocks: how many residual blocks follow the first `Dense`.
      activation: any Keras activation.
      seed: integer for reproducible initial weights, or `None`.
      dtype: Keras dtype policy; the global one by default.
      name: name of the layer.

    Raises:
      ValueError: `units` or `blocks` is not a positive integer.

    Source: Kaiming He et al., "Identity Mappings in Deep Residual Networks" (2016).

    Example:
      >>> features = networks.ResidualMLP(128, blocks=2)
      >>> coupling = bijectors.Coupling(4, bijectors.transformers.Affine(), conditioner=features)
    """

    def __init__(
        self,
        units: int = 64,
        *,
        blocks: int = 2,
        activation: str = "relu",
        seed: int | None = None,
        dtype: str | keras.DTypePolicy | None = None,
        name: str | None = None,
    ):
        super().__init__(dtype=dtype, name=name)
        self.units = positive_int(units, "units")
        self.blocks = positive_int(blocks, "blocks")
        self.activation = keras.activations.get(activation)
        self.seed = seed
        self._dense = [
            keras.layers.Dense(
                units, kernel_initializer=_dense_initializer(seed, i), dtype=self.dtype_policy
            )
            for i in range(1 + 2 * blocks)
        ]

    def build(self, input_shape: Sequence[int | None]) -> None:
        for dense in self._dense:
            dense.build(input_shape)
            input_shape = dense.compute_output_shape(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        hidden = self._dense[0](inputs)
        for first, second in zip(self._dense[1::2], self._dense[2::2], strict=True):
            hidden += second(self.activation(first(self.activation(hidden))))
        return hidden

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "units": self.units,
            "blocks": self.blocks,
            "activation": keras.activations.serialize(self.activation),
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict) -> ResidualMLP:
        return _without_trainable(cls, config)


def _without_trainable(cls: type, config: dict) -> keras.layers.Layer:
    """Build a layer from its config; `trainable` is an attribute here, not an argument."""
    config = dict(config)
    trainable = config.pop("trainable", True)
    layer = cls(**config)
    layer.trainable = trainable
    return layer


class _ParameterNetwork(keras.layers.Layer):
    """A feature network and the zero-initialised `Dense` that reads parameters off its features.

    The last layer computes in the event's dtype, so that under mixed precision the parameters,
    and all log-determinants made from them, keep full precision.
    """

    def __init__(self, features: keras.layers.Layer, output_size: int, *, dtype: str):
        super().__init__(dtype=dtype, name="conditioner")
        self.features = features
        self.head = keras.layers.Dense(output_size, kernel_initializer="zeros", dtype=dtype)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.head(self.features(inputs))


class Conditioner(tf.Module):
    """A Keras network as a part of a bijector: inputs and context to transformer parameters.

    All variables exist after construction, and `tf.Module` finds them in any TFP object that holds
    the bijector. The output is 0 until the first training step.

    Shapes: inputs `(..., input_size)` and context `(..., context_size)`, whose batch shapes
    broadcast, to `(..., *output_shape)`. The network itself is always called with a matrix.

    Args:
      features: widths of the hidden layers, for which an `MLP` is made, or any Keras 3 layer
        `(batch, input_size + context_size) -> (batch, anything)`.
      input_size: width of the inputs; with neither inputs nor context the network reads a 1.
      output_shape: shape of the parameters made for one event.
      context_size: width of the context, or `None` for an unconditional network.
      dtype: dtype of inputs and outputs. An `MLP` follows Keras' global dtype policy where that
        has the same variable dtype (`mixed_float16` for float32), else this dtype.
      seed: integer for reproducible initial weights, or `None`.

    Raises:
      ValueError: `context_size` is not a positive integer, or `features` is neither widths nor a
        layer.
    """

    def __init__(
        self,
        features: Sequence[int] | keras.layers.Layer,
        *,
        input_size: int,
        output_shape: tuple[int, ...],
        context_size: int | None = None,
        dtype: str = "float32",
        seed: int | None = None,
    ):
        super().__init__(name="conditioner")
        if context_size is not None:
            positive_int(context_size, "context_size")
        if not isinstance(features, keras.layers.Layer):
            if not isinstance(features, Sequence) or isinstance(features, str):
                raise ValueError(
                    "`conditioner` must be a sequence of hidden widths or a Keras 3 layer. "
                    f"Received: {features!r}"
                )
            features = MLP(features, seed=seed, dtype=_network_policy(dtype))
        self.context_size = context_size
        width = input_size + (context_size or 0)
        self._reads_nothing = width == 0
        self._width = max(width, 1)
        self.output_shape = output_shape
        self.layer = _ParameterNetwork(features, math.prod(output_shape), dtype=dtype)
        # A call, not `build`: some layers know their output shape only by running.
        self.layer(tf.zeros([1, self._width], dtype))
        # `tf.Module` looks for `tf.Variable`s in attributes and finds them in this list.
        self._layer_variables = [v.value for v in self.layer.variables]

    def __call__(self, inputs: tf.Tensor, context: tf.Tensor | None = None) -> tf.Tensor:
        if context is not None:
            inputs = tf.concat([inputs, match_batch(context, inputs)], -1)
        elif self._reads_nothing:
            inputs = tf.ones(ps.concat([ps.shape(inputs)[:-1], [1]], 0), inputs.dtype)
        outputs = self.layer(tf.reshape(inputs, [-1, self._width]))
        return tf.reshape(outputs, ps.concat([ps.shape(inputs)[:-1], self.output_shape], 0))


def _network_policy(dtype: str) -> keras.DTypePolicy | str:
    policy = keras.config.dtype_policy()
    return policy if policy.variable_dtype == dtype else dtype


def match_batch(x: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """Broadcast the batch shape of `x` with that of `other`; the last axis of each is left."""
    if x.shape[:-1].is_fully_defined() and x.shape[:-1] == other.shape[:-1]:
        return x
    batch = ps.broadcast_shape(ps.shape(x)[:-1], ps.shape(other)[:-1])
    return tf.broadcast_to(x, ps.concat([batch, ps.shape(x)[-1:]], 0))
