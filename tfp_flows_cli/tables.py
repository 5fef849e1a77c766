"""Tables in files: reading and writing them, and the numbers in their columns.

Whatever is wrong with a table is an `InputError` of one line, which names the file and the column,
and the row where there is one. Rows count from 1, without the header.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from tfp_flows_cli.errors import InputError
from tfp_flows_cli.text import Format, read_text

if TYPE_CHECKING:  # Otherwise imported when a table is read: it takes half a second.
    import pandas as pd

__all__ = [
    "BUILT_IN",
    "check_columns",
    "check_source",
    "check_writable",
    "codes",
    "labels_of",
    "numbers",
    "read",
    "usable_rows",
    "write",
]

# "faithful", and the toys of `tfp_flows.datasets`, which would take seconds to import.
BUILT_IN = (
    "faithful",
    "checkerboard",
    "circles",
    "eight_gaussians",
    "pinwheel",
    "rings",
    "two_moons",
    "two_spirals",
)
_LARGEST = 1e100  # Squares of larger values leave float64.
_TEXT = (".csv", ".tsv", ".txt", ".dat")
_PACKED = (".gz", ".bz2", ".xz")
_MOST_LABELS = 50


def check_source(source: str) -> None:
    """Raise an InputError if there is no such table: what can be seen without reading it."""
    if source in ("-", *BUILT_IN):
        return
    path = Path(source)
    if path.is_dir():
        raise InputError(f"{source} is a folder, not a table.")
    if not path.exists():
        raise InputError(f"There is no file {source}. Built-in sets: {', '.join(BUILT_IN)}.")
    if path.is_file():
        _kind(path)
        if path.stat().st_size == 0:
            raise InputError(f"{source} is empty.")


def read(source: str, form: Format | None = None) -> pd.DataFrame:
    """Read a table with unique, named columns; the values are checked by `numbers`.

    Args:
      source: path of a text file with a header line (`.csv`, `.tsv`, `.txt` or `.dat`, also packed
        as `.gz`, `.bz2` or `.xz`), "-" or a pipe with such text, `.parquet`, `.npy` (one or two
        dimensions, columns "0", "1", ...; or structured, with names) or `.npz` (arrays of one
        dimension are columns by their names, one of two dimensions has columns "0", "1", ...).
        Or the name of a built-in set: "faithful", or a toy of `datasets`, 10,000 rows of it.
      form: separator, decimal mark and encoding of a text file; what is None is found out.

    Raises:
      InputError: there is no such file or set, the file is damaged, not of these kinds or empty, or
        column names are missing or not unique.

    Example:
      >>> tables.read("faithful").columns.tolist()
      ['eruptions', 'waiting']
    """
    check_source(source)
    if source in BUILT_IN:
        return _built_in(source)
    path = Path(source)
    if source == "-" or not path.is_file():
        frame = read_text(source, form or Format())
    else:
        readers = {".npy": _npy, ".npz": _npz, ".parquet": _parquet}
        kind = _kind(path)
        try:
            is_text = kind in _TEXT
            frame = read_text(source, form or Format()) if is_text else readers[kind](path)
        except InputError:
            raise
        except (ValueError, OSError, EOFError, ImportError) as error:
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


def numbers(
    frame: pd.DataFrame, columns: Sequence[str], source: str, *, truth_values: bool = False
) -> np.ndarray:
    """The columns of these names as float64, (rows, len(columns)); truth values are 0 and 1.

    Raises:
      InputError: there is no such column, or it holds a value that is missing, infinite or beyond
        ±1e100, or no number; or truth values, unless they are allowed, or categories.
    """
    check_columns(frame, columns, source)
    found = [_checked(frame[column], source, truth_values) for column in columns]
    return np.stack(found, axis=-1)


def check_columns(frame: pd.DataFrame, columns: Sequence[str], source: str) -> None:
    """Raise an InputError that names the first column which is not there."""
    for column in columns:
        if column not in frame.columns:
            have = ", ".join(frame.columns[:20]) + (", ..." if frame.shape[1] > 20 else "")
            raise InputError(f"{source} has no column {column!r}. Its columns: {have}.")


def column_values(series: pd.Series) -> np.ndarray:
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
            usable &= np.abs(column_values(frame[column])) <= _LARGEST
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


def write(out: Path | None, columns: Sequence[str], values: Sequence[Any]) -> None:
    """Write a table to a new file, or as CSV to standard output if `out` is None.

    Args:
      out: a path that ends in `.parquet`, `.npy` (numbers alone), `.csv`, `.tsv` or `.txt`, the
        last three also with `.gz`.
      columns: names.
      values: one array (rows,) a column, written with as many digits as its dtype holds.

    Raises:
      InputError: the file exists already, is of another kind, or cannot be written.
    """
    import pandas as pd

    frame = pd.concat([pd.Series(v) for v in values], axis=1, keys=range(len(columns)))
    frame.columns = list(columns)
    try:
        if out is None:
            _to_text(frame, sys.stdout, ",")
            sys.stdout.flush()
            return
        from tfp_flows.ops.files import atomic_write

        with atomic_write(out, overwrite=False) as part:
            _to_file(frame, part, check_writable(out))
    except BrokenPipeError:  # `tfp-flows score ... | head` has read enough.
        _close_stdout()
        raise
    except OSError as error:
        if out is None:
            _close_stdout()
        raise InputError(
            f"{out or 'Standard output'} cannot be written: {error.strerror or error}."
        ) from error


def check_writable(out: Path | None) -> str:
    """The kind of a new table, ".csv" for example; raise an InputError if it cannot be written."""
    if out is None:
        return ".csv"
    if out.exists():
        raise InputError(f"{out} exists: choose another --out.")
    suffixes = [suffix.lower() for suffix in out.suffixes]
    packed = ".gz" if suffixes[-1:] == [".gz"] else ""
    kind = suffixes[-1] if suffixes and not packed else "".join(suffixes[-2:-1])
    if (kind in (".parquet", ".npy") and not packed) or kind in (".csv", ".tsv", ".txt"):
        return kind + packed
    raise InputError(
        f"--out must end in .csv, .tsv, .txt, these with .gz, .parquet or .npy. Received: {out}."
    )


def _to_file(frame: pd.DataFrame, path: Path, kind: str) -> None:
    if kind == ".parquet":
        frame.to_parquet(path, index=False)
    elif kind == ".npy":
        with path.open("wb") as file:
            np.save(file, frame.to_numpy("float64"))
    else:
        import gzip

        separator = "," if kind.startswith(".csv") else "\t"
        opener: Any = gzip.open if kind.endswith(".gz") else open
        with opener(path, "wt", encoding="utf-8") as text:
            _to_text(frame, text, separator)


def _to_text(frame: pd.DataFrame, file: IO[str], separator: str) -> None:
    frame.to_csv(file, sep=separator, index=False, lineterminator="\n")


def _close_stdout() -> None:
    """Drop what could not be written: Python would try again at its end, and say so."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] and suffixes[-1] in _PACKED and suffixes[-2:-1] and suffixes[-2] in _TEXT:
        return suffixes[-2]
    known = (*_TEXT, ".npy", ".npz", ".parquet")
    if not suffixes or suffixes[-1] not in known:
        raise InputError(
            f"{path} must end in one of {', '.join(known)}, text also in {', '.join(_PACKED)}."
        )
    return suffixes[-1]


def _built_in(name: str) -> pd.DataFrame:
    import pandas as pd

    from tfp_flows_cli.quiet import load_tensorflow

    load_tensorflow()
    from tfp_flows import datasets

    if name == "faithful":
        table = datasets.faithful()
        return pd.DataFrame(table.x, columns=list(table.columns))
    sample = getattr(datasets, name)().sample(10_000, seed=0)
    return pd.DataFrame(sample.numpy(), columns=["x0", "x1"])


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
    return pd.DataFrame(array, columns=[str(i) for i in range(array.shape[1])])


def _checked(series: pd.Series, source: str, truth_values: bool) -> np.ndarray:
    def fail(what: str, bad: np.ndarray, hint: str = "") -> InputError:
        more = f" ({bad.sum()} such rows)" if bad.sum() > 1 else ""
        return InputError(
            f"{source}: column {series.name!r} {what} in row {bad.argmax() + 1}{more}{hint}."
        )

    def refuse(what: str) -> InputError:
        return InputError(
            f"{source}: column {series.name!r} holds {what}, no measurements: condition on it "
            f"(--context {series.name}), if it is numbers, or leave it out (--exclude "
            f"{series.name})."
        )

    if series.dtype.kind == "b" and not truth_values:
        raise refuse("truth values")
    if series.dtype.kind not in "iufbO":
        raise refuse(f"{series.dtype}")
    values = column_values(series)
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
