"""Token by token: each is transformed with parameters that a causal network reads off others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfp_flows.bijectors.base import Bijector, check_context, check_events_on_grid, mark_missing
from tfp_flows.bijectors.elementwise import check_structure
from tfp_flows.bijectors.transformers import Transformer
from tfp_flows.bijectors.transformers.base import Pair
from tfp_flows.networks.conditioner import match_batch
from tfp_flows.networks.transformer import CausalConditioner
from tfp_flows.ops.grids import Size, as_size, check_shape, context_rank, one_batch_axis
from tfp_flows.ops.internals import copy_attributes
from tfp_flows.ops.internals import prefer_static as ps

__all__ = ["TokenAutoregressive"]


class TokenAutoregressive(Bijector):
    """Autoregressive layer of tokens: each by parameters that a transformer reads off those before.

    With tokens in their order, `transformer` the elementwise map, and `y` the data's side:

    Forward: `y_i = transformer(x_i; p_i)`, `p_i = conditioner(y_0, ..., y_{i-1}, context)`
    Inverse: `x_i = transformer⁻¹(y_i; p_i)`, for all tokens at once
    Log-det: `Σ_i Σ_c log |d y_ic / d x_ic|`; the Jacobian is triangular in the order of tokens.

    The inverse, and so `log_prob`, costs one call of the network. The forward, and so `sample`,
    goes through the tokens one after another, beside the keys and values of those before. Starts as
    the identity.

    With `guidance` `w`, parameters are `p + w (p - p₀)`, with `p₀` those given a context of zeros:
    what the context has to say, exaggerated. It is a bijector like others, for which the network
    is called twice; a network that was also trained with contexts of zeros gives draws that are
    more typical of their context.

    Shapes: events `(T, C)`, context `(..., context_size)`, or `(..., T, features)`, of which every
    place reads its own; the batch shapes of both broadcast.

    Args:
      event_size: `(T, C)`, number of tokens and numbers in each.
      transformer: a `bijectors.transformers.Transformer`.
      conditioner: hidden widths of a `networks.CausalTransformer`, once for every layer, or a
        Keras 3 layer `(batch, T, C + context channels) -> (batch, T, features)` that is causal:
        what it makes at a place depends on that place and those before it only.
      reverse: whether tokens come in reverse, the last one first.
      context_size: width of the context, `(T, features)`, or `None`.
      dtype: floating dtype of events.
      seed: integer for reproducible initial weights, or `None`.
      guidance: `w`, 0 or more; with context only.
      validate_args: as in every `tfb.Bijector`.
      name: name of the bijector.

    Raises:
      ValueError: `event_size` is not `(T, C)`; a layer is not causal; `guidance` is negative, or
        given without context; an event or context does not fit.
      TypeError: `transformer` is not a `Transformer`.

    Source: Shuangfei Zhai et al., "Normalizing Flows are Capable Generative Models" (2024).

    Example:
      >>> affine = bijectors.transformers.Affine()
      >>> layer = bijectors.TokenAutoregressive((16, 4), affine, conditioner=(8, 8))
      >>> layer.inverse(np.zeros((10, 16, 4), "float32")).shape
      TensorShape([10, 16, 4])
    """

    independent_over_batch = True

    def __init__(
        self,
        event_size: Sequence[int],
        transformer: Transformer,
        conditioner: Sequence[int] | keras.layers.Layer = (64, 64),
        reverse: bool = False,
        context_size: Size | None = None,
        dtype: str | tf.DType = "float32",
        seed: int | None = None,
        *,
        guidance: float = 0.0,
        validate_args: bool = False,
        name: str = "token_autoregressive",
    ):
        parameters = dict(locals())
        shape = check_shape(event_size, "event_size")
        if len(shape) != 2 or shape[0] is None:
            raise ValueError(
                "`event_size` must be (T, C), how many tokens and numbers in each. "
                f"Received: event_size={event_size!r}"
            )
        _check_guidance(guidance, context_size)
        dtype = check_structure(shape[1], transformer, dtype)
        self.event_size = shape
        self.reverse = bool(reverse)
        self._guidance = float(guidance)
        self.context_size = as_size(context_size)
        self._context_ndims = context_rank(context_size)
        self.transformer = transformer
        self.conditioner = CausalConditioner(
            conditioner,
            event_shape=(shape[0], shape[1]),
            parameter_count=transformer.parameter_count,
            context_size=context_size,
            dtype=dtype.name,
            seed=seed,
        )
        super().__init__(parameters=parameters, dtype=dtype, forward_min_event_ndims=2)

    def guided(self, guidance: float) -> TokenAutoregressive:
        """The same layer, with the same variables and another `guidance`.

        Raises:
          ValueError: `guidance` is negative, or the layer takes no context.
        """
        _check_guidance(guidance, self.context_size)
        layer: TokenAutoregressive = copy_attributes(self, {"guidance": guidance})
        return layer

    @property
    def guidance(self) -> float:
        """How far parameters are moved away from those without context."""
        return self._guidance

    @property
    def fixed_structure(self) -> dict[str, Any]:
        return {"reverse": self.reverse}

    def _inverse_and_log_det(
        self, y: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        rows, given, shape = self._rows(y, context)
        parameters = self._guided(self.conditioner(*self._doubled(rows, given)))
        return self._events(*self.transformer.inverse(rows, parameters), given, shape)

    def _forward_and_log_det(
        self, x: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        rows, given, shape = self._rows(x, context)

        def transform(x: tf.Tensor, parameters: tf.Tensor) -> Pair:
            if not self.guidance:
                return self.transformer.forward(x, parameters)
            y, log_slope = self.transformer.forward(tf.split(x, 2)[0], self._guided(parameters))
            return tf.concat([y, y], 0), tf.concat([log_slope, log_slope], 0)

        y, log_slope = self.conditioner.solve(transform, *self._doubled(rows, given))
        if self.guidance:
            y, log_slope = tf.split(y, 2)[0], tf.split(log_slope, 2)[0]
        return self._events(y, log_slope, given, shape)

    def _rows(
        self, x: tf.Tensor, context: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor | None, Any]:
        """Events in their order and context, checked, with one batch axis; and the shape before."""
        x = check_events_on_grid(self, x, self.event_size)
        context = check_context(self, context, x.dtype)
        if context is not None:
            ndims = self._context_ndims
            x = match_batch(x, context, ndims=2, other_ndims=ndims)
            context = match_batch(context, x, ndims=ndims, other_ndims=2)
            context = one_batch_axis(context, ndims)
        return self._ordered(one_batch_axis(x, 2)), context, ps.shape(x)

    def _events(
        self, y: tf.Tensor, log_slope: tf.Tensor, context: tf.Tensor | None, shape: Any
    ) -> tuple[tf.Tensor, tf.Tensor]:
        log_det = mark_missing(tf.reduce_sum(log_slope, [-2, -1]), context, self._context_ndims)
        return tf.reshape(self._ordered(y), shape), tf.reshape(log_det, shape[:-2])

    def _ordered(self, x: tf.Tensor) -> tf.Tensor:
        return tf.reverse(x, [-2]) if self.reverse else x

    def _doubled(
        self, x: tf.Tensor, context: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Events given context and, for guidance, once more given zeros."""
        if not self.guidance or context is None:
            return x, context
        return tf.concat([x, x], 0), tf.concat([context, tf.zeros_like(context)], 0)

    def _guided(self, parameters: tf.Tensor) -> tf.Tensor:
        if not self.guidance:
            return parameters
        given, without = tf.split(parameters, 2)
        return given + self.guidance * (given - without)


def _check_guidance(guidance: float, context_size: Size | None) -> None:
    if not (math.isfinite(guidance) and guidance >= 0) or (guidance and context_size is None):
        raise ValueError(
            "`guidance` must be 0 or more and, without context, 0. "
            f"Received: guidance={guidance!r}, context_size={context_size!r}"
        )
