"""Names of columns: a table whose columns stand in another order than in training is refused."""

from __future__ import annotations

from typing import Any

__all__ = ["ColumnNames"]


class ColumnNames:
    """The names of the columns of events and context, of a model that has been given tables.

    Args:
      known: the names by "events" and "context", as `known` has them.
    """

    def __init__(self, known: dict[str, list[Any]] | None = None) -> None:
        self.known = dict(known or {})

    def keep(self, context: Any, events: Any) -> None:
        """Take the names from what the model is fitted to; arrays have none."""
        for what, table in (("context", context), ("events", events)):
            if names := _names(table):
                self.known[what] = names

    def check(self, context: Any, events: Any) -> None:
        """Raise a ValueError for a table with the columns that are known in another order.

        Columns of other names are taken by their place, as those of arrays are.
        """
        for what, table in (("context", context), ("events", events)):
            names, known = _names(table), self.known.get(what, [])
            if names != known and sorted(map(repr, names)) == sorted(map(repr, known)):
                raise ValueError(
                    f"The {what} must have columns in the order {known}, as in training. "
                    f"Received: {names}"
                )


def _names(table: Any) -> list[Any]:
    """Names of columns, if they are text or numbers, which a file can hold."""
    columns = getattr(table, "columns", None)
    names = [] if columns is None else list(columns)
    return names if all(isinstance(name, str | int) for name in names) else []
