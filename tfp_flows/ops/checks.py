"""Checks of arguments that every part of the package takes."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.ops.limits import check_size
from tfp_flows.ops.seeds import check_seed

__all__ = [
    "as_events",
    "as_real",
    "check_context",
    "check_events",
    "finite_number",
    "floating",
    "one_of",
    "permutation",
    "positive_int",
]


# By NumPy's letter for the kind of a dtype.
_NO_NUMBERS = {
    "O": "Python objects",
    "c": "complex numbers",
    "M": "dates",
    "m": "times",
    "U": "text",
    "S": "text",
}


def positive_int(value: int, name: str) -> int:
    """Return `value`; raise a ValueError that names it unless it is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
    check_size(value)
    return int(value)


def finite_number(name: str, value: float, low: float = -math.inf) -> float:
    """Return `value`; raise a ValueError that names it unless it is finite and not below `low`."""
    if isinstance(value, numbers.Real) and math.isfinite(value) and value >= low:
        return float(value)
    bound = "" if low == -math.inf else f" of at least {low:g}"
    raise ValueError(f"`{name}` must be a finite number{bound}. Received: {name}={value!r}")


def one_of(value: str, name: str, known: Sequence[str]) -> str:
    """Return `value`; raise a ValueError that names it unless it is among those known."""
    if value not in known:
        raise ValueError(f"`{name}` must be one of {list(known)}. Received: {name}={value!r}")
    return value


def floating(dtype: str | tf.DType) -> tf.DType:
    """Return `dtype`; raise a ValueError unless it is float32 or float64."""
    dtype = tf.as_dtype(dtype)
    if dtype not in (tf.float32, tf.float64):
        raise ValueError(f"`dtype` must be float32 or float64. Received: dtype={dtype.name!r}")
    return dtype


def permutation(
    value: str | Sequence[int] | np.ndarray, size: int, name: str, seed: int | None
) -> list[int]:
    """An order of `size` columns: "reversed", "random" or given; else a ValueError names it.

    Without a seed a random order is always the same, so that saved weights fit.
    """
    columns = np.arange(size)
    if isinstance(value, str):
        if value == "reversed":
            return columns[::-1].tolist()
        if value == "random":
            return np.random.default_rng(check_seed(seed) or 0).permutation(columns).tolist()
    elif np.ndim(value) == 1 and np.array_equal(np.sort(value), columns):
        return [int(column) for column in value]
    raise ValueError(
        f"`{name}` must be 'reversed', 'random' or a permutation of 0, ..., {size - 1}. "
        f"Received: {name}={value!r}"
    )


def as_real(value: Any, dtype: tf.DType, name: str) -> tf.Tensor:
    """Return `value` as a tensor of a floating `dtype`: numbers of any real dtype are cast.

    Raises:
      TypeError: `value` is nothing that numbers can be read from, or it is complex; the message
        names it.
    """
    try:
        kind = value.dtype.kind if isinstance(value, np.ndarray | np.generic) else "f"
        if kind in _NO_NUMBERS:  # TensorFlow would read None as NaN, and drop imaginary parts.
            raise TypeError(f"an array of {_NO_NUMBERS[kind]}")
        if np.ma.is_masked(value):
            raise TypeError("some values are masked")  # TensorFlow would read what is behind.
        tensor = tf.convert_to_tensor(value, dtype_hint=dtype)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`{name}` must be numbers, an array or a tensor. "
            f"Received: {name} of type {type(value).__name__}: {error}"
        ) from error
    if not (tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool):
        raise TypeError(
            f"`{name}` must hold real numbers. Received: {name} of dtype {tensor.dtype.name}"
        )
    return tf.cast(tensor, dtype)


def as_events(value: Any, event_shape: Any, dtype: Any) -> Any:
    """Return events as a tensor of `dtype` whose last axes are known to be `event_shape`.

    Sizes of vectors that differ are left to those who know what broadcasts, unless they are not
    known before a graph runs: then TensorFlow raises an InvalidArgumentError when it does. Of a
    structure of shapes, as joint distributions have, every part is one event.

    Raises:
      TypeError: as in `as_real`.
      ValueError: there are fewer axes than an event has, or it is not known how many; a grid has
        another shape; or the parts are others.
    """
    if tf.nest.is_nested(event_shape):
        try:
            tf.nest.assert_same_structure(event_shape, value)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`value` must have the parts of {event_shape}. Received: value={value!r}"
            ) from error
        return tf.nest.map_structure(as_events, value, event_shape, dtype)
    value = as_real(value, dtype, "value")
    rank, ndims = value.shape.rank, event_shape.rank
    if not ndims:
        return value
    event = None if rank is None or rank < ndims else value.shape[rank - ndims :]
    if event is None or (ndims > 1 and not event.is_compatible_with(event_shape)):
        need = ", ".join(map(str, ("...", *event_shape)))
        received = "a tensor of unknown shape" if rank is None else f"shape={tuple(value.shape)}"
        raise ValueError(f"`value` must hold events, of shape ({need}). Received: {received}")
    if event.is_fully_defined() or not event.is_compatible_with(event_shape):
        return value
    return tf.ensure_shape(value, [*value.shape[: rank - ndims], *event.merge_with(event_shape)])


def check_events(distribution: Any, value: tf.Tensor) -> None:
    """Raise a ValueError unless the last axis is as long as `distribution.event_size`."""
    size = distribution.event_size
    if value.shape.rank == 0 or not value.shape[-1:].is_compatible_with([size]):
        raise ValueError(
            f"{type(distribution).__name__} takes events of size {size} on the last axis. "
            f"Received: shape={tuple(value.shape)}"
        )


def check_context(
    context: Any | None, shape: Sequence[int] | None, dtype: tf.DType, name: str
) -> tf.Tensor | None:
    """Return `context` as a tensor of `dtype`; raise where it does not fit.

    It is the one check of context, of bijectors, distributions and models.

    Args:
      context: what was given as `context=`, or `None`.
      shape: shape of one context, or `None` of what takes none.
      dtype: floating dtype of the result.
      name: what the message calls that to which context was given, as in "this Coupling".

    Raises:
      ValueError: context is missing, was given to what takes none, or has another shape.
      TypeError: `context` does not hold numbers.
    """
    needed = None if shape is None else f"({', '.join(map(str, ('...', *shape)))})"
    if context is None:
        if shape is None:
            return None
        raise ValueError(
            f"`context` is missing: {name} needs one of shape {needed}. Received: context=None"
        )
    # Of a seed in its place the message below would be hard to understand.
    is_integer = isinstance(context, int | np.integer) and not isinstance(context, bool)
    hint = f". A seed is given by its name: seed={context}" if is_integer else ""
    if shape is None:
        received = f"context={context}" if is_integer else f"a context of shape {np.shape(context)}"
        raise ValueError(
            f"`context` was given, but {name} is unconditional: construct it with `context_size`. "
            f"Received: {received}{hint}"
        )
    context = as_real(context, dtype, "context")
    rank = context.shape.rank
    if rank is not None and (
        rank < len(shape) or not context.shape[rank - len(shape) :].is_compatible_with(shape)
    ):
        raise ValueError(
            f"`context` must have shape {needed} for {name}. "
            f"Received: shape={tuple(context.shape)}{hint}"
        )
    if rank is None:
        raise ValueError(
            f"`context` must have shape {needed} for {name}. Received: a tensor of unknown shape; "
            "call `tf.ensure_shape` on it"
        )
    known = context.shape[: rank - len(shape)].concatenate(shape)
    return context if context.shape == known else tf.ensure_shape(context, known)
