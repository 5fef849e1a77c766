"""Agent: the training loop, acting, judging and checkpoints that all agents share."""

from __future__ import annotations

import abc
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.model import FlowModel
from tfp_flows.ops.checks import positive_int
from tfp_flows.ops.seeds import check_seed
from tfp_flows.rl import checkpoints
from tfp_flows.rl.environment import Environments, Transition, maker_of
from tfp_flows.rl.judging import Evaluation, episodes_of, frames_of
from tfp_flows.rl.logs import Logs, Means
from tfp_flows.rl.memory import Memory
from tfp_flows.rl.policy import FlowPolicy

__all__ = ["Agent"]

_FORMAT = 1
_NEEDED = (
    *("variables", "memory", "environments", "returns", "steps", "episodes"),
    *("seed", "random", "history", "sums", "counts"),
)


class Agent(abc.ABC):
    """What acts in environments and learns from them.

    A subclass makes its networks and optimizers in the constructor, in attributes, and gives
    `_explore`, `_learn` and `_variables`.

    Args:
      env: an id of gymnasium's, an environment that was made by one, or a function that makes one.
      policy: a `FlowPolicy` for these observations and actions, or a flow's name for it.
      environments: how many are stepped at a time.
      seed: integer, by which equal runs give equal numbers, or None.
    """

    def __init__(self, env: Any, policy: str | FlowPolicy, *, environments: int, seed: int | None):
        check_seed(seed)
        self._make = maker_of(env)
        seed = int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1)  # Below 2³¹.
        self.environments = Environments(self._make, environments, seed)
        worlds = self.environments
        self.policy = self._checked(policy, seed)
        # Finds the policy's variables, as Keras' optimizers take them, and can be saved by itself.
        self.model = FlowModel(self.policy, name="policy")
        self.dtype = self.policy.dtype.name
        self.steps = 0
        self.history: list[dict[str, float]] = []
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self._means = Means()
        self._returns = np.zeros(worlds.count)
        self._episodes = 0
        self._draw_compiled = tf.function(
            self._draw_latents, autograph=False, reduce_retracing=True
        )
        self._decide_compiled = tf.function(
            self.policy.deterministic, autograph=False, reduce_retracing=True
        )

    def _checked(self, policy: str | FlowPolicy, seed: int) -> FlowPolicy:
        """The policy of a flow's name; or one that was given, if it fits the environment."""
        worlds = self.environments
        if isinstance(policy, str):
            size = worlds.observation_size
            return FlowPolicy(size, worlds.low, worlds.high, policy, seed=seed)
        if not isinstance(policy, FlowPolicy):
            raise TypeError(f"`policy` must be a name or a FlowPolicy. Received: policy={policy!r}")
        fits = (
            policy.observation_size == worlds.observation_size
            and policy.action_low.tolist() == worlds.low.tolist()
            and policy.action_high.tolist() == worlds.high.tolist()
        )
        if not fits:
            raise ValueError(
                f"`policy` must be for observations of size {worlds.observation_size} and actions "
                f"from {worlds.low.tolist()} to {worlds.high.tolist()}. Received: "
                f"observation_size={policy.observation_size}, "
                f"action_low={policy.action_low.tolist()}, "
                f"action_high={policy.action_high.tolist()}"
            )
        return policy

    @abc.abstractmethod
    def _explore(self, observations: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Actions to train by, `(n, action_size)`, and what else `_learn` wants to know of them."""

    @abc.abstractmethod
    def _learn(self, transition: Transition, known: dict[str, np.ndarray]) -> dict[str, Any]:
        """Learn from one step; return metrics, or none."""

    @abc.abstractmethod
    def _variables(self) -> list[Any]:
        """All variables of networks and optimizers, always in the same order."""

    @property
    @abc.abstractmethod
    def _memory(self) -> Memory:
        """What is remembered of the environments."""

    def fit(
        self,
        steps: int,
        *,
        csv_file: str | os.PathLike[str] | None = None,
        tensorboard: str | os.PathLike[str] | None = None,
        log_every: int = 1000,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 10_000,
        verbose: int = 1,
    ) -> list[dict[str, float]]:
        """Train for so many steps more, counted over all environments.

        Args:
          steps: how many; they are rounded up to a multiple of the number of environments.
          csv_file: path of a table with a row every `log_every` steps, from the first step of the
            agent's life on; its folder must exist.
          tensorboard: folder of event files with the same numbers.
          log_every: steps between rows.
          checkpoint: path to `save` to every `checkpoint_every` steps and at the end.
          checkpoint_every: steps between checkpoints.
          verbose: 1 for a progress bar, 0 for none.

        Returns:
          all rows of the agent's life: `steps`, `episodes` that ended so far, the mean `return` of
          those that ended since the last row (NaN without any), `seconds` of this call, and means
          of the agent's metrics.

        Raises:
          ValueError: a number is not a positive integer.
        """
        for name, value in [
            ("steps", steps),
            ("log_every", log_every),
            ("checkpoint_every", checkpoint_every),
        ]:
            positive_int(value, name)
        began = time.monotonic()
        logs = Logs(
            self.history,
            csv_file=csv_file,
            tensorboard=tensorboard,
            start=self.steps,
            end=self.steps + steps,
            verbose=verbose,
        )
        end = self.steps + steps
        try:
            while self.steps < end:
                before = self.steps
                transition = self._step()
                self._count(transition)
                if self.steps // log_every > before // log_every:
                    row = {"steps": self.steps, "episodes": self._episodes, "return": np.nan}
                    logs.row(row | {"seconds": time.monotonic() - began} | self._means.take())
                logs.step(min(self.steps, end))
                due = self.steps // checkpoint_every > before // checkpoint_every
                if checkpoint is not None and (due or self.steps >= end):
                    self.save(checkpoint)
        finally:
            logs.close()
        return self.history

    def _step(self) -> Transition:
        """One step in all environments, and what is learned from it."""
        worlds = self.environments
        actions, known = self._explore(worlds.observations)
        transition = worlds.step(actions)
        self.steps += worlds.count
        self._means.add(self._learn(transition, known))
        return transition

    def _count(self, transition: Transition) -> None:
        """Sum up rewards of episodes, and tell those that ended."""
        self._returns += transition.rewards
        for i in np.flatnonzero(transition.done):
            self._means.add({"return": self._returns[i]})
            self._episodes += 1
            self._returns[i] = 0.0

    def _next_seed(self) -> tf.Tensor:
        """A seed of TensorFlow's, of the agent's own stream of random numbers."""
        return tf.constant(_seed_of(self._rng))

    def _draw_latents(self, observations: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
        flow = self.policy.unsquashed
        latents, log_probs = flow.sample_and_log_prob(context=observations, seed=seed)
        return self.policy.squash.forward(latents), latents, log_probs

    def _draw(self, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Actions, what they were before the squashing, and the log-densities of these."""
        context = tf.constant(self._cast(observations))
        drawn = self._draw_compiled(context, self._next_seed())
        actions, latents, log_probs = (part.numpy() for part in drawn)
        return actions, latents, log_probs

    def _cast(self, array: np.ndarray) -> np.ndarray:
        return np.asarray(array, self.dtype)

    def act(
        self, observation: Any, *, deterministic: bool = True, seed: int | None = None
    ) -> np.ndarray:
        """The action for an observation, or those for `(n, ...)` of them.

        Args:
          observation: as the environment gives it.
          deterministic: whether to act by `FlowPolicy.deterministic`, or by a draw.
          seed: integer for the draw, or None.
        """
        observation = np.asarray(observation)
        size = self.environments.observation_size
        batch = observation.shape[: observation.ndim - 1]
        if observation.ndim == 0 or observation.shape[-1] != size or observation.ndim > 2:
            raise ValueError(
                f"`observation` must have shape ({size},) or (n, {size}). "
                f"Received: shape={observation.shape}"
            )
        context = tf.constant(self._cast(observation.reshape(-1, size)))
        if deterministic:
            actions = self._decide_compiled(context)
        else:
            rng = np.random.default_rng(check_seed(seed))
            actions, *_ = self._draw_compiled(context, tf.constant(_seed_of(rng)))
        return actions.numpy().reshape(*batch, self.policy.action_size)

    def evaluate(
        self, episodes: int = 10, *, deterministic: bool = True, seed: int = 0
    ) -> Evaluation:
        """Returns of new episodes, in environments of their own; training is not touched.

        Episodes run 16 at a time, each to its end, so that long ones count as much as short ones.
        Equal seeds give equal episodes.
        """
        positive_int(episodes, "episodes")
        rng = np.random.default_rng(check_seed(seed))
        found = episodes_of(self._make, self._actor(deterministic), episodes, rng)
        return Evaluation(np.array([rewards.sum() for _, rewards in found]))

    def trajectories(
        self, episodes: int = 10, *, deterministic: bool = True, seed: int = 0
    ) -> list[np.ndarray]:
        """Observations of new episodes, each `(steps + 1, observation_size)`, first to last."""
        positive_int(episodes, "episodes")
        rng = np.random.default_rng(check_seed(seed))
        found = episodes_of(self._make, self._actor(deterministic), episodes, rng)
        return [observations for observations, _ in found]

    def frames(self, *, deterministic: bool = True, seed: int = 0) -> np.ndarray:
        """Pictures of a new episode, `(steps, height, width, 3)`, as `plt.imshow` takes each.

        The environment is made with `render_mode="rgb_array"`, which may need packages of its own.
        """
        rng = np.random.default_rng(check_seed(seed))
        return frames_of(self._make, self._actor(deterministic), rng)

    def _actor(self, deterministic: bool) -> Callable[[np.ndarray, int], np.ndarray]:
        return lambda observations, seed: self.act(
            observations, deterministic=deterministic, seed=seed
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that training goes on from, as one `.npz` file of plain arrays.

        It has the weights, the optimizers' moments, what is remembered, the random numbers to come,
        the rows of the logs, and the state of the environments, told by their seeds and actions.
        """
        state = {
            "variables": {str(i): v.numpy() for i, v in enumerate(self._variables())},
            "memory": self._memory.state(),
            "environments": self.environments.state(),
            "returns": {"running": self._returns},
        }
        numbers = {
            "format": _FORMAT,
            "agent": type(self).__name__,
            "steps": self.steps,
            "episodes": self._episodes,
            "seed": self._seed,
            "random": self._rng.bit_generator.state,
            "history": self.history,
            "sums": self._means.sums,
            "counts": self._means.counts,
        }
        checkpoints.write(path, state, numbers)

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Go on from where `save` was called, in an agent that was made by the same arguments.

        Training then gives the same numbers as if it had never stopped, but for `seconds`: on the
        same machine and versions, and in environments whose only source of chance is the seed of
        `reset`. The file is plain arrays, and never runs code.

        Example: `agent.restore("run.npz")`, then `agent.fit(20_000 - agent.steps, ...)`.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: it is no checkpoint of such an agent, or the environments cannot be brought to
            their state. The agent is then as it was before.
        """
        state, numbers = checkpoints.read(path, _NEEDED)
        variables = self._variables()
        values = [state["variables"].get(str(i)) for i in range(len(state["variables"]))]
        received = [None if value is None else value.shape for value in values]
        agent = numbers.get("agent")
        if agent != type(self).__name__ or received != [tuple(v.shape) for v in variables]:
            raise ValueError(
                f"The checkpoint must be of an agent that was made by the same arguments as this "
                f"{type(self).__name__}. Received: one of a {agent} with {len(values)} variables"
            )
        # In others, so that the own ones are as they were if these cannot be restored.
        worlds = Environments(self._make, self.environments.count, numbers["seed"])
        try:
            worlds.restore(state["environments"])
            self._memory.restore(state["memory"])
        except ValueError:
            worlds.close()
            raise
        self.environments.close()
        self.environments, self._seed = worlds, numbers["seed"]
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        self._returns = state["returns"]["running"]
        self.steps, self._episodes = numbers["steps"], numbers["episodes"]
        self._rng.bit_generator.state = numbers["random"]
        self.history[:] = numbers["history"]
        self._means.sums, self._means.counts = numbers["sums"], numbers["counts"]


def _seed_of(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(2**31, size=2, dtype=np.int32)
