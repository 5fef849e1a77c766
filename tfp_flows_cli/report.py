"""The report of a fit: log-likelihoods of held-out rows, beside those of classical densities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["report"]

_FAR = 30.0  # Robust deviations below the median: one such row decides a mean.


def report(
    fitted: str, scores: Mapping[str, np.ndarray], rows: Sequence[int], weights: Sequence[str] = ()
) -> list[str]:
    """Lines of text.

    Args:
      fitted: the name of the fitted model in `scores`, which comes first; others are compared
        with it.
      scores: log-densities of the same held-out rows, in nats, by name.
      rows: where these rows stand in the table, from 1.
      weights: of the members, in words, if the model is a stack.
    """
    count = len(rows)
    width = max(map(len, scores)) + 2
    lines = [
        f"Log-likelihood of the {count} held-out rows, in nats per row:",
        f"  {'':<{width}}{'mean ± s.e.':>17}{'median':>10}{'worst':>11}   {_who(fitted)} is",
    ]
    own = scores[fitted]
    for name, values in scores.items():
        line = f"  {name:<{width}}{_mean(values):>17}"
        line += f"{np.median(values):>10.3f}{values.min():>11.3f}"
        if name != fitted:
            line += f"   {_ahead(own - values)}"
        lines.append(line)
    if weights:
        lines.append(f"Weights: {', '.join(weights)}.")
    lines += _outliers(fitted, scores, rows)
    # A flow of the stack itself is no rival.
    others = {
        name: values
        for name, values in scores.items()
        if name != fitted and not name.startswith("best ")
    }
    if others and count > 1:
        best = max(others, key=lambda name: float(others[name].mean()))
        gain, error = _mean_and_error(own - others[best])
        if not gain > 2 * error:
            lines.append(
                f"It is not ahead of the {best} by more than two standard errors: that is as good "
                "here. Use it, or give more rows."
            )
    return lines


def _outliers(fitted: str, scores: Mapping[str, np.ndarray], rows: Sequence[int]) -> list[str]:
    """A warning of rows that decide the means, and the figures without them."""
    own = scores[fitted]
    middle = np.median(own)
    spread = np.median(np.abs(own - middle)) / 0.6745
    far = own < middle - _FAR * max(spread, 0.1)
    if len(own) < 3 or not far.any() or far.mean() > 0.05:
        return []
    worst = rows[int(own.argmin())]
    which = (
        f"Row {worst} of the table is"
        if far.sum() == 1
        else (f"{far.sum()} rows, the worst of which is row {worst} of the table, are")
    )
    without = "; ".join(f"{name} {_mean(values[~far])}" for name, values in scores.items())
    return [f"{which} far from all others, and decides these means. Without: {without}."]


def _ahead(difference: np.ndarray) -> str:
    mean, error = _mean_and_error(difference)
    word = "ahead by" if mean >= 0 else "behind by"
    return f"{word} {abs(mean):.3f}" + ("" if math.isnan(error) else f" ± {error:.3f}")


def _mean(values: np.ndarray) -> str:
    mean, error = _mean_and_error(values)
    mean = round(mean, 3) + 0.0  # No -0.000.
    return f"{mean:.3f}" + ("" if math.isnan(error) else f" ± {error:.3f}")


def _who(fitted: str) -> str:
    kinds = [kind for kind in ("stack", "flow") if kind in fitted.split(",")[0]]
    return f"the {kinds[0]}" if kinds else "it"


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Of one row, the error is NaN."""
    count = len(values)
    error = values.std(ddof=1) / math.sqrt(count) if count > 1 else math.nan
    return float(values.mean()), float(error)
