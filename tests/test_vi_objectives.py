"""Gradients of the objectives of inference, against closed forms and quadrature."""

import copy

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import randomize
from vi_models import EIGHT_SCHOOLS, gaussian

from tfp_flows import Flow, bijectors, vi
from tfp_flows.vi.objectives import OBJECTIVES, estimate
from tfp_flows.vi.targets import Target

tfd = tfp.distributions


def gradients(flow, target, seeds, n, **options):
    """One gradient for every seed, `(seeds, parameters)`."""

    @tf.function
    def of_seed(seed):
        with tf.GradientTape() as tape:
            found = estimate(flow, target, n, tf.stack([seed, 1]), **options)
        found = tape.gradient(found.gradient_loss, flow.trainable_variables)
        return tf.concat([tf.reshape(g, [-1]) for g in found], 0)

    return np.stack([of_seed(tf.constant(seed)) for seed in range(seeds)])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_where_the_posterior_is_the_target_no_path_gradient_has_variance(objective):
    base = tfd.MultivariateNormalDiag(tf.zeros(3, "float64"), tf.ones(3, "float64"))
    affine = bijectors.transformers.Affine()
    coupling = bijectors.Coupling(3, affine, (8,), dtype="float64", seed=0)
    flow = randomize(Flow(base, coupling))
    equal = copy.deepcopy(flow)
    target = lambda z: equal.log_prob(z) + 3.0  # noqa: E731
    path = gradients(flow, target, 2, 8, objective=objective)
    total = gradients(flow, target, 2, 8, objective=objective, gradient="total")
    assert np.abs(path).max() < 1e-10
    assert np.abs(total).max() > 1e-3


@pytest.mark.parametrize("gradient", ["path", "total"])
def test_gradients_are_unbiased(gradient):
    """KL(N(m, s²) ‖ N(0, 1)) has the slope m in m, and s² - 1 in log s."""
    flow = gaussian(size=1)
    flow.bijector.shift.assign([0.7])
    flow.bijector.log_scale.assign([0.4])
    target = tfd.MultivariateNormalDiag(tf.zeros(1, "float64")).log_prob
    drawn = gradients(flow, target, 100, 1000, gradient=gradient)
    exact = [0.7 if "shift" in v.name else np.exp(0.8) - 1 for v in flow.trainable_variables]
    error = drawn.std(0, ddof=1) / 10
    assert error.max() < 0.02
    np.testing.assert_array_less(np.abs(drawn.mean(0) - exact), 4 * error)


@pytest.mark.parametrize(
    ("objective", "alpha"), [("alpha", 0.5), ("alpha", 2.0), ("forward_kl", 1.0)]
)
def test_the_path_gradient_is_that_of_the_objective(objective, alpha):
    """Against the derivative of the objective by quadrature."""
    flow = gaussian(size=1)
    grid = np.linspace(-12, 12, 4001)
    width = grid[1] - grid[0]
    where = {"shift": 0.3, "log_scale": 0.1}
    log_p = tfd.Normal(np.float64(0), 1.0).log_prob(grid).numpy()

    def exact(shift, log_scale):
        log_q = tfd.Normal(np.float64(shift), np.exp(log_scale)).log_prob(grid).numpy()
        if objective == "forward_kl":
            return np.sum(np.exp(log_p) * (log_p - log_q)) * width
        moment = np.sum(np.exp(log_q + alpha * (log_p - log_q))) * width
        return np.log(moment) / (alpha * (alpha - 1))

    flow.bijector.shift.assign([where["shift"]])
    flow.bijector.log_scale.assign([where["log_scale"]])
    target = tfd.MultivariateNormalDiag(tf.zeros(1, "float64")).log_prob
    drawn = gradients(flow, target, 30, 4000, objective=objective, alpha=alpha)
    mean, error = drawn.mean(0), drawn.std(0) / np.sqrt(30)
    for variable, found, tolerance in zip(flow.trainable_variables, mean, error, strict=True):
        name = variable.name.split(":")[0].split("/")[-1]
        up, down = (exact(**{**where, name: where[name] + step}) for step in (1e-4, -1e-4))
        np.testing.assert_allclose(found, (up - down) / 2e-4, atol=4 * tolerance + 1e-3)


def test_the_doubly_reparameterized_gradient_of_iwae_is_that_of_the_bound():
    """Both estimators have one mean, with few draws too, and the path's has less variance."""
    flow = gaussian(size=1)
    flow.bijector.shift.assign([0.8])
    target = tfd.MultivariateNormalDiag(tf.zeros(1, "float64")).log_prob
    drawn = {
        gradient: gradients(flow, target, 2000, 4, objective="iwae", gradient=gradient)
        for gradient in ("path", "total")
    }
    mean = {name: found.mean(0) for name, found in drawn.items()}
    error = np.hypot(*(found.std(0) / np.sqrt(2000) for found in drawn.values()))
    assert np.abs(mean["path"]).max() > 10 * error.max()
    np.testing.assert_array_less(np.abs(mean["path"] - mean["total"]), 4 * error)
    assert drawn["path"].var(0).sum() < drawn["total"].var(0).sum() / 2


def test_on_eight_schools_the_path_gradient_has_less_variance():
    posterior = vi.surrogate(EIGHT_SCHOOLS, "full_rank")
    vi.fit(EIGHT_SCHOOLS, posterior, steps=20, sample_size=64, verbose=0)
    density = Target(EIGHT_SCHOOLS, posterior)
    path, total = (
        gradients(posterior.flow, density, 30, 32, gradient=gradient).var(0)
        for gradient in ("path", "total")
    )
    assert path.sum() < total.sum()
    assert np.median(path) < np.median(total) / 3
