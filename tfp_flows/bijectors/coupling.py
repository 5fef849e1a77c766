"""Coupling: one part of the event sets the parameters by which the other part is transformed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.base import (
    Bijector,
    check_context,
    check_event_size,
    mark_missing,
)
from tfp_flows.bijectors.elementwise import check_structure
from tfp_flows.bijectors.transformers import Transformer
from tfp_flows.bijectors.transformers.base import Pair
from tfp_flows.bijectors.transformers.circular import wrap
from tfp_flows.networks import MLP, PeriodicFeatures
from tfp_flows.networks.conditioner import Conditioner, match_batch, network_policy
from tfp_flows.ops.capabilities import has_closed_inverse
from tfp_flows.ops.feature_major import (
    flatten_batch,
    from_feature_major,
    permute_features,
    select_features,
    to_feature_major,
)
from tfp_flows.ops.internals import prefer_static as ps

__all__ = ["Coupling"]

HARMONICS = 1  # Of angles, where the conditioner is only widths.


class Coupling(Bijector):
    """Coupling layer: keep some columns, transform the others with parameters computed from them.

    With `a` the columns that the mask keeps and `b` the rest:

    Forward: `a -> a`, `b -> transformer(b; conditioner(a, context))`
    Inverse: `a -> a`, `b -> transformer⁻¹(b; conditioner(a, context))`
    Log-det: `Σ_i log |d transformer(b_i) / d b_i|`; the Jacobian is triangular up to the order of
      columns.

    Both directions cost one call of the conditioner. `Additive()` makes NICE, `Affine()` RealNVP,
    `RationalQuadraticSpline()` a neural spline coupling. Starts as the identity.

    With `CircularSpline()` columns are angles, taken modulo 2π, which the network reads through
    sines and cosines: the density is periodic.

    Shapes: events `(event_size,)`, context `(..., context_size)`; the batch shapes of both
    broadcast.

    Args:
      event_size: number of columns. With one column, nothing can be kept: it is transformed with
        parameters computed from the context, or, without context, learned as they are.
      transformer: a `bijectors.transformers.Transformer`.
      conditioner: hidden widths of an MLP, or a Keras 3 layer
        `(batch, kept + context_size) -> (batch, features)`; a `Dense` to the parameters,
        initialised with zeros, follows it in both cases.
      mask: which columns are kept: `"half"`, the first half; `"alternate"`, every other one from
        the first; or `event_size` booleans, true for kept. With context, none need be kept.
      flip: keep the other columns instead.
      context_size: width of the context, or `None`.
      dtype: floating dtype of events.
      seed: integer for reproducible initial weights, or `None`.
      validate_args: as in every `tfb.Bijector`.
      name: name of the bijector.

    Raises:
      ValueError: a size is not a positive integer; the mask is unknown, has another length, keeps
        all columns, or none without context; an event or context does not fit; context is
        missing, or given to an unconditional bijector.
      TypeError: `transformer` is not a `Transformer`.

    Source: Laurent Dinh, Jascha Sohl-Dickstein and Samy Bengio, "Density Estimation using Real
    NVP" (2017); with splines, Conor Durkan et al., "Neural Spline Flows" (2019).

    Example:
      >>> affine = bijectors.transformers.Affine()
      >>> layer = bijectors.Coupling(5, affine, conditioner=(128, 128), mask="alternate")
      >>> layer.forward(np.zeros((10, 5), "float32")).shape     # (10, 5)
    """

    independent_over_batch = True

    def __init__(
        self,
        event_size: int,
        transformer: Transformer,
        conditioner: Sequence[int] | keras.layers.Layer = (64, 64),
        mask: str | Sequence[bool] | np.ndarray = "half",
        flip: bool = False,
        context_size: int | None = None,
        dtype: str | tf.DType = "float32",
        seed: int | None = None,
        *,
        validate_args: bool = False,
        name: str = "coupling",
    ):
        parameters = dict(locals())
        dtype = check_structure(event_size, transformer, dtype)
        self.event_size = event_size
        self.context_size = context_size
        self.transformer = transformer
        self.needs_raw_data = transformer.needs_raw_data
        self.mask = _mask(event_size, mask, flip, may_keep_none=context_size is not None)
        self._identity_features, self._transformed_features = (
            np.flatnonzero(self.mask),
            np.flatnonzero(~self.mask),
        )
        if transformer.needs_raw_data and not isinstance(conditioner, PeriodicFeatures):
            conditioner = _periodic(conditioner, len(self._identity_features), dtype.name, seed)
        self.conditioner = Conditioner(
            conditioner,
            input_size=len(self._identity_features),
            output_shape=(len(self._transformed_features), transformer.parameter_count),
            context_size=context_size,
            dtype=dtype.name,
            seed=seed,
        )
        super().__init__(parameters=parameters, dtype=dtype)

    @property
    def closed_inverse(self) -> bool:
        """Whether the transformer has one."""
        return has_closed_inverse(self.transformer)

    @property
    def is_monotone(self) -> bool:
        """Whether the transformer is monotone, as all are that are not circular."""
        return self.transformer.is_monotone

    @property
    def fixed_structure(self) -> dict[str, Any]:
        return {"mask": self.mask}

    def _forward_and_log_det(
        self, x: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        return self._transform(x, context, self.transformer.forward)

    def _inverse_and_log_det(
        self, y: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        return self._transform(y, context, self.transformer.inverse)

    def _transform(
        self, x: tf.Tensor, context: tf.Tensor | None, direction: Callable[..., Pair]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        check_event_size(self, x, self.event_size)
        if x.shape.rank is not None and x.shape[-1] is None:
            x = tf.ensure_shape(x, [*x.shape[:-1], self.event_size])
        context = check_context(self, context, x.dtype)
        if context is not None:
            x = match_batch(x, context)
        if self.transformer.needs_raw_data:
            x = wrap(x)
        # Columns as rows: each is picked whole, and elementwise maps run along contiguous memory.
        # Made once, for the network and the map: it takes as long as a product of the network.
        rows = to_feature_major(x)
        return self._map(rows, self._parameters_of(rows, x, context), direction, x, context)

    def directions(
        self, x: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[Callable[[tf.Tensor], Pair], Callable[[tf.Tensor], Pair]]:
        """Forward and inverse map of events that keep what `x` keeps, from one conditioner call.

        `x` is what this bijector returned before, given the same context: nothing is checked,
        broadcast or wrapped again.
        """
        parameters = self._parameters_of(to_feature_major(x), x, context)

        def mapped(direction: Callable[..., Pair], value: tf.Tensor) -> Pair:
            return self._map(to_feature_major(value), parameters, direction, value, context)

        forward, inverse = self.transformer.forward, self.transformer.inverse
        return functools.partial(mapped, forward), functools.partial(mapped, inverse)

    def _parameters_of(self, rows: tf.Tensor, x: tf.Tensor, context: tf.Tensor | None) -> tf.Tensor:
        """The transformer's parameters, `(transformed, parameter_count, n)`."""
        context = None if context is None else flatten_batch(match_batch(context, x))
        return self.conditioner(
            select_features(rows, self._identity_features), context, transposed=True
        )

    def _map(
        self,
        rows: tf.Tensor,
        parameters: tf.Tensor,
        direction: Callable[..., Pair],
        like: tf.Tensor,
        context: tf.Tensor | None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Map the features that are transformed; the result has the shape of `like`."""
        order = np.concatenate([self._identity_features, self._transformed_features])
        identity, transformed = tf.split(
            permute_features(rows, order),
            [len(self._identity_features), len(self._transformed_features)],
        )
        transformed, log_det = direction(transformed, parameters)
        rows = permute_features(tf.concat([identity, transformed], 0), np.argsort(order))
        log_det = tf.reshape(tf.reduce_sum(log_det, 0), ps.shape(like)[:-1])
        return from_feature_major(rows, like), mark_missing(log_det, context)


def _periodic(
    conditioner: Sequence[int] | keras.layers.Layer, angles: int, dtype: str, seed: int | None
) -> PeriodicFeatures | Sequence[int]:
    """The conditioner with the identity features, which are angles, made periodic."""
    if isinstance(conditioner, Sequence) and not isinstance(conditioner, str):
        conditioner = MLP(conditioner, seed=seed, dtype=network_policy(dtype))
    if not isinstance(conditioner, keras.layers.Layer):
        return conditioner
    return PeriodicFeatures(conditioner, angles=angles, harmonics=HARMONICS)


def _mask(
    event_size: int, mask: str | Sequence[bool] | np.ndarray, flip: bool, *, may_keep_none: bool
) -> np.ndarray:
    """The identity features, those that are kept, as booleans."""
    if event_size == 1 and isinstance(mask, str):
        return np.array([False])
    if isinstance(mask, str):
        masks = {
            "half": np.arange(event_size) < event_size // 2,
            "alternate": np.arange(event_size) % 2 == 0,
        }
        if mask not in masks:
            raise ValueError(
                f"`mask` must be 'half', 'alternate' or booleans. Received: mask={mask!r}"
            )
        identity = masks[mask]
    else:
        identity = np.asarray(mask)
        if identity.dtype != bool or identity.shape != (event_size,):
            raise ValueError(
                f"`mask` must be {event_size} booleans, one per column. Received: mask={mask!r}"
            )
    identity = ~identity if flip else identity
    if identity.all() or not (identity.any() or may_keep_none or event_size == 1):
        raise ValueError(
            "`mask` must leave at least one column to transform and, without context, keep one. "
            f"Received: mask={mask!r}, flip={flip}"
        )
    return identity
