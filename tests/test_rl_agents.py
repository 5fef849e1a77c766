"""Agents: what they learn from, checkpoints, and what they come to do."""

import csv
import subprocess
import sys
from pathlib import Path

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import randomize
from worlds import Bandit, OfSpaces, Unseeded, Walk

from tfp_flows import rl
from tfp_flows.rl.environment import Environments
from tfp_flows.rl.memory import Memory
from tfp_flows.rl.ppo import advantages

SMALL = {"hidden_units": (8,), "seed": 3}
OFF = {**SMALL, "warmup": 20, "batch_size": 8, "memory_size": 60}
MAKE = {
    "SAC": lambda env=Walk: rl.SAC(env, "real_nvp", **OFF),
    "PPO": lambda env=Walk: rl.PPO(
        env, "gaussian", rollout=15, epochs=2, batch_size=8, environments=2, **SMALL
    ),
    "FlowActorCritic": lambda env=Walk: rl.FlowActorCritic(env, **OFF),
}
FIT = {"log_every": 20, "verbose": 0}


@pytest.fixture(scope="module", params=MAKE)
def agent(request):
    agent = MAKE[request.param]()
    agent.fit(40, **FIT)
    return agent


def same_numbers(agent, other):
    assert agent.steps == other.steps
    for row, expected in zip(agent.history, other.history, strict=True):
        assert row.keys() == expected.keys()
        for name in row.keys() - {"seconds"}:
            assert np.array_equal(row[name], expected[name], equal_nan=True), name
    for variable, expected in zip(agent._variables(), other._variables(), strict=True):
        assert np.array_equal(tf.convert_to_tensor(variable), tf.convert_to_tensor(expected))


def test_a_checkpoint_goes_on_with_the_same_numbers_and_logs(agent, tmp_path):
    agent.save(tmp_path / "run.npz")
    other = MAKE[type(agent).__name__]()
    other.restore(tmp_path / "run.npz")
    agent.fit(40, **FIT)
    other.fit(40, **FIT, csv_file=tmp_path / "run.csv", tensorboard=tmp_path / "events")
    same_numbers(agent, other)
    with open(tmp_path / "run.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["steps"]) for row in rows] == [row["steps"] for row in agent.history]
    assert float(rows[-1]["episodes"]) == agent.history[-1]["episodes"] > 0
    assert list((tmp_path / "events").glob("events.out.*"))
    assert agent.evaluate(3).mean == other.evaluate(3).mean


def test_frames_are_of_one_episode_from_its_beginning_to_its_end(agent):
    frames = agent.frames(seed=1)
    assert frames.shape[1:] == (2, 4, 3)
    assert np.array_equal(frames[:, 0, 0, 0], np.arange(len(frames)))
    assert 1 < len(frames) <= 12


def test_what_was_killed_goes_on_as_if_it_had_not_been(tmp_path):
    code = """
import sys
from test_rl_agents import FIT, MAKE
from worlds import Mortal
MAKE["SAC"](Mortal).fit(90, checkpoint=sys.argv[1], checkpoint_every=30, **FIT)
"""
    path = tmp_path / "run.npz"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == -9, done.stderr[-2000:]
    killed, whole = MAKE["SAC"](), MAKE["SAC"]()
    killed.restore(path)
    assert killed.steps == 60
    killed.fit(90 - killed.steps, **FIT)
    whole.fit(90, **FIT)
    same_numbers(killed, whole)


def test_the_learning_rate_may_fall_and_goes_on_after_a_checkpoint(tmp_path):
    def made():
        fall = keras.optimizers.schedules.PolynomialDecay(1e-2, 30, 0.0)
        return rl.FlowActorCritic(Walk, **OFF, learning_rate=fall)

    agent, other = made(), made()
    agent.fit(40, **FIT)
    agent.save(tmp_path / "run.npz")
    agent.fit(20, **FIT)
    other.restore(tmp_path / "run.npz")
    other.fit(20, **FIT)
    same_numbers(agent, other)
    before = [np.array(weight) for weight in agent.model.trainable_variables]
    agent.fit(5, **FIT)  # After 30 updates nothing moves.
    for weight, kept in zip(agent.model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(weight, kept)
    moved = zip(agent.model.trainable_variables, made().model.trainable_variables, strict=True)
    assert any(not np.array_equal(weight, start) for weight, start in moved)


def test_a_checkpoint_of_another_agent_or_no_checkpoint_is_an_error(agent, tmp_path):
    agent.save(tmp_path / "run.npz")
    other = rl.SAC(Walk, "gaussian", **{**OFF, "hidden_units": (9,)})
    with pytest.raises(ValueError, match="The checkpoint must be of an agent"):
        other.restore(tmp_path / "run.npz")
    (tmp_path / "no.npz").write_bytes(b"nothing")
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    for name in ("no.npz", "other.npz"):
        with pytest.raises(ValueError, match="is not a checkpoint of an agent"):
            other.restore(tmp_path / name)
    with np.load(tmp_path / "run.npz") as file:
        cut = {name: file[name] for name in file.files if not name.startswith("memory/")}
    np.savez(tmp_path / "cut.npz", **cut)
    with pytest.raises(ValueError, match="it lacks memory"):
        agent.restore(tmp_path / "cut.npz")


def test_environments_with_chance_of_their_own_cannot_be_restored():
    for make, restored in ((Walk, True), (Unseeded, False)):
        first, second = Environments(make, 2, seed=0), Environments(make, 2, seed=0)
        for _ in range(15):
            first.step(np.ones((2, 1)))
        if restored:
            second.restore(first.state())
            first, second = (e.step(np.zeros((2, 1))) for e in (first, second))
            assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
        else:
            with pytest.raises(ValueError, match="draw numbers that do not follow the seed"):
                second.restore(first.state())


def test_ends_of_episodes_keep_their_last_observation_and_only_termination_stops_values():
    agent = rl.SAC(Walk, "gaussian", **{**OFF, "warmup": 300, "memory_size": 300})
    agent.fit(250, verbose=0)
    rows = agent._replay.all()
    assert len(rows["rewards"]) == 250
    over = rows["next_observations"][:, 0] > 2
    cut = np.isclose(rows["next_observations"][:, 1], 1.0)
    assert over.sum() > 3 and (cut & ~over).sum() > 3
    assert np.array_equal(rows["continues"], 1.0 - over)
    done = over | cut
    following, after = rows["observations"][1:], rows["next_observations"][:-1]
    assert np.array_equal(following[~done[:-1]], after[~done[:-1]])
    assert (following[done[:-1], 1] == 0).all()
    pushed = 4 / (1 + np.exp(-2 * rows["latents"][:, 0])) - 1  # The action, of -1 to 3.
    noise = after[:, 0] - rows["observations"][:-1, 0] - 0.2 * pushed[:-1]
    assert abs(noise.std() - 0.1) < 0.03


def test_actions_of_the_warmup_are_held_and_go_on_after_a_checkpoint(tmp_path):
    def make():
        options = {"warmup": 100, "warmup_hold": 3, "environments": 2}
        return rl.SAC(Walk, "gaussian", **{**OFF, **options})

    agent, other = make(), make()
    agent.fit(10, verbose=0)
    agent.save(tmp_path / "run.npz")
    other.restore(tmp_path / "run.npz")
    agent.fit(14, verbose=0)
    other.fit(14, verbose=0)
    latents = agent._replay.all()["latents"].reshape(12, 2)
    assert np.array_equal(latents, other._replay.all()["latents"].reshape(12, 2))
    drawn = latents.reshape(4, 3, 2)
    assert (drawn == drawn[:, :1]).all()
    assert len(np.unique(drawn)) == 8


def test_advantages_against_a_loop():
    rng = np.random.default_rng(0)
    rewards, values, following = rng.normal(size=(3, 9, 2))
    done = (rng.random((9, 2)) < 0.3).astype(float)
    found = advantages(
        *map(tf.constant, (rewards, values, following, done)), discount=0.9, trace=0.8
    )
    expected, after = np.zeros((9, 2)), np.zeros(2)
    for t in reversed(range(9)):
        after = rewards[t] + 0.9 * following[t] - values[t] + 0.72 * (1 - done[t]) * after
        expected[t] = after
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_memory_keeps_the_newest_rows():
    memory = Memory(4, "float64", x=())
    for i in range(3):
        memory.add(x=np.array([2.0 * i, 2.0 * i + 1]))
    assert sorted(memory.all()["x"]) == [2, 3, 4, 5]
    assert set(memory.draw(100, np.random.default_rng(0))["x"]) == {2, 3, 4, 5}
    other = Memory(4, "float64", x=())
    other.restore(memory.state())
    other.add(x=np.array([6.0]))
    assert sorted(other.all()["x"]) == [3, 4, 5, 6]
    with pytest.raises(ValueError, match="The checkpoint must hold 'x' of shape"):
        Memory(5, "float64", x=()).restore(memory.state())


@pytest.mark.parametrize(
    "make",
    [
        lambda: rl.SAC(
            Bandit, "real_nvp", hidden_units=(32,), learning_rate=1e-2, warmup=100, seed=0
        ),
        lambda: rl.PPO(Bandit, "real_nvp", learning_rate=1e-2, rollout=32, seed=0),
        lambda: rl.FlowActorCritic(
            Bandit, hidden_units=(32,), temperature=1.0, learning_rate=1e-2, warmup=100, seed=0
        ),
    ],
    ids=MAKE,
)
def test_the_best_action_is_found(make):
    agent = make()
    agent.fit(2048 if isinstance(agent, rl.PPO) else 1500, verbose=0)
    np.testing.assert_allclose(agent.act([0.0]), [8.0, 2.0], atol=1.0)
    evaluation = agent.evaluate(20)
    assert evaluation.mean > -0.5
    assert str(evaluation).endswith("(20 episodes)")


@pytest.mark.parametrize("steps", [0, 60])
def test_the_policy_is_the_softmax_of_q_before_and_after_training(steps):
    agent = rl.FlowActorCritic(Bandit, **{**OFF, "learning_rate": 1e-2, "dtype": "float64"})
    if steps:
        agent.fit(steps, verbose=0)
    edges = np.tanh(np.linspace(-9, 9, 961))
    x, w = edges[1::2], np.diff(edges[::2])
    actions = 5 + 5 * np.stack(np.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 2)
    weights = np.outer(w, w).ravel() * 25
    for s in ([-0.7], [0.4]):
        observations = np.tile(s, (len(actions), 1))
        advantage = (agent.q(observations, actions) - agent.v(observations)) / agent.temperature
        assert abs(np.exp(advantage) @ weights - 1) < 1e-3
    # Q is a sum of what the action changes, and a shift: there is nothing of the scales in it.
    observations, u = np.linspace(-1, 1, 5)[:, None], np.random.default_rng(0).normal(size=(5, 2))
    flow, squash = agent.policy.unsquashed, agent.policy.squash
    z = flow.given(observations).bijector.inverse(tf.constant(u))
    by_hand = flow.distribution.log_prob(z) - squash.forward_log_det_jacobian(tf.constant(u), 1)
    shift = np.min([net(observations)[:, 0] for net in agent._shifts], 0)
    found = agent.q(observations, squash.forward(tf.constant(u)))
    np.testing.assert_allclose(found, agent.temperature * by_hand + shift, atol=1e-9)


def test_the_values_of_one_flow_are_bounded_at_the_ends_of_the_box():
    """Else an action that is pushed against them is worth whatever the density is there."""
    agent = rl.FlowActorCritic(Bandit, **{**OFF, "dtype": "float64"})
    randomize(agent.model.distribution, stddev=20.0)
    observations = np.linspace(-1, 1, 50)[:, None]
    zeros = tf.zeros([50, 2], "float64")
    place = agent.policy.unsquashed.given(observations).bijector.forward(zeros)
    # Of two couplings, each shifts one column, before the scale.
    assert 3 < np.abs(place).max() <= 2 + 2 * np.e + 1e-9
    ends = [agent._scale.forward(z, context=observations) for z in (zeros, zeros + 1)]
    assert 0.9 < np.abs(np.log(ends[1] - ends[0])).max() <= 1 + 1e-9


BOX = gymnasium.spaces.Box


@pytest.mark.parametrize(
    ("spaces", "message"),
    [
        ({"action_space": gymnasium.spaces.Discrete(3)}, "action space must be .*Box.*Discrete"),
        ({"observation_space": gymnasium.spaces.Dict(x=BOX(0, 1))}, "observation space.*Dict"),
        ({"action_space": BOX(-np.inf, 1.0, (1,))}, "action space must be bounded"),
        ({"action_space": BOX(0, 5, (1,), np.int64)}, "action space must hold floating"),
    ],
)
def test_spaces_that_are_not_supported_are_one_error_each(spaces, message):
    with pytest.raises(ValueError, match=message):
        rl.SAC(lambda: OfSpaces(**spaces), **OFF)


def test_wrong_arguments_are_named(agent):
    with pytest.raises(TypeError, match="`env` must be an id"):
        rl.SAC(3)
    with pytest.raises(TypeError, match=r"`env` must have been made by `gymnasium\.make`"):
        rl.SAC(Walk())
    policy = rl.FlowPolicy(2, -1.0, 2.0, "gaussian")
    with pytest.raises(ValueError, match="`policy` must be for observations of size 2"):
        rl.SAC(Walk, policy)
    with pytest.raises(TypeError, match="`policy` must be a name or a FlowPolicy"):
        rl.PPO(Walk, policy=3)
    for name, value in [
        ("discount", 1.0),
        ("learning_rate", 0.0),
        ("learning_rate", "1"),
        ("target_rate", 0.0),
    ]:
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            rl.FlowActorCritic(Walk, **{**OFF, name: value})
    with pytest.raises(ValueError, match="`steps` must be a positive integer"):
        agent.fit(0)
    with pytest.raises(ValueError, match="`observation` must have shape"):
        agent.act([0.0, 1.0, 2.0])


def test_without_gymnasium_one_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ImportError, match=r"install the extra `rl`.*tfp_flows\[rl\]"):
        rl.SAC("Pendulum-v1")
