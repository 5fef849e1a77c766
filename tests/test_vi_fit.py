"""Training of posteriors: gradients against closed forms, callbacks, and targets that break."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from vi_models import EIGHT_SCHOOLS, gaussian

from tfp_flows import FlowModel, vi
from tfp_flows.vi.objectives import OBJECTIVES
from tfp_flows.vi.start import closest_gaussian

tfd = tfp.distributions


def conjugate(n=20):
    """A mean and its data, with the exact posterior and log evidence."""
    y = np.random.default_rng(0).normal(3.0, 2.0, n).astype("float64")

    @tfd.JointDistributionCoroutineAutoBatched
    def model():
        mean = yield tfd.Normal(tf.constant(1.0, "float64"), 5.0, name="mean")
        yield tfd.Sample(tfd.Normal(mean, tf.constant(2.0, "float64")), n, name="y")

    precision = 1 / 25 + n / 4
    exact = (1 / 25 + y.sum() / 4) / precision, precision**-0.5
    covariance = 4 * np.eye(n) + 25 * np.ones([n, n])
    evidence = tfd.MultivariateNormalTriL(np.full(n, 1.0), np.linalg.cholesky(covariance))
    return model.experimental_pin(y=y), exact, float(evidence.log_prob(y))


@pytest.mark.parametrize("flow", ["mean_field", "iaf"])
def test_a_conjugate_posterior_is_found(flow):
    target, (mean, deviation), evidence = conjugate()
    posterior = (
        vi.surrogate(target, flow, hidden_units=(8,), seed=0)
        if flow == "iaf"
        else (vi.surrogate(target, flow))
    )
    history = vi.fit(target, posterior, steps=60, sample_size=32, verbose=0)
    drawn = posterior.sample(4000, seed=0).mean.numpy()
    np.testing.assert_allclose(drawn.mean(), mean, atol=0.1 * deviation)
    np.testing.assert_allclose(drawn.std(), deviation, rtol=0.05)
    assert abs(history.history["elbo"][-1] - evidence) < 0.01


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains(objective):
    target = tfd.MultivariateNormalDiag([1.0, -1.0], [0.5, 2.0])
    flow = gaussian("float32")
    history = vi.fit(
        target,
        flow,
        steps=200,
        sample_size=64,
        objective=objective,
        start=False,
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 200)),
        verbose=0,
    )
    assert abs(history.history["elbo"][-1]) < 0.1
    np.testing.assert_allclose(flow.bijector.shift, [1.0, -1.0], atol=0.1)
    np.testing.assert_allclose(flow.bijector.log_scale, np.log([0.5, 2.0]), atol=0.1)


def test_a_bridge_leads_from_the_first_posterior_to_the_target():
    """With β = 0, 1/8, 1, 1, the loss of what stays as it is is β times that without a bridge."""
    losses = {}
    for anneal in (0.0, 0.5):
        flow = gaussian("float32")
        flow.bijector.shift.assign([1.0, -1.0])
        history = vi.fit(
            tfd.MultivariateNormalDiag([0.0, 0.0]),
            flow,
            steps=4,
            steps_per_epoch=1,
            sample_size=16,
            anneal=anneal,
            start=False,
            optimizer=keras.optimizers.SGD(0.0),
            verbose=0,
        )
        losses[anneal] = np.array(history.history["loss"])
    assert losses[0.0].min() > 0.1
    np.testing.assert_allclose(losses[0.5], losses[0.0] * [0.0, 1 / 8, 1.0, 1.0], atol=1e-5)


def test_equal_seeds_train_alike():
    results = []
    for seed in (3, 3, 4):
        posterior = vi.surrogate(EIGHT_SCHOOLS, "mean_field")
        vi.fit(EIGHT_SCHOOLS, posterior, steps=8, sample_size=8, seed=seed, verbose=0)
        results.append(posterior.flow.sample(3, seed=0).numpy())
    np.testing.assert_array_equal(results[0], results[1])
    assert np.abs(results[0] - results[2]).max() > 1e-3


def test_xla_trains_with_other_draws():
    options = {"steps": 4, "sample_size": 256, "verbose": 0}
    plain, compiled = (
        vi.fit(
            EIGHT_SCHOOLS,
            vi.surrogate(EIGHT_SCHOOLS, "mean_field"),
            jit_compile=jit_compile,
            **options,
        )
        for jit_compile in (False, True)
    )
    np.testing.assert_allclose(compiled.history["elbo"], plain.history["elbo"], atol=0.5)


class Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def test_a_killed_training_goes_on_where_it_was(tmp_path):
    def trained(*callbacks, **options):
        posterior = vi.surrogate(EIGHT_SCHOOLS, "full_rank")
        kept = {"steps": 12, "steps_per_epoch": 3, "sample_size": 8, "verbose": 0, **options}
        try:
            vi.fit(EIGHT_SCHOOLS, posterior, callbacks=list(callbacks), **kept)
        except KeyboardInterrupt:
            return None
        return posterior.flow.sample(3, seed=0).numpy()

    backup = lambda: keras.callbacks.BackupAndRestore(tmp_path / "backup")  # noqa: E731
    assert trained(backup(), Kill()) is None
    np.testing.assert_array_equal(trained(backup()), trained())


def test_a_killed_bridge_goes_on_from_where_it_began(tmp_path):
    def trained(posterior, *callbacks):
        vi.fit(
            EIGHT_SCHOOLS,
            posterior,
            steps=12,
            steps_per_epoch=3,
            sample_size=8,
            anneal=0.8,
            optimizer=keras.optimizers.Adam(0.05),
            callbacks=list(callbacks),
            verbose=0,
        )
        return posterior.flow.sample(3, seed=0).numpy()

    fresh = lambda: vi.surrogate(EIGHT_SCHOOLS, "full_rank")  # noqa: E731
    backup = lambda: keras.callbacks.BackupAndRestore(tmp_path / "backup")  # noqa: E731
    killed = fresh()
    with pytest.raises(KeyboardInterrupt):
        trained(killed, backup(), Kill())
    np.testing.assert_array_equal(trained(killed, backup()), trained(fresh()))


def test_callbacks_see_the_elbo_and_save_the_flow(tmp_path):
    posterior = vi.surrogate(EIGHT_SCHOOLS, "mean_field")
    stop = keras.callbacks.EarlyStopping("elbo", min_delta=1e6, patience=1, mode="max")
    save = keras.callbacks.ModelCheckpoint(tmp_path / "flow.keras")
    history = vi.fit(
        EIGHT_SCHOOLS,
        posterior,
        steps=30,
        steps_per_epoch=5,
        sample_size=8,
        callbacks=[stop, save],
        verbose=0,
    )
    assert len(history.history["loss"]) == 2
    np.testing.assert_allclose(history.history["loss"], -np.array(history.history["elbo"]))
    loaded = vi.surrogate(EIGHT_SCHOOLS, FlowModel.load(tmp_path / "flow.keras").distribution)
    np.testing.assert_array_equal(loaded.sample(4, seed=0).tau, posterior.sample(4, seed=0).tau)


def test_a_second_training_goes_on_from_the_first():
    posterior = vi.surrogate(EIGHT_SCHOOLS, "mean_field")
    vi.fit(EIGHT_SCHOOLS, posterior, steps=2, sample_size=8, verbose=0)
    shift = posterior.flow.bijector.bijectors[0].shift.numpy()
    vi.fit(EIGHT_SCHOOLS, posterior, steps=2, sample_size=8, verbose=0, seed=9)
    np.testing.assert_array_equal(posterior.flow.bijector.bijectors[0].shift, shift)
    assert np.abs(shift).max() > 0.1


def test_amortized_posteriors_of_all_contexts_are_found():
    """x | z ~ N(z, 1) and z ~ N(0, 1), of which the posterior is N(x / 2, 1 / 2)."""
    joint = tfd.JointDistributionSequential([tfd.Normal(0.0, 1.0)])
    x = np.random.default_rng(0).normal(0, 2**0.5, (500, 1)).astype("float32")

    def target(value, x):
        return tfd.Normal(0.0, 1.0).log_prob(value[0]) + tfd.Normal(value[0], 1.0).log_prob(x[:, 0])

    posterior = vi.surrogate(joint, "mean_field", context_size=1, hidden_units=(16,), seed=0)
    vi.fit(
        target,
        posterior,
        context=x,
        steps=400,
        sample_size=4,
        batch_size=32,
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.02, 400)),
        verbose=0,
    )
    (z,) = posterior.sample(2000, context=[[1.0], [-2.0]], seed=0)
    np.testing.assert_allclose(z.numpy().mean(0), [0.5, -1.0], atol=0.1)
    np.testing.assert_allclose(z.numpy().std(0), 0.5**0.5, rtol=0.1)


@pytest.mark.parametrize(
    ("density", "message"),
    [
        (lambda v: tf.math.log(v["b"] - 1.0) - v["a"] ** 2, "nan at b = .*finite with the 'b' of"),
        (lambda v: tf.where(v["a"] < 0.5, -np.inf, 0.0) - v["b"], "-inf at a = .*with the 'a' of"),
        (lambda v: v["a"] * np.nan, "nan at a = .*, b = "),
        (lambda v: tf.sqrt(v["b"] * 0.0) - v["a"] ** 2, "gradient.*'b' that is not, at b = "),
    ],
)
def test_a_target_that_is_not_finite_stops_with_the_parameter(density, message):
    joint = tfd.JointDistributionNamed({"a": tfd.Normal(0.0, 1.0), "b": tfd.Exponential(1.0)})
    posterior = vi.surrogate(joint, "mean_field")
    before = posterior.flow.sample(2, seed=0).numpy()
    with pytest.raises(ValueError, match=message):
        vi.fit(density, posterior, steps=4, sample_size=32, start=False, verbose=0)
    np.testing.assert_array_equal(posterior.flow.sample(2, seed=0), before)


def test_the_part_of_a_joint_that_is_not_finite_is_named():
    @tfd.JointDistributionCoroutineAutoBatched
    def model():
        low = yield tfd.Normal(0.0, 1.0, name="low")
        yield tfd.Normal(0.0, 1.0, name="other")
        yield tfd.Uniform(low, 2.0, name="y")

    target = model.experimental_pin(y=0.0)
    with pytest.raises(ValueError, match=r"at low = .*log-density of 'y'.*the 'low' of another"):
        vi.fit(target, vi.surrogate(target, "mean_field"), steps=2, start=False, verbose=0)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (lambda v: tf.reduce_sum(v["a"]), r"one log-density for every row.*shape \(\) of 3 rows"),
        (lambda v: v["a"] - tf.reduce_mean(v["b"]), "does not depend on other rows"),
    ],
)
def test_a_target_that_mixes_rows_is_an_error(target, message):
    joint = tfd.JointDistributionNamed({"a": tfd.Normal(0.0, 1.0), "b": tfd.Exponential(1.0)})
    with pytest.raises(ValueError, match=message):
        vi.fit(target, vi.surrogate(joint, "mean_field"), steps=2, verbose=0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ValueError, "`steps` must be a positive integer"),
        ({"sample_size": 2.5}, ValueError, "`sample_size` must be a positive integer"),
        ({"objective": "kl"}, ValueError, "`objective` must be one of.*'kl'"),
        ({"gradient": "stl"}, ValueError, "`gradient` must be one of.*'stl'"),
        ({"objective": "alpha", "alpha": 1.0}, ValueError, "`alpha` must be a finite number"),
        ({"anneal": 1.0}, ValueError, "`anneal` must be 0 or more, and below 1"),
        ({"seed": 1.5}, ValueError, "`seed` must be an integer"),
        ({"steps_per_epoch": 0}, ValueError, "`steps_per_epoch` must be a positive integer"),
        ({"callbacks": [3]}, TypeError, "`callbacks` must be"),
        ({"context": [[1.0]]}, ValueError, "`context` was given"),
        ({"posterior": tfd.Normal(0.0, 1.0)}, TypeError, "`posterior` must be made by"),
        ({"target": 3}, TypeError, "`target` must be a pinned joint distribution"),
    ],
)
def test_bad_arguments_are_one_clear_error(options, error, message):
    target = tfd.MultivariateNormalDiag([0.0, 0.0])
    given = {"target": target, "posterior": gaussian("float32"), "verbose": 0, **options}
    with pytest.raises(error, match=message):
        vi.fit(given.pop("target"), given.pop("posterior"), **given)


def test_the_start_leaves_a_saddle():
    """As 0 is one of two layers' weights, and denser than all points but for those found there."""
    rng = np.random.default_rng(0)
    matrix = tf.constant(0.3 * rng.normal(size=(5, 2)) @ np.ones((2, 5)), "float64")

    def log_prob(z):
        first, second = tf.reshape(z[:, :10], [-1, 5, 2]), tf.reshape(z[:, 10:], [-1, 2, 5])
        misses = tf.reduce_sum((first @ second - matrix) ** 2, [1, 2])
        return -0.5 * tf.reduce_sum(z**2, -1) - 50 * misses

    points = rng.normal(size=(64, 20))
    points[0] = 0
    values = log_prob(tf.constant(points)).numpy()
    assert values.argmax() == 0
    mean, _ = closest_gaussian(log_prob, points, seed=0)
    assert log_prob(tf.constant(mean[None])).numpy() > values.max() + 100


def test_independent_columns_start_where_their_divergence_is_least():
    covariance = np.array([[1.0, 0.99], [0.99, 1.0]])
    target = tfd.MultivariateNormalTriL([1.0, -1.0], np.linalg.cholesky(covariance).astype("f4"))
    joint = tfd.JointDistributionSequential([tfd.Sample(tfd.Normal(0.0, 1.0), 2)])
    posterior = vi.surrogate(joint, "mean_field")
    vi.fit(lambda v: target.log_prob(v[0]), posterior, steps=1, verbose=0)
    found = vi.diagnose(lambda v: target.log_prob(v[0]), posterior, draws=20_000)
    precisions = np.diag(np.linalg.inv(covariance))
    least = 0.5 * (np.log(precisions).sum() + np.linalg.slogdet(covariance)[1])
    assert abs(found.elbo + least) < 0.05
