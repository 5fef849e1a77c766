"""Any transformer the other way round."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tfp_flows.bijectors.transformers.base import Pair, Transformer
from tfp_flows.ops.capabilities import has_closed_inverse

__all__ = ["Inverse"]


@dataclasses.dataclass(frozen=True)
class Inverse(Transformer):
    """A transformer with its two directions swapped.

    Forward: `y = transformer⁻¹(x)`
    Inverse: `x = transformer(y)`
    Log-det: minus that of the transformer, at `y`

    Costs, parameters and accuracy are the transformer's. Bijectors map base to data by `forward`,
    so a density needs `inverse`: where a transformer has no closed inverse, `Inverse` makes
    densities, and so training, cheap and exact, and leaves the numerical inverse to sampling.

    Args:
      transformer: a `bijectors.transformers.Transformer`.

    Raises:
      TypeError: `transformer` is not a `Transformer`.

    Source: Chin-Wei Huang, David Krueger, Alexandre Lacoste and Aaron Courville, "Neural
    Autoregressive Flows" (2018), where the networks map data to base when densities are learned.

    Example:
      >>> to_base = bijectors.transformers.DeepSigmoidal()
      >>> bijectors.Elementwise(2, bijectors.transformers.Inverse(to_base))
    """

    transformer: Transformer

    def __post_init__(self) -> None:
        if not isinstance(self.transformer, Transformer):
            raise TypeError(
                "`transformer` must be an instance of bijectors.transformers.Transformer. "
                f"Received: transformer={self.transformer!r}"
            )

    @property
    def needs_raw_data(self) -> bool:
        """Whether the transformer does, as one of angles."""
        return self.transformer.needs_raw_data

    @property
    def closed_inverse(self) -> bool:
        """Whether the transformer has one: both directions are the same two."""
        return has_closed_inverse(self.transformer)

    @property
    def is_monotone(self) -> bool:
        """Whether the transformer is."""
        return self.transformer.is_monotone

    @property
    def is_affine(self) -> bool:
        """Whether the transformer is."""
        return self.transformer.is_affine

    @property
    def parameter_count(self) -> int:
        return self.transformer.parameter_count

    def forward(self, x: tf.Tensor, parameters: tf.Tensor) -> Pair:
        return self.transformer.inverse(x, parameters)

    def inverse(self, y: tf.Tensor, parameters: tf.Tensor) -> Pair:
        return self.transformer.forward(y, parameters)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor; the transformer as it is, not taken apart."""
        return {"transformer": self.transformer}
