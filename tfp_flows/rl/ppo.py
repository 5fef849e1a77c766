"""PPO: a policy gradient, with a policy that is any flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.ops.checks import positive_int
from tfp_flows.rl.agent import Agent
from tfp_flows.rl.arguments import in_interval, rows_of
from tfp_flows.rl.environment import Transition
from tfp_flows.rl.memory import Memory
from tfp_flows.rl.networks import Rate, adam, descend, network
from tfp_flows.rl.policy import FlowPolicy

__all__ = ["PPO", "advantages"]

_MAX_GRADIENT = 0.5  # Norm of that of the policy.


class PPO(Agent):
    """Proximal policy optimization: a policy gradient that stays near the policy that acted.

    After `rollout` steps in every environment, with the advantages `A` of generalized advantage
    estimation, scaled to mean 0 and deviation 1 in each batch, `epochs` passes over the steps go

    policy: up `min(ρ A, clip(ρ, 1 - ε, 1 + ε) A)`, `ρ = π(a|s) / π_old(a|s)`, and up `entropy`
      times the policy's entropy
    value: down `(V(s) - A - V_old(s))²`

    in one `tf.function`. The policy's `u` before the squashing is kept, not the action: `ρ` is that
    of the densities of `u`, the same number without its rounding. An episode that was truncated
    goes on in `A` with the value of where it was cut.

    The flow's `log_prob` and `sample` both are needed: take one with both in one pass.

    Args:
      env: as in `SAC`.
      policy: a flow's name, "gaussian", or a `FlowPolicy`.
      hidden_units: widths of the value's hidden layers.
      learning_rate: Adam's, a number, or a schedule of Keras' over updates.
      discount: γ.
      trace: λ of generalized advantage estimation, in `[0, 1]`.
      clip: ε.
      entropy: weight of the entropy, in units of scaled advantages a nat.
      rollout: steps in every environment between updates.
      epochs: passes over these steps.
      batch_size: rows of a batch.
      environments: how many are stepped at a time.
      seed: integer for a run that can be repeated, or None.

    Raises:
      ValueError: a space is not supported, `policy` does not fit, or a number is out of its range.
      TypeError: `env` or `policy` is of another type.
      ImportError: gymnasium is not installed.

    Source: John Schulman et al., "Proximal Policy Optimization Algorithms" (2017), and
    "High-Dimensional Continuous Control Using Generalized Advantage Estimation" (2016).

    Example:
      >>> agent = rl.PPO("Pendulum-v1", policy="gaussian", environments=2, rollout=32, seed=0)
      >>> history = agent.fit(64, verbose=0)
    """

    def __init__(
        self,
        env: Any,
        policy: str | FlowPolicy = "neural_spline",
        *,
        hidden_units: Sequence[int] = (64, 64),
        learning_rate: Rate = 1e-3,
        discount: float = 0.99,
        trace: float = 0.95,
        clip: float = 0.2,
        entropy: float = 0.0,
        rollout: int = 512,
        epochs: int = 10,
        batch_size: int = 64,
        environments: int = 8,
        seed: int | None = None,
    ):
        super().__init__(env, policy, environments=environments, seed=seed)
        self.discount = in_interval(discount, "discount", "[0, 1)")
        self.trace = in_interval(trace, "trace", "[0, 1]")
        self.clip = in_interval(clip, "clip", "(0, 1)")
        self.entropy = in_interval(entropy, "entropy", "(-inf, inf)")
        self.rollout = positive_int(rollout, "rollout")
        self.epochs = positive_int(epochs, "epochs")
        self.batch_size = min(positive_int(batch_size, "batch_size"), rollout * environments)
        size = self.environments.observation_size
        self._steps = Memory(
            rollout,
            self.dtype,
            observations=(environments, size),
            latents=(environments, self.policy.action_size),
            log_probs=(environments,),
            rewards=(environments,),
            next_observations=(environments, size),
            terminated=(environments,),
            done=(environments,),
        )
        self.value_network = network(
            size, hidden_units, dtype=self.dtype, seed=self._seed, name="value"
        )
        # Two, for what units rewards have is no matter to the policy.
        self._trained = [self.model.trainable_variables, self.value_network.trainable_variables]
        self._optimizers = [adam(learning_rate, weights) for weights in self._trained]
        self._update_all = tf.function(self._update, autograph=False)

    @property
    def _memory(self) -> Memory:
        return self._steps

    def _variables(self) -> list[Any]:
        moments = [v for optimizer in self._optimizers for v in optimizer.variables]
        return [*self.model.variables, *self.value_network.variables, *moments]

    def value(self, observations: Any) -> tf.Tensor:
        """`V(s)`, `(n,)`, in units of rewards."""
        size = self.environments.observation_size
        return self.value_network(rows_of(observations, size, "observations", self.dtype))[:, 0]

    def _explore(self, observations: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        actions, latents, log_probs = self._draw(observations)
        return actions, {"latents": latents, "log_probs": log_probs}

    def _learn(self, transition: Transition, known: dict[str, np.ndarray]) -> dict[str, Any]:
        rows = {
            "observations": transition.observations,
            "rewards": transition.rewards,
            "next_observations": transition.next_observations,
            "terminated": transition.terminated,
            "done": transition.done,
            **known,
        }
        self._steps.add(**{name: array[np.newaxis] for name, array in rows.items()})
        if len(self._steps) < self.rollout:
            return {}
        kept = {name: tf.constant(array) for name, array in self._steps.all().items()}
        self._steps.clear()
        count = self.rollout * self.environments.count
        batches = count // self.batch_size
        orders = [
            self._rng.permutation(count)[: batches * self.batch_size].reshape(batches, -1)
            for _ in range(self.epochs)
        ]
        return self._update_all(kept, tf.constant(np.concatenate(orders)), self._next_seed())

    def _update(
        self, kept: dict[str, tf.Tensor], order: tf.Tensor, seed: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """All passes over steps `(rollout, environments, ...)`; each row of `order` is a batch."""

        def values(observations: tf.Tensor) -> tf.Tensor:
            flat = tf.reshape(observations, [-1, observations.shape[-1]])
            return tf.reshape(self.value_network(flat), tf.shape(observations)[:-1])

        before = values(kept["observations"])
        gains = advantages(
            kept["rewards"],
            before,
            values(kept["next_observations"]) * (1 - kept["terminated"]),
            kept["done"],
            discount=self.discount,
            trace=self.trace,
        )
        names = ("observations", "latents", "log_probs")
        rows = {name: _merge(kept[name]) for name in names}
        rows |= {"gains": _merge(gains), "returns": _merge(gains + before)}
        number = tf.shape(order)[0]
        zeros = tf.zeros([4], self.policy.dtype)

        def step(i: tf.Tensor, totals: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            batch = {name: tf.gather(array, order[i]) for name, array in rows.items()}
            draw = tf.random.experimental.stateless_fold_in(seed, i)

            def policy_loss() -> tuple[tf.Tensor, tf.Tensor]:
                return self._policy_loss(batch, draw)

            def value_loss() -> tuple[tf.Tensor, None]:
                values = self.value_network(batch["observations"])[:, 0]
                return tf.reduce_mean((values - batch["returns"]) ** 2), None

            _, metrics = descend(
                self._optimizers[0], policy_loss, self._trained[0], clip=_MAX_GRADIENT
            )
            value, _ = descend(self._optimizers[1], value_loss, self._trained[1])
            return i + 1, totals + tf.concat([metrics, [value]], 0)

        _, totals = tf.while_loop(lambda i, _: i < number, step, (tf.constant(0), zeros))
        means = tf.unstack(totals / tf.cast(number, totals.dtype))
        return dict(zip(("policy_loss", "entropy", "clipped", "value_loss"), means, strict=True))

    def _policy_loss(
        self, batch: dict[str, tf.Tensor], seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        observations, gains = batch["observations"], batch["gains"]
        gains = (gains - tf.reduce_mean(gains)) / (tf.math.reduce_std(gains) + 1e-8)
        log_probs = self.policy.unsquashed.log_prob(batch["latents"], context=observations)
        ratio = tf.exp(log_probs - batch["log_probs"])
        near = tf.clip_by_value(ratio, 1 - self.clip, 1 + self.clip)
        policy = -tf.reduce_mean(tf.minimum(ratio * gains, near * gains))
        if self.entropy:
            _, drawn = self.policy.sample_and_log_prob(context=observations, seed=seed)
            entropy = -tf.reduce_mean(drawn)
        else:
            entropy = -tf.reduce_mean(log_probs)  # Of what acted, before the squashing.
        clipped = tf.reduce_mean(tf.cast(tf.abs(ratio - 1) > self.clip, ratio.dtype))
        return policy - self.entropy * entropy, tf.stack([policy, entropy, clipped])


def advantages(
    rewards: tf.Tensor,
    values: tf.Tensor,
    next_values: tf.Tensor,
    done: tf.Tensor,
    *,
    discount: float,
    trace: float,
) -> tf.Tensor:
    """`Aₜ = δₜ + γ λ Aₜ₊₁`, `δₜ = rₜ + γ V(s') - V(s)`, begun anew where an episode ended.

    All are `(steps, environments)`; `next_values` are 0 where an episode terminated, and the value
    of the state that was reached where it was truncated.
    """
    errors = rewards + discount * next_values - values
    decay = discount * trace * (1 - done)
    return tf.scan(
        lambda after, now: now[0] + now[1] * after,
        (errors, decay),
        initializer=tf.zeros_like(errors[0]),
        reverse=True,
    )


def _merge(array: tf.Tensor) -> tf.Tensor:
    """The first two axes as one."""
    return tf.reshape(array, tf.concat([[-1], tf.shape(array)[2:]], 0))
