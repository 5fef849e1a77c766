"""What agents and critics are given: every wrong argument is one error that names it."""

import gymnasium
import numpy as np
import pytest
from worlds import Walk

from tfp_flows import rl

OFF = {"hidden_units": (8,), "seed": 3, "warmup": 20, "batch_size": 8, "memory_size": 60}
ON = {"hidden_units": (8,), "rollout": 10, "environments": 2, "batch_size": 10}
BOX = gymnasium.spaces.Box


@pytest.fixture(scope="module")
def agents():
    return {
        "SAC": rl.SAC(Walk, "gaussian", **OFF),
        "PPO": rl.PPO(Walk, "gaussian", **ON),
        "FlowActorCritic": rl.FlowActorCritic(Walk, **OFF),
    }


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        *(
            (lambda **o: rl.SAC(Walk, "gaussian", **{**OFF, **o}), *pair)
            for pair in [
                ("target_entropy", np.nan),
                ("target_entropy", "auto"),
                ("temperature", "auto"),
                ("temperature", 0.0),
                ("discount", None),
                ("discount", 1.0),
                ("target_rate", np.nan),
                ("memory_size", 0),
                ("hidden_units", 64),
            ]
        ),
        *(
            (lambda **o: rl.PPO(Walk, "gaussian", **{**ON, **o}), *pair)
            for pair in [
                ("entropy", np.nan),
                ("entropy", "x"),
                ("trace", 1.5),
                ("clip", True),
            ]
        ),
        (lambda **o: rl.FlowActorCritic(Walk, **{**OFF, **o}), "temperature", np.inf),
        (lambda **o: rl.FlowCritic(1, 1, "gaussian", **o), "target_rate", 0),
        (
            lambda level: rl.FlowCritic(1, 1, "gaussian").cvar([[0.0]], [[0.0]], level),
            "level",
            None,
        ),
    ],
)
def test_numbers_out_of_range(make, name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be .*Received: "):
        make(**{name: value})


def test_numbers_of_numpy_are_numbers(tmp_path):
    agent = rl.SAC(Walk, "gaussian", **OFF, environments=np.int64(2), discount=np.float32(0.9))
    agent.fit(np.int64(30), verbose=0)
    agent.save(tmp_path / "agent.npz")
    assert (tmp_path / "agent.npz").stat().st_size > 0


def test_values_want_rows_of_observations_and_actions_in_this_order(agents):
    critic = rl.FlowCritic(2, 1, "gaussian", seed=0)
    observations, actions = np.ones((5, 2)), np.zeros((5, 1))
    for value in (agents["SAC"].value, agents["FlowActorCritic"].q, critic.mean):
        assert value(observations, actions).shape == (5,)
        for wrong in ((actions, observations), (observations[0], actions[0])):
            with pytest.raises(ValueError, match=r"`(observations|actions)` must have shape \(n, "):
                value(*wrong)
    for value in (agents["PPO"].value, agents["FlowActorCritic"].v):
        with pytest.raises(ValueError, match=r"`observations` must have shape \(n, 2\)"):
            value(observations[0])
    with pytest.raises(ValueError, match="equally many rows"):
        critic.mean(observations, actions[:4])
    with pytest.raises(ValueError, match=r"`returns` must have shape \(n,\)"):
        critic.log_prob(np.zeros((5, 1)), observations, actions)


def test_no_observations_have_no_actions(agents):
    assert agents["SAC"].act(np.zeros((0, 2))).shape == (0, 1)


def test_spaces_of_matrices_are_refused():
    class Matrices(Walk):
        observation_space = BOX(-1, 1, (2, 3))

    with pytest.raises(ValueError, match=r"observation space must be one of vectors.*\(2, 3\)"):
        rl.SAC(Matrices, "gaussian", **OFF)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Walk(), "takes no `render_mode`"),
        (lambda render_mode=None: gymnasium.make("Pendulum-v1"), "which draws"),
    ],
)
def test_environments_that_draw_no_pictures(make, message):
    agent = rl.SAC(make, "gaussian", **OFF)
    with pytest.raises(ValueError, match=f"`env` must make environments that draw.*{message}"):
        agent.frames()


def test_what_cannot_be_restored_leaves_the_agent_as_it_was(tmp_path):
    other = rl.SAC(Walk, "gaussian", **{**OFF, "memory_size": 30})
    other.fit(40, verbose=0)
    other.save(tmp_path / "other.npz")
    np.save(tmp_path / "one.npy", np.ones(3))
    actions = []
    for paths in ((), ("other.npz", "one.npy")):
        agent = rl.SAC(Walk, "gaussian", **{**OFF, "seed": 9})
        agent.fit(25, verbose=0)
        for path in paths:
            with pytest.raises(ValueError, match="checkpoint"):
                agent.restore(tmp_path / path)
        agent.fit(20, verbose=0)
        actions.append([agent.act([[0.1, 0.2]]), agent.environments.observations])
    for one, two in zip(*actions, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("file", ["checkpoint", "csv_file"])
def test_folders_are_not_replaced_by_files(agents, file, tmp_path):
    (tmp_path / "kept.txt").write_text("x")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        agents["SAC"].fit(10, **{file: tmp_path}, log_every=5, verbose=0)
    assert (tmp_path / "kept.txt").read_text() == "x"
    assert len(list(tmp_path.parent.glob(".tmp-*"))) == 0
