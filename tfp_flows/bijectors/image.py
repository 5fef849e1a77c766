"""Maps of events on a grid: blocks of positions as channels, and channels that leave early."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tfp_flows.bijectors.base import Bijector, check_context, check_events_on_grid
from tfp_flows.bijectors.coupling import Coupling
from tfp_flows.bijectors.transformers import Affine
from tfp_flows.bijectors.transformers.base import Pair
from tfp_flows.networks.conditioner import match_batch
from tfp_flows.ops.capabilities import adapt_part, awaits_data, context_size_of, has_closed_inverse
from tfp_flows.ops.checks import positive_int
from tfp_flows.ops.grids import Size, as_size, check_shape, context_rank, squeeze, unsqueeze
from tfp_flows.ops.internals import prefer_static as ps

__all__ = ["MultiScale", "Squeeze"]


class Squeeze(Bijector):
    """Blocks of positions as channels: `(H, W, C)` to `(H / f, W / f, f² C)`, `f` the factor.

    Forward: the `f²` pixels of every block, row by row, stand one after another on the last axis
    Inverse: back again
    Log-det: 0

    Both directions cost one transposition. A coupling that keeps channels can then work on images
    of one channel, and its network on a quarter of the positions.

    Shapes: with `event_ndims=3` as above, with `event_ndims=2` sounds `(T, C)` to `(T / f, f C)`.

    Args:
      factor: length of a block along every axis.
      event_ndims: 3 for images, 2 for sounds.
      validate_args: as in every `tfb.Bijector`.
      name: name of the bijector.

    Raises:
      ValueError: `factor` is not a positive integer, `event_ndims` neither 2 nor 3; a length of an
        event is not a multiple of `factor`; or, of the inverse, the number of channels is not one
        of `f²`.

    Source: Laurent Dinh, Jascha Sohl-Dickstein and Samy Bengio, "Density Estimation using Real
    NVP" (2017).

    Example:
      >>> bijectors.Squeeze(2).forward(np.zeros((10, 28, 28, 1), "float32")).shape
      TensorShape([10, 14, 14, 4])
    """

    closed_inverse = True
    independent_over_batch = True

    def __init__(
        self,
        factor: int = 2,
        *,
        event_ndims: int = 3,
        validate_args: bool = False,
        name: str = "squeeze",
    ):
        parameters = dict(locals())
        self.factor = positive_int(factor, "factor")
        if event_ndims not in (2, 3):
            raise ValueError(
                f"`event_ndims` must be 3 or, for sounds, 2. Received: event_ndims={event_ndims!r}"
            )
        self._factors = [factor] * (event_ndims - 1)
        super().__init__(parameters=parameters, forward_min_event_ndims=event_ndims)

    def _forward_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        self._forward_event_shape(x.shape)
        return squeeze(x, self._factors), self._zeros(x)

    def _inverse_and_log_det(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        self._inverse_event_shape(y.shape)
        return unsqueeze(y, self._factors), self._zeros(y)

    def _zeros(self, x: tf.Tensor) -> tf.Tensor:
        return tf.zeros(ps.shape(x)[: -len(self._factors) - 1], x.dtype)

    def _forward_event_shape(self, shape: tf.TensorShape) -> tf.TensorShape:
        if shape.rank is None:
            return shape
        *batch, channels = self._split(shape)
        grid, factor = batch[-len(self._factors) :], self.factor
        for length in grid:
            if length is not None and length % factor:
                near = [length // factor * factor, -(-length // factor) * factor]
                sizes = " or ".join(str(size) for size in near if size)
                raise ValueError(
                    f"Squeeze needs lengths that are multiples of {factor}. Received: events of "
                    f"shape {(*grid, channels)}; instead of {length}, {sizes} would do"
                )
        small = [None if length is None else length // factor for length in grid]
        wide = None if channels is None else channels * factor ** len(grid)
        return tf.TensorShape([*batch[: -len(grid)], *small, wide])

    def _inverse_event_shape(self, shape: tf.TensorShape) -> tf.TensorShape:
        if shape.rank is None:
            return shape
        *batch, channels = self._split(shape)
        grid, factor = batch[-len(self._factors) :], self.factor
        block = factor ** len(grid)
        if channels is not None and channels % block:
            raise ValueError(
                f"The inverse of Squeeze needs channels in multiples of {block}. "
                f"Received: events of shape {(*grid, channels)}"
            )
        large = [None if length is None else length * factor for length in grid]
        few = None if channels is None else channels // block
        return tf.TensorShape([*batch[: -len(grid)], *large, few])

    def _split(self, shape: tf.TensorShape) -> list[int | None]:
        if shape.rank <= len(self._factors):
            raise ValueError(
                f"Squeeze needs events of rank {len(self._factors) + 1}. "
                f"Received: shape={tuple(shape)}"
            )
        return list(shape)

    def _forward_event_shape_tensor(self, shape: tf.Tensor) -> tf.Tensor:
        grid, wide = shape[:-1] // self.factor, shape[-1:] * self.factor ** len(self._factors)
        return tf.concat([grid, wide], 0)

    def _inverse_event_shape_tensor(self, shape: tf.Tensor) -> tf.Tensor:
        grid, few = shape[:-1] * self.factor, shape[-1:] // self.factor ** len(self._factors)
        return tf.concat([grid, few], 0)


class MultiScale(Bijector):
    """Let half of the channels leave: the others go on through more layers, and set their scale.

    With `a` the first half of the channels and `b` the second, `f` the chain of `layers`, and a
    log-scale and a shift that a network reads off the first half at the data's end:

    Forward: `a -> f(a)`, `b -> b exp(s) + t`, with `s, t = conditioner(f(a), context)`
    Inverse: `a -> f⁻¹(a)`, `b -> (b - t) exp(-s)`, with `s, t = conditioner(a, context)`
    Log-det: that of `f` at `a`, and `Σ s`

    Over a standard normal base, the half that leaves has a normal density given the other. Both
    directions cost one call of the conditioner, and the layers, on half of the numbers. Starts as
    `f` on the first half and the identity on the second.

    Shapes: events `event_size`, `(T, C)` or `(H, W, C)`; `layers` map events with `kept` channels
    to others of that shape. Context as in `Coupling`, handed on to the layers.

    Args:
      event_size: shape of events; two channels or more.
      layers: bijectors of the half that stays, the last applied first, as in `tfb.Chain`.
      conditioner: as in `Coupling`.
      context_size: as in `Coupling`; that of conditional layers, too.
      dtype: floating dtype of events.
      seed: integer for reproducible initial weights, or `None`.
      kept: how many channels stay, `C // 2` by default.
      validate_args: as in every `tfb.Bijector`.
      name: name of the bijector.

    Raises:
      ValueError: as in `Coupling`; there is only one channel, or all would stay; or a layer has
        another context size.
      TypeError: `layers` are no bijectors.

    Source: Laurent Dinh, Jascha Sohl-Dickstein and Samy Bengio, "Density Estimation using Real
    NVP" (2017); with a normal given the other half, Diederik P. Kingma and Prafulla Dhariwal,
    "Glow" (2018).

    Example:
      >>> affine = bijectors.transformers.Affine()
      >>> inner = [bijectors.ActNorm(2), bijectors.Coupling((4, 4, 2), affine, (8,))]
      >>> bijectors.MultiScale((4, 4, 4), inner, (8,)).forward_event_shape((4, 4, 4))
      TensorShape([4, 4, 4])
    """

    independent_over_batch = True
    adapts_layers = True

    def __init__(
        self,
        event_size: Size,
        layers: Sequence[tfb.Bijector],
        conditioner: Sequence[int] | keras.layers.Layer = (64, 64),
        context_size: Size | None = None,
        dtype: str | tf.DType = "float32",
        seed: int | None = None,
        *,
        kept: int | None = None,
        validate_args: bool = False,
        name: str = "multi_scale",
    ):
        parameters = dict(locals())
        self.event_size = check_shape(event_size, "event_size")
        if self.event_size[-1] < 2:
            raise ValueError(
                "`event_size` must have two channels or more, of which half can leave. "
                f"Received: event_size={event_size!r}"
            )
        channels = self.event_size[-1]
        self.kept = channels // 2 if kept is None else positive_int(kept, "kept")
        if self.kept >= channels:
            raise ValueError(
                f"`kept` must be below {channels}, the number of channels. Received: kept={kept}"
            )
        if not isinstance(layers, Sequence) or not all(
            isinstance(layer, tfb.Bijector) for layer in layers
        ):
            raise TypeError(f"`layers` must be a list of bijectors. Received: layers={layers!r}")
        self.layers = list(layers)
        self.context_size = as_size(context_size)
        for layer in self.layers:
            if context_size_of(layer) not in (None, self.context_size):
                raise ValueError(
                    "`context_size` must be that of all conditional layers. Received: "
                    f"context_size={context_size!r}, and {context_size_of(layer)!r} of "
                    f"{layer.name!r}"
                )
        self.coupling = Coupling(
            event_size,
            Affine(),
            conditioner,
            mask=[i < self.kept for i in range(channels)],
            context_size=context_size,
            dtype=dtype,
            seed=seed,
        )
        self._ndims = len(self.event_size)
        super().__init__(
            parameters=parameters,
            dtype=self.coupling.dtype,
            forward_min_event_ndims=self._ndims,
        )

    @property
    def closed_inverse(self) -> bool:
        """Whether all layers have one."""
        return all(map(has_closed_inverse, self.layers))

    @property
    def is_initialized(self) -> bool:
        """Whether no layer has to see data first."""
        return not any(map(awaits_data, self.layers))

    def adapt(self, y: Any, context: Any | None = None, *, again: bool = True) -> None:
        """Data-dependent initialization of the layers that have one.

        Args:
          y: events `(n, *event_size)`.
          context: as in `forward`, if there is one.
          again: whether those go again that were adapted before.
        """
        y = check_events_on_grid(self, tf.convert_to_tensor(y, dtype=self.dtype), self.event_size)
        context = check_context(self, context, y.dtype)
        y, _ = self._halves(y)
        for layer in self.layers:
            adapt_part(layer, y, context, again=again)
            y = layer.inverse(tf.identity(y), **_kwargs(layer, context))

    def _forward_and_log_det(
        self, x: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        x, context = self._checked(x, context)
        y, leaving = self._halves(x)
        y, total = self._run(y, context, forward=True)
        joined = tf.concat([y, leaving], -1)
        y, log_det = self.coupling._forward_and_log_det(joined, *_given(context))
        return y, total + log_det

    def _inverse_and_log_det(
        self, y: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        y, context = self._checked(y, context)
        x, log_det = self.coupling._inverse_and_log_det(y, *_given(context))
        x, leaving = self._halves(x)
        x, total = self._run(x, context, forward=False)
        return tf.concat([x, leaving], -1), total + log_det

    def _checked(
        self, x: tf.Tensor, context: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        x = check_events_on_grid(self, x, self.event_size)
        context = check_context(self, context, x.dtype)
        if context is not None:
            ndims = context_rank(self.context_size)
            x = match_batch(x, context, ndims=self._ndims, other_ndims=ndims)
        return x, context

    def _halves(self, x: tf.Tensor) -> list[tf.Tensor]:
        return tf.split(x, [self.kept, self.event_size[-1] - self.kept], -1)

    def _run(self, x: tf.Tensor, context: tf.Tensor | None, *, forward: bool) -> Pair:
        """The first half through all layers."""
        total = tf.zeros([], x.dtype)
        for layer in reversed(self.layers) if forward else self.layers:
            kwargs, ndims = _kwargs(layer, context), self._ndims
            if forward:
                y = layer.forward(x, **kwargs)
                total += layer.forward_log_det_jacobian(x, ndims, **kwargs)
            else:
                y = layer.inverse(x, **kwargs)
                total += layer.inverse_log_det_jacobian(x, ndims, **kwargs)
            x = y
        return x, total


def _kwargs(layer: tfb.Bijector, context: tf.Tensor | None) -> dict[str, tf.Tensor]:
    return {} if context_size_of(layer) is None or context is None else {"context": context}


def _given(context: tf.Tensor | None) -> tuple[tf.Tensor, ...]:
    return () if context is None else (context,)
