"""Mixtures of finished densities: their weights, their parts, and the model that holds them."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from helpers import normal, randomize
from tensorflow_probability import distributions as tfd

from tfp_flows import FlowModel, distributions, flows, serialization
from tfp_flows.model import stack

SMALL = {"layers": 2, "hidden_units": (4,)}


def mixture(dtype="float64"):
    made = distributions.GaussianMixture(2, components=2, dtype=dtype)
    covariances = [[[1.0, 0.5], [0.5, 2.0]], [[0.3, 0.0], [0.0, 0.1]]]
    made.set_parameters([0.3, 0.7], [[0.0, 1.0], [3.0, -1.0]], covariances)
    return made, covariances


def flow(seed, **options):
    return randomize(flows.real_nvp(2, **SMALL, seed=seed, **options), seed=seed)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_mixture_of_full_covariances_is_the_sum_of_its_normals(dtype):
    made, covariances = mixture(dtype)
    x = normal(20, 2, scale=2.0)
    normals = [
        weight * scipy.stats.multivariate_normal(mean, covariance).pdf(x)
        for weight, mean, covariance in zip([0.3, 0.7], [[0, 1], [3, -1]], covariances, strict=True)
    ]
    rtol = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(made.log_prob(x), np.log(np.sum(normals, 0)), rtol=rtol)
    drawn = made.sample(100_000, seed=0)
    assert drawn.dtype == dtype
    np.testing.assert_allclose(np.mean(drawn, 0), made.mean(), atol=0.02)
    np.testing.assert_allclose(np.cov(drawn, rowvar=False), made.covariance(), atol=0.03)


@pytest.mark.parametrize(
    ("name", "value"),
    [("weights", [0.0, 1.0]), ("means", np.zeros((2, 3))), ("covariances", np.zeros((2, 2, 2)))],
)
def test_a_mixture_refuses_what_is_none(name, value):
    made, covariances = mixture()
    arguments = {"weights": [0.5, 0.5], "means": np.zeros((2, 2)), "covariances": covariances}
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        made.set_parameters(**{**arguments, name: value})


@pytest.mark.parametrize("columns", [1, 3])
def test_a_kernel_density_is_that_of_scipy(columns):
    rows, x = normal(50, columns, dtype="float64"), normal(7, columns, seed=1, dtype="float64")
    rows[:, 0] *= 10
    made = distributions.KernelDensity(columns, rows=50, dtype="float64")
    made.set_rows(rows, bandwidth=0.4)
    reference = scipy.stats.gaussian_kde(rows.T, bw_method=0.4)
    np.testing.assert_allclose(made.log_prob(x), reference.logpdf(x.T), rtol=1e-4)
    np.testing.assert_allclose(made.log_prob(x[2]), made.log_prob(x)[2], rtol=1e-12)
    np.testing.assert_allclose(made.log_prob(x[None])[0], made.log_prob(x), rtol=1e-12)
    drawn = np.asarray(made.sample(50_000, seed=0))
    np.testing.assert_allclose(drawn.mean(0), rows.mean(0), atol=0.2)
    expected = np.cov(rows.T, ddof=0) + 0.4**2 * np.cov(rows.T)
    np.testing.assert_allclose(np.cov(drawn.T), expected, rtol=0.05, atol=0.2)


def test_a_kernel_density_goes_through_many_rows_in_blocks(monkeypatch):
    made = distributions.KernelDensity(2, rows=9)
    made.set_rows(normal(9, 2), bandwidth=0.5)
    x = normal(11, 2, seed=1)
    expected = made.log_prob(x)
    monkeypatch.setattr("tfp_flows.distributions.kernel_density._PAIRS", 36)  # Of 4 rows.
    np.testing.assert_allclose(made.log_prob(x), expected, rtol=1e-6)


def test_weights_are_those_of_the_best_mixture():
    """Against a search over all weights of three densities."""
    log_probs = np.stack([scipy.stats.norm(m, 0.7).logpdf(normal(200)) for m in (-1, 0.5, 4)], 1)
    grid = np.linspace(0, 1, 101)
    best = max(
        (np.log(np.exp(log_probs) @ [a, b, 1 - a - b]).mean(), a, b)
        for a in grid
        for b in grid
        if a + b <= 1
    )
    weights = distributions.stacking_weights(log_probs)
    assert np.log(np.exp(log_probs) @ weights).mean() >= best[0]
    np.testing.assert_allclose(weights, [best[1], best[2], 1 - best[1] - best[2]], atol=0.02)
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(distributions.stacking_weights(log_probs - 1e4), weights, rtol=1e-6)
    log_probs[:, 2] = -np.inf
    assert distributions.stacking_weights(log_probs)[2] == 0


@pytest.mark.parametrize(
    ("log_probs", "message"),
    [
        ([1.0, 2.0], "must have shape"),
        ([[0.0, np.nan]], "row 0"),
        ([[0.0, 1.0], [-np.inf, -np.inf]], "row 1"),
        ([[np.inf, 1.0]], "less than inf"),
    ],
)
def test_weights_of_no_densities_are_refused(log_probs, message):
    with pytest.raises(ValueError, match=message):
        distributions.stacking_weights(log_probs)


@pytest.mark.parametrize("context_size", [None, 3])
def test_stacked_is_the_sum_of_its_members(context_size):
    members = [flow(seed, context_size=context_size) for seed in (0, 1)]
    stacked = distributions.Stacked(members)
    stacked.set_weights([0.2, 0.8])
    x = normal(6, 2)
    given = {} if context_size is None else {"context": normal(6, 3, seed=1)}
    parts = [member.prob(x, **given) for member in members]
    expected = np.log(0.2 * parts[0] + 0.8 * parts[1])
    np.testing.assert_allclose(stacked.log_prob(x, **given), expected, rtol=1e-5)
    compiled = tf.function(stacked.log_prob, jit_compile=True)
    np.testing.assert_allclose(compiled(x, **given), expected, rtol=1e-4)
    drawn = stacked.sample(5, seed=0, **given)
    assert drawn.shape == ((5, 2) if context_size is None else (5, 6, 2))
    np.testing.assert_array_equal(drawn, stacked.sample(5, seed=0, **given))


def test_draws_are_of_each_member_as_often_as_its_weight():
    members = [tfd.MultivariateNormalDiag([m, m], [0.1, 0.1]) for m in (-5.0, 0.0, 5.0)]
    stacked = distributions.Stacked(members)
    stacked.set_weights([0.1, 0.6, 0.3])
    drawn = np.asarray(stacked.sample((100, 50), seed=0))
    near = np.abs(drawn[..., :1] - [-5.0, 0.0, 5.0]) < 1
    assert near.any(-1).all()
    assert (np.abs(drawn[..., 0] - drawn[..., 1]) < 2).all()  # Whole events, no mixed columns.
    np.testing.assert_allclose(near.mean((0, 1)), [0.1, 0.6, 0.3], atol=0.03)
    np.testing.assert_allclose(stacked.mean(), [1.0, 1.0], rtol=1e-6)


def test_members_must_fit_together():
    for members, message in (
        ([], "one distribution or more"),
        ([flow(0), flow(0, context_size=1)], "one context shape"),
        ([flow(0), flow(0, dtype="float64")], "one dtype"),
        ([flow(0), distributions.KernelDensity(3, rows=4)], "one event shape"),
        ([tfd.Normal([0.0, 1.0], 1.0)], r"batch_shape \(\)"),
    ):
        with pytest.raises(ValueError, match=message):
            distributions.Stacked(members)
    with pytest.raises(TypeError, match=r"`members\[1\]`"):
        distributions.Stacked([flow(0), "flow"])
    with pytest.raises(ValueError, match="2 numbers"):
        distributions.Stacked([flow(0), flow(1)]).set_weights([0.5, 0.6])


def test_a_stack_of_models_is_no_worse_than_the_best_and_comes_back(tmp_path):
    x = np.concatenate([normal(200, 2), normal(200, 2, seed=1) * 0.1 + 4]).astype("float32")
    x = 100 + 10 * x
    models = [FlowModel(flow(seed)) for seed in (0, 1)]
    for model in models:
        model.adapt(x)
    z = np.asarray(models[0].event_standardizer(x))
    kernels = distributions.KernelDensity(2, rows=len(x))
    kernels.set_rows(z, bandwidth=0.2)
    held_out = x + 3 * normal(*x.shape, seed=2)
    stacked = stack(models, held_out, others=[kernels])
    alone = [model.log_prob(held_out).numpy().mean() for model in models]
    assert stacked.log_prob(held_out).numpy().mean() >= max(alone)
    path = tmp_path / "stacked.keras"
    stacked.save(path)
    again = FlowModel.load(path)
    np.testing.assert_array_equal(again.log_prob(x), stacked.log_prob(x))
    np.testing.assert_array_equal(again.sample(9, seed=0), stacked.sample(9, seed=0))
    assert path.stat().st_size < 100_000


def test_what_has_no_weight_is_left_out():
    x = normal(300, 2)
    good = FlowModel(flows.real_nvp(2, **SMALL, seed=0))
    far = one_normal(1.0, mean=50.0)
    alone = stack([good], x, others=[far])
    assert alone.distribution is good.distribution
    again = stack([good, good], x, others=[far])  # A second time, it adds nothing.
    assert again.distribution is good.distribution


def one_normal(deviation, mean=0.0):
    made = distributions.GaussianMixture(2, 1)
    made.set_parameters([1.0], [[mean, mean]], [np.eye(2) * deviation**2])
    return made


def test_what_is_needed_for_few_rows_is_kept():
    x = normal(300, 2)
    x[0] = 100.0
    models = [FlowModel(one_normal(1.0)), FlowModel(one_normal(9.0))]
    alone = [model.log_prob(x).numpy().mean() for model in models]
    stacked = stack(models, x)
    assert stacked.log_prob(x).numpy().mean() > max(alone)
    assert len(stacked.distribution.members) == 2
    inside = np.random.default_rng(0).uniform(0.1, 0.9, (300, 2)).astype("float32")
    inside[0] = 1.5
    bounded = FlowModel(flows.real_nvp(2, **SMALL, support=(0.0, 1.0)))
    both = stack([bounded, FlowModel(one_normal(1.0))], inside)
    assert np.isfinite(both.log_prob(inside)).all()


def test_what_has_nothing_to_train_is_refused():
    plain = tfd.MultivariateNormalDiag([0.0, 0.0], [1.0, 1.0])
    with pytest.raises(ValueError, match=r"`others\[0\]` must have trainable variables"):
        stack([FlowModel(flow(0))], normal(5, 2), others=[plain])
    with pytest.raises(ValueError, match=r"`models` must hold one FlowModel.*a FlowModel"):
        stack(FlowModel(flow(0)), normal(5, 2))
    with pytest.raises(ValueError, match="`x` must have one row or more"):
        stack([FlowModel(flow(0))], normal(0, 2))


@pytest.mark.parametrize("options", [{"support": "positive"}, {"actnorm": True}])
def test_a_stacked_distribution_adapts_as_its_members_do(options):
    y = np.random.default_rng(0).gamma(2.0, 50.0, (300, 2)).astype("float32")
    losses = []
    for count in (1, 2):
        members = [flows.real_nvp(2, **SMALL, **options, seed=0) for _ in range(count)]
        model = FlowModel(members[0] if count == 1 else distributions.Stacked(members))
        model.adapt(y)
        losses.append(model.log_prob(y).numpy().mean())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    mixed = distributions.Stacked([flow(0), flows.real_nvp(2, **SMALL, support="positive")])
    with pytest.raises(ValueError, match="all take data in their own units"):
        FlowModel(mixed).adapt(y)


def test_rows_outside_leave_the_gradients_of_others_finite():
    members = [flows.real_nvp(2, **SMALL, support="positive", seed=seed) for seed in (0, 1)]
    stacked = distributions.Stacked(members)
    with tf.GradientTape() as tape:
        log_probs = stacked.log_prob([[-1.0, 1.0], [1.0, 1.0]])
        total = log_probs[1]
    assert log_probs[0] == -np.inf and np.isfinite(log_probs[1])
    assert all(np.isfinite(g).all() for g in tape.gradient(total, stacked.trainable_variables))
    assert stacked.experimental_default_event_space_bijector() is None


def test_infinite_events_have_no_density():
    kernels = distributions.KernelDensity(2, rows=5)
    kernels.set_rows(normal(5, 2), bandwidth=0.5)
    stacked = distributions.Stacked([mixture("float32")[0], flow(0), kernels])
    stacked.set_weights([0, 1, 0])
    events = np.array([[np.inf, 0], [0, -np.inf], [1e30, 1e30], [np.nan, 0], [0, 0]], "float32")
    for made in (*stacked.members, stacked):
        found = made.log_prob(events).numpy()
        assert (found[:3] == -np.inf).all() and np.isnan(found[3]) and np.isfinite(found[4])


def test_what_has_no_kernel_or_no_covariance_is_refused():
    kernels = distributions.KernelDensity(2, rows=3)
    with pytest.raises(ValueError, match="column 1 is constant"):
        kernels.set_rows([[0, 1], [1, 1], [2, 1]], 0.4)
    with pytest.raises(ValueError, match="column 0 is constant"):
        distributions.KernelDensity(1, rows=1).set_rows([[0.0]], 0.4)
    for made in (kernels, mixture()[0]):
        with pytest.raises(ValueError, match=r"events of size 2 .*Received: shape=\(4, 1\)"):
            made.log_prob(np.zeros((4, 1)))
    with pytest.raises(ValueError, match="must be symmetric"):
        distributions.GaussianMixture(2, 1).set_parameters(
            [1.0], np.zeros((1, 2)), [[[2.0, 0.9], [0.1, 1.0]]]
        )


def test_sizes_of_a_hostile_file_are_refused_before_they_are_allocated():
    for make in (distributions.GaussianMixture, distributions.KernelDensity):
        config = serialization.serialize(make(2, 3))
        config["arguments"]["event_size"] = 50_000
        limit = serialization.allocation_limit(10**6)
        with pytest.raises(ValueError, match="may be allocated"), limit:
            serialization.deserialize(config)


def test_models_in_other_units_are_refused():
    models = [FlowModel(flow(seed)) for seed in (0, 1)]
    models[0].adapt(normal(20, 2))
    with pytest.raises(ValueError, match=r"models\[1\] in other units"):
        stack(models, normal(5, 2))


def test_a_stack_given_context():
    x, context = normal(50, 2), 5 + normal(50, 3, seed=1)
    models = [FlowModel(flow(seed, context_size=3)) for seed in (0, 1)]
    for model in models:
        model.adapt(context, x)
    stacked = stack(models, x, context)
    alone = [model.log_prob(x, context).numpy().mean() for model in models]
    assert stacked.log_prob(x, context).numpy().mean() >= max(alone)


def test_given_context_it_is_as_others_are():
    stacked = distributions.Stacked([flow(seed, context_size=3) for seed in (0, 1)])
    given = stacked.given(normal(5, 3))
    np.testing.assert_array_equal(given.sample(4, seed=1), given.sample(4, seed=1))
    x = normal(5, 2)
    np.testing.assert_allclose(given[1:3].log_prob(x[1:3]), given.log_prob(x)[1:3], rtol=1e-6)
    with pytest.raises(TypeError, match="numbers"):
        given.log_prob(np.array([None, None]))
