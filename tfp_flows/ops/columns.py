"""Columns of data, in NumPy: where they lie, how wide they are, whether a dtype can hold them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

__all__ = [
    "Outlier",
    "check_unit",
    "check_varies",
    "column_name",
    "constant_columns",
    "find_outlier",
    "moments",
    "named",
    "robust_moments",
]

# Of a normal distribution: the range between its quartiles, and the one that holds 90 %.
_QUARTILES, _NINETY_PERCENT = 1.3489795, 3.2897073
_SQUEEZED = 30.0  # A bulk that fills less than this part of a deviation is lost to most networks.


def moments(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over the first axis, in float64.

    Squares neither overflow nor underflow, as they do in `np.std` beyond 1e±154.
    """
    data = np.asarray(data, "float64")
    largest = np.abs(data).max(0)
    unit = np.where(largest > 0, largest, 1.0)
    relative = data / unit
    return relative.mean(0) * unit, relative.std(0) * unit


def robust_moments(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median, and the range between the quartiles in deviations of a normal distribution."""
    low, median, high = np.quantile(np.asarray(data, "float64"), [0.25, 0.5, 0.75], axis=0)
    return median, (high - low) / _QUARTILES


def constant_columns(data: np.ndarray, dtype: str | tf.DType) -> np.ndarray:
    """Which columns are constant or vary in no digit of `dtype`, booleans in an event's shape.

    What varies in the last digits alone would come out as a few steps.
    """
    eps = np.finfo(tf.as_dtype(dtype).as_numpy_dtype).eps
    data = np.asarray(data, "float64")
    return moments(data)[1] <= 100 * eps * np.abs(data).max(0)


def check_varies(constant: np.ndarray, dtype: str | tf.DType, name: str, names: Any = None) -> None:
    """Raise a ValueError that names the first of the columns that are marked as constant."""
    found = np.argwhere(constant)
    if len(found):
        raise ValueError(
            f"`{name}` must vary in every column. Received: a constant column, "
            f"{column_name(found[0], names)}, which has no density, or one that varies in no digit "
            f"of {tf.as_dtype(dtype).name}: subtract its offset, or use float64"
        )


def check_unit(
    data: np.ndarray, deviation: np.ndarray, dtype: str | tf.DType, name: str, names: Any = None
) -> None:
    """Raise a ValueError if a column is in a unit so small or large that `dtype` loses its digits.

    The deviation, with as many digits as the dtype has, and the values must lie within its range.
    """
    dtype = tf.as_dtype(dtype)
    limits = np.finfo(dtype.as_numpy_dtype)
    least, most = float(limits.tiny) / float(limits.eps), float(limits.max) * float(limits.eps)
    largest = np.abs(np.asarray(data, "float64")).max(0)
    unfit = np.argwhere((deviation < least) | (deviation > most) | (largest > most))
    if len(unfit):
        index = tuple(unfit[0])
        raise ValueError(
            f"`{name}` must be in units that fit {dtype.name}: deviations from {least:.0e} to "
            f"{most:.0e}. Received: a deviation of {np.asarray(deviation)[index]:.3g} in column "
            f"{column_name(index, names)}, whose largest value is {largest[index]:.3g}: rescale "
            "the column" + ", or use float64" * (dtype != tf.float64)
        )


class Outlier(NamedTuple):
    """A value that makes a column's deviation say little about the bulk of its values."""

    column: tuple[int, ...]  # Its indices in an event.
    row: int
    value: float
    deviation: float
    bulk: tuple[float, float]  # Where the middle 90 % of the values lie.


def find_outlier(data: np.ndarray, shown: np.ndarray | None = None) -> Outlier | None:
    """The value farthest out in the first column whose bulk a few values squeeze, if there is one.

    `shown` are the same data in the units in which the outlier is told, if these are others.

    The deviation of such a column is more than 30 times what a normal distribution would have whose
    middle 90 % lie where those of the column do. Long tails alone do not come to that: a Student's
    t of two degrees of freedom, or a lognormal of deviation 2, comes to less than 10.
    """
    data = np.asarray(data, "float64")
    columns = data.reshape(len(data), math.prod(data.shape[1:]))
    low, median, high = np.quantile(columns, [0.05, 0.5, 0.95], axis=0)
    deviation, bulk = moments(columns)[1], (high - low) / _NINETY_PERCENT
    found = np.flatnonzero((bulk > 0) & (deviation > _SQUEEZED * bulk))
    if not len(found):
        return None
    k = int(found[0])
    row = int(np.abs(columns[:, k] - median[k]).argmax())
    column = tuple(int(i) for i in np.unravel_index(k, data.shape[1:])) if data.ndim > 1 else ()
    values = (columns if shown is None else np.asarray(shown, "float64"))[:, k]
    limits = float(np.quantile(values, 0.05)), float(np.quantile(values, 0.95))
    return Outlier(column, row, float(values[row]), float(moments(values)[1]), limits)


class _Named(np.ndarray):
    """An array whose columns have names, as those of a table have."""

    columns: Sequence[Any]


def named(data: Any, names: Sequence[Any]) -> _Named:
    """Data whose columns are called by these names, or other numbers, in errors."""
    array = np.asarray(data).view(_Named)
    array.columns = names
    return array


def column_name(index: Sequence[int] | np.ndarray, names: Any = None) -> str:
    """A column in an error: its name, if the data have `names`, else its number or numbers."""
    if names is not None and len(index):
        return repr(names[index[0]])
    return ", ".join(str(int(i)) for i in index) or "0"
