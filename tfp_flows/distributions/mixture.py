"""ConditionalMixture: a mixture of normals given context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows.bijectors.base import mark_missing
from tfp_flows.distributions.conditional import NotReparameterized
from tfp_flows.networks import Parameters
from tfp_flows.ops.checks import positive_int
from tfp_flows.ops.limits import claim
from tfp_flows.ops.seeds import check_seed

__all__ = ["COMPONENT_SCALE", "ConditionalMixture", "diagonal_mixture", "spread_means"]

# Deviation of the components of a fresh mixture; with their means, columns get deviation 1.
COMPONENT_SCALE = 0.5

_MAX_LOG_SCALE = 3.0


class ConditionalMixture(NotReparameterized):
    """A mixture of normals with diagonal covariance, computed from context by one network.

    `p(x | c) = Σ_k w_k(c) N(x; μ_k(c), diag σ_k(c)²)`, a mixture density network. Every call runs
    the network once. Draws are not reparametrized. Starts as a mixture that does not depend on the
    context, with means spread by `seed`; deviations stay within `0.5 exp(±3)`.

    Shapes: events `(event_size,)`, context `(*batch, context_size)`; as in `Flow`, `log_prob` takes
    `(..., *batch, event_size)`, and `sample(n)` returns `(n, *batch, event_size)`.

    Args:
      event_size: number of columns.
      context_size: width of the context.
      components: how many normals.
      conditioner: hidden widths of an MLP, or a Keras 3 layer `(batch, context_size) -> (batch,
        features)`.
      dtype: floating dtype of events.
      seed: integer for other initial means and reproducible initial weights, or `None`.
      name: name of the distribution.

    Raises:
      ValueError: a size is not a positive integer; context is missing or has another width.

    Source: Christopher Bishop, "Mixture Density Networks" (1994).

    Example:
      >>> base = distributions.ConditionalMixture(2, context_size=3, components=4)
      >>> base.log_prob(np.zeros((5, 2)), context=np.zeros((5, 3)))     # (5,)
    """

    def __init__(
        self,
        event_size: int,
        context_size: int,
        components: int = 8,
        conditioner: Sequence[int] | keras.layers.Layer = (64, 64),
        *,
        dtype: str | tf.DType = "float32",
        seed: int | None = None,
        name: str = "ConditionalMixture",
    ):
        parameters = dict(locals())
        self.event_size = positive_int(event_size, "event_size")
        self.context_size = positive_int(context_size, "context_size")
        self.components = positive_int(components, "components")
        dtype = tf.as_dtype(dtype)
        means = spread_means(event_size, components, seed)
        # For every component a logit, then means, then logarithms of deviations.
        self._mixture_parameters = Parameters(
            np.concatenate([np.zeros((components, 1)), means, np.zeros_like(means)], 1),
            context_size=context_size,
            conditioner=conditioner,
            dtype=dtype.name,
            seed=seed,
        )
        super().__init__(dtype=dtype, parameters=parameters, name=name)

    @classmethod
    def _parameter_properties(
        cls, dtype: tf.DType | None, num_classes: int | None = None
    ) -> dict[str, Any]:
        return {}

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape([self.event_size])

    def _event_shape_tensor(self) -> tf.Tensor:
        return tf.constant([self.event_size])

    def _default_event_space_bijector(self) -> tfb.Bijector:
        return tfb.Identity()

    def _given(self, context: tf.Tensor) -> tfd.MixtureSameFamily:
        sizes = [1, self.event_size, self.event_size]
        logits, loc, raw = tf.split(self._mixture_parameters(context), sizes, axis=-1)
        # Networks can lose a NaN on the way; a missing context must not give a density.
        logits = mark_missing(logits[..., 0], context[..., None, :])
        scale = COMPONENT_SCALE * tf.exp(_MAX_LOG_SCALE * tf.tanh(raw / _MAX_LOG_SCALE))
        return diagonal_mixture(logits, loc, scale)


def diagonal_mixture(
    logits: Any, loc: Any, scale: Any, *, reparameterize: bool = False
) -> tfd.MixtureSameFamily:
    """The mixture with logits `(..., K)` and normals with means and deviations `(..., K, D)`."""
    return tfd.MixtureSameFamily(
        tfd.Categorical(logits=logits),
        tfd.Independent(tfd.Normal(loc, scale), 1),
        reparameterize=reparameterize,
        name="mixture",
    )


def spread_means(event_size: int, components: int, seed: int | None) -> np.ndarray:
    """Distinct initial means, `(components, event_size)`.

    They are not among the weights of a `ConditionalMixture`, so they come from NumPy's legacy
    generator, whose stream is the same in every version.
    """
    claim(components, 1 + 2 * event_size)
    spread = np.random.RandomState(check_seed(seed) or 0).standard_normal((components, event_size))
    return np.sqrt(1 - COMPONENT_SCALE**2) * spread
