"""Agents with flows as policies and values, beside stable-baselines3's SAC where it is installed.

Run it from the root of the repository:
`python benchmarks/control.py [--env Pendulum-v1] [--steps 20000] [--seeds 5] [--agents NAME ...]`.
Every row is printed when it is done: returns of 100 episodes with deterministic actions, and
seconds and updates a second of training on this machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tfp_flows import rl

RATE = 1e-3
EPISODES = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="Pendulum-v1")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--agents", nargs="+", choices=AGENTS, default=list(AGENTS))
    arguments = parser.parse_args()
    print("| agent | seed | return | seconds | steps a second |\n| --- | --- | --- | --- | --- |")
    for name in arguments.agents:
        for seed in range(arguments.seeds):
            try:
                returns, seconds = AGENTS[name](arguments.env, arguments.steps, seed)
            except ImportError as error:
                print(f"| {name} | not run: {error} |")
                break
            rate = arguments.steps / seconds
            result = rl.Evaluation(np.asarray(returns))
            print(f"| {name} | {seed} | {result} | {seconds:.0f} | {rate:.0f} |", flush=True)


def ours(make: Callable[[str, int], Any]) -> Callable[[str, int, int], tuple[np.ndarray, float]]:
    """A function that trains and judges one of our agents."""

    def run(env: str, steps: int, seed: int) -> tuple[np.ndarray, float]:
        agent, began = make(env, seed), time.perf_counter()
        agent.fit(steps, verbose=0)
        seconds = time.perf_counter() - began
        return agent.evaluate(EPISODES, seed=1000 + seed).returns, seconds

    return run


def theirs(env: str, steps: int, seed: int) -> tuple[np.ndarray, float]:
    """The SAC of stable-baselines3, with the networks and numbers of ours."""
    import stable_baselines3
    from stable_baselines3.common.evaluation import evaluate_policy

    agent = stable_baselines3.SAC(
        "MlpPolicy", env, learning_rate=RATE, learning_starts=1000, seed=seed
    )
    began = time.perf_counter()
    agent.learn(steps)
    seconds = time.perf_counter() - began
    returns, _ = evaluate_policy(
        agent, agent.get_env(), EPISODES, deterministic=True, return_episode_rewards=True
    )
    return np.array(returns), seconds


def gaussian(env: str, seed: int) -> rl.SAC:
    """With networks as stable-baselines3's are."""
    worlds = rl.SAC(env, "gaussian").policy  # For the sizes of the environment.
    policy = rl.FlowPolicy(
        worlds.observation_size,
        worlds.action_low,
        worlds.action_high,
        "gaussian",
        hidden_units=(256, 256),
        seed=seed,
    )
    return rl.SAC(env, policy, learning_rate=RATE, seed=seed)


AGENTS = {
    "stable-baselines3 SAC": theirs,
    "SAC, gaussian": ours(gaussian),
    "SAC, neural_spline": ours(lambda env, seed: rl.SAC(env, learning_rate=RATE, seed=seed)),
    "FlowActorCritic": ours(lambda env, seed: rl.FlowActorCritic(env, seed=seed)),
}

if __name__ == "__main__":
    main()
