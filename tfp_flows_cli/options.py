"""Options and arguments that commands share, and how the text of an option is read.

Each function here returns the value, None if it was not given, or says what is wrong with it in an
`InputError`.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tfp_flows_cli.errors import InputError

__all__ = [
    "DATA_HELP",
    "FAMILIES",
    "Data",
    "Decimal",
    "Encoding",
    "Model",
    "Sep",
    "TablePath",
    "choice",
    "integer",
    "names",
    "number",
    "steps",
    "support",
    "widths",
]

# The names of `tfp_flows.flows`, which would take seconds to import.
FAMILIES = (
    "autoregressive_spline",
    "bernstein",
    "bnaf",
    "circular_spline",
    "elementwise_spline",
    "ffjord",
    "flow_plus_plus",
    "iaf",
    "maf",
    "naf",
    "neural_spline",
    "nice",
    "ot_flow",
    "planar",
    "radial",
    "real_nvp",
    "residual",
    "sum_of_squares",
    "sylvester",
    "umnn",
)
DATA_HELP = (
    "Text (.csv, .tsv, .txt, also .gz), - for standard input, .parquet, .npy or .npz; or a "
    "built-in set: faithful."
)
TablePath = Annotated[Path | None, typer.Option(help="New table: .csv, .tsv, .parquet, .npy.")]
Data = Annotated[str, typer.Argument(help=DATA_HELP)]
Model = Annotated[Path, typer.Argument(help="A .keras file, or the folder that `fit` made.")]
Sep = Annotated[
    str | None,
    typer.Option(help="Between columns of text: , ; | tab space.", show_default="found out"),
]
Decimal = Annotated[
    str | None, typer.Option(help="Decimal mark of text: . or ,", show_default="found out")
]
Encoding = Annotated[
    str | None, typer.Option(help="Of text: utf-8, utf-16, cp1252 ...", show_default="utf-8")
]


def names(option: str, text: str | None) -> list[str] | None:
    """Names between commas; one that has a comma itself stands in quotation marks, as in CSV."""
    if text is None:
        return None
    found = [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]
    if not found or not all(found):
        raise InputError(f"{option} must be names of columns, A,B. Received: {text!r}.")
    return found


def widths(option: str, text: str | None) -> list[int] | None:
    """Positive integers between commas."""
    if text is None:
        return None
    try:
        found = [int(width) for width in text.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1:
        raise InputError(f"{option} must be positive integers, 64,64. Received: {text!r}.")
    return found


def integer(option: str, value: int | None, *, least: int) -> int | None:
    """An integer of at least `least` that fits into 32 bits."""
    if value is not None and not least <= value < 2**31:
        raise InputError(f"{option} must be {least} or more, below 2^31. Received: {value}.")
    return value


def number(option: str, value: float | None, *, below: float, zero: bool) -> float | None:
    """A number from 0 (itself allowed if `zero`) to `below`."""
    if value is not None and not (0 < value < below or (zero and value == 0)):
        least = "0 or more" if zero else "more than 0"
        raise InputError(f"{option} must be {least} and less than {below:g}. Received: {value}.")
    return value


def choice(option: str, value: str | None, among: Sequence[str]) -> str | None:
    """One of a list of words."""
    if value is not None and value not in among:
        raise InputError(f"{option} must be one of {', '.join(among)}. Received: {value}.")
    return value


def steps(option: str, text: str | None) -> list[float] | None:
    """Steps between commas, 0 or more and not all 0."""
    if text is None:
        return None
    try:
        found = [float(step) for step in text.split(",")]
    except ValueError:
        found = [-1.0]
    if min(found) < 0 or max(found) == 0 or math.inf in found:
        raise InputError(f"{option} must be steps, 1,0.1,0. Received: {text!r}.")
    return found


def support(option: str, text: str | None) -> str | list[str | list[float]] | None:
    """A word for all columns, or words and intervals, low:high, between commas."""
    if text is None or text == "simplex":
        return text
    found: list[str | list[float]] = []
    for part in text.split(","):
        low, colon, high = part.partition(":")
        try:
            found.append([float(low), float(high)] if colon else part)
        except ValueError:
            found.append("")
        if found[-1] in ("", "simplex") or (not colon and part not in ("real", "positive")):
            raise InputError(
                f"{option} must be real, positive, low:high, one for all or one for each column, "
                f"or simplex. Received: {text!r}."
            )
    return found
