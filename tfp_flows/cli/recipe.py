"""What a fit is made of: the table's columns, the split of its rows, the shape of the flow."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfp_flows.cli import tables
from tfp_flows.cli.tables import InputError
from tfp_flows.ops.files import atomic_write

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Recipe", "Rows"]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Events `y`, (n, D), and their context `c`, (n, C), or None."""

    y: np.ndarray
    c: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: Any) -> Rows:
        return Rows(self.y[index], None if self.c is None else self.c[index])

    @property
    def inputs(self) -> tuple[np.ndarray, ...]:
        """What `FlowModel.fit` takes: `y`, or `c, y`."""
        return (self.y,) if self.c is None else (self.c, self.y)

    def digest(self) -> str:
        """A short hash of the values, in their order."""
        return hashlib.sha256(b"".join(part.tobytes() for part in self.inputs)).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a flow was fitted to, and how: `flow.json` beside `flow.keras`.

    None for `layers` and `hidden` leaves them to the number of rows.
    """

    data: str
    columns: list[str]
    context: list[str]
    flow: str = "neural_spline"
    layers: int | None = None
    hidden: list[int] | None = None
    validation: float = 0.15
    test: float = 0.15
    seed: int = 0
    digest: str = ""

    @classmethod
    def new(cls, frame: pd.DataFrame, data: str, asked: Mapping[str, Any]) -> Recipe:
        """The recipe for a table with what the user asked for; checks the names of columns."""
        context = asked.get("context", [])
        columns = asked.get("columns", [name for name in frame.columns if name not in context])
        for option, names in (("--columns", columns), ("--context", context)):
            for i, name in enumerate(names):
                if name in names[:i]:
                    raise InputError(f"{option} has column {name!r} twice.")
        for name in columns:
            if name in context:
                raise InputError(f"Column {name!r} is in both --columns and --context.")
        if not columns:
            raise InputError(f"{data} has no columns but those of --context.")
        path = Path(data)
        data = str(path.resolve()) if path.suffix else data  # to be found from another folder
        recipe = cls(**{**asked, "data": data, "columns": columns, "context": context})
        if recipe.validation + recipe.test >= 1:
            raise InputError(
                "--validation and --test must add up to less than 1. "
                f"Received: {recipe.validation} and {recipe.test}."
            )
        return recipe

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read what `save` wrote."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise InputError(f"There is no file {path}.") from error
        except (ValueError, TypeError, OSError) as error:
            raise InputError(f"{path} was not written by tfp-flows: {error}") from error

    def save(self, path: Path) -> None:
        """Write it as JSON, for `load`."""
        text = json.dumps(dataclasses.asdict(self), indent=2) + "\n"
        with atomic_write(path) as part:
            part.write_text(text, encoding="utf-8")

    def check_resumed(self, asked: Mapping[str, Any], out: Path) -> None:
        """Raise an InputError if the user asks for something else than `out` was fitted with."""
        for name, value in asked.items():
            if value != getattr(self, name):
                raise InputError(
                    f"--{name} cannot change in a fit that is resumed. {out} was fitted with "
                    f"{_words(getattr(self, name))}. Received: {_words(value)}."
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

    def rows(self, frame: pd.DataFrame, source: str) -> Rows:
        """The values of the columns and the context, by their names."""
        c = tables.numbers(frame, self.context, source) if self.context else None
        return Rows(tables.numbers(frame, self.columns, source), c)

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
