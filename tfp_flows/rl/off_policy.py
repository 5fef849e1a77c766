"""OffPolicy: agents that learn from a memory of past steps."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_flows.model.adam import one_operation_a_weight
from tfp_flows.networks import MLP
from tfp_flows.ops.checks import positive_int
from tfp_flows.ops.seeds import derived_seed
from tfp_flows.rl.agent import Agent
from tfp_flows.rl.environment import Transition
from tfp_flows.rl.memory import Memory
from tfp_flows.rl.policy import FlowPolicy

__all__ = ["OffPolicy", "descend", "follow", "network"]

Batch = dict[str, tf.Tensor]


class OffPolicy(Agent):
    """An agent that updates once a step from a batch of a memory, in one `tf.function`.

    A subclass gives `_update(batch, seed)`, which reads `observations`, `actions`, `rewards`,
    `next_observations` and `continues`, 0 where nothing comes after a step: where an episode
    terminated, but not where it was truncated.

    Args:
      discount: γ in `[0, 1)`.
      batch_size: rows of an update.
      memory_size: steps that are remembered.
      warmup: steps of actions drawn from the whole box, before the first update.
      others: as in `Agent`.
    """

    def __init__(
        self,
        env: Any,
        policy: str | FlowPolicy,
        *,
        environments: int,
        seed: int | None,
        discount: float,
        batch_size: int,
        memory_size: int,
        warmup: int,
    ):
        super().__init__(env, policy, environments=environments, seed=seed)
        if not 0 <= discount < 1:
            raise ValueError(f"`discount` must be in [0, 1). Received: discount={discount!r}")
        self.discount = discount
        self.batch_size = positive_int(batch_size, "batch_size")
        self.warmup = max(positive_int(warmup, "warmup"), environments)
        worlds = self.environments
        self._replay = Memory(
            memory_size,
            self.dtype,
            observations=(worlds.observation_size,),
            actions=(self.policy.action_size,),
            rewards=(),
            next_observations=(worlds.observation_size,),
            continues=(),
        )
        self._compiled = tf.function(self._update, autograph=False)

    @property
    def _memory(self) -> Memory:
        return self._replay

    @abc.abstractmethod
    def _update(self, batch: Batch, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """One update of everything; returns metrics."""

    def _explore(self, observations: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        worlds = self.environments
        if self.steps < self.warmup:
            size = (worlds.count, self.policy.action_size)
            return self._rng.uniform(worlds.low, worlds.high, size), {}
        context = tf.constant(self._cast(observations))
        actions = self._sample((), context=context, seed=tf.constant(self._next_seed()))
        return actions.numpy(), {}

    def _learn(self, transition: Transition, known: dict[str, np.ndarray]) -> dict[str, Any]:
        self._replay.add(
            observations=transition.observations,
            actions=transition.actions,
            rewards=transition.rewards,
            next_observations=transition.next_observations,
            continues=~transition.terminated,
        )
        metrics: dict[str, Any] = {}
        if self.steps >= self.warmup:
            for _ in range(self.environments.count):
                batch = self._replay.draw(self.batch_size, self._rng)
                tensors = {name: tf.constant(rows) for name, rows in batch.items()}
                metrics = self._compiled(tensors, tf.constant(self._next_seed()))
        return metrics


def network(
    input_size: int, hidden_units: Sequence[int], *, dtype: str, seed: int | None, name: str
) -> keras.Sequential:
    """An MLP to one number: `(batch, input_size) -> (batch, 1)`."""
    last = keras.initializers.GlorotUniform(derived_seed(seed, len(hidden_units)))
    return keras.Sequential(
        [
            keras.layers.Input((input_size,), dtype=dtype),
            MLP(hidden_units, seed=seed, dtype=dtype),
            keras.layers.Dense(1, kernel_initializer=last, dtype=dtype),
        ],
        name=name,
    )


def adam(learning_rate: float, variables: Sequence[Any]) -> keras.optimizers.Adam:
    """Adam with its moments, for these variables."""
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(
            f"`learning_rate` must be a positive number. Received: learning_rate={learning_rate!r}"
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
