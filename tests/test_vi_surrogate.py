"""Surrogates: flows in the shape of joint distributions."""

import copy
import pickle

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import randomize

from tfp_flows import FlowModel, flows, vi

tfd = tfp.distributions
Root = tfd.JointDistributionCoroutine.Root


def supports(dtype="float32"):
    """One part of every kind, the last of which is to be pinned."""
    c = lambda value: tf.constant(value, dtype)  # noqa: E731

    @tfd.JointDistributionCoroutineAutoBatched
    def model():
        yield tfd.Normal(c(0.0), c(1.0), name="real")
        scale = yield tfd.HalfNormal(c(1.0), name="positive")
        yield tfd.Uniform(c(0.0), scale, name="bounded")  # by another part
        yield tfd.Dirichlet(c([1.0, 2.0, 3.0]), name="simplex")
        yield tfd.Independent(tfd.Dirichlet(c([[1.0, 1.0], [2.0, 2.0]])), 1, name="simplices")
        yield tfd.CholeskyLKJ(3, c(2.0), name="correlation")
        if dtype == "float32":  # TFP's bijector of these knows no other.
            yield tfd.WishartTriL(5.0, tf.eye(2), name="matrix")
        yield tfd.Sample(tfd.Normal(c(0.0), scale), [2, 2], name="table")
        yield tfd.Normal(c(0.0), scale, name="y")

    return model.experimental_pin(y=c(0.3))


KINDS = {
    "sequential": lambda: tfd.JointDistributionSequential(
        [tfd.Normal(0.0, 1.0), lambda a: tfd.Normal(a, 2.0), lambda b: tfd.Normal(b, 1.0)]
    ).experimental_pin(None, None, 1.0),
    "sequential batched": lambda: tfd.JointDistributionSequentialAutoBatched(
        [tfd.Exponential(1.0), lambda a: tfd.Sample(tfd.Normal(0.0, a), 3)]
    ),
    "named": lambda: tfd.JointDistributionNamed(
        {"b": tfd.Exponential(1.0), "a": lambda b: tfd.Normal(0.0, b), "y": tfd.Normal(0.0, 1.0)}
    ).experimental_pin(y=0.0),
    "named batched": lambda: tfd.JointDistributionNamedAutoBatched(
        {"b": tfd.Exponential(1.0), "a": lambda b: tfd.Sample(tfd.Normal(0.0, b), 2)}
    ),
    "coroutine": lambda: tfd.JointDistributionCoroutine(_coroutine),
}


def halves(components):
    return tfd.MixtureSameFamily(tfd.Categorical(logits=tf.zeros(2)), components)


def _coroutine():
    a = yield Root(tfd.Gamma(2.0, 1.0, name="a"))
    yield tfd.Normal(a, 1.0, name="b")


def close(first, second, **tolerance):
    for a, b in zip(tf.nest.flatten(first), tf.nest.flatten(second), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def jacobian_free_log_prob(posterior, value):
    """By the change of variables, with the flow alone."""
    z = posterior.bijector.inverse(tf.nest.map_structure(tf.identity, value))
    log_det = posterior.bijector.forward_log_det_jacobian(tf.identity(z), 1)
    return posterior.flow.log_prob(z) - log_det


@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_structure_of_the_joint(kind):
    joint = KINDS[kind]()
    posterior = vi.surrogate(joint, "real_nvp", seed=0, hidden_units=(8,))
    randomize(posterior)
    value, log_prob = posterior.sample_and_log_prob(4, seed=0)
    tf.nest.assert_same_structure(value, joint.event_shape)
    assert joint.unnormalized_log_prob(value).shape == (4,)
    again = tf.nest.map_structure(tf.identity, value)
    np.testing.assert_allclose(posterior.log_prob(again), log_prob, rtol=1e-4, atol=1e-4)
    close(posterior.sample(4, seed=0), value)
    assert len(posterior.names) == len(tf.nest.flatten(value)) == len(set(posterior.names))


def test_names_are_those_of_the_tensors():
    assert vi.surrogate(KINDS["named"](), "mean_field").names == ["a", "b"]
    assert vi.surrogate(KINDS["sequential"](), "mean_field").names == ["a", "b"]
    names = ["real", "positive", "bounded", "simplex", "simplices", "correlation", "matrix"]
    assert vi.surrogate(supports(), "mean_field").names == [*names, "table"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_support_is_kept(dtype):
    joint = supports(dtype)
    made = vi.surrogate(joint, "real_nvp", seed=0, layers=2, hidden_units=(8,))
    posterior = randomize(made, stddev=0.05)
    value, log_prob = posterior.sample_and_log_prob(50, seed=1)
    assert all(part.dtype == dtype for part in tf.nest.flatten(value))
    assert np.isfinite(joint.unnormalized_log_prob(value)).all()
    assert (value.bounded < value.positive).numpy().all() and (value.bounded > 0).numpy().all()
    np.testing.assert_allclose(tf.reduce_sum(value.simplices, -1), np.ones([50, 2]), rtol=1e-5)
    again = tf.nest.map_structure(tf.identity, value)
    tolerance = {"float32": 2e-2, "float64": 1e-8}[dtype]
    np.testing.assert_allclose(posterior.log_prob(again), log_prob, atol=tolerance)
    compiled = tf.function(posterior.log_prob, jit_compile=True)(value)
    np.testing.assert_allclose(compiled, log_prob, atol=tolerance)


@pytest.mark.parametrize("flow", ["mean_field", "full_rank", "iaf", "neural_spline"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_fresh_surrogate_is_standard_normal_in_unconstrained_space(flow, dtype):
    posterior = vi.surrogate(supports(dtype), flow, seed=0)
    z = np.random.default_rng(0).normal(size=(20, posterior.flow.event_shape[0])).astype(dtype)
    normal = tfd.MultivariateNormalDiag(tf.zeros_like(z[0]), tf.ones_like(z[0]))
    np.testing.assert_allclose(posterior.flow.log_prob(z), normal.log_prob(z), atol=1e-3)


def test_a_surrogate_of_a_saved_flow_is_the_same(tmp_path):
    joint = supports()
    posterior = randomize(vi.surrogate(joint, "iaf", seed=0, layers=2, hidden_units=(8,)))
    posterior.flow.adapt(np.random.default_rng(0).normal(2, 3, (40, posterior.flow.event_shape[0])))
    FlowModel(posterior.flow).save(tmp_path / "posterior.keras")
    loaded = FlowModel.load(tmp_path / "posterior.keras").distribution
    again = vi.surrogate(joint, loaded)
    value = posterior.sample(8, seed=3)
    close(again.sample(8, seed=3), value, rtol=0, atol=0)
    # New tensors, of which no cache knows the inverse.
    values = [tf.nest.map_structure(tf.identity, value) for _ in range(2)]
    log_prob = posterior.log_prob(values[0])
    np.testing.assert_array_equal(again.log_prob(values[1]), log_prob)
    np.testing.assert_allclose(log_prob, jacobian_free_log_prob(posterior, value), atol=1e-2)


@pytest.mark.parametrize("flow", ["mean_field", "full_rank", "iaf"])
def test_an_amortized_surrogate_depends_on_its_context(flow):
    joint = KINDS["sequential"]()
    posterior = randomize(vi.surrogate(joint, flow, context_size=2, hidden_units=(8,), seed=0))
    context = np.array([[0.0, 0.0], [0.0, 0.0], [3.0, -1.0]], "float32")
    value = posterior.given(context).sample(5, seed=0)
    assert all(part.shape == (5, 3) for part in value)
    log_prob = posterior.log_prob([part[:, :1] for part in value], context=context)
    np.testing.assert_allclose(log_prob[:, 0], log_prob[:, 1], rtol=1e-6)
    assert np.abs(log_prob[:, 0] - log_prob[:, 2]).min() > 1e-3
    with pytest.raises(ValueError, match="`context` is missing"):
        posterior.sample(5)


def test_mean_field_is_independent_and_full_rank_is_not():
    joint = KINDS["sequential"]()
    y = np.random.default_rng(0).normal(size=(500, 2)) @ [[2.0, 1.5], [0.0, 0.5]]
    correlations = {}
    for flow in ("mean_field", "full_rank"):
        posterior = vi.surrogate(joint, flow)
        posterior.flow.adapt(y)
        drawn = np.stack(posterior.sample(4000, seed=0), 1)
        correlations[flow] = np.corrcoef(drawn.T)[0, 1]
        np.testing.assert_allclose(drawn.std(0), y.std(0), rtol=0.05)
    assert abs(correlations["mean_field"]) < 0.05 < 0.9 < correlations["full_rank"]


def test_outside_of_the_support_there_is_no_density():
    posterior = vi.surrogate(KINDS["named"](), "iaf", seed=0)
    value = {"a": tf.zeros(4), "b": tf.constant([1.0, -1.0, np.inf, np.nan])}
    log_prob = posterior.log_prob(value).numpy()
    assert np.isfinite(log_prob[0]) and (log_prob[1:3] == -np.inf).all() and np.isnan(log_prob[3])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(posterior.log_prob(value)[:1])
    gradients = tape.gradient(loss, posterior.trainable_variables)
    assert all(np.isfinite(g).all() for g in gradients if g is not None)


@pytest.mark.parametrize(
    ("joint", "options", "error", "message"),
    [
        (lambda: tfd.Normal(0.0, 1.0), {}, TypeError, "`joint` must be a tfd.JointDistribution"),
        (
            lambda: tfd.JointDistributionSequential([tfd.Normal(0.0, 1.0), tfd.Poisson(2.0)]),
            {},
            ValueError,
            "continuous parts alone.*Sum over 'x'.*of Poisson",
        ),
        (
            lambda: tfd.JointDistributionNamed({"k": tfd.Categorical(logits=[0.0, 0.0])}),
            {},
            ValueError,
            "continuous parts alone.*'k' of Categorical",
        ),
        (
            lambda: tfd.JointDistributionSequential([halves(tfd.Uniform([0.0, 1.0], 2.0))]),
            {},
            ValueError,
            "share their support.*'x' of MixtureSameFamily",
        ),
        (
            lambda: tfd.JointDistributionSequential([halves(tfd.Poisson([1.0, 2.0]))]),
            {},
            ValueError,
            "mixtures of continuous components alone",
        ),
        *(
            (
                lambda part=part: tfd.JointDistributionSequential([part]),
                {},
                ValueError,
                "one within another more than once",
            )
            for part in (
                tfd.Sample(tfd.Independent(tfd.Sample(tfd.Gamma([1.0, 2.0], 1.0), 3), 1), 2),
                tfd.Independent(
                    tfd.Sample(tfd.Independent(tfd.Gamma(tf.ones([2, 2]), 1.0), 1), 3), 1
                ),
            )
        ),
        (
            lambda: tfd.JointDistributionSequential([tfd.SphericalUniform(3)]),
            {},
            ValueError,
            "no parts on spheres.*'x' of SphericalUniform",
        ),
        (
            lambda: tfd.JointDistributionSequential([tfd.Normal([0.0, 1.0], 1.0)]),
            {},
            ValueError,
            r"batch shape \(\).*AutoBatched",
        ),
        (
            lambda: tfd.JointDistributionSequential(
                [tfd.Normal(0.0, 1.0), tfd.Normal(tf.constant(0.0, "float64"), 1.0)]
            ),
            {},
            ValueError,
            "one dtype. Received: float32, float64",
        ),
        (
            lambda: tfd.JointDistributionNamed({"a": KINDS["coroutine"]()}),
            {},
            ValueError,
            "tensors as parts.*'a' of JointDistributionCoroutine",
        ),
        (KINDS["named"], {"flow": "ia"}, ValueError, "`flow` must be a Flow or one of.*'ia'"),
        (KINDS["named"], {"support": "positive"}, ValueError, "`support` must be left out"),
        (KINDS["named"], {"flow": "mean_field", "layers": 2}, TypeError, r"\['layers'\]"),
        (KINDS["named"], {"flow": flows.maf(3)}, ValueError, r"events of shape \(2,\)"),
        (KINDS["named"], {"flow": flows.maf(2), "layers": 2}, ValueError, "must be left out"),
        (KINDS["named"], {"hidden_unit": (2,)}, TypeError, "did you mean `hidden_units`"),
    ],
)
def test_what_cannot_be_is_one_clear_error(joint, options, error, message):
    with pytest.raises(error, match=message):
        vi.surrogate(joint(), **options)


@pytest.mark.parametrize(
    "mixture",
    [
        halves(tfd.MultivariateNormalDiag(tf.zeros([2, 3]), tf.ones([2, 3]))),
        tfd.Sample(halves(tfd.Gamma([1.0, 2.0], 1.0)), 4),
        tfd.Mixture(tfd.Categorical(logits=[0.0, 0.0]), [tfd.Beta(1.0, 2.0), tfd.Beta(2.0, 1.0)]),
        halves(tfd.Dirichlet([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])),
    ],
    ids=["real", "positive", "bounded", "simplex"],
)
def test_mixtures_have_the_support_of_their_components(mixture):
    for joint in (
        tfd.JointDistributionSequential([mixture, tfd.Normal(0.0, 1.0)]),
        tfd.JointDistributionSequentialAutoBatched([mixture, tfd.Normal(0.0, 1.0)]),
    ):
        posterior = vi.surrogate(joint, "mean_field")
        value = posterior.sample(50, seed=0)
        assert value[0].shape == [50, *mixture.event_shape]
        assert np.all(np.isfinite(joint.log_prob(value)))
        assert np.all(np.isfinite(posterior.log_prob(joint.sample(50, seed=1))))


def gammas(*sizes):
    return tfd.Independent(tfd.Gamma(tf.ones(sizes), 1.0), len(sizes))


@pytest.mark.parametrize(
    "part",
    [
        tfd.Sample(gammas(2), 3),
        tfd.Sample(tfd.Independent(tfd.Uniform([0.0, 1.0], [2.0, 4.0]), 1), 3),
        tfd.Sample(tfd.Sample(gammas(2), 3), 2),
        tfd.Independent(tfd.Sample(tfd.Uniform([0.0, 1.0], [2.0, 4.0]), 3), 1),
        tfd.Sample(tfd.Gamma(2.0, 1.0), [3, 2]),
    ],
    ids=["sample", "limits", "samples", "independent", "shape"],
)
def test_nested_parts_have_the_log_det_of_each_scalar_once(part):
    for joint in (tfd.JointDistributionSequential, tfd.JointDistributionSequentialAutoBatched):
        posterior = vi.surrogate(joint([part]), "mean_field")
        z = posterior.flow.sample(4, seed=0)
        with tf.GradientTape() as tape:
            tape.watch(z)
            (x,) = posterior.bijector.forward(z)
            x = tf.reshape(x, z.shape)
        log_det = np.linalg.slogdet(tape.batch_jacobian(x, z))[1]
        x = tf.reshape(x, [4, *part.event_shape])
        expected = posterior.flow.log_prob(z) - log_det
        np.testing.assert_allclose(posterior.log_prob([x]), expected, rtol=1e-4)
        np.testing.assert_allclose(posterior.log_prob([x[1]]), expected[1], rtol=1e-4)


def test_another_structure_is_an_error():
    posterior = vi.surrogate(KINDS["named"](), "mean_field")
    with pytest.raises(ValueError, match="must have the parts of"):
        posterior.log_prob({"a": 0.0})


def test_copies_have_weights_of_their_own():
    joint = tfd.JointDistributionSequential([tfd.Exponential(1.0), tfd.Dirichlet([1.0, 1.0, 1.0])])
    posterior = randomize(vi.surrogate(joint, "mean_field"))
    x = [part.numpy() for part in posterior.sample(3, seed=0)]  # Unknown to caches.
    expected = posterior.log_prob(x)
    for twin in (copy.deepcopy(posterior), pickle.loads(pickle.dumps(posterior))):
        np.testing.assert_array_equal(twin.log_prob(x), expected)
        for variable in twin.trainable_variables:
            variable.assign_add(tf.ones_like(variable))
        assert np.all(twin.log_prob(x) != expected)
    np.testing.assert_array_equal(posterior.log_prob(x), expected)


def test_divergence_is_that_of_flows_behind_one_bijector_or_an_error():
    joint = tfd.JointDistributionSequential([tfd.Normal(0.0, 1.0), tfd.Exponential(1.0)])
    one, other = vi.surrogate(joint, "mean_field"), vi.surrogate(joint, "full_rank")
    assert tfd.kl_divergence(one, one.copy()) == 0
    for a, b in ((one, other), (one, tfd.MultivariateNormalDiag([0.0, 0.0]))):
        with pytest.raises(NotImplementedError, match="share their bijector only: estimate it"):
            tfd.kl_divergence(a, b)


def test_slices_of_the_batch_that_contexts_make():
    joint = tfd.JointDistributionSequential([tfd.Normal(0.0, 1.0), tfd.HalfNormal(1.0)])
    q = vi.surrogate(joint, "real_nvp", context_size=1, layers=2, hidden_units=(8,), seed=0)
    for variable in q.trainable_variables:
        variable.assign_add(0.3 * tf.ones_like(variable))
    contexts = np.arange(4.0)[:, None]
    given = q.given(contexts)
    assert given[2].batch_shape == ()
    assert [part.shape for part in given[2].sample(seed=0)] == [(), ()]
    whole = given.log_prob([0.5, 1.0])
    assert len(np.unique(whole)) == 4
    np.testing.assert_allclose(given[2].log_prob([0.5, 1.0]), whole[2], rtol=1e-6)
    np.testing.assert_allclose(given[1:3].log_prob([0.5, 1.0]), whole[1:3], rtol=1e-6)
