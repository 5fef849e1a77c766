"""Small environments of gymnasium's, for the tests of agents."""

import os
import signal

import gymnasium
import numpy as np


class Walk(gymnasium.Env):
    """A point on a line, pushed by the action and by chance; over at 2, cut off after 12 steps."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 3.0, (1,), np.float32)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def render(self):
        return np.full((2, 4, 3), self.count, np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.count = self.np_random.normal(0, 0.1), 0
        return self._observed(), {}

    def step(self, action):
        self.count += 1
        self.x += 0.2 * float(action[0]) + 0.1 * self.np_random.normal()
        return self._observed(), -(self.x**2), self.x > 2, self.count == 12, {}

    def _observed(self):
        return np.array([self.x, self.count / 12], np.float32)


class Mortal(Walk):
    """The same, in a process that is killed in the 70th step."""

    steps = 0

    def step(self, action):
        Mortal.steps += 1
        if Mortal.steps == 70:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


class Unseeded(Walk):
    """The same, with chance that no seed is asked for."""

    def step(self, action):
        self.x += np.random.default_rng().normal()
        return super().step(action)


class Bandit(gymnasium.Env):
    """One step, and the best of two actions, of `[0, 10]²`, is (8, 2)."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(0.0, 10.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        reward = -float(np.sum((action - np.array([8.0, 2.0])) ** 2)) / 4
        return np.zeros(1, np.float32), reward, True, False, {}


class OfSpaces(Walk):
    """An environment with other spaces."""

    def __init__(self, **spaces):
        vars(self).update(spaces)
