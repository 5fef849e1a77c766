"""neutra: MCMC in the space where a flow has made the target nearly normal."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

with warnings.catch_warnings():
    # On first use, TFP warns of the arithmetic of GPUs, whether there is one or not.
    warnings.simplefilter("ignore", UserWarning)
    from tensorflow_probability import mcmc

from tfp_flows.ops.checks import positive_int
from tfp_flows.ops.seeds import check_seed, stateless_seed
from tfp_flows.vi.diagnosis import arviz
from tfp_flows.vi.targets import Posterior, Target

__all__ = ["neutra"]

_MAX_R_HAT = 1.01
_ACCEPTED = 0.8


def neutra(
    target: Any,
    posterior: Posterior,
    *,
    draws: int = 1000,
    chains: int = 4,
    warmup: int = 500,
    jumps: bool = False,
    jit_compile: bool = True,
    seed: int = 0,
) -> Any:
    """Sample a target exactly, by the No-U-Turn sampler in the space of the flow's base.

    With the flow `f` from `u` to `z`, chains have the density `p(f(u)) |det ∂f/∂u|`, which a good
    flow makes a standard normal, whatever the geometry of `p`. They start at draws of the flow; the
    step size is adapted by dual averaging. The result is exact in the limit, for every flow: a bad
    one only takes longer, as R̂ and the ESS show.

    Args:
      target, posterior: as in `vi.fit`; the posterior of one context is `posterior.given(c)`.
      draws: of every chain, after `warmup`.
      chains: how many, side by side.
      warmup: steps for adaptation, which are thrown away.
      jumps: whether every step is followed by one of independence Metropolis-Hastings, which
        proposes a new draw of the flow: chains then change between modes that the flow has found.
      jit_compile: whether XLA compiles the sampler.
      seed: of all draws.

    Returns:
      an `arviz.InferenceData` with the groups `posterior` and `sample_stats` (`lp`, `diverging`,
      `n_steps`, `acceptance_rate`, `step_size`, and `jumped`), for `arviz.summary` and its plots.

    Warns:
      RuntimeWarning: R̂ of a parameter is above 1.01.

    Raises:
      ImportError: ArviZ is not installed.
      ValueError: an argument is out of range, or the target is not finite where chains start.

    Source: Matthew Hoffman et al., "NeuTra-lizing Bad Geometry in Hamiltonian Monte Carlo Using
    Neural Transport" (2019); jumps: Marylou Gabrié, Grant Rotskoff and Eric Vanden-Eijnden,
    "Adaptive Monte Carlo Augmented with Normalizing Flows" (2022).

    Example:
      >>> model = tfd.JointDistributionSequential([tfd.Gamma(3.0, 1.0)])
      >>> posterior = vi.surrogate(model, "mean_field")
      >>> data = vi.neutra(model, posterior, draws=300, chains=2, warmup=100)
      >>> data.posterior.sizes["draw"]     # 300
    """
    az = arviz()
    for name, value in (("draws", draws), ("chains", chains), ("warmup", warmup)):
        positive_int(value, name)
    density = Target(target, posterior)
    base, bijector = density.flow.distribution, density.flow.bijector

    def log_prob(u: tf.Tensor) -> tf.Tensor:
        u = tf.identity(u)  # One that no cache knows.
        return density(bijector.forward(u)) + bijector.forward_log_det_jacobian(u, 1)

    seeds = tf.random.split(stateless_seed(check_seed(seed) or 0), 2)
    first = base.sample(chains, seed=seeds[0])
    if not np.isfinite(log_prob(first)).all():
        raise ValueError(density.explain(bijector.forward(first)))
    kernel = mcmc.DualAveragingStepSizeAdaptation(
        mcmc.NoUTurnSampler(log_prob, step_size=tf.constant(0.5, first.dtype)),
        num_adaptation_steps=int(0.8 * warmup),
        target_accept_prob=tf.constant(_ACCEPTED, first.dtype),
        step_size_setter_fn=lambda results, step: results._replace(step_size=step),
        step_size_getter_fn=lambda results: results.step_size,
        log_accept_prob_getter_fn=lambda results: results.log_accept_ratio,
    )
    kernel = _WithJumps(kernel, log_prob, base, jumps=jumps)

    @tf.function(jit_compile=jit_compile)
    def run() -> tuple[Any, dict[str, tf.Tensor]]:
        u, stats = mcmc.sample_chain(
            draws, first, kernel=kernel, num_burnin_steps=warmup, trace_fn=_stats, seed=seeds[1]
        )
        rows = tf.reshape(u, [-1, u.shape[-1]])
        return density.value(bijector.forward(rows)), stats

    value, stats = run.get_concrete_function()()  # Without TensorFlow's warning of many traces.

    def by_chain(x: tf.Tensor) -> np.ndarray:
        return np.swapaxes(x.numpy().reshape(draws, chains, *x.shape[1:]), 0, 1)

    parts = zip(density.names, tf.nest.flatten(value), strict=True)
    data = az.from_dict(
        posterior={name: by_chain(part) for name, part in parts},
        sample_stats={name: np.swapaxes(part.numpy(), 0, 1) for name, part in stats.items()},
    )
    _warn(az, data)
    return data


class _Results(NamedTuple):
    inner_results: Any
    jumped: tf.Tensor


class _WithJumps(mcmc.TransitionKernel):
    """A sampler, and after each of its steps one of independence Metropolis-Hastings."""

    def __init__(
        self,
        inner: mcmc.TransitionKernel,
        log_prob: Callable[[tf.Tensor], tf.Tensor],
        proposals: Any,
        *,
        jumps: bool,
    ):
        self._inner, self._log_prob, self._proposals = inner, log_prob, proposals
        self._jumps = jumps

    @property
    def is_calibrated(self) -> bool:
        return True

    def bootstrap_results(self, state: tf.Tensor) -> _Results:
        return _Results(self._inner.bootstrap_results(state), tf.zeros(state.shape[:1], tf.bool))

    def one_step(
        self, state: tf.Tensor, results: _Results, seed: Any = None
    ) -> tuple[tf.Tensor, _Results]:
        seeds = tf.random.split(seed, 3)
        state, inner = self._inner.one_step(state, results.inner_results, seed=seeds[0])
        if not self._jumps:
            return state, results._replace(inner_results=inner)
        here = inner.inner_results
        proposal = self._proposals.sample(state.shape[0], seed=seeds[1])
        log_prob, slope = tfp.math.value_and_gradient(self._log_prob, proposal)
        log_ratio = log_prob - self._proposals.log_prob(proposal)
        log_ratio -= here.target_log_prob - self._proposals.log_prob(state)
        uniform = tf.random.stateless_uniform(log_ratio.shape, seeds[2], dtype=log_ratio.dtype)
        jumped = tf.math.log(uniform) < log_ratio  # False where it is NaN.

        def moved(new: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
            return tf.where(tf.reshape(jumped, [-1] + [1] * (new.shape.rank - 1)), new, old)

        here = here._replace(
            target_log_prob=moved(log_prob, here.target_log_prob),
            grads_target_log_prob=[moved(slope, here.grads_target_log_prob[0])],
        )
        return moved(proposal, state), _Results(inner._replace(inner_results=here), jumped)


def _stats(_: tf.Tensor, results: _Results) -> dict[str, tf.Tensor]:
    """What is kept of every step, by the names of ArviZ."""
    nuts = results.inner_results.inner_results
    return {
        "lp": nuts.target_log_prob,
        "diverging": nuts.has_divergence,
        "n_steps": nuts.leapfrogs_taken,
        "acceptance_rate": tf.exp(tf.minimum(nuts.log_accept_ratio, 0.0)),
        "step_size": tf.broadcast_to(nuts.step_size, tf.shape(nuts.target_log_prob)),
        "jumped": results.jumped,
    }


def _warn(az: Any, data: Any) -> None:
    """Say which parameter has not converged."""
    if data.posterior.sizes["chain"] < 2:
        return
    found = {name: float(part.max()) for name, part in az.rhat(data).data_vars.items()}
    worst = max(found, key=lambda name: found[name])
    if not found[worst] <= _MAX_R_HAT:
        warnings.warn(
            f"R̂ of {worst!r} is {found[worst]:.3f}, above {_MAX_R_HAT}: the chains have not "
            "converged. Take more draws, or fit the posterior better.",
            RuntimeWarning,
            stacklevel=3,
        )
