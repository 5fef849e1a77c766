"""Trainable base distributions: laws, known figures, and training and saving under a flow."""

import math
import re

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal, randomize

from tfp_flows import Flow, FlowModel, bijectors, testing
from tfp_flows.distributions import bases
from tfp_flows.distributions.mixture import ConditionalMixture
from tfp_flows.distributions.resampled import Resampled

tfd, tfb = tfp.distributions, tfp.bijectors

BASES = {
    "normal": lambda size, dtype: bases.normal(size, dtype=dtype),
    "fixed normal": lambda size, dtype: bases.normal(size, trainable=False, dtype=dtype),
    "mixture": lambda size, dtype: bases.mixture(size, 3, dtype=dtype, seed=1),
    "student_t": lambda size, dtype: bases.student_t(size, 30.0, dtype=dtype),
    "box": lambda size, dtype: bases.box(size, -2.0, 1.0, dtype=dtype),
    "torus": lambda size, dtype: bases.torus(size, dtype=dtype),
    "resampled": lambda size, dtype: bases.resampled(size, (8,), 5, dtype=dtype, seed=0),
}
CONDITIONAL = {
    "conditional_normal": lambda dtype: bases.conditional_normal(2, 3, (8,), dtype=dtype, seed=0),
    "conditional_mixture": lambda dtype: bases.conditional_mixture(
        2, 3, 4, (8,), dtype=dtype, seed=0
    ),
}
# Where the density jumps, so does what a grid makes of its integral.
INTEGRALS = {
    "box": {"extent": (-2.5, 1.5), "integral_tolerance": 0.01},
    "torus": {"extent": (-4.0, 4.0), "integral_tolerance": 0.01},
    "resampled": {"integral_tolerance": 0.02},
}


def affine(size, dtype="float32", **options):
    return bijectors.Coupling(
        size, bijectors.transformers.Affine(), (4,), dtype=dtype, seed=0, **options
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", BASES)
def test_a_flow_over_a_base_obeys_all_laws(name, dtype):
    base = randomize(BASES[name](1, dtype))
    flow = Flow(base, tfb.Chain([affine(1, dtype)]))
    testing.check_flow(flow, 0.9 * flow.sample(7, seed=0), **INTEGRALS.get(name, {}))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", BASES)
def test_bases_are_events_of_the_asked_size(name, dtype):
    base = BASES[name](3, dtype)
    assert (base.event_shape, base.batch_shape, base.dtype) == ((3,), (), tf.as_dtype(dtype))
    assert base.sample([4, 2], seed=(0, 1)).shape == (4, 2, 3)
    assert base.log_prob(base.sample([4, 2], seed=(0, 1))).shape == (4, 2)
    with tf.GradientTape() as tape:
        base.log_prob(tf.zeros([3], dtype))
    watched = {v.ref() for v in tape.watched_variables()}
    assert watched == {v.ref() for v in base.trainable_variables}
    assert bool(watched) == (name not in ("fixed normal", "box", "torus"))


@pytest.mark.parametrize("name", BASES)
def test_a_base_trains_and_saves_under_a_flow(name, tmp_path):
    base = BASES[name](2, "float32")
    before = [v.numpy() for v in base.trainable_variables]
    model = FlowModel(Flow(base, tfb.Chain([affine(2)])))
    model.compile(keras.optimizers.Adam(0.01))
    x = 0.3 * normal(64, 2) - [0.4, 0.1]
    losses = model.fit(x, epochs=4, batch_size=32, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    after = [v.numpy() for v in base.trainable_variables]
    assert all((a != b).any() for a, b in zip(after, before, strict=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.log_prob(x), model.log_prob(x))


# Known figures.


def test_fresh_bases_are_what_their_formulas_say():
    x = normal(6, 2, dtype="float64")
    standard = scipy.stats.norm.logpdf(x).sum(1)
    np.testing.assert_allclose(bases.normal(2, dtype="float64").log_prob(x), standard)
    student = scipy.stats.t.logpdf(x, 3).sum(1)
    np.testing.assert_allclose(bases.student_t(2, 3.0, dtype="float64").log_prob(x), student)
    resampled = bases.resampled(2, (8,), dtype="float64").log_prob(x)
    np.testing.assert_allclose(resampled, standard, rtol=1e-12)
    ends = bases.resampled(2, (8,)).log_prob([[np.inf, 0.0], [-np.inf, np.inf], [np.nan, 0.0]])
    np.testing.assert_array_equal(ends, [-np.inf, -np.inf, np.nan])


def test_mixture_by_hand():
    base = randomize(bases.mixture(2, 3, dtype="float64"))
    parts, logits = base.components_distribution.distribution, base.mixture_distribution.logits
    x = normal(5, 1, 2, dtype="float64")
    scale = tf.convert_to_tensor(parts.scale).numpy()
    parts = scipy.stats.norm.logpdf(x, parts.loc.numpy(), scale).sum(-1)
    parts += scipy.special.log_softmax(logits.numpy())
    np.testing.assert_allclose(base.log_prob(x[:, 0]), scipy.special.logsumexp(parts, -1))


def test_fresh_mixtures_differ_in_their_components_and_cover_standardized_data():
    base = bases.mixture(2, 50, seed=3)
    assert len(np.unique(base.components_distribution.distribution.loc)) == 100
    draws = base.sample(5000, seed=(0, 1)).numpy()
    np.testing.assert_allclose(draws.mean(0), 0, atol=0.3)
    np.testing.assert_allclose(draws.std(0), 1, atol=0.2)
    same, other = bases.mixture(2, 50, seed=3), bases.mixture(2, 50, seed=4)
    x = normal(5, 2)
    np.testing.assert_array_equal(same.log_prob(x), base.log_prob(x))
    assert (other.log_prob(x) != base.log_prob(x)).numpy().all()


def test_gradients_of_mixture_draws_reach_the_weights_if_asked():
    for reparameterize in (False, True):
        base = bases.mixture(2, 2, reparameterize=reparameterize)
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(base.sample(3, seed=(0, 1)))
        gradient = tape.gradient(total, base.mixture_distribution.logits)
        assert (gradient is not None) == reparameterize


def test_student_t_has_a_mean_however_it_is_trained():
    base = bases.student_t(1, 1.5)
    (df,) = (v for v in base.trainable_variables if "df" in v.name)
    df.assign([-50.0])
    assert base.distribution.df.numpy() >= 1
    assert np.isfinite(base.log_prob([[1e4], [0.0]])).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torus(dtype):
    base = bases.torus(3, dtype=dtype)
    pi = np.asarray(np.pi, dtype)
    edge = np.array([[pi, -pi, 0], [-pi, pi, pi], [1, 2, -3]], dtype)
    np.testing.assert_allclose(base.log_prob(edge), -3 * math.log(2 * math.pi), rtol=1e-6)
    outside = np.array([[pi + 1e-5, 0, 0], [0, -pi - 1e-5, 0]], dtype)
    x = tf.constant(outside)
    with tf.GradientTape() as tape:
        tape.watch(x)
        log_prob = base.log_prob(x)
    assert (log_prob.numpy() == -np.inf).all()
    gradient = tape.gradient(log_prob, x, unconnected_gradients="zero")
    assert (gradient.numpy() == 0).all()
    draws = base.sample(2000, seed=(0, 1)).numpy()
    assert np.abs(draws).max() <= pi
    assert scipy.stats.kstest(draws[:, 0], "uniform", args=(-np.pi, 2 * np.pi)).pvalue > 1e-3


def test_box():
    base = bases.box(2, 0.0, 4.0)
    np.testing.assert_allclose(base.log_prob([1.0, 3.9]), -2 * math.log(4), rtol=1e-6)
    assert base.log_prob([1.0, 4.1]) == -np.inf


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bases.normal(0), "`event_size` must be a positive integer"),
        (lambda: bases.torus(1, dtype="float16"), "`dtype` must be float32 or float64. Received"),
        (lambda: bases.mixture(2, 0), "`components` must be a positive integer"),
        (lambda: bases.student_t(2, 1.0), "`df` must be a finite number above 1. Received: df=1"),
        (lambda: bases.box(2, 1.0, 1.0), "`low` must be below `high`. Received: low=1.0"),
        (lambda: bases.resampled(2, truncation=1), "`truncation` must be 2 or more"),
        (lambda: bases.resampled(2, draws=0), "`draws` must be a positive integer"),
        (lambda: bases.conditional_normal(2, 0), "`context_size` must be a positive integer"),
        (lambda: bases.conditional_mixture(2, 1, 0), "`components` must be a positive integer"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


# Resampled.


def test_resampled_has_no_density_where_the_normal_has_none():
    base = Resampled(2, seed=0)
    far = [[2e38, 0.0], [0.0, -3e38], [np.inf, 0.0], [-np.inf, np.inf]]
    np.testing.assert_array_equal(base.log_prob(far), np.full(4, -np.inf))
    assert np.isfinite(base.log_prob([[1e18, 0.0]]))
    assert np.isnan(base.log_prob([[np.nan, 0.0]]))


@pytest.fixture(scope="module")
def lars():
    """A base that rejects most of the right half of the line."""
    base = Resampled(1, (8,), truncation=4, draws=20_000, dtype="float64", seed=0)
    return randomize(base, stddev=0.6)


def test_resampled_by_hand(lars):
    z = normal(6, 1, dtype="float64")
    accept = scipy.special.expit(lars.conditioner(tf.constant(z)).numpy())
    mean = scipy.special.expit(lars.conditioner(tf.constant(lars._draws)).numpy()).mean()
    last = (1 - mean) ** 3
    expected = scipy.stats.norm.pdf(z[:, 0]) * ((1 - last) * accept / mean + last)
    np.testing.assert_allclose(lars.prob(z), expected)
    assert accept.std() / mean > 0.1


def test_resampled_draws_have_its_density(lars):
    centres = np.linspace(-6, 6, 4001)
    density = lars.prob(centres[:, None]).numpy()
    cdf = np.cumsum(density) * (centres[1] - centres[0])
    assert abs(cdf[-1] - 1) < 0.02
    draws = lars.sample(20_000, seed=0).numpy()[:, 0]
    found = scipy.stats.kstest(draws, lambda x: np.interp(x, centres, cdf / cdf[-1]))
    assert found.statistic < 0.015
    plain = scipy.stats.kstest(draws, "norm")
    assert plain.statistic > 0.03  # Else the test above could not fail.


@pytest.mark.parametrize("logit", [-40.0, 40.0])
def test_resampled_is_finite_where_nothing_or_everything_is_accepted(logit):
    base = Resampled(1, (4,), truncation=3, draws=64, seed=0)
    base.conditioner.layer.head.bias.assign([logit])
    z = normal(5, 1)
    with tf.GradientTape() as tape:
        log_prob = base.log_prob(z)
    np.testing.assert_allclose(log_prob, scipy.stats.norm.logpdf(z[:, 0]), rtol=1e-5)
    for gradient in tape.gradient(log_prob, base.trainable_variables):
        assert np.isfinite(gradient).all()
    assert np.isfinite(base.sample(5, seed=0)).all()


def test_resampled_gradient_is_that_of_its_formula(lars):
    # The average gradient over new draws is the gradient for a Z of very many fixed ones.
    z = normal(4, 1, dtype="float64")
    variable = lars.conditioner.layer.head.bias.value

    def gradient(log_prob):
        with tf.GradientTape() as tape:
            value = log_prob()
        return tape.gradient(value, variable).numpy()

    found = np.mean([gradient(lambda: lars.log_prob(z)) for _ in range(30)], 0)
    expected = gradient(lambda: lars._log_acceptance(tf.constant(z))[1])
    np.testing.assert_allclose(found, expected, rtol=0.03, atol=0.01)


@pytest.mark.parametrize("jit", [False, True])
def test_resampled_samples_in_graphs(lars, jit):
    x = tf.function(lambda: lars.sample([500, 2], seed=(0, 1)), jit_compile=jit)()
    assert x.shape == (500, 2, 1)
    assert -1 < np.mean(x) < 1


# Bases that take context.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CONDITIONAL)
def test_conditional_bases_obey_all_laws(name, dtype):
    base = randomize(CONDITIONAL[name](dtype))
    x, context = normal(6, 2, dtype=dtype), normal(6, 3, seed=1, dtype=dtype)
    testing.check_flow(base, x, context)


@pytest.mark.parametrize("name", CONDITIONAL)
def test_a_flow_conditions_its_base(name):
    base = randomize(CONDITIONAL[name]("float64"))
    x, context = normal(6, 2, dtype="float64"), normal(6, 3, seed=1, dtype="float64")
    plain = randomize(Flow(base, tfb.Chain([affine(2, "float64")])))
    assert plain.context_size == 3
    testing.check_flow(plain, x, context)
    both = randomize(Flow(base, tfb.Chain([affine(2, "float64", context_size=3)])))
    testing.check_flow(both, x, context)


@pytest.mark.parametrize("name", CONDITIONAL)
def test_given_has_the_batch_of_its_context(name):
    base = randomize(CONDITIONAL[name]("float32"))
    context = normal(4, 5, 3)
    given = base.given(context)
    assert (given.batch_shape, given.event_shape) == ((4, 5), (2,))
    x = given.sample(6, seed=(0, 1))
    assert x.shape == (6, 4, 5, 2)
    one = base.log_prob(x[2, 3, 1], context=context[3, 1])
    np.testing.assert_allclose(given.log_prob(x)[2, 3, 1], one, rtol=1e-4)
    assert np.isnan(base.log_prob(x[0, 0], context=np.full([5, 3], np.nan, "float32"))).all()
    with pytest.raises(ValueError, match="`context` is missing"):
        base.log_prob(x)
    with pytest.raises(ValueError, match=r"`context` must have shape \(..., 3\)"):
        base.given(context[..., :2])


@pytest.mark.parametrize("name", CONDITIONAL)
def test_conditional_bases_learn_and_save(name, tmp_path):
    context = normal(128, 3, seed=1)
    x = 2 * context[:, :2] + 0.1 * normal(128, 2)
    model = FlowModel(CONDITIONAL[name]("float32"))
    model.compile(keras.optimizers.Adam(0.02))
    losses = model.fit(context, x, epochs=10, verbose=0).history["loss"]
    assert losses[-1] < losses[0] - 1
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    found = loaded.log_prob(x, context=context)
    np.testing.assert_array_equal(found, model.log_prob(x, context=context))


def test_a_fresh_conditional_mixture_is_the_fresh_mixture():
    x, context = normal(5, 2), normal(5, 3, seed=1)
    found = ConditionalMixture(2, 3, 4, (8,), seed=2).log_prob(x, context)
    np.testing.assert_allclose(found, bases.mixture(2, 4, seed=2).log_prob(x), rtol=1e-5)


def test_a_network_that_loses_a_nan_gives_no_density():
    forgetful = keras.layers.Lambda(lambda c: tf.where(tf.math.is_nan(c), tf.zeros_like(c), c))
    base = ConditionalMixture(2, 3, 4, forgetful)
    context = np.array([[0.0, 1.0, 2.0], [0.0, np.nan, 2.0]], "float32")
    found = base.log_prob(normal(2, 2), context)
    np.testing.assert_array_equal(np.isnan(found), [False, True])
