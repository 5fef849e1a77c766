"""Classical densities, fitted in seconds: members of a stack, and what a flow has to beat.

All take rows in a model's standardized units, and choose by the likelihood of validation rows. Each
result is a `tfd.Distribution`, with weights that are saved with those of the model.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from tensorflow_probability import distributions as tfd

from tfp_flows import distributions

__all__ = [
    "Candidate",
    "gaussian",
    "gaussian_mixtures",
    "kernel_density",
    "linear_regression",
    "shares_and_regression",
]

# Of the diagonal of covariances, in squared deviations of the columns: on ties and on planes a
# mixture would raise its density for ever.
_FLOORS = (1e-6, 1e-4, 1e-3, 1e-2)
_FLOORS_OF_MANY_ROWS = (1e-6, 1e-3)
_MANY_ROWS = 3000
_COMPONENTS = (2, 4, 8, 16, 32, 64)
_MOST_KERNELS = 5000
_MOST_ROWS = 50_000
_ROUNDS = 100


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A density, its name in the report, and its mean log-density of validation rows."""

    name: str
    distribution: tfd.Distribution
    score: float


def gaussian(x: np.ndarray, validation: np.ndarray, dtype: str) -> Candidate:
    """The normal with the mean and the covariance of the rows."""
    covariance = np.cov(x.T, ddof=0).reshape(x.shape[1], x.shape[1])
    made = distributions.GaussianMixture(x.shape[1], 1, dtype=dtype)
    made.set_parameters([1.0], x.mean(0)[None], (covariance + 1e-9 * np.eye(len(covariance)))[None])
    return _candidate("Gaussian", made, validation)


def gaussian_mixtures(
    x: np.ndarray, validation: np.ndarray, dtype: str, *, seconds: float, seed: int
) -> list[Candidate]:
    """Mixtures of normals with full covariances, fitted by EM, the best on validation rows first.

    Numbers of components are doubled, for each of several floors of variances, while that helps,
    and until the time is over.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    end = time.monotonic() + seconds
    rows = _some(x, _MOST_ROWS, seed)
    found: list[Candidate] = []
    for floor in _FLOORS if len(rows) < _MANY_ROWS else _FLOORS_OF_MANY_ROWS:
        best, worse = -np.inf, 0
        for components in _COMPONENTS:
            if 2 * components > len(rows) or worse == 2 or time.monotonic() > end:
                break
            # Thousands of products of small matrices: threads would wait for each other.
            with warnings.catch_warnings(), threadpool_limits(1):
                # The best on validation rows is asked for, not a maximum of the likelihood; and
                # of rows that repeat there are fewer clusters to begin with.
                warnings.simplefilter("ignore", ConvergenceWarning)
                fit: Any = GaussianMixture(
                    components, reg_covar=floor, max_iter=_ROUNDS, random_state=seed
                ).fit(rows)
            made = distributions.GaussianMixture(x.shape[1], components, dtype=dtype)
            made.set_parameters(np.maximum(fit.weights_, 1e-12), fit.means_, fit.covariances_)
            found.append(_candidate(f"mixture of {components} Gaussians", made, validation))
            worse = 0 if found[-1].score > best else worse + 1
            best = max(best, found[-1].score)
    return sorted(found, key=lambda candidate: -candidate.score)


def kernel_density(x: np.ndarray, validation: np.ndarray, dtype: str, *, seed: int) -> Candidate:
    """A kernel density estimate, with the bandwidth that is best on validation rows.

    Of more than 5,000 rows, so many are drawn to be kernels.
    """
    rows = _some(x, _MOST_KERNELS, seed)
    made = distributions.KernelDensity(x.shape[1], rows=len(rows), dtype=dtype)
    scott = len(rows) ** (-1 / (x.shape[1] + 4))
    few = _some(validation, 1000, seed)
    scores = {}
    for bandwidth in scott * 2.0 ** np.arange(-4, 1.01, 0.5):
        made.set_rows(rows, bandwidth)
        scores[bandwidth] = float(np.mean(made.log_prob(few)))
    made.set_rows(rows, max(scores, key=scores.__getitem__))
    return _candidate("kernel density estimate", made, validation)


def linear_regression(
    x: np.ndarray, c: np.ndarray, test: np.ndarray, test_c: np.ndarray
) -> np.ndarray:
    """Log-densities of test rows by a Gaussian with a mean that is linear in the context."""
    mean, scale = c.mean(0), c.std(0)
    scale = np.where(scale > 0, scale, 1.0)

    def design(context: np.ndarray) -> np.ndarray:
        return np.hstack([np.ones((len(context), 1)), (context - mean) / scale])

    unit = x.std(0)
    slope = np.linalg.lstsq(design(c), x / unit, rcond=None)[0]
    rest = x / unit - design(c) @ slope
    covariance = rest.T @ rest / len(rest) + 1e-10 * np.eye(x.shape[1])
    root = np.linalg.cholesky(covariance)
    z = np.linalg.solve(root, (test / unit - design(test_c) @ slope).T).T
    log_volume = np.log(np.diag(root) * unit * np.sqrt(2 * np.pi)).sum()
    return np.asarray(-0.5 * (z**2).sum(1) - log_volume)


def shares_and_regression(y: np.ndarray, test: np.ndarray, categories: Sequence[int]) -> np.ndarray:
    """Log-densities of test rows by the shares of all combinations of categories, which come first.

    Numbers are Gaussian, with a mean that is linear in the categories. Half a row more is counted
    for every combination.
    """
    count = len(categories)

    def number(rows: np.ndarray) -> np.ndarray:
        return np.ravel_multi_index(tuple(rows[:, :count].astype(int).T), tuple(categories))

    def one_hot(rows: np.ndarray) -> np.ndarray:
        # Without the first of each column: the mean has a constant.
        parts = [np.eye(k)[rows[:, i].astype(int), 1:] for i, k in enumerate(categories)]
        return np.hstack(parts)

    shares = np.bincount(number(y), minlength=int(np.prod(categories))) + 0.5
    log_shares = np.log(shares / shares.sum())[number(test)]
    return log_shares + linear_regression(y[:, count:], one_hot(y), test[:, count:], one_hot(test))


def _candidate(name: str, made: tfd.Distribution, validation: np.ndarray) -> Candidate:
    return Candidate(name, made, float(np.mean(made.log_prob(validation))))


def _some(x: np.ndarray, most: int, seed: int) -> np.ndarray:
    if len(x) <= most:
        return x
    return np.random.default_rng(seed).choice(x, most, replace=False)
