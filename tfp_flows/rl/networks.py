"""Networks to one number, and the steps by which agents train what they have."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from tfp_flows.model.adam import one_operation_a_weight
from tfp_flows.networks import MLP
from tfp_flows.ops.seeds import derived_seed

__all__ = ["Rate", "adam", "descend", "follow", "network"]

Rate: TypeAlias = float | keras.optimizers.schedules.LearningRateSchedule


def network(
    input_size: int, hidden_units: Sequence[int], *, dtype: str, seed: int | None, name: str
) -> keras.Sequential:
    """An MLP to one number: `(batch, input_size) -> (batch, 1)`."""
    features = MLP(hidden_units, seed=seed, dtype=dtype)
    last = keras.initializers.GlorotUniform(derived_seed(seed, len(hidden_units)))
    return keras.Sequential(
        [
            keras.layers.Input((input_size,), dtype=dtype),
            features,
            keras.layers.Dense(1, kernel_initializer=last, dtype=dtype),
        ],
        name=name,
    )


def adam(learning_rate: Rate, variables: Sequence[Any]) -> keras.optimizers.Adam:
    """Adam with its moments, for these variables.

    Raises:
      ValueError: the learning rate is neither a positive number nor a schedule.
    """
    if not isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule) and not (
        isinstance(learning_rate, int | float) and 0 < learning_rate < math.inf
    ):
        raise ValueError(
            "`learning_rate` must be a positive number, or a schedule of Keras'. "
            f"Received: learning_rate={learning_rate!r}"
        )
    optimizer = keras.optimizers.Adam(learning_rate)
    optimizer.build(list(variables))
    return optimizer


def descend(
    optimizer: keras.optimizers.Optimizer,
    loss: Callable[[], tuple[tf.Tensor, Any]],
    variables: Sequence[Any],
    *,
    clip: float | None = None,
) -> tuple[tf.Tensor, Any]:
    """A step down the gradient of a loss, which comes with anything else; both are returned.

    Args:
      optimizer: built for the variables.
      loss: a function of nothing.
      variables: what changes.
      clip: the largest norm of the gradient, or None.
    """
    with tf.GradientTape() as tape:
        value, other = loss()
    gradients = tape.gradient(value, [v.value for v in variables])
    if clip is not None:
        gradients, _ = tf.clip_by_global_norm(gradients, clip)
    with one_operation_a_weight(optimizer):
        optimizer.apply(gradients, list(variables))
    return value, other


def follow(targets: Sequence[Any], sources: Sequence[Any], rate: float) -> None:
    """Move targets by `rate` of the way towards their sources."""
    for target, source in zip(targets, sources, strict=True):
        target.assign(target + rate * (source - target))
