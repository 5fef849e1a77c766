"""PeriodicFeatures: angles as sines and cosines, for networks that read them."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfp_flows.networks.mlp import without_trainable
from tfp_flows.ops.checks import positive_int

__all__ = ["PeriodicFeatures", "waves"]


@keras.saving.register_keras_serializable("tfp_flows")
class PeriodicFeatures(keras.layers.Layer):
    """A network that reads angles through `cos kx` and `sin kx`, `k = 1, ..., harmonics`.

    Whatever the network is, the result has period 2π in every angle.

    Shapes: `(batch, angles + others)` to what the network makes of
    `(batch, 2 harmonics angles + others)`; the columns behind the angles are left as they are.

    Args:
      network: Keras 3 layer.
      angles: how many columns are angles, in radians; they come first.
      harmonics: how many multiples of each angle.
      dtype: Keras dtype policy; the network's by default.
      name: name of the layer.

    Raises:
      ValueError: `harmonics` is not a positive integer.

    Source: Danilo Rezende et al., "Normalizing Flows on Tori and Spheres" (2020).

    Example:
      >>> features = networks.PeriodicFeatures(networks.MLP((64, 64)), angles=2)
    """

    independent_over_batch = True

    def __init__(
        self,
        network: keras.layers.Layer,
        *,
        angles: int,
        harmonics: int = 1,
        dtype: str | keras.DTypePolicy | None = None,
        name: str | None = None,
    ):
        super().__init__(dtype=dtype or network.dtype_policy, name=name)
        self.network = network
        self.angles = angles
        self.harmonics = positive_int(harmonics, "harmonics")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.network(waves(inputs, self.angles, self.harmonics))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "network": keras.saving.serialize_keras_object(self.network),
            "angles": self.angles,
            "harmonics": self.harmonics,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PeriodicFeatures:
        network = keras.saving.deserialize_keras_object(config["network"])
        return without_trainable(cls, {**config, "network": network})


def waves(inputs: tf.Tensor, angles: int, harmonics: int) -> tf.Tensor:
    """The first columns, angles, as `cos kx` and `sin kx`; the columns behind them as they are."""
    x, others = inputs[:, :angles], inputs[:, angles:]
    return tf.concat(
        [wave(k * x) for k in range(1, harmonics + 1) for wave in (tf.cos, tf.sin)] + [others], -1
    )
