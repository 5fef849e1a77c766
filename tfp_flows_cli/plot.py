"""`tfp-flows plot`: the pictures of a fit, again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from tfp_flows_cli.errors import InputError, in_one_line
from tfp_flows_cli.options import DATA_HELP, Decimal, Encoding, Model, Sep

__all__ = ["plot"]


def plot(
    model: Model,
    data: Annotated[
        str | None, Argument(help=DATA_HELP, show_default="what it was fitted to")
    ] = None,
    out: Annotated[
        Path | None, Option(help="Folder for the pictures.", show_default="the model's")
    ] = None,
    sep: Sep = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
) -> None:
    """Draw the pictures of a fit again, with other data or in another folder.

    Pictures that are in the folder already are replaced.
    """
    with in_one_line():
        from tfp_flows_cli import tables
        from tfp_flows_cli.text import Format

        if not model.exists():
            raise InputError(f"There is no model {model}.")
        form = Format(sep, decimal, encoding)
        frame = None if data is None else tables.read(data, form)

        from tfp_flows_cli import fitted

        flow, recipe = fitted.load(model)
        folder = model if model.is_dir() else model.parent
        out = out or folder
        if data is None and recipe.data not in ("", "-"):  # Standard input was read once.
            data, frame = recipe.data, recipe.read()
        if data is None and recipe.context:
            raise InputError(f"{model} has a context: give DATA with values of it.")
        rows = None
        if frame is not None and data is not None:
            recipe = recipe.named_by(frame, data)
            rows = recipe.rows(frame[recipe.usable(frame, data)], data)
        make_folder(out)
    history = folder / recipe.history_of(recipe.best - 1) if recipe.data else None
    with in_one_line():
        from tfp_flows_cli import pictures

        best = fitted.best_flow(flow, recipe, folder)
        written = pictures.draw(flow, recipe, rows, out, flow=best, history=history)
    typer.echo(f"Wrote to {out}: {', '.join(written)}")


def make_folder(path: Path) -> None:
    """Make a folder, and those that it is in."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {path} cannot be made: {error.strerror}.") from error
