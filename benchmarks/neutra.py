"""Effective draws per gradient by `vi.neutra` and by NUTS, of the centred eight schools.

    python benchmarks/neutra.py
    python benchmarks/neutra.py --flow neural_spline --steps 3000

The eight effects have a normal prior whose deviation is inferred, too: a funnel, on which NUTS
takes small steps and still misses the neck. NUTS is TFP's, with the same adaptation: `vi.neutra` by
a fresh Gaussian, which is the identity. The smallest ESS of the bulk and of the tail over all
parameters counts, and every gradient after the warmup; those of the training are told apart.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import arviz as az
import numpy as np
import tensorflow_probability as tfp

from tfp_flows import vi

tfd = tfp.distributions
EFFECTS = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]  # Rubin (1981)
ERRORS = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]


@tfd.JointDistributionCoroutineAutoBatched
def schools():
    mean = yield tfd.Normal(0.0, 5.0, name="mu")
    deviation = yield tfd.HalfCauchy(0.0, 5.0, name="tau")
    effects = yield tfd.Sample(tfd.Normal(mean, deviation), 8, name="theta")
    yield tfd.Independent(tfd.Normal(effects, ERRORS), 1, name="y")


MODEL = schools.experimental_pin(y=EFFECTS)


def report(name: str, posterior: Any, options: argparse.Namespace, seed: int) -> float:
    """Print one row; return effective draws per gradient."""
    start = time.process_time()
    data = vi.neutra(
        MODEL, posterior, draws=options.draws, chains=4, warmup=options.warmup, seed=seed
    )
    seconds = time.process_time() - start
    ess = {kind: _least(az.ess(data, method=kind)) for kind in ("bulk", "tail")}
    r_hat = max(float(part.max()) for part in az.rhat(data).data_vars.values())
    stats = data.sample_stats
    gradients = int(stats["n_steps"].sum())
    each = min(ess.values()) / gradients
    print(
        f"{name:24} {seed} {r_hat:6.3f} {ess['bulk']:8.0f} {ess['tail']:8.0f} {gradients:9}"
        f" {int(stats['diverging'].sum()):5} {each:8.4f} {seconds:6.0f}",
        flush=True,
    )
    return each


def _least(ess: Any) -> float:
    return min(float(part.min()) for part in ess.data_vars.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--flow", default="iaf")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--draws", type=int, default=5000)
    parser.add_argument("--warmup", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print(
        f"{'':24} s  R_hat     bulk     tail gradients diverg. per gradient, CPU seconds",
        flush=True,
    )
    ratios = []
    for seed in range(options.seeds):
        plain = report("NUTS", vi.surrogate(MODEL, "mean_field"), options, seed)
        flow = vi.surrogate(MODEL, options.flow, layers=options.layers, seed=seed)
        start = time.process_time()
        vi.fit(MODEL, flow, steps=options.steps, sample_size=256, seed=seed, verbose=0)
        print(
            f"  trained by {options.steps} steps of 256 gradients, "
            f"{time.process_time() - start:.0f} CPU seconds"
        )
        print("  " + str(vi.diagnose(MODEL, flow, seed=seed)).splitlines()[-1])
        ratios.append(report(f"NeuTra, {options.flow}", flow, options, seed) / plain)
    print("ratios", np.round(ratios, 1))


if __name__ == "__main__":
    main()
