"""Episodes by which an agent is judged or shown, in environments of their own."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tfp_flows.rl.environment import Environments

__all__ = ["Evaluation", "episodes_of", "frames_of"]

Act = Callable[[np.ndarray, int], np.ndarray]

_AT_A_TIME = 16


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Returns of some episodes, sums of their rewards, undiscounted.

    Example:
      >>> evaluation = rl.Evaluation(np.array([1.0, 2.0, 3.0]))
      >>> evaluation.mean     # 2.0
      >>> str(evaluation)     # '2 ± 0.577 (3 episodes)'
    """

    returns: np.ndarray

    @property
    def mean(self) -> float:
        """Their mean."""
        return float(self.returns.mean())

    @property
    def standard_error(self) -> float:
        """The standard error of the mean; NaN of one episode."""
        n = len(self.returns)
        return float(self.returns.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")

    def __str__(self) -> str:
        return f"{self.mean:.4g} ± {self.standard_error:.3g} ({len(self.returns)} episodes)"


def episodes_of(
    make: Callable[..., Any], act: Act, episodes: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Observations `(steps + 1, observation_size)` and rewards `(steps,)` of new episodes.

    They run 16 at a time, each to its end.

    Args:
      make: a function that makes an environment.
      act: from observations and a seed to actions.
      episodes: how many.
      rng: numbers by which episodes and actions differ.
    """
    worlds = Environments(make, min(episodes, _AT_A_TIME), int(rng.integers(2**31)))
    given = 0
    try:
        while given < episodes:
            observations, rewards = [worlds.observations], []
            lengths = np.zeros(worlds.count, int)
            while not lengths.all():
                transition = worlds.step(act(worlds.observations, int(rng.integers(2**31))))
                observations.append(transition.next_observations)
                rewards.append(transition.rewards)
                lengths[transition.done & (lengths == 0)] = len(rewards)
            for i, length in enumerate(lengths[: episodes - given]):
                seen = np.array([row[i] for row in observations[: length + 1]])
                yield seen, np.array([row[i] for row in rewards[:length]])
            given += worlds.count
            worlds.begin()
    finally:
        worlds.close()


def frames_of(make: Callable[..., Any], act: Act, rng: np.random.Generator) -> np.ndarray:
    """Pictures of a new episode before each of its steps, `(steps, height, width, 3)`."""
    needed = "`env` must make environments that draw pictures, with `render_mode='rgb_array'`. "
    picturing = functools.partial(make, render_mode="rgb_array")
    try:
        worlds = Environments(picturing, 1, int(rng.integers(2**31)))
    except TypeError as error:
        if "render_mode" not in str(error):
            raise
        raise ValueError(f"{needed}Received: env={make!r}, which takes no `render_mode`") from error
    pictures, done = [], False
    try:
        while not done:
            picture = worlds.render()
            if picture.ndim != 3:
                raise ValueError(f"{needed}Received: env={make!r}, which draws {picture!r}")
            pictures.append(picture)
            transition = worlds.step(act(worlds.observations, int(rng.integers(2**31))))
            done = bool(transition.done[0])
    finally:
        worlds.close()
    return np.stack(pictures)
