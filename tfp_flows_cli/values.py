"""The columns of a table: their numbers, and the codes of those that hold categories.

Whatever is wrong with one is an `InputError` of one line, which names the file and the column, and
the row where there is one. Rows count from 1, without the header.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tfp_flows_cli.errors import InputError

if TYPE_CHECKING:  # Otherwise imported when a table is read: it takes half a second.
    import pandas as pd

__all__ = ["check_names", "codes", "labels_of", "numbers", "usable_rows"]

_LARGEST = 1e100  # Squares of larger values leave float64.
_MOST_LABELS = 50


def numbers(
    frame: pd.DataFrame, columns: Sequence[str], source: str, *, truth_values: bool = False
) -> np.ndarray:
    """The columns of these names as float64, (rows, len(columns)); truth values are 0 and 1.

    Raises:
      InputError: there is no such column, or it holds a value that is missing, infinite or beyond
        ±1e100, or no number; or truth values, unless they are allowed, or categories.
    """
    check_names(frame, columns, source)
    found = [_checked(frame[column], source, truth_values) for column in columns]
    return np.stack(found, axis=-1)


def check_names(frame: pd.DataFrame, columns: Sequence[str], source: str) -> None:
    """Raise an InputError that names the first column which is not there."""
    for column in columns:
        if column not in frame.columns:
            have = ", ".join(frame.columns[:20]) + (", ..." if frame.shape[1] > 20 else "")
            raise InputError(f"{source} has no column {column!r}. Its columns: {have}.")


def _values(series: pd.Series) -> np.ndarray:
    """A column as float64, with NaN where it has no value, or one that is no number."""
    import pandas as pd

    if series.dtype.kind not in "iufbO":
        return np.full(len(series), np.nan)
    return pd.to_numeric(series, errors="coerce").to_numpy("float64", na_value=np.nan)


def usable_rows(
    frame: pd.DataFrame, columns: Sequence[str], labels: Mapping[str, Sequence[str]]
) -> np.ndarray:
    """Which rows have a finite number within ±1e100 in each of the columns, or a known label."""
    usable = np.ones(len(frame), bool)
    for column in columns:
        if column in labels:
            usable &= frame[column].astype(str).isin(labels[column]).to_numpy()
        else:
            usable &= np.abs(_values(frame[column])) <= _LARGEST
    return usable


def labels_of(series: pd.Series, source: str) -> list[str] | None:
    """The categories of a column of truth values, text or categories, sorted; else None.

    Raises:
      InputError: there are more than 50, or more than one for every five rows.
    """
    import pandas as pd

    present = series[series.notna()]
    is_text = series.dtype.kind == "O" or not isinstance(series.dtype, np.dtype)
    if (series.dtype.kind != "b" and not is_text) or not len(present):
        return None
    if pd.to_numeric(present.astype(str), errors="coerce").notna().mean() > 0.5:
        return None  # Numbers, some of which may be damaged.
    found = sorted(present.astype(str).unique())
    if len(found) > min(_MOST_LABELS, max(len(present) / 5, 2)):
        raise InputError(
            f"{source}: column {series.name!r} holds text such as {present.iloc[0]!r} with "
            f"{len(found)} different values, too many for categories: leave it out (--exclude "
            f"{series.name})."
        )
    return found


def codes(series: pd.Series, labels: Sequence[str], source: str) -> np.ndarray:
    """A column of categories as 0, 1, ..., by the place of its values among the labels."""
    places = {label: float(i) for i, label in enumerate(labels)}
    values = series.astype(str).where(series.notna())
    found = values.map(places).to_numpy("float64", na_value=np.nan)
    if np.isnan(found).any():
        row = int(np.isnan(found).argmax())
        raise InputError(
            f"{source}: column {series.name!r} must hold one of {', '.join(labels[:10])}, but is "
            f"{series.iloc[row]!r} in row {row + 1}."
        )
    return found


def _checked(series: pd.Series, source: str, truth_values: bool) -> np.ndarray:
    def fail(what: str, bad: np.ndarray, hint: str = "") -> InputError:
        more = f" ({bad.sum()} such rows)" if bad.sum() > 1 else ""
        return InputError(
            f"{source}: column {series.name!r} {what} in row {bad.argmax() + 1}{more}{hint}."
        )

    def refuse(what: str) -> InputError:
        if truth_values:
            return InputError(
                f"{source}: column {series.name!r} holds {what}, and a context must hold numbers "
                "or truth values: write them in place of it, or leave it out."
            )
        return InputError(
            f"{source}: column {series.name!r} holds {what}, no measurements: condition on it "
            f"(--context {series.name}), if it is numbers, or leave it out (--exclude "
            f"{series.name})."
        )

    if series.dtype.kind == "b" and not truth_values:
        raise refuse("truth values")
    if series.dtype.kind not in "iufbO":
        raise refuse(f"{series.dtype}")
    values = _values(series)
    if series.dtype.kind in "iu" and np.ptp(values) == 0 and series.nunique() > 1:
        raise InputError(
            f"{source}: column {series.name!r} differs in no digit that a float64 holds, as ids do "
            f"that start at {series.min()}: subtract an offset, or leave it out (--exclude "
            f"{series.name})."
        )
    missing = series.isna().to_numpy()
    text = np.isnan(values) & ~missing
    if text.mean() > 0.5:
        raise refuse(f"text such as {series.iloc[int(text.argmax())]!r}")
    if text.any():
        shown = series.iloc[int(text.argmax())]
        raise fail(f"holds no number but {shown!r}", text)
    if missing.any():
        raise fail("has no value", missing, ": mend it, or leave such rows out (--drop-missing)")
    large = ~(np.abs(values) <= _LARGEST)
    if large.any():
        shown = series.iloc[int(large.argmax())]
        raise fail(f"must be finite and within ±{_LARGEST:g}, but is {shown}", large)
    return values
