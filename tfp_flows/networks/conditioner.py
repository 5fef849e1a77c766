"""Conditioner: a Keras network as a part of a bijector."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfp_flows.networks.conv import ConvNet
from tfp_flows.networks.mlp import MLP
from tfp_flows.ops.feature_major import flatten_batch
from tfp_flows.ops.grids import Grid, Size, check_shape, one_batch_axis, squeeze
from tfp_flows.ops.internals import prefer_static as ps
from tfp_flows.ops.seeds import check_seed

__all__ = ["Conditioner", "match_batch"]

_ANY_LENGTH = 16  # Of grids whose lengths may vary, one to try networks on.


class _ParameterNetwork(keras.layers.Layer):
    """A feature network and the zero-initialised `Dense` that reads parameters off its features.

    The last layer computes in the event's dtype, so that under mixed precision the parameters,
    and all log-determinants made from them, keep full precision.
    """

    independent_over_batch = True

    def __init__(self, features: keras.layers.Layer, output_size: int, *, dtype: str):
        super().__init__(dtype=dtype, name="conditioner")
        self.features = features
        self.head = keras.layers.Dense(output_size, kernel_initializer="zeros", dtype=dtype)

    def call(self, inputs: tf.Tensor, transposed: bool = False) -> tf.Tensor:
        """Parameters `(n, *grid, outputs)`; or `(outputs, n · positions)`."""
        if self.head.quantization_mode is not None:
            raise ValueError(
                "The last layer of a conditioner must not be quantized: densities need its full "
                f"precision. Received: quantization_mode={self.head.quantization_mode!r}"
            )
        features = self.features(inputs)
        if not transposed:
            return self.head(features)
        features = flatten_batch(tf.cast(features, self.head.variable_dtype))
        # The kernel is no variable but a sum where Keras' LoRA is on.
        kernel, bias = map(tf.convert_to_tensor, (self.head.kernel, self.head.bias))
        return _transposed_dense(features, kernel, bias)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.head.units)


@tf.custom_gradient
def _transposed_dense(
    features: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]]:
    """`(features @ kernel + bias)ᵀ`."""

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        ones = tf.ones([tf.shape(upstream)[1], 1], upstream.dtype)
        return (
            tf.matmul(upstream, kernel, transpose_a=True, transpose_b=True),
            tf.matmul(features, upstream, transpose_a=True, transpose_b=True),
            tf.matmul(upstream, ones)[:, 0],  # A sum, in a tenth of the time of `tf.reduce_sum`.
        )

    return tf.matmul(kernel, features, transpose_a=True, transpose_b=True) + bias[:, None], gradient


class Conditioner(tf.Module):
    """A Keras network as a part of a bijector: inputs and context to transformer parameters.

    All variables exist after construction, and `tf.Module` finds them in any TFP object that holds
    the bijector. The output is 0 until the first training step.

    Shapes: inputs `(..., *grid, input_size)` and context `(..., *context_shape)`, whose batch
    shapes broadcast, to `(..., *grid, *output_shape)`. The network itself is always called with one
    batch axis. A context that is a vector reaches every position of the grid; one with a grid of
    its own, which must be a multiple of the events', is squeezed to theirs.

    Args:
      features: widths of the hidden layers, for which an `MLP` is made, on a grid a `ConvNet`; or
        any Keras 3 layer
        `(batch, *grid, input_size + context_size) -> (batch, *grid, anything)`.
      input_size: width of the inputs; with neither inputs nor context the network reads a 1.
      output_shape: shape of the parameters made for one event, or one position of its grid.
      grid: shape of the events but for their last axis, `None` for lengths that may vary.
      context_size: width of the context, its shape if it has a grid, or `None` for an
        unconditional network.
      dtype: dtype of inputs and outputs. An `MLP` follows Keras' global dtype policy where that
        has the same variable dtype (`mixed_float16` for float32), else this dtype.
      seed: integer for reproducible initial weights, or `None`.
      head: whether a `Dense` follows; without it, `features` makes the parameters itself.

    Raises:
      ValueError: `context_size` is not a positive integer, or a shape whose grid is no multiple of
        the events'; `seed` is negative; `features` is neither widths nor a layer, or makes another
        grid or, without a head, another number of values.
    """

    def __init__(
        self,
        features: Sequence[int] | keras.layers.Layer,
        *,
        input_size: int,
        output_shape: tuple[int, ...],
        grid: Grid = (),
        context_size: Size | None = None,
        dtype: str = "float32",
        seed: int | None = None,
        head: bool = True,
    ):
        super().__init__(name="conditioner")
        check_seed(seed)
        self.grid = grid
        self._context_shape = (
            None if context_size is None else check_shape(context_size, "context_size")
        )
        self._factors = _squeeze_factors(self._context_shape, grid)
        if not isinstance(features, keras.layers.Layer):
            if not isinstance(features, Sequence) or isinstance(features, str):
                raise ValueError(
                    "`conditioner` must be a sequence of hidden widths or a Keras 3 layer. "
                    f"Received: {features!r}"
                )
            made_of = ConvNet if grid else MLP
            features = made_of(features, seed=seed, dtype=network_policy(dtype))
        self.context_size = context_size
        width = input_size
        if self._context_shape is not None:
            width += self._context_shape[-1] * math.prod(self._factors)
        self._reads_nothing = width == 0
        self._width = max(width, 1)
        self.output_shape = output_shape
        self.layer = features
        if head:
            self.layer = _ParameterNetwork(features, math.prod(output_shape), dtype=dtype)
        # A call, not `build`: some layers know their output shape only by running.
        sizes = [size or _ANY_LENGTH for size in grid]
        made = self.layer(tf.zeros([1, *sizes, self._width], dtype))
        count = math.prod(sizes) * math.prod(output_shape)
        if list(made.shape[: 1 + len(grid)]) != [1, *sizes] or math.prod(made.shape) != count:
            where = f"a position, on a grid of shape {tuple(sizes)}," if grid else "an event"
            raise ValueError(
                f"`conditioner` must return {output_shape} values {where}. Received: a layer "
                f"{features.name!r} that makes {tuple(made.shape)} of one event"
            )
        # `tf.Module` looks for `tf.Variable`s in attributes and finds them in this list.
        self._layer_variables = [v.value for v in self.layer.variables]

    def __call__(
        self,
        inputs: tf.Tensor,
        context: tf.Tensor | None = None,
        *,
        transposed: bool = False,
    ) -> tf.Tensor:
        """The parameters, `(..., *grid, *output_shape)`.

        Args:
          inputs: `(..., *grid, input_size)`.
          context: `(..., *context_shape)`, or `None`.
          transposed: of inputs with one batch axis, return `(*output_shape, n)`, or, on a grid,
            `(*output_shape, n · positions)`.
        """
        read = self._read(inputs, context)
        shape = self.output_shape
        if transposed:
            return tf.reshape(self._call_layer(read, transposed=True), [*shape, -1])
        return tf.reshape(self._call_layer(read), ps.concat([ps.shape(inputs)[:-1], shape], 0))

    def _call_layer(self, read: tf.Tensor, **options: bool) -> tf.Tensor:
        """For no rows, the layer has one, which is left out: convolutions of none fail."""
        rows = ps.shape(read)[0]
        missing = ps.cast(ps.equal(rows, 0), tf.int32)
        if not self.grid or (not tf.is_tensor(missing) and not missing):
            return self.layer(read, **options)
        more = tf.zeros(ps.concat([[missing], ps.shape(read)[1:]], 0), read.dtype)
        made = self.layer(tf.concat([read, more], 0), **options)
        axis = 1 if options else 0
        kept = ps.shape(made)[axis] * (1 - missing)
        return made[:, :kept] if options else made[:kept]

    def _read(self, inputs: tf.Tensor, context: tf.Tensor | None) -> tf.Tensor:
        """What the network reads, with one batch axis."""
        if context is not None:
            inputs = tf.concat([inputs, match_batch(self._on_grid(context), inputs)], -1)
        elif self._reads_nothing:
            inputs = tf.ones(ps.concat([ps.shape(inputs)[:-1], [1]], 0), inputs.dtype)
        return one_batch_axis(inputs, 1 + len(self.grid))

    def _on_grid(self, context: tf.Tensor) -> tf.Tensor:
        """Context with the grid of events, or one that broadcasts with it."""
        if not self._factors:
            ones = [1] * len(self.grid)
            return tf.reshape(context, ps.concat([ps.shape(context)[:-1], ones, [-1]], 0))
        return squeeze(context, self._factors)


def network_policy(dtype: str) -> keras.DTypePolicy | str:
    policy = keras.config.dtype_policy()
    return policy if policy.variable_dtype == dtype else dtype


def match_batch(
    x: tf.Tensor, other: tf.Tensor, *, ndims: int = 1, other_ndims: int = 1
) -> tf.Tensor:
    """Broadcast the batch shape of `x` with that of `other`; the last axes of each are left.

    Args:
      x: what is broadcast.
      other: what it has to fit.
      ndims: how many axes of `x` are left.
      other_ndims: how many those of `other` are.

    Raises:
      ValueError: the batch shapes are known and do not fit each other.
    """
    if x.shape[:-ndims].is_fully_defined() and x.shape[:-ndims] == other.shape[:-other_ndims]:
        return x
    batches = x.shape[:-ndims], other.shape[:-other_ndims]
    try:
        known = tf.broadcast_static_shape(*batches)
    except ValueError:
        raise ValueError(
            "The batches of events and context must be equal or broadcast. "
            f"Received: batches of shapes {batches[0]} and {batches[1]}"
        ) from None
    batch = ps.broadcast_shape(ps.shape(x)[:-ndims], ps.shape(other)[:-other_ndims])
    matched = tf.broadcast_to(x, ps.concat([batch, ps.shape(x)[-ndims:]], 0))
    matched.set_shape(known.concatenate(x.shape[-ndims:]))  # Of which graphs know less.
    return matched


def _squeeze_factors(context_shape: tuple[Any, ...] | None, grid: Grid) -> list[int]:
    """How many positions of a context lie, along each axis, at one of the events'."""
    if context_shape is None or len(context_shape) == 1:
        return []
    *sizes, _ = context_shape
    factors = [
        1 if size is None or length is None else size // length
        for size, length in zip(sizes, grid, strict=False)
    ]
    fits = len(sizes) == len(grid) and all(
        size is length or (size and length and factor and size == factor * length)
        for size, length, factor in zip(sizes, grid, factors, strict=True)
    )
    if not fits:
        raise ValueError(
            f"`context_size` must be a width, or a shape with a grid that is a multiple of that of "
            f"events, {grid}. Received: context_size={context_shape}"
        )
    return factors
