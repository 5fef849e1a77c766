"""What a fit is made of: the table's columns, the split of its rows, the shape of the flows."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfp_flows_cli import tables, values
from tfp_flows_cli.errors import InputError
from tfp_flows_cli.text import Format

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Recipe", "Rows"]

_ON_THE_CIRCLE = ("circular_spline",)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Events `y`, (n, D), their context `c`, (n, C), or None, and where they stand in the table."""

    y: np.ndarray
    c: np.ndarray | None
    numbers: np.ndarray  # From 1.

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: Any) -> Rows:
        return Rows(self.y[index], None if self.c is None else self.c[index], self.numbers[index])

    @property
    def inputs(self) -> tuple[np.ndarray, ...]:
        """What `FlowModel.fit` takes: `y`, or `c, y`."""
        return (self.y,) if self.c is None else (self.c, self.y)

    def in_table(self, message: str) -> str:
        """A message about these rows, which the library counts from 0, for who sees the table."""

        def translated(found: re.Match[str]) -> str:
            place = int(found[2])
            known = place < len(self)  # A column may have any name.
            return f"{found[1]} row {self.numbers[place]}" if known else found[0]

        return re.sub(r"\b(in|at) row (\d+)", translated, message)

    def digest(self) -> str:
        """A short hash of the values, in their order."""
        return hashlib.sha256(b"".join(part.tobytes() for part in self.inputs)).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a model was fitted to, and how: `flow.json` beside `flow.keras`.

    Args:
      data: path of the table, or its name; "" of a model that was made by other means.
      columns: names of the columns that are modelled.
      context: names of those that condition them.
      flow: family of the flows.
      options: what the user chose of `layers`, `hidden_units`, `linear`, `dropout`, `dtype`,
        `base`, `support` and `steps`; the rest is left to the number of rows.
      members: number of flows with other seeds.
      plain: one flow alone, no stack.
      degrees: angles in degrees, for flows on the circle.
      drop_missing: whether rows without a number in a column are left out.
      noise: of training rows; None for what validation rows say.
      validation: share of the rows that says when to stop.
      test: share of the rows for the report.
      seed: of the split and the training.
      digest: hash of the rows.
      format: separator, decimal mark and encoding of the table.
      labels: the categories of the columns that hold no numbers; these come first.
      best: which of the flows is best on validation rows, from 1.
      scores: log-densities of the training rows, in order, at most 1,001 of them.
    """

    data: str
    columns: list[str]
    context: list[str]
    flow: str = "neural_spline"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    members: int = 2
    plain: bool = False
    degrees: bool = False
    drop_missing: bool = False
    noise: float | None = None
    validation: float = 0.15
    test: float = 0.15
    seed: int = 0
    digest: str = ""
    format: dict[str, Any] = dataclasses.field(default_factory=dict)
    labels: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    best: int = 1
    scores: list[float] = dataclasses.field(default_factory=list)

    @classmethod
    def new(
        cls,
        frame: pd.DataFrame,
        data: str,
        asked: Mapping[str, Any],
        exclude: Sequence[str] = (),
    ) -> Recipe:
        """The recipe for a table with what the user asked for; checks the names of columns."""
        context = asked.get("context", [])
        values.check_names(frame, exclude, data)
        apart = [*context, *exclude]
        columns = asked.get("columns", [name for name in frame.columns if name not in apart])
        for option, names in (("--columns", columns), ("--context", context)):
            for i, name in enumerate(names):
                if name in names[:i]:
                    raise InputError(f"{option} has column {name!r} twice.")
        for name in columns:
            if name in context:
                raise InputError(f"Column {name!r} is in both --columns and --context.")
            if name in exclude:
                raise InputError(f"Column {name!r} is in both --columns and --exclude.")
        if not columns:
            raise InputError(f"{data} has no columns but those of --context and --exclude.")
        values.check_names(frame, columns, data)
        found = {name: values.labels_of(frame[name], data) for name in columns}
        labels = {name: words for name, words in found.items() if words is not None}
        columns = [*labels, *(name for name in columns if name not in labels)]
        if len(labels) == len(columns):
            raise InputError(
                f"{data} has no column of numbers to model, but categories: {', '.join(labels)}."
            )
        path = Path(data)
        data = str(path.resolve()) if path.suffix else data  # To be found from another folder.
        known = {"data": data, "columns": columns, "context": context, "labels": labels}
        recipe = cls(**{**asked, **known})
        if "members" not in asked and recipe.is_regression:
            recipe = dataclasses.replace(recipe, members=4)  # They are small.
        return recipe

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read what `save` wrote."""
        try:
            text = json.loads(path.read_text(encoding="utf-8"))
            if "hidden" in text:  # Of the first version, which fitted one flow.
                sizes = {"layers": text.pop("layers"), "hidden_units": text.pop("hidden")}
                known = {name: size for name, size in sizes.items() if size is not None}
                text |= {"options": known, "plain": True}
            return cls(**text)
        except FileNotFoundError as error:
            raise InputError(f"There is no file {path}.") from error
        except (ValueError, TypeError, OSError) as error:
            raise InputError(f"{path} was not written by tfp-flows: {error}") from error

    def save(self, path: Path) -> None:
        """Write it as JSON, for `load`."""
        from tfp_flows.ops.files import atomic_write

        text = json.dumps(dataclasses.asdict(self), indent=2) + "\n"
        with atomic_write(path) as part:
            part.write_text(text, encoding="utf-8")

    @property
    def on_circle(self) -> bool:
        """Whether the flow is one of angles, whose density is on the torus and not on the line."""
        return self.flow in _ON_THE_CIRCLE

    @property
    def in_own_units(self) -> bool:
        """Whether the flow takes data as they are: nothing else can stand beside it in a stack."""
        own = bool({"support", "steps"} & {*self.options})
        return own or self.on_circle or bool(self.labels)

    @property
    def is_regression(self) -> bool:
        """Whether one column is modelled given others, by flows of splines."""
        one = len(self.columns) == 1 and not self.labels
        return one and bool(self.context) and self.flow == "neural_spline"

    def noise_of(self, index: int, rows: int) -> float:
        """The noise of the training rows of a flow, `index` counting from 0.

        Of flows with other seeds some have none: validation rows say which is better. One column
        given others is often nearly a function of these, which noise hides: few have it there.
        """
        if self.noise is not None:
            return self.noise
        has_noise = index % 4 == 2 if self.is_regression else index % 2 == 0
        return 1.4 / rows**0.5 if has_noise else 0.0

    def dropout_of(self, index: int) -> float:
        """The rate of dropout in the networks of a flow, `index` counting from 0."""
        usual = 0.1 if self.is_regression and index % 2 == 0 else 0.0
        return float(self.options.get("dropout", usual))

    @staticmethod
    def history_of(index: int) -> str:
        """The name of the file with the epochs of a flow, `index` counting from 0."""
        return f"history-{index + 1}.csv" if index else "history.csv"

    def check_resumed(self, asked: Mapping[str, Any], out: Path) -> None:
        """Raise an InputError if the user asks for something else than `out` was fitted with."""
        for name, value in asked.items():
            pairs = [(name, value, getattr(self, name))]
            if name == "options":
                pairs = [(key, each, self.options.get(key)) for key, each in value.items()]
            for key, new, old in pairs:
                if new != old:
                    flag = {"hidden_units": "hidden", "steps": "dequantize"}.get(key, key)
                    raise InputError(
                        f"--{flag} cannot change in a fit that is resumed. {out} was fitted with "
                        f"{_words(old)}. Received: {_words(new)}."
                    )

    def named_by(
        self, frame: pd.DataFrame, source: str, parts: Sequence[str] = ("context", "columns")
    ) -> Recipe:
        """Itself or, if its names are made up, the same with those of a table, by their place."""
        if self.data:
            return self
        names = list(frame.columns)
        size = sum(len(getattr(self, part)) for part in parts)
        if len(names) != size:
            raise InputError(
                f"{source} must have {size} columns ({', then '.join(parts)}): no flow.json tells "
                f"their names. Received: {len(names)}."
            )
        taken: dict[str, Any] = {
            part: [names.pop(0) for _ in getattr(self, part)] for part in parts
        }
        return dataclasses.replace(self, **taken)

    def read(self) -> pd.DataFrame:
        """The table that it was fitted to."""
        return tables.read(self.data, Format(**self.format))

    def usable(self, frame: pd.DataFrame, source: str) -> np.ndarray:
        """Which rows are not left out."""
        if not self.drop_missing:
            return np.ones(len(frame), bool)
        used = [*self.context, *self.columns]
        values.check_names(frame, used, source)
        found = values.usable_rows(frame, used, self.labels)
        if not found.any():
            raise InputError(f"{source} has no row with a number in each of {', '.join(used)}.")
        return found

    def rows(self, frame: pd.DataFrame, source: str) -> Rows:
        """The values of the columns and the context, by their names; degrees around 0."""
        c = None
        if self.context:
            c = values.numbers(frame, self.context, source, truth_values=True)
        measured = self.columns[len(self.labels) :]
        y = values.numbers(frame, measured, source)
        y = (y + 180) % 360 - 180 if self.degrees else y
        if self.labels:
            values.check_names(frame, self.columns, source)
            found = [values.codes(frame[k], words, source) for k, words in self.labels.items()]
            y = np.column_stack([*found, y])
        return Rows(y, c, np.asarray(frame.index) + 1)

    def written(self, y: np.ndarray) -> list[np.ndarray]:
        """Events as columns of a table: categories by their labels."""
        labels = list(self.labels.values())
        return [
            np.array(labels[i])[column.astype(int)] if i < len(labels) else column
            for i, column in enumerate(y.T)
        ]

    def split(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Indices of the rows for training, validation and test, drawn by `seed`.

        Validation and test have at least one row each, unless their share is 0.
        """
        sizes = [max(round(n * share), share > 0) for share in (self.validation, self.test)]
        order = np.random.default_rng(self.seed).permutation(n)
        validation, test, train = np.split(order, np.cumsum(sizes))
        return train, validation, test


def _words(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
