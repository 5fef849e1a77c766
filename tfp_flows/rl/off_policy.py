"""OffPolicy: agents that learn from a memory of past steps."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.ops.checks import positive_int
from tfp_flows.rl.agent import Agent
from tfp_flows.rl.arguments import in_interval
from tfp_flows.rl.environment import Transition
from tfp_flows.rl.memory import Memory
from tfp_flows.rl.policy import FlowPolicy

__all__ = ["OffPolicy"]

Batch = dict[str, tf.Tensor]


class OffPolicy(Agent):
    """An agent that updates once a step from a batch of a memory, in one `tf.function`.

    A subclass gives `_update(batch, seed)`, which reads `observations`, `latents`, what actions
    were before the policy squashed them, `rewards`, `next_observations` and `continues`, 0 where
    nothing comes after a step: where an episode terminated, but not where it was truncated.

    Args:
      discount: γ in `[0, 1)`.
      batch_size: rows of an update.
      memory_size: steps that are remembered.
      warmup: steps of actions drawn from the whole box, before the first update.
      warmup_hold: steps for which each environment keeps such an action.
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
        warmup_hold: int,
    ):
        super().__init__(env, policy, environments=environments, seed=seed)
        self.discount = in_interval(discount, "discount", "[0, 1)")
        self.batch_size = positive_int(batch_size, "batch_size")
        self.warmup = max(positive_int(warmup, "warmup"), environments)
        self.warmup_hold = positive_int(warmup_hold, "warmup_hold")
        worlds = self.environments
        self._replay = Memory(
            positive_int(memory_size, "memory_size"),
            self.dtype,
            observations=(worlds.observation_size,),
            latents=(self.policy.action_size,),
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
        if self.steps < self.warmup:
            return self._uniform()
        actions, latents, _ = self._draw(observations)
        return actions, {"latents": latents}

    def _uniform(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Actions from the whole box, and what the policy would have squashed to them."""
        worlds, squash = self.environments, self.policy.squash
        # By the number of the draw alone, so that none need be kept, in checkpoints neither.
        draw = self.steps // (worlds.count * self.warmup_hold)
        rng = np.random.default_rng([self._seed, 0, 0, 1 + draw])
        shares = rng.uniform(1e-6, 1 - 1e-6, (worlds.count, self.policy.action_size))
        logits = np.log(shares) - np.log1p(-shares)
        latents = (logits - squash.shift.numpy()) / squash.scale.numpy()
        return worlds.low + (worlds.high - worlds.low) * shares, {"latents": latents}

    def _learn(self, transition: Transition, known: dict[str, np.ndarray]) -> dict[str, Any]:
        self._replay.add(
            observations=transition.observations,
            latents=known["latents"],
            rewards=transition.rewards,
            next_observations=transition.next_observations,
            continues=~transition.terminated,
        )
        metrics: dict[str, Any] = {}
        if self.steps >= self.warmup:
            for _ in range(self.environments.count):
                batch = self._replay.draw(self.batch_size, self._rng)
                tensors = {name: tf.constant(rows) for name, rows in batch.items()}
                metrics = self._compiled(tensors, self._next_seed())
        return metrics
