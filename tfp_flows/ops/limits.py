"""A limit of how many numbers may be allocated, while what a file describes is built."""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.ops.internals import keep_uninitialized_variables

__all__ = ["allocation_limit", "check_size", "claim", "has_limit"]


class _LimitExceeded(BaseException):
    """No Exception: Keras answers those of a layer that cannot be built by trying without."""


_left: contextvars.ContextVar[list[int] | None] = contextvars.ContextVar("left", default=None)


@contextlib.contextmanager
def allocation_limit(numbers: int) -> Iterator[None]:
    """End this block with a ValueError before variables of more than so many numbers are made.

    Counted are all `tf.Variable`s, those of Keras layers included, and what is given to `claim`.
    Of nested blocks, the inner one counts.

    Args:
      numbers: the limit, for all variables of the block together.

    Raises:
      ValueError: `numbers` is no positive integer, or more would have been allocated.

    Example:
      >>> config = serialization.serialize(flows.real_nvp(2, layers=2))
      >>> with serialization.allocation_limit(10**6):
      ...     flow = serialization.deserialize(config)
    """
    if isinstance(numbers, bool) or not isinstance(numbers, int) or numbers < 1:
        raise ValueError(f"`numbers` must be a positive integer. Received: numbers={numbers!r}")

    def creator(make: Any, **options: Any) -> tf.Variable:
        claim(*_shape_of(options.get("initial_value")))
        return make(**options)

    token = _left.set([numbers, numbers])
    try:
        with tf.variable_creator_scope(creator), keep_uninitialized_variables():
            yield
    except _LimitExceeded as error:
        raise ValueError(str(error)) from error
    finally:
        _left.reset(token)


def _shape_of(value: Any) -> tuple[int, ...]:
    """The shape of an initial value; Keras gives a function, which is run without allocating."""
    if callable(value):
        with tf.Graph().as_default():
            value = value()
    return tuple(value.shape) if hasattr(value, "shape") else np.shape(value)


def has_limit() -> bool:
    """Whether this is inside of an `allocation_limit`."""
    return _left.get() is not None


def check_size(size: int) -> None:
    """End the `allocation_limit` if one axis alone is beyond it; nothing is counted."""
    left = _left.get()
    if left is not None and size > left[0]:
        raise _refusal(left[1], (size,))


def claim(*shape: int) -> None:
    """Count an array that is about to be made, and end the `allocation_limit` if it is too much."""
    left = _left.get()
    if left is None:
        return
    left[0] -= math.prod(max(int(size), 0) for size in shape)
    if left[0] < 0:
        raise _refusal(left[1], shape)


def _refusal(limit: int, shape: tuple[int, ...]) -> _LimitExceeded:
    return _LimitExceeded(
        f"This needs more than the {limit:,} numbers that may be allocated. Received: an array of "
        f"shape {shape}. If the file is to be trusted, raise the limit: "
        "`FlowModel.load(path, max_numbers=...)` or `serialization.allocation_limit`"
    )
