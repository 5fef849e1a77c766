"""Values of options: each function returns the value, None if it was not given, or says what is
wrong with it in an `InputError`."""

from __future__ import annotations

import csv

from tfp_flows.cli.tables import InputError

__all__ = ["integer", "names", "number", "widths"]


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
