"""Uniformity: numbers that are uniform on (0, 1) where a density is right, and how far they are."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from tensorflow_probability import distributions as tfd

from tfp_flows.ops.seeds import check_seed

__all__ = ["Uniformity", "check_uniform"]

_LEVELS = 99
_SIMULATIONS = 2000


@dataclasses.dataclass(frozen=True)
class Uniformity:
    """How often each number should lie below a level, and how often it does.

    Attributes:
      values: `(n, K)`, uniform on (0, 1) in every column where all is right.
      levels: `(L,)`, nominal frequencies.
      frequencies: `(L, K)`, shares of values that are at most the level.
      lower, upper: `(L,)`, a band in which a curve lies as a whole, and all K curves with it, with
        probability `confidence` if the values are uniform.
      p_values: `(K,)`, how likely a curve as extreme as each one is, if its values are uniform.
      confidence: of the band.
      title: what is shown.
      names: of the columns.

    Example:
      >>> draws = np.random.default_rng(0).normal(size=(99, 200, 2))
      >>> found = diagnostics.coverage(draws[1:], draws[0], names=["a", "b"])
      >>> found.inside     # [True, True]
      >>> axes = found.plot()
    """

    values: np.ndarray
    levels: np.ndarray
    frequencies: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    p_values: np.ndarray
    confidence: float
    title: str
    names: tuple[str, ...]

    @property
    def inside(self) -> np.ndarray:
        """`(K,)`, whether each curve lies within the band."""
        frequencies = self.frequencies.T
        return np.all((frequencies >= self.lower) & (frequencies <= self.upper), -1)

    @property
    def is_calibrated(self) -> bool:
        """Whether all curves lie within the band."""
        return bool(self.inside.all())

    def plot(self, axes: Any | None = None) -> Any:
        """Draw the difference of frequency and level, and the band; returns the axes."""
        from matplotlib import pyplot as plt

        axes = plt.subplots()[1] if axes is None else axes
        band = self.lower - self.levels, self.upper - self.levels
        label = f"{self.confidence:.0%} simultaneous band"
        axes.fill_between(self.levels, *band, color="0.85", label=label)
        for name, frequency, inside in zip(
            self.names, self.frequencies.T, self.inside, strict=True
        ):
            axes.plot(self.levels, frequency - self.levels, ls="-" if inside else "--", label=name)
        axes.axhline(0.0, color="0.5", lw=0.8)
        axes.set(title=self.title, xlabel="nominal", ylabel="observed - nominal")
        if len(self.names) <= 10:
            axes.legend(fontsize="small")
        return axes


def check_uniform(
    values: np.ndarray,
    *,
    title: str,
    names: Any | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Uniformity:
    """Compare the distribution of values `(n, K)` with the uniform one on (0, 1).

    At one level `z`, the number of values below it is binomial. The band takes the same tail
    probability at all levels, found by simulation such that curves lie inside as wholes.

    Source: Teemu Säilynoja, Paul-Christian Bürkner and Aki Vehtari, "Graphical Test for Discrete
    Uniformity and Its Applications in Goodness-of-Fit Evaluation and Multiple Sample Comparison"
    (2022).
    """
    if not 0 < confidence < 1:
        raise ValueError(
            f"`confidence` must be between 0 and 1. Received: confidence={confidence!r}"
        )
    n, columns = values.shape
    names = tuple(map(str, range(columns) if names is None else names))
    if len(names) != columns:
        raise ValueError(f"`names` must be {columns} names. Received: names={names!r}")
    levels = np.arange(1, _LEVELS + 1) / (_LEVELS + 1)
    counts = np.sum(values[None] <= levels[:, None, None], 1)  # (L, K)
    binomial = tfd.Binomial(np.float64(n), probs=levels)
    # (n + 1, L): P(count <= c)
    below = np.minimum(np.cumsum(binomial.prob(np.arange(n + 1.0)[:, None]), 0), 1.0)
    above = np.concatenate([np.ones_like(below[:1]), 1 - below[:-1]])  # P(count >= c)
    tails = 2 * np.minimum(below, above)
    rng = np.random.default_rng(check_seed(seed))
    steps = rng.multinomial(n, np.full(_LEVELS + 1, 1 / (_LEVELS + 1)), _SIMULATIONS)
    simulated = np.cumsum(steps, 1)[:, :-1]  # (S, L)
    extremes = np.sort(tails[simulated, np.arange(_LEVELS)].min(1))
    # All columns together stay inside as often as one, by Bonferroni's inequality.
    limit = np.quantile(extremes, (1 - confidence) / columns)
    allowed = tails >= limit
    lower = np.argmax(allowed, 0) / n
    upper = (n - np.argmax(allowed[::-1], 0)) / n
    found = tails[counts, np.arange(_LEVELS)[:, None]].min(0)
    p_values = (1 + np.searchsorted(extremes, found, "right")) / (1 + _SIMULATIONS)
    return Uniformity(values, levels, counts / n, lower, upper, p_values, confidence, title, names)
