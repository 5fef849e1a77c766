"""Neural networks, a Gaussian process and a hidden Markov model: flows beside Gaussians and NUTS.

    python benchmarks/bayesian_models.py                       # all six, some 40 minutes
    python benchmarks/bayesian_models.py --only yacht --flows iaf --steps 2000
    python benchmarks/bayesian_models.py --only yacht --starts 4

Every posterior is fitted by `vi.fit` with the same steps and draws, TFP's affine surrogate by
`tfp.vi.fit_surrogate_posterior` with as many, the same rates and XLA, and NUTS, TFP's, has four
chains. Printed are the ELBO, k_hat, and the predictive log-likelihood of rows that were held out,
in nats a row and beside that of NUTS. With `--starts`, flows are fitted that often, from seeds of
their own, as the chains of NUTS are: predictions average over draws of all, and the ELBO, their
mean, is a bound on that of the mixture.

The networks are of the first of Gal's splits of UCI tables, standardized; the process classifies 60
of two moons, and is judged by 1,000 others; the hidden Markov model has seen 180 eruptions of Old
Faithful, and is judged by the 92 that came after.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from common import DATA
from sklearn.datasets import make_moons

from tfp_flows import datasets, vi

tfd = tfp.distributions
_UNITS = 10
_SCORED = 500  # Draws at a time.


class Problem(NamedTuple):
    """Parameters with their prior, the target `(n,)`, and densities of test rows `(n, rows)`."""

    prior: tfd.JointDistribution
    log_prob: Callable[[Any], tf.Tensor]
    test: Callable[[Any], tf.Tensor]


def network(name: str) -> Problem:
    """y ~ N(f(x), noise²) with one layer of 10 tanh units."""
    with np.load(DATA / "uci_gal_splits" / f"{name}.npz") as table:
        x, y, test = table["x"], table["y"][:, 0], table["index_test"][0]
    train = np.setdiff1d(np.arange(len(x)), test)
    scale = x[train].std(0)
    x = (x - x[train].mean(0)) / np.where(scale > 0, scale, 1.0)
    y = (y - y[train].mean()) / y[train].std()
    x, y = x.astype("float32"), y.astype("float32")
    size = x.shape[1]
    normal = tfd.Normal(0.0, 1.0)
    prior = tfd.JointDistributionNamed(
        {
            "slopes": tfd.Sample(normal, [size, _UNITS]),
            "offsets": tfd.Sample(normal, _UNITS),
            "weights": tfd.Sample(normal, _UNITS),
            "noise": tfd.LogNormal(-1.5, 1.0),
        }
    )

    def rows(v: Any, index: np.ndarray) -> tf.Tensor:
        inner = tf.einsum("rs,nsu->nru", x[index], v["slopes"]) / size**0.5
        hidden = tf.tanh(inner + v["offsets"][:, None])
        mean = tf.linalg.matvec(hidden, v["weights"])
        return tfd.Normal(mean, v["noise"][:, None]).log_prob(y[index])

    return Problem(
        prior,
        lambda v: prior.log_prob(v) + tf.reduce_sum(rows(v, train), -1),
        lambda v: rows(v, test),
    )


def process() -> Problem:
    """Classes of points, whose logit is a Gaussian process `L z`."""
    points, label = make_moons(60, noise=0.25, random_state=0)
    others, truth = make_moons(1000, noise=0.25, random_state=1)
    points, label, others, truth = (a.astype("float32") for a in (points, label, others, truth))
    prior = tfd.JointDistributionNamed(
        {
            "length": tfd.LogNormal(0.0, 0.5),
            "amplitude": tfd.LogNormal(0.5, 0.5),
            "z": tfd.Sample(tfd.Normal(0.0, 1.0), 60),
        }
    )

    def covariance(v: Any, a: np.ndarray, b: np.ndarray) -> tf.Tensor:
        squares = tf.constant(((a[:, None] - b) ** 2).sum(-1))
        length, amplitude = (v[name][:, None, None] for name in ("length", "amplitude"))
        return amplitude**2 * tf.exp(-0.5 * squares / length**2)

    def factor(v: Any) -> tf.Tensor:
        return tf.linalg.cholesky(covariance(v, points, points) + 1e-3 * tf.eye(60))

    def log_prob(v: Any) -> tf.Tensor:
        logits = tf.linalg.matvec(factor(v), v["z"])
        return prior.log_prob(v) + tf.reduce_sum(tfd.Bernoulli(logits).log_prob(label), -1)

    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    nodes, log_weights = nodes.astype("float32"), np.log(weights / weights.sum()).astype("float32")

    def test(v: Any) -> tf.Tensor:
        half = tf.linalg.triangular_solve(factor(v), covariance(v, points, others))
        mean = tf.einsum("npt,np->nt", half, v["z"])
        variance = v["amplitude"][:, None] ** 2 - tf.reduce_sum(half**2, 1)
        logits = mean[..., None] + tf.sqrt(tf.maximum(variance, 0.0))[..., None] * nodes
        found = tfd.Bernoulli(logits).log_prob(truth[:, None])
        return tf.reduce_logsumexp(found + log_weights, -1)

    return Problem(prior, log_prob, test)


def chain(states: int = 3) -> Problem:
    """Eruptions in a row, with states that have a mean and a deviation each, and an order."""
    minutes = datasets.faithful()[0][:, 0].astype("float32")
    seen = 180
    prior = tfd.JointDistributionNamed(
        {
            "first": tfd.Normal(2.0, 1.0),
            "gaps": tfd.Sample(tfd.LogNormal(0.0, 0.7), states - 1),
            "deviations": tfd.Sample(tfd.LogNormal(-1.0, 0.5), states),
            # Of logits beside one that is 0: TFP 0.25's bijector of a Dirichlet needs NumPy 1.
            "start": tfd.Sample(tfd.Normal(0.0, 1.5), states - 1),
            "next": tfd.Sample(tfd.Normal(0.0, 1.5), [states, states - 1]),
        }
    )

    def rows(v: Any, end: int) -> tf.Tensor:
        """`log p(minutes_t | all before)`, `(n, end)`."""
        means = v["first"][:, None] + tf.concat(
            [tf.zeros_like(v["gaps"][:, :1]), tf.cumsum(v["gaps"], -1)], -1
        )
        emitted = tfd.Normal(means, v["deviations"]).log_prob(minutes[:end, None, None])
        change, start = (
            tf.nn.log_softmax(tf.concat([v[name], tf.zeros_like(v[name][..., :1])], -1))
            for name in ("next", "start")
        )

        def step(before: tuple[tf.Tensor, tf.Tensor], emitted: tf.Tensor) -> Any:
            log_state = before[0] + emitted
            total = tf.reduce_logsumexp(log_state, -1)
            log_state = (log_state - total[:, None])[..., None] + change
            return tf.reduce_logsumexp(log_state, -2), total

        _, found = tf.scan(step, emitted, (start, tf.zeros_like(start[:, 0])))
        return tf.transpose(found)

    return Problem(
        prior,
        lambda v: prior.log_prob(v) + tf.reduce_sum(rows(v, seen), -1),
        lambda v: rows(v, len(minutes))[:, seen:],
    )


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "yacht": lambda: network("yacht"),
    "energy": lambda: network("energy"),
    "concrete": lambda: network("concrete"),
    "wine": lambda: network("wine-quality-red"),
    "process": process,
    "chain": chain,
}


def affine(problem: Problem, options: argparse.Namespace) -> Any:
    """TFP's surrogate: a Gaussian with a triangular factor, behind TFP's bijectors."""
    posterior = tfp.experimental.vi.build_affine_surrogate_posterior(
        event_shape=problem.prior.event_shape_tensor(),
        operators="tril",
        bijector=problem.prior.experimental_default_event_space_bijector(),
        seed=options.seed,
    )
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, options.steps)
    tfp.vi.fit_surrogate_posterior(
        lambda **v: problem.log_prob(v),
        posterior,
        optimizer=keras.optimizers.Adam(schedule),
        num_steps=options.steps,
        sample_size=options.sample_size,
        seed=options.seed,
        jit_compile=True,
    )
    return posterior


def fitted(name: str, problem: Problem, options: argparse.Namespace, seed: int) -> Any:
    """A posterior of this name, trained."""
    if name == "affine":
        return affine(problem, options)
    more: dict[str, Any] = {} if name in ("mean_field", "full_rank") else {"seed": seed}
    posterior = vi.surrogate(problem.prior, name, **more)
    vi.fit(
        problem.log_prob,
        posterior,
        steps=options.steps,
        sample_size=options.sample_size,
        jit_compile=True,
        seed=seed,
        verbose=0,
    )
    return posterior


def predictive(problem: Problem, draws: Any) -> np.ndarray:
    """Log-densities of test rows under the mean over draws."""
    test = tf.function(problem.test, autograph=False)
    count = len(tf.nest.flatten(draws)[0])
    parts = [
        test(tf.nest.map_structure(lambda x, i=i: tf.constant(x[i : i + _SCORED]), draws))
        for i in range(0, count, _SCORED)
    ]
    return tf.reduce_logsumexp(tf.concat(parts, 0), 0).numpy() - np.log(count)


def nuts(problem: Problem, options: argparse.Namespace) -> tuple[np.ndarray, str]:
    """Log-densities of test rows by NUTS, and how well the chains mixed."""
    import arviz as az

    plain = vi.surrogate(problem.prior, "mean_field")
    data = vi.neutra(
        problem.log_prob, plain, draws=options.draws, warmup=options.warmup, seed=options.seed
    )
    r_hat = max(float(part.max()) for part in az.rhat(data).data_vars.values())
    names = tf.nest.flatten({name: name for name in data.posterior.data_vars})
    draws = {
        name: data.posterior[name].values.reshape(-1, *data.posterior[name].shape[2:])
        for name in names
    }
    return predictive(problem, draws), f"R_hat {r_hat:.3f}"


def run(name: str, options: argparse.Namespace) -> None:
    problem = PROBLEMS[name]()
    start = time.process_time()
    reference, mixed = nuts(problem, options)
    print(
        f"{name:9} {'NUTS':12} {time.process_time() - start:6.0f} s {'':27} "
        f"{reference.mean():8.4f}  {mixed}",
        flush=True,
    )
    for method in ("mean_field", "affine", "full_rank", *options.flows):
        starts = options.starts if method in options.flows else 1
        start = time.process_time()
        posteriors = [fitted(method, problem, options, options.seed + i) for i in range(starts)]
        seconds = time.process_time() - start
        found = [_scored(problem, posterior, options) for posterior in posteriors]
        log_weights = np.concatenate([log_weights for log_weights, _ in found])
        elbo, error = np.mean(log_weights), np.std(log_weights) / len(log_weights) ** 0.5
        k_hat = "" if method == "affine" else _k_hat(problem, posteriors[0], options)
        parts = [predictive(problem, draws) for _, draws in found]
        rows = np.logaddexp.reduce(parts, 0) - np.log(starts)
        gap = rows - reference
        label = method if starts == 1 else f"{starts} x {method}"
        print(
            f"{name:9} {label:12} {seconds:6.0f} s {elbo:10.3f} ± {error:.3f} {k_hat:>7} "
            f"{rows.mean():8.4f}  {gap.mean():+.4f} ± {gap.std() / len(gap) ** 0.5:.4f}",
            flush=True,
        )


def _scored(problem: Problem, posterior: Any, options: argparse.Namespace) -> Any:
    """Log-weights of draws, whose mean is the ELBO, and the draws."""

    @functools.partial(tf.function, autograph=False)
    def scored() -> Any:
        draws, log_q = posterior.experimental_sample_and_log_prob(4000, seed=options.seed + 1)
        return problem.log_prob(draws) - log_q, draws

    return scored()


def _k_hat(problem: Problem, posterior: Any, options: argparse.Namespace) -> str:
    found = vi.diagnose(problem.log_prob, posterior, draws=4000, seed=options.seed + 1)
    return f"{found.k_hat:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--flows", nargs="+", default=["iaf"])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--sample-size", type=int, default=64)
    parser.add_argument("--draws", type=int, default=1000, help="of each chain")
    parser.add_argument("--warmup", type=int, default=1000)
    parser.add_argument("--starts", type=int, default=1, help="fits of each flow, averaged")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"{'':22} {'CPU':>8} {'ELBO':>10} {'k_hat':>15} {'predictive, beside NUTS':>25}")
    for name in options.only:
        run(name, options)


if __name__ == "__main__":
    main()
