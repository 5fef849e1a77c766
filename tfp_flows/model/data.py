"""The data that `FlowModel` takes: checked, and in the shapes that Keras hands on.

Data are events `x`, `context, x`, or a dataset whose elements are `x`, `(context, x)` or
`(context, x, sample_weight)`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_flows.model.arguments import require_rows
from tfp_flows.model.arrays import check_numbers, is_array, real_numbers

__all__ = [
    "arrays_of",
    "check_finite",
    "check_inputs",
    "check_rows",
    "collect",
    "joined",
    "pack",
    "pairs",
    "some_batches",
    "split_off",
    "training_rows",
    "unpack",
]

_ROWS_AT_A_TIME = 4096
_BATCHES = 500  # A dataset may be huge or repeat without end.


def check_inputs(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    names: Sequence[str] = ("x", "y", "sample_weight"),
) -> tuple[Any, Any, Any]:
    """Context and events, or events alone, and weights, as `fit` takes them, of arrays of numbers.

    Lists of numbers become arrays, and pandas' nullable columns plain ones. A context of None is
    none: events then come first.

    Raises:
      ValueError: a part is missing, or holds something else than real numbers; the message calls
        it as `names` do. `x` is a tuple of another number of arrays than two, and there is no `y`.
    """
    if sample_weight is not None:
        sample_weight = check_numbers(sample_weight, names[2])
    if x is None:
        x, y = y, None
    if y is not None:
        return check_numbers(x, names[0]), check_numbers(y, names[1]), sample_weight
    if not _is_pair(x):
        return check_numbers(x, names[0]), None, sample_weight
    if len(x) != 2:
        raise ValueError(
            f"`{names[0]}` must be events, or a pair (context, events). Received: {len(x)} arrays"
        )
    pair = tuple(check_numbers(part, f"{names[0]}[{i}]") for i, part in enumerate(x))
    return pair, None, sample_weight


def _is_pair(x: Any) -> bool:
    """Whether it holds context and events. Keras takes lists of arrays; lists of rows are data."""
    if isinstance(x, tuple):
        return len(x) == 2 or any(map(is_array, x))
    return isinstance(x, list) and len(x) == 2 and all(is_array(p) and np.ndim(p) for p in x)


def check_rows(**parts: Any) -> None:
    """Raise a ValueError unless all arrays have equally many rows; names are for the message."""
    rows = {name: len(part) for name, part in parts.items() if is_array(part) and np.ndim(part)}
    if len(set(rows.values())) > 1:
        received = ", ".join(f"{name} of {n} rows" for name, n in rows.items())
        raise ValueError(
            f"{', '.join(f'`{name}`' for name in rows)} must have equally many rows. "
            f"Received: {received}"
        )


def check_finite(data: Any, name: str, dtype: str | None = None, *, infinite: bool = False) -> None:
    """Raise a ValueError that names row and column of the first NaN or infinite value in `data`.

    Args:
      data: an array, tensor or pandas object, a tuple of them, a `tf.data.Dataset`, or None. A
        dataset of known finite length is read once; other iterables are left unread.
      name: what the message calls the data.
      dtype: floating dtype in which the values must be finite, too.
      infinite: whether infinite values may be there, as the ends of intervals.

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
                _check_array(part, name, dtype, infinite=infinite, first_row=row)
            row += len(parts[0])
    elif isinstance(data, tuple | list):
        for i, part in enumerate(data):
            check_finite(part, f"{name}[{i}]", dtype, infinite=infinite)
    elif is_array(data):
        _check_array(data, name, dtype, infinite=infinite, first_row=0)


def _check_array(
    data: Any, name: str, dtype: str | None, *, infinite: bool = False, first_row: int
) -> None:
    array = real_numbers(data, name)
    finite = np.isfinite(array)
    if dtype is not None and array.dtype.kind == "f" and array.dtype.itemsize > 4:
        finite &= np.abs(array) <= np.finfo(dtype).max
    if infinite:
        finite |= np.isinf(array)
    bad = np.argwhere(~finite)
    if not len(bad):
        return
    index = tuple(bad[0])
    where = f"row {first_row + index[0]}" if index else "the only entry"
    if len(index) > 1:
        columns = getattr(data, "columns", None)
        column = ", ".join(map(str, index[1:])) if columns is None else repr(columns[index[1]])
        where += f", column {column}"
    within = f", and within the range of {dtype}" * bool(np.isfinite(array[index]))
    raise ValueError(
        f"`{name}` must be finite{within}. Received: {array[index]} at {where}; "
        f"{len(bad)} of {array.size} values are not"
    )


def pack(x: Any, y: Any = None, sample_weight: Any = None) -> tuple[Any, Any, Any]:
    """The arguments for Keras, which drops `sample_weight` where there is no `y`.

    Events then stand as `y`, behind a context without columns, which `unpack` takes off again.
    """
    if sample_weight is None or y is not None:
        return x, y, sample_weight
    if isinstance(x, tuple | list):
        return *x, sample_weight
    if not is_array(x):
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


def joined(batches: Iterable[Any]) -> Iterator[tuple[Any, tf.Tensor | None]]:
    """What `unpack` gives of batches, those of few rows side by side: every call has its price."""
    held: list[list[Any]] = []
    like, rows = None, 0

    def join() -> tuple[Any, tf.Tensor | None]:
        parts = [
            None if part[0] is None else tf.concat(part, 0) for part in zip(*held, strict=True)
        ]
        *inputs, weight = parts
        return (tuple(inputs) if len(inputs) > 1 else inputs[0]), weight

    for batch in batches:
        inputs, weight = unpack(batch)
        parts = [*inputs, weight] if isinstance(inputs, tuple) else [inputs, weight]
        parts = [None if part is None else tf.convert_to_tensor(part) for part in parts]
        kind = [None if part is None else (part.shape[1:], part.dtype) for part in parts]
        if held and (kind != like or rows + len(parts[0]) > _ROWS_AT_A_TIME):
            yield join()
            held, rows = [], 0
        held.append(parts)
        like, rows = kind, rows + len(parts[0])
    if held:
        yield join()


def pairs(x: Any, y: Any, size: int = _ROWS_AT_A_TIME) -> Iterator[tuple[Any, Any]]:
    """Pairs of context (or None) and events from whatever `fit` takes, for one pass."""
    if y is None and isinstance(x, tuple | list):
        x, y = x
    if is_array(x):
        x, y = np.asarray(x), None if y is None else np.asarray(y)
        parts = [x] if y is None else [x, y]
        x = (tuple(part[i : i + size] for part in parts) for i in range(0, len(x), size))
    for batch in x:
        inputs, _ = unpack(batch)
        yield inputs if isinstance(inputs, tuple) else (None, inputs)


def first_batch(batches: Iterator[Any]) -> tuple[Any, Iterator[Any]]:
    """The first batch of a generator, and one of all batches, the first one too.

    Raises:
      ValueError: there is none.
    """
    first = next(batches, None)
    if first is None:
        raise ValueError("`x` must yield at least one batch. Received: an empty generator")

    def again() -> Iterator[Any]:
        yield first
        yield from batches

    return first, again()


def collect(x: Any, y: Any = None) -> tuple[Any, Any]:
    """All context (or None) and all events of arrays or of a dataset, in memory.

    Raises:
      ValueError: the data are of another kind or have no rows, or a dataset has no end.
    """
    if isinstance(x, tf.data.Dataset):
        if x.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("`x` must end. Received: a dataset that repeats forever")
        batches = list(pairs(x, None))
        if not batches:
            raise ValueError("`x` must have one row or more. Received: a dataset without elements")
        contexts, events = zip(*batches, strict=True)
        _check_arrays(contexts[0], events[0], "a dataset of ")
        return None if contexts[0] is None else np.concatenate(contexts), np.concatenate(events)
    pair: tuple[Any, Any] = (None, x) if y is None else (x, y)
    if y is None and isinstance(x, tuple):
        pair = x
    _check_arrays(*pair, "")
    require_rows(pair[1])
    return pair


def _check_arrays(context: Any, events: Any, where: str) -> None:
    for part in (context, events):
        if part is not None and not is_array(part):
            raise ValueError(
                "`x` must be an array of events, or context and events, or a tf.data.Dataset of "
                f"batches of these. Received: {where}{type(part).__name__}"
            )


def arrays_of(x: Any, y: Any, sample_weight: Any) -> list[Any] | None:
    """What `pack` returned as a flat list, if all of it is arrays of equally many rows."""
    inputs = x if isinstance(x, tuple | list) else [x]
    parts = [part for part in (*inputs, y, sample_weight) if part is not None]
    if not all(is_array(part) and np.ndim(part) for part in parts):
        return None
    return parts if len({len(part) for part in parts}) == 1 and len(parts[0]) else None


def split_off(parts: Sequence[Any], share: float) -> tuple[tuple[Any, ...], tuple[Any, ...] | None]:
    """Arrays without the last `share` of their rows, and these rows; `None` for no rows."""
    if not share:
        return tuple(parts), None
    end = int(len(parts[0]) * (1 - share))
    if not 0 < end < len(parts[0]):
        raise ValueError(
            "`validation_split` must leave rows for training and for validation. Received: "
            f"validation_split={share!r}, with {len(parts[0])} rows"
        )
    return tuple(part[:end] for part in parts), tuple(part[end:] for part in parts)


def training_rows(x: Any, y: Any, validation_split: float) -> tuple[Any, Any]:
    """Arrays without the rows at their end that Keras will split off; anything else as it is."""
    if not validation_split:
        return x, y

    def training(part: Any) -> Any:
        return part[: int(len(part) * (1 - validation_split))] if is_array(part) else part

    x = tuple(map(training, x)) if isinstance(x, tuple | list) else training(x)
    return x, training(y)


def some_batches(data: Any, steps: int | None) -> Iterable[Any]:
    """Data in batches as Keras hands them over; none of what can be read only once.

    Lists and tuples hold arrays of equally many rows. Of many batches, some are taken at equal
    distances, for rows may be sorted; where nobody knows how many there are, the first.
    """
    if data is None or isinstance(data, Iterator):
        return
    if isinstance(data, tuple | list):
        count = -(-len(data[0]) // _ROWS_AT_A_TIME)
        batches = (
            tuple(np.asarray(part[first : first + _ROWS_AT_A_TIME]) for part in data)
            for first in range(0, count * _ROWS_AT_A_TIME, _ROWS_AT_A_TIME)
        )
    else:
        known, batches = steps or _batch_count(data), iter(data)
        count = _BATCHES if known is None else known
    yield from itertools.islice(batches, 0, count, max(1, -(-count // _BATCHES)))


def _batch_count(data: Any) -> int | None:
    """How many batches a dataset says that it has, or None."""
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches
    if isinstance(data, tf.data.Dataset):
        count = int(data.cardinality())
        return count if count >= 0 else None
    return len(data) if isinstance(data, Sized) else None
