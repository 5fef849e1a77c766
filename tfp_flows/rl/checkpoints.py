"""Checkpoints: one file of plain arrays, which is never code."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfp_flows.ops.files import atomic_write

__all__ = ["read", "write"]

State = dict[str, dict[str, np.ndarray]]


def write(path: str | os.PathLike[str], state: State, numbers: dict[str, Any]) -> None:
    """Write groups of arrays, and what JSON can hold, as one `.npz` file, whole or not at all."""
    arrays: dict[str, Any] = {
        f"{group}/{name}": a for group, named in state.items() for name, a in named.items()
    }
    arrays["numbers"] = np.frombuffer(json.dumps(numbers).encode(), np.uint8)
    with atomic_write(path) as part, open(part, "wb") as file:
        np.savez(file, **arrays)


def read(path: str | os.PathLike[str], needed: Sequence[str] = ()) -> tuple[State, dict[str, Any]]:
    """Read what `write` wrote, with at least the groups and numbers that are `needed`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is none of these, or damaged.
    """
    state: State = {}
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it holds one array")
        with loaded as file:
            numbers = json.loads(bytes(file["numbers"]).decode())
            for name in file.files:
                if name != "numbers":
                    group, _, key = name.partition("/")
                    state.setdefault(group, {})[key] = file[name]
        if missing := [name for name in needed if name not in (*state, *numbers)]:
            raise ValueError(f"it lacks {', '.join(missing)}")
    except (KeyError, EOFError, zipfile.BadZipFile, ValueError) as error:
        raise ValueError(f"{str(path)!r} is not a checkpoint of an agent: {error}") from error
    return state, numbers
