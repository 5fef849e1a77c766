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
      flow: a conditional `Flow`, or hidden widths, for which one of affine couplings is made: of
        events on a grid, whose context are the whole rounded events, with convolutions.
      stepped: booleans, one per column: which have cells. On a grid, all must.
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
        shape = stepped.shape if stepped.ndim > 1 else (int(stepped.sum()),)
        context = stepped.shape if stepped.ndim > 1 else len(stepped)
        if stepped.ndim > 1 and not stepped.all():
            raise ValueError(
                "`steps` must all be above 0 for learned noise on a grid. "
                f"Received: {int((~stepped).sum())} of {stepped.size} that are 0"
            )
        if isinstance(flow, Sequence) and not isinstance(flow, str):
            flow = _affine_flow(shape, context, flow, dtype, seed)
        if not isinstance(flow, Flow):
            raise TypeError(
                f"`noise` must be hidden widths, a Flow or None. Received: noise={flow!r}"
            )
        if flow.event_shape != shape or flow.context_size != context or flow.dtype != dtype:
            raise ValueError(
                f"`noise` must be a flow with events of shape {shape}, one entry a stepped column, "
                f"context_size={context} and dtype {dtype.name}. "
                f"Received: event_shape={flow.event_shape}, context_size={flow.context_size}, "
                f"dtype={flow.dtype.name}"
            )
        self.flow = flow
        self.parameters = {"flow": flow, "stepped": stepped, "dtype": dtype}
        # Networks want standardized inputs.
        zeros = tf.zeros(stepped.shape, dtype)
        self.shift = tf.Variable(zeros, trainable=False, name="shift")
        self.scale = tf.Variable(tf.ones_like(zeros), trainable=False, name="scale")
        self._ndims = stepped.ndim

    def adapt(self, x: np.ndarray) -> None:
        """Set `shift` and `scale` to mean and deviation of the columns of `x`."""
        deviation = x.std(0)
        self.shift.assign(x.mean(0))
        self.scale.assign(np.where(deviation > 0, deviation, 1))

    def __call__(
        self, x: tf.Tensor, samples: int, seed: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Noise `(samples, ..., stepped columns)` in (0, 1) given `x`, `(..., columns)`, and its
        log-density `(samples, ...)`; on a grid, `(samples, ..., *grid, columns)`."""
        context = (x - self.shift) / self.scale
        v, log_density = self.flow.sample_and_log_prob(samples, context=context, seed=seed)
        log_slopes = -tf.math.softplus(v) - tf.math.softplus(-v)
        axes = list(range(-self._ndims, 0))
        return tf.sigmoid(v), log_density - tf.reduce_sum(log_slopes, axes)


def _affine_flow(
    shape: tuple[int, ...],
    context_size: Any,
    hidden_units: Sequence[int],
    dtype: tf.DType,
    seed: int | None,
) -> Flow:
    """Two affine couplings, or one that keeps nothing if there is one column only."""
    zeros, alone = tf.zeros(shape, dtype), shape == (1,)
    couplings = [
        Coupling(
            shape if len(shape) > 1 else shape[0],
            Affine(),
            hidden_units,
            mask="half" if len(shape) == 1 else "checkerboard",
            flip=flip and not alone,
            context_size=context_size,
            dtype=dtype,
            seed=derived_seed(seed, int(flip)),
        )
        for flip in (False, True)[: 1 if alone else 2]
    ]
    base = tfd.Independent(tfd.Logistic(zeros, 1), len(shape))
    return Flow(base, tfb.Chain(couplings), name="noise")


def checked_steps(steps: Any, shape: Sequence[int]) -> np.ndarray:
    """One step for every entry of an event; a ValueError if they are not steps."""
    try:
        array = np.broadcast_to(np.asarray(steps, "float64"), shape)
    except (TypeError, ValueError):
        array = np.zeros(0)
    if not (array.size and np.isfinite(array).all() and (array >= 0).all() and array.any()):
        many = f"{shape[0]}, one per column" if len(shape) == 1 else f"numbers of shape {shape}"
        raise ValueError(
            f"`steps` must be a number or {many}, at least 0 and finite, not all 0. "
            f"Received: steps={steps!r}"
        )
    return array


def round_to(x: tf.Tensor, steps: np.ndarray, lowest: float) -> tf.Tensor:
    """`x` to multiples of the steps, whose cells begin `lowest` steps from them."""
    stepped = steps > 0
    widths = np.where(stepped, steps, 1.0)
    # By division where 1 / width is whole: 3 / 10 is the number that reads 0.3, 3 * 0.1 is not.
    parts = np.maximum(np.round(1 / widths), 1)
    by_parts = np.abs(parts * widths - 1) < 1e-9
    width, part = tf.constant(widths, x.dtype), tf.constant(parts, x.dtype)
    count = tf.floor(tf.where(by_parts, x * part, x / width) - lowest)
    rounded = tf.where(by_parts, count / part, count * width)
    return tf.where(stepped, rounded, x)
