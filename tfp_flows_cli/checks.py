"""What makes a table unfit for a density: found before the fit, and named by column and row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfp_flows_cli.errors import InputError
from tfp_flows_cli.recipe import Rows

__all__ = ["check_angles", "check_dependence", "check_spread", "has_outliers", "notes"]

# What programs write for "no value".
_SENTINELS = (-9, -99, -999, -9999, -99999, 99, 999, 9999, 99999, -1e30, 1e30, 1e20, -32768)


def check_spread(x: np.ndarray, columns: Sequence[str], source: str) -> None:
    """Raise an InputError if there are fewer than two rows, or a column is constant."""
    if len(x) < 2:
        raise InputError(f"{source}: a fit needs two rows or more. Received: {len(x)}.")
    for column, values in zip(columns, x.T, strict=True):
        if np.ptp(values) == 0:
            raise InputError(
                f"{source}: column {column!r} is constant, {values[0]:g}: leave it out "
                f"(--exclude {column})."
            )


def check_dependence(x: np.ndarray, columns: Sequence[str], source: str) -> None:
    """Raise an InputError for a column that is a linear function of those before it.

    Rows then lie on a plane, where no density exists: a fit could only raise it for ever.
    """
    if len(x) <= x.shape[1] + 1:
        return
    deviations = x.std(0)
    z = (x - x.mean(0)) / np.where(deviations > 0, deviations, 1)
    for i in range(1, x.shape[1]):
        weights, *_ = np.linalg.lstsq(z[:, :i], z[:, i], rcond=None)
        rest = z[:, i] - z[:, :i] @ weights
        if np.sqrt(np.mean(rest**2)) > 1e-6:
            continue
        of = [columns[int(j)] for j in np.flatnonzero(np.abs(weights) > 1e-6)]
        raise InputError(
            f"{source}: column {columns[i]!r} is a linear function of {_listed(of)}: there is no "
            f"density of all of them. Leave it out (--exclude {columns[i]})."
        )


def check_angles(rows: Rows, columns: Sequence[str], source: str) -> None:
    """Raise an InputError for values outside of [-π, π], which are no radians around 0."""
    for column, values in zip(columns, rows.y.T, strict=True):
        bad = np.abs(values) > np.pi * (1 + 1e-6)
        if bad.any():
            row = int(bad.argmax())
            raise InputError(
                f"{source}: column {column!r} must hold angles from -π to π, in radians, but is "
                f"{values[row]:g} in row {rows.numbers[row]}: give --degrees if it holds degrees."
            )


def notes(rows: Rows, columns: Sequence[str]) -> list[str]:
    """Sentences about what is likely a mistake: row numbers, codes of no value, outliers.

    They are about `columns`, the last ones, which hold numbers.
    """
    found = []
    first = rows.y.shape[1] - len(columns)
    for column, values in zip(columns, rows.y.T[first:], strict=True):
        if len(values) > 2 and (np.diff(np.sort(values)) == 1).all():
            found.append(f"{column!r} numbers the rows: leave it out (--exclude {column}).")
            continue
        low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
        for code in _SENTINELS:
            count = int((values == code).sum())
            # It must stand apart from the others, and occur more than once.
            rest = values[values != code]
            apart = len(rest) > 0 and not rest.min() <= code <= rest.max()
            gap = len(rest) > 0 and min(abs(rest.min() - code), abs(rest.max() - code))
            if count > 1 and apart and gap > 0.5 * np.ptp(rest):
                found.append(
                    f"{column!r} is {code:g} in {count} rows, far from all others: if that stands "
                    "for no value, empty these fields and give --drop-missing."
                )
                break
        else:
            if has_outliers(values):
                row = int(np.argmax(np.abs(values - middle)))
                found.append(
                    f"{column!r} is {values[row]:g} in row {rows.numbers[row]}, where 90 % of the "
                    f"values lie between {low:g} and {high:g}."
                )
    return found


def has_outliers(values: np.ndarray) -> bool:
    """Whether a few values make the deviation of a column say nothing about the others.

    It is then more than 30 times that of a normal distribution with the same middle 90 %.
    """
    low, high = np.quantile(values, [0.05, 0.95])
    unit = np.abs(values).max() or 1.0  # Squares of large values overflow.
    return bool(high > low and (values / unit).std() * unit > 30 * (high - low) / 3.29)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
