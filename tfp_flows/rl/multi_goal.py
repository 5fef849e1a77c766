"""multi_goal: a plane with four goals, where the best policy has four modes."""

from __future__ import annotations

import functools
import math
import numbers
from typing import Any

import numpy as np

from tfp_flows.rl import environment

__all__ = ["GOALS", "goal_of", "multi_goal"]

GOALS = 5.0 * np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
"""Where the goals of `multi_goal` are: east, north, west and south, `(4, 2)`."""

_EDGE = 7.0
_RADIUS = 1.0
_STEPS = 30
_COLOURS = np.array([[42, 120, 142], [240, 168, 96]], np.uint8)  # Of goals, and of the point.


def multi_goal(
    *, spread: float = 0.0, action_cost: float = 3.0, render_mode: str | None = None
) -> Any:
    """A point in a plane, which is to walk to any one of four goals, 5 from where it starts.

    Observations are its place `x` in `[-7, 7]²`, actions `a` its move, clipped to `[-1, 1]²`. A
    step is

    `x' = clip(x + a)`, reward `-action_cost |a|² - 0.1 minₖ |x' - gₖ|² + 1[a goal is reached]`

    and the episode terminates within 1 of a goal, or is cut off after 30 steps. All four ways are
    equally good, and what lies between them is bad: long moves are dear. A policy with one mode
    goes one way or staggers; one that is a softmax of its values goes all four.

    Args:
      spread: standard deviation of the start around the origin, within the plane. At 0 all
        episodes start alike, and no policy can tell by the place which way to take.
      action_cost: of a move of length 1.
      render_mode: "rgb_array" for pictures.

    Returns:
      an environment of gymnasium's. The function itself is what agents take.

    Raises:
      ValueError: a number is negative or no number, or `render_mode` is another.
      ImportError: gymnasium is not installed.

    Source: Tuomas Haarnoja et al., "Reinforcement Learning with Deep Energy-Based Policies" (2017),
    section 5.1; rewards are a tenth of theirs, and starts are spread by 0.1 there.

    Example:
      >>> agent = rl.SAC(rl.multi_goal, warmup=50, seed=0)
      >>> history = agent.fit(60, verbose=0)
      >>> ends = [path[-1] for path in agent.trajectories(5, deterministic=False)]
      >>> rl.goal_of(ends)     # (5,)
    """
    for name, value in (("spread", spread), ("action_cost", action_cost)):
        if not _is_size(value):
            raise ValueError(f"`{name}` must be a number from 0 on. Received: {name}={value!r}")
    if render_mode not in (None, "rgb_array"):
        raise ValueError(
            f"`render_mode` must be 'rgb_array' or None. Received: render_mode={render_mode!r}"
        )
    return _environment()(spread, action_cost, render_mode)


def _is_size(value: Any) -> bool:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= 0


def goal_of(places: Any) -> np.ndarray:
    """Which goal each of some places is within 1 of, by its row in `GOALS`; -1 for none.

    Args:
      places: `(..., 2)`.

    Raises:
      ValueError: they have another shape.

    Example:
      >>> rl.goal_of([[4.5, 0.1], [0.0, 0.0]])     # [0, -1]
    """
    places = np.asarray(places, "float64")
    if places.shape[-1:] != (2,):
        raise ValueError(f"`places` must have shape (..., 2). Received: shape={places.shape}")
    distances = np.linalg.norm(places[..., np.newaxis, :] - GOALS, axis=-1)
    return np.where(distances.min(-1) < _RADIUS, distances.argmin(-1), -1)


@functools.cache
def _environment() -> Any:
    """The class, which is made when it is first needed, for only then is gymnasium."""
    environment.gymnasium()  # Says which extra to install.
    import gymnasium as gym

    class MultiGoal(gym.Env):
        metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
        observation_space = gym.spaces.Box(-_EDGE, _EDGE, (2,), np.float32)
        action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

        def __init__(self, spread: float, action_cost: float, render_mode: str | None):
            self.spread, self.action_cost, self.render_mode = spread, action_cost, render_mode
            self.place: np.ndarray | None = None

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
            super().reset(seed=seed)
            start = self.spread * self.np_random.normal(size=2)
            self.place, self.count = np.clip(start, -_EDGE, _EDGE), 0
            return self.place.astype(np.float32), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            if self.place is None:
                raise ValueError("`step` needs an episode. Received: none, call `reset` first")
            action = np.asarray(action, "float64")
            if action.shape != (2,) or not np.isfinite(action).all():
                raise ValueError(f"`action` must be 2 finite numbers. Received: action={action}")
            action = np.clip(action, -1.0, 1.0)
            self.count += 1
            self.place = np.clip(self.place + action, -_EDGE, _EDGE)
            squared = ((GOALS - self.place) ** 2).sum(-1).min()
            reached = bool(squared < _RADIUS**2)
            reward = reached - 0.1 * squared - self.action_cost * np.square(action).sum()
            observation = self.place.astype(np.float32)
            return observation, float(reward), reached, self.count >= _STEPS, {}

        def render(self) -> np.ndarray:
            """The plane from above, north at the top."""
            if self.place is None:
                raise ValueError("`render` needs an episode. Received: none, call `reset` first")
            across = np.linspace(-_EDGE, _EDGE, 141)
            plane = np.stack(np.meshgrid(across, -across), -1)
            picture = np.full((141, 141, 3), 255, np.uint8)
            picture[goal_of(plane) >= 0] = _COLOURS[0]
            picture[np.linalg.norm(plane - self.place, axis=-1) < 0.3] = _COLOURS[1]
            return picture

    return MultiGoal
