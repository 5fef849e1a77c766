"""Calibration: whether the truth lies among draws as often as they say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfp_flows.diagnostics.uniformity import Uniformity, check_uniform
from tfp_flows.ops.seeds import check_seed

__all__ = ["as_numbers", "coverage", "draws_and_truth", "pit", "sbc", "tarp"]


def as_numbers(name: str, array: Any) -> np.ndarray:
    """The array in float64; a ValueError that names it if a value is masked."""
    if np.ma.is_masked(array):
        raise ValueError(f"`{name}` must have no masked values. Received: some")
    return np.asarray(array, "float64")


def draws_and_truth(draws: Any, truth: Any) -> tuple[np.ndarray, np.ndarray]:
    """Draws `(s, n, D)` and truth `(n, D)` in float64, checked; one column may stand without D."""
    draws, truth = as_numbers("draws", draws), as_numbers("truth", truth)
    if truth.ndim == 1 and draws.ndim == 2:
        draws, truth = draws[..., None], truth[:, None]
    if truth.ndim != 2 or draws.ndim != 3 or draws.shape[1:] != truth.shape or not draws.size:
        raise ValueError(
            "`draws` must have shape (s, n, D), as `sample(s, context=...)` gives them, and "
            f"`truth` (n, D). Received: {draws.shape} and {truth.shape}"
        )
    _check_finite("draws", draws)
    _check_finite("truth", truth)
    return draws, truth


def _check_finite(name: str, array: np.ndarray) -> None:
    if not np.isfinite(array).all():
        raise ValueError(f"`{name}` must be finite. Received: an infinite value or a NaN")


def _ranks(draws: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How many draws lie below the truth, `(n, ...)`; of equal ones, any number is as likely."""
    below, equal = np.sum(draws < truth, 0), np.sum(draws == truth, 0)
    return below + rng.integers(0, equal + 1)


def _uniform(draws: np.ndarray, truth: np.ndarray, seed: int) -> np.ndarray:
    """Ranks over their number, at a random place within their step: exactly uniform if right."""
    rng = np.random.default_rng(check_seed(seed))
    ranks = _ranks(draws, truth, rng)
    return (ranks + rng.uniform(size=ranks.shape)) / (len(draws) + 1)


def pit(
    draws: Any,
    truth: Any,
    *,
    names: Sequence[str] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Uniformity:
    """Probability integral transforms: the share of draws below the truth, for every column.

    Curves above 0 say that the truth is lower than the draws; S-shapes that these are too wide, or,
    mirrored, too narrow.

    Args:
      draws: `(s, n, D)`: of each of n densities, s draws.
      truth: `(n, D)`: what was observed, or the parameters that made the data.
      names: of the columns.
      confidence: of the band.
      seed: of places within steps, and of the simulation of the band.

    Raises:
      ValueError: shapes do not fit, or a value is not finite.

    Source: Tilmann Gneiting, Fadoua Balabdaoui and Adrian Raftery, "Probabilistic Forecasts,
    Calibration and Sharpness" (2007).

    Example:
      >>> draws = np.random.default_rng(0).normal(size=(99, 200, 2))
      >>> diagnostics.pit(draws[1:], draws[0]).is_calibrated     # True
    """
    draws, truth = draws_and_truth(draws, truth)
    values = _uniform(draws, truth, seed)
    return check_uniform(values, title="PIT", names=names, confidence=confidence, seed=seed)


def sbc(
    draws: Any,
    truth: Any,
    *,
    names: Sequence[str] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[np.ndarray, Uniformity]:
    """Simulation-based calibration: ranks of parameters among draws of their posteriors.

    Parameters are drawn from the prior, data are simulated with them, and each posterior is drawn
    from `s` times; thin draws of MCMC until they are independent. Then ranks are uniform on
    `0, ..., s`.

    Args:
      draws: `(s, n, D)`, of the n posteriors.
      truth: `(n, D)`, parameters from the prior.
      names, confidence, seed: as in `pit`.

    Returns:
      the ranks `(n, D)`, and the comparison of their distribution with the uniform one.

    Raises:
      ValueError: as in `pit`.

    Source: Sean Talts et al., "Validating Bayesian Inference Algorithms with Simulation-Based
    Calibration" (2018).

    Example:
      >>> draws = np.random.default_rng(0).normal(size=(99, 200, 2))
      >>> ranks, ranked = diagnostics.sbc(draws[1:], draws[0])
      >>> ranks     # (200, 2)
    """
    draws, truth = draws_and_truth(draws, truth)
    ranks = _ranks(draws, truth, np.random.default_rng(check_seed(seed)))
    values = _uniform(draws, truth, seed)
    title = "simulation-based calibration"
    return ranks, check_uniform(values, title=title, names=names, confidence=confidence, seed=seed)


def coverage(
    draws: Any,
    truth: Any,
    *,
    names: Sequence[str] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Uniformity:
    """How often central intervals of every nominal probability hold the truth.

    Curves below 0 say that intervals are too narrow, above 0 too wide. A bias makes them too
    narrow, too; `pit` shows its direction.

    Args, Raises: as in `pit`.

    Example:
      >>> draws = np.random.default_rng(0).normal(size=(99, 200, 2))
      >>> narrow = diagnostics.coverage(0.5 * draws[1:], draws[0])
      >>> narrow.is_calibrated     # False
    """
    draws, truth = draws_and_truth(draws, truth)
    values = np.abs(2 * _uniform(draws, truth, seed) - 1)
    title = "coverage of central intervals"
    return check_uniform(values, title=title, names=names, confidence=confidence, seed=seed)


def tarp(
    draws: Any,
    truth: Any,
    *,
    references: Any | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Uniformity:
    """Tests of accuracy with random points: coverage of all columns together.

    The share of draws that are nearer to a reference point than the truth is. Columns are
    standardized by the truths. It sees what the columns one by one do not: a wrong dependence.

    Args:
      draws, truth, confidence, seed: as in `pit`.
      references: `(n, D)`; by default truths of other rows, which know nothing of the row.

    Raises:
      ValueError: as in `pit`.

    Source: Pablo Lemos et al., "Sampling-Based Accuracy Testing of Posterior Estimators for General
    Inference" (2023).

    Example:
      >>> draws = np.random.default_rng(0).normal(size=(99, 200, 2))
      >>> diagnostics.tarp(draws[1:], draws[0]).is_calibrated     # True
    """
    draws, truth = draws_and_truth(draws, truth)
    if references is None:
        shift = (
            np.random.default_rng(check_seed(seed)).integers(1, len(truth)) if len(truth) > 1 else 0
        )
        references = np.roll(truth, shift, 0)
    references = as_numbers("references", references)
    if references.shape != truth.shape:
        raise ValueError(
            f"`references` must have shape {truth.shape}. Received: {references.shape}"
        )
    _check_finite("references", references)
    scale = truth.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    far = np.linalg.norm((draws - references) / scale, axis=-1)
    values = _uniform(far, np.linalg.norm((truth - references) / scale, axis=-1), seed)
    return check_uniform(
        values[:, None],
        title="TARP",
        names=["all columns"],
        confidence=confidence,
        seed=seed,
    )
