"""Neural posterior estimation: how far a conditional flow is from reference posteriors.

Run it from the root of the repository: `python benchmarks/sbibm.py [--tasks two_moons]`, or, by
flow matching, `--tasks two_moons --matching`. The tasks, the observations, the reference draws and
the measure are those of Jan-Matthis Lueckmann et al., "Benchmarking Simulation-Based Inference"
(2021). A few flows a task are trained on the same 10,000 pairs of parameters and simulated data,
and stacked; they then answer all ten observations. C2ST is the accuracy of a classifier that tells
the flows' draws from the reference draws: 0.5 if it cannot, 1 if it always can. More draws make a
better classifier, so that figures compare for the same number only.

The published figures are means of the column C2ST_Z (C2ST_1K_Z for 1,000 draws) over the ten
observations, for NPE with 10,000 simulations, in benchmarking_sbi_023/results/re-sbibm_sbi_023.csv
of github.com/sbi-benchmark/results, commit 8693d6d: the benchmark's authors ran NPE of sbi 0.23
(2024) again.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from common import DATA, parameter_count, print_table
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPClassifier

from tfp_flows import FlowModel, flows
from tfp_flows.model import stack


def two_moons(theta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Points of a crescent, moved by the parameters: `(n, 2)` to `(n, 2)`."""
    angle = rng.uniform(-np.pi / 2, np.pi / 2, len(theta))
    radius = rng.normal(0.1, 0.01, len(theta))
    crescent = np.stack([radius * np.cos(angle) + 0.25, radius * np.sin(angle)], 1)
    total, difference = theta[:, 0] + theta[:, 1], theta[:, 1] - theta[:, 0]
    return crescent + np.stack([-np.abs(total), difference], 1) / math.sqrt(2)


def slcp(theta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Four draws of a normal distribution in the plane, `(n, 5)` to `(n, 8)`.

    Simple likelihood, complex posterior: the parameters are both means, the square roots of both
    standard deviations with a sign that does not matter, and the inverse tanh of the correlation.
    """
    mean, (s1, s2), rho = theta[:, :2], theta[:, 2:4].T ** 2, np.tanh(theta[:, 4])
    e1, e2 = rng.normal(size=(2, 4, len(theta)))
    x = np.stack([s1 * e1, s2 * (rho * e1 + np.sqrt(1 - rho**2) * e2)], -1)  # (4, n, 2)
    return (x + mean).transpose(1, 0, 2).reshape(len(theta), 8)


@dataclasses.dataclass(frozen=True)
class Task:
    """Parameters, `size` of them, are uniform in `(-bound, bound)`.

    `context_shape` is that of the data as the flow sees them; `(n, d)` stands for n draws whose
    order means nothing. `published` has the C2ST of others' NPE for a number of draws.
    """

    file: str
    simulate: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    size: int
    bound: float
    context_shape: tuple[int, ...]
    published: dict[int, float]
    epochs: int
    batch_size: int
    learning_rate: float
    dropout: float


_SLCP = Task("slcp", slcp, 5, 3.0, (8,), {1000: 0.858, 10_000: 0.899}, 60, 256, 1e-3, 0.2)
TASKS = {
    "two_moons": Task(
        "two_moons", two_moons, 2, 1.0, (2,), {1000: 0.579, 10_000: 0.611}, 80, 128, 2e-3, 0.0
    ),
    "slcp": _SLCP,
    "slcp_set": dataclasses.replace(_SLCP, context_shape=(4, 2), epochs=100),
}


def posterior(task: Task, *, leaky: bool, seed: int) -> FlowModel:
    """An untrained conditional flow; draws without order are averaged in an embedding."""
    width, embedding = 64, None
    if len(task.context_shape) == 2:
        layers = keras.layers
        embedding = keras.Sequential(
            [
                keras.Input(task.context_shape),
                layers.Rescaling(0.2),  # embeddings see data as they are
                layers.Dense(width, "silu"),
                layers.Dense(width, "silu"),
                layers.Dense(width),
                layers.GlobalAveragePooling1D(),
                layers.Dense(width, "silu"),
            ]
        )
    return FlowModel(
        flows.neural_spline(
            task.size,
            layers=6 if task.size == 2 else 5,
            hidden_units=(64, 64),
            activation="silu",
            dropout=task.dropout,
            context_size=task.context_shape[0] if embedding is None else None,
            embedding=embedding,
            context_shape=None if embedding is None else task.context_shape,
            support=None if leaky else (-task.bound, task.bound),
            seed=seed,
        )
    )


def fit_likelihood(task: Task, *data: np.ndarray, leaky: bool, seed: int) -> FlowModel:
    """Maximum likelihood of `x, theta`; rows that are held out pick the best epoch."""
    x, theta, held_x, held_theta = data
    steps = task.epochs * math.ceil(len(x) / task.batch_size)
    model = posterior(task, leaky=leaky, seed=seed)
    schedule = keras.optimizers.schedules.CosineDecay(task.learning_rate, steps)
    model.adapt(x, theta)
    model.compile(keras.optimizers.Adam(schedule), jit_compile=True)
    model.fit(
        x,
        theta,
        batch_size=task.batch_size,
        epochs=task.epochs,
        validation_data=(held_x, held_theta),
        validation_batch_size=len(held_x),
        callbacks=keras.callbacks.EarlyStopping(
            patience=task.epochs // 4, restore_best_weights=True
        ),
        verbose=0,
    )
    return model


def fit_matching(task: Task, *data: np.ndarray, seed: int) -> FlowModel:
    """Flow matching of `x, theta` for 20,000 steps, averaged weights; it is not told the box."""
    x, theta, *_ = data
    (size,), batch, steps = task.context_shape, 512, 20_000
    widths = (128, 128, 128)
    model = FlowModel(
        flows.ffjord(task.size, hidden_units=widths, steps=64, context_size=size, seed=seed)
    )
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    model.adapt(x, theta)
    optimizer = keras.optimizers.Adam(schedule, use_ema=True, ema_momentum=0.999)
    model.compile(optimizer, loss="flow_matching", jit_compile=True)
    epochs = steps // math.ceil(len(x) / batch)
    model.fit(x, theta, batch_size=batch, epochs=epochs, verbose=0)
    return model


def train(
    task: Task, *, simulations: int, members: int, leaky: bool, matching: bool, seed: int
) -> tuple[FlowModel, float]:
    """Simulate, and train posteriors on nine tenths; the last tenth weighs them.

    Returns the stack of all and the seconds of training, compilation included.
    """
    rng = np.random.default_rng(seed)
    theta = rng.uniform(-task.bound, task.bound, (simulations, task.size))
    x = task.simulate(theta, rng).reshape(-1, *task.context_shape).astype("float32")
    theta = theta.astype("float32")
    held_out = simulations // 10
    data = x[held_out:], theta[held_out:], x[:held_out], theta[:held_out]
    models = []
    start = time.perf_counter()
    for one in range(seed, seed + members):
        keras.utils.set_random_seed(one)
        if matching:
            models.append(fit_matching(task, *data, seed=one))
        else:
            models.append(fit_likelihood(task, *data, leaky=leaky, seed=one))
    return stack(models, theta[:held_out], x[:held_out]), time.perf_counter() - start


def c2st(x: np.ndarray, y: np.ndarray, seed: int) -> float:
    """Accuracy, by 5-fold cross-validation, of a network that tells rows of `x` from those of `y`.

    Both are standardized by mean and deviation of `x`, as the benchmark does it.
    """
    rows = np.concatenate([x, y])
    rows = (rows - x.mean(0)) / x.std(0)
    labels = np.repeat([0, 1], [len(x), len(y)])
    width = 10 * x.shape[1]
    network = MLPClassifier((width, width), max_iter=1000, random_state=seed)
    folds = KFold(5, shuffle=True, random_state=seed)
    return float(cross_val_score(network, rows, labels, cv=folds).mean())


def measure(name: str, options: argparse.Namespace) -> list[list[str]]:
    """Train a task's posterior and compare it at every observation; returns rows of the table."""
    task = TASKS[name]
    with np.load(options.data / "sbibm" / f"{task.file}.npz") as file:
        observations, references = file["observation"], file["reference_samples"]
    model, seconds = train(
        task,
        simulations=options.simulations,
        members=options.members,
        leaky=options.leaky,
        matching=options.matching,
        seed=options.seed,
    )
    contexts = observations.reshape(-1, *task.context_shape)
    draws, outside = [], []
    for seed, context in enumerate(contexts):
        theta = model.sample(13_000, context=context, seed=seed).numpy()
        inside = np.all(np.abs(theta) <= task.bound, 1)
        # The prior has nothing there, nor has the posterior.
        draws.append(theta[inside][:10_000])
        outside.append(1 - inside.mean())
    rows = []
    for count in options.draws:
        scores = [
            c2st(reference[:count], theta[:count], seed=options.seed)
            for reference, theta in zip(references, draws, strict=True)
        ]
        print(f"{name}, {count:,} draws:", *(f"{score:.3f}" for score in scores), flush=True)
        error = np.std(scores, ddof=1) / math.sqrt(len(scores))
        published = task.published.get(count)
        rows.append(
            [
                name,
                f"{count:,}",
                f"{np.mean(scores):.3f} ± {error:.3f}",
                "-" if published is None else f"{published:.3f}",
                f"{np.mean(outside):.2%}",
                f"{seconds:.0f}",
                f"{parameter_count(model):,}",
            ]
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--simulations", type=int, default=10_000)
    parser.add_argument("--members", type=int, default=5, help="flows that are stacked")
    parser.add_argument(
        "--draws", type=int, nargs="+", default=[1000, 10_000], help="of each kind, to classify"
    )
    parser.add_argument("--matching", action="store_true", help="continuous flows; of vectors only")
    parser.add_argument("--leaky", action="store_true", help="don't tell the flow the prior's box")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    header = ["task", "draws", "C2ST ± s.e.", "published NPE", "outside the prior"]
    header += ["seconds of training", "parameters"]
    print_table(header, [row for name in options.tasks for row in measure(name, options)])


if __name__ == "__main__":
    main()
