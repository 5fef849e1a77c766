"""LipschitzConditioner: a LipschitzNet as a part of a bijector, and the signs for its log-det."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from tfp_flows.networks.conditioner import Conditioner
from tfp_flows.networks.lipschitz import LipschitzNet
from tfp_flows.networks.signs import RandomSigns
from tfp_flows.ops.grids import Size

__all__ = ["LipschitzConditioner"]


class LipschitzConditioner(Conditioner):
    """A `LipschitzNet` as a part of a bijector, which is given its context first.

    Args:
      hidden_units, lipschitz, kernel_size: as in `LipschitzNet`.
      event_shape: shape of an event, with known sizes.
      stochastic: whether `draw` is needed.
      context_size, dtype, seed: as in `Conditioner`.
    """

    def __init__(
        self,
        hidden_units: Sequence[int],
        *,
        lipschitz: float,
        kernel_size: int | Sequence[int],
        event_shape: tuple[int, ...],
        stochastic: bool,
        context_size: Size | None,
        dtype: str,
        seed: int | None,
    ):
        *grid, channels = event_shape
        network = LipschitzNet(
            channels,
            hidden_units,
            lipschitz=lipschitz,
            kernel_size=kernel_size,
            seed=seed,
            dtype=dtype,
        )
        super().__init__(
            _WithSigns(network, seed) if stochastic else network,
            input_size=channels,
            output_shape=(channels,),
            grid=tuple(grid),
            context_size=context_size,
            dtype=dtype,
            seed=seed,
            head=False,
        )
        self._network = network

    def given(self, context: tf.Tensor | None) -> tuple[list[tf.Tensor], tf.Tensor]:
        """`LipschitzNet.given`, for events with one batch axis."""
        return self._network.given(None if context is None else self._on_grid(context))

    def draw(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Random signs of the shape of `x`, and a number from (0, 1): others at every call.

        That is so in training, which Keras layers, and models, tell those that they call. Else the
        signs are always the same, also for all rows, and there is no number.
        """
        signs: tuple[tf.Tensor, tf.Tensor | None] = self.layer.signs(x)
        return signs


class _WithSigns(keras.layers.Layer):
    """The network, and beside it a layer that draws."""

    independent_over_batch = True

    def __init__(self, network: LipschitzNet, seed: int | None):
        super().__init__(dtype=network.dtype_policy, name="contraction")
        self.network = network
        self.signs = RandomSigns(seed, network.dtype_policy)

    def build(self, input_shape: Sequence[int | None]) -> None:
        self.network.build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.network(inputs)
