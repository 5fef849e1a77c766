"""Text files of tables: their encoding, separator and decimal mark, where the user names none."""

from __future__ import annotations

import bz2
import csv
import dataclasses
import gzip
import io
import lzma
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfp_flows_cli.errors import InputError

if TYPE_CHECKING:  # Otherwise imported when a table is read: it takes half a second.
    import pandas as pd

__all__ = ["Format", "read_text"]

_COMPRESSED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_SEPARATORS = (",", ";", "\t", "|")
_BLANKS = r"\s+"
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?(nan|inf|infinity)", re.I)
_COMMA_NUMBER = re.compile(r"[-+]?\d+,\d+([eE][-+]?\d+)?")
_LINES_LOOKED_AT = 200


@dataclasses.dataclass(frozen=True)
class Format:
    """What the user says about a text file; None is found out.

    Args:
      separator: between columns; "tab" and "space" are names of those.
      decimal: "." or ",".
      encoding: as Python calls it.
    """

    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None


def read_text(source: str, form: Format) -> pd.DataFrame:
    """Read a text file with a header line, compressed or not; "-" is standard input.

    Lines that start with "#" are comments. Fields beyond the header must be empty, as those behind
    a separator at the ends of lines.

    Raises:
      InputError: the file is empty or has no header; it is not in the encoding; or a row has more
        fields than the header. The message names the file and, where there is one, the line.
    """
    import pandas as pd

    if form.decimal not in (None, ".", ","):
        raise InputError(f"--decimal must be . or a comma. Received: {form.decimal!r}.")
    text = _decode(_bytes(source), source, form.encoding)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    if not lines:
        raise InputError(f"{source} is empty.")
    separator = _separator(lines, form)
    rows = _fields(lines[:_LINES_LOOKED_AT], separator)
    header, *first = rows
    while len(header) > 1 and not header[-1]:  # A separator at the end of the line.
        header.pop()
    decimal = form.decimal or ("," if _has_decimal_commas(first, separator) else ".")
    if _are_numbers(header, decimal) and header != [str(i) for i in range(len(header))]:
        raise InputError(f"{source} has no header: its first line must name the columns.")
    width = max(map(len, rows))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # Of rows cut to the width.
            frame = pd.read_csv(
                io.StringIO("\n".join(lines[1:]) + "\n"),
                sep=separator,
                decimal=decimal,
                header=None,
                names=range(width),
                skipinitialspace=True,
                index_col=False,
            )
    except pd.errors.EmptyDataError:
        frame = pd.DataFrame(columns=range(width))
    except (ValueError, pd.errors.ParserError, pd.errors.ParserWarning) as error:
        for row, fields in enumerate(_fields(lines[1:], separator)):
            if len(fields) > width:
                raise _too_wide(source, row + 1, len(fields), header, separator) from error
        raise InputError(f"{source} cannot be read: {error}") from error
    beyond = frame.iloc[:, len(header) :].notna().to_numpy()
    if beyond.any():
        row, column = divmod(int(beyond.argmax()), beyond.shape[1])
        raise _too_wide(source, row + 1, len(header) + column + 1, header, separator)
    frame = frame.iloc[:, : len(header)]
    frame.columns = header
    return frame


def _too_wide(source: str, row: int, fields: int, header: list[str], separator: str) -> InputError:
    return InputError(
        f"{source}: row {row} has {fields} fields, and the header names {len(header)} columns, "
        f"between {_name(separator)}. If another character separates them, or decimals, give --sep "
        "or --decimal."
    )


def _bytes(source: str) -> bytes:
    if source == "-":
        return sys.stdin.buffer.read()
    opened: Any = _COMPRESSED.get(Path(source).suffix.lower(), open)
    try:
        with opened(source, "rb") as file:
            return bytes(file.read())
    except (gzip.BadGzipFile, lzma.LZMAError, EOFError) as error:
        raise InputError(f"{source} cannot be unpacked: {error}") from error


def _decode(content: bytes, source: str, encoding: str | None) -> str:
    """Text, in UTF-8 or UTF-16 where the user names no encoding."""
    if encoding is None:
        is_utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        encoding = "utf-16" if is_utf16 else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except LookupError as error:
        raise InputError(f"--encoding: Python knows none called {encoding!r}.") from error
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        line = content[:start].count(b"\n") + 1
        raise InputError(
            f"{source} is not in {encoding.removesuffix('-sig').upper()}: see line {line}. Name "
            "its encoding, as in --encoding cp1252 for Western files of Windows."
        ) from error
    if "\0" in text:
        raise InputError(f"{source} is not text: it holds zero bytes.")
    return text


def _separator(lines: Sequence[str], form: Format) -> str:
    """The one that the header has most often; or blanks, if all lines have equally many words."""
    named = {"tab": "\t", "\\t": "\t", "space": _BLANKS, " ": _BLANKS}
    if form.separator is not None:
        separator = named.get(form.separator, form.separator)
        if len(separator) != 1 and separator != _BLANKS:
            raise InputError(
                f"--sep must be one character, tab or space. Received: {form.separator!r}."
            )
        return separator
    head = lines[:_LINES_LOOKED_AT]
    # By the header alone, for it has no decimal commas.
    counts = [len(_fields(head[:1], separator)[0]) for separator in _SEPARATORS]
    if max(counts) > 1:
        return _SEPARATORS[counts.index(max(counts))]
    widths = {len(line.split()) for line in head}
    return _BLANKS if len(widths) == 1 and widths != {1} else ","


def _fields(lines: Sequence[str], separator: str) -> list[list[str]]:
    if separator == _BLANKS:
        return [line.split() for line in lines]
    rows = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    return [[field.strip() for field in row] for row in rows]


def _has_decimal_commas(rows: Sequence[Sequence[str]], separator: str) -> bool:
    """Whether some fields are numbers with a comma, and none is one with a point."""
    fields = [field for row in rows for field in row]
    return (
        separator != ","
        and any(_COMMA_NUMBER.fullmatch(field) for field in fields)
        and not any("." in field and _NUMBER.fullmatch(field) for field in fields)
    )


def _are_numbers(names: Sequence[str], decimal: str) -> bool:
    return all(_NUMBER.fullmatch(name.replace(decimal, ".")) for name in names)


def _name(separator: str) -> str:
    return {"\t": "tabs", _BLANKS: "blanks", ",": "commas", ";": "semicolons"}.get(
        separator, f"{separator!r}"
    )
