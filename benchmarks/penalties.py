"""What penalties of speed and Jacobian do to FFJORD: evaluations of an adaptive solver, and KL.

Run it from the root of the repository: `python benchmarks/penalties.py [--toys two_moons ...]`.

Flows of equal seeds train for equal numbers of steps on the same draws by 16 steps of RK4, one
without penalties, one with each pair of them. Then dopri5, with tolerances of 1e-5, solves for the
log-density of other draws: the calls of the network that a row needs, and the mean of
`toy.log_prob(x) - flow.log_prob(x)`.

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
from common import print_table

from tfp_flows import FlowModel, bijectors, datasets, flows

PENALTIES = ((0.0, 0.0), (0.003, 0.003), (0.01, 0.01), (0.03, 0.03))  # Kinetic, Jacobian.
BATCH, ROWS = 512, 20_000


def trained(toy: str, penalties: tuple[float, float], options: argparse.Namespace) -> Any:
    """A flow, and the seconds that it took."""
    keras.utils.set_random_seed(options.seed)
    kinetic, jacobian = penalties
    flow = flows.ffjord(
        2, hidden_units=(64, 64), kinetic=kinetic, jacobian=jacobian, seed=options.seed
    )
    model = FlowModel(flow)
    schedule = keras.optimizers.schedules.CosineDecay(3e-3, options.steps)
    model.compile(keras.optimizers.Adam(schedule), jit_compile=True)
    x = getattr(datasets, toy)().sample(options.steps * BATCH, seed=options.seed)
    began = time.perf_counter()
    model.fit(x, batch_size=BATCH, verbose=0)
    return flow, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toys", nargs="+", default=["two_moons", "pinwheel"])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = []
    for name in options.toys:
        toy = getattr(datasets, name)()
        x = toy.sample(ROWS, seed=options.seed + 1)
        first = None
        for penalties in PENALTIES:
            flow, seconds = trained(name, penalties, options)
            (field,) = (p for p in flow.submodules if isinstance(p, bijectors.Continuous))
            field.solver = "dopri5"
            log_prob = tf.function(flow.log_prob)
            gaps = toy.log_prob(x) - np.concatenate([log_prob(part) for part in np.split(x, 10)])
            calls = float(np.mean(field.evaluations(x[:2000])))
            first = calls if first is None else first
            error = 2 * np.std(gaps) / np.sqrt(ROWS)
            told = [f"{np.mean(gaps):.4f} ± {error:.4f}", f"{calls:.0f}", f"{first / calls:.2f}"]
            rows.append([name, *map(str, penalties), *told, f"{seconds:.0f}"])
            print(rows[-1], flush=True)
    header = [
        "toy",
        "kinetic",
        "jacobian",
        "KL ± 2 s.e., nats",
        "calls a row",
        "fewer by",
        "seconds",
    ]
    print_table(header, rows)


if __name__ == "__main__":
    main()
