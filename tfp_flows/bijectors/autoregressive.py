"""Autoregressive: every column is transformed with parameters computed from those before it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Sequence
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
from tfp_flows.bijectors.coupling import HARMONICS
from tfp_flows.bijectors.elementwise import check_structure
from tfp_flows.bijectors.transformers import Transformer
from tfp_flows.bijectors.transformers.base import Pair
from tfp_flows.networks.autoregressive import AutoregressiveConditioner
from tfp_flows.networks.conditioner import match_batch

__all__ = ["MaskedAutoregressive"]


class MaskedAutoregressive(Bijector):
    """Masked autoregressive layer: column by column, parameters from the columns before.

    With the columns in their order and `y` the data's side:

    Forward: `y_i = transformer(x_i; p_i)`, `p_i = conditioner(y_1, ..., y_{i-1}, context)`
    Inverse: `x_i = transformer⁻¹(y_i; p_i)`, for all columns at once
    Log-det: `Σ_i log |d y_i / d x_i|`; the Jacobian is triangular in the order of columns.

    The inverse, and so `log_prob`, costs one call of the network. The forward, and so `sample`,
    has to go through the columns one after another; with a MADE, every hidden unit is computed
    once in that, so that the arithmetic is that of about one call, and the time grows with D by the
    number of steps. With a layer of your own it costs D calls. `tfb.Invert` swaps the two: IAF.

    With `CircularSpline()` columns are angles, which the network reads through sines and cosines:
    the density is periodic. The forward direction then costs D calls.

    `Affine()` makes MAF, `RationalQuadraticSpline()` an autoregressive spline flow, and
    `Inverse(DeepSigmoidal())` a neural autoregressive flow. Starts as the identity.

    Shapes: events `(event_size,)`, context `(..., context_size)`; the batch shapes of both
    broadcast.

    Args:
      event_size: number of columns, D.
      transformer: a `bijectors.transformers.Transformer`.
      conditioner: hidden widths of a `networks.MADE`, or a Keras 3 layer
        `(batch, event_size + context_size) -> (batch, parameter_count, event_size)` whose output
        for each column depends on the columns before it only.
      order: `None` for the columns as they come, `"reversed"`, `"random"` (drawn by `seed`), or a
        permutation: `order[i]` is the column that comes i-th.
      context_size: width of the context, or `None`.
      dtype: floating dtype of events.
      seed: integer for reproducible initial weights and order, or `None`.
      passes: number of blocks in which columns go: D by default. 2 is a coupling that transforms
        the first block, too; in between, sampling takes fewer steps.
      residual: residual connections in the MADE; see there.
      activation: activation of the MADE's hidden layers.
      validate_args: as in every `tfb.Bijector`.
      name: name of the bijector.

    Raises:
      ValueError: a size is not a positive integer; `order` is not a permutation; `passes` is larger
        than D; a layer of your own has another output shape, or an output that depends on a column
        it must not see; an event or context does not fit; context is missing, or given to an
        unconditional bijector.
      TypeError: `transformer` is not a `Transformer`.

    Source: George Papamakarios, Theo Pavlakou and Iain Murray, "Masked Autoregressive Flow for
    Density Estimation" (2017); Durk Kingma et al., "Improved Variational Inference with Inverse
    Autoregressive Flow" (2016).

    Example:
      >>> spline = bijectors.transformers.RationalQuadraticSpline()
      >>> layer = bijectors.MaskedAutoregressive(5, spline, conditioner=(128, 128), order="random")
      >>> layer.inverse(np.zeros((10, 5), "float32")).shape     # (10, 5)
    """

    independent_over_batch = True

    def __init__(
        self,
        event_size: int,
        transformer: Transformer,
        conditioner: Sequence[int] | keras.layers.Layer = (64, 64),
        order: str | Sequence[int] | None = None,
        context_size: int | None = None,
        dtype: str | tf.DType = "float32",
        seed: int | None = None,
        *,
        passes: int | None = None,
        residual: bool = False,
        activation: str = "relu",
        validate_args: bool = False,
        name: str = "masked_autoregressive",
    ):
        parameters = dict(locals())
        dtype = check_structure(event_size, transformer, dtype)
        self.event_size = event_size
        self.context_size = context_size
        self.transformer = transformer
        self.needs_raw_data = transformer.needs_raw_data
        self.conditioner = AutoregressiveConditioner(
            conditioner,
            event_size=event_size,
            parameter_count=transformer.parameter_count,
            order=order,
            passes=passes,
            harmonics=HARMONICS if transformer.needs_raw_data else 0,
            residual=residual,
            activation=activation,
            context_size=context_size,
            dtype=dtype.name,
            seed=seed,
        )
        self.order = self.conditioner.order
        super().__init__(parameters=parameters, dtype=dtype)

    @property
    def is_monotone(self) -> bool:
        """Whether the transformer is monotone, as all are that are not circular."""
        return self.transformer.is_monotone

    @property
    def fixed_structure(self) -> dict[str, Any]:
        return {"order": self.order}

    def _inverse_and_log_det(
        self, y: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        y, context = self._check(y, context)
        x, log_det = self.transformer.inverse(y, self.conditioner(y, context))
        return x, mark_missing(tf.reduce_sum(log_det, -1), context)

    def _forward_and_log_det(
        self, x: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        x, context = self._check(x, context)
        compiled = self.transformer.compile_loop and _is_value(self.transformer)
        transform = _shared_forward(self.transformer) if compiled else self.transformer.forward
        y, log_det = self.conditioner.solve(transform, x, context, compile_loop=compiled)
        return y, mark_missing(tf.reduce_sum(log_det, -1), context)

    def _check(self, x: tf.Tensor, context: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor | None]:
        x = check_event_size(self, x, self.event_size)
        context = check_context(self, context, x.dtype)
        return x if context is None else match_batch(x, context), context


def _is_value(value: Any) -> bool:
    """Whether equal objects are the same in all they do: no variables, networks or functions."""
    if isinstance(value, tuple):
        return all(map(_is_value, value))
    if isinstance(value, Transformer):
        if not (dataclasses.is_dataclass(value) and isinstance(value, Hashable)):
            return False
        names = {field.name for field in dataclasses.fields(value)}
        return vars(value).keys() == names and all(map(_is_value, vars(value).values()))
    return value is None or isinstance(value, bool | int | float | str | np.number)


@functools.cache
def _shared_forward(transformer: Transformer) -> Callable[[tf.Tensor, tf.Tensor], Pair]:
    """One function for all equal transformers, so that layers share what is compiled for it."""
    return transformer.forward
