"""Posteriors of posteriordb by `vi.fit`, beside reference draws: means, deviations and k_hat.

    python benchmarks/posteriors.py                     # all six, real_nvp, full_rank, mean_field
    python benchmarks/posteriors.py --only nes kidiq --flows iaf --steps 1000
    python benchmarks/posteriors.py --numpyro /path/to/python --seconds 40

Errors of means are in deviations of the reference, of deviations in their ratio; the worst
parameter counts. The last column is whether they are within 0.1 and 5 percent, and how the verdict
of the diagnosis begins: "good" should be said of nothing that is outside. With `--numpyro`, the
Python of an environment that has NumPyro, its automatic guides follow, each trained for `--seconds`
of processor time, by `posterior_workers/numpyro_guides.py`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from common import DATA

from tfp_flows import vi

tfd, tfb = tfp.distributions, tfp.bijectors
FOLDER = DATA / "posteriordb"


class Problem(NamedTuple):
    """What is inferred: its structure, the log-density, and parameters in the reference's order."""

    structure: Any
    log_prob: Callable[[Any], tf.Tensor]
    parameters: Callable[[Any], list[tf.Tensor]]


def c(value: Any) -> tf.Tensor:
    return tf.constant(np.asarray(value, "float64"))


def half_cauchy(x: tf.Tensor, scale: float) -> tf.Tensor:
    return tfd.HalfCauchy(c(0), c(scale)).log_prob(x)


def real(size: int) -> tfd.Distribution:
    return tfd.Sample(tfd.Normal(c(0), c(1)), size)


def positive() -> tfd.Distribution:
    return tfd.LogNormal(c(0), c(1))


def regression(x: np.ndarray, y: np.ndarray, prior: Callable[..., Any]) -> Problem:
    """y ~ N(x beta, sigma²)."""
    structure = tfd.JointDistributionNamed({"beta": real(x.shape[1]), "sigma": positive()})

    def log_prob(v: dict) -> tf.Tensor:
        mean = tf.linalg.matvec(c(x), v["beta"])
        return tf.reduce_sum(tfd.Normal(mean, v["sigma"][:, None]).log_prob(c(y)), -1) + prior(v)

    return Problem(structure, log_prob, lambda v: [*tf.unstack(v["beta"], axis=-1), v["sigma"]])


def ark(data: dict) -> Problem:
    y, order = np.array(data["y"]), data["K"]
    lags = [y[order - k : len(y) - k] for k in range(1, order + 1)]
    x = np.stack([np.ones(len(y) - order), *lags], 1)

    def prior(v: dict) -> tf.Tensor:
        normal = tfd.Normal(c(0), c(10)).log_prob(v["beta"])
        return tf.reduce_sum(normal, -1) + half_cauchy(v["sigma"], 2.5)

    return regression(x, y[order:], prior)


def kidiq(data: dict) -> Problem:
    hs, iq = np.array(data["mom_hs"], float), np.array(data["mom_iq"], float)
    x = np.stack([np.ones_like(hs), hs, iq, hs * iq], 1)
    prior = lambda v: half_cauchy(v["sigma"], 2.5)  # noqa: E731
    return regression(x, np.array(data["kid_score"]), prior)


def nes(data: dict) -> Problem:
    age = np.array(data["age_discrete"])
    names = ("educ1", "gender", "income")
    columns = [data["real_ideo"], data["race_adj"], *(age == k for k in (2, 3, 4))]
    x = np.stack([np.ones(len(age)), *columns, *(data[name] for name in names)], 1).astype(float)
    return regression(x, np.array(data["partyid7"]), lambda v: 0.0)


def eight_schools(data: dict) -> Problem:
    y, sigma = c(data["y"]), c(data["sigma"])
    structure = tfd.JointDistributionNamed({"mu": real(1), "effects": real(8), "tau": positive()})

    def theta(v: dict) -> tf.Tensor:
        return v["mu"] + v["tau"][:, None] * v["effects"]

    def log_prob(v: dict) -> tf.Tensor:
        return (
            tf.reduce_sum(tfd.Normal(theta(v), sigma).log_prob(y), -1)
            + tf.reduce_sum(tfd.Normal(c(0), c(1)).log_prob(v["effects"]), -1)
            + tfd.Normal(c(0), c(5)).log_prob(v["mu"][:, 0])
            + half_cauchy(v["tau"], 5.0)
        )

    def parameters(v: dict) -> list[tf.Tensor]:
        return [*tf.unstack(theta(v), axis=-1), v["mu"][:, 0], v["tau"]]

    return Problem(structure, log_prob, parameters)


def mixture(data: dict) -> Problem:
    y = c(data["y"])
    ordered = tfd.TransformedDistribution(real(2), tfb.Ascending())
    structure = tfd.JointDistributionNamed(
        {"mu": ordered, "sigma": tfd.Sample(positive(), 2), "theta": tfd.Beta(c(5), c(5))}
    )

    def log_prob(v: dict) -> tf.Tensor:
        parts = tfd.Normal(v["mu"][:, None], v["sigma"][:, None]).log_prob(y[:, None])
        weights = tf.stack([tf.math.log(v["theta"]), tf.math.log1p(-v["theta"])], -1)
        return (
            tf.reduce_sum(tf.reduce_logsumexp(parts + weights[:, None], -1), -1)
            + tf.reduce_sum(tfd.Normal(c(0), c(2)).log_prob(v["mu"]), -1)
            + tf.reduce_sum(tfd.HalfNormal(c(2)).log_prob(v["sigma"]), -1)
            + tfd.Beta(c(5), c(5)).log_prob(v["theta"])
        )

    def parameters(v: dict) -> list[tf.Tensor]:
        return [*tf.unstack(v["mu"], axis=-1), *tf.unstack(v["sigma"], axis=-1), v["theta"]]

    return Problem(structure, log_prob, parameters)


def garch(data: dict) -> Problem:
    y, first = c(data["y"]), c(data["sigma1"]) ** 2
    structure = tfd.JointDistributionNamed(
        {
            "mu": tfd.Normal(c(0), c(1)),
            "alpha0": positive(),
            "alpha1": tfd.Uniform(c(0), c(1)),
            "beta1": lambda alpha1: tfd.Uniform(c(0), 1 - alpha1),
        }
    )

    def log_prob(v: dict) -> tf.Tensor:
        noise = (y[:-1, None] - v["mu"]) ** 2  # (T - 1, n)
        added = v["alpha0"] + v["alpha1"] * noise
        added = tf.concat([added[:1] + v["beta1"] * first, added[1:]], 0)
        factors = tf.broadcast_to(v["beta1"], tf.shape(added))
        # Variances h_t = added_t + beta h_(t-1), for all t in log T steps.
        _, variances = tfp.math.scan_associative(
            lambda a, b: (a[0] * b[0], a[1] * b[0] + b[1]), (factors, added)
        )
        variances = tf.concat([tf.fill(tf.shape(variances[:1]), first), variances], 0)
        return tf.reduce_sum(tfd.Normal(v["mu"], tf.sqrt(variances)).log_prob(y[:, None]), 0)

    names = ("mu", "alpha0", "alpha1", "beta1")
    return Problem(structure, log_prob, lambda v: [v[name] for name in names])


PROBLEMS = {
    "arK-arK": ark,
    "eight_schools-eight_schools_noncentered": eight_schools,
    "garch-garch11": garch,
    "kidiq-kidscore_interaction": kidiq,
    "low_dim_gauss_mix-low_dim_gauss_mix": mixture,
    "nes1980-nes": nes,
}


def run(name: str, flow: str, steps: int, seed: int) -> str:
    """One row of the table."""
    data = json.loads((FOLDER / f"{name}.json").read_text())["data"]
    reference = np.load(FOLDER / f"{name}.npz")["draws"]
    reference = reference.reshape(-1, reference.shape[-1])
    problem = PROBLEMS[name](data)
    options: dict[str, Any] = {} if flow in ("mean_field", "full_rank") else {"seed": seed}
    posterior = vi.surrogate(problem.structure, flow, **options)
    wall, cpu = time.perf_counter(), time.process_time()
    vi.fit(problem.log_prob, posterior, steps=steps, seed=seed, verbose=0)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    found = vi.diagnose(problem.log_prob, posterior, draws=4000, seed=seed + 1)
    drawn = np.stack(problem.parameters(posterior.sample(20_000, seed=seed + 2)), 1)
    bias = np.abs(drawn.mean(0) - reference.mean(0)) / reference.std(0)
    ratio = drawn.std(0) / reference.std(0)
    right = bias.max() <= 0.1 and ratio.min() >= 0.95 and ratio.max() <= 1.05
    verdict = found.verdict.partition(": ")[2].partition(";")[0]
    return (
        f"{name:40} {flow:13} {wall:5.0f} s {cpu:5.0f} s {found.elbo:11.3f} {found.k_hat:6.2f} "
        f"{bias.max():6.3f} {ratio.min():6.3f} {ratio.max():6.3f}  "
        f"{'within' if right else 'outside'}, {verdict}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[""], help="parts of names")
    parser.add_argument("--flows", nargs="*", default=["real_nvp", "full_rank", "mean_field"])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--numpyro", type=Path, help="the Python of an environment with NumPyro")
    parser.add_argument("--seconds", type=int, default=40, help="for each of its guides")
    options = parser.parse_args()
    print(
        f"{'posterior':40} {'flow':13} {'wall':>7} {'cpu':>7} {'elbo':>11} {'k_hat':>6} "
        f"{'|mean|':>6} {'sd min':>6} {'sd max':>6}"
    )
    for name in PROBLEMS:
        if any(part in name for part in options.only):
            for flow in options.flows:
                print(run(name, flow, options.steps, options.seed), flush=True)
    if options.numpyro:
        worker = Path(__file__).parent / "posterior_workers" / "numpyro_guides.py"
        order = ["--seconds", str(options.seconds), "--seed", str(options.seed)]
        command = [options.numpyro, worker, *order, "--only", *options.only]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
