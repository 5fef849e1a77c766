"""The mode of a flow: the densest event, found by ascent from many starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

__all__ = ["ValueAndSlope", "climb", "find_mode"]

_ITERATIONS = 200
_ROUNDS = 10
_LARGEST_STEP = 2.0  # In deviations of the base.
_INCREASE = 1e-4  # Part of what the slope promises that a step must gain.
_FLAT = {"float32": 1e-4, "float64": 1e-8}  # In nats a deviation.
_RADII = np.array([1e-1, 1e-2, 1e-3])  # Of probes around the best event, in deviations.
_PROBES = 64
_GAIN = 1e-3  # In nats, by which a probe may be denser.

Array = np.ndarray
ValueAndSlope = Callable[[Array], tuple[Array, Array]]


def find_mode(flow: Any, starts: int, seed: int) -> tf.Tensor:
    """The densest event of a flow without context, `(*batch, D)`.

    In the space of the base, where columns have a similar scale and no edges, the density of the
    data is climbed from draws of the base. As networks have kinks, at which no gradient is 0,
    convergence is judged by probes around the densest event: where one is denser by 1e-3 nats, the
    ascent goes on from there.

    Raises:
      ValueError: it still goes on after 10 rounds, or no start has a finite density.
    """
    base, bijector = flow.distribution, flow.bijector
    free = _free(base)
    shape = [starts, *([] if base.batch_shape.rank else flow.batch_shape)]
    u = free.inverse(base.sample(shape, seed=tf.constant([0, seed % 2**31], tf.int32))).numpy()
    batch, dtype = u.shape[1:-1], u.dtype

    def with_slope(u: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Events, their log-densities, and the slopes of these."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(u)
            z = free.forward(u)
            x = bijector.forward(z)
            log_prob = base.log_prob(z) - bijector.forward_log_det_jacobian(z, event_ndims=1)
        return x, log_prob, tape.gradient(log_prob, u)

    spec = tf.TensorSpec([None, *u.shape[1:]], dtype)
    events = tf.function(with_slope, autograph=False).get_concrete_function(spec)

    def climbed(u: Array) -> tuple[Array, Array]:
        """Log-densities and slopes of `(n * batch, D)`; `-inf` where these are no numbers."""
        rows = tf.constant(u.reshape(-1, *batch, u.shape[-1]), dtype)
        _, log_prob, slope = (part.numpy().astype("float64") for part in events(rows))
        log_prob, slope = log_prob.reshape(-1), slope.reshape(u.shape)
        fine = np.isfinite(log_prob) & np.isfinite(slope).all(-1)
        return np.where(fine, log_prob, -np.inf), np.where(fine[:, None], slope, 0.0)

    rng = np.random.default_rng(seed)
    rows = u.astype("float64").reshape(-1, u.shape[-1])
    for _ in range(_ROUNDS):
        rows, log_prob = climb(climbed, rows, _FLAT[dtype.name])
        best, highest = _densest(rows, log_prob, batch)
        if not np.isfinite(highest).all():
            raise ValueError("`mode` needs a finite density where it starts. Received: none")
        noise = rng.standard_normal((len(_RADII), _PROBES, *best.shape))
        around = best + _RADII.reshape(-1, *[1] * (noise.ndim - 1)) * noise
        around = around.reshape(-1, best.shape[-1])
        probe, found = _densest(around, climbed(around)[0], batch)
        gain = np.max(found - highest)
        if gain <= _GAIN:
            event = events(tf.constant(best.reshape(1, *u.shape[1:]), dtype))[0][0]
            if np.isfinite(flow.log_prob(event)).all():
                return event
            break  # It is at an edge, by rounding, where the density is infinite.
        rows = np.concatenate([best, probe])
    raise ValueError(
        "`mode` must have a densest event: the ascent comes to no end, or to an edge without a "
        "finite density. The density may grow without end; or try more `starts`. "
        f"Received: starts={starts}"
    )


def climb(climbed: ValueAndSlope, u: Array, flat: float) -> tuple[Array, Array]:
    """Local maxima above every row `(n, D)`, by the method of BFGS, with halved steps."""
    n, size = u.shape
    log_prob, slope = climbed(u)
    inverse = np.tile(np.eye(size), (n, 1, 1))
    share = np.ones(n)
    for _ in range(_ITERATIONS):
        step = np.einsum("nij,nj->ni", inverse, slope)
        step *= np.minimum(1.0, _LARGEST_STEP / (np.linalg.norm(step, axis=1) + 1e-300))[:, None]
        step *= share[:, None]
        promised = np.sum(step * slope, 1)
        going = (np.abs(slope).max(1) > flat) & (share > 1e-9)
        if not going.any():
            break
        tried, (higher, steeper) = u + step, climbed(u + step)
        better = going & (higher >= log_prob + _INCREASE * promised)
        _update(inverse, step, slope - steeper, better)
        share = np.where(better, 1.0, 0.5 * share)
        log_prob = np.where(better, higher, log_prob)
        u, slope = (np.where(better[:, None], *pair) for pair in ((tried, u), (steeper, slope)))
    return u, log_prob


def _update(inverse: Array, step: Array, change: Array, which: Array) -> None:
    """Broyden, Fletcher, Goldfarb and Shanno's inverse of second derivatives, where concave."""
    curvature = np.sum(step * change, 1)
    which = which & (curvature > 1e-10 * np.sum(change**2, 1))
    s, y, rho = step[which], change[which], 1 / curvature[which]
    left = np.eye(s.shape[1]) - rho[:, None, None] * s[:, :, None] * y[:, None]
    outer = rho[:, None, None] * s[:, :, None] * s[:, None]
    inverse[which] = left @ inverse[which] @ np.swapaxes(left, 1, 2) + outer


def _densest(rows: Array, log_prob: Array, batch: tuple[int, ...]) -> tuple[Array, Array]:
    """Of `n` rows for every element of a batch, the densest: `(batch, D)`, and how dense it is."""
    size = int(np.prod(batch))
    log_prob = log_prob.reshape(-1, size)
    best = log_prob.argmax(0)
    return rows.reshape(-1, size, rows.shape[-1])[best, np.arange(size)], log_prob.max(0)


def _free(base: tfd.Distribution) -> tfb.Bijector:
    """From all of R^D to where the base lives."""
    try:
        found = base.experimental_default_event_space_bijector()
    except NotImplementedError:
        found = None
    return tfb.Identity() if found is None else found
