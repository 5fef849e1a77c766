"""Cells of rounded values: their steps, rounding to them, and learned noise within them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows.bijectors.coupling import Coupling
from tfp_flows.bijectors.transformers import Affine
from tfp_flows.distributions.flow import Flow
from tfp_flows.ops.copies import Copyable
from tfp_flows.ops.seeds import derived_seed

__all__ = ["CellNoise", "checked_steps", "round_to"]


class CellNoise(Copyable, tf.Module):
    """`u = σ(v)` with `v` from a flow given the rounded values: noise in cells of unit size.

    A flow made here starts with logistic `v`, that is with uniform `u`.

    Args:
      flow: a conditional `Flow`, or hidden widths, for which one of affine couplings is made.
      stepped: booleans, one per column: which have cells.
      dtype: floating dtype of the values.
      seed: integer for reproducible initial weights, or `None`.

    Raises:
      TypeError: `flow` is neither widths nor a `Flow`.
      ValueError: the flow's events are not as many as the stepped columns, its context not as wide
        as all columns, or its dtype another.
    """

    def __init__(
        self,
        flow: Flow | Sequence[int],
        stepped: np.ndarray,
        *,
        dtype: tf.DType,
        seed: int | None = None,
    ):
        super().__init__(name="cell_noise")
        columns, size = len(stepped), int(stepped.sum())
        if isinstance(flow, Sequence) and not isinstance(flow, str):
            flow = _affine_flow(size, columns, flow, dtype, seed)
        if not isinstance(flow, Flow):
            raise TypeError(
                f"`noise` must be hidden widths, a Flow or None. Received: noise={flow!r}"
            )
        if flow.event_shape != (size,) or flow.context_size != columns or flow.dtype != dtype:
            raise ValueError(
                f"`noise` must be a flow with events of shape ({size},), one a stepped column, "
                f"context_size={columns} and dtype {dtype.name}. "
                f"Received: event_shape={flow.event_shape}, context_size={flow.context_size}, "
                f"dtype={flow.dtype.name}"
            )
        self.flow = flow
        self.parameters = {"flow": flow, "stepped": stepped, "dtype": dtype}
        # Networks want standardized inputs.
        self.shift = tf.Variable(tf.zeros([columns], dtype), trainable=False, name="shift")
        self.scale = tf.Variable(tf.ones([columns], dtype), trainable=False, name="scale")

    def adapt(self, x: np.ndarray) -> None:
        """Set `shift` and `scale` to mean and deviation of the columns of `x`."""
        deviation = x.std(0)
        self.shift.assign(x.mean(0))
        self.scale.assign(np.where(deviation > 0, deviation, 1))

    def __call__(
        self, x: tf.Tensor, samples: int, seed: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Noise `(samples, ..., stepped columns)` in (0, 1) given `x`, `(..., columns)`, and its
        log-density `(samples, ...)`."""
        context = (x - self.shift) / self.scale
        v, log_density = self.flow.sample_and_log_prob(samples, context=context, seed=seed)
        log_slopes = -tf.math.softplus(v) - tf.math.softplus(-v)
        return tf.sigmoid(v), log_density - tf.reduce_sum(log_slopes, -1)


def _affine_flow(
    size: int, columns: int, hidden_units: Sequence[int], dtype: tf.DType, seed: int | None
) -> Flow:
    """Two affine couplings, or one that keeps nothing if there is one column only."""
    zeros = tf.zeros([size], dtype)
    couplings = [
        Coupling(
            size,
            Affine(),
            hidden_units,
            flip=flip and size > 1,
            context_size=columns,
            dtype=dtype,
            seed=derived_seed(seed, int(flip)),
        )
        for flip in (False, True)[: min(size, 2)]
    ]
    return Flow(tfd.Independent(tfd.Logistic(zeros, 1), 1), tfb.Chain(couplings), name="noise")


def checked_steps(steps: Any, columns: int) -> tuple[float, ...]:
    """One step a column; a ValueError if they are not steps."""
    try:
        array = np.broadcast_to(np.asarray(steps, "float64"), [columns])
    except (TypeError, ValueError):
        array = np.array([])
    if not (len(array) and np.isfinite(array).all() and (array >= 0).all() and array.any()):
        raise ValueError(
            f"`steps` must be a number or {columns}, one per column, at least 0 and finite, not "
            f"all 0. Received: steps={steps!r}"
        )
    return tuple(array.tolist())


def round_to(x: tf.Tensor, steps: Sequence[float], lowest: float) -> tf.Tensor:
    """`x` to multiples of the steps, whose cells begin `lowest` steps from them."""
    stepped = np.array(steps) > 0
    widths = np.where(stepped, np.array(steps), 1.0)
    # By division where 1 / width is whole: 3 / 10 is the number that reads 0.3, 3 * 0.1 is not.
    parts = np.maximum(np.round(1 / widths), 1)
    by_parts = np.abs(parts * widths - 1) < 1e-9
    width, part = tf.constant(widths, x.dtype), tf.constant(parts, x.dtype)
    count = tf.floor(tf.where(by_parts, x * part, x / width) - lowest)
    rounded = tf.where(by_parts, count / part, count * width)
    return tf.where(stepped, rounded, x)
