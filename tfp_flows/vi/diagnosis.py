"""diagnose, resample, inference_data: how good a posterior is, and what its weights mend."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import distributions as tfd

from tfp_flows.ops.checks import positive_int
from tfp_flows.ops.internals import pinned_distributions
from tfp_flows.ops.seeds import check_seed, stateless_seed
from tfp_flows.vi.targets import Posterior, Target

__all__ = ["Diagnosis", "arviz", "diagnose", "inference_data", "resample"]

_PINNED = tfp.experimental.distributions.JointDistributionPinned
_GOOD = 0.5
_OFF_MEAN, _OFF_SD = 0.1, 0.05  # In deviations, and of them.
_EQUAL = 1e-4  # In nats: rounding in float32.
_FEWEST = 25  # For a tail of five draws, to which a Pareto distribution can be fitted.
_ROWS_AT_A_TIME = 4096


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` finds; printed, a table and the verdict.

    Attributes:
      elbo: evidence lower bound, `E log w`, in nats, and its standard error.
      log_evidence: `log E w`, in nats, by Pareto smoothed importance sampling, and its standard
        error, which means something only where `k_hat` is small.
      k_hat: shape of the generalized Pareto distribution of the largest weights. From
        `min(1 - 1 / log10(draws), 0.7)` on, averages over weighted draws cannot be trusted.
      ess: how many draws of the target the weighted draws are worth.
      draws: how many there were.
      mean_error: how far a mean over draws as they are is from that over weighted ones, in
        deviations of these: the largest of all parameters.
      sd_ratio: a deviation of draws as they are by that of weighted ones: of all parameters the
        one furthest from 1. Both mean something only where `k_hat` is small.
      forward_ess: share of the reference draws that weighted draws of the posterior are worth, near
        0 where the posterior misses what the target has; None without a reference.
      verdict: one sentence.

    Example:
      >>> target = tfd.MultivariateNormalDiag([0.0, 0.0])
      >>> found = vi.diagnose(target, flows.real_nvp(2, layers=2))
      >>> str(found)[:4]     # 'elbo'
    """

    elbo: float
    elbo_se: float
    log_evidence: float
    log_evidence_se: float
    k_hat: float
    ess: float
    draws: int
    mean_error: float
    sd_ratio: float
    forward_ess: float | None
    verdict: str

    def __str__(self) -> str:
        lines = [
            f"elbo           {self.elbo:10.3f} ± {self.elbo_se:.3f} nats",
            f"log evidence   {self.log_evidence:10.3f} ± {self.log_evidence_se:.3f} nats",
            f"k_hat          {self.k_hat:10.2f}",
            f"ess            {self.ess:10.0f} of {self.draws} draws",
            f"mean error     {self.mean_error:10.2f} deviations, of draws without weights",
            f"sd ratio       {self.sd_ratio:10.2f}",
        ]
        if self.forward_ess is not None:
            lines.append(f"forward ess    {self.forward_ess:10.2f} of the reference draws")
        return "\n".join([*lines, self.verdict])


def diagnose(
    target: Any,
    posterior: Posterior,
    *,
    draws: int = 2000,
    reference: Any | None = None,
    seed: int = 0,
) -> Diagnosis:
    """Compare a posterior with its target, by the weights `w = p / q` of its own draws.

    Weights know nothing of what no draw has found: the modes that a posterior misses. Where draws
    of the target exist, from MCMC for example, give them as `reference`.

    Args:
      target, posterior: as in `vi.fit`; the posterior of one context is `posterior.given(c)`.
      draws: how many, 25 or more.
      reference: draws of the target, a value with rows, or None.
      seed: of the draws.

    Raises:
      ImportError: ArviZ is not installed.
      ValueError: a density is not finite, or NaN; or an argument is out of range.

    Sources: Yuling Yao et al., "Yes, but Did It Work?: Evaluating Variational Inference" (2018);
    Aki Vehtari et al., "Pareto Smoothed Importance Sampling" (2024).

    Example:
      >>> model = tfd.JointDistributionSequential([tfd.Normal(1.0, 2.0)])
      >>> posterior = vi.surrogate(model, "full_rank")
      >>> history = vi.fit(model, posterior, steps=10, sample_size=32, verbose=0)
      >>> vi.diagnose(model, posterior, draws=500).k_hat < 0.7     # True
    """
    density = Target(target, posterior)
    z, log_weights = _weighted(density, _check_draws(draws), seed)
    smoothed, k_hat = _smooth(log_weights)
    log_sum = np.logaddexp.reduce(smoothed)
    weights = np.exp(smoothed - log_sum)
    ess = 1 / np.sum(weights**2)
    mean_error, sd_ratio = _unweighted(density.value(z), weights)
    log_evidence = float(log_sum - math.log(draws))
    forward = None if reference is None else _forward_ess(density, reference, log_evidence)
    return Diagnosis(
        elbo=float(log_weights.mean()),
        elbo_se=float(log_weights.std(ddof=1) / math.sqrt(draws)),
        log_evidence=log_evidence,
        log_evidence_se=float(math.sqrt(max(1 / ess - 1 / draws, 0.0))),
        k_hat=k_hat,
        ess=float(ess),
        draws=draws,
        mean_error=mean_error,
        sd_ratio=sd_ratio,
        forward_ess=forward,
        verdict=_verdict(k_hat, ess, draws, mean_error, sd_ratio, forward),
    )


def resample(target: Any, posterior: Posterior, n: int, *, seed: int = 0) -> Any:
    """Draw from the target, by Pareto smoothed importance resampling of the posterior.

    Of `5 n` draws `n` are taken, each with its weight as probability, none twice: few draws that
    carry all weight then show.

    Args:
      target, posterior: as in `vi.fit`.
      n: how many.
      seed: of the draws.

    Returns:
      a value with `n` rows.

    Raises:
      ImportError: ArviZ is not installed.
      ValueError: as in `diagnose`; or the weights are so unequal that fewer than `n` are not 0.

    Source: Aki Vehtari et al., "Pareto Smoothed Importance Sampling" (2024).

    Example:
      >>> model = tfd.JointDistributionSequential([tfd.Exponential(1.0)])
      >>> (rate,) = vi.resample(model, vi.surrogate(model, "mean_field"), 100)     # (100,)
    """
    density = Target(target, posterior)
    z, log_weights = _weighted(density, max(5 * positive_int(n, "n"), 100), seed)
    smoothed, _ = _smooth(log_weights)
    if np.sum(smoothed > -700) < n:
        raise ValueError(
            f"`posterior` must have {n} draws or more with a weight. Received: weights of which "
            f"{np.sum(smoothed > -700)} are not 0; see `vi.diagnose`"
        )
    # The n largest of log-weights with Gumbel noise are draws without replacement.
    noise = np.random.default_rng(check_seed(seed)).gumbel(size=len(smoothed))
    return density.value(tf.gather(z, np.argsort(-(smoothed + noise))[:n]))


def inference_data(target: Any, posterior: Posterior, value: Any) -> Any:
    """Draws as ArviZ takes them, for its plots, `summary`, and `loo`.

    Args:
      target: as in `vi.fit`. Of a pinned joint distribution, the pins are the group
        `observed_data`, and their log-densities at every draw `log_likelihood`, entry by entry
        where its distribution is a `tfd.Independent` or has a batch shape.
      posterior: as in `vi.fit`; it has the names.
      value: draws, of `posterior.sample` or `vi.resample` for example, with axes `(draw, ...)`.

    Returns:
      an `arviz.InferenceData` with one chain.

    Raises:
      ImportError: ArviZ is not installed.

    Example:
      >>> model = tfd.JointDistributionSequential([tfd.Exponential(1.0)])
      >>> posterior = vi.surrogate(model, "mean_field")
      >>> data = vi.inference_data(model, posterior, posterior.sample(100, seed=0))
      >>> data.posterior.sizes["draw"]     # 100
    """
    density = Target(target, posterior)
    parts = zip(density.names, tf.nest.flatten(value), strict=True)
    groups = {"posterior": {name: np.asarray(part)[None] for name, part in parts}}
    if isinstance(target, _PINNED):
        groups["observed_data"] = {name: np.asarray(pin) for name, pin in target.pins.items()}
        groups["log_likelihood"] = _log_likelihood(target, value)
    return arviz().from_dict(**groups)


def _log_likelihood(target: Any, value: Any) -> dict[str, np.ndarray]:
    """Log-densities of the pins at every draw, `(1, n, ...)`."""

    def of_draw(value: Any) -> dict[str, tf.Tensor]:
        distributions, values = pinned_distributions(target, value)
        found = {}
        for name, part in distributions.items():
            while isinstance(part, tfd.Independent | tfd.Sample):
                part = part.distribution
            found[name] = part.log_prob(values[name])
        return found

    return {k: v.numpy()[None] for k, v in tf.vectorized_map(of_draw, value).items()}


def arviz() -> Any:
    """The package ArviZ."""
    try:
        import arviz
    except ImportError as error:
        raise ImportError(
            "Diagnoses need ArviZ: install tfp_flows with the extra `vi`, or arviz itself."
        ) from error
    return arviz


def _weighted(density: Target, draws: int, seed: int) -> tuple[tf.Tensor, np.ndarray]:
    """Draws of the flow, `(n, D)`, and their log-weights, of which each must be a number."""
    seed = check_seed(seed) or 0

    first = stateless_seed(seed)

    @functools.cache
    def of_some(n: int) -> Any:
        @tf.function
        def weighted(seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            z, log_prob = density.flow.sample_and_log_prob(n, seed=seed)
            return z, density(z) - log_prob

        # Concrete: of others made in a loop TensorFlow warns that they are traced again.
        return weighted.get_concrete_function(first)

    parts = []
    for i, start in enumerate(range(0, draws, _ROWS_AT_A_TIME)):
        n = min(_ROWS_AT_A_TIME, draws - start)
        parts.append(of_some(n)(tf.random.fold_in(first, i)))
    z = tf.concat([part[0] for part in parts], 0)
    log_weights = np.concatenate([part[1].numpy() for part in parts]).astype("float64")
    # Where the target has no density, the weight is 0.
    if np.isnan(log_weights).any() or (log_weights == np.inf).any():
        raise ValueError(density.explain(z))
    if not np.isfinite(log_weights).any():
        raise ValueError(density.explain(z))
    return z, log_weights


def _smooth(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Log-weights with a smoothed tail, and the shape of the tail."""
    if np.ptp(log_weights) < _EQUAL:  # There is no tail to fit.
        return log_weights, -math.inf
    with np.errstate(over="ignore"):  # Of weights that differ by hundreds of nats.
        smoothed, k_hat = arviz().psislw(log_weights.copy(), normalize=False)
    return np.asarray(smoothed), float(k_hat)


def _forward_ess(density: Target, reference: Any, log_evidence: float) -> float:
    """`E_q[w] / E_p[w]`, the second of draws of the target.

    What the posterior misses makes the first too small, and the second large.
    """
    parts = tf.nest.flatten(reference)
    rows = {len(part) if np.ndim(part) else 0 for part in parts}
    needed = [tuple(shape) for shape in tf.nest.flatten(density.posterior.event_shape)]
    if [tuple(np.shape(part)[1:]) for part in parts] != needed or len(rows) > 1 or rows == {0}:
        raise ValueError(
            "`reference` must hold rows of the target, equally many of every part, with the shapes "
            f"{needed}. Received: shapes {[np.shape(part) for part in parts]}"
        )
    log_density = density.log_density(reference)
    log_weights = tf.cast(log_density - density.posterior.log_prob(reference), tf.float64).numpy()
    bad = np.isnan(log_weights) | ~np.isfinite(log_density)
    if bad.any():
        raise ValueError(
            "`reference` must hold draws of the target, of which the density is finite. Received: "
            f"{log_density[np.argmax(bad)]} in row {np.argmax(bad)}"
        )
    log_mean = np.logaddexp.reduce(log_weights) - math.log(len(log_weights))
    return float(min(1.0, np.exp(log_evidence - log_mean)))


def _unweighted(value: Any, weights: np.ndarray) -> tuple[float, float]:
    """How far means and deviations of draws are from those of weighted ones; see `Diagnosis`."""
    parts = [np.asarray(part, "float64") for part in tf.nest.flatten(value)]
    x = np.concatenate([part.reshape(len(weights), -1) for part in parts], 1)
    x = x - x.mean(0)
    mean = weights @ x
    deviation, own = np.sqrt(weights @ (x - mean) ** 2), x.std(0)
    varies = own > 0  # Parts of matrices may not.
    if not varies.any():
        return 0.0, 1.0
    with np.errstate(divide="ignore"):  # Where one draw has all the weight.
        errors, ratios = np.abs(mean[varies]) / deviation[varies], own[varies] / deviation[varies]
    return float(errors.max()), float(ratios[np.argmax(np.abs(np.log(ratios)))])


def _verdict(
    k_hat: float,
    ess: float,
    draws: int,
    mean_error: float,
    sd_ratio: float,
    forward: float | None,
) -> str:
    limit = min(1 - 1 / math.log10(draws), 0.7)
    said = f"k_hat = {k_hat:.2f}"
    if forward is not None and forward < 0.1:
        return (
            f"{said}, but the forward ESS is {forward:.2f}: do not trust; the posterior misses "
            "what the reference has: try vi.fit(anneal=...) or objective='alpha'."
        )
    if not k_hat < limit:
        return (
            f"{said}: do not trust; try more steps, a larger sample_size, a more expressive flow, "
            "or vi.neutra."
        )
    if k_hat < _GOOD and mean_error < _OFF_MEAN and 1 - _OFF_SD < sd_ratio < 1 + _OFF_SD:
        return f"{said}: good; weighted draws are worth {ess / draws:.0%} of as many of the target."
    return f"{said}: usable with weights; take draws by vi.resample rather than by sample."


def _check_draws(draws: int) -> int:
    if positive_int(draws, "draws") < _FEWEST:
        raise ValueError(f"`draws` must be {_FEWEST} or more. Received: draws={draws}")
    return draws
