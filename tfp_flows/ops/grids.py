"""Events on a grid, `(*grid, C)`: sounds `(T, C)` and images `(H, W, C)`, and what a size means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfp_flows.ops.checks import positive_int
from tfp_flows.ops.internals import prefer_static as ps

__all__ = [
    "Grid",
    "Size",
    "as_size",
    "check_shape",
    "context_rank",
    "one_batch_axis",
    "squeeze",
    "unsqueeze",
]

Grid = tuple[int | None, ...]
# Of a vector its width; of what lies on a grid its shape, with None for lengths that may vary.
Size = int | Sequence[int | None]


def check_shape(size: Any, name: str) -> tuple[Any, ...]:
    """The shape that a size stands for, `(size,)` of a number.

    Raises:
      ValueError: it is neither a positive integer nor a shape of such, where all but the last may
        be None.
    """
    if isinstance(size, str) or not isinstance(size, Sequence):
        number: Any = size
        return (positive_int(number, name),)
    if not size:
        raise ValueError(f"`{name}` must have one axis or more. Received: {name}={size!r}")
    *grid, channels = size
    lengths = [None if length is None else positive_int(length, name) for length in grid]
    return (*lengths, positive_int(channels, name))


def as_size(size: Size | None) -> Size | None:
    """The size, as a tuple where it is a shape: JSON makes lists of them."""
    return tuple(size) if isinstance(size, Sequence) else size


def context_rank(size: Size | None) -> int:
    """How many axes one context has by its size, none if that is None."""
    return 0 if size is None else len(check_shape(size, "context_size"))


def one_batch_axis(x: tf.Tensor, ndims: int) -> tf.Tensor:
    """`(..., *event)` as `(n, *event)`, where events have `ndims` axes."""
    if x.shape.rank == 1 + ndims:
        return x
    return tf.reshape(x, ps.concat([[-1], ps.shape(x)[-ndims:]], 0))


def squeeze(x: tf.Tensor, factors: Sequence[int]) -> tf.Tensor:
    """`(..., *grid, C)` to `(..., *(grid / factors), Π factors · C)`: blocks become channels.

    The channels of a block stand one after another as its positions do, the last axis fastest.
    """
    if math.prod(factors) == 1:
        return x
    n, shape = len(factors), ps.shape(x)
    batch, grid, channels = shape[: -n - 1], shape[-n - 1 : -1], shape[-1]
    b = x.shape.rank - n - 1
    small = [length // factor for length, factor in zip(ps.unstack(grid), factors, strict=True)]
    split = [part for pair in zip(small, factors, strict=True) for part in pair]
    x = tf.reshape(x, ps.concat([batch, split, [channels]], 0))
    order = [*range(b), *range(b, b + 2 * n, 2), *range(b + 1, b + 2 * n, 2), b + 2 * n]
    wide = channels * math.prod(factors)
    return tf.reshape(tf.transpose(x, order), ps.concat([batch, small, [wide]], 0))


def unsqueeze(x: tf.Tensor, factors: Sequence[int]) -> tf.Tensor:
    """The inverse of `squeeze`."""
    if math.prod(factors) == 1:
        return x
    n, shape = len(factors), ps.shape(x)
    batch, grid, channels = shape[: -n - 1], shape[-n - 1 : -1], shape[-1]
    b = x.shape.rank - n - 1
    channels //= math.prod(factors)
    x = tf.reshape(x, ps.concat([batch, grid, factors, [channels]], 0))
    order = [*range(b), *(axis for i in range(n) for axis in (b + i, b + n + i)), b + 2 * n]
    large = [length * factor for length, factor in zip(ps.unstack(grid), factors, strict=True)]
    return tf.reshape(tf.transpose(x, order), ps.concat([batch, large, [channels]], 0))
