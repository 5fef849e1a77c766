"""SAC: soft actor-critic, with a policy that is any flow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.ops.seeds import derived_seed
from tfp_flows.rl.arguments import in_interval, rows_of
from tfp_flows.rl.networks import Rate, adam, descend, follow, network
from tfp_flows.rl.off_policy import Batch, OffPolicy
from tfp_flows.rl.policy import FlowPolicy

__all__ = ["SAC"]


class SAC(OffPolicy):
    """Soft actor-critic: a policy π, two critics Q₁ and Q₂, and a temperature α, all learned.

    With targets Q̄ that follow the critics, an update of a batch of steps `(s, a, r, s')` does

    critics: down `Σᵢ (Qᵢ(s, a) - y)²`, `y = r + γ (minᵢ Q̄ᵢ(s', a') - α log π(a'|s'))`, `a' ~ π`,
      with `y = r` where the episode terminated; one that was only truncated goes on in `y`
    policy: down `α log π(a|s) - minᵢ Qᵢ(s, a)`, `a ~ π`, by the gradient through the draw
    temperature: until the policy's entropy is `target_entropy`

    in one `tf.function`, and one such update a step. Entropies are those of actions whose box is
    `[-1, 1]`, so that units of actions do not matter; critics read actions in it, too.

    A "gaussian" policy is the baseline. With a flow the policy can have several modes and keep
    them. Its cost is that of the flow's sampling: take one that samples in one pass.

    Args:
      env: an id of gymnasium's, an environment that `gymnasium.make` made, or a function that makes
        one, with vectors in a box as observations, and a bounded box of actions.
      policy: a flow's name, "gaussian", or a `FlowPolicy`.
      hidden_units: widths of the critics' hidden layers.
      learning_rate: Adam's, of all parts: a number, or a schedule of Keras' over updates.
      discount: γ.
      target_rate: how far targets move towards the critics in an update.
      target_entropy: in nats; minus the number of actions' columns if None.
      temperature: α at the start.
      batch_size: rows of an update.
      memory_size: steps that are remembered.
      warmup: steps of uniformly drawn actions at the start.
      warmup_hold: steps for which each of them is kept. Where single pushes cancel out, as
        on a slope, longer ones come further.
      environments: how many are stepped at a time, with as many updates.
      seed: integer for a run that can be repeated, or None.

    Raises:
      ValueError: a space is not supported, `policy` does not fit, or a number is out of its range.
      TypeError: `env` or `policy` is of another type.
      ImportError: gymnasium is not installed.

    Source: Tuomas Haarnoja et al., "Soft Actor-Critic Algorithms and Applications" (2018); with
    flows, Bogdan Mazoure et al., "Leveraging Exploration in Off-Policy Algorithms via Normalizing
    Flows" (2019), and Patrick Nadeem Ward et al., "Improving Exploration in Soft-Actor-Critic with
    Normalizing Flows Policies" (2019).

    Example:
      >>> agent = rl.SAC("Pendulum-v1", policy="neural_spline", warmup=50, seed=0)
      >>> history = agent.fit(100, verbose=0)
      >>> agent.act([1.0, 0.0, 0.0])     # (1,)
      >>> print(agent.evaluate(episodes=2))     # mean ± standard error
    """

    def __init__(
        self,
        env: Any,
        policy: str | FlowPolicy = "neural_spline",
        *,
        hidden_units: Sequence[int] = (256, 256),
        learning_rate: Rate = 3e-4,
        discount: float = 0.99,
        target_rate: float = 0.005,
        target_entropy: float | None = None,
        temperature: float = 1.0,
        batch_size: int = 256,
        memory_size: int = 1_000_000,
        warmup: int = 1000,
        warmup_hold: int = 1,
        environments: int = 1,
        seed: int | None = None,
    ):
        super().__init__(
            env,
            policy,
            environments=environments,
            seed=seed,
            discount=discount,
            batch_size=batch_size,
            memory_size=memory_size,
            warmup=warmup,
            warmup_hold=warmup_hold,
        )
        in_interval(temperature, "temperature", "(0, inf)")
        self.target_rate = in_interval(target_rate, "target_rate", "(0, 1]")
        size = self.policy.action_size
        target_entropy = -size if target_entropy is None else target_entropy
        self.target_entropy = in_interval(target_entropy, "target_entropy", "(-inf, inf)")
        half_widths = (self.policy.action_high - self.policy.action_low) / 2
        self._middle = self._cast((self.policy.action_high + self.policy.action_low) / 2)
        self._half_widths = self._cast(half_widths)
        self._log_volume = float(np.log(half_widths).sum())
        width = self.environments.observation_size + size
        seeds = [derived_seed(self._seed, 100 * (i + 1)) for i in range(2)]
        self.critics, self._targets = (
            [
                network(width, hidden_units, dtype=self.dtype, seed=s, name=f"{name}_{i}")
                for i, s in enumerate(seeds)
            ]
            for name in ("critic", "target")
        )
        self._log_temperature = keras.Variable(math.log(temperature), dtype=self.dtype)
        self._critic_weights = [w for critic in self.critics for w in critic.trainable_variables]
        self._target_weights = [w for target in self._targets for w in target.trainable_variables]
        self._policy_weights = self.model.trainable_variables
        self._optimizers = [
            adam(learning_rate, weights)
            for weights in (self._critic_weights, self._policy_weights, [self._log_temperature])
        ]

    @property
    def temperature(self) -> float:
        """α as it is now."""
        return float(np.exp(self._log_temperature.numpy()))

    def _variables(self) -> list[Any]:
        moments = [v for optimizer in self._optimizers for v in optimizer.variables]
        weights = [*self._critic_weights, *self._target_weights, self._log_temperature]
        return [*self.model.variables, *weights, *moments]

    def value(self, observations: Any, actions: Any) -> tf.Tensor:
        """`min(Q₁, Q₂)`, the soft value of actions, `(n,)`, in units of rewards."""
        size = self.environments.observation_size
        observations = rows_of(observations, size, "observations", self.dtype)
        actions = rows_of(actions, self.policy.action_size, "actions", self.dtype)
        pairs = tf.constant(observations), tf.constant(actions)
        return tf.reduce_min(self._values(self.critics, *pairs), 0)

    def _values(
        self, critics: Sequence[keras.Model], observations: tf.Tensor, actions: tf.Tensor
    ) -> tf.Tensor:
        inputs = tf.concat([observations, (actions - self._middle) / self._half_widths], -1)
        return tf.stack([critic(inputs)[:, 0] for critic in critics])

    def _act_softly(self, observations: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Actions, and their log-densities in the box `[-1, 1]`."""
        actions, log_prob = self.policy.sample_and_log_prob(context=observations, seed=seed)
        return actions, log_prob + tf.constant(self._log_volume, log_prob.dtype)

    def _update(self, batch: Batch, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        seeds = tfp.random.split_seed(seed, 2)
        observations, following = batch["observations"], batch["next_observations"]
        temperature = tf.exp(self._log_temperature.value)

        actions, log_prob = self._act_softly(following, seeds[0])
        value = tf.reduce_min(self._values(self._targets, following, actions), 0)
        value = batch["continues"] * (value - temperature * log_prob)
        wanted = tf.stop_gradient(batch["rewards"] + self.discount * value)

        def critic_loss() -> tuple[tf.Tensor, tf.Tensor]:
            taken = self.policy.squash.forward(batch["latents"])
            values = self._values(self.critics, observations, taken)
            return tf.reduce_sum(tf.reduce_mean((values - wanted) ** 2, -1)) / 2, values

        def policy_loss() -> tuple[tf.Tensor, tf.Tensor]:
            actions, log_prob = self._act_softly(observations, seeds[1])
            value = tf.reduce_min(self._values(self.critics, observations, actions), 0)
            return tf.reduce_mean(temperature * log_prob - value), log_prob

        critic, values = descend(self._optimizers[0], critic_loss, self._critic_weights)
        policy, log_prob = descend(self._optimizers[1], policy_loss, self._policy_weights)
        entropy = -tf.reduce_mean(log_prob)
        excess = tf.stop_gradient(entropy - self.target_entropy)
        descend(
            self._optimizers[2],
            lambda: (self._log_temperature.value * excess, None),
            [self._log_temperature],
        )
        follow(self._target_weights, self._critic_weights, self.target_rate)
        return {
            "critic_loss": critic,
            "policy_loss": policy,
            "value": tf.reduce_mean(values),
            "entropy": entropy,
            "temperature": temperature,
        }
