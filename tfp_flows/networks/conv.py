"""Feature networks over grids: convolutions along sounds `(T, C)` and images `(H, W, C)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfp_flows.networks.mlp import without_trainable
from tfp_flows.ops.checks import positive_int
from tfp_flows.ops.limits import claim
from tfp_flows.ops.seeds import derived_seed

__all__ = ["ConvNet", "GatedResNet"]


@keras.saving.register_keras_serializable("tfp_flows")
class ConvNet(keras.layers.Layer):
    """Feature network over a grid: a convolution with an activation for every entry of `filters`.

    Shapes: `(batch, T, inputs) -> (batch, T, filters[-1])` and the same of `(batch, H, W, inputs)`:
    the grid stays as it is, of any size, with zeros around it.

    Args:
      filters: widths of the hidden layers, positive integers, at least one.
      kernel_size: how many positions along every axis a layer sees; one for all, or one a layer.
      activation: any Keras activation.
      seed: integer for reproducible initial weights, or `None`.
      dtype: Keras dtype policy; the global one by default.
      name: name of the layer.

    Raises:
      ValueError: a width or a kernel's size is not a positive integer, there are not as many sizes
        as layers, or inputs lie on no grid.

    Example:
      >>> features = networks.ConvNet((64, 64), kernel_size=(3, 1))
      >>> affine = bijectors.transformers.Affine()
      >>> coupling = bijectors.Coupling((8, 8, 4), affine, conditioner=features)
    """

    independent_over_batch = True

    def __init__(
        self,
        filters: Sequence[int] = (64, 64),
        *,
        kernel_size: int | Sequence[int] = 3,
        activation: str = "relu",
        seed: int | None = None,
        dtype: str | keras.DTypePolicy | None = None,
        name: str | None = None,
    ):
        super().__init__(dtype=dtype, name=name)
        if not isinstance(filters, Sequence) or not filters:
            raise ValueError(
                "`filters` must be a sequence of hidden widths, at least one. "
                f"Received: {filters!r}"
            )
        self.filters = tuple(positive_int(width, "filters") for width in filters)
        sizes = (
            kernel_size if isinstance(kernel_size, Sequence) else [kernel_size] * len(self.filters)
        )
        if len(sizes) != len(self.filters):
            raise ValueError(
                "`kernel_size` must be one number, or one for every entry of `filters`. "
                f"Received: kernel_size={kernel_size!r}, filters={self.filters}"
            )
        self.kernel_size = tuple(positive_int(size, "kernel_size") for size in sizes)
        self.activation = keras.activations.get(activation)
        self.seed = seed
        self._convolutions: list[keras.layers.Layer] = []

    def build(self, input_shape: Sequence[int | None]) -> None:
        for i, (width, size) in enumerate(zip(self.filters, self.kernel_size, strict=True)):
            layer = convolution(self, input_shape, width, size, i, activation=self.activation)
            input_shape = layer.compute_output_shape(input_shape)
            self._convolutions.append(layer)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        for layer in self._convolutions:
            inputs = layer(inputs)
        return inputs

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """The shape of the result, by that of the inputs."""
        return (*input_shape[:-1], self.filters[-1])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "activation": keras.activations.serialize(self.activation),
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ConvNet:
        return without_trainable(cls, config)


@keras.saving.register_keras_serializable("tfp_flows")
class GatedResNet(keras.layers.Layer):
    """Feature network over a grid: blocks `h + a σ(b)`, with `a, b` from two convolutions of `h`.

    In every block a convolution with `kernel_size` follows a first activation, and one of size 1,
    to twice the width, a second; its two halves are `a` and `b`.

    Shapes: as in `ConvNet`.

    Args:
      width: of every layer.
      blocks: how many blocks follow the first convolution.
      kernel_size: how many positions along every axis a convolution sees.
      activation: any Keras activation.
      seed: integer for reproducible initial weights, or `None`.
      dtype: Keras dtype policy; the global one by default.
      name: name of the layer.

    Raises:
      ValueError: `width`, `blocks` or `kernel_size` is not a positive integer, or inputs lie on no
        grid.

    Source: the couplings of Jonathan Ho, Xi Chen, Aravind Srinivas, Yan Duan and Pieter Abbeel,
    "Flow++" (2019), after Aäron van den Oord et al., "Conditional Image Generation with PixelCNN
    Decoders" (2016).

    Example:
      >>> features = networks.GatedResNet(32, blocks=2)
      >>> affine = bijectors.transformers.Affine()
      >>> coupling = bijectors.Coupling((8, 8, 4), affine, conditioner=features)
    """

    independent_over_batch = True

    def __init__(
        self,
        width: int = 64,
        *,
        blocks: int = 2,
        kernel_size: int = 3,
        activation: str = "silu",
        seed: int | None = None,
        dtype: str | keras.DTypePolicy | None = None,
        name: str | None = None,
    ):
        super().__init__(dtype=dtype, name=name)
        self.width = positive_int(width, "width")
        self.blocks = positive_int(blocks, "blocks")
        self.kernel_size = positive_int(kernel_size, "kernel_size")
        claim(blocks, width, width)
        self.activation = keras.activations.get(activation)
        self.seed = seed
        self._convolutions: list[keras.layers.Layer] = []

    def build(self, input_shape: Sequence[int | None]) -> None:
        hidden = (*input_shape[:-1], self.width)
        layers = [(input_shape, self.width, self.kernel_size)]
        for _ in range(self.blocks):
            layers += [(hidden, self.width, self.kernel_size), (hidden, 2 * self.width, 1)]
        self._convolutions = [convolution(self, *layer, index=i) for i, layer in enumerate(layers)]

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        first, *others = self._convolutions
        hidden = first(inputs)
        for one, two in zip(others[::2], others[1::2], strict=True):
            both = two(self.activation(one(self.activation(hidden))))
            value, gate = tf.split(both, 2, -1)
            hidden += value * tf.sigmoid(gate)
        return self.activation(hidden)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """The shape of the result, by that of the inputs."""
        return (*input_shape[:-1], self.width)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "width": self.width,
            "blocks": self.blocks,
            "kernel_size": self.kernel_size,
            "activation": keras.activations.serialize(self.activation),
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> GatedResNet:
        return without_trainable(cls, config)


def convolution(
    network: Any,
    input_shape: Sequence[int | None],
    width: int,
    size: int,
    index: int,
    **options: Any,
) -> keras.layers.Layer:
    """A built layer of a network, of as many dimensions as the grid of its inputs has."""
    kinds = {3: keras.layers.Conv1D, 4: keras.layers.Conv2D}
    if len(input_shape) not in kinds:
        raise ValueError(
            f"{type(network).__name__} needs inputs (batch, T, C) or (batch, H, W, C). "
            f"Received: shape={tuple(input_shape)}"
        )
    layer = kinds[len(input_shape)](
        width,
        size,
        padding="same",
        kernel_initializer=keras.initializers.HeUniform(seed=derived_seed(network.seed, index)),
        dtype=network.dtype_policy,
        **options,
    )
    layer.build(input_shape)
    return layer
