"""FlowActorCritic: one flow that is policy, soft action-value and soft value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tfp_flows import flows
from tfp_flows.bijectors.transformers import Additive
from tfp_flows.distributions import Flow
from tfp_flows.ops.seeds import derived_seed
from tfp_flows.rl.arguments import in_interval, rows_of
from tfp_flows.rl.environment import Environments, maker_of
from tfp_flows.rl.layers import location_scale
from tfp_flows.rl.networks import Rate, adam, descend, follow, network
from tfp_flows.rl.off_policy import Batch, OffPolicy
from tfp_flows.rl.policy import FlowPolicy

__all__ = ["FlowActorCritic"]

_MAX_GRADIENT = 30.0
# Of what a narrower policy would not do, Q would be so low that its errors drown all others. The
# density of actions that are pushed against the ends of the box has no bound, and where it grows, Q
# does: a wider policy, or one farther out, would promise rewards that no environment gives.
_MAX_LOG_SCALE = 1.0
_MAX_SHIFT = 2.0


class FlowActorCritic(OffPolicy):
    """Maximum-entropy learning by one flow, which gives the policy π, and Q and V exactly.

    The flow is additive couplings of the action given the observation, one scale `σᵢ(s)` and shift
    a column, and the squashing, `a = m + h tanh(u)`. Its log-determinant has a part of the
    observation alone and one of the action. With base density `p` and temperature α,

    V: `V(s) = α Σ log σᵢ(s) + b(s)`
    Q: `Q(s, a) = α (log p(z) - Σ log |da/du|) + b(s)`, `z` what the flow maps to `a`
    policy: `π(a|s) = exp((Q(s, a) - V(s)) / α)`

    so that `∫ exp((Q - V) / α) da = 1` by construction: the policy is the softmax of Q, and V its
    normalization, with no integral to be estimated. The network `b` is a free shift of both.

    An update goes down `Σₖ (Qₖ(s, a) - y)²`, `y = r + γ minₖ V̄ₖ(s')`, in one `tf.function`. Two
    shifts `b₁` and `b₂` are trained; `V̄` is of copies that follow. There is no loss of the policy.

    Q can be no richer than the flow: of one column of actions it is a parabola in `u`, less
    `α log |da/du|`, and with more each column may be bent by the others. Where the best actions are
    far apart, or a low temperature meets values that a parabola cannot follow, take `SAC`. Every
    shift is within ±2, and `σ` between 1/e and e: of a policy that is pushed against an end of its
    box, the density grows without bound, and with it the values that are read from it.

    Entropies are those of actions in their own unit.

    Args:
      env: as in `SAC`.
      layers: how many additive couplings.
      hidden_units: widths of all networks' hidden layers.
      temperature: α, in units of rewards a nat. It stays; the larger, the wider the policy.
      learning_rate: Adam's, a number, or a schedule of Keras' over updates.
      discount: γ.
      target_rate: how far copies move in an update.
      batch_size: rows of an update.
      memory_size: steps that are remembered.
      warmup: steps of uniformly drawn actions at the start.
      warmup_hold: steps for which each of them is kept. Where single pushes cancel out, as
        on a slope, longer ones come further.
      environments: how many are stepped at a time, with as many updates.
      dtype: "float32" or "float64".
      seed: integer for a run that can be repeated, or None.

    Raises:
      ValueError: a space is not supported, or a number is out of its range.
      TypeError: `env` is of another type.
      ImportError: gymnasium is not installed.

    Source: after Chen-Hao Chao et al., "Maximum Entropy Reinforcement Learning via Energy-Based
    Normalizing Flow" (2024), MEow.

    Example:
      >>> agent = rl.FlowActorCritic("Pendulum-v1", warmup=50, seed=0)
      >>> history = agent.fit(100, verbose=0)
      >>> observations, actions = np.zeros((5, 3)), np.zeros((5, 1))
      >>> log_prob = (agent.q(observations, actions) - agent.v(observations)) / agent.temperature
      >>> log_prob.shape     # (5,)
    """

    def __init__(
        self,
        env: Any,
        *,
        layers: int = 2,
        hidden_units: Sequence[int] = (64, 64),
        temperature: float = 0.2,
        learning_rate: Rate = 1e-3,
        discount: float = 0.99,
        target_rate: float = 0.005,
        batch_size: int = 256,
        memory_size: int = 1_000_000,
        warmup: int = 1000,
        warmup_hold: int = 1,
        environments: int = 1,
        dtype: str = "float32",
        seed: int | None = None,
    ):
        self.temperature = in_interval(temperature, "temperature", "(0, inf)")
        self.target_rate = in_interval(target_rate, "target_rate", "(0, 1]")
        worlds = Environments(maker_of(env), 1, 0)
        size, width = worlds.observation_size, worlds.low.size
        worlds.close()
        couplings = flows.coupling(
            width,
            Additive(max_shift=_MAX_SHIFT),
            layers=layers,
            hidden_units=hidden_units,
            context_size=size,
            dtype=dtype,
            seed=seed,
        )
        scales = [
            location_scale(
                width,
                size,
                hidden_units,
                dtype=dtype,
                seed=derived_seed(seed, 1),
                max_log_scale=_MAX_LOG_SCALE,
                max_shift=_MAX_SHIFT,
            )
            for _ in range(2)
        ]
        flow = Flow(couplings.distribution, tfb.Chain([scales[0], couplings.bijector]))
        super().__init__(
            env,
            FlowPolicy(size, worlds.low, worlds.high, flow, dtype=dtype, seed=seed),
            environments=environments,
            seed=seed,
            discount=discount,
            batch_size=batch_size,
            memory_size=memory_size,
            warmup=warmup,
            warmup_hold=warmup_hold,
        )
        self._scale, self._target_scale = scales
        self._shifts, self._target_shifts = (
            [
                network(
                    size,
                    hidden_units,
                    dtype=dtype,
                    seed=derived_seed(seed, 100 * (i + 1)),
                    name=f"{name}_{i}",
                )
                for i in range(2)
            ]
            for name in ("shift", "target_shift")
        )
        shift_weights = [w for shift in self._shifts for w in shift.trainable_variables]
        self._weights = [*self.model.trainable_variables, *shift_weights]
        self._sources = [*self._scale.trainable_variables, *(w.value for w in shift_weights)]
        self._followers = [
            *self._target_scale.trainable_variables,
            *(w.value for shift in self._target_shifts for w in shift.trainable_variables),
        ]
        self._optimizer = adam(learning_rate, self._weights)

    def _variables(self) -> list[Any]:
        shifts = self._weights[len(self.model.trainable_variables) :]
        return [*self.model.variables, *shifts, *self._followers, *self._optimizer.variables]

    def q(self, observations: Any, actions: Any) -> tf.Tensor:
        """The soft action-value `Q(s, a)`, `(n,)`, in units of rewards, of the smaller shift."""
        actions = rows_of(actions, self.policy.action_size, "actions", self.dtype)
        log_prob = self.policy.log_prob(actions, context=self._rows(observations))
        return self.v(observations) + self.temperature * log_prob

    def v(self, observations: Any) -> tf.Tensor:
        """The soft value `V(s) = α log ∫ exp(Q(s, a) / α) da`, `(n,)`, in units of rewards."""
        return tf.reduce_min(self._values(self._rows(observations), self._scale, self._shifts), 0)

    def _rows(self, observations: Any) -> tf.Tensor:
        size = self.environments.observation_size
        return tf.constant(rows_of(observations, size, "observations", self.dtype))

    def _values(self, observations: tf.Tensor, scale: Any, shifts: Sequence[Any]) -> tf.Tensor:
        """V by each shift, `(2, n)`."""
        zeros = tf.zeros([tf.shape(observations)[0], scale.event_size], observations.dtype)
        log_det = scale.forward_log_det_jacobian(zeros, 1, context=observations)
        raised = tf.stack([shift(observations)[:, 0] for shift in shifts])
        return self.temperature * log_det + raised

    def _update(self, batch: Batch, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        following = self._values(
            batch["next_observations"], self._target_scale, self._target_shifts
        )
        value = batch["continues"] * tf.reduce_min(following, 0)
        wanted = tf.stop_gradient(batch["rewards"] + self.discount * value)
        observations, latents = batch["observations"], batch["latents"]

        def loss() -> tuple[tf.Tensor, tf.Tensor]:
            squashed = self.policy.squash.forward_log_det_jacobian(latents, 1)
            log_prob = self.policy.unsquashed.log_prob(latents, context=observations) - squashed
            # The parts of V in Q are those that cancel the same parts of `log_prob`.
            values = self._values(observations, self._scale, self._shifts)
            values += self.temperature * log_prob
            return tf.reduce_sum(tf.reduce_mean((values - wanted) ** 2, -1)) / 2, values

        loss_value, values = descend(self._optimizer, loss, self._weights, clip=_MAX_GRADIENT)
        follow(self._followers, self._sources, self.target_rate)
        return {"loss": loss_value, "value": tf.reduce_mean(values)}
