"""The split of a table's rows."""

from __future__ import annotations

import dataclasses

from tfp_flows_cli.recipe import Recipe, Rows

__all__ = ["Split"]


@dataclasses.dataclass(frozen=True)
class Split:
    """The rows of a table for training, validation and the report, and all of them."""

    every: Rows
    train: Rows
    validation: Rows
    test: Rows

    @classmethod
    def of(cls, recipe: Recipe, rows: Rows) -> Split:
        """As the recipe says."""
        train, validation, test = recipe.split(len(rows))
        return cls(rows, rows[train], rows[validation], rows[test])
