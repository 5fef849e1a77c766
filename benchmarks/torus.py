"""Seven angles of RNA: test log-likelihood of a circular flow beside models of other kinds.

The columns of the data are called α, β, γ, δ, ε, ζ and χ where they come from. The fifth and the
sixth are not what chemistry means by ε and ζ: with ideal bond lengths and angles they follow from
β, γ and δ to about a degree (median), as torsions to the phosphorus of the same nucleotide do. The
distribution is close to five-dimensional, which is why its log-likelihoods are so high.

Run it from the root of the repository: `python benchmarks/torus.py`. It needs SciPy.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
from common import DATA, log_prob, parameter_count, print_table
from scipy.special import i0e, i1e

from tfp_flows import Flow, FlowModel, distributions, flows

COMPONENTS = (20, 40, 80, 160, 320)  # in the first split, validation rows get less from 640
FOLDS = 10


@dataclasses.dataclass
class Score:
    """What one model reached in one split: log-densities in nats, one a row."""

    validation: np.ndarray
    test: np.ndarray
    parameters: int = 0
    seconds: float = 0.0


def wrap(angle: np.ndarray) -> np.ndarray:
    """The same angle in [-π, π), in float32 too."""
    wrapped = ((angle + np.pi) % (2 * np.pi) - np.pi).astype("float32")
    return np.where(np.abs(wrapped) < np.float32(np.pi), wrapped, np.float32(-3.1415925))


class VonMisesMixture:
    """A mixture of products of von Mises densities, fitted by EM.

    log p(x) = log Σ_k w_k Π_d exp(κ_kd cos(x_d - μ_kd)) / (2π I₀(κ_kd))

    Args:
      components: how many products.
      restarts: EM runs from as many draws of initial means; the best on the training rows stays.
      seed: of the initial means.
    """

    def __init__(self, components: int, *, restarts: int = 2, seed: int = 0):
        self.components = components
        self.restarts = restarts
        self.seed = seed

    def fit(self, x: np.ndarray) -> VonMisesMixture:
        rng = np.random.default_rng(self.seed)
        runs = [self._expectation_maximization(x, rng) for _ in range(self.restarts)]
        self.natural, self.offset = max(runs, key=lambda run: run[0])[1:]
        return self

    @property
    def parameter_count(self) -> int:
        return self.natural.size + len(self.offset) - 1

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        return np.logaddexp.reduce(_waves(x) @ self.natural + self.offset, axis=1)

    def _expectation_maximization(
        self, x: np.ndarray, rng: np.random.Generator, *, steps: int = 300, tolerance: float = 1e-4
    ) -> tuple[float, np.ndarray, np.ndarray]:
        waves = _waves(x)
        shares = _nearest(waves, _spread_rows(waves, self.components, rng))
        previous = -np.inf
        for _ in range(steps):
            natural, offset = _maximize(waves, shares)
            shares = waves @ natural + offset
            top = shares.max(1, keepdims=True)
            np.exp(shares - top, out=shares)
            total = shares.sum(1, keepdims=True)
            shares /= total
            mean = (top + np.log(total)).mean()
            if mean < previous + tolerance:
                break
            previous = mean
        return mean, natural, offset


def _waves(x: np.ndarray) -> np.ndarray:
    return np.concatenate([np.cos(x), np.sin(x)], 1).astype("float64")


def _spread_rows(waves: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rows far from each other, as k-means++ draws them."""
    rows = waves[rng.integers(len(waves), size=1)]
    distance = np.full(len(waves), np.inf)
    while len(rows) < count:
        distance = np.minimum(distance, ((waves - rows[-1]) ** 2).sum(1))
        rows = np.vstack([rows, waves[rng.choice(len(waves), p=distance / distance.sum())]])
    return rows


def _nearest(waves: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.eye(len(rows))[(waves @ rows.T).argmax(1)]


def _maximize(waves: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """κ cos μ over κ sin μ, and the log of weight over normalizer, of every component."""
    # A fiftieth of a row without direction keeps components of a few equal rows finite.
    counts = shares.sum(0) + 1e-10
    mean = waves.T @ shares / (counts + 0.02)
    cosines, sines = np.split(mean, 2)
    length = np.hypot(cosines, sines)
    kappa = length * (2 - length**2) / (1 - length**2)
    for _ in range(5):  # Newton: I₁(κ) / I₀(κ) = length
        ratio = i1e(kappa) / i0e(kappa)
        slope = 1 - ratio**2 - ratio / np.maximum(kappa, 1e-6)
        kappa = np.clip(kappa - (ratio - length) / np.maximum(slope, 1e-12), 1e-6, 1e5)
    log_normalizer = (np.log(2 * np.pi * i0e(kappa)) + kappa).sum(0)
    natural = mean * np.tile(kappa / np.maximum(length, 1e-12), (2, 1))
    return natural, np.log(counts / counts.sum()) - log_normalizer


def make_flows(options: argparse.Namespace, seed: int) -> dict[str, Callable[[], Flow]]:
    """The circular flow, and the same couplings where angles end at ±π."""
    shared = {
        "layers": options.layers,
        "hidden_units": options.hidden_units,
        "bins": options.bins,
        "dropout": options.dropout,
        "activation": "silu",
        "seed": seed,
    }
    end = float(np.float32(np.pi))
    return {
        "circular": lambda: flows.circular_spline(7, harmonics=options.harmonics, **shared),
        "interval": lambda: flows.neural_spline(
            7, base=distributions.bases.box(7, -end, end), bound=end, **shared
        ),
        "logistic": lambda: flows.neural_spline(7, support="angle", **shared),
    }


def train_flow(
    name: str,
    make: Callable[[], Flow],
    parts: Sequence[np.ndarray],
    options: argparse.Namespace,
    seed: int,
) -> Score:
    """Adam with a cosine; the weights that are best on the validation rows."""
    train, validation, test = parts
    keras.utils.set_random_seed(seed)
    start = time.perf_counter()
    model = FlowModel(make())
    if name == "logistic":
        model.adapt(train)  # the others take angles as they are
    steps = options.epochs * -(-len(train) // options.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(options.learning_rate, steps)
    model.compile(keras.optimizers.Adam(schedule, clipnorm=5.0))
    model.fit(
        train,
        batch_size=options.batch_size,
        epochs=options.epochs,
        validation_data=validation,
        validation_batch_size=len(validation),
        callbacks=keras.callbacks.EarlyStopping(
            patience=options.epochs // 3, restore_best_weights=True
        ),
        verbose=0,
    )
    seconds = time.perf_counter() - start
    scores = [log_prob(model, [x]) for x in (validation, test)]
    return Score(*scores, parameter_count(model), seconds)


def best_mixture(parts: Sequence[np.ndarray], seed: int) -> tuple[int, Score]:
    """The number of components that is best on the validation rows, and its score."""
    train, validation, test = parts
    found = {}
    start = time.perf_counter()
    for components in COMPONENTS:
        mixture = VonMisesMixture(components, seed=seed).fit(train)
        scores = [mixture.log_prob(x) for x in (validation, test)]
        found[components] = Score(*scores, mixture.parameter_count)
    best = max(found, key=lambda components: found[components].validation.mean())
    found[best].seconds = time.perf_counter() - start  # of all that were tried
    return best, found[best]


def row(name: str, scores: Sequence[Score], circular: Sequence[Score]) -> list[str]:
    """A row of the table, from a model's scores and those of the circular flow, split by split."""
    gaps = [other.test - own.test for own, other in zip(scores, circular, strict=True)]
    same = scores is circular
    return [
        name,
        f"{np.mean([score.validation.mean() for score in scores]):.3f}",
        *_with_errors([score.test for score in scores]),
        *(["", ""] if same else _with_errors(gaps)),
        f"{np.mean([score.parameters for score in scores]):,.0f}",
        f"{np.mean([score.seconds for score in scores]):.0f}",
    ]


def _with_errors(splits: Sequence[np.ndarray]) -> list[str]:
    """The mean with 2 standard errors over all rows, which are distinct, and those over splits."""
    rows, means = np.concatenate(splits), np.array([values.mean() for values in splits])
    over_rows = 2 * rows.std() / np.sqrt(len(rows))
    over_splits = 2 * means.std(ddof=1) / np.sqrt(len(means)) if len(means) > 1 else np.nan
    return [f"{rows.mean():.3f} ± {over_rows:.3f}", f"{over_splits:.3f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--splits", type=int, default=5, help=f"at most {FOLDS}")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden-units", type=int, nargs="+", default=[64, 64])
    parser.add_argument("--bins", type=int, default=8)
    parser.add_argument("--harmonics", type=int, default=3)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    options = parser.parse_args()

    with np.load(options.data / "torus" / "rna_7angles.npz") as table:
        x = wrap(np.deg2rad(table["angles_deg"].astype("float64")))
    # Folds: no row is a test row of two splits.
    folds = np.array_split(np.random.default_rng(0).permutation(len(x)), FOLDS)
    scores: dict[str, list[Score]] = {}
    chosen = []
    for split in range(options.splits):
        turned = folds[split:] + folds[:split]
        parts = x[np.concatenate(turned[2:])], x[turned[1]], x[turned[0]]
        for name, make in make_flows(options, split).items():
            score = train_flow(name, make, parts, options, split)
            scores.setdefault(name, []).append(score)
        components, score = best_mixture(parts, split)
        chosen.append(components)
        scores.setdefault("mixture", []).append(score)
        uniform = Score(*(np.full(len(part), -7 * np.log(2 * np.pi)) for part in parts[1:]))
        scores.setdefault("uniform", []).append(uniform)
        means = {name: f"{kept[-1].test.mean():.3f}" for name, kept in scores.items()}
        print(f"split {split}, test: {means}", flush=True)

    names = {
        "circular": "circular spline flow",
        "interval": "same, splines of [-π, π]",
        "logistic": 'same, `support="angle"`',
        "mixture": "von Mises mixture",
        "uniform": "uniform",
    }
    header = ["model", "validation", "test ± 2 s.e., nats", "2 s.e. over splits"]
    header += ["circular ahead by ± 2 s.e.", "2 s.e. over splits", "parameters", "seconds"]
    print_table(header, (row(names[key], scores[key], scores["circular"]) for key in scores))
    print(f"\nComponents of the mixture, best of {COMPONENTS} by validation rows: {chosen}.")


if __name__ == "__main__":
    main()
