"""FlowCritic: distributions of returns."""

import numpy as np
import pytest
from tensorflow_probability import bijectors as tfb

from tfp_flows import FlowModel, flows, rl
from tfp_flows.bijectors import Coupling
from tfp_flows.bijectors.transformers import Affine
from tfp_flows.distributions import Flow, bases

N = 2000


def steps(seed=0):
    """Steps whose reward is the observation's value and an exponential number."""
    rng = np.random.default_rng(seed)
    observations, actions = rng.normal(size=(2, N, 1))
    return {
        "observations": observations,
        "actions": actions,
        "rewards": observations[:, 0] + rng.exponential(size=N),
        "next_observations": observations,
        "terminated": np.ones(N),
        "next_actions": actions,
    }


def small_critic(flow="neural_spline", **options):
    return rl.FlowCritic(1, 1, flow, **{"layers": 1, "hidden_units": (32,), "seed": 0, **options})


# With what is lost by the exponential distribution itself: E|X - X'| / 2, and its entropy.
@pytest.fixture(scope="module", params=[("quantile", 0.5), ("likelihood", 1.0)])
def critic(request):
    loss, least = request.param
    critic = small_critic(loss=loss, learning_rate=3e-3)
    losses = critic.fit(steps(), steps=1000)
    assert least - 0.03 < losses[-50:].mean() < 1.1 * least < losses[:5].mean()
    return critic


def test_quantiles_means_and_risks_of_a_return_that_is_known(critic):
    observations, actions = np.array([[-0.5], [0.5]]), np.zeros((2, 1))
    levels = np.array([0.1, 0.25, 0.5, 0.75, 0.9])
    found = critic.quantile(observations, actions, levels)
    np.testing.assert_allclose(found, observations - np.log1p(-levels), atol=0.25)
    np.testing.assert_allclose(critic.mean(observations, actions), observations[:, 0] + 1, atol=0.2)
    worst = 1 + (1 - 0.2) * np.log(1 - 0.2) / 0.2  # Of an exponential number, below its quantile.
    found = critic.cvar(observations, actions, 0.2)
    np.testing.assert_allclose(found, observations[:, 0] + worst, atol=0.2)


def test_draws_quantiles_and_densities_are_of_one_distribution(critic):
    observations, actions = np.array([[0.3], [-1.0]]), np.array([[0.0], [1.0]])
    drawn = np.sort(critic.sample(20_000, observations, actions, seed=0), 0)
    quantiles = critic.quantile(observations, actions, [0.2, 0.5, 0.8]).numpy()
    for i in range(2):
        below = [np.mean(drawn[:, i] < q) for q in quantiles[i]]
        np.testing.assert_allclose(below, [0.2, 0.5, 0.8], atol=0.015)
    np.testing.assert_allclose(critic.mean(observations, actions), drawn.mean(0), atol=0.05)
    grid = np.linspace(-8, 12, 4001)
    density = np.exp(
        critic.log_prob(grid, *(np.tile(x[0], (4001, 1)) for x in (observations, actions)))
    )
    assert abs(density.sum() * (grid[1] - grid[0]) - 1) < 1e-2


@pytest.mark.parametrize("loss", ["quantile", "likelihood"])
def test_returns_follow_the_policy_that_gives_the_next_action_until_the_end(loss):
    """The next action is the next reward; and all ends, or is worth half as much again."""
    rng = np.random.default_rng(0)
    data = {name: rng.uniform(-1, 1, (N, 1)) for name in ("observations", "actions")}
    data["next_observations"] = data["observations"]
    data["rewards"] = data["actions"][:, 0] + 0.1 * rng.normal(size=N)
    data["terminated"] = (data["observations"][:, 0] < 0).astype(float)
    found = {}
    policy = rl.FlowPolicy(1, -1.0, 1.0, "gaussian", seed=0)
    bias = policy.unsquashed.bijector.bijectors[0].conditioner.layer.head.bias
    bias.assign([-4.0, 0.55])  # Of deviation exp(-4) about, near tanh 0.55 = 0.5.
    for name, given in [("function", lambda o: 0.5 + 0 * o), ("policy", policy)]:
        options = {"loss": loss, "target_rate": 0.1, "learning_rate": 1e-2}
        critic = small_critic("gaussian", discount=0.5, **options)
        critic.fit(data, given, steps=400)
        found[name] = critic.mean([[0.5], [-0.5]], [[0.2], [0.2]]).numpy()
    expected = [0.2 + 0.5 * (0.5 / (1 - 0.5)), 0.2]
    np.testing.assert_allclose(found["function"], expected, atol=0.15)
    np.testing.assert_allclose(found["policy"], expected, atol=0.15)


def constant_steps(rewards, **others):
    """Steps at one observation, of which nothing but the reward differs."""
    n = len(rewards)
    place = np.zeros((n, 1))
    names = ("observations", "actions", "next_observations", "next_actions")
    data = dict.fromkeys(names, place) | {"rewards": rewards, "terminated": np.zeros(n)}
    return data | others


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_loss_is_that_of_all_pairs_of_quantiles_in_units_of_rewards(dtype):
    """Both networks are random, and the next action is another."""
    data = constant_steps(np.full(64, 30.0), next_actions=np.full((64, 1), 2.0))
    critic = small_critic(discount=0.7, draws=5, dtype=dtype)
    for seed, model in enumerate((critic.model, critic._target)):
        rng = np.random.default_rng(seed)
        model.set_weights([w + rng.normal(size=w.shape) / 4 for w in model.get_weights()])
    assert critic.model.weights[0].dtype == dtype
    critic._take_units(critic._checked(data, None))
    levels = (np.arange(1000) + 0.5) / 1000
    found = critic.quantile([[0.0]], [[0.0]], levels)[0].numpy()
    own, critic.model = critic.model, critic._target
    wanted = 30 + 0.7 * critic.quantile([[0.0]], [[2.0]], (np.arange(5) + 0.5) / 5)[0].numpy()
    critic.model = own
    pairs = [
        2 * (u * max(y - q, 0) + (1 - u) * max(q - y, 0))
        for u, q in zip(levels, found, strict=True)
        for y in wanted
    ]
    found = critic.fit(data, steps=1, batch_size=4096)[0]  # As many draws of the same levels.
    np.testing.assert_allclose(found, np.mean(pairs), rtol=3e-3)


def test_the_sum_of_coins_by_halves_is_uniform():
    """`Σ ±1 / 2ᵗ` of fair coins is uniform in [-2, 2], though no reward is between its ends."""
    coins = np.random.default_rng(0).choice([-1.0, 1.0], size=N)
    critic = small_critic(discount=0.5, target_rate=0.1, learning_rate=1e-2)
    critic.fit(constant_steps(coins - coins.mean()), steps=400)
    levels = np.array([0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95])
    found = critic.quantile([[0.0]], [[0.0]], levels)[0]
    np.testing.assert_allclose(found, 4 * levels - 2, atol=0.1)


def test_quantiles_of_returns_that_are_one_of_two_numbers():
    """No density, and a skew: -5 of every fifth, and 1."""
    rewards = np.where(np.arange(N) % 5 == 0, -5.0, 1.0)
    options = {"spline": "linear", "bins": 16, "bound": 3.0}
    critic = small_critic(learning_rate=1e-2, **options)
    critic.fit(constant_steps(rewards, terminated=np.ones(N)), steps=1000)
    found = critic.quantile([[0.0]], [[0.0]], [0.05, 0.1, 0.3, 0.5, 0.7, 0.9])[0]
    np.testing.assert_allclose(found, [-5, -5, 1, 1, 1, 1], atol=0.25)


def test_quantiles_rise_in_a_flow_that_falls():
    base = bases.normal(1, trainable=False)
    given = Coupling(1, Affine(), (8,), context_size=2, seed=0)
    falling = FlowModel(Flow(base, tfb.Chain([tfb.Scale(-1.0), given])))
    critic = rl.FlowCritic(1, 1, falling, learning_rate=1e-2, seed=0)
    rewards = np.random.default_rng(0).normal(1.0, 2.0, size=N)
    critic.fit(constant_steps(rewards, terminated=np.ones(N)), steps=400)
    found = critic.quantile([[0.0]], [[0.0]], [0.1587, 0.5, 0.8413])[0]
    np.testing.assert_allclose(found, [-1, 1, 3], atol=0.25)


def test_a_flow_without_quantiles_learns_by_likelihood():
    base = bases.mixture(1, components=3)
    model = FlowModel(Flow(base, Coupling(1, Affine(), (8,), context_size=2, seed=0)))
    with pytest.raises(ValueError, match="`flow` must have quantiles, for loss='quantile'"):
        rl.FlowCritic(1, 1, model)
    critic = rl.FlowCritic(1, 1, model, loss="likelihood", learning_rate=1e-2, seed=0)
    losses = critic.fit(steps(), steps=50)
    assert losses[-10:].mean() < losses[:10].mean() - 0.1


def test_a_critic_is_saved_with_its_units(critic, tmp_path):
    critic.save(tmp_path / "critic.keras")
    loaded = rl.FlowCritic(1, 1, FlowModel.load(tmp_path / "critic.keras"))
    x = np.ones((3, 1))
    assert np.array_equal(loaded.mean(x, x), critic.mean(x, x))
    assert np.array_equal(loaded.sample(5, x, x, seed=0), critic.sample(5, x, x, seed=0))
    before = critic.model.event_standardizer.scale.numpy().copy()
    loaded.fit(steps(1) | {"rewards": np.full(N, 100.0)}, steps=1)
    assert np.array_equal(loaded.model.event_standardizer.scale, before)


def test_equal_seeds_give_equal_numbers():
    first, second = (small_critic("gaussian").fit(steps(), steps=5) for _ in range(2))
    assert np.array_equal(first, second)


def test_wrong_arguments_are_named(critic):
    data = steps()
    del data["next_actions"]
    with pytest.raises(ValueError, match="Missing: next_actions"):
        critic.fit(data, steps=1)
    with pytest.raises(ValueError, match=r"`data\['rewards'\]` must have finite values"):
        critic.fit(steps() | {"rewards": np.full(N, np.nan)}, steps=1)
    with pytest.raises(ValueError, match="`levels` must be numbers in"):
        critic.quantile([[0.0]], [[0.0]], [0.0])
    with pytest.raises(ValueError, match="`level` must be in"):
        critic.cvar([[0.0]], [[0.0]], 1.5)
    with pytest.raises(ValueError, match="`flow` must be of one column"):
        rl.FlowCritic(1, 1, FlowModel(flows.real_nvp(2, layers=1, context_size=2)))
    with pytest.raises(ValueError, match="`flow` must be 'gaussian'"):
        rl.FlowCritic(1, 1, "no_flow")
    with pytest.raises(ValueError, match="`loss` must be 'quantile' or 'likelihood'"):
        rl.FlowCritic(1, 1, loss="cramer")
    with pytest.raises(TypeError, match="`flow` must be the name of a family"):
        rl.FlowCritic(1, 1, "gaussian", bins=4)
