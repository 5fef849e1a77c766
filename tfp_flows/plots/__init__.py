"""Pictures of flows: `stages`, `paths`, `density`, `samples`, `marginals` and `history`.

Every function returns the Figure it drew on, takes `ax=` to draw on Axes of yours (one, or an array
of one a panel) and never calls `plt.show`. A new figure is not on pyplot's list of open figures: a
notebook shows it once, as the value of a cell, and `figure.savefig("a.png")` writes it. For a
window, bring Axes from `plt.subplots`.

The arguments that they share, and a ValueError that names the argument if one is wrong:

  flow: a `Flow`, a `FlowModel` (drawn in the units of its data) or any `tfd.Distribution` of
    vectors (D,) or numbers (D = 1), without a batch shape.
  data: array or data frame, (N, D), or (N,) if D = 1.
  context: what the flow is conditioned on, (C,). `samples` and `marginals` also take (N, C) and
    draw from these N in turn, as it takes to be compared with `data`.
  columns: names of all D columns (a data frame has its own), or indices of those to draw.
  extent: limits, (left, right) in 1-D and (left, right, bottom, top) in 2-D. Unless given, they
    hold the bulk of the samples and of the data: outliers don't count.
  resolution: points along each axis at which the density is evaluated.
  seed: integer; the same seed draws the same picture.
  ax: Axes to draw on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tfp_flows.plots import images
from tfp_flows.plots.drawing import (
    DATA_COLOR,
    FLOW_COLOR,
    View,
    axes_for,
    draw_density,
    draw_histogram,
    draw_scatter,
    frame,
    limits_of,
    named_stages,
    read_table,
    thin,
)
from tfp_flows.plots.losses import history
from tfp_flows.plots.trajectories import paths

if TYPE_CHECKING:  # otherwise imported when a figure is made: `import tfp_flows` stays light
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["density", "history", "marginals", "paths", "samples", "stages"]

_QUADRANTS = np.array(["#0072b2", "#e69f00", "#cc79a7", "#009e73"])  # safe for the colour-blind


def stages(
    flow: Any,
    *,
    context: Any = None,
    kind: Literal["density", "samples"] | None = None,
    columns: Sequence[int] = (0, 1),
    extent: Sequence[float] | None = None,
    n: int = 2000,
    resolution: int = 120,
    max_stages: int = 9,
    seed: int = 0,
    ax: Any = None,
) -> Figure:
    """Draw the distribution after 0, 1, ..., K bijectors: how the flow gets its shape.

    One panel a stage, by the name of the bijector that leads to it: "0: base", "1: ShiftAndCube",
    all within the same limits. 1-D: the exact density, over a histogram of samples. 2-D: the exact
    density as a heat map; colours run from 0 to the largest density of each panel by itself. More
    dimensions: samples of two columns. Images: strips, each in a scale of grey of its own.

    Args:
      flow: a `Flow`, a `tfd.TransformedDistribution`, or a `FlowModel` of one (drawn in the
        standardized units of its bijectors). A `tfb.Chain` is taken apart.
      kind: "samples" draws the same `n` points at each stage, coloured by the quadrant of the base
        that they come from, which shows where each goes. Unless given, "density" if D <= 2.
      columns: indices of the two columns to draw, if D > 2.
      n: number of samples.
      max_stages: of more stages, so many are drawn, evenly spaced, with the first and the last.
      context, extent, resolution, seed, ax: see the module; `extent` holds for every panel.

    Returns:
      The Figure.

    Example:
      >>> base = tfd.MultivariateNormalDiag([0.0, 0.0])
      >>> flow = Flow(base, tfb.Chain([bijectors.Rotation2D(0.8), bijectors.ShiftAndCube(0.5)]))
      >>> plots.stages(flow).savefig("stages.png")
    """
    if kind not in (None, "density", "samples"):
        raise ValueError(f"`kind` must be 'density' or 'samples'. Received: kind={kind!r}")
    if max_stages < 2:
        raise ValueError(f"`max_stages` must be at least 2. Received: max_stages={max_stages}")
    if images.is_of_images(flow):
        return images.draw_stages(flow, context, min(n, 8), max_stages, seed, ax)
    every = named_stages(flow, context)
    shown = np.linspace(0, len(every) - 1, min(max_stages, len(every))).round().astype(int)
    # One seed for all: row i of every stage's samples is the same point of the base, pushed on.
    views = [View(every[k][1], None, n, seed) for k in shown]
    size = views[-1].size
    if kind == "density" and size > 2:
        raise ValueError(f"`kind` must be 'samples' if D > 2. Received: kind='density', D={size}")
    pair = read_table(None, columns, size)[1] if size > 1 else [0]
    if len(pair) != min(size, 2):
        raise ValueError(f"`columns` must be two indices. Received: columns={columns!r}")

    axes = axes_for(ax, len(views), (2.8, 2.2) if size == 1 else (2.5, 2.6))
    start = views[0].samples[:, pair] > np.median(views[0].samples[:, pair], axis=0)
    limits = limits_of([view.samples[:, pair] for view in views], extent, square=True)
    names = [*(f"x{column}" for column in pair), ""]
    for axis, k, view in zip(axes, shown, views, strict=True):
        points = view.samples[:, pair]
        if size == 1:
            draw_histogram(axis, points[:, 0], limits[0], FLOW_COLOR, filled=True)
        if size <= 2 and kind != "samples":
            draw_density(axis, view, limits, resolution)
        elif size > 1:
            draw_scatter(axis, points, _QUADRANTS[start @ [1, 2]])
        frame(axis, limits, title=f"{k}: {every[k][0]}", xlabel=names[0], ylabel=names[1])
    return axes[0].figure.figure


def density(
    flow: Any,
    data: Any = None,
    *,
    context: Any = None,
    columns: Sequence[str] | None = None,
    extent: Sequence[float] | None = None,
    resolution: int = 200,
    colorbar: bool = True,
    seed: int = 0,
    ax: Axes | None = None,
) -> Figure:
    """Draw the exact density, in 1-D as a curve, in 2-D as a heat map, and the data with it.

    The density is per unit of x in 1-D and of area in 2-D. Where a sharp peak would leave the rest
    of a heat map dark, its scale ends at the level below which 99 % of the probability lies, and
    the colour bar has an arrow.

    Args:
      flow: of one or two dimensions.
      data: shown as a histogram in 1-D, as points in 2-D (1,000 at most).
      columns: names of the columns, for the axes.
      colorbar: whether to add a colour bar to a heat map.
      context, extent, resolution, seed, ax: see the module.

    Returns:
      The Figure.

    Example:
      >>> plots.density(model, data=x, columns=["eruption (min)", "waiting (min)"])
    """
    view = View(flow, context, 2000, seed)
    if view.size > 2:
        raise ValueError(
            "`flow` must have one or two dimensions: see `samples` and `marginals` for more. "
            f"Received: flow={flow!r}, with D={view.size}"
        )
    data, chosen, names = read_table(data, columns, view.size)
    if chosen != list(range(view.size)):
        raise ValueError(f"`columns` must be names of all columns. Received: columns={columns!r}")
    limits = limits_of([view.samples, data], extent)
    axis = axes_for(ax, 1, (4.8, 3.2) if view.size == 1 else (4.8, 4.0))[0]
    if view.size == 1 and data is not None:
        draw_histogram(axis, data[:, 0], limits[0], DATA_COLOR, "data", filled=True)
    drawn = draw_density(axis, view, limits, resolution)
    if view.size == 1:
        frame(axis, limits, xlabel=names[0], ylabel="density", legend=data is not None)
        return axis.figure.figure
    if data is not None:
        draw_scatter(axis, thin(data, 1000), "white", "data", alpha=0.5)
    frame(axis, limits, xlabel=names[0], ylabel=names[1])
    if colorbar:
        above = drawn.get_array().max() > drawn.norm.vmax
        # Inside of the Axes' own space: a bar beside it would be higher than a picture that has
        # equal axes and is wide.
        bar = axis.figure.colorbar(
            drawn, cax=axis.inset_axes((1.03, 0, 0.05, 1)), extend="max" if above else "neither"
        )
        bar.set_label("density", size=9)
        bar.ax.tick_params(labelsize=8)
    return axis.figure.figure


def samples(
    flow: Any,
    data: Any = None,
    *,
    n: int | None = None,
    context: Any = None,
    columns: Sequence[str] | Sequence[int] | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    ax: Any = None,
) -> Figure:
    """Draw samples and data within the same limits.

    1-D: histograms. 2-D: two panels, or both in one if `ax` is one Axes. More dimensions: a grid
    with a panel for each pair of columns, samples below its diagonal and data above it, and
    histograms of both on it. Images: grids; given (N, C), a row of samples for every context.

    Args:
      data: `n` rows of it at most are drawn, evenly spaced.
      n: number of samples. Unless given, as many as there are rows of data, 1,000 at most.
      columns: names or indices; the first four are drawn unless indices are given.
      temperature: of images, as in `Flow.sample`.
      context, seed, ax: see the module; a grid of k columns takes k * k Axes.

    Returns:
      The Figure.

    Example:
      >>> plots.samples(model, x, n=2000)
    """
    if images.is_of_images(flow):
        return images.draw_samples(flow, data, n, context, seed, temperature, ax)
    view = View(flow, context, 1000 if n is None else n, seed, mixture=True)
    data, chosen, names = read_table(data, columns, view.size, at_most=4)
    rows = len(data) if n is None and data is not None else None
    tables = [("samples", view.samples[:rows, chosen], FLOW_COLOR)]
    if data is not None:
        tables.insert(0, ("data", thin(data, n or 1000)[:, chosen], DATA_COLOR))
    limits, k = limits_of([table for _, table, _ in tables]), len(chosen)
    if k == 2:
        beside = len(tables) == 2 and (ax is None or np.size(ax) > 1)
        axes = axes_for(ax, 2 if beside else 1, (3.4, 3.4))
        for axis, (label, table, color) in zip(np.resize(axes, len(tables)), tables, strict=True):
            draw_scatter(axis, table, FLOW_COLOR if beside else color, label)
            title, legend = (label, False) if beside else ("", len(tables) == 2)
            frame(axis, limits, title=title, xlabel=names[0], ylabel=names[1], legend=legend)
        return axes[0].figure.figure

    axes = axes_for(ax, k * k, (4.8, 3.2) if k == 1 else (1.9, 1.8), per_row=k).reshape(k, k)
    for (i, j), axis in np.ndenumerate(axes):
        # Apart, so that neither hides the other.
        _, apart, shade = tables[0 if j > i else -1]
        if j > i and len(tables) == 1:
            axis.set_visible(False)
            continue
        if i != j:
            draw_scatter(axis, apart[:, [j, i]], shade)
        else:
            least = min(len(points) for _, points, _ in tables)
            for label, points, color in tables:
                filled = label == "data"
                draw_histogram(axis, points[:, i], limits[i], color, label, filled, least)
        bottom, left = names[j] if i == k - 1 else "", names[i] if j == 0 < i else ""
        within, legend = limits[[j] if i == j else [j, i]], i == j == 0 and len(tables) == 2
        frame(axis, within, xlabel=bottom, ylabel=left, legend=legend, equal=False)
    if k > 1 and len(tables) == 2:
        axes[0, 0].figure.suptitle("samples below the diagonal, data above it", fontsize=9)
    return axes[0, 0].figure.figure


def marginals(
    flow: Any,
    data: Any = None,
    *,
    n: int = 5000,
    context: Any = None,
    columns: Sequence[str] | Sequence[int] | None = None,
    seed: int = 0,
    ax: Any = None,
) -> Figure:
    """Draw the distribution of each column, of the data filled and of the samples as an outline.

    A 1-D flow is drawn by its exact density, unless its context is (N, C).

    Args:
      flow: of any number of dimensions.
      n: number of samples.
      columns: names or indices; the first twelve are drawn unless indices are given.
      data, context, seed, ax: see the module.

    Returns:
      The Figure, with one panel a column.

    Example:
      >>> plots.marginals(model, x, columns=["eruption (min)", "waiting (min)"])
    """
    view = View(flow, context, n, seed, mixture=True)
    data, chosen, names = read_table(data, columns, view.size, at_most=12)
    axes = axes_for(ax, len(chosen), (4.8, 3.2) if len(chosen) == 1 else (2.8, 2.2))
    for axis, column, name in zip(axes, chosen, names, strict=True):
        points = view.samples[:, [column]]
        limits = limits_of([points, None if data is None else data[:, [column]]])
        least = len(points) if data is None else min(len(points), len(data))
        if data is not None:
            draw_histogram(axis, data[:, column], limits[0], DATA_COLOR, "data", True, least)
        if view.size == 1 and np.ndim(context) < 2:
            draw_density(axis, view, limits, 400)
        else:
            draw_histogram(axis, points[:, 0], limits[0], FLOW_COLOR, "flow", False, least)
        frame(axis, limits, title=name, legend=axis is axes[0] and data is not None)
    return axes[0].figure.figure
