"""Conditional densities of real tables: test log-likelihood beside that of deep ensembles.

Run it from the root of the repository: `python benchmarks/uci.py [--sets kin8nm] [--splits 5]`.
The splits are those of Gal and Ghahramani, "Dropout as a Bayesian Approximation" (2016); what
deep ensembles reach is from Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty
Estimation using Deep Ensembles" (2017).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import keras
import numpy as np
from common import DATA, fit, log_prob, parameter_count, print_table, spline_flow

from tfp_flows import FlowModel

# Set: file, negative log-likelihood of deep ensembles in nats, in the original units of y.
SETS = {
    "power-plant": ("power-plant", 2.79),
    "protein": ("protein-tertiary-structure", 2.83),
    "kin8nm": ("kin8nm", -1.20),
}


def measure_split(
    x: np.ndarray, y: np.ndarray, test: np.ndarray, options: argparse.Namespace, seed: int
) -> tuple[np.ndarray, float, int]:
    """Train on all rows but `test`, a tenth of them for validation.

    Returns log-densities of the test rows, seconds, and the number of parameters.
    """
    keras.utils.set_random_seed(seed)
    rows = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(len(x)), test))
    validation, train = np.split(rows, [len(rows) // 10])
    flow = spline_flow(
        1,
        layers=options.layers,
        bins=options.bins,
        hidden_units=options.hidden_units,
        dropout=options.dropout,
        context_size=x.shape[1],
        seed=seed,
    )
    model = FlowModel(flow)
    seconds = fit(
        model,
        (x[train], y[train]),
        (x[validation], y[validation]),
        epochs=math.ceil(options.steps * options.batch_size / len(train)),
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
    )
    return log_prob(model, (x[test], y[test])), seconds, parameter_count(model)


def measure(name: str, options: argparse.Namespace) -> list[str]:
    """Train on every split of a set; returns a row of the table."""
    file, published = SETS[name]
    with np.load(options.data / "uci_gal_splits" / f"{file}.npz") as table:
        x, y, tests = (table[key] for key in ("x", "y", "index_test"))
    values, counts = np.unique(y, return_counts=True)
    ties = y[:, 0] == values[counts.argmax()]
    nll, nll_without, seconds, size = [], [], [], 0
    for split, test in enumerate(tests[: options.splits]):
        score, duration, size = measure_split(x, y, test, options, seed=split)
        nll.append(-score.mean())
        nll_without.append(-score[~ties[test]].mean())
        seconds.append(duration)
    error = np.std(nll, ddof=1) / np.sqrt(len(nll)) if len(nll) > 1 else math.nan
    return [
        name,
        f"{len(x):,} × {x.shape[1]}",
        f"{np.mean(nll):.3f} ± {error:.3f}",
        f"{published:.2f}",
        "yes" if np.mean(nll) < published else "no",
        f"{max(nll):.3f}",
        f"{np.mean(nll_without):.3f} ({ties.sum()})",
        f"{np.mean(seconds):.0f}",
        f"{size:,}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--splits", type=int, default=5, help="how many of the published splits")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--bins", type=int, default=8)
    parser.add_argument("--hidden-units", type=int, nargs="+", default=[256, 256])
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=4000, help="rounded up to whole epochs")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    options = parser.parse_args()
    header = ["set", "rows × inputs", "NLL ± s.e., nats", "deep ensembles", "better", "worst split"]
    header += ["without the commonest y (rows)", "seconds a split", "parameters"]
    print_table(header, (measure(name, options) for name in options.sets))


if __name__ == "__main__":
    main()
