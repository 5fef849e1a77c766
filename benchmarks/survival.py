"""Times until an event, some of them censored: flows beside the models of lifelines.

Run it from the root of the repository: `python benchmarks/survival.py [SET ...]`, with lifelines
installed. The table has the mean log-likelihood of held-out rows, in nats: the log-density of
times that were seen, the log-probability to be later of those that were not.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from common import print_table

from tfp_flows import FlowModel, distributions, flows

SETS = {"rossi": ("week", "arrest"), "gbsg2": ("time", "cens"), "lung": ("time", "status")}
FOLDS = 5


def load(name: str) -> Any:
    """A data frame of numbers, with times in units of their median, and the two columns' names."""
    lifelines = importlib.import_module("lifelines.datasets")
    pandas = importlib.import_module("pandas")
    time, seen = SETS[name]
    table = pandas.get_dummies(getattr(lifelines, f"load_{name}")().dropna(), drop_first=True)
    table = table.astype("float64")
    table[time] = (table[time] + 0.5) / table[time].median()
    return table, time, seen


def score_lifelines(fitter: str, train: Any, test: Any, time: str, seen: str) -> float:
    """That of a parametric regression, with a small penalty."""
    model = getattr(importlib.import_module("lifelines"), fitter)(penalizer=0.01)
    model.fit(train, duration_col=time, event_col=seen)
    return float(model.score(test, scoring_method="log_likelihood"))


def score_flow(train: Any, test: Any, time: str, seen: str, seed: int) -> float:
    """That of a small spline flow."""

    def arrays(table: Any) -> tuple[np.ndarray, np.ndarray]:
        lower = table[time].to_numpy()
        upper = np.where(table[seen] > 0, lower, np.inf)
        context = table.drop(columns=[time, seen]).to_numpy()
        return context.astype("float32"), np.stack([lower, upper], -1).astype("float32")

    context, times = arrays(train)
    flow = flows.neural_spline(
        1,
        layers=1,
        hidden_units=(16,),
        bins=4,
        dropout=0.2,
        context_size=context.shape[1],
        support="positive",
        seed=seed,
    )
    model = FlowModel(distributions.Censored(flow))
    model.adapt(context, times)
    model.compile(keras.optimizers.AdamW(3e-3, weight_decay=1e-2))
    stop = keras.callbacks.EarlyStopping(patience=20, restore_best_weights=True)
    model.fit(
        context,
        times,
        validation_split=0.2,
        batch_size=64,
        epochs=200,
        callbacks=[stop],
        verbose=0,
    )
    return -float(model.evaluate(*arrays(test), verbose=0))


def rows(names: list[str], seed: int) -> Iterator[list[str]]:
    """A row of the table for every set and model, with the standard error over folds."""
    for name in names:
        table, time, seen = load(name)
        fold = np.random.default_rng(seed).permutation(len(table)) % FOLDS
        parts = [(table[fold != i], table[fold == i]) for i in range(FOLDS)]
        scores = {
            fitter: [score_lifelines(fitter, *pair, time, seen) for pair in parts]
            for fitter in ("WeibullAFTFitter", "LogNormalAFTFitter", "LogLogisticAFTFitter")
        }
        scores["neural_spline"] = [score_flow(*pair, time, seen, seed) for pair in parts]
        for model, found in scores.items():
            error = np.std(found, ddof=1) / np.sqrt(FOLDS)
            censored = 1 - (table[seen] > 0).mean()
            yield [
                name,
                f"{len(table)}",
                f"{censored:.0%}",
                model,
                f"{np.mean(found):.3f} ± {error:.3f}",
            ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"default: {' '.join(SETS)}")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    keras.utils.set_random_seed(options.seed)
    header = ["set", "rows", "censored", "model", "held-out nats ± s.e. over folds"]
    print_table(header, rows(options.sets or list(SETS), options.seed))


if __name__ == "__main__":
    main()
