"""The data that `FlowModel` takes: checked, and in the shapes that Keras hands on.

Data are events `x`, `context, x`, or a dataset whose elements are `x`, `(context, x)` or
`(context, x, sample_weight)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

__all__ = ["check_finite", "collect", "pack", "pairs", "unpack"]


def check_finite(data: Any, name: str) -> None:
    """Raise a ValueError that names row and column of the first NaN or infinite value in `data`.

    Args:
      data: an array, tensor or pandas object, a tuple of them, a `tf.data.Dataset`, or None. A
        dataset of known finite length is read once; other iterables are left unread.
      name: what the message calls the data.

    Raises:
      ValueError: a value is not finite, or not a number.
    """
    if isinstance(data, tf.data.Dataset):
        if data.cardinality() < 0:  # Infinite or unknown: reading it might never end.
            return
        row = 0
        for batch in data:
            parts = [part for part in tf.nest.flatten(batch) if part is not None]
            for part in parts:
                _check_array(part, name, first_row=row)
            row += len(parts[0])
    elif isinstance(data, tuple | list):
        for i, part in enumerate(data):
            check_finite(part, f"{name}[{i}]")
    elif hasattr(data, "__array__"):
        _check_array(data, name, first_row=0)


def _check_array(data: Any, name: str, *, first_row: int) -> None:
    array = np.asarray(data)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"`{name}` must hold numbers. Received: dtype={array.dtype}")
    bad = np.argwhere(~np.isfinite(array))
    if not len(bad):
        return
    index = tuple(bad[0])
    where = f"row {first_row + index[0]}" if index else "the only entry"
    if len(index) > 1:
        columns = getattr(data, "columns", None)
        column = ", ".join(map(str, index[1:])) if columns is None else repr(columns[index[1]])
        where += f", column {column}"
    raise ValueError(
        f"`{name}` must be finite. Received: {array[index]} at {where}; "
        f"{len(bad)} of {array.size} values are not finite"
    )


def pack(x: Any, y: Any = None, sample_weight: Any = None) -> tuple[Any, Any, Any]:
    """The arguments for Keras, which drops `sample_weight` where there is no `y`.

    Events then stand as `y`, behind a context without columns, which `unpack` takes off again.
    """
    if sample_weight is None or y is not None:
        return x, y, sample_weight
    if isinstance(x, tuple | list):
        return *x, sample_weight
    if not hasattr(x, "__array__"):
        raise ValueError(
            "`sample_weight` must be in the elements of a dataset, not beside it: "
            "`(context, x, sample_weight)` or `(x, None, sample_weight)`."
        )
    return np.zeros((len(x), 0), "float32"), x, sample_weight


def unpack(data: Any) -> tuple[Any, tf.Tensor | None]:
    """A batch as Keras hands it over, as inputs for `FlowModel.call`, and sample weights."""
    x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
    if y is None:
        return x, weight
    return (y if x.shape[-1] == 0 else (x, y)), weight


def pairs(x: Any, y: Any, size: int = 4096) -> Iterator[tuple[Any, Any]]:
    """Pairs of context (or None) and events from whatever `fit` takes, for one pass."""
    if y is None and isinstance(x, tuple | list):
        x, y = x
    if hasattr(x, "__array__"):
        x, y = np.asarray(x), None if y is None else np.asarray(y)
        parts = [x] if y is None else [x, y]
        x = (tuple(part[i : i + size] for part in parts) for i in range(0, len(x), size))
    for batch in x:
        inputs, _ = unpack(batch)
        yield inputs if isinstance(inputs, tuple) else (None, inputs)


def collect(x: Any, y: Any = None) -> tuple[Any, Any]:
    """All context (or None) and all events of whatever `fit` takes, in memory."""
    if not isinstance(x, tf.data.Dataset):
        if y is None and isinstance(x, tuple):
            return x
        return (None, x) if y is None else (x, y)
    if x.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("`x` must end. Received: a dataset that repeats forever")
    contexts, events = zip(*pairs(x, None), strict=True)
    return None if contexts[0] is None else np.concatenate(contexts), np.concatenate(events)
