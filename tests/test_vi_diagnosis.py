"""Diagnosis, resampling and MCMC of posteriors, against closed forms."""

import builtins
import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import Flow, bijectors, vi

tfd = tfp.distributions


def normal_flow(scale=1.0, shift=0.0, size=1, dtype="float64"):
    base = tfd.MultivariateNormalDiag(tf.zeros([size], dtype), tf.ones([size], dtype))
    flow = Flow(base, bijectors.ActNorm(size, dtype))
    flow.bijector.shift.assign([shift] * size)
    flow.bijector.log_scale.assign(np.log([scale] * size))
    return flow


def target(z):
    """A standard normal times e³."""
    return tfd.Normal(tf.constant(0.0, z.dtype), 1.0).log_prob(z[..., 0]) + 3.0


def test_the_numbers_are_those_of_closed_forms():
    found = vi.diagnose(target, normal_flow(1.3, 0.4), draws=20_000)
    kl = 0.5 * (1.3**2 + 0.4**2 - 1) - np.log(1.3)
    assert abs(found.elbo - (3 - kl)) < 4 * found.elbo_se < 0.05
    assert abs(found.log_evidence - 3) < 4 * found.log_evidence_se < 0.05
    # E_q[w²] of two normals.
    variance = 2 * 1.3**2 - 1
    moment = 1.3**2 / np.sqrt(variance) * np.exp(0.4**2 / variance)
    np.testing.assert_allclose(found.ess / found.draws, 1 / moment, rtol=0.03)
    np.testing.assert_allclose([found.mean_error, found.sd_ratio], [0.4, 1.3], atol=0.03)
    assert found.k_hat < 0.5 and "usable with weights" in found.verdict
    assert str(found).endswith(found.verdict)


@pytest.mark.parametrize(
    ("scale", "shift", "good"), [(1.02, 0.05, True), (1.0, 0.2, False), (1.1, 0.0, False)]
)
def test_good_is_what_needs_no_weights(scale, shift, good):
    found = vi.diagnose(target, normal_flow(scale, shift), draws=5000)
    assert found.k_hat < 0.5
    np.testing.assert_allclose([found.mean_error, found.sd_ratio], [shift, scale], atol=0.02)
    assert ("good" if good else "by vi.resample rather than by sample") in found.verdict


def test_equal_densities_have_equal_weights():
    found = vi.diagnose(target, normal_flow())
    np.testing.assert_allclose([found.elbo, found.log_evidence], 3.0, atol=1e-10)
    assert found.k_hat < 0.5 and found.elbo_se < 1e-10 and found.ess > 1999.9
    np.testing.assert_allclose([found.mean_error, found.sd_ratio], [0.0, 1.0], atol=1e-6)


@pytest.mark.parametrize("scale", [0.5, 0.6])
def test_the_shape_of_the_tail_is_found(scale):
    """Weights exp(x² (1/σ² - 1) / 2) have the tail index 1 - σ²."""
    found = vi.diagnose(target, normal_flow(scale), draws=50_000, seed=1)
    assert abs(found.k_hat - (1 - scale**2)) < 0.15


def test_what_is_too_narrow_is_not_trusted():
    found = vi.diagnose(target, normal_flow(0.3))
    assert found.k_hat > 0.7 and "do not trust" in found.verdict


def test_what_is_far_off_is_no_warning_of_numpy():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        found = vi.diagnose(lambda z: -1e5 * tf.abs(z[:, 0]), normal_flow(), draws=10_000)
        one = vi.diagnose(lambda z: -1e30 * z[:, 0] ** 2, normal_flow())
    assert one.sd_ratio > 1e3 and "do not trust" in one.verdict
    assert found.k_hat > 100 and "do not trust" in found.verdict


def test_a_missed_mode_is_seen_by_reference_draws_alone():
    modes = tfd.MixtureSameFamily(
        tfd.Categorical(probs=tf.constant([0.5, 0.5], "float64")),
        tfd.MultivariateNormalDiag(tf.constant([[-8.0], [8.0]], "float64")),
    )
    flow = normal_flow(1.0, 8.0)
    alone = vi.diagnose(modes, flow)
    assert alone.k_hat < 0.5 and alone.forward_ess is None
    np.testing.assert_allclose(alone.log_evidence, np.log(0.5), atol=1e-6)
    reference = modes.sample(2000, seed=1)
    found = vi.diagnose(modes, flow, reference=reference)
    assert found.forward_ess < 0.01 and "do not trust; the posterior misses" in found.verdict
    both = vi.diagnose(modes, normal_flow(9.0), reference=reference, draws=20_000)
    np.testing.assert_allclose(both.forward_ess, both.ess / both.draws, rtol=0.1)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (np.array([[0.0], [np.nan]]), "of which the density is finite. Received: nan in row 1"),
        (np.array([[0.0], [1.0], [np.inf]]), "is finite. Received: -inf in row 2"),
        (np.zeros((0, 1)), r"with the shapes \[\(1,\)\]. Received: shapes \[\(0, 1\)\]"),
        (np.zeros((5, 2)), r"Received: shapes \[\(5, 2\)\]"),
        (np.zeros(5), r"Received: shapes \[\(5,\)\]"),
    ],
)
def test_reference_draws_that_are_none_are_refused(reference, message):
    target = tfd.MultivariateNormalDiag(np.zeros(1), np.ones(1))
    with pytest.raises(ValueError, match="`reference` must hold.*" + message):
        vi.diagnose(target, normal_flow(), reference=reference)


def test_resampling_gives_draws_of_the_target():
    flow = normal_flow(1.5, 0.5)
    drawn = vi.resample(target, flow, 3000, seed=0).numpy()[:, 0]
    assert len(np.unique(drawn)) == 3000
    np.testing.assert_allclose([drawn.mean(), drawn.std()], [0.0, 1.0], atol=0.07)
    np.testing.assert_array_equal(drawn, vi.resample(target, flow, 3000, seed=0).numpy()[:, 0])
    with pytest.raises(ValueError, match="must have 100 draws or more with a weight"):
        spike = lambda z: -((z[..., 0] * 1e6) ** 2)  # noqa: E731
        vi.resample(spike, flow, 100)


def regression():
    x = np.linspace(-1, 1, 5).astype("float32")

    @tfd.JointDistributionCoroutineAutoBatched
    def model():
        slope = yield tfd.Sample(tfd.Normal(0.0, 1.0), 2, name="slope")
        noise = yield tfd.HalfNormal(1.0, name="noise")
        yield tfd.Independent(tfd.Normal(slope[0] + slope[1] * x, noise), 1, name="y")

    return model.experimental_pin(y=2 * x), x


def test_inference_data_has_draws_data_and_likelihoods():
    joint, x = regression()
    posterior = vi.surrogate(joint, "mean_field")
    value = posterior.sample(30, seed=0)
    data = vi.inference_data(joint, posterior, value)
    np.testing.assert_array_equal(data.posterior["slope"][0], value.slope)
    np.testing.assert_array_equal(data.observed_data["y"], 2 * x)
    mean = value.slope[:, :1] + value.slope[:, 1:] * x
    exact = tfd.Normal(mean, value.noise[:, None]).log_prob(2 * x)
    np.testing.assert_allclose(data.log_likelihood["y"][0], exact, rtol=1e-5)


@pytest.mark.parametrize("jumps", [False, True])
def test_chains_have_the_distribution_of_the_target(jumps):
    """Even from a flow that is shifted, too wide, and knows no correlation."""
    covariance = np.array([[1.0, 0.8], [0.8, 1.0]], "float32")
    exact = tfd.MultivariateNormalTriL([1.0, -2.0], np.linalg.cholesky(covariance))
    flow = normal_flow(2.0, 0.5, size=2, dtype="float32")
    data = vi.neutra(exact, flow, draws=600, chains=4, warmup=200, jumps=jumps, seed=0)
    drawn = data.posterior["x"].values
    assert drawn.shape == (4, 600, 2)
    drawn = drawn.reshape(-1, 2)
    np.testing.assert_allclose(drawn.mean(0), [1.0, -2.0], atol=0.12)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.15)
    stats = data.sample_stats
    assert 0.6 < float(stats["acceptance_rate"].mean()) < 0.95
    assert (float(stats["jumped"].mean()) > 0.1) == jumps
    lp = exact.log_prob(data.posterior["x"].values)
    log_det = 2 * np.log(2.0)
    np.testing.assert_allclose(stats["lp"], lp + log_det, rtol=1e-3, atol=1e-3)


def test_jumps_change_between_modes():
    modes = tfd.MixtureSameFamily(
        tfd.Categorical(probs=[0.3, 0.7]), tfd.MultivariateNormalDiag([[-9.0], [9.0]])
    )
    flow = normal_flow(9.0, dtype="float32")
    data = vi.neutra(modes, flow, draws=1500, chains=4, warmup=100, jumps=True)
    assert abs(float((data.posterior["x"] > 0).mean()) - 0.7) < 0.06


def test_chains_that_have_not_converged_are_reported():
    modes = tfd.MixtureSameFamily(
        tfd.Categorical(probs=[0.5, 0.5]), tfd.MultivariateNormalDiag([[-30.0], [30.0]])
    )
    with pytest.warns(RuntimeWarning, match="R̂ of 'x' is .* above 1.01"):
        vi.neutra(modes, normal_flow(30.0, dtype="float32"), draws=100, chains=4, warmup=50)


def test_a_target_that_is_not_finite_is_named():
    with pytest.raises(ValueError, match=r"`target` must be finite.*nan at x = "):
        vi.diagnose(lambda z: tf.math.log(z[:, 0]), normal_flow())
    with pytest.raises(ValueError, match=r"`target` must be finite.*nan at x = "):
        vi.neutra(lambda z: tf.math.log(z[:, 0]), normal_flow())


def test_without_arviz_there_is_one_clear_error(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "arviz":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="with the extra `vi`"):
        vi.diagnose(target, normal_flow(1.5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vi.diagnose(target, normal_flow(), draws=10), "`draws` must be 25 or more"),
        (lambda: vi.resample(target, normal_flow(), 0), "`n` must be a positive integer"),
        (lambda: vi.neutra(target, normal_flow(), chains=0), "`chains` must be a positive"),
        (lambda: vi.diagnose(target, normal_flow(), seed=-1), "`seed` must be an integer"),
    ],
)
def test_bad_arguments_are_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
