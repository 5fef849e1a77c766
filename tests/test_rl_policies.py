"""FlowPolicy: densities of actions in a box."""

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import randomize

from tfp_flows import FlowModel, flows, rl

LOW, HIGH = np.array([-2.0, 0.0]), np.array([2.0, 1.0])


def small_policy(flow="real_nvp", dtype="float64", **options):
    options = {"layers": 2, "hidden_units": (8,), "seed": 0, **options}
    policy = rl.FlowPolicy(3, LOW, HIGH, flow, dtype=dtype, **options)
    randomize(policy, stddev=0.2)
    return policy


def nodes(n, reach):
    """Midpoints and widths of cells of `[-1, 1]` that become small towards the ends."""
    edges, middles = (np.tanh(np.linspace(-reach, reach, 2 * n + 1))[i::2] for i in (0, 1))
    return middles, np.diff(edges)


@pytest.mark.parametrize(
    ("flow", "dtype"), [("gaussian", "float64"), ("real_nvp", "float32"), ("naf", "float64")]
)
def test_the_density_of_actions_integrates_to_one(flow, dtype):
    policy = small_policy(flow, dtype)
    x, w = nodes(240, 9.0)
    unit = np.stack(np.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 2)
    actions = (LOW + HIGH) / 2 + (HIGH - LOW) / 2 * unit
    context = np.tile([0.5, -1.0, 0.3], (len(actions), 1))
    density = np.exp(np.asarray(policy.log_prob(actions, context=context), "float64"))
    volume = np.prod((HIGH - LOW) / 2)
    assert abs(density @ np.outer(w, w).ravel() * volume - 1) < 1e-3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_log_densities_at_the_ends_of_the_box_are_finite_and_so_are_gradients(dtype):
    policy = small_policy("neural_spline", dtype)
    near = 1 - 1e-7
    unit = np.array([[near, near], [-near, -near], [near, -near], [0, 0]])
    actions = tf.constant((LOW + HIGH) / 2 + (HIGH - LOW) / 2 * unit, dtype)
    with tf.GradientTape() as tape:
        tape.watch(actions)
        log_prob = policy.log_prob(actions, context=np.zeros((4, 3)))
    gradients = tape.gradient(log_prob, [actions, *policy.trainable_variables])
    assert np.isfinite(log_prob).all()
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    outside = policy.log_prob([[2.0, 0.5], [0.0, -0.1]], context=np.zeros((2, 3)))
    assert np.array_equal(outside, [-np.inf, -np.inf])


def test_draws_come_with_the_density_of_what_was_drawn_where_tanh_has_rounded_to_one():
    policy = rl.FlowPolicy(1, -2.0, 2.0, "gaussian", seed=0)
    layer = policy.unsquashed.bijector.bijectors[0]
    bias = layer.conditioner.layer.head.bias
    bias.assign([0.0, 12.0])  # log-scale, and place
    actions, log_prob = policy.sample_and_log_prob(200, context=[0.0], seed=1)
    u = policy.unsquashed.sample(200, context=[0.0], seed=1).numpy().astype("float64")[:, 0]
    slope = np.log(2) + 2 * (np.log(2) - u - np.log1p(np.exp(-2 * u)))
    expected = -((u - 12) ** 2) / 2 - np.log(2 * np.pi) / 2 - slope
    np.testing.assert_allclose(log_prob, expected, atol=1e-4)
    assert actions.numpy().max() < 2.0
    assert np.isfinite(policy.log_prob(actions, context=np.zeros((200, 1)))).all()


@pytest.mark.parametrize("flow", ["gaussian", "neural_spline"])
def test_draws_densities_and_entropy_agree(flow):
    policy = small_policy(flow)
    context = np.array([[0.5, -1.0, 0.3], [0.0, 0.0, 0.0]])
    actions, log_prob = policy.sample_and_log_prob(300, context=context, seed=2)
    np.testing.assert_allclose(log_prob, policy.log_prob(actions, context=context), atol=1e-8)
    entropy, error = policy.entropy_estimate(context, draws=300, seed=2)
    np.testing.assert_allclose(entropy, -np.mean(log_prob, 0), atol=1e-12)
    np.testing.assert_allclose(error, np.std(log_prob, 0, ddof=1) / np.sqrt(300), rtol=1e-9)


def test_the_deterministic_action_of_a_gaussian_is_its_squashed_mean():
    policy = small_policy("gaussian")
    context = np.array([[0.5, -1.0, 0.3], [0.0, 0.2, 0.0]])
    draws = policy.unsquashed.sample(40_000, context=context, seed=0).numpy()
    expected = (LOW + HIGH) / 2 + (HIGH - LOW) / 2 * np.tanh(draws.mean(0))
    np.testing.assert_allclose(policy.deterministic(context), expected, atol=0.02)
    assert policy.deterministic(context[0]).shape == (2,)


def test_a_policy_is_saved_and_copied(tmp_path):
    own = flows.real_nvp(2, layers=2, hidden_units=(8,), context_size=3, dtype="float64", seed=0)
    for policy in (
        small_policy("neural_spline"),
        rl.FlowPolicy(3, LOW, HIGH, own, dtype="float64"),
    ):
        model = FlowModel(policy)
        model.save(tmp_path / "policy.keras")
        loaded = FlowModel.load(tmp_path / "policy.keras").distribution
        context = np.ones((5, 3))
        actions, log_prob = policy.sample_and_log_prob(context=context, seed=0)
        for other in (loaded, copy.deepcopy(policy)):
            assert type(other) is rl.FlowPolicy
            assert np.array_equal(other.action_high, HIGH)
            assert np.array_equal(
                other.log_prob(actions, context=context), policy.log_prob(actions, context=context)
            )
            assert np.array_equal(other.sample(context=context, seed=0), actions)
        assert np.isfinite(log_prob).all()


def test_behaviour_is_cloned_with_both_of_its_modes():
    rng = np.random.default_rng(0)
    observations = rng.uniform(-1, 1, (2000, 1))
    side = rng.choice([-1.0, 1.0], 2000)
    actions = side[:, None] * (0.5 + 0.2 * observations) + 0.03 * rng.normal(size=(2000, 1))
    policy = rl.FlowPolicy(1, -1.0, 1.0, "elementwise_spline", hidden_units=(16,), seed=0)
    model = FlowModel(policy)
    model.adapt(observations, actions)
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(observations, actions, epochs=8, batch_size=100, verbose=0)
    drawn = model.sample(1000, context=[0.5], seed=0).numpy()[:, 0]
    for mode in (-0.6, 0.6):
        assert 0.35 < np.mean(np.abs(drawn - mode) < 0.2) < 0.65


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 0.0, 1.0), ValueError, "`observation_size` must be a positive"),
        ((2, 1.0, 1.0), ValueError, "`action_low` must be below `action_high`"),
        ((2, [0.0, 0.0], [1.0, np.inf]), ValueError, "`action_low` must be below `action_high`"),
        ((2, [[0.0]], 1.0), ValueError, "`action_low` must be below `action_high`"),
        ((2, "low", 1.0), ValueError, "`action_low` must be below `action_high`"),
        ((2, 0.0, 1.0, "no_flow"), ValueError, "`flow` must be 'gaussian', one of"),
        ((2, 0.0, 1.0, 3), TypeError, "`flow` must be a name or a Flow"),
        ((2, 0.0, 1.0, "circular_spline"), ValueError, "`flow` must have 1 unbounded columns"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        rl.FlowPolicy(*arguments)


@pytest.mark.parametrize(
    "options",
    [
        {"context_size": 2},
        {},
        {"context_size": 3, "support": (0, 1)},
        {"context_size": 3, "dtype": "float64"},
    ],
)
def test_a_flow_that_does_not_fit_is_an_error(options):
    flow = flows.real_nvp(2, layers=1, hidden_units=(4,), **options)
    with pytest.raises(ValueError, match="`flow` must have 2 unbounded columns"):
        rl.FlowPolicy(3, LOW, HIGH, flow)
