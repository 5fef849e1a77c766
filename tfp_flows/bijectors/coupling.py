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
    check_events_on_grid,
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
    from_feature_major,
    permute_features,
    pick_rows,
    select_features,
    to_feature_major,
)
from tfp_flows.ops.grids import Size, as_size, check_shape, context_rank, one_batch_axis
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

    On images `(H, W, C)` and sounds `(T, C)` columns are channels: a network over the grid reads
    those that are kept, and every position of the others has parameters of its own; the log-det is
    the sum over positions, too. A mask of the whole event, as `"checkerboard"`, keeps positions.

    With `CircularSpline()` columns are angles, taken modulo 2π, which the network reads through
    sines and cosines: the density is periodic.

    Shapes: events `(event_size,)` or `event_size`, where that is a shape; context
    `(..., context_size)` or `(..., *context_size)`; the batch shapes of both broadcast.

    Args:
      event_size: number of columns; or the shape of events on a grid, `(T, C)` or `(H, W, C)`, with
        `None` for lengths that may vary. With one column, nothing can be kept: it is transformed
        with parameters computed from the context, or, without context, learned as they are.
      transformer: a `bijectors.transformers.Transformer`.
      conditioner: hidden widths of an MLP, or a Keras 3 layer
        `(batch, kept + context_size) -> (batch, features)`; on a grid hidden widths of a `ConvNet`,
        or a layer `(batch, *grid, kept + context channels) -> (batch, *grid, features)`. A `Dense`
        to the parameters, initialised with zeros, follows it in all cases. With a mask of the whole
        event the layer reads `2 C` channels: events with zeros for what is transformed, and the
        mask.
      mask: which columns are kept: `"half"`, the first half; `"alternate"`, every other one from
        the first; or `event_size` booleans, true for kept; on a grid also booleans of the shape of
        an event, or `"checkerboard"`, every other position. With context, none need be kept.
      flip: keep the other columns instead.
      context_size: width of the context, which every position reads; or, on a grid, the shape of
        one on a grid of its own, which is a multiple of that of events; or `None`.
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
      >>> layer = bijectors.Coupling((8, 8, 4), affine, conditioner=(32, 32))
      >>> layer.forward(np.zeros((10, 8, 8, 4), "float32")).shape     # (10, 8, 8, 4)
    """

    independent_over_batch = True

    def __init__(
        self,
        event_size: Size,
        transformer: Transformer,
        conditioner: Sequence[int] | keras.layers.Layer = (64, 64),
        mask: str | Sequence[Any] | np.ndarray = "half",
        flip: bool = False,
        context_size: Size | None = None,
        dtype: str | tf.DType = "float32",
        seed: int | None = None,
        *,
        validate_args: bool = False,
        name: str = "coupling",
    ):
        parameters = dict(locals())
        shape = check_shape(event_size, "event_size")
        dtype = check_structure(shape[-1], transformer, dtype)
        *grid, self.event_size = shape
        self.grid = tuple(grid)
        self.context_size = as_size(context_size)
        self._context_ndims = context_rank(context_size)
        self.transformer = transformer
        self.needs_raw_data = transformer.needs_raw_data
        self.mask = _mask(shape, mask, flip, may_keep_none=context_size is not None)
        self._keeps_positions = self.mask.ndim > 1
        self._identity_features, self._transformed_features = (
            np.flatnonzero(self.mask),
            np.flatnonzero(~self.mask),
        )
        kept, transformed = len(self._identity_features), len(self._transformed_features)
        if transformer.needs_raw_data and not isinstance(conditioner, PeriodicFeatures):
            if grid:
                raise ValueError(
                    "`transformer` must not be one of angles on a grid. "
                    f"Received: transformer={transformer!r}, event_size={event_size!r}"
                )
            conditioner = _periodic(conditioner, kept, dtype.name, seed)
        self.conditioner = Conditioner(
            conditioner,
            input_size=2 * self.event_size if self._keeps_positions else kept,
            output_shape=(
                self.event_size if self._keeps_positions else transformed,
                transformer.parameter_count,
            ),
            grid=self.grid,
            context_size=context_size,
            dtype=dtype.name,
            seed=seed,
        )
        super().__init__(
            parameters=parameters, dtype=dtype, forward_min_event_ndims=1 + len(self.grid)
        )

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
        x = check_events_on_grid(self, x, (*self.grid, self.event_size))
        context = check_context(self, context, x.dtype)
        if context is not None:
            x = match_batch(x, context, ndims=1 + len(self.grid), other_ndims=self._context_ndims)
        if self.transformer.needs_raw_data:
            x = wrap(x)
        # Columns as rows: each is picked whole, and elementwise maps run along contiguous memory.
        # Made once, for the network and the map: it takes as long as a product of the network.
        rows = self._rows(x)
        return self._map(rows, self._parameters_of(rows, x, context), direction, x, context)

    def directions(
        self, x: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[Callable[[tf.Tensor], Pair], Callable[[tf.Tensor], Pair]]:
        """Forward and inverse map of events that keep what `x` keeps, from one conditioner call.

        `x` is what this bijector returned before, given the same context: nothing is checked,
        broadcast or wrapped again.
        """
        parameters = self._parameters_of(self._rows(x), x, context)

        def mapped(direction: Callable[..., Pair], value: tf.Tensor) -> Pair:
            return self._map(self._rows(value), parameters, direction, value, context)

        forward, inverse = self.transformer.forward, self.transformer.inverse
        return functools.partial(mapped, forward), functools.partial(mapped, inverse)

    def _rows(self, x: tf.Tensor) -> tf.Tensor:
        """Events by what the mask tells apart: `(channels, n · positions)`, or `(entries, n)`."""
        return to_feature_major(tf.reshape(x, [-1, self.mask.size]) if self.grid else x)

    def _parameters_of(self, rows: tf.Tensor, x: tf.Tensor, context: tf.Tensor | None) -> tf.Tensor:
        """The transformer's parameters, `(transformed, parameter_count, columns of rows)`."""
        if context is not None and not (self.grid or self.mask.any()):
            return self._parameters_of_context(x, context)
        if context is not None:
            ndims = 1 + len(self.grid)
            context = match_batch(context, x, ndims=self._context_ndims, other_ndims=ndims)
            context = one_batch_axis(context, self._context_ndims)
        if self._keeps_positions:
            return self._parameters_of_positions(x, context)
        kept = select_features(rows, self._identity_features)
        if self.grid:
            grid = ps.shape(x)[-1 - len(self.grid) : -1]
            kept = tf.reshape(kept, ps.concat([[-1], grid, kept.shape[-1:]], 0))
        return self.conditioner(kept, context, transposed=True)

    def _parameters_of_context(self, x: tf.Tensor, context: tf.Tensor) -> tf.Tensor:
        """The same where nothing is kept: events that share a context share a network call."""
        nothing = tf.zeros(ps.concat([ps.shape(context)[:-1], [0]], 0), x.dtype)
        parameters = self.conditioner(nothing, context)  # Behind the batch, to be broadcast.
        parameters = match_batch(parameters, x, ndims=2)
        return tf.transpose(one_batch_axis(parameters, 2), [1, 2, 0])

    def _parameters_of_positions(self, x: tf.Tensor, context: tf.Tensor | None) -> tf.Tensor:
        """The same where the mask tells positions apart: some are computed in vain."""
        x = one_batch_axis(x, 1 + len(self.grid))
        kept = tf.where(self.mask, x, tf.zeros([], x.dtype))
        mask = tf.broadcast_to(tf.constant(self.mask, x.dtype), ps.shape(x))
        parameters = self.conditioner(tf.concat([kept, mask], -1), context)
        count = self.transformer.parameter_count
        # Rows of parameters, by entry and batch, of which the entries that are kept need none.
        rows = tf.transpose(tf.reshape(parameters, [-1, self.mask.size * count]))
        rows = tf.reshape(rows, [self.mask.size, -1])
        chosen = pick_rows(rows, self._transformed_features)
        return tf.reshape(chosen, [len(self._transformed_features), count, -1])

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
        log_det = tf.reduce_sum(log_det, 0)
        if self.grid:
            y = tf.reshape(tf.transpose(rows), ps.shape(like))
            batch = ps.shape(like)[: -1 - len(self.grid)]
            positions = ps.size(like) // ps.maximum(ps.reduce_prod(batch), 1) // self.mask.size
            log_det = tf.reduce_sum(tf.reshape(log_det, ps.concat([batch, [positions]], 0)), -1)
        else:
            y = from_feature_major(rows, like)
            log_det = tf.reshape(log_det, ps.shape(like)[:-1])
        return y, mark_missing(log_det, context, self._context_ndims)


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
    shape: tuple[Any, ...],
    mask: str | Sequence[Any] | np.ndarray,
    flip: bool,
    *,
    may_keep_none: bool,
) -> np.ndarray:
    """The identity features, those that are kept, as booleans: of channels, or of whole events."""
    *grid, size = shape
    is_alone = size == 1 and not grid
    if is_alone and isinstance(mask, str):
        return np.array([False])
    if isinstance(mask, str):
        masks = {"half": np.arange(size) < size // 2, "alternate": np.arange(size) % 2 == 0}
        if grid and None not in grid:
            masks["checkerboard"] = np.indices(grid).sum(0)[..., None].repeat(size, -1) % 2 == 0
        if mask not in masks:
            also = ", 'checkerboard' on a grid of known lengths," * bool(grid)
            raise ValueError(
                f"`mask` must be 'half', 'alternate'{also} or booleans. Received: mask={mask!r}"
            )
        identity = masks[mask]
    else:
        identity = np.asarray(mask)
        if identity.dtype != bool or identity.shape not in {(size,), tuple(shape)}:
            whole = f", or of shape {tuple(shape)}, one per entry" * bool(grid)
            raise ValueError(
                f"`mask` must be {size} booleans, one per column{whole}. Received: mask={mask!r}"
            )
    identity = ~identity if flip else identity
    if identity.all() or not (identity.any() or may_keep_none or is_alone):
        hint = ": of one channel, keep positions, by mask='checkerboard', or squeeze before"
        raise ValueError(
            "`mask` must leave at least one column to transform and, without context, keep one"
            f"{hint * (size == 1)}. Received: mask={mask!r}, flip={flip}"
        )
    return identity
