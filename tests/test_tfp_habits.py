"""What users of TFP do with distributions: with flows it works, or is one clear error."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal, randomize

from tfp_flows import Flow, FlowModel, bijectors, distributions, flows

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers
SMALL = {"layers": 2, "hidden_units": (4,), "seed": 0}


def independent(size=2, loc=0.0):
    return tfd.Independent(tfd.Normal(tf.fill([size], loc), 1.0), 1)


@pytest.fixture(scope="module")
def flow():
    return randomize(flows.real_nvp(2, **SMALL), stddev=0.3)


@pytest.fixture(scope="module")
def conditional():
    return randomize(flows.real_nvp(2, context_size=2, **SMALL), stddev=0.3)


def around(z):
    return tfd.Independent(tfd.Normal(z, 1.0), 1)


# Joint distributions.


def test_joint_distributions_name_a_flow_as_they_name_others(flow, conditional):
    root = tfd.JointDistributionCoroutine.Root

    def model():
        z = yield root(flow)
        yield conditional.given(z)

    joints = {
        "sequential": tfd.JointDistributionSequential([flow, lambda z: conditional.given(z)]),
        "named": tfd.JointDistributionNamed({"z": flow, "x": lambda z: conditional.given(z)}),
        "coroutine": tfd.JointDistributionCoroutine(model),
    }
    for name, joint in joints.items():
        drawn = joint.sample(5, seed=(0, 1))
        z, x = (drawn["z"], drawn["x"]) if name == "named" else drawn
        expected = flow.log_prob(tf.identity(z)) + conditional.log_prob(tf.identity(x), context=z)
        np.testing.assert_allclose(joint.log_prob(drawn), expected, rtol=1e-4, err_msg=name)
        assert np.ptp(z, 0).min() > 0.1, name
    other = flows.real_nvp(2, layers=1, hidden_units=(4,))
    both = tfd.JointDistributionSequential([flow, other])  # Of one family, hence of one name.
    assert len(both.sample(seed=(0, 1))) == 2


def test_names_that_a_user_chose_are_those_of_the_variables(flow):
    def model():
        yield tfd.JointDistributionCoroutine.Root(flow.copy(name="velocity"))

    drawn = tfd.JointDistributionCoroutine(model).sample(seed=(0, 1))
    assert drawn._fields == ("velocity",)
    assert flow.name == "real_nvp"
    assert flow.copy().name == "real_nvp"
    assert flow.copy(validate_args=True).validate_args


@pytest.mark.parametrize("seed", [1, (0, 1)])
def test_batched_joint_distributions_draw_noise_for_every_element(seed):
    layer = tfb.Shift([1.0, 2.0])
    joint = tfd.JointDistributionSequentialAutoBatched([Flow(independent(), layer), around])
    z, _ = joint.sample(3, seed=seed)
    assert np.abs(z[0] - z[1]).max() > 0.01
    assert np.abs(z[1] - z[2]).max() > 0.01


# Arguments.


def test_a_seed_in_the_place_of_context_says_so(flow, conditional):
    models = FlowModel(flow), FlowModel(conditional)
    for subject in (flow, conditional, *models):
        for seed in (42, np.int64(42)):
            with pytest.raises(
                ValueError, match=r"`context`.*A seed is given by its name: seed=42"
            ):
                subject.sample(3, seed)
    mixture = distributions.ConditionalMixture(2, context_size=2, components=2)
    with pytest.raises(ValueError, match="seed=7"):
        mixture.sample(3, 7)


def test_an_integer_seed_of_any_kind_is_that_integer(flow):
    expected = flow.sample(3, seed=42)
    for seed in (np.int64(42), np.array(42), tf.constant(42)):
        np.testing.assert_array_equal(flow.sample(3, seed=seed), expected)


def test_sizes_may_be_integers_of_numpy(flow, tmp_path):
    sizes = {"layers": np.int64(2), "hidden_units": (np.int32(4),)}
    made = FlowModel(flows.real_nvp(np.int64(2), **sizes, seed=np.int64(0)))
    made.save(tmp_path / "sizes.keras")
    again = FlowModel.load(tmp_path / "sizes.keras")
    x = normal(5, 2)
    np.testing.assert_array_equal(again.log_prob(x), made.log_prob(x))
    np.testing.assert_array_equal(made.log_prob(x), flows.real_nvp(2, **SMALL).log_prob(x))


@pytest.mark.parametrize(
    "cast",
    [
        lambda x: tf.constant(x, tf.float64),
        lambda x: tf.constant(x, tf.float16),
        lambda x: tf.constant(x.astype("int32")),
        lambda x: x.astype("int64"),
        lambda x: x.astype("int64").tolist(),
        lambda x: x > 0,
    ],
    ids=["float64", "half", "integer", "integer_array", "list", "booleans"],
)
def test_events_and_context_of_any_real_dtype_are_cast(flow, conditional, cast):
    x = np.array([[0.0, 1.0], [2.0, -3.0]], "float32")
    given = cast(x)
    x = np.asarray(given, "float32")
    np.testing.assert_array_equal(flow.log_prob(given), flow.log_prob(x))
    np.testing.assert_array_equal(flow.prob(given), flow.prob(x))
    expected = conditional.log_prob(x, context=x)
    np.testing.assert_array_equal(conditional.log_prob(given, context=given), expected)
    np.testing.assert_allclose(FlowModel(flow).log_prob(given), flow.log_prob(x), rtol=1e-5)
    assert flow.log_prob(given).dtype == tf.float32
    graph = tf.function(flow.log_prob)
    np.testing.assert_allclose(graph(tf.constant(given)), flow.log_prob(x), rtol=1e-5)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "a",
        np.array([[None, 1.0]]),
        np.ma.masked_greater([[0.0, 2.0]], 1.0),
        tf.zeros([1, 2], tf.complex64),
    ],
)
def test_what_is_no_real_number_is_refused(flow, conditional, value):
    with pytest.raises(TypeError, match="`value` must"):
        flow.log_prob(value)
    if value is not None:
        with pytest.raises(TypeError, match="`context` must"):
            conditional.given(value)


# Moments, entropy, divergence.


def test_moments_of_affine_flows_are_right():
    chain = tfb.Chain([tfb.Shift([1.0, 2.0]), bijectors.Rotation2D(0.5)])
    flow = Flow(tfd.MultivariateNormalDiag([3.0, 0.0], [1.0, 2.0]), chain)
    x = flow.sample(100_000, seed=0).numpy()
    np.testing.assert_allclose(flow.mean(), x.mean(0), atol=0.03)
    np.testing.assert_allclose(flow.mode(), x.mean(0), atol=0.03)
    np.testing.assert_allclose(flow.covariance(), np.cov(x.T), atol=0.06)
    np.testing.assert_allclose(flow.entropy(), -flow.log_prob(x).numpy().mean(), atol=0.02)
    scaled = Flow(independent(loc=1.0), tfb.Scale([2.0, -3.0]))
    np.testing.assert_allclose(scaled.mean(), [2.0, -3.0])
    np.testing.assert_allclose(scaled.stddev(), [2.0, 3.0])
    np.testing.assert_allclose(scaled.variance(), [4.0, 9.0])
    x = scaled.sample(20_000, seed=0)
    np.testing.assert_allclose(scaled.entropy(), -np.mean(scaled.log_prob(x)), atol=0.03)
    swapped = Flow(tfd.MultivariateNormalDiag([3.0, 0.0]), bijectors.Permutation(2, [1, 0]))
    np.testing.assert_allclose(swapped.mean(), [0.0, 3.0])


@pytest.mark.parametrize(
    "layer",
    [
        bijectors.LU(2, permutation="reversed"),
        bijectors.QR(2),
        bijectors.Triangular(2),
        bijectors.Householder(2),
        bijectors.Rotation(2),
        bijectors.ActNorm(2),
        bijectors.Elementwise(2, bijectors.transformers.Affine()),
    ],
    ids=lambda layer: layer.name,
)
def test_our_own_affine_layers_have_moments(layer):
    flow = randomize(Flow(tfd.MultivariateNormalDiag([3.0, 0.0], [1.0, 2.0]), layer))
    x = flow.sample(100_000, seed=0).numpy()
    width = x.std(0).max()
    np.testing.assert_allclose(flow.mean(), x.mean(0), atol=0.015 * width)
    np.testing.assert_allclose(flow.mode(), x.mean(0), atol=0.015 * width)
    np.testing.assert_allclose(flow.covariance(), np.cov(x.T), atol=0.03 * width**2)
    np.testing.assert_allclose(flow.stddev(), x.std(0), atol=0.015 * width)
    np.testing.assert_allclose(flow.variance(), x.var(0), atol=0.03 * width**2)
    np.testing.assert_allclose(flow.entropy(), -flow.log_prob(x).numpy().mean(), atol=0.02)


def test_affine_layers_given_context_have_moments():
    layer = bijectors.LU(2, context_size=1, conditioner=(4,))
    flow = randomize(Flow(tfd.MultivariateNormalDiag([3.0, 0.0]), layer), stddev=0.5)
    given = flow.given([[0.0], [1.0]])
    x = given.sample(100_000, seed=0).numpy()
    np.testing.assert_allclose(given.mean(), x.mean(0), atol=0.01)
    assert np.abs(np.diff(given.mean(), axis=0)).max() > 0.05


def test_moments_of_other_flows_are_not_implemented(flow, conditional):
    constant_determinant = tfb.RealNVP(
        num_masked=1,
        is_constant_jacobian=True,  # TFP calls it so, although x² is not affine.
        shift_and_log_scale_fn=lambda x, size, **_: (x**2 + 1, None),
    )
    plain = tfd.TransformedDistribution(independent(), constant_determinant)
    np.testing.assert_allclose(plain.mean(), [0, 1])  # It is [0, 2].
    nice = Flow(independent(), constant_determinant)
    for subject in (flow, conditional, nice, Flow(independent(), tfb.Exp())):
        for name in ("mean", "stddev", "variance", "covariance"):
            with pytest.raises(NotImplementedError):
                getattr(subject, name)()
    for subject in (flow, conditional):
        with pytest.raises(NotImplementedError):
            subject.entropy()
    # Its entropy is right: the determinant is constant.
    np.testing.assert_allclose(nice.entropy(), independent().entropy(), rtol=1e-6)


def test_the_entropy_of_proportions_is_refused():
    """A map stretches the plane that they lie in, and not by its determinant."""
    flow = Flow(tfd.Dirichlet([1.0, 2.0, 3.0]), tfb.Scale(2.0))
    with pytest.raises(NotImplementedError, match="fewer dimensions"):
        flow.entropy()


def test_divergence_of_flows_over_one_bijector_is_that_of_their_bases(flow):
    a, b = Flow(independent(loc=1.0), flow.bijector), Flow(independent(), flow.bijector)
    np.testing.assert_allclose(tfd.kl_divergence(a, b), 1.0, rtol=1e-6)
    x = a.sample(20_000, seed=0)
    estimate = np.mean(a.log_prob(tf.identity(x)) - b.log_prob(tf.identity(x)))
    np.testing.assert_allclose(estimate, 1.0, atol=0.05)
    for other in (tfd.MultivariateNormalDiag([0.0, 0.0]), Flow(independent(), tfb.Exp())):
        with pytest.raises(NotImplementedError):
            tfd.kl_divergence(flow, other)
        with pytest.raises(NotImplementedError):
            flow.cross_entropy(other)


def test_divergence_that_the_bases_do_not_give_is_not_implemented():
    """A fold brings events together; two embeddings read the same context otherwise."""
    folds = [Flow(tfd.Normal(loc, 1.0), tfb.AbsoluteValue()) for loc in (0.0, 1.0)]
    layer = bijectors.Coupling(2, transformers.Affine(), (4,), context_size=3)
    embedded = [
        Flow(independent(), layer, embedding=keras.layers.Dense(3), context_shape=[2])
        for _ in range(2)
    ]
    plain = tfd.TransformedDistribution(tfd.Normal(1.0, 1.0), tfb.AbsoluteValue())
    for a, b in (folds, embedded, (folds[0], plain), (plain, folds[0])):
        with pytest.raises(NotImplementedError):
            tfd.kl_divergence(a, b)


# Distributions made of flows.


def test_meta_distributions_of_flows(flow, conditional):
    x = normal(4, 2)
    given = conditional.given(normal(4, 2, seed=1))
    log_prob, other = flow.log_prob(x).numpy(), given.log_prob(x).numpy()
    two_contexts = conditional.given([[0.0, 0.0], [1.0, -1.0]])
    even = tfd.Categorical(logits=[0.0, 0.0])
    mean = np.logaddexp(log_prob, Flow(independent(), tfb.Scale(2.0)).log_prob(x)) - np.log(2)
    parts = np.stack([two_contexts.log_prob(row) for row in x])
    found = {
        "independent": (tfd.Independent(given, 1), x, other.sum()),
        "sample": (tfd.Sample(flow, 4), x, log_prob.sum()),
        "mixture": (
            tfd.Mixture(even, [flow, Flow(independent(), tfb.Scale(2.0))]),
            x,
            mean,
        ),
        "same_family": (
            tfd.MixtureSameFamily(even, two_contexts),
            x,
            np.logaddexp(*parts.T) - np.log(2),
        ),
        "blockwise": (tfd.Blockwise([flow, flow]), np.concatenate([x, x], -1), 2 * log_prob),
        "masked": (tfd.Masked(flow, [True, False, True, True]), x, log_prob * [1, 0, 1, 1]),
        "broadcast": (tfd.BatchBroadcast(flow, [4]), x, log_prob),
        "reshape": (tfd.BatchReshape(given, [2, 2]), x.reshape(2, 2, 2), other.reshape(2, 2)),
    }
    for name, (distribution, value, expected) in found.items():
        assert np.abs(distribution.log_prob(value) - expected).max() < 1e-4, name
        draws = distribution.sample(3, seed=(0, 1))
        assert np.isfinite(draws).all() and np.abs(draws[0] - draws[1]).max() > 1e-3, name


def test_meta_distributions_that_give_the_seed_by_its_place(flow, conditional):
    one, other = (conditional.given([context]) for context in ([0.0, 0.0], [1.0, -1.0]))
    joined = tfd.BatchConcat([one, other], axis=0)
    assert joined.sample(3, seed=(0, 1)).shape == (3, 2, 2)
    seed = tf.constant([0, 1])
    np.testing.assert_array_equal(flow.sample(3, seed), flow.sample(3, seed=seed))
    with pytest.raises(ValueError, match="`context` must have shape"):
        conditional.sample(3, tf.constant([0, 1, 2]))


def test_shapes_and_variables_are_those_of_the_parts(flow, conditional):
    assert flow.batch_shape == () and conditional.batch_shape == ()
    np.testing.assert_array_equal(flow.event_shape_tensor(), [2])
    assert len(flow.trainable_variables) == len(flow.bijector.trainable_variables)
    to_events = flow.experimental_default_event_space_bijector()
    assert to_events.forward(tf.zeros([3, 2])).shape == (3, 2)
