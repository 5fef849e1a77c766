"""Training one flow: batches with noise, the best epoch on disk, its history, a limit of time."""

from __future__ import annotations

import csv
import io
import math
import sys
import time
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
import typer

from tfp_flows import FlowModel
from tfp_flows.model.epochs import Epochs
from tfp_flows.ops.files import atomic_write
from tfp_flows.ops.internals import restart_averages, weights_and_averages
from tfp_flows_cli.recipe import Rows

__all__ = ["Progress", "progress", "train"]

_SECONDS_BETWEEN_FILES = 10.0
_VALIDATION_ROWS = 512  # At a time.
_STEPS_AT_A_TIME = 16  # Without a word to Python, which takes as long as a step.


def train(
    model: FlowModel,
    rows: Rows,
    validation: Rows,
    file: Path,
    history: Path,
    *,
    epochs: int,
    patience: int,
    batch_size: int | None,
    noise: float,
    categories: int,
    seed: int,
    seconds: float,
) -> None:
    """Train, from where `history` ends, and leave the best weights in `file` and in the model.

    The best epoch has the least validation loss, or training loss if `validation` is empty. To
    every batch is added Gaussian noise, of `noise` times the deviations of the columns and of
    their correlations: it keeps the flow from making a peak of every row, and does not blur columns
    that are bound to each other by a straight line.

    Args:
      categories: so many columns come first, of categories, that get no noise.
      seconds: training stops at the first end of an epoch that is later.

    Source: Jonas Rothfuss et al., "Noise Regularization for Conditional Density Estimation" (2019).
    """
    before = progress(history)
    monitor = "val_loss" if len(validation) else "loss"
    batch_size = batch_size or int(np.clip(2 ** round(math.log2(len(rows)) / 2 + 1), 32, 512))
    steps = max(len(rows) // batch_size, 1)
    model.compile(model.optimizer, steps_per_execution=min(steps, _STEPS_AT_A_TIME))
    brief = steps < 50  # Then one bar for all epochs, else a bar for each.
    clock, best = _Clock(seconds), _Best(file, monitor, before.best)
    callbacks = [
        _Averages(),  # Before all that look at the weights.
        keras.callbacks.ReduceLROnPlateau(monitor, factor=0.5, patience=max(patience // 3, 1)),
        keras.callbacks.EarlyStopping(monitor, patience=patience, baseline=before.best),
        best,
        _History(history),
        clock,
        *([_Bar(epochs)] if brief else []),
    ]
    keras.utils.set_random_seed(seed + before.epochs)
    if before.epochs:
        restart_averages(model.optimizer)
    try:
        model.fit(
            _batches(rows, batch_size, noise, categories, model.event_dtype),
            initial_epoch=before.epochs,
            epochs=epochs,
            validation_data=validation.inputs if len(validation) else None,
            validation_batch_size=_VALIDATION_ROWS,
            callbacks=callbacks,
            verbose=0 if brief else 1,
        )
    finally:  # Of a training that was interrupted, too.
        best.write()
    if not best.is_found:  # A resumed training found nothing better.
        model.load_weights(file)
    after = progress(history)
    why = f", {patience} of them without progress" if after.epochs < epochs else ""
    if clock.is_over:
        why = ": the time is over (--minutes), and there is more to gain (--resume)"
    typer.echo(f"Trained for {after.epochs} epochs{why}. Kept: epoch {after.best_epoch}.")


def _batches(rows: Rows, size: int, noise: float, categories: int, dtype: str) -> Epochs:
    """Batches for `FlowModel.fit`, with fresh noise in every epoch."""
    triangles = [noise * _triangle(part) for part in rows.inputs]
    triangles[-1][:categories] = 0

    def add_noise(parts: list[tf.Tensor], seed: tf.Tensor) -> list[tf.Tensor]:
        seeds = tf.random.split(seed, len(parts))
        return [
            part + tf.random.stateless_normal(part.shape, one, dtype=part.dtype) @ triangle.T
            for part, triangle, one in zip(parts, triangles, tf.unstack(seeds), strict=True)
        ]

    # Other rows are left over in each epoch: all batches have one size, and are compiled once.
    return Epochs(
        rows.inputs,
        size,
        shuffle=True,
        dtype=dtype,
        drop_remainder=True,
        change=add_noise if noise else None,
    )


def _triangle(x: np.ndarray) -> np.ndarray:
    """A root of the covariance of the columns, of which some may be constant."""
    scale = x.std(0)
    z = (x - x.mean(0)) / np.where(scale > 0, scale, 1)
    correlation = z.T @ z / len(z) + 1e-8 * np.eye(x.shape[1])
    return np.asarray(scale[:, None] * np.linalg.cholesky(correlation))


class Progress(NamedTuple):
    """How far a fit has come; epochs count from 1, and `best` is the least loss in nats."""

    epochs: int
    best: float | None
    best_epoch: int


def progress(history: Path) -> Progress:
    """What a history of epochs says."""
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


class _Averages(keras.callbacks.Callback):
    """Validates and keeps the averages of the weights, and trains the weights.

    As Keras' `SwapEMAWeights`, which takes longer than an epoch of a small table.
    """

    def __init__(self) -> None:
        super().__init__()
        self._are_in = False
        self._swap = tf.function(self._exchange)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._set(False)

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        self._set(True)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._set(True)

    def _set(self, averages: bool) -> None:
        if averages != self._are_in:
            self._swap()
            self._are_in = averages

    def _exchange(self) -> None:
        pairs = weights_and_averages(self.model.optimizer)
        before = [(tf.identity(weight), tf.identity(average)) for weight, average in pairs]
        for (weight, average), (old_weight, old_average) in zip(pairs, before, strict=True):
            weight.assign(old_average)
            average.assign(old_weight)


class _Clock(keras.callbacks.Callback):
    """Ends the training at the first end of an epoch after so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._end = time.monotonic() + seconds
        self.is_over = False

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if time.monotonic() > self._end and not self.model.stop_training:
            self.is_over = self.model.stop_training = True


class _Best(keras.callbacks.Callback):
    """Keeps the best epoch, and writes it to a file every few seconds, and when it is told to.

    Keras' `ModelCheckpoint` writes at every better epoch: of small tables that takes longer than
    the epoch.
    """

    def __init__(self, path: Path, monitor: str, best: float | None) -> None:
        super().__init__()
        self._path, self._monitor = path, monitor
        self._loss = math.inf if best is None else best
        self._values: list[np.ndarray] | None = None
        self._is_written = True
        self._next = time.monotonic() + _SECONDS_BETWEEN_FILES

    @property
    def is_found(self) -> bool:
        """Whether there was an epoch better than the best before."""
        return self._values is not None

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        loss = (logs or {}).get(self._monitor, math.inf)
        if not loss < self._loss:
            return
        self._loss = loss
        self._values = [variable.numpy() for variable in self._variables()]
        self._is_written = False
        if time.monotonic() > self._next:
            self.write()

    def write(self) -> None:
        """Give the model the values of the best epoch that was found, and save it."""
        if self._values is None or self._is_written:
            return
        for variable, value in zip(self._variables(), self._values, strict=True):
            variable.assign(value)
        self.model.save(self._path)
        self._is_written = True
        self._next = time.monotonic() + _SECONDS_BETWEEN_FILES

    def _variables(self) -> list[keras.Variable]:
        return [*self.model.variables, *self.model.optimizer.variables]


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
