"""Flow matching: train a velocity field by regression on straight lines from base to data."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_flows.distributions.flow import Flow
from tfp_flows.distributions.velocity import count_fields, field_of

__all__ = ["LOSSES", "check", "matching_loss"]

# By name, whether base and data are paired by optimal transport first.
LOSSES = {"flow_matching": False, "ot_flow_matching": True}


def check(distribution: tfd.Distribution, loss: str, jit_compile: bool | str) -> bool | str:
    """Raise an error unless the loss is one of these, and the distribution can be trained by it.

    Returns:
      whether XLA may compile the training step; "auto" where Keras may choose.
    """
    if loss not in LOSSES:
        raise ValueError(
            f"`loss` must be None, for the likelihood, or one of {sorted(LOSSES)}. "
            f"Received: loss={loss!r}"
        )
    count = count_fields(distribution) if isinstance(distribution, Flow) else 0
    if count != 1:
        raise ValueError(
            f"`loss={loss!r}` needs a flow with one `Continuous` bijector, as `flows.ffjord` is. "
            f"Received: {count} of them in {distribution!r}"
        )
    if not LOSSES[loss]:
        return jit_compile
    if jit_compile is True:
        raise ValueError(
            "`jit_compile` must be False or 'auto' for loss='ot_flow_matching', for SciPy. "
            "Received: jit_compile=True"
        )
    try:
        import scipy.optimize  # noqa: F401
    except ImportError as error:
        raise ImportError("`loss='ot_flow_matching'` needs SciPy: pip install scipy") from error
    return False


def matching_loss(flow: Flow, x: tf.Tensor, context: tf.Tensor | None, *, optimal: bool) -> Any:
    """`|f(t, x_t) - (x₁ - x₀)|²` of every row, with `x_t = (1 - t) x₀ + t x₁`.

    `x₁` are events where the velocity field ends, `x₀` draws where it begins: bijectors before and
    behind it are applied, but not trained. Times are uniform, and spread evenly over the batch.

    Args:
      flow: with one bijector that has a velocity.
      x: events `(n, D)`, in the units of the flow.
      context: `(n, *context_shape)`, or `None`.
      optimal: pair draws and events of a batch such that the sum of squared distances is smallest;
        given context, only among rows with the same one. SciPy does it, outside of XLA.

    Source: Yaron Lipman, Ricky T. Q. Chen, Heli Ben-Hamu, Maximilian Nickel and Matt Le, "Flow
    Matching for Generative Modeling" (2023); the pairs from Alexander Tong et al., "Improving and
    Generalizing Flow-Based Generative Models with Minibatch Optimal Transport" (2024).
    """
    field, rows = field_of(flow, context), tf.shape(x)[0]
    x = field.outer.inverse(x)
    start = field.inner.forward(field.base.sample(rows if field.base.batch_shape == () else ()))
    x, start = tf.stop_gradient(x), tf.stop_gradient(start)
    if optimal:
        start = tf.gather(start, _paired(start, x, context))
    spread = tf.range(rows, dtype=x.dtype) / tf.cast(rows, x.dtype)
    t = tf.random.uniform([], dtype=x.dtype) + spread
    t %= 1
    at = (1 - t[:, None]) * start + t[:, None] * x
    error = field.bijector.velocity(t, at, **field.kwargs) - (x - start)
    return tf.reduce_sum(error * error, -1)


def _paired(start: tf.Tensor, x: tf.Tensor, context: tf.Tensor | None) -> tf.Tensor:
    """For every event the number of its draw."""
    given = [] if context is None else [tf.reshape(context, [tf.shape(x)[0], -1])]
    found = tf.numpy_function(_assign, [start, x, *given], tf.int32)
    return tf.ensure_shape(found, x.shape[:1])


def _assign(start: np.ndarray, x: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    groups = np.zeros(len(x), int)
    if context is not None:
        groups = np.unique(context, axis=0, return_inverse=True)[1].ravel()
    pairs = np.arange(len(x), dtype=np.int32)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        if len(rows) > 1:
            events, draws = linear_sum_assignment(cdist(x[rows], start[rows], "sqeuclidean"))
            pairs[rows[events]] = rows[draws]
    return pairs
