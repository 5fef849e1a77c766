"""Sampling an autoregressive flow: every hidden unit once, against D passes of the same network.

Run it from the root of the repository: `python benchmarks/sampling.py`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from common import print_table

from tfp_flows import flows
from tfp_flows.networks.made_solve import solve_by_passes


def by_passes(flow: flows.Flow, z: tf.Tensor) -> tf.Tensor:
    """`flow.bijector.forward(z)` in the plain way: D calls of every network."""
    for layer in reversed(flow.bijector.bijectors):
        z, _ = solve_by_passes(layer.conditioner, layer.transformer.forward, z)
    return z


def milliseconds(run: Callable[[tf.Tensor], tf.Tensor], z: tf.Tensor) -> float:
    start = time.perf_counter()
    run(z).numpy()
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--event-sizes", type=int, nargs="+", default=[11, 22, 43, 86])
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--hidden-units", type=int, nargs="+", default=[128, 128])
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=21)
    options = parser.parse_args()
    rows = []
    for size in options.event_sizes:
        flow = flows.maf(size, layers=options.layers, hidden_units=options.hidden_units, seed=0)
        for i, variable in enumerate(flow.trainable_variables):
            variable.assign_add(tf.random.stateless_normal(variable.shape, (0, i), stddev=0.05))
        z = tf.random.stateless_normal([options.batch_size, size], (1, 1))
        for jit in (False, True):
            ways = (
                lambda x, flow=flow: flow.bijector.forward(x),
                lambda x, f=flow: by_passes(f, x),
            )
            fast, slow = (tf.function(way, jit_compile=jit) for way in ways)
            difference = float(tf.reduce_max(tf.abs(fast(z) - slow(z))))
            # In turn, so that drifts of the machine meet both.
            pairs = [(milliseconds(fast, z), milliseconds(slow, z)) for _ in range(options.repeats)]
            ours, theirs = np.median(pairs, axis=0)
            ratios = np.sort([b / a for a, b in pairs])
            ratio = f"{np.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})"
            mode = "XLA" if jit else "graph"
            rows.append([size, mode, f"{ours:.1f}", f"{theirs:.1f}", ratio, f"{difference:.0e}"])
    header = ["D", "mode", "ms", "D passes, ms", "times faster, median (range)", "difference"]
    print_table(header, rows)


if __name__ == "__main__":
    main()
