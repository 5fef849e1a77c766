"""Automatic guides of NumPyro on the posteriors of posteriordb, beside reference draws.

    pip install numpyro "jax<0.7" flax          # in an environment of its own
    python benchmarks/posterior_workers/numpyro_guides.py --seconds 60

Each guide trains for the same processor time, by Adam with 256 draws a step for flows and 16 for
Gaussians, the learning rate falling along a cosine over steps that a first run has timed. The worst
parameter counts, as in `posteriors.py`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from jax import lax, random
from numpyro.infer import SVI, Trace_ELBO, autoguide

jax.config.update("jax_enable_x64", True)
FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "posteriordb"
GUIDES = {
    "AutoNormal": autoguide.AutoNormal,
    "AutoMultivariateNormal": autoguide.AutoMultivariateNormal,
    "AutoIAFNormal": partial(autoguide.AutoIAFNormal, num_flows=4, hidden_dims=[64, 64]),
    "AutoBNAFNormal": autoguide.AutoBNAFNormal,
}
_STEPS_AT_A_TIME = 50


def regression(x: np.ndarray, y: np.ndarray, deviation: float | None, *, cauchy: bool) -> None:
    """y ~ N(x beta, sigma²), with a normal prior or none, and half-Cauchy or flat."""
    size = x.shape[1]
    flat = dist.ImproperUniform(dist.constraints.real_vector, (), (size,))
    normal = dist.Normal(0.0, deviation or 1.0).expand([size]).to_event(1)
    beta = numpyro.sample("beta", flat if deviation is None else normal)
    positive = dist.ImproperUniform(dist.constraints.positive, (), ())
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5) if cauchy else positive)
    numpyro.sample("y", dist.Normal(x @ beta, sigma).to_event(1), obs=y)


def ark(data: dict) -> None:
    y, order = np.array(data["y"]), data["K"]
    lags = [y[order - k : len(y) - k] for k in range(1, order + 1)]
    x = np.stack([np.ones(len(y) - order), *lags], 1)
    regression(x, y[order:], 10.0, cauchy=True)


def kidiq(data: dict) -> None:
    hs, iq = np.array(data["mom_hs"], float), np.array(data["mom_iq"], float)
    x = np.stack([np.ones_like(hs), hs, iq, hs * iq], 1)
    regression(x, np.array(data["kid_score"], float), None, cauchy=True)


def nes(data: dict) -> None:
    age = np.array(data["age_discrete"])
    names = ("educ1", "gender", "income")
    columns = [data["real_ideo"], data["race_adj"], *(age == k for k in (2, 3, 4))]
    x = np.stack([np.ones(len(age)), *columns, *(data[name] for name in names)], 1).astype(float)
    regression(x, np.array(data["partyid7"], float), None, cauchy=False)


def eight_schools(data: dict) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    effects = numpyro.sample("effects", dist.Normal(0.0, 1.0).expand([8]).to_event(1))
    sigma, y = jnp.array(data["sigma"], float), jnp.array(data["y"], float)
    numpyro.sample("y", dist.Normal(mu + tau * effects, sigma).to_event(1), obs=y)


def mixture(data: dict) -> None:
    ordered = dist.ImproperUniform(dist.constraints.ordered_vector, (), (2,))
    mu = numpyro.sample("mu", ordered)
    numpyro.factor("prior", dist.Normal(0.0, 2.0).log_prob(mu).sum())
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
    theta = numpyro.sample("theta", dist.Beta(5.0, 5.0))
    y = jnp.array(data["y"])[:, None]
    weights = jnp.log(jnp.stack([theta, 1 - theta]))
    parts = dist.Normal(mu, sigma).log_prob(y) + weights
    numpyro.factor("y", jax.scipy.special.logsumexp(parts, -1).sum())


def garch(data: dict) -> None:
    y = jnp.array(data["y"])
    mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
    alpha0 = numpyro.sample("alpha0", dist.ImproperUniform(dist.constraints.positive, (), ()))
    alpha1 = numpyro.sample("alpha1", dist.Uniform(0.0, 1.0))
    # Flat from 0 to 1 - alpha1: guides take no support that depends on another part.
    beta1 = (1 - alpha1) * numpyro.sample("share", dist.Uniform(0.0, 1.0))
    numpyro.factor("flat", jnp.log1p(-alpha1))

    def after(variance: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        variance = alpha0 + alpha1 * noise + beta1 * variance
        return variance, variance

    first = jnp.array(data["sigma1"], float) ** 2
    _, variances = lax.scan(after, first, (y[:-1] - mu) ** 2)
    deviations = jnp.sqrt(jnp.concatenate([first[None], variances]))
    numpyro.factor("y", dist.Normal(mu, deviations).log_prob(y).sum())


def theta(v: dict) -> list:
    return [*(v["mu"][:, None] + v["tau"][:, None] * v["effects"]).T, v["mu"], v["tau"]]


COEFFICIENTS = lambda v: [*v["beta"].T, v["sigma"]]  # noqa: E731
PROBLEMS: dict[str, tuple[Callable, Callable]] = {
    "arK-arK": (ark, COEFFICIENTS),
    "eight_schools-eight_schools_noncentered": (eight_schools, theta),
    "garch-garch11": (
        garch,
        lambda v: [v["mu"], v["alpha0"], v["alpha1"], (1 - v["alpha1"]) * v["share"]],
    ),
    "kidiq-kidscore_interaction": (kidiq, COEFFICIENTS),
    "low_dim_gauss_mix-low_dim_gauss_mix": (
        mixture,
        lambda v: [*v["mu"].T, *v["sigma"].T, v["theta"]],
    ),
    "nes1980-nes": (nes, COEFFICIENTS),
}


def run(name: str, guide_name: str, seconds: float, rate: float, seed: int) -> str:
    """One row of the table."""
    model, parameters = PROBLEMS[name]
    data = json.loads((FOLDER / f"{name}.json").read_text())["data"]
    model = partial(model, data)
    reference = np.load(FOLDER / f"{name}.npz")["draws"]
    reference = reference.reshape(-1, reference.shape[-1])
    draws = 16 if "IAF" not in guide_name and "BNAF" not in guide_name else 256

    def train(steps: int, budget: float) -> tuple:
        guide = GUIDES[guide_name](model)
        optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
        svi = SVI(model, guide, optimizer, Trace_ELBO(num_particles=draws))
        state = svi.init(random.PRNGKey(seed))
        some = jax.jit(lambda s: lax.scan(lambda s, _: svi.update(s), s, None, _STEPS_AT_A_TIME))
        state, losses = some(state)  # Compiled, and not counted.
        losses.block_until_ready()
        start, count = time.process_time(), 0
        while count < steps and time.process_time() - start < budget:
            state, losses = some(state)
            losses.block_until_ready()
            count += _STEPS_AT_A_TIME
        return guide, svi.get_params(state), losses, count, time.process_time() - start

    *_, count, used = train(10**6, min(5.0, seconds / 5))
    steps = int(seconds / used * count)
    guide, params, losses, count, used = train(steps, 1.2 * seconds)
    drawn = guide.sample_posterior(random.PRNGKey(seed + 2), params, sample_shape=(20_000,))
    drawn = np.stack([np.asarray(x) for x in parameters(drawn)], 1)
    bias = np.abs(drawn.mean(0) - reference.mean(0)) / reference.std(0)
    ratio = drawn.std(0) / reference.std(0)
    right = bias.max() <= 0.1 and ratio.min() >= 0.95 and ratio.max() <= 1.05
    return (
        f"{name:40} {guide_name:22} {used:5.0f} s {count:7} {-float(losses.mean()):11.3f} "
        f"{bias.max():6.3f} {ratio.min():6.3f} {ratio.max():6.3f}  "
        f"{'within' if right else 'outside'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[""], help="parts of names")
    parser.add_argument("--guides", nargs="*", choices=GUIDES, default=list(GUIDES))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(
        f"{'posterior':40} {'guide':22} {'cpu':>7} {'steps':>7} {'elbo':>11} {'|mean|':>6} "
        f"{'sd min':>6} {'sd max':>6}"
    )
    for name in PROBLEMS:
        if any(part in name for part in options.only):
            for guide in options.guides:
                row = run(name, guide, options.seconds, options.learning_rate, options.seed)
                print(row, flush=True)


if __name__ == "__main__":
    main()
