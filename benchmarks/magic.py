"""A real 10-dimensional density: test log-likelihood beside a Gaussian and Gaussian mixtures.

Run it from the root of the repository: `python benchmarks/magic.py`. It needs scikit-learn.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import keras
import numpy as np
from common import DATA, fit, log_prob, print_table, spline_flow
from sklearn.mixture import GaussianMixture

from tfp_flows import FlowModel

COMPONENTS = (10, 20, 30, 40, 50)


def mixture(components: int, train: np.ndarray, seed: int) -> GaussianMixture:
    """The best of three fits with full covariances."""
    return GaussianMixture(
        components, reg_covar=1e-6, max_iter=500, n_init=3, random_state=seed
    ).fit(train)


def flow_model(
    train: np.ndarray, validation: np.ndarray, options: argparse.Namespace
) -> tuple[FlowModel, float]:
    """A trained spline flow and its training time in seconds."""
    keras.utils.set_random_seed(options.seed)
    model = FlowModel(
        spline_flow(
            train.shape[1],
            layers=options.layers,
            bins=8,
            hidden_units=options.hidden_units,
            dropout=options.dropout,
            seed=options.seed,
        )
    )
    seconds = fit(
        model,
        (train,),
        (validation,),
        epochs=options.epochs,
        batch_size=512,
        learning_rate=2e-3,
        jit_compile=True,
    )
    return model, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the models")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden-units", type=int, nargs="+", default=[128, 128])
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()

    with np.load(options.data / "classic" / "magic.npz") as table:
        x = table["x"].astype("float64")
    order = np.random.default_rng(options.seed).permutation(len(x))
    test, validation, train = np.split(order, [len(x) // 10, len(x) // 5])
    # Rows with an exact 0 in a column that is continuous otherwise, and copies of training rows,
    # are no draws from a density: a model may gain by spikes there.
    zeros = (x[test][:, [1, 5, 6, 7]] == 0).any(1)
    copies = np.array([(x[train] == row).all(1).any() for row in x[test]])
    plain = ~(zeros | copies)

    # Standardized for all alike; the Jacobian gives log-densities in the units of the data.
    shift, scale = x[train].mean(0), x[train].std(0)
    z, log_det = (x - shift) / scale, -np.log(scale).sum()
    models = []
    for components in (1, *COMPONENTS):
        start = time.perf_counter()
        fitted = mixture(components, z[train], options.seed)
        seconds = time.perf_counter() - start
        name = "Gaussian" if components == 1 else f"mixture of {components}"
        scores = [fitted.score_samples(z[rows]) + log_det for rows in (validation, test)]
        models.append((name, *scores, seconds))
    best = max(models[1:], key=lambda model: model[1].mean())
    model, seconds = flow_model(x[train], x[validation], options)
    scores = [log_prob(model, (x[rows],)) for rows in (validation, test)]
    models.append(("spline flow", *scores, seconds))

    header = ["model", "validation", "test ± s.e., nats", "flow ahead by ± s.e."]
    header += [f"test, {plain.sum():,} of {len(test):,} rows", "seconds"]
    print_table(header, (row(*model, models[-1][2], plain) for model in models))
    print(f"\nBest mixture by validation rows: {best[0]}.")
    print(f"The last column but one leaves out {zeros.sum()} rows with exact zeros in a column and")
    print(f"{copies.sum()} copies of training rows.")


def row(
    name: str,
    validation: np.ndarray,
    test: np.ndarray,
    seconds: float,
    flow: np.ndarray,
    plain: np.ndarray,
) -> list[str]:
    """A row of the table, from log-densities of a model and of the flow."""
    gap = flow - test
    return [
        name,
        f"{validation.mean():.3f}",
        f"{test.mean():.3f} ± {_error(test):.3f}",
        f"{gap.mean():.3f} ± {_error(gap):.3f}" if gap.any() else "",
        f"{test[plain].mean():.3f}",
        f"{seconds:.0f}",
    ]


def _error(values: np.ndarray) -> float:
    return values.std() / np.sqrt(len(values))


if __name__ == "__main__":
    main()
