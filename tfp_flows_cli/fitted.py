"""A fitted model: loading it, and asking it for densities and draws in blocks of rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfp_flows_cli.errors import InputError
from tfp_flows_cli.quiet import load_tensorflow
from tfp_flows_cli.recipe import Recipe, Rows

if TYPE_CHECKING:
    from tfp_flows import FlowModel

__all__ = ["best_flow", "load", "log_prob", "sample"]

_BLOCK = 10_000  # Rows at a time: bounds the memory.


def load(path: Path) -> tuple[FlowModel, Recipe]:
    """A model from a file, or from a folder that `fit` made, with its recipe.

    Of a model that was saved by other means, the recipe holds made-up names and no data.
    """
    file = path / "flow.keras" if path.is_dir() else path
    if not file.is_file():
        unfinished = path.is_dir() and any(path.glob("member-*.keras"))
        hint = f": `tfp-flows fit --resume --out {path}` ends the fit" if unfinished else ""
        raise InputError(f"There is no model {file}{hint}.")
    load_tensorflow()
    from tfp_flows import FlowModel

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


def best_flow(model: FlowModel, recipe: Recipe, folder: Path) -> FlowModel | None:
    """The best single flow of a fit, of which the model may be a stack; None if there is none."""
    if hasattr(model.distribution, "bijector"):
        return model
    from tfp_flows import FlowModel

    file = folder / f"member-{recipe.best}.keras"
    return FlowModel.load(file) if file.exists() else None


def log_prob(model: FlowModel, rows: Rows) -> np.ndarray:
    """The log-density of each row, in nats."""
    blocks = [rows[i : i + _BLOCK] for i in range(0, len(rows), _BLOCK)]
    found = [model.log_prob(block.y, block.c).numpy() for block in blocks]
    return np.concatenate(found) if found else np.zeros(0)


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
