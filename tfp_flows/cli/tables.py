"""Tables of numbers in files: reading, checking and writing them for the command line.

Whatever is wrong with a table is an `InputError` of one line, which names the file and the column,
and the row where there is one. Rows count from 1, without the header.
"""

from __future__ import annotations

import contextlib
import csv
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from tfp_flows.ops.files import atomic_write

if TYPE_CHECKING:  # otherwise imported when a table is read: `import tfp_flows` stays light
    import pandas as pd

__all__ = ["InputError", "check_spread", "dependent", "numbers", "read", "write"]

_LARGEST = 1e100  # Squares of larger values leave float64.


class InputError(ValueError):
    """Something that the user gave is not what it must be; the message is one line."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


def read(source: str) -> pd.DataFrame:
    """Read a table with unique, named columns; the values are checked by `numbers`.

    Args:
      source: path of a file `.csv` (UTF-8, comma, a header line), `.parquet`, `.npy` (one or two
        dimensions, columns "0", "1", ...; or structured, with names) or `.npz` (arrays of one
        dimension are columns by their names, one of two dimensions has columns "0", "1", ...).
        Or the name of a built-in set: "faithful", or a toy of `datasets`, 10,000 rows of it.

    Raises:
      InputError: there is no such file or set, the file is damaged, not of these kinds or empty, or
        column names are missing or not unique.

    Example:
      >>> tables.read("faithful").columns.tolist()
      ['eruptions', 'waiting']
    """
    import pandas as pd

    from tfp_flows import datasets

    if source == "faithful":
        table = datasets.faithful()
        return pd.DataFrame(table.x, columns=list(table.columns))
    if source in datasets.names():
        sample = getattr(datasets, source)().sample(10_000, seed=0)
        return pd.DataFrame(sample.numpy(), columns=["x0", "x1"])
    path = Path(source)
    if path.is_dir():
        raise InputError(f"{source} is a folder, not a table.")
    if not path.exists():
        built_in = ", ".join(("faithful", *datasets.names()))
        raise InputError(f"There is no file {source}. Built-in sets: {built_in}.")
    readers = {".csv": _csv, ".npy": _npy, ".npz": _npz, ".parquet": _parquet}
    if path.suffix.lower() not in readers:
        raise InputError(f"{source} must end in one of {', '.join(readers)}.")
    if path.stat().st_size == 0:
        raise InputError(f"{source} is empty.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            frame = readers[path.suffix.lower()](path)
    except InputError:
        raise
    except (ValueError, OSError, EOFError, ImportError, pd.errors.ParserWarning) as error:
        raise InputError(f"{source} cannot be read: {error}") from error
    frame.columns = [str(column).strip() for column in frame.columns]
    for i, column in enumerate(frame.columns):
        if not column:
            raise InputError(f"{source}: column {i + 1} has no name.")
        if column in frame.columns[:i]:
            raise InputError(f"{source} has two columns {column!r}.")
    if not len(frame):
        raise InputError(f"{source} has no rows.")
    return frame


def numbers(frame: pd.DataFrame, columns: Sequence[str], source: str) -> np.ndarray:
    """The columns of these names as float64, (rows, len(columns)).

    Raises:
      InputError: there is no such column, or it holds a value that is missing, infinite or beyond
        ±1e100, or no number.
    """
    for column in columns:
        if column not in frame.columns:
            have = ", ".join(frame.columns[:20]) + (", ..." if frame.shape[1] > 20 else "")
            raise InputError(f"{source} has no column {column!r}. Its columns: {have}.")
    return np.stack([_values(frame[column], source) for column in columns], axis=-1)


def check_spread(x: np.ndarray, columns: Sequence[str], source: str) -> None:
    """Raise an InputError if there are fewer than two rows, or a column is constant."""
    if len(x) < 2:
        raise InputError(f"{source}: a fit needs two rows or more. Received: {len(x)}.")
    for column, values in zip(columns, x.T, strict=True):
        # Rounding leaves a constant column with a deviation that is tiny beside its values, not 0.
        if values.std() <= 1e-12 * np.abs(values).max():
            raise InputError(
                f"{source}: column {column!r} is constant, {values[0]:g}: leave it out."
            )


def dependent(x: np.ndarray, columns: Sequence[str]) -> str | None:
    """The first column that is a linear function of those before it, or None."""
    z = (x - x.mean(0)) / x.std(0)
    rest = np.abs(np.diag(np.linalg.qr(z, mode="r"))) / np.sqrt(len(z))
    found = np.flatnonzero(rest < 1e-6)
    return columns[found[0]] if len(found) else None


def write(out: Path | None, columns: Sequence[str], values: Sequence[np.ndarray]) -> None:
    """Write CSV with a header to a new file, or to standard output if `out` is None.

    Args:
      columns: names.
      values: one array (rows,) a column, written with as many digits as its dtype holds.

    Raises:
      InputError: the file exists already, or cannot be written.
    """
    import pandas as pd

    frame = pd.concat([pd.Series(v) for v in values], axis=1, keys=range(len(columns)))

    def write_to(file: TextIO) -> None:
        frame.to_csv(file, index=False, header=list(columns), lineterminator="\n")

    try:
        if out is None:
            write_to(sys.stdout)
            sys.stdout.flush()
            return
        with atomic_write(out, overwrite=False) as part, part.open("w", encoding="utf-8") as file:
            write_to(file)
    except BrokenPipeError:  # `tfp-flows score ... | head` has read enough.
        raise
    except OSError as error:
        if out is None:
            _close_stdout()
        raise InputError(
            f"{out or 'Standard output'} cannot be written: {error.strerror or error}."
        ) from error


def _close_stdout() -> None:
    """Drop what could not be written: Python would try again at its end, and say so."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _csv(path: Path) -> pd.DataFrame:
    import pandas as pd

    # Pandas renames columns that have the same name: look at the names as they stand.
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next((line for line in csv.reader(file, skipinitialspace=True) if line), [])
    if _are_numbers(header) and header != _numbered(len(header)):
        raise InputError(f"{path} has no header: its first line must name the columns.")
    frame = pd.read_csv(path, encoding="utf-8-sig", skipinitialspace=True, index_col=False)
    frame.columns = header
    return frame


def _parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    return pd.read_parquet(path)


def _npy(path: Path) -> pd.DataFrame:
    return _numbered_frame(np.load(path, allow_pickle=False), path)


def _npz(path: Path) -> pd.DataFrame:
    import pandas as pd

    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    if len(arrays) == 1 and next(iter(arrays.values())).ndim == 2:
        return _numbered_frame(next(iter(arrays.values())), path)
    if not arrays:
        raise InputError(f"{path} has no arrays.")
    rows = {name: len(array) for name, array in arrays.items() if array.ndim == 1}
    for name, array in arrays.items():
        if array.ndim != 1 or rows[name] != next(iter(rows.values())):
            raise InputError(
                f"{path} must hold arrays of one dimension and one length, or one array of two "
                f"dimensions. Received: {name!r} of shape {array.shape}."
            )
    return pd.DataFrame(arrays)


def _numbered_frame(array: np.ndarray, path: Path) -> pd.DataFrame:
    import pandas as pd

    if array.ndim == 1 and array.dtype.names:
        return pd.DataFrame({name: array[name] for name in array.dtype.names})
    if array.ndim not in (1, 2):
        raise InputError(f"{path} must hold rows and columns. Received: shape {array.shape}.")
    array = array.reshape(len(array), -1) if array.size else np.empty((0, 1))
    return pd.DataFrame(array, columns=_numbered(array.shape[1]))


def _numbered(n: int) -> list[str]:
    return [str(i) for i in range(n)]


def _are_numbers(names: Sequence[str]) -> bool:
    try:
        return all(np.isfinite([float(name) for name in names]))
    except ValueError:
        return False


def _values(series: pd.Series, source: str) -> np.ndarray:
    import pandas as pd

    def fail(what: str, bad: np.ndarray) -> None:
        more = f" ({bad.sum()} such rows)" if bad.sum() > 1 else ""
        raise InputError(
            f"{source}: column {series.name!r} {what} in row {bad.argmax() + 1}{more}."
        )

    def show(bad: np.ndarray) -> Any:
        return series.iloc[int(bad.argmax())]

    kind = series.dtype.kind
    if kind not in "iufO" or pd.api.types.is_bool_dtype(series):
        raise InputError(f"{source}: column {series.name!r} holds {series.dtype}, not numbers.")
    values = pd.to_numeric(series, errors="coerce").to_numpy("float64", na_value=np.nan)
    missing = series.isna().to_numpy()
    text = np.isnan(values) & ~missing
    if text.any():
        fail(f"holds no number but {show(text)!r}", text)
    if missing.any():
        fail("has no value", missing)
    large = ~(np.abs(values) <= _LARGEST)
    if large.any():
        fail(f"must be finite and within ±{_LARGEST:g}, but is {show(large)}", large)
    return values
