"""Fitting, comparing and drawing a flow; imports TensorFlow, so import it where it is needed."""

from __future__ import annotations

import csv
import inspect
import io
import math
import sys
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
import typer

from tfp_flows import flows, plots
from tfp_flows.cli import baselines
from tfp_flows.cli.recipe import Recipe, Rows
from tfp_flows.cli.tables import InputError
from tfp_flows.model import FlowModel
from tfp_flows.ops.files import atomic_write

__all__ = [
    "Progress",
    "compare",
    "draw",
    "load",
    "log_prob",
    "new_model",
    "progress",
    "sample",
    "train",
]

_BLOCK = 10_000  # rows at a time: bounds the memory


def new_model(recipe: Recipe, rows: Rows, *, learning_rate: float | None) -> FlowModel:
    """A compiled model for the training rows, of a size and a dtype that suit them."""
    if recipe.flow not in flows.names():
        raise InputError(
            f"--flow must be one of {', '.join(flows.names())}. Received: {recipe.flow}."
        )
    n, small = len(rows), len(rows) < 1000
    # Small tables call for small networks, or the flow learns the rows by heart.
    width = int(np.clip(2 ** round(math.log2(n) / 2), 16, 128))
    known = inspect.signature(getattr(flows, recipe.flow)).parameters
    options = {
        "layers": recipe.layers,
        "hidden_units": recipe.hidden,
        "context_size": None if rows.c is None else rows.c.shape[1],
    }
    for name, flag in (
        ("layers", "layers"),
        ("hidden_units", "hidden"),
        ("context_size", "context"),
    ):
        if options[name] is not None and name not in known:
            raise InputError(f"--{flag}: the flow {recipe.flow} has no such option.")
    if "hidden_units" in known:
        usual = {
            "layers": 4 if small else 8,
            "hidden_units": [width] if small else [width, width],
            "bins": 4 if small else 8,
        }
        options = {**usual, **{k: v for k, v in options.items() if v is not None}}
    options = {**options, "dtype": _dtype(rows), "seed": recipe.seed}
    options = {k: v for k, v in options.items() if k in known and v is not None}
    model = FlowModel(flows.get(recipe.flow, rows.y.shape[1], **options))
    model.adapt(*rows.inputs)
    rate = learning_rate or (5e-3 if small else 1e-3)
    # Like a Gaussian prior on the weights, decay weighs less, the more rows there are. Averages of
    # the weights over the last 50 steps or so are what is validated and kept: they jitter less.
    optimizer = keras.optimizers.AdamW(
        rate, weight_decay=20 / n, clipnorm=10.0, use_ema=True, ema_momentum=0.98
    )
    model.compile(optimizer)
    return model


def _dtype(rows: Rows) -> str:
    """float64 if float32, with its 7 digits, would blur a column or overflow."""
    x = np.hstack(rows.inputs)
    scale, largest = x.std(0), np.abs(x).max(0)
    constant = np.ptp(x, axis=0) == 0  # Of the context.
    fine = (constant | ((scale > 1e-4 * largest) & (scale > 1e-30))) & (largest < 1e30)
    return "float32" if fine.all() else "float64"


def train(
    model: FlowModel,
    rows: Rows,
    validation: Rows,
    out: Path,
    *,
    epochs: int,
    patience: int,
    batch_size: int | None,
    noise: float | None,
    seed: int,
) -> None:
    """Train, from where `history.csv` in `out` ends, and leave the best weights in `flow.keras`.

    The best epoch has the least validation loss, or training loss if `validation` is empty. To
    every batch is added Gaussian noise, whose deviation is `noise` times that of the column: it
    keeps the flow from making a peak of every row, and fades out with more rows.

    Source: Jonas Rothfuss et al., "Noise Regularization for Conditional Density Estimation" (2019).
    """
    before = progress(out / "history.csv")
    monitor = "val_loss" if len(validation) else "loss"
    batch_size = batch_size or int(np.clip(2 ** round(math.log2(len(rows)) / 2 + 1), 32, 512))
    noise = 1.4 / math.sqrt(len(rows)) if noise is None else noise
    brief = len(rows) / batch_size < 50  # then one bar for all epochs, else a bar for each
    callbacks = [
        keras.callbacks.SwapEMAWeights(swap_on_epoch=True),  # before all that look at the weights
        keras.callbacks.ReduceLROnPlateau(monitor, factor=0.5, patience=max(patience // 3, 1)),
        keras.callbacks.EarlyStopping(monitor, patience=patience, baseline=before.best),
        keras.callbacks.ModelCheckpoint(
            str(out / "flow.keras"),
            monitor,
            save_best_only=True,
            initial_value_threshold=before.best,
        ),
        _History(out / "history.csv"),
        *([_Bar(epochs)] if brief else []),
    ]
    keras.utils.set_random_seed(seed + before.epochs)
    model.fit(
        _batches(rows, batch_size, noise, model.event_dtype),
        initial_epoch=before.epochs,
        epochs=epochs,
        validation_data=validation.inputs if len(validation) else None,
        callbacks=callbacks,
        verbose=0 if brief else 1,
    )
    model.load_weights(out / "flow.keras")  # The best epoch's, not the last's.
    after = progress(out / "history.csv")
    why = "" if after.epochs == epochs else f", {patience} of them without progress"
    typer.echo(f"Trained for {after.epochs} epochs{why}. Kept: epoch {after.best_epoch}.")


def _batches(rows: Rows, size: int, noise: float, dtype: str) -> tf.data.Dataset:
    """Batches for `FlowModel.fit`, shuffled and with fresh noise in every epoch."""
    parts = [tf.constant(part, dtype) for part in rows.inputs]
    deviations = [tf.constant(noise * part.std(0), dtype) for part in rows.inputs]

    def batch(index: tf.Tensor) -> tuple[tf.Tensor, ...] | tf.Tensor:
        noisy = tuple(
            tf.gather(part, index)
            + deviation * tf.random.normal([tf.size(index), part.shape[1]], dtype=dtype)
            for part, deviation in zip(parts, deviations, strict=True)
        )
        return noisy if len(noisy) > 1 else noisy[0]

    return tf.data.Dataset.range(len(rows)).shuffle(len(rows)).batch(size).map(batch).prefetch(2)


class Progress(NamedTuple):
    """How far a fit has come; epochs count from 1, and `best` is the least loss in nats."""

    epochs: int
    best: float | None
    best_epoch: int


def progress(history: Path) -> Progress:
    """What `history.csv` says."""
    with history.open(newline="") if history.exists() else io.StringIO() as file:
        logs = list(csv.DictReader(file))
    if not logs:
        return Progress(0, None, 0)
    # Where there is no validation, Keras writes NA for it.
    name = "val_loss" if logs[0].get("val_loss", "NA") != "NA" else "loss"
    losses = {int(log["epoch"]) + 1: float(log[name]) for log in logs}
    losses = {epoch: loss for epoch, loss in losses.items() if math.isfinite(loss)}
    best = min(losses, key=losses.__getitem__, default=0)
    return Progress(int(logs[-1]["epoch"]) + 1, losses.get(best), best)


class _History(keras.callbacks.Callback):
    """Keras' `CSVLogger`, appending, by which no epoch is written in part: also of a full disk."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._text = path.read_text(encoding="utf-8") if path.exists() else ""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        log = {"epoch": epoch, **dict(sorted((logs or {}).items()))}
        names = next(csv.reader([self._text.partition("\n")[0]]), []) or list(log)
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        if not self._text:
            writer.writerow(names)
        writer.writerow([log.get(name, "NA") for name in names])
        self._text += lines.getvalue()
        with atomic_write(self._path) as part:
            part.write_text(self._text, encoding="utf-8")


class _Bar(keras.callbacks.Callback):
    """Keras' progress bar, one for all epochs; on no terminal, a line every few seconds."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self._bar = keras.utils.Progbar(
            epochs,
            unit_name="epoch",
            stateful_metrics=["loss", "val_loss"],
            interval=0.1 if sys.stdout.isatty() else 5.0,
        )
        self._done = 0

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._done = epoch + 1
        logs = {k: v for k, v in (logs or {}).items() if k in ("loss", "val_loss")}
        self._bar.update(self._done, list(logs.items()), finalize=False)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self._bar.update(self._done, finalize=True)


def compare(model: FlowModel, name: str, rows: Rows, test: Rows) -> None:
    """Print log-likelihoods of the test rows: the flow's, and of baselines fitted to `rows`."""
    flow = log_prob(model, test)
    if rows.c is None:
        others = {
            "Gaussian, full covariance": baselines.gaussian(rows.y, test.y),
            "kernel density estimate": baselines.kernel_density(rows.y, test.y),
        }
    else:
        others = {
            "linear regression, Gaussian": baselines.gaussian(
                rows.y, test.y, train_context=rows.c, test_context=test.c
            )
        }
    typer.echo(
        f"\nLog-likelihood of the {len(test)} held-out rows in nats per row, ± standard error:"
    )
    typer.echo(f"  {name:<28}{_mean(flow)}")
    for other, values in others.items():
        typer.echo(f"  {other:<28}{_mean(values)}   the flow is ahead by {_mean(flow - values)}")


def _mean(values: np.ndarray) -> str:
    mean = f"{values.mean():8.3f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {values.std(ddof=1) / math.sqrt(len(values)):.3f}"


def load(path: Path) -> tuple[FlowModel, Recipe]:
    """A model from a file, or from a folder that `fit` made, with its recipe.

    Of a model that was saved by other means, the recipe holds made-up names and no data.
    """
    file = path / "flow.keras" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"There is no model {file}.")
    try:
        model = FlowModel.load(file)
    except ValueError as error:
        raise InputError(str(error)) from error
    shape, context_size = model.distribution.event_shape, model.context_size or 0
    if shape.rank != 1:
        raise InputError(f"{file} is not a model of rows: its events have shape {tuple(shape)}.")
    beside = file.with_suffix(".json")
    if not beside.exists():
        names = [f"x{i}" for i in range(shape[0])], [f"c{i}" for i in range(context_size)]
        return model, Recipe("", *names)
    recipe = Recipe.load(beside)
    if (len(recipe.columns), len(recipe.context)) != (shape[0], context_size):
        raise InputError(f"{beside} does not belong to {file}: the numbers of columns differ.")
    return model, recipe


def log_prob(model: FlowModel, rows: Rows) -> np.ndarray:
    """The log-density of each row."""
    blocks = [rows[i : i + _BLOCK] for i in range(0, len(rows), _BLOCK)]
    return np.concatenate([model.log_prob(block.y, block.c).numpy() for block in blocks])


def sample(model: FlowModel, n: int, c: np.ndarray | None, seed: int) -> np.ndarray:
    """Draw n rows (n, D) or, in the order of the context, n for each of its rows."""
    c = None if c is None else np.repeat(c, n, axis=0)
    rows = n if c is None else len(c)
    parts = []
    for i in range(0, rows, _BLOCK):
        if c is None:
            drawn = model.sample(min(_BLOCK, rows - i), seed=(seed, i))
        else:
            drawn = model.sample(context=c[i : i + _BLOCK], seed=(seed, i))
        parts.append(drawn.numpy())
    return np.concatenate(parts)


def draw(
    model: FlowModel, recipe: Recipe, rows: Rows | None, out: Path, *, history: Path | None
) -> list[str]:
    """Write the pictures that make sense into `out`, and print what is special about them.

    Args:
      rows: data to draw beside the flow, and its context; not None for a conditional flow.
      history: `history.csv` of the fit.

    Returns:
      The names of the files, each of which is written whole.
    """
    columns, context = recipe.columns, recipe.context
    y, c = (None, None) if rows is None else (rows.y, rows.c)
    middle = None if c is None else np.median(c, axis=0)
    pictures = {}
    if len(columns) <= 2:
        # Data that have many contexts tell nothing about the density given one of them.
        data = y if c is None else None
        pictures["density"] = plots.density(model, data=data, context=middle, columns=columns)
    else:
        typer.echo("density.png is left out: it can show one or two columns.")
    if hasattr(model.distribution, "bijector"):
        pictures["stages"] = plots.stages(model, context=middle)
    if middle is not None:
        given = ", ".join(f"{k} = {v:.4g}" for k, v in zip(context, middle, strict=True))
        for picture in pictures.values():
            picture.suptitle(f"given {given}", fontsize=9)
        typer.echo(f"{' and '.join(pictures)}: given the medians of the context, {given}.")
    pictures["samples"] = plots.samples(model, y, context=c, columns=columns)
    pictures["marginals"] = plots.marginals(model, y, context=c, columns=columns)
    if history is not None and progress(history).epochs:
        pictures["history"] = plots.history(history)
    for name, picture in pictures.items():
        with atomic_write(out / f"{name}.png") as part:
            picture.savefig(part, dpi=150)
    return [f"{name}.png" for name in pictures]
