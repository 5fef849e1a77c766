"""Continuous and residual flows beside those of other libraries: KL(data || flow) on toys.

Run it from the root of the repository: `python benchmarks/continuous.py --minutes 2`, or, of 8×8
patches of photographs as in `bsds300.py`, `--toys bsds300 --minutes 10`.

Every model trains for the same time on the same draws, in a process of its own, one after another.
The divergence is the mean of `toy.log_prob(x) - model.log_prob(x)` over other draws; of patches,
whose density nobody knows, it is that of the flow alone with the other sign. All models see the
columns standardized, those of patches whitened. The peers run in the environment of `make bench`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import processes
from bsds300 import dequantize
from common import DATA, print_table

from tfp_flows import datasets

TOYS = ("two_moons", "circles", "eight_gaussians", "pinwheel")
PATCHES = "bsds300"
# Learning rates were found on two_moons, each by three trials. Of patches all begin with 1e-3.
MODELS = {
    "ours_ffjord": ("tfp_flows, FFJORD", 3e-3),  # With 1e-2 it breaks on circles.
    "ours_matching": ("tfp_flows, flow matching", 5e-3),
    "ours_ot_matching": ("tfp_flows, flow matching by optimal transport", 5e-3),
    "ours_ot_flow": ("tfp_flows, OT-Flow", 1e-2),
    "ours_residual": ("tfp_flows, residual flow", 5e-3),
    "zuko_cnf": ("Zuko, CNF", 1e-2),
    "torchflows_ffjord": ("torchflows, FFJORD", 3e-4),
    "torchflows_ot_flow": ("torchflows, OT-Flow", 1e-2),
    "torchflows_residual": ("torchflows, residual flow", 5e-3),
    "torchcfm": ("torchcfm, flow matching", 5e-3),
    "torchcfm_ot": ("torchcfm, flow matching by optimal transport", 5e-3),
}


def run(toy: str, model: str, draws: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a process found that trained one model, or why it found nothing."""
    ours = model.startswith("ours")
    keys = ("minutes", "batch_size", "threads", "clock", "seed", "averages")
    order = {key: getattr(options, key) for key in keys}
    order |= {"draws": draws, "model": model}
    rate = 1e-3 if toy == PATCHES else MODELS[model][1]
    order["learning_rate"] = options.learning_rate or rate
    order["width"] = options.width or (256 if toy == PATCHES else 64)
    program = f"continuous_workers/{'ours' if ours else 'torch_flows'}.py"
    result = processes.run(program, order, options, is_peer=not ours)
    print(json.dumps({"toy": toy, "model": model, **result}), file=sys.stderr, flush=True)
    return result


def draws_of(name: str, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Rows of training and test, the log-density of the latter, and what standardizes columns."""
    if name == PATCHES:
        patches = np.load(DATA / "bsds300" / "bsds300_patches_u8.npz")
        train, test = dequantize(patches["train"], 1), dequantize(patches[options.judged_by], 2)
        test = np.random.default_rng(3).permutation(test)[: options.patches]
        values, vectors = np.linalg.eigh(np.cov(train.astype("float64"), rowvar=False))
        known, matrix = np.zeros(len(test)), vectors / np.sqrt(values)
    else:
        toy = getattr(datasets, name)()
        train, test = (toy.sample(n, seed=seed) for n, seed in ((200_000, 1), (10_000, 2)))
        known, matrix = toy.log_prob(test), np.diag(1 / np.std(train, 0))
    return {"train": train, "test": test, "log_prob": known, "matrix": matrix}


def row(toy: str, model: str, result: dict[str, Any]) -> list[str]:
    title = MODELS[model][0]
    if "failure" in result:
        return [toy, title, result["failure"], *[""] * 6]
    kl, error = result["kl"], result["error"]
    return [
        toy,
        title,
        f"{-kl:.2f} ± {error:.2f} nats" if toy == PATCHES else f"{kl:.4f} ± {error:.4f}",
        f"{result['seconds']:.0f}",
        f"{result['steps']:,}",
        f"{result['ms']:.1f}",
        f"{result['log_prob_ms']:.1f}",
        f"{result['memory']:.0f}",
        f"{result['parameters']:,}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toys", nargs="+", choices=(*TOYS, PATCHES), default=TOYS)
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=tuple(MODELS))
    parser.add_argument("--minutes", type=float, default=2.0, help="of training, tracing included")
    processes.add_options(parser)
    averages = "of weights, of our flow matching"
    parser.add_argument("--averages", action="store_true", help=averages)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--patches", type=int, default=2000, help="to judge by: they take minutes")
    parser.add_argument("--judged-by", choices=("val", "test"), default="test", help="of patches")
    parser.add_argument("--width", type=int, help="of hidden layers, instead of 64, of patches 256")
    parser.add_argument("--learning-rate", type=float, help="instead of the one for each model")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    table = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        jobs = []
        for name in options.toys:
            draws = f"{folder}/{name}.npz"
            np.savez(draws, **draws_of(name, options))
            jobs += [(name, model, draws, options) for model in options.models]
        for job, result in zip(jobs, pool.map(lambda job: run(*job), jobs), strict=True):
            table.append(row(*job[:2], result))
    print(f"{options.minutes:g} minutes ({options.clock}) on {options.threads} threads\n")
    header = ["toy", "model", "KL ± 2 s.e., nats", "seconds", "steps", "ms a step"]
    print_table([*header, "ms for 1,000 log-densities", "MB", "parameters"], table)


if __name__ == "__main__":
    main()
