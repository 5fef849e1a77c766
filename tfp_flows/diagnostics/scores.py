"""Scores: how far draws are from the truth, or from other draws."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tfp_flows.diagnostics.calibration import as_numbers, draws_and_truth
from tfp_flows.ops.checks import positive_int
from tfp_flows.ops.seeds import check_seed

__all__ = ["TwoSample", "c2st", "crps", "energy_score"]


def crps(draws: Any, truth: Any) -> np.ndarray:
    """Continuous ranked probability score of every row and column, `(n, D)`; lower is better.

    `E|X - y| - E|X - X'| / 2`, in the units of the column, without the bias that equal pairs make.

    Args:
      draws: `(s, n, D)`, s at least 2.
      truth: `(n, D)`.

    Raises:
      ValueError: shapes do not fit, or a value is not finite.

    Source: Tilmann Gneiting and Adrian Raftery, "Strictly Proper Scoring Rules, Prediction, and
    Estimation" (2007).

    Example:
      >>> diagnostics.crps([[0.0], [2.0]], [1.0])     # [[0.0]]
    """
    draws, truth = draws_and_truth(draws, truth)
    s = _two_or_more(draws)
    ordered = np.sort(draws, 0)
    # The sum of |x_i - x_j| over pairs, of ordered draws: each is larger than those before it.
    weights = (2 * np.arange(s) - s + 1).reshape(-1, 1, 1)
    spread = np.sum(weights * ordered, 0) / (s * (s - 1) / 2)
    return np.abs(draws - truth).mean(0) - spread / 2


def energy_score(draws: Any, truth: Any) -> np.ndarray:
    """Energy score of every row, `(n,)`: the CRPS of vectors; lower is better.

    `E‖X - y‖ - E‖X - X'‖ / 2`, which mixes the columns' units: standardize them before.

    Args, Raises, Source: as in `crps`.

    Example:
      >>> diagnostics.energy_score(np.zeros((2, 1, 2)), [[3.0, 4.0]])     # [5.0]
    """
    draws, truth = draws_and_truth(draws, truth)
    s = _two_or_more(draws)
    far = np.linalg.norm(draws - truth, axis=-1).mean(0)
    # Each draw with those behind it, for all pairs at once would need much memory.
    pairs = sum(np.linalg.norm(draws[i + 1 :] - draws[i], axis=-1).sum(0) for i in range(s - 1))
    return far - pairs / (s * (s - 1))


class TwoSample(NamedTuple):
    """Accuracy of a classifier, and its standard error over the folds: 0.5 for equal samples.

    Example:
      >>> accuracy, error = diagnostics.TwoSample(0.5, 0.01)
    """

    accuracy: float
    standard_error: float


def c2st(first: Any, second: Any, *, folds: int = 5, seed: int = 0) -> TwoSample:
    """Classifier two-sample test: how well a network tells two samples apart, by cross-validation.

    0.5 if it cannot, 1 if it always can. Columns are standardized by the first sample.

    Args:
      first, second: `(n, D)` each, equally many rows, such as draws of a reference and of a flow.
      folds: of the cross-validation.
      seed: of folds and networks.

    Raises:
      ImportError: scikit-learn is not installed.
      ValueError: shapes differ, or a value is not finite.

    Source: David Lopez-Paz and Maxime Oquab, "Revisiting Classifier Two-Sample Tests" (2017); the
    network is that of Jan-Matthis Lueckmann et al., "Benchmarking Simulation-Based Inference"
    (2021).

    Example:
      >>> x = np.random.default_rng(0).normal(size=(400, 2))
      >>> 0.9 < diagnostics.c2st(x[:200], x[200:] + 5.0).accuracy     # True
    """
    try:
        from sklearn.model_selection import StratifiedKFold, cross_val_score
        from sklearn.neural_network import MLPClassifier
    except ImportError as error:
        raise ImportError(
            "`c2st` needs scikit-learn: install tfp_flows with the extra `diagnostics`."
        ) from error
    first, second = as_numbers("first", first), as_numbers("second", second)
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            "`first` and `second` must have one shape, (n, D). "
            f"Received: {first.shape} and {second.shape}"
        )
    both = np.concatenate([first, second])
    if not np.isfinite(both).all():
        raise ValueError("`first` and `second` must be finite. Received: infinite values or NaN")
    check_seed(seed)
    if not 2 <= positive_int(folds, "folds") <= len(first):
        raise ValueError(
            f"`folds` must be from 2 to the number of rows, {len(first)}. Received: folds={folds}"
        )
    scale = first.std(0)
    both = (both - first.mean(0)) / np.where(scale > 0, scale, 1.0)
    labels = np.repeat([0, 1], len(first))
    width = 10 * first.shape[1]
    network = MLPClassifier((width, width), max_iter=1000, early_stopping=True, random_state=seed)
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    scores = cross_val_score(network, both, labels, cv=split, scoring="accuracy")
    return TwoSample(float(scores.mean()), float(scores.std(ddof=1) / np.sqrt(folds)))


def _two_or_more(draws: np.ndarray) -> int:
    if len(draws) < 2:
        raise ValueError(f"`draws` must be 2 or more of every density. Received: {len(draws)}")
    return len(draws)
