"""How close a flow comes to densities that are known: KL(data || flow) in nats.

Run it from the root of the repository: `python benchmarks/toys.py [TOY ...] [--all]`.
"""

from __future__ import annotations

import argparse
import time

import keras
import numpy as np
import tensorflow as tf
from common import log_prob, parameter_count, print_table

from tfp_flows import FlowModel, datasets, flows

GOAL = 0.05
TOYS = ("two_moons", "circles", "eight_gaussians", "pinwheel")


class Budget(keras.callbacks.Callback):
    """Stop training `minutes` after this object was made; counts the steps."""

    def __init__(self, minutes: float):
        super().__init__()
        self.end = time.perf_counter() + 60 * minutes
        self.steps = 0

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.steps += 1
        if time.perf_counter() > self.end:
            self.model.stop_training = True


def measure(name: str, options: argparse.Namespace) -> list[str]:
    """Train on fresh samples of a toy, compare on others; returns a row of the table."""
    keras.utils.set_random_seed(options.seed)
    toy = getattr(datasets, name)()
    start, budget = time.perf_counter(), Budget(options.minutes)
    flow = flows.get(
        options.flow,
        2,
        layers=options.layers,
        hidden_units=options.hidden_units,
        seed=options.seed,
    )
    model = FlowModel(flow)
    model.adapt(toy.sample(10_000, seed=1))
    schedule = keras.optimizers.schedules.CosineDecay(options.learning_rate, options.steps)
    model.compile(keras.optimizers.Adam(schedule), jit_compile=options.jit or "auto")
    # Every step draws a sample of its own: there is nothing to overfit.
    seeds = tf.data.Dataset.random(seed=options.seed).batch(2, drop_remainder=True)
    samples = seeds.map(lambda seed: toy.sample(options.batch_size, seed=tf.cast(seed, tf.int32)))
    model.fit(samples.prefetch(4), steps_per_epoch=options.steps, callbacks=budget, verbose=0)
    seconds = time.perf_counter() - start

    x = toy.sample(100_000, seed=2).numpy()
    gap = toy.log_prob(x).numpy() - log_prob(model, [x])
    error = 2 * gap.std() / np.sqrt(len(gap))
    early = "" if budget.steps == options.steps else " (out of time)"
    return [
        name,
        f"{gap.mean():.4f} ± {error:.4f}",
        "yes" if gap.mean() + error < GOAL else "no",
        f"{seconds:.0f}",
        f"{budget.steps:,}{early}",
        f"{parameter_count(model):,}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("toys", nargs="*", metavar="TOY", help=f"default: {' '.join(TOYS)}")
    parser.add_argument("--all", action="store_true", help="all toys of the package")
    parser.add_argument("--flow", choices=flows.names(), default="neural_spline")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--jit", action="store_true", help="XLA compiles whole steps")
    parser.add_argument("--minutes", type=float, default=2.0, help="training stops here")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--hidden-units", type=int, nargs="+", default=[64, 64])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    names = datasets.names() if options.all else options.toys or TOYS
    if unknown := set(names) - set(datasets.names()):
        parser.error(f"unknown toys {sorted(unknown)}; there are {', '.join(datasets.names())}")
    header = ["toy", "KL ± 2 s.e., nats", f"under {GOAL}", "seconds", "steps", "parameters"]
    print_table(header, (measure(name, options) for name in names))


if __name__ == "__main__":
    main()
