"""The plane with four goals, and the paths of agents in it."""

import functools

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tfp_flows import rl


def test_it_is_an_environment_as_gymnasium_wants_them():
    check_env(rl.multi_goal(spread=0.1, render_mode="rgb_array"))
    for options in (
        {"spread": -0.1},
        {"spread": None},
        {"spread": "1"},
        {"spread": True},
        {"action_cost": np.nan},
        {"render_mode": "human"},
    ):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}` must"):
            rl.multi_goal(**options)
    with pytest.raises(ValueError, match="`render` needs an episode"):
        rl.multi_goal(render_mode="rgb_array").render()
    with pytest.raises(ValueError, match="`step` needs an episode"):
        rl.multi_goal().step([0.0, 0.0])
    env = rl.multi_goal()
    env.reset(seed=0)
    for action in ([np.nan, 0.0], [0.0, 0.0, 0.0]):
        with pytest.raises(ValueError, match="`action` must be 2 finite numbers"):
            env.step(action)
    place, reward, *_ = env.step([3.0, 0.0])
    assert np.array_equal(place, [1.0, 0.0]) and reward == pytest.approx(-3.0 - 0.1 * 16.0)
    with pytest.raises(ValueError, match="`places` must have shape"):
        rl.goal_of([])


def test_wide_starts_are_in_the_plane():
    env = rl.multi_goal(spread=5.0)
    starts = [env.reset(seed=seed)[0] for seed in range(30)]
    assert all(env.observation_space.contains(start) for start in starts)
    assert np.abs(starts).max() == 7.0


@pytest.mark.parametrize("goal", range(4))
def test_a_walk_to_a_goal_has_the_rewards_that_the_docstring_says(goal):
    env = rl.multi_goal(action_cost=2.0)
    assert np.array_equal(env.reset(seed=0)[0], [0.0, 0.0])
    way, total = rl.GOALS[goal] / 5, 0.0
    for step in range(1, 10):
        place, reward, terminated, truncated, _ = env.step(0.9 * way)
        far = 5 - 0.9 * step
        assert reward == pytest.approx((far < 1) - 2 * 0.81 - 0.1 * far**2)
        np.testing.assert_allclose(place, 0.9 * step * way, atol=1e-6)
        assert not truncated
        total += reward
        if terminated:
            break
    assert step == 5
    assert rl.goal_of([place, -place, 0.8 * place]).tolist() == [goal, (goal + 2) % 4, -1]


def test_an_episode_is_cut_off_after_30_steps_and_stays_in_the_plane():
    env = rl.multi_goal()
    env.reset(seed=0)
    for step in range(1, 31):
        place, _, terminated, truncated, _ = env.step(np.float32([1.0, 1.0]))
        assert (terminated, truncated) == (False, step == 30)
    assert np.array_equal(place, [7.0, 7.0])


def test_trajectories_are_whole_episodes_with_the_returns_of_evaluate():
    make = functools.partial(rl.multi_goal, spread=2.0, action_cost=0.0)
    agent = rl.SAC(make, "gaussian", hidden_units=(8,), seed=0)
    options = {"episodes": 20, "deterministic": False, "seed": 3}
    paths, returns = agent.trajectories(**options), agent.evaluate(**options).returns
    assert len(paths) == len(returns) == 20
    assert len({tuple(path[0]) for path in paths}) == 20
    for path, total in zip(paths, returns, strict=True):
        goals = rl.goal_of(path[1:])
        assert (goals[:-1] == -1).all()
        assert goals[-1] >= 0 or len(path) == 31
        squared = ((path[1:, np.newaxis] - rl.GOALS) ** 2).sum(-1).min(-1)
        assert total == pytest.approx((goals[-1] >= 0) - 0.1 * squared.sum(), rel=1e-5)
    assert {len(path) for path in paths} > {31}
