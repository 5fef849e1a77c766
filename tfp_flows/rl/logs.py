"""What training tells: rows of numbers, for CSV files, TensorBoard and the screen."""

from __future__ import annotations

import csv
import os
from typing import Any

import keras
import tensorflow as tf

from tfp_flows.ops.files import atomic_write

__all__ = ["Logs", "Means"]

Row = dict[str, float]


class Means:
    """Running means of metrics, by name, since the last row."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def add(self, metrics: dict[str, Any]) -> None:
        """Count one value of each metric."""
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
            self.counts[name] = self.counts.get(name, 0) + 1

    def take(self) -> Row:
        """The means, from which the next ones begin anew."""
        means = {name: total / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


class Logs:
    """Rows of a training run, written wherever they are wanted.

    Args:
      history: rows so far, to which others are added.
      csv_file: path of a CSV file, or None. It holds all rows at any time, those of before too.
      tensorboard: folder of TensorBoard's event files, or None.
      start: steps that are done.
      end: steps at the end.
      verbose: 1 for a progress bar, 0 for none.
    """

    def __init__(
        self,
        history: list[Row],
        *,
        csv_file: str | os.PathLike[str] | None,
        tensorboard: str | os.PathLike[str] | None,
        start: int,
        end: int,
        verbose: int,
    ):
        self._history = history
        self._csv_file = csv_file
        self._start = start
        self._writer = tf.summary.create_file_writer(str(tensorboard)) if tensorboard else None
        # Of a run: what comes in the rows are means already.
        self._bar = (
            keras.utils.Progbar(end - start, verbose=1, unit_name="step") if verbose else None
        )
        self._shown: list[tuple[str, float]] = []

    def step(self, steps: int) -> None:
        """Say how many steps are done."""
        if self._bar is not None:
            self._bar.update(steps - self._start, self._shown)

    def row(self, row: Row) -> None:
        """Add a row, which has its number of steps in `steps`."""
        self._history.append(row)
        if self._csv_file is not None:
            self._write_csv(self._csv_file)
        if self._writer is not None:
            with self._writer.as_default():
                for name, value in row.items():
                    tf.summary.scalar(name, value, step=int(row["steps"]))
            self._writer.flush()
        if self._bar is not None:
            self._shown = [("return", row["return"])]
            self._bar.stateful_metrics = {"return"}

    def _write_csv(self, path: str | os.PathLike[str]) -> None:
        names = list(dict.fromkeys(name for row in self._history for name in row))
        with atomic_write(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names, restval="nan")
            writer.writeheader()
            writer.writerows(self._history)

    def close(self) -> None:
        """Finish the files."""
        if self._writer is not None:
            self._writer.close()
