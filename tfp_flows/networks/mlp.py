"""Feature networks: plain and residual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfp_flows.ops.checks import positive_int
from tfp_flows.ops.limits import claim
from tfp_flows.ops.seeds import derived_seed

__all__ = ["MLP", "ResidualMLP"]


def dense_initializer(seed: int | None, layer: int) -> keras.initializers.Initializer:
    return keras.initializers.HeUniform(seed=derived_seed(seed, layer))


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

    independent_over_batch = True

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
        if not isinstance(hidden_units, Sequence) or not hidden_units:
            raise ValueError(
                "`hidden_units` must be a sequence of hidden widths, at least one. "
                f"Received: {hidden_units!r}"
            )
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
                kernel_initializer=dense_initializer(seed, i),
                dtype=self.dtype_policy,
            )
            self._stack.append(dense)
            if dropout:
                layer_seed = derived_seed(seed, i)  # Else all masks are equal.
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

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "hidden_units": self.hidden_units,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MLP:
        return without_trainable(cls, config)


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

    independent_over_batch = True

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
        claim(2 * blocks, units, units)
        self.activation = keras.activations.get(activation)
        self.seed = seed
        self._dense = [
            keras.layers.Dense(
                units, kernel_initializer=dense_initializer(seed, i), dtype=self.dtype_policy
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

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "units": self.units,
            "blocks": self.blocks,
            "activation": keras.activations.serialize(self.activation),
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ResidualMLP:
        return without_trainable(cls, config)


def without_trainable(cls: type, config: dict[str, Any]) -> keras.layers.Layer:
    """Build a layer from its config; `trainable` is an attribute here, not an argument."""
    config = dict(config)
    trainable = config.pop("trainable", True)
    layer = cls(**config)
    layer.trainable = trainable
    return layer
