"""Agents with flows as policies and values, beside stable-baselines3's SAC where it is installed.

Run it from the root of the repository:
`python benchmarks/control.py [returns] [--env Pendulum-v1] [--steps 20000] [--seeds 0 1 2 3 4]
[--agents NAME ...]`. Every row is printed when it is done: returns of 100 episodes with
deterministic actions, and seconds and updates a second of training on this machine.

`python benchmarks/control.py goals [--steps 20000] [--seeds 0 1 2 3 4] [--agents NAME ...]` prints
the shares of 400 episodes that reach each of the goals of `rl.multi_goal`, with drawn actions.

`python benchmarks/control.py speed [--steps 3000]` prints steps a second, with one update each,
after 1,500 that compile: the best of three thirds, agents in turn.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfp_flows import rl

RATE = 1e-3
EPISODES = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", choices=("returns", "goals", "speed"), default="returns")
    parser.add_argument("--env", default="Pendulum-v1")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=range(5))
    parser.add_argument("--agents", nargs="+", choices=(*AGENTS, *FOR_GOALS))
    arguments = parser.parse_args()
    if arguments.part == "goals":
        goals(arguments.agents or list(FOR_GOALS), arguments.steps or 20_000, arguments.seeds)
    elif arguments.part == "speed":
        speed(arguments.agents or list(AGENTS), arguments.env, arguments.steps or 3000)
    else:
        returns(arguments)


def returns(arguments: argparse.Namespace) -> None:
    """Print what agents come to in an environment."""
    steps = arguments.steps or 20_000
    print("| agent | seed | return | seconds | steps a second |\n| --- | --- | --- | --- | --- |")
    for name in arguments.agents or AGENTS:
        for seed in arguments.seeds:
            try:
                returns, seconds = trained(name, arguments.env, steps, seed)
            except ImportError as error:
                print(f"| {name} | not run: {error} |")
                break
            rate = steps / seconds
            result = rl.Evaluation(np.asarray(returns))
            print(f"| {name} | {seed} | {result} | {seconds:.0f} | {rate:.0f} |", flush=True)


def trained(name: str, env: str, steps: int, seed: int) -> tuple[np.ndarray, float]:
    """Returns of an agent, and the seconds of its training."""
    agent = sb3(env, seed) if name == THEIRS else MAKE[name](env, seed)
    began = time.perf_counter()
    train(agent, steps)
    seconds = time.perf_counter() - began
    if name != THEIRS:
        return agent.evaluate(EPISODES, seed=1000 + seed).returns, seconds
    from stable_baselines3.common.evaluation import evaluate_policy

    returns, _ = evaluate_policy(
        agent, agent.get_env(), EPISODES, deterministic=True, return_episode_rewards=True
    )
    return np.array(returns), seconds


def sb3(env: str, seed: int) -> Any:
    """The SAC of stable-baselines3, with the networks and numbers of ours."""
    import stable_baselines3
    import torch

    torch.set_num_threads(1)  # With two it takes several times as long, where others work, too.
    return stable_baselines3.SAC(
        "MlpPolicy", world(env)[0](), learning_rate=RATE, learning_starts=1000, seed=seed
    )


def world(env: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """What makes an environment, and what agents need in it.

    In MountainCarContinuous, speeds are at most 0.07, and single pushes never come up the hill.
    """
    import gymnasium

    make = functools.partial(gymnasium.make, env)
    if env != "MountainCarContinuous-v0":
        return make, {}

    def rescaled(**options: Any) -> Any:
        return gymnasium.wrappers.RescaleObservation(make(**options), -1.0, 1.0)

    return rescaled, {"warmup": 5000, "warmup_hold": 16, "environments": 4}


def gaussian(env: str, seed: int) -> rl.SAC:
    """With networks as stable-baselines3's are."""
    make, options = world(env)
    worlds = rl.SAC(make, "gaussian").policy  # For the sizes of the environment.
    policy = rl.FlowPolicy(
        worlds.observation_size,
        worlds.action_low,
        worlds.action_high,
        "gaussian",
        hidden_units=(256, 256),
        seed=seed,
    )
    return rl.SAC(make, policy, learning_rate=RATE, seed=seed, **options)


def spline(env: str, seed: int) -> rl.SAC:
    make, options = world(env)
    small = {"hidden_units": (64, 64)} if options else {}
    return rl.SAC(make, learning_rate=RATE, seed=seed, **options, **small)


def actor_critic(env: str, seed: int) -> rl.FlowActorCritic:
    make, options = world(env)
    return rl.FlowActorCritic(make, seed=seed, **options)


def speed(agents: Sequence[str], env: str, steps: int) -> None:
    """Print how many steps and updates agents do a second."""
    found: dict[str, list[float]] = {}
    made = {}
    for name in agents:
        try:
            made[name] = sb3(env, 0) if name == THEIRS else MAKE[name](env, 0)
        except ImportError as error:
            print(f"{name}: not run: {error}")
            continue
        train(made[name], 1500)
    for _ in range(3):
        for name, agent in made.items():
            began = time.perf_counter()
            train(agent, steps // 3)
            found.setdefault(name, []).append(steps // 3 / (time.perf_counter() - began))
    print("| agent | steps a second | in thirds |\n| --- | --- | --- |")
    for name, rates in found.items():
        print(f"| {name} | {max(rates):.0f} | {', '.join(f'{rate:.0f}' for rate in rates)} |")


def train(agent: Any, steps: int) -> None:
    if isinstance(agent, rl.SAC | rl.FlowActorCritic):
        agent.fit(steps, verbose=0)
    else:
        agent.learn(steps, reset_num_timesteps=False)


def goals(agents: Sequence[str], steps: int, seeds: Sequence[int]) -> None:
    """Print how many episodes reach each goal, from the origin and with drawn actions."""
    print("| agent | seed | east, north, west, south | mean return | seconds |")
    print("| --- | --- | --- | --- | --- |")
    for name in agents:
        for seed in seeds:
            agent, began = FOR_GOALS[name](seed), time.perf_counter()
            agent.fit(steps, verbose=0)
            seconds = time.perf_counter() - began
            options = {"episodes": 400, "deterministic": False, "seed": 1000 + seed}
            ends = [path[-1] for path in agent.trajectories(**options)]
            shares = (rl.goal_of(ends)[:, np.newaxis] == range(4)).mean(0)
            told = ", ".join(f"{share:.1%}" for share in shares)
            print(
                f"| {name} | {seed} | {told} | {agent.evaluate(**options)} | {seconds:.0f} |",
                flush=True,
            )


def in_multi_goal(policy: str) -> Callable[[int], rl.SAC]:
    """The same agent with a policy of any kind."""
    return lambda seed: rl.SAC(
        rl.multi_goal,
        policy,
        hidden_units=(64, 64),
        learning_rate=RATE,
        target_entropy=0.0,
        seed=seed,
        **MULTI_GOAL,
    )


# Eight environments find all goals before the first update has made any of them worth more.
MULTI_GOAL = {"discount": 0.9, "warmup": 2000, "environments": 8}
FOR_GOALS = {
    "SAC, gaussian": in_multi_goal("gaussian"),
    "SAC, neural_spline": in_multi_goal("neural_spline"),
    "FlowActorCritic": lambda seed: rl.FlowActorCritic(
        rl.multi_goal, layers=4, temperature=1.0, seed=seed, **MULTI_GOAL
    ),
}
THEIRS = "stable-baselines3 SAC"
MAKE: dict[str, Callable[[str, int], Any]] = {
    "SAC, gaussian": gaussian,
    "SAC, neural_spline": spline,
    "FlowActorCritic": actor_critic,
}
AGENTS = (THEIRS, *MAKE)

if __name__ == "__main__":
    main()
