"""Gymnasium's environments as agents use them: in a vector, in boxes, and with a state to keep."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tfp_flows.ops.checks import positive_int

__all__ = ["Environments", "Transition", "maker_of"]


class Transition(NamedTuple):
    """One step in each of `n` environments.

    `next_observations` are those that the actions led to, at the end of an episode too.
    `terminated` says that nothing comes after them; `truncated`, that an episode was cut off.
    """

    observations: np.ndarray  # (n, observation_size)
    actions: np.ndarray  # (n, action_size)
    rewards: np.ndarray  # (n,)
    next_observations: np.ndarray  # (n, observation_size)
    terminated: np.ndarray  # (n,)
    truncated: np.ndarray  # (n,)

    @property
    def done(self) -> np.ndarray:
        """Where an episode ended, in either way."""
        return self.terminated | self.truncated


def gymnasium() -> Any:
    """The package of this name, or an ImportError that says how to get it."""
    try:
        import gymnasium
        import gymnasium.vector
    except ImportError as error:
        raise ImportError(
            "Agents need gymnasium: install the extra `rl`, by pip install 'tfp_flows[rl]'."
        ) from error
    return gymnasium


def maker_of(env: Any) -> Callable[..., Any]:
    """A function that makes environments, of what users name them by.

    Args:
      env: an id of gymnasium's; an environment that was made by one; or a function, or class, that
        makes environments.

    Raises:
      TypeError: `env` is none of these.
      ImportError: gymnasium is not installed.
    """
    gym = gymnasium()
    if isinstance(env, str):
        return functools.partial(gym.make, env)
    if isinstance(env, gym.Env):
        if env.spec is None:
            raise TypeError(
                "`env` must have been made by `gymnasium.make`, so that others can be made like "
                f"it; else give the function that makes it. Received: env={env!r}"
            )
        return functools.partial(gym.make, env.spec)
    if callable(env):
        return env
    raise TypeError(
        "`env` must be an id of gymnasium's, an environment, or a function that makes one. "
        f"Received: env={env!r}"
    )


class Environments:
    """`count` environments, stepped together by gymnasium's vector API.

    Episode `k` of environment `i` is reset with a seed of its own, made of `(seed, i, k)`. So the
    state of an environment is told by the number of its episode and the actions in it so far, and
    is found again by doing these once more. It takes an environment whose only source of chance is
    the seed of `reset`, as those of gymnasium are; where another observation is found, `restore`
    raises.

    Args:
      make: a function that makes an environment.
      count: how many.
      seed: integer.

    Raises:
      ValueError: observations or actions are not vectors in a box, or that of the actions is not
        bounded.
    """

    def __init__(self, make: Callable[..., Any], count: int, seed: int):
        gym = gymnasium()
        self.count = count = positive_int(count, "environments")
        made = [functools.partial(_Episodes, make, i) for i in range(count)]
        same_step = gym.vector.AutoresetMode.SAME_STEP
        self._vector = gym.vector.SyncVectorEnv(made, autoreset_mode=same_step)
        actions = self._vector.single_action_space
        observations = self._vector.single_observation_space
        _check_space(observations, "observation", gym)
        _check_space(actions, "action", gym)
        self.observation_size = int(np.prod(observations.shape))
        self.low = actions.low.astype("float64").ravel()
        self.high = actions.high.astype("float64").ravel()
        self._shape, self._dtype = actions.shape, actions.dtype
        self.seed(seed)
        self.begin()

    def seed(self, seed: int) -> None:
        """Let the episodes to come be those of another seed, from the first one on."""
        for episodes in self._vector.envs:
            episodes.seed, episodes.episode = seed, -1

    def begin(self) -> None:
        """Begin a new episode everywhere."""
        self.observations = self._flat(self._vector.reset()[0])

    def step(self, actions: np.ndarray) -> Transition:
        """Take actions `(count, action_size)`; episodes that end begin anew in the same step."""
        before = self.observations
        shaped = np.clip(actions, self.low, self.high).astype(self._dtype)
        shaped = shaped.reshape(self.count, *self._shape)
        after, rewards, terminated, truncated, infos = self._vector.step(shaped)
        self.observations = reached = self._flat(after)
        if "final_obs" in infos:
            reached = reached.copy()
            for i in np.flatnonzero(terminated | truncated):
                reached[i] = np.ravel(infos["final_obs"][i])
        rewards, terminated, truncated = rewards.copy(), terminated.copy(), truncated.copy()
        return Transition(before, actions, rewards, reached, terminated, truncated)

    def render(self) -> np.ndarray:
        """A picture of the first environment, as it is now."""
        return np.asarray(self._vector.envs[0].render())

    def state(self) -> dict[str, np.ndarray]:
        """What `restore` needs: numbers of episodes, actions in them, observations to check by."""
        state = {"observations": self.observations}
        for i, episodes in enumerate(self._vector.envs):
            state[f"episode_{i}"] = np.array(episodes.episode)
            taken = np.array(episodes.taken, self._dtype)
            state[f"actions_{i}"] = taken.reshape(-1, *self._shape)
        return state

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Bring all environments to a state.

        Raises:
          ValueError: the state is of another number of environments, or they do not come to the
            observations that were made there.
        """
        if f"episode_{self.count - 1}" not in state or f"episode_{self.count}" in state:
            raise ValueError(
                f"The checkpoint must be of {self.count} environments. "
                f"Received: {sum(name.startswith('episode_') for name in state)}"
            )
        found = [
            episodes.replay(int(state[f"episode_{i}"]), state[f"actions_{i}"])
            for i, episodes in enumerate(self._vector.envs)
        ]
        observations = self._flat(np.stack(found))
        if not np.array_equal(observations, state["observations"], equal_nan=True):
            raise ValueError(
                "The environments do not come to the state of the checkpoint when its actions are "
                "taken again: they are others, or draw numbers that do not follow the seed of "
                f"`reset`. Received: observations {observations.tolist()} in place of "
                f"{state['observations'].tolist()}"
            )
        self.observations = observations

    def close(self) -> None:
        """Free what the environments hold, as windows."""
        self._vector.close()

    def _flat(self, observations: np.ndarray) -> np.ndarray:
        return np.array(observations, "float64").reshape(self.count, -1)


class _Episodes:
    """An environment that knows its episodes; to gymnasium's vectors it is like any other."""

    def __init__(self, make: Callable[..., Any], index: int):
        self.env = make()
        self.index = index
        self.seed, self.episode = 0, -1
        self.taken: list[np.ndarray] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        if seed is None:
            self.episode += 1
            entropy = [self.seed, self.index, self.episode]
            seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        self.taken = []
        return self.env.reset(seed=seed, options=options)

    def step(self, action: np.ndarray) -> Any:
        self.taken.append(np.array(action))
        return self.env.step(action)

    def replay(self, episode: int, actions: np.ndarray) -> np.ndarray:
        """Begin an episode, take these actions, and return the last observation."""
        self.episode = episode - 1
        observation, _ = self.reset()
        for action in actions:
            observation, *_ = self.step(action)
        return observation


def _check_space(space: Any, name: str, gym: Any) -> None:
    if not isinstance(space, gym.spaces.Box):
        raise ValueError(
            f"The {name} space must be a gymnasium.spaces.Box. "
            f"Received: {type(space).__name__}: {space}"
        )
    if len(space.shape) > 1:
        raise ValueError(
            f"The {name} space must be one of vectors: flatten it in a wrapper. Received: {space}"
        )
    if name == "action" and not (np.isfinite([space.low, space.high]).all()):
        raise ValueError(f"The action space must be bounded on all sides. Received: {space}")
    if not np.issubdtype(space.dtype, np.floating):
        raise ValueError(f"The {name} space must hold floating numbers. Received: {space}")
