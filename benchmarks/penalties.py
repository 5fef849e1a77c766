"""What penalties of speed and Jacobian do to FFJORD: evaluations of an adaptive solver, and KL.

Run it from the root of the repository: `python benchmarks/penalties.py [--sets two_moons magic]`.

Flows of equal seeds train for equal numbers of steps on the same rows by 16 steps of RK4 (or
`--solver-steps`), one without penalties, and those with both, of equal weight. Then dopri5, with
tolerances of 1e-5, solves for the log-density of other rows: the calls of the network that one
needs, and the mean of `toy.log_prob(x) - flow.log_prob(x)`; of tables, as in `defaults.py`, that of
`-flow.log_prob(x)`.

Source: Chris Finlay, Jörn-Henrik Jacobsen, Levon Nurbekyan and Adam Oberman, "How to Train Your
Neural ODE: the World of Jacobian and Kinetic Regularization" (2020), RNODE.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from common import DATA, print_table
from continuous import TOYS
from defaults import table

from tfp_flows import FlowModel, bijectors, datasets, flows

BATCH, ROWS = 512, 20_000


def rows_of(name: str, options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows for all steps, standardized; rows that are held out; and the log-density of these."""
    count, seed = options.steps * BATCH, options.seed
    if name in TOYS:
        toy = getattr(datasets, name)()
        x = toy.sample(ROWS, seed=seed + 1)
        return toy.sample(count, seed=seed), x, toy.log_prob(x)
    rng = np.random.default_rng(seed)
    x = rng.permutation(table(name, DATA))
    held_out = len(x) // 5
    shift, scale = x[held_out:].mean(0), x[held_out:].std(0)
    x = ((x - shift) / scale).astype("float32")
    train = x[held_out:]
    return train[rng.integers(len(train), size=count)], x[:held_out], np.zeros(held_out)


def trained(x: np.ndarray, penalty: float, options: argparse.Namespace) -> tuple[Any, float]:
    """A flow, and the seconds that it took."""
    keras.utils.set_random_seed(options.seed)
    flow = flows.ffjord(
        x.shape[1],
        hidden_units=(64, 64),
        steps=options.solver_steps,
        kinetic=penalty,
        jacobian=penalty,
        seed=options.seed,
    )
    model = FlowModel(flow)
    schedule = keras.optimizers.schedules.CosineDecay(options.learning_rate, options.steps)
    model.compile(keras.optimizers.Adam(schedule), jit_compile=True)
    began = time.perf_counter()
    model.fit(x, batch_size=BATCH, shuffle=False, verbose=0)
    return flow, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=["two_moons", "pinwheel"])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument(
        "--penalties",
        nargs="+",
        type=float,
        default=[0.003, 0.01, 0.03],
        help="of speed and of Jacobian, each",
    )
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--solver-steps", type=int, default=16, help="of RK4, in training")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = []
    for name in options.sets:
        train, x, known = rows_of(name, options)
        first, first_gaps = None, None
        for penalty in (0.0, *options.penalties):
            flow, seconds = trained(train, penalty, options)
            (field,) = (p for p in flow.submodules if isinstance(p, bijectors.Continuous))
            field.solver = "dopri5"
            log_prob = tf.function(flow.log_prob, reduce_retracing=True)
            parts = np.split(x, range(2000, len(x), 2000))
            gaps = known - np.concatenate([log_prob(part) for part in parts])
            calls = float(np.mean(field.evaluations(x[:2000])))
            first = calls if first is None else first
            first_gaps = gaps if first_gaps is None else first_gaps
            told = [_mean(gaps), _mean(gaps - first_gaps), f"{calls:.0f}", f"{first / calls:.2f}"]
            rows.append([name, str(penalty), *told, f"{seconds:.0f}"])
            print(rows[-1], flush=True)
    header = ["set", "penalty", "nats ± 2 s.e.", "lost ± 2 s.e.", "calls a row"]
    print_table([*header, "fewer by", "seconds"], rows)


def _mean(values: np.ndarray) -> str:
    return f"{np.mean(values):.4f} ± {2 * np.std(values) / np.sqrt(len(values)):.4f}"


if __name__ == "__main__":
    main()
