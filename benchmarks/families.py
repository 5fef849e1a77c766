"""How close every family of flows comes to two known densities: KL(data || flow) in nats.

Run it from the root of the repository: `python benchmarks/families.py [--families NAME ...]`.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from common import log_prob, parameter_count, print_table
from toys import Budget

from tfp_flows import Flow, FlowModel, datasets, flows
from tfp_flows.distributions import bases

tfd = tfp.distributions

GOAL = 0.1
TOYS = ("two_moons", "eight_gaussians")
UNITS = {"hidden_units": (64, 64), "activation": "silu"}
COUPLINGS = {"layers": 6, "linear": "rotation", **UNITS}
AUTOREGRESSIVE = {"layers": 4, **UNITS}
AFFINE = {"layers": 12, "linear": "rotation", **UNITS}

# Options of the flow. "family" says which one, where the row has another name; "mixture" is the
# number of normals in a trained base: maps of an unimodal base leave bridges between modes.
SETTINGS: dict[str, dict[str, Any]] = {
    "autoregressive_spline": AUTOREGRESSIVE,
    "bernstein": {"degree": 32, "bound": 3.0, "linear": "rotation", **AUTOREGRESSIVE},
    "flow_plus_plus": COUPLINGS,
    "maf": AFFINE,
    "maf_lu": {"family": "maf", **AFFINE, "linear": "lu"},
    "maf_mixture": {"family": "maf", "mixture": 24, "layers": 4, **UNITS},
    "naf": {**AUTOREGRESSIVE, "layers": 2},
    "naf_dense": {"family": "naf", "dense": True, "components": 8, **UNITS},
    "neural_spline": COUPLINGS,
    "neural_spline_cubic": {"family": "neural_spline", "spline": "cubic", **COUPLINGS},
    "neural_spline_linear": {
        "family": "neural_spline",
        "spline": "linear",
        "bins": 32,
        "bound": 3.0,
        **COUPLINGS,
    },
    "neural_spline_quadratic": {"family": "neural_spline", "spline": "quadratic", **COUPLINGS},
    "nice": AFFINE,
    "nice_mixture": {"family": "nice", "mixture": 24, "layers": 8, **UNITS},
    "real_nvp": AFFINE,
    "real_nvp_mixture": {"family": "real_nvp", "mixture": 24, "layers": 4, **UNITS},
    "sum_of_squares": AUTOREGRESSIVE,
    "umnn": {**AUTOREGRESSIVE, "layers": 2, "linear": "rotation"},
}


def make(name: str, seed: int) -> Flow:
    """The flow of a row of the table."""
    options = dict(SETTINGS[name])
    base = bases.mixture(2, options.pop("mixture")) if "mixture" in options else None
    return flows.get(options.pop("family", name), 2, base=base, seed=seed, **options)


def train(flow: Flow, toy: tfd.Distribution, options: argparse.Namespace) -> tuple[FlowModel, int]:
    """Fit to fresh samples at every step, so that there is nothing to overfit; counts the steps."""
    budget = Budget(options.minutes)
    model = FlowModel(flow)
    model.adapt(toy.sample(10_000, seed=1))
    schedule = keras.optimizers.schedules.CosineDecay(options.learning_rate, options.steps)
    model.compile(keras.optimizers.Adam(schedule, clipnorm=1.0), jit_compile=options.jit)
    seeds = tf.data.Dataset.random(seed=options.seed).batch(2, drop_remainder=True)
    samples = seeds.map(lambda seed: toy.sample(options.batch_size, seed=tf.cast(seed, tf.int32)))
    model.fit(samples.prefetch(4), steps_per_epoch=options.steps, callbacks=budget, verbose=0)
    return model, budget.steps


def measure(name: str, toy_name: str, options: argparse.Namespace) -> list[str]:
    """Train and compare on other samples; returns a row of the table."""
    keras.utils.set_random_seed(options.seed)
    toy = getattr(datasets, toy_name)()
    start = time.perf_counter()
    model, steps = train(make(name, options.seed), toy, options)
    seconds = time.perf_counter() - start

    x = toy.sample(50_000, seed=2).numpy()
    gap = toy.log_prob(x).numpy() - log_prob(model, [x])
    error = 2 * gap.std() / np.sqrt(len(gap))
    early = "" if steps == options.steps else " (out of time)"
    return [
        name,
        toy_name,
        f"{gap.mean():.4f} ± {error:.4f}",
        "yes" if gap.mean() + error < GOAL else "no",
        f"{parameter_count(model):,}",
        f"{seconds:.0f}",
        f"{steps:,}{early}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--families", nargs="+", metavar="NAME", choices=SETTINGS, default=[*SETTINGS]
    )
    parser.add_argument("--toys", nargs="+", choices=datasets.names(), default=TOYS)
    parser.add_argument("--minutes", type=float, default=2.0, help="training stops here")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jit", action="store_true", help="compile the training step by XLA")
    options = parser.parse_args()
    header = ["family", "data", "KL ± 2 s.e., nats", f"under {GOAL}", "parameters", "seconds"]
    print_table(
        [*header, "steps"],
        (measure(name, toy, options) for name in options.families for toy in options.toys),
    )


if __name__ == "__main__":
    main()
