"""Where training starts: a Gaussian near the target, found without any step size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

__all__ = ["closest_gaussian", "independent", "points_of"]

_STARTS = 3  # Of which the densest may be a saddle, as 0 is for weights of networks.
_CLIMBS = 100
_REFINEMENTS = 30
_PAIRS = 128  # Of draws and their mirror images.
_MAX_SIZE = 256  # Of D columns, 2 D gradients make a matrix of second derivatives.
_HALVINGS = 2.0 ** -np.arange(12)
_GAIN = 0.1  # In nats.
_RATE = 0.3
_CHANGE = 4.0  # How much larger or smaller a variance may become at a time.

Array = np.ndarray
Gaussian = tuple[Array, Array]


class _Density:
    """A log-density and its gradient, of NumPy's arrays in float64."""

    def __init__(self, target: Callable[[tf.Tensor], tf.Tensor], size: int, dtype: np.dtype):
        spec = tf.TensorSpec([None, size], dtype)
        self._dtype = dtype

        def both(z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(z)
                log_prob = target(z)
            return log_prob, tape.gradient(log_prob, z)

        # Concrete: of other functions made in a loop TensorFlow warns that they are traced again.
        self._value, self._both = (
            tf.function(function).get_concrete_function(spec) for function in (target, both)
        )

    def log_prob(self, z: Array) -> Array:
        found = self._value(tf.constant(z, self._dtype)).numpy().astype("float64")
        return np.where(np.isfinite(found), found, -np.inf)

    def both(self, z: Array) -> tuple[Array, Array]:
        log_prob, slope = self._both(tf.constant(z, self._dtype))
        return log_prob.numpy().astype("float64"), slope.numpy().astype("float64")


def closest_gaussian(
    target: Callable[[tf.Tensor], tf.Tensor], first: Array, seed: int
) -> Gaussian | None:
    """Mean `m` and factor `L` of a Gaussian `N(m, L Lᵀ)` near the target, or None.

    Newton's method climbs from the three densest of some points, and at every point on its ways
    there is a Gaussian with the curvature of the target. From those with the highest ELBO, and from
    a standard normal, steps of the natural gradient lead on towards the Gaussian with the smallest
    KL(q ‖ p). In coordinates in which q is standard normal, so with `z = m + L e` and
    `g = Lᵀ ∂log p/∂z`, that is where `E[g] = 0` and `E[e gᵀ] = -1`. Of all on the way, the one with
    the highest ELBO is taken: the mode alone may be the worst, as in funnels, where the density
    grows without end.

    Args:
      target: log-density of `(n, D)`, up to a constant.
      first: points `(n, D)`, of the dtype of the target.
      seed: of the draws that judge.

    Returns:
      None if no draws have a finite density, or there are more than 256 columns.

    Sources: Lu Zhang et al., "Pathfinder: Parallel Quasi-Newton Variational Inference" (2022);
    Mohammad Emtiyaz Khan and Didrik Nielsen, "Fast yet Simple Natural-Gradient Descent for
    Variational Inference in Complex Models" (2018).
    """
    size = first.shape[1]
    if size > _MAX_SIZE:
        return None
    density = _Density(target, size, first.dtype)
    noise = np.random.default_rng(seed).normal(size=(_PAIRS, size))
    noise = np.concatenate([noise, -noise])
    densest = first[np.argsort(-density.log_prob(first))[:_STARTS]].astype("float64")
    starts = [*(_climb(density, z, noise) for z in densest), (np.zeros(size), np.eye(size))]
    found = [_refine(density, start, noise) for start in starts if start is not None]
    elbo, best = max(found, key=lambda pair: pair[0])
    return best if np.isfinite(elbo) else None


def _climb(density: _Density, z: Array, noise: Array) -> Gaussian | None:
    """The best Gaussian on the way of Newton's method from a point."""
    size, now = len(z), density.log_prob(z[None])[0]
    steps = np.full(size, 1e-2)
    best, elbo_of_best = None, -np.inf
    for _ in range(_CLIMBS):
        around = np.concatenate([z[None], z + np.diag(steps), z - np.diag(steps)])
        _, slopes = density.both(around)
        if not (np.isfinite(now) and np.isfinite(slopes).all()):
            break
        curvature = (slopes[1 : size + 1] - slopes[size + 1 :]) / (2 * steps[:, None])
        precisions, axes = np.linalg.eigh(-(curvature + curvature.T) / 2)
        # Where the density is not concave, the way still leads up.
        precisions = np.abs(precisions)
        factor = axes / np.sqrt(np.maximum(precisions, 1e-6 * precisions.max() + 1e-12))
        elbo = np.mean(density.log_prob(z + noise @ factor.T)) + _log_det(factor)
        if elbo > elbo_of_best:
            best, elbo_of_best = (z, factor), elbo
        steps = np.clip(0.1 * np.linalg.norm(factor, axis=1), 1e-4, 1.0)
        tried = z + _HALVINGS[:, None] * (factor @ (factor.T @ slopes[0]))
        values = density.log_prob(tried)
        if not values.max() > now + _GAIN:
            break
        z, now = tried[int(np.argmax(values))], values.max()
    return best


def _refine(density: _Density, start: Gaussian, noise: Array) -> tuple[float, Gaussian]:
    """The best Gaussian on the way of the natural gradient, after its ELBO."""
    (mean, factor), best, elbo_of_best = start, start, -np.inf
    for _ in range(_REFINEMENTS):
        log_prob, slopes = density.both(mean + noise @ factor.T)
        elbo = np.mean(log_prob) + _log_det(factor)
        if not (np.isfinite(elbo) and np.isfinite(slopes).all()):
            break
        if elbo > elbo_of_best:
            best, elbo_of_best = (mean, factor), elbo
        slopes = slopes @ factor
        # That of a standard normal is -e: what is added has no noise where q = p.
        excess = noise.T @ (slopes + noise) / len(noise)
        precisions, axes = np.linalg.eigh(-_RATE * (excess + excess.T) / 2)
        precisions = np.clip(1 + precisions, 1 / _CHANGE, _CHANGE)
        move = _RATE * slopes.mean(0)
        move /= max(1.0, np.linalg.norm(move))
        mean = mean + factor @ move
        factor = factor @ (axes / np.sqrt(precisions))
    return elbo_of_best, best


def _log_det(factor: Array) -> float:
    return float(np.linalg.slogdet(factor)[1])


def independent(gaussian: Gaussian) -> Gaussian:
    """The Gaussian `q` with independent columns and the smallest KL(q ‖ p) to a Gaussian `p`.

    It has the variances of each column given the others, which may be much less than without.
    """
    mean, factor = gaussian
    precisions = np.sum(np.linalg.inv(factor) ** 2, 0)
    return mean, np.diag(1 / np.sqrt(precisions))


def points_of(gaussian: Gaussian) -> Array:
    """Points `(2 D, D)` with exactly this mean and covariance, to which a flow adapts."""
    mean, factor = gaussian
    spread = np.sqrt((2 * len(mean) - 1) / 2) * factor.T
    return mean + np.concatenate([spread, -spread])
