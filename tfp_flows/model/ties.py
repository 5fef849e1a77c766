"""Tied values: columns whose values repeat too often for the density of a continuous variable."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["TiedValuesWarning", "tied_columns", "warn_of_ties"]

_FEW_DISTINCT = 0.1
_MANY_EQUAL = 0.1
_MIN_EQUAL = 10
_MAX_ROWS = 200_000
# Digits that float32 has lost: a value is a multiple of a step within this share of itself.
_ROUNDING = 4 * np.finfo("float32").eps


class TiedValuesWarning(UserWarning):
    """Data to be fitted with a density have columns in which many values are equal."""


def tied_columns(x: Any) -> list[tuple[int, float, float | None]]:
    """The columns of `x` that are not a sample of a continuous variable.

    These have fewer than 10 % distinct values, or one value that at least 10 % of the rows hold,
    and 10 rows at least. Of more than 200,000 rows, so many are looked at, evenly spread.

    Args:
      x: data, `(n, ...)`, numbers; further axes count as columns.

    Returns:
      For every such column its number, the share of distinct values among its rows, and the step
      of the grid on which all its values lie, or None if they lie on none.

    Example:
      >>> x = np.random.default_rng(0).normal(size=(1000, 1))
      >>> ties.tied_columns(np.round(x, 1))     # [(0, 0.059, 0.1)]
    """
    x = np.asarray(x)
    x = x.reshape(len(x), math.prod(x.shape[1:]))[:: max(1, math.ceil(len(x) / _MAX_ROWS))]
    tied = []
    for column, values in enumerate(x.T):
        distinct, counts = np.unique(values, return_counts=True)
        few = len(distinct) < _FEW_DISTINCT * len(values)
        if few or (len(values) and counts.max() >= max(_MIN_EQUAL, _MANY_EQUAL * len(values))):
            tied.append((column, len(distinct) / len(values), _grid_step(distinct)))
    return tied


def warn_of_ties(
    x: Any, names: Sequence[str] | None = None, *, steps: Sequence[float] | np.ndarray | None = None
) -> None:
    """Warn, with a `TiedValuesWarning`, of the columns that `tied_columns` finds in `x`.

    Args:
      x: data, `(n, ...)`.
      names: names of the columns; those of a DataFrame, or their numbers, by default.
      steps: steps of columns that are dequantized already, 0 for others: they are left out.
    """
    size = math.prod(np.shape(x)[1:])
    known = [0.0] * size if steps is None else list(np.broadcast_to(steps, [size]))
    tied = [found for found in tied_columns(x) if not known[found[0]]]
    if not tied:
        return
    names = getattr(x, "columns", None) if names is None else names
    found, steps = [], known
    for column, share, step in tied:
        name = column if names is None else repr(names[column])
        grid = "" if step is None else f", in steps of {step:g}"
        found.append(f"{name} ({100 * share:.2g} % of its values are distinct{grid})")
        steps[column] = step or 0.0
    remedy = "They lie on no grid: fit the rows that repeat apart from the others."
    if any(steps):
        listed = ", ".join(f"{step:g}" for step in steps[:20]) + ", ..." * (len(steps) > 20)
        remedy = f"Fit probabilities instead: Dequantized(distribution, steps=[{listed}])."
    warnings.warn(
        f"Many values are equal in column {', '.join(found)}. A density can grow without bound "
        f"where values are tied, so its likelihood says little. {remedy}",
        TiedValuesWarning,
        stacklevel=3,
    )


def _grid_step(distinct: np.ndarray) -> float | None:
    """The largest step of which all differences of the sorted values are multiples, if any."""
    values = distinct.astype("float64")
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    for digits in range(7):
        scaled = values * 10**digits
        if (whole := _whole(scaled)) is not None:
            return math.gcd(*(int(difference) for difference in np.diff(whole))) / 10**digits
    step = np.diff(values).min()
    return float(step) if _whole(values / step) is not None else None


def _whole(values: np.ndarray) -> np.ndarray | None:
    """The values rounded, if they are whole numbers up to rounding, and fine enough to say so."""
    rounded = np.round(values)
    error = _ROUNDING * np.abs(values).max()
    if error > 0.05 or (np.abs(values - rounded) > error).any():
        return None
    return rounded if (np.diff(rounded) > 0).all() else None
