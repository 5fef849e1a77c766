"""Checks of sizes that every part of the package takes."""

from __future__ import annotations

__all__ = ["positive_int"]


def positive_int(value: int, name: str) -> int:
    """Return `value`; raise a ValueError that names it unless it is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
    return value
