"""The split of a table's rows."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfp_flows_cli.recipe import Recipe, Rows

__all__ = ["Split"]


@dataclasses.dataclass(frozen=True)
class Split:
    """The rows of a table for training, validation and the report, and all of them."""

    every: Rows
    train: Rows
    validation: Rows
    test: Rows
    test_numbers: np.ndarray  # Where these stand in the table, from 1.

    @classmethod
    def of(cls, recipe: Recipe, rows: Rows, numbers: np.ndarray) -> Split:
        """As the recipe says; `numbers` are those of the rows in the table, from 1."""
        train, validation, test = recipe.split(len(rows))
        return cls(rows, rows[train], rows[validation], rows[test], numbers[test])
