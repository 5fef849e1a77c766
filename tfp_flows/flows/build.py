"""Frame: what all families share around their layers, and the stacks of layers they use."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows.bijectors import (
    LU,
    QR,
    ActNorm,
    Coupling,
    Householder,
    MaskedAutoregressive,
    Permutation,
    Rotation,
    Support,
)
from tfp_flows.bijectors.transformers import Transformer
from tfp_flows.distributions.flow import Flow
from tfp_flows.networks import MLP
from tfp_flows.networks.conditioner import network_policy
from tfp_flows.ops.checks import positive_int

__all__ = ["Frame"]

_LINEAR: dict[str, Callable[..., tfb.Bijector]] = {
    "householder": lambda size, dtype, seed: Householder(size, dtype=dtype, seed=seed),
    "lu": lambda size, dtype, seed: LU(size, dtype=dtype, seed=seed),
    "permutation": lambda size, dtype, seed: Permutation(size, "random", seed=seed),
    "qr": lambda size, dtype, seed: QR(size, dtype=dtype, seed=seed),
    "rotation": lambda size, dtype, seed: Rotation(size, dtype=dtype, seed=seed),
}


@dataclasses.dataclass
class Frame:
    """The keywords that every family takes, checked; `flow` puts layers between base and data.

    Args and errors: see the package `flows`.
    """

    name: str
    event_size: int
    layers: int
    linear: str | None
    actnorm: bool
    context_size: int | None
    embedding: keras.layers.Layer | None
    context_shape: Sequence[int] | None
    base: tfd.Distribution | None
    support: str | Sequence | None
    dtype: str
    seed: int | None

    @classmethod
    def of(cls, name: str, arguments: dict) -> Frame:
        """The frame of a family, from the arguments of its function: its `locals()`."""
        fields = {field.name for field in dataclasses.fields(cls)} - {"name"}
        return cls(name, **{field: arguments[field] for field in fields})

    def __post_init__(self):
        positive_int(self.event_size, "event_size")
        positive_int(self.layers, "layers")
        if self.linear is not None and self.linear not in _LINEAR:
            raise ValueError(
                f"`linear` must be None or one of {sorted(_LINEAR)}. "
                f"Received: linear={self.linear!r}"
            )
        if self.support == "simplex" and self.event_size < 2:
            raise ValueError(
                "`event_size` must be 2 or more for proportions that sum to 1. "
                f"Received: event_size={self.event_size}"
            )
        if self.embedding is not None:
            size = self._embedded_size()
            if self.context_size not in (None, size):
                raise ValueError(
                    f"`context_size` must be {size}, as wide as `embedding` makes it, or be left "
                    f"out. Received: context_size={self.context_size}"
                )
            self.context_size = size
        self._rng = np.random.default_rng(self.seed)
        # What is drawn but not trained is the same for every None.
        self._fixed_rng = np.random.default_rng(self.seed or 0)

    @property
    def size(self) -> int:
        """Number of columns inside: one less than the data have, where these sum to 1."""
        return self.event_size - (self.support == "simplex")

    def next_seed(self) -> int | None:
        """A seed for one more layer; None where the flow has none."""
        return None if self.seed is None else int(self._rng.integers(2**31))

    def couplings(
        self,
        transformer: Transformer,
        hidden_units: Sequence[int],
        *,
        activation: str = "relu",
        dropout: float = 0.0,
        masks: Sequence[Sequence[bool]] | None = None,
        features: Callable[[int, keras.layers.Layer], keras.layers.Layer] | None = None,
    ) -> list[Coupling]:
        """Couplings in pairs, of which the second transforms what the first one keeps.

        `features(kept, network)` wraps the network, to prepare the columns that it reads.
        """
        masks = self.masks() if masks is None else masks
        found = []
        for mask in masks:
            seed = self.next_seed()
            conditioner = hidden_units
            if features is not None or dropout or activation != "relu":
                conditioner = MLP(
                    hidden_units,
                    activation=activation,
                    dropout=dropout,
                    seed=seed,
                    dtype=network_policy(tf.as_dtype(self.dtype).name),
                )
            if features is not None:
                conditioner = features(sum(mask), conditioner)
            found.append(
                Coupling(
                    self.size,
                    transformer,
                    conditioner,
                    mask=mask,
                    context_size=self.context_size,
                    dtype=self.dtype,
                    seed=seed,
                )
            )
        return found

    def autoregressive(
        self,
        transformer: Transformer,
        hidden_units: Sequence[int],
        *,
        activation: str = "relu",
        passes: int | None = None,
        residual: bool = False,
    ) -> list[MaskedAutoregressive]:
        """Autoregressive layers, every other one in reversed order."""
        return [
            MaskedAutoregressive(
                self.size,
                transformer,
                hidden_units,
                order="reversed" if i % 2 else None,
                context_size=self.context_size,
                dtype=self.dtype,
                seed=self.next_seed(),
                passes=passes,
                residual=residual,
                activation=activation,
            )
            for i in range(self.layers)
        ]

    def masks(self) -> list[list[bool]]:
        """Masks in pairs, so that first one part of the columns is transformed, then the rest.

        The first pair splits the columns in halves. Every later pair splits them at random, and of
        three columns keeps each alone in turn, so that all come to act on all others.
        """
        rng = np.random.default_rng(self.seed or 0)
        masks, kept = [], np.arange(self.size) < self.size // 2
        for i in range(self.layers):
            if i % 2 == 0 and self.size == 3:
                kept = np.arange(3) == i // 2 % 3
            elif i >= 2 and i % 2 == 0 and self.size > 3:
                kept = rng.permutation(self.size) < self.size // 2
            flip = i % 2 == 1 and self.size > 1
            masks.append((~kept if flip else kept).tolist())
        return masks

    def flow(self, layers: Sequence[tfb.Bijector]) -> Flow:
        """The flow of these layers, the last applied first, in what surrounds them."""
        steps = []
        if self.support is not None:
            steps.append(Support(self.size, self.support, dtype=self.dtype))
        for layer in layers:
            if self.actnorm:
                steps.append(ActNorm(self.size, dtype=self.dtype))
            if self.linear:
                fixed = int(self._fixed_rng.integers(2**31))
                seed = fixed if self.linear == "permutation" else self.next_seed()
                steps.append(_LINEAR[self.linear](self.size, self.dtype, seed))
            steps.append(layer)
        return Flow(
            self._checked_base(),
            tfb.Chain(steps),
            embedding=self.embedding,
            context_shape=self.context_shape,
            name=self.name,
        )

    def _checked_base(self) -> tfd.Distribution:
        base, dtype = self.base, tf.as_dtype(self.dtype)
        if base is None:
            zeros = tf.zeros([self.size], dtype)
            base = tfd.MultivariateNormalDiag(zeros, tf.ones_like(zeros), name="base")
        if not isinstance(base, tfd.Distribution):
            raise TypeError(f"`base` must be a tfd.Distribution or None. Received: base={base!r}")
        if base.event_shape != (self.size,) or base.dtype != dtype:
            raise ValueError(
                f"`base` must have events of shape ({self.size},) and dtype {dtype.name}. "
                f"Received: event_shape={base.event_shape}, dtype={base.dtype}"
            )
        return base

    def _embedded_size(self) -> int:
        """Width of the context behind the embedding."""
        if not isinstance(self.embedding, keras.layers.Layer):
            raise TypeError(
                f"`embedding` must be a Keras 3 layer. Received: embedding={self.embedding!r}"
            )
        if self.context_shape is None:
            raise ValueError(
                "`context_shape` is needed with `embedding`: the shape of one context. "
                "Received: context_shape=None"
            )
        return int(self.embedding(tf.zeros([1, *self.context_shape], self.dtype)).shape[-1])
