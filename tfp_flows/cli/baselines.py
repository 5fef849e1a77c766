"""What a flow has to beat: two classical densities, fitted in closed form.

Both return the log-density in nats of each row of `test`, of shape (rows,), in the units of the
data. Arrays are (rows, columns).
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["gaussian", "kernel_density"]


def gaussian(
    train: np.ndarray,
    test: np.ndarray,
    *,
    train_context: np.ndarray | None = None,
    test_context: np.ndarray | None = None,
) -> np.ndarray:
    """A Gaussian with full covariance; its mean is linear in the context, if there is one.

    Mean and covariance are those of maximum likelihood on `train`.
    """
    design, test_design = np.ones((len(train), 1)), np.ones((len(test), 1))
    if train_context is not None:
        mean, scale = train_context.mean(0), train_context.std(0)
        scale = np.where(scale > 0, scale, 1.0)
        design = np.hstack([design, (train_context - mean) / scale])
        test_design = np.hstack([test_design, (test_context - mean) / scale])
    scale = train.std(0)
    slope = np.linalg.lstsq(design, train / scale, rcond=None)[0]
    residual = train / scale - design @ slope
    root = _root(residual.T @ residual / len(train))
    z = np.linalg.solve(root, (test / scale - test_design @ slope).T).T
    return -0.5 * (z**2).sum(1) - _log_volume(root, scale)


def kernel_density(
    train: np.ndarray, test: np.ndarray, *, at_most: int = 5000, seed: int = 0
) -> np.ndarray:
    """A Gaussian kernel density estimate with the data's covariance times `n^(-2 / (D + 4))`.

    With more than `at_most` rows in `train`, so many of them are drawn: the cost is their number
    times that of `test`.

    Source: David W. Scott, "Multivariate Density Estimation" (1992), for the bandwidth.
    """
    if len(train) > at_most:
        train = np.random.default_rng(seed).choice(train, at_most, replace=False)
    n, size = train.shape
    mean, scale = train.mean(0), train.std(0)
    root = _root(np.cov((train / scale).T).reshape(size, size)) * n ** (-1 / (size + 4))
    centres = np.linalg.solve(root, ((train - mean) / scale).T)
    points = np.linalg.solve(root, ((test - mean) / scale).T).T
    sums = []
    for block in np.array_split(points, math.ceil(len(points) / 1000)):  # for memory's sake
        squares = (block**2).sum(1)[:, None] + (centres**2).sum(0) - 2 * block @ centres
        sums.append(np.logaddexp.reduce(-0.5 * squares, axis=1))
    return np.concatenate(sums) - math.log(n) - _log_volume(root, scale)


def _root(covariance: np.ndarray) -> np.ndarray:
    """The Cholesky factor, of a covariance of standardized columns that may be singular."""
    return np.linalg.cholesky(covariance + 1e-10 * np.eye(len(covariance)))


def _log_volume(root: np.ndarray, scale: np.ndarray) -> float:
    """The negative logarithm of a Gaussian's density at its mean."""
    return float(np.log(np.diag(root) * scale * math.sqrt(2 * math.pi)).sum())
