"""`rl.FlowCritic` beside quantile regression: distances from Monte-Carlo returns.

Run it from the root of the repository: `python benchmarks/critics.py [--updates 4000] [--seeds 0]`.
Both critics learn the returns of a policy that acts uniformly, from the same 200,000 steps, which
began at uniformly drawn states, in as many updates. At 50 states and actions, the 1-Wasserstein
distance is between the critic's quantiles and those of 2,000 episodes, in units of rewards.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_flows import rl
from tfp_flows.networks import MLP
from tfp_flows.ops.seeds import derived_seed
from tfp_flows.rl.networks import adam, descend, follow

DISCOUNT = 0.9
QUANTILES = 51
EPISODES = 2000
LEVELS = (np.arange(EPISODES) + 0.5) / EPISODES

Step = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, ...]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=4000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    print("| world | critic | seed | parameters | distance | s.e. | spread | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for world in (cliff, goals):
        for seed in arguments.seeds:
            compare(world, arguments.updates, seed)


def compare(world: Step, updates: int, seed: int) -> None:
    """Print the distances of both critics in one world."""
    rng = np.random.default_rng(seed)
    size = WIDTHS[world]
    data = steps_of(world, size, 200_000, rng)
    s, a = EDGES[world] * rng.uniform(-1, 1, (50, size)), rng.uniform(-1, 1, (50, size))
    true = np.sort(returns_of(world, s, a, rng), -1)
    critics = {
        "FlowCritic": rl.FlowCritic(size, size, discount=DISCOUNT, layers=1, seed=seed),
        "quantile regression": QuantileRegression(size, seed),
    }
    for name, critic in critics.items():
        began = time.perf_counter()
        critic.fit(data, steps=updates)
        seconds = time.perf_counter() - began
        distances = np.abs(np.asarray(critic.quantile(s, a, LEVELS)) - true).mean(-1)
        error = distances.std(ddof=1) / np.sqrt(len(distances))
        count = sum(int(np.prod(w.shape)) for w in critic.model.trainable_variables)
        print(
            f"| {world.__name__} | {name} | {seed} | {count:,} | {distances.mean():.3f} | "
            f"{error:.3f} | {true.std(-1).mean():.2f} | {seconds:.0f} |",
            flush=True,
        )


def cliff(x: np.ndarray, a: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """A walk in wind between a cliff at -1, which costs 5, and a gate at 1, which gives 5."""
    x = x + 0.4 * a + 0.2 * rng.normal(size=x.shape)
    over = (np.abs(x) > 1)[:, 0]
    return x, np.where(over, 5 * np.sign(x[:, 0]), -0.2 * a[:, 0] ** 2), over


def goals(x: np.ndarray, a: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """`rl.multi_goal` without its end after 30 steps; chance is that of the policy."""
    x = np.clip(x + a, -7, 7)
    squared = ((x[:, np.newaxis] - rl.GOALS) ** 2).sum(-1).min(-1)
    return x, (squared < 1) - 0.1 * squared - 3 * (a**2).sum(-1), squared < 1


WIDTHS, EDGES = {cliff: 1, goals: 2}, {cliff: 1.0, goals: 7.0}


def steps_of(world: Step, size: int, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Steps from uniformly drawn states by uniformly drawn actions."""
    s, a = EDGES[world] * rng.uniform(-1, 1, (count, size)), rng.uniform(-1, 1, (count, size))
    after, rewards, over = world(s, a, rng)
    following = rng.uniform(-1, 1, (count, size))
    found = (s, a, rewards, after, over, following)
    names = ("observations", "actions", "rewards", "next_observations", "terminated")
    return dict(zip((*names, "next_actions"), found, strict=True))


def returns_of(
    world: Step, s: np.ndarray, a: np.ndarray, rng: np.random.Generator, horizon: int = 100
) -> np.ndarray:
    """Discounted returns of episodes that begin with these pairs, `(pairs, EPISODES)`."""
    x, move = (np.repeat(part, EPISODES, 0) for part in (s, a))
    totals, running = np.zeros(len(x)), np.ones(len(x), bool)
    for t in range(horizon):
        x, rewards, over = world(x, move, rng)
        totals += running * DISCOUNT**t * rewards
        running &= ~over
        move = rng.uniform(-1, 1, x.shape)
    return totals.reshape(len(s), EPISODES)


class QuantileRegression:
    """A network from states and actions to quantiles of the return.

    Source: Will Dabney et al., "Distributional Reinforcement Learning with Quantile Regression"
    (2018), with the loss of absolute differences.
    """

    def __init__(self, size: int, seed: int):
        def made() -> keras.Sequential:
            layers = [keras.layers.Input((2 * size,)), MLP((84, 84), seed=seed)]
            last = keras.initializers.GlorotUniform(derived_seed(seed, 2))
            return keras.Sequential(
                [*layers, keras.layers.Dense(QUANTILES, kernel_initializer=last)]
            )

        self.model, self._target = made(), made()
        self._target.set_weights(self.model.get_weights())
        self._weights = self.model.trainable_variables
        self._optimizer = adam(1e-3, self._weights)
        self._rng = np.random.default_rng(seed)
        levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
        self._levels = tf.constant(levels, tf.float32)
        self._update_compiled = tf.function(self._update)

    def fit(self, data: dict[str, np.ndarray], *, steps: int) -> None:
        # The units that FlowCritic takes from the data.
        rewards, ended = data["rewards"], data["terminated"].mean()
        horizon = 1 / (1 - DISCOUNT * (1 - ended))
        self._shift = float(rewards.mean() * horizon)
        self._scale = float(np.sqrt(np.mean(rewards**2)) * horizon)
        context = np.concatenate([data["observations"], data["actions"]], -1)
        self._middle, self._width = context.mean(0), context.std(0)
        following = self._context(data["next_observations"], data["next_actions"])
        arrays = (self._context(data["observations"], data["actions"]), rewards, following)
        arrays = [np.asarray(x, "float32") for x in (*arrays, data["terminated"])]
        for _ in range(steps):
            rows = self._rng.integers(len(rewards), size=256)
            self._update_compiled(*(tf.constant(x[rows]) for x in arrays))

    def _context(self, s: np.ndarray, a: np.ndarray) -> np.ndarray:
        return np.float32((np.concatenate([s, a], -1) - self._middle) / self._width)

    def _update(
        self, context: tf.Tensor, rewards: tf.Tensor, following: tf.Tensor, ended: tf.Tensor
    ) -> None:
        after = self._shift + self._scale * self._target(following)
        wanted = rewards[:, None] + DISCOUNT * (1 - ended)[:, None] * after
        wanted = (wanted - self._shift) / self._scale

        def loss() -> tuple[tf.Tensor, Any]:
            excess = wanted[:, tf.newaxis] - self.model(context)[:, :, tf.newaxis]
            tilted = excess * (self._levels[:, tf.newaxis] - tf.cast(excess < 0, tf.float32))
            return tf.reduce_mean(tf.reduce_sum(tf.reduce_mean(tilted, -1), -1)), None

        descend(self._optimizer, loss, self._weights, clip=10.0)
        follow([w.value for w in self._target.trainable_variables], self._weights, 0.01)

    def quantile(self, s: np.ndarray, a: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Those of the distribution that has all quantiles as equally probable values."""
        values = np.sort(self._shift + self._scale * self.model(self._context(s, a)).numpy(), -1)
        return values[:, (levels * QUANTILES).astype(int)]


if __name__ == "__main__":
    main()
