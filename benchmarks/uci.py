"""Conditional densities of real tables: test log-likelihood beside that of deep ensembles.

Run it from the root of the repository: `python benchmarks/uci.py [--sets kin8nm] [--splits 5]`.
Each set and split is one `tfp-flows fit --columns y --context ...` by its defaults, in a process of
its own, as a user starts it; it sees the training rows alone, and its model is scored on the test
rows. The splits are those of Gal and Ghahramani, "Dropout as a Bayesian Approximation" (2016); what
deep ensembles reach is from Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty
Estimation using Deep Ensembles" (2017).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from common import DATA, print_table, write_csv

from tfp_flows import FlowModel

# Set: file, negative log-likelihood of deep ensembles in nats, in the original units of y.
SETS = {
    "concrete": ("concrete", 3.06),
    "energy": ("energy", 1.38),
    "kin8nm": ("kin8nm", -1.20),
    "naval": ("naval-propulsion-plant", -5.63),
    "power-plant": ("power-plant", 2.79),
    "protein": ("protein-tertiary-structure", 2.83),
    "red_wine": ("wine-quality-red", 0.94),
    "yacht": ("yacht", 1.18),
}


def measure(name: str, split: int, options: argparse.Namespace) -> dict[str, object]:
    """Fit the training rows of a split, and score its test rows."""
    with np.load(options.data / "uci_gal_splits" / f"{SETS[name][0]}.npz") as table:
        x, y, test = table["x"], table["y"], table["index_test"][split]
    train = np.setdiff1d(np.arange(len(x)), test)
    inputs = [f"x{i}" for i in range(x.shape[1])]
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "table.csv", Path(folder) / "fit"
        frame = pd.DataFrame(np.hstack([x, y])[train], columns=[*inputs, "y"])
        frame.to_csv(source, index=False)
        command = [sys.executable, "-m", "tfp_flows_cli", "fit", str(source), "--out", str(out)]
        command += ["--columns", "y", "--context", ",".join(inputs), "--test", "0"]
        command += ["--seed", str(split), "--minutes", str(options.minutes)]
        start = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = time.monotonic() - start
        score = FlowModel.load(out / "flow.keras").log_prob(y[test], context=x[test]).numpy()
    values, counts = np.unique(y, return_counts=True)
    common = y[test, 0] == values[counts.argmax()]
    return {
        "set": name,
        "split": split,
        "rows": len(x),
        "inputs": x.shape[1],
        "distinct": len(values),
        "nll": round(float(-score.mean()), 4),
        "without": round(float(-score[~common].mean()), 4),
        "seconds": round(seconds),
    }


def main() -> None:
    """Measure, write each result as it comes, and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--splits", type=int, default=5, help="how many of the published splits")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--at-once", type=int, default=1, help="fits side by side, on these cores")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=Path("uci.csv"))
    options = parser.parse_args()
    results = []
    with concurrent.futures.ThreadPoolExecutor(options.at_once) as pool:
        tasks = [
            pool.submit(measure, name, split, options)
            for split in range(options.splits)
            for name in options.sets
        ]
        for task in concurrent.futures.as_completed(tasks):
            results.append(task.result())
            write_csv(options.out, results)
            print(results[-1], flush=True)
    frame = pd.DataFrame(results)
    rows = []
    for name in options.sets:
        part = frame[frame["set"] == name]
        published, mean = SETS[name][1], part["nll"].mean()
        error = part["nll"].std(ddof=1) / math.sqrt(len(part)) if len(part) > 1 else math.nan
        rows.append(
            [
                name,
                f"{part['rows'].iloc[0]:,} × {part['inputs'].iloc[0]}",
                f"{part['distinct'].iloc[0]:,}",
                f"{mean:.3f} ± {error:.3f}",
                f"{published:.2f}",
                "yes" if mean < published else "no",
                f"{part['nll'].max():.3f}",
                f"{part['without'].mean():.3f}",
                f"{part['seconds'].max()}",
            ]
        )
    header = ["set", "rows × inputs", "values of y", "NLL ± s.e., nats", "deep ensembles", "better"]
    header += ["worst split", "without the commonest y", "seconds, at most"]
    print_table(header, rows)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
