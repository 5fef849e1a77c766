"""The pictures of a fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import matplotlib.font_manager
import numpy as np
import typer

from tfp_flows import FlowModel, plots
from tfp_flows.ops.files import atomic_write
from tfp_flows_cli.recipe import Recipe, Rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw"]

# For names of columns in other scripts than the first has: the ones of these that are installed.
_FONTS = (
    "DejaVu Sans",
    "Noto Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Devanagari",
    "WenQuanYi Micro Hei",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Arial Unicode MS",
)


def draw(
    model: FlowModel,
    recipe: Recipe,
    rows: Rows | None,
    out: Path,
    *,
    flow: FlowModel | None,
    history: Path | None,
) -> list[str]:
    """Write the pictures that make sense into `out`, and print what is special about them.

    Args:
      rows: data to draw beside the model, and its context; not None for a conditional flow.
      flow: the flow whose stages are drawn: the model itself, or the best one in it.
      history: of the epochs of the fit.

    Returns:
      The names of the files, each of which is written whole.
    """
    installed = mpl.font_manager.get_font_names()
    fonts = [font for font in _FONTS if font in installed]
    with mpl.rc_context({"font.family": fonts}):
        pictures = _figures(model, recipe, rows, flow, history)
        for name, picture in pictures.items():
            with atomic_write(out / f"{name}.png") as part:
                picture.savefig(part, dpi=150, bbox_inches="tight")
    return [f"{name}.png" for name in pictures]


def _figures(
    model: FlowModel,
    recipe: Recipe,
    rows: Rows | None,
    flow: FlowModel | None,
    history: Path | None,
) -> dict[str, Figure]:
    # A dollar sign would begin a formula.
    columns = [name.replace("$", r"\$") for name in recipe.columns]
    context = [name.replace("$", r"\$") for name in recipe.context]
    y, c = (None, None) if rows is None else (rows.y, rows.c)
    middle = None if c is None else np.median(c, axis=0)
    pictures: dict[str, Figure] = {}
    if len(columns) <= 2:
        # Data that have many contexts tell nothing about the density given one of them.
        data = y if c is None else None
        pictures["density"] = plots.density(model, data=data, context=middle, columns=columns)
    else:
        typer.echo("density.png is left out: it can show one or two columns.")
    if flow is not None and hasattr(flow.distribution, "bijector"):
        pictures["stages"] = plots.stages(flow, context=middle)
        if flow is not model:
            typer.echo("stages.png shows the best flow alone.")
    if middle is not None:
        given = ", ".join(f"{k} = {v:.4g}" for k, v in zip(context, middle, strict=True))
        for picture in pictures.values():
            picture.suptitle(f"given {given}", fontsize=9)
        shown = given.replace(r"\$", "$")
        typer.echo(f"{' and '.join(pictures)}: given the medians of the context, {shown}.")
    pictures["samples"] = plots.samples(model, y, context=c, columns=columns)
    pictures["marginals"] = plots.marginals(model, y, context=c, columns=columns)
    for name, most in (("samples", 4), ("marginals", 12)):
        if len(columns) > most:
            typer.echo(f"{name}.png shows the first {most} of {len(columns)} columns.")
    if history is not None and history.exists():
        pictures["history"] = plots.history(history)
        if recipe.noise_of(recipe.best - 1, rows=1):
            pictures["history"].suptitle("training rows carry noise", fontsize=9)
    return pictures
