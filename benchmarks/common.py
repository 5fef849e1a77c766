"""What the likelihood benchmarks share: a spline flow with dropout, training, and tables."""

from __future__ import annotations

import csv
import itertools
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
import tensorflow_probability as tfp

from tfp_flows import Flow, FlowModel, bijectors, networks

tfd, tfb = tfp.distributions, tfp.bijectors

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def spline_flow(
    event_size: int,
    *,
    layers: int,
    bins: int,
    hidden_units: Sequence[int],
    dropout: float,
    context_size: int | None = None,
    seed: int,
) -> Flow:
    """The couplings of `flows.neural_spline`, with SiLU and dropout in their conditioners.

    Both hold back overfitting, which decides on tables of some thousand rows; the columns are
    split at random for every pair of layers.
    """
    rng = np.random.default_rng(seed)
    spline = bijectors.transformers.RationalQuadraticSpline(bins=bins)
    couplings, mask = [], None
    for i in range(layers):
        if i % 2 == 0:
            mask = rng.permutation(event_size) < event_size // 2
        layer_seed = int(rng.integers(2**31 - 1))
        couplings.append(
            bijectors.Coupling(
                event_size,
                spline,
                networks.MLP(hidden_units, activation="silu", dropout=dropout, seed=layer_seed),
                mask=mask,
                flip=event_size > 1 and i % 2 == 1,  # One column is transformed by every layer.
                context_size=context_size,
                seed=layer_seed,
            )
        )
    zeros = np.zeros(event_size, "float32")
    return Flow(tfd.MultivariateNormalDiag(zeros, zeros + 1), tfb.Chain(couplings))


def fit(
    model: FlowModel,
    train: Sequence[np.ndarray],
    validation: Sequence[np.ndarray],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    jit_compile: bool = False,
) -> float:
    """Standardize and train on `train`, keep the weights that are best on `validation`.

    Both are `(x,)` or `(context, x)`. The learning rate falls to 0 along a cosine. Returns seconds,
    tracing and compilation included.
    """
    start = time.perf_counter()
    steps = epochs * -(-len(train[0]) // batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.adapt(*train)
    model.compile(keras.optimizers.Adam(schedule), jit_compile=jit_compile)
    model.fit(
        *train,
        batch_size=batch_size,
        epochs=epochs,
        validation_data=validation if len(validation) > 1 else validation[0],
        validation_batch_size=len(validation[0]),
        callbacks=keras.callbacks.EarlyStopping(patience=epochs // 4, restore_best_weights=True),
        verbose=0,
    )
    return time.perf_counter() - start


class Schedule(keras.callbacks.Callback):
    """A learning rate that rises, then falls to 0 along a cosine in the time that is given."""

    def __init__(
        self,
        minutes: float,
        learning_rate: float,
        warmup: int = 100,
        clock: Callable[[], float] = time.perf_counter,
    ):
        super().__init__()
        self.clock = clock
        self.start, self.seconds = clock(), 60 * minutes
        self.learning_rate, self.warmup, self.steps = learning_rate, warmup, 0

    def elapsed(self) -> float:
        return self.clock() - self.start

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        share = min(self.elapsed() / self.seconds, 1.0)
        rise = min(1.0, (self.steps + 1) / self.warmup)
        self.model.optimizer.learning_rate = (
            self.learning_rate * rise * 0.5 * (1 + np.cos(np.pi * share))
        )

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.steps += 1
        if self.elapsed() > self.seconds:
            self.model.stop_training = True


def log_prob(model: FlowModel, data: Sequence[np.ndarray]) -> np.ndarray:
    """Log-densities in nats of all rows of `(x,)` or `(context, x)`, in float64."""
    inputs = tuple(data) if len(data) > 1 else data[0]
    return model.predict(inputs, batch_size=10_000, verbose=0).astype("float64")


def parameter_count(model: FlowModel) -> int:
    """Number of trained parameters."""
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print Markdown, with the versions of what it was measured with below."""
    for cells in itertools.chain((header, ["---"] * len(header)), rows):
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    packages = ("tensorflow", "tensorflow-probability", "keras", "numpy")
    print(
        f"\nPython {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in packages)
    )


def write_csv(path: Path, results: Sequence[Mapping[str, object]]) -> None:
    """All results so far, a line each, so that a run that is cut leaves what it has measured."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(results[0]))
        writer.writeheader()
        writer.writerows(results)
