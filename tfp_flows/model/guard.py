"""What is done when a loss is not finite: stop, say which layer made it, keep the best weights."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_flows.distributions.chain import flatten_chain
from tfp_flows.ops.internals import TransformedDistributionBase

__all__ = ["StopOnNonFinite", "all_finite", "explain_non_finite"]


class StopOnNonFinite(keras.callbacks.Callback):
    """End training when the loss is NaN or infinite: say why, and go back to the best weights.

    `FlowModel.fit` puts it into every training. Its training step changes nothing once a loss or a
    gradient is not finite, so that the weights that made it are still there to be examined.

    Args:
      explain: called once the loss is bad, returns a sentence for the warning.
    """

    def __init__(self, explain: Callable[[], str]):
        super().__init__()
        self._explain = explain
        self._monitor = "loss"
        self._best = math.inf
        self._weights: list[np.ndarray] | None = None

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        loss = (logs or {}).get("loss")
        if loss is None or self.model.stop_training or math.isfinite(loss):
            return
        reason = self._explain()
        if self._weights is not None:
            self.model.set_weights(self._weights)
        kept = "last" if self._weights is None else "best"
        warnings.warn(
            f"Training stopped at batch {batch}: the loss is not finite. {reason} "
            f"The {kept} finite weights are kept.",
            RuntimeWarning,
            stacklevel=2,
        )
        self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        logs = logs or {}
        if "val_loss" in logs and self._monitor == "loss":
            self._monitor, self._best = "val_loss", math.inf
        value = logs.get(self._monitor, math.nan)
        if value < self._best:
            self._best, self._weights = value, self.model.get_weights()


def all_finite(tensors: Iterable[Any]) -> tf.Tensor:
    """Whether all numbers in all tensors are finite, those left out that are None."""
    # Of finite numbers, a sum is finite, unless they are beyond use.
    sums = [tf.reduce_sum(tensor) for tensor in tensors if tensor is not None]
    return tf.math.is_finite(tf.add_n([tf.cast(part, tf.float64) for part in sums]))


def explain_non_finite(
    distribution: tfd.Distribution, batches: Iterator[tuple[tf.Tensor | None, tf.Tensor]]
) -> str:
    """Say which layer makes the first value that is not finite, on the way from data to base.

    Args:
      distribution: what is trained.
      batches: standardized context, or None, and events.
    """
    for context, x in itertools.islice(batches, 50):  # A dataset may repeat without end.
        given = distribution if context is None else distribution.given(context)
        found = _first_bad_value(given, x) or _first_bad_gradient(given, x)
        if found:
            return found
    return "It could not be found again on the data."


def _first_bad_value(distribution: tfd.Distribution, x: tf.Tensor) -> str | None:
    steps: list = []
    base = distribution
    if isinstance(distribution, TransformedDistributionBase):
        steps, base = flatten_chain(distribution.bijector), distribution.distribution
    event_ndims = distribution.event_shape.rank
    for k, step in enumerate(steps, start=1):
        x = tf.identity(x)  # Values from before the last update must not come from a cache.
        inverse = step.inverse(x)
        log_det = step.inverse_log_det_jacobian(x, event_ndims)
        place = f"bijector {k} of {len(steps)} from the data, {step.name!r}"
        if not _finite(inverse):
            return f"The first layer to give {_kind(inverse)} is {place}."
        if not _finite(log_det):
            return f"The first layer to give {_kind(log_det)} is {place}, in its log-determinant."
        x = inverse
    log_prob = base.log_prob(x)
    if not _finite(log_prob):
        return f"The first to give {_kind(log_prob)} is the base distribution, {base.name!r}."
    return None


def _first_bad_gradient(distribution: tfd.Distribution, x: tf.Tensor) -> str | None:
    variables = distribution.trainable_variables
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(distribution.log_prob(x))
    gradients = dict(zip([v.ref() for v in variables], tape.gradient(loss, variables), strict=True))
    # The gradient runs from the base back to the data: the base's side is where it breaks first.
    for step in reversed(flatten_chain(getattr(distribution, "bijector", None))):
        for variable in getattr(step, "trainable_variables", ()):
            gradient = gradients.get(variable.ref())
            if gradient is not None and not _finite(gradient):
                return (
                    f"All values are finite, but not the gradient of {variable.name!r} in bijector "
                    f"{step.name!r}."
                )
    return None


def _finite(x: tf.Tensor) -> bool:
    return bool(tf.reduce_all(tf.math.is_finite(x)))


def _kind(x: tf.Tensor) -> str:
    return "a NaN" if bool(tf.reduce_any(tf.math.is_nan(x))) else "an infinite value"
