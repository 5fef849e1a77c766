"""Networks of sounds `(T, C)`: WaveNet, and spectrograms stretched to the length of their waves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_flows.networks.mlp import dense_initializer, without_trainable
from tfp_flows.ops.checks import positive_int
from tfp_flows.ops.limits import claim

__all__ = ["SpectrogramUpsampler", "WaveNet"]


@keras.saving.register_keras_serializable("tfp_flows")
class WaveNet(keras.layers.Layer):
    """Feature network over time: gated convolutions whose dilation doubles from layer to layer.

    In every layer, with `h` from the layer before and `x` what the network reads,

    `a, b = conv(h) + dense(x)`, `g = tanh(a) σ(b)`, `h += dense(g)`,

    and the result is a sum of linear maps of all `g`. Not causal: a layer sees `kernel_size`
    positions `2^i` apart, on both sides, and all layers together
    `1 + (kernel_size - 1) (2^layers - 1)`.

    Shapes: `(batch, T, inputs) -> (batch, T, width)`, of any length `T`, with zeros around.

    Args:
      width: of the layers and of the result.
      layers: how many.
      kernel_size: how many positions a convolution sees.
      seed: integer for reproducible initial weights, or `None`.
      dtype: Keras dtype policy; the global one by default.
      name: name of the layer.

    Raises:
      ValueError: `width`, `layers` or `kernel_size` is not a positive integer.

    Source: Aäron van den Oord et al., "WaveNet: A Generative Model for Raw Audio" (2016); not
    causal as in Ryan Prenger, Rafael Valle and Bryan Catanzaro, "WaveGlow" (2019).

    Example:
      >>> affine = bijectors.transformers.Affine()
      >>> features = networks.WaveNet(16, layers=3)
      >>> coupling = bijectors.Coupling((None, 8), affine, conditioner=features)
    """

    independent_over_batch = True

    def __init__(
        self,
        width: int = 64,
        *,
        layers: int = 6,
        kernel_size: int = 3,
        seed: int | None = None,
        dtype: str | keras.DTypePolicy | None = None,
        name: str | None = None,
    ):
        super().__init__(dtype=dtype, name=name)
        self.width = positive_int(width, "width")
        self.layer_count = positive_int(layers, "layers")
        self.kernel_size = positive_int(kernel_size, "kernel_size")
        claim(layers, kernel_size, width, 2 * width)
        self.seed = seed

        def dense(units: int, index: int) -> keras.layers.Dense:
            start = dense_initializer(seed, index)
            return keras.layers.Dense(units, kernel_initializer=start, dtype=self.dtype_policy)

        self._first = dense(width, 0)
        self._dilated = [
            keras.layers.Conv1D(
                2 * width,
                kernel_size,
                padding="same",
                dilation_rate=2**i,
                kernel_initializer=dense_initializer(seed, 3 * i + 1),
                dtype=self.dtype_policy,
            )
            for i in range(layers)
        ]
        self._reads = [dense(2 * width, 3 * i + 2) for i in range(layers)]
        self._leaves = [dense(2 * width, 3 * i + 3) for i in range(layers)]

    def build(self, input_shape: Sequence[int | None]) -> None:
        hidden = (*input_shape[:-1], self.width)
        for layer in (self._first, *self._reads):
            layer.build(input_shape)
        for layer in (*self._dilated, *self._leaves):
            layer.build(hidden)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        hidden: Any = self._first(inputs)
        total: Any = 0.0
        for dilated, read, leave in zip(self._dilated, self._reads, self._leaves, strict=True):
            value, gate = tf.split(dilated(hidden) + read(inputs), 2, -1)
            step, out = tf.split(leave(tf.tanh(value) * tf.sigmoid(gate)), 2, -1)
            hidden += step
            total += out
        return total

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """The shape of the result, by that of the inputs."""
        return (*input_shape[:-1], self.width)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "width": self.width,
            "layers": self.layer_count,
            "kernel_size": self.kernel_size,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WaveNet:
        return without_trainable(cls, config)


@keras.saving.register_keras_serializable("tfp_flows")
class SpectrogramUpsampler(keras.layers.Layer):
    """Embedding of spectrograms: as many positions as their waves have, after standardization.

    A transposed convolution, whose tail is trimmed, makes `factor` positions of every frame, each
    out of the frames around it.

    Shapes: `(batch, frames, mels) -> (batch, factor · frames, width)`, of any number of frames.

    Args:
      width: of the result.
      factor: positions a frame.
      mels: width of the frames.
      seed: integer for reproducible initial weights, or `None`.
      dtype: Keras dtype policy; the global one by default.
      name: name of the layer.

    Raises:
      ValueError: `width`, `factor` or `mels` is not a positive integer.

    Source: Ryan Prenger, Rafael Valle and Bryan Catanzaro, "WaveGlow: A Flow-based Generative
    Network for Speech Synthesis" (2019).

    Example:
      >>> networks.SpectrogramUpsampler(16, 4, mels=20)(np.zeros((1, 5, 20), "float32")).shape
      TensorShape([1, 20, 16])
    """

    independent_over_batch = True

    def __init__(
        self,
        width: int,
        factor: int,
        *,
        mels: int,
        seed: int | None = None,
        dtype: str | keras.DTypePolicy | None = None,
        name: str | None = None,
    ):
        super().__init__(dtype=dtype, name=name)
        self.width = positive_int(width, "width")
        self.factor = positive_int(factor, "factor")
        self.mels = positive_int(mels, "mels")
        claim(4 * factor, width, mels)
        self.seed = seed
        options = {"shape": (mels,), "trainable": False}
        self.shift = self.add_weight(name="shift", initializer="zeros", **options)
        self.scale = self.add_weight(name="scale", initializer="ones", **options)
        self._stretch = keras.layers.Conv1DTranspose(
            width,
            4 * factor,
            strides=factor,
            padding="same",
            kernel_initializer=keras.initializers.GlorotUniform(seed=seed),
            dtype=self.dtype_policy,
        )

    def build(self, input_shape: Sequence[int | None]) -> None:
        self._stretch.build((None, None, self.mels))

    def adapt(self, spectrograms: Any) -> None:
        """Take shift and scale of every band from data, `(n, frames, mels)`."""
        frames = np.reshape(np.asarray(spectrograms, "float64"), [-1, self.mels])
        deviation = frames.std(0)
        self.shift.assign(frames.mean(0))
        self.scale.assign(np.where(deviation > 0, deviation, 1.0))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self._stretch((inputs - self.shift) / self.scale)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """The shape of the result, by that of the inputs."""
        batch, frames, _ = input_shape
        return (batch, None if frames is None else self.factor * frames, self.width)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "width": self.width,
            "factor": self.factor,
            "mels": self.mels,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SpectrogramUpsampler:
        return without_trainable(cls, config)
