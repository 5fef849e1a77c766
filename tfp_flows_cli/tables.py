"""Tables in files: reading and writing them.

Whatever is wrong with a file is an `InputError` of one line, which names it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from tfp_flows_cli.errors import InputError
from tfp_flows_cli.text import Format, read_text

if TYPE_CHECKING:  # Otherwise imported when a table is read: it takes half a second.
    import pandas as pd

__all__ = ["BUILT_IN", "check_source", "check_writable", "read", "write"]

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
_TEXT = (".csv", ".tsv", ".txt", ".dat")
_PACKED = (".gz", ".bz2", ".xz")


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
    """Read a table with unique, named columns; the values are checked by `values.numbers`.

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

    return pd.read_parquet(path).reset_index(drop=True)  # Rows are counted, not named.


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
