"""Pictures of flows: `stages`, `density`, `samples`, `marginals` and `history`.

Every function returns the Figure it drew on, takes `ax=` to draw on Axes of yours (one, or an array
of one a panel) and never calls `plt.show`. A new figure is not on pyplot's list of open figures: a
notebook shows it once, as the value of a cell, and `figure.savefig("a.png")` writes it. For a
window, bring Axes from `plt.subplots`.

The arguments that they share, and a ValueError that names the argument if one is wrong:

  flow: a `Flow`, a `FlowModel` (drawn in the units of its data) or any `tfd.Distribution` of vectors
    (D,) or numbers (D = 1), without a batch shape.
  data: array or data frame, (N, D), or (N,) if D = 1.
  context: what the flow is conditioned on, (C,). `samples` and `marginals` also take (N, C) and draw
    from these N conditionals in turn, as it takes to be compared with `data`.
  columns: names of all D columns (a data frame has its own), or indices of the columns to draw.
  extent: limits, (left, right) in 1-D and (left, right, bottom, top) in 2-D. Unless given, they hold
    the bulk of the samples and of the data: outliers don't count.
  resolution: points along each axis at which the density is evaluated.
  seed: integer; the same seed draws the same picture.
  ax: Axes to draw on.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.distributions.flow import Flow, chain_steps

if TYPE_CHECKING:  # otherwise imported when a figure is made: `import tfp_flows` stays light
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

tfd, tfb = tfp.distributions, tfp.bijectors

__all__ = ["density", "history", "marginals", "samples", "stages"]

_FLOW, _DATA = "#2a788e", "#b0b0b0"  # teal, from the middle of viridis, and grey
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

    One panel a stage, with the bijector that leads to it as title: "0: base", "1: ShiftAndCube".
    1-D: the exact density, over a histogram of samples. 2-D: the exact density as a heat map, in
    each panel with a scale of its own. More dimensions: samples of two columns.

    Args:
      flow: a `Flow`, a `tfd.TransformedDistribution`, or a `FlowModel` of one (drawn in the
        standardized units in which its bijectors work). A `tfb.Chain` is taken apart.
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
    every = _stages(flow, context)
    shown = np.linspace(0, len(every) - 1, min(max_stages, len(every))).round().astype(int)
    # One seed for all: row i of every stage's samples is the same point of the base, pushed on.
    views = [_View(every[k][1], None, n, seed) for k in shown]
    size = views[-1].size
    if kind == "density" and size > 2:
        raise ValueError(f"`kind` must be 'samples' if D > 2. Received: kind='density', D={size}")
    pair = _table(None, columns, size)[1] if size > 1 else [0]
    if len(pair) != min(size, 2):
        raise ValueError(f"`columns` must be two indices. Received: columns={columns!r}")

    axes = _axes(ax, len(views), (2.8, 2.2) if size == 1 else (2.5, 2.6))
    start = views[0].samples[:, pair] > np.median(views[0].samples[:, pair], axis=0)
    for axis, k, view in zip(axes, shown, views, strict=True):
        points = view.samples[:, pair]
        limits = _limits([points], extent, square=True)
        if size == 1:
            _histogram(axis, points[:, 0], limits[0], _DATA)
        if size <= 2 and kind != "samples":
            _density(axis, view, limits, resolution)
        elif size > 1:
            _scatter(axis, points, _QUADRANTS[start @ [1, 2]])
        _frame(axis, limits, title=f"{k}: {every[k][0]}")
    return axes[0].figure.figure


def density(
    flow: Any,
    *,
    data: Any = None,
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
      data: shown as a histogram in 1-D, as points in 2-D (2,000 at most).
      columns: names of the columns, for the axes.
      colorbar: whether to add a colour bar to a heat map.
      context, extent, resolution, seed, ax: see the module.

    Returns:
      The Figure.

    Example:
      >>> plots.density(model, data=x, columns=["eruption (min)", "waiting (min)"])
    """
    view = _View(flow, context, 2000, seed)
    if view.size > 2:
        raise ValueError(
            "`flow` must have one or two dimensions: see `samples` and `marginals` for more. "
            f"Received: flow={flow!r}, with D={view.size}"
        )
    data, chosen, names = _table(data, columns, view.size)
    if chosen != list(range(view.size)):
        raise ValueError(f"`columns` must be names of all columns. Received: columns={columns!r}")
    limits = _limits([view.samples, data], extent)
    axis = _axes(ax, 1, (4.8, 3.2) if view.size == 1 else (4.8, 4.0))[0]
    drawn = _density(axis, view, limits, resolution)
    if view.size == 1:
        if data is not None:
            _histogram(axis, data[:, 0], limits[0], _DATA, "data")
        _frame(axis, limits, xlabel=names[0], ylabel="density", legend=data is not None)
        return axis.figure.figure
    if data is not None:
        _scatter(axis, _thin(data, 2000), "white", "data")
    _frame(axis, limits, xlabel=names[0], ylabel=names[1])
    if colorbar:
        above = drawn.get_array().max() > drawn.norm.vmax
        bar = axis.figure.colorbar(drawn, ax=axis, extend="max" if above else "neither")
        bar.set_label("density", size=9)
        bar.ax.tick_params(labelsize=8)
    return axis.figure.figure


def samples(
    flow: Any,
    data: Any = None,
    *,
    n: int = 1000,
    context: Any = None,
    columns: Sequence[str] | Sequence[int] | None = None,
    seed: int = 0,
    ax: Any = None,
) -> Figure:
    """Draw samples and data, no more of one than of the other, within the same limits.

    1-D: histograms. 2-D: two panels, or both in one if `ax` is one Axes. More dimensions: a grid
    with a panel for each pair of columns and histograms on its diagonal.

    Args:
      flow: of any number of dimensions.
      data: `n` rows of it at most are drawn, evenly spaced.
      n: number of samples.
      columns: names or indices; the first four are drawn unless indices are given.
      context, seed, ax: see the module; a grid of k columns takes k * k Axes.

    Returns:
      The Figure.

    Example:
      >>> plots.samples(model, x, n=2000)
    """
    view = _View(flow, context, n, seed, mixture=True)
    data, chosen, names = _table(data, columns, view.size, at_most=4)
    tables = [("samples", view.samples[:, chosen], _FLOW)]
    if data is not None:
        tables.insert(0, ("data", _thin(data, n)[:, chosen], _DATA))
    limits, k = _limits([table for _, table, _ in tables]), len(chosen)
    if k == 2:
        apart = len(tables) == 2 and (ax is None or np.size(ax) > 1)
        axes = _axes(ax, 2 if apart else 1, (3.4, 3.4))
        for axis, (label, table, color) in zip(np.resize(axes, len(tables)), tables, strict=True):
            _scatter(axis, table, _FLOW if apart else color, label)
            title, legend = (label, False) if apart else ("", len(tables) == 2)
            _frame(axis, limits, title=title, xlabel=names[0], ylabel=names[1], legend=legend)
        return axes[0].figure.figure

    axes = _axes(ax, k * k, (4.8, 3.2) if k == 1 else (1.9, 1.8), per_row=k).reshape(k, k)
    for (i, j), axis in np.ndenumerate(axes):
        if j > i:
            axis.set_visible(False)
            continue
        for label, table, color in tables:
            if i == j:
                _histogram(axis, table[:, i], limits[i], color, label)
            else:
                _scatter(axis, table[:, [j, i]], color)
        bottom, left = names[j] if i == k - 1 else "", names[i] if j == 0 < i else ""
        legend = i == j == 0 and len(tables) == 2
        within = limits[[j]] if i == j else limits[[j, i]]
        _frame(axis, within, xlabel=bottom, ylabel=left, legend=legend, equal=False)
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
    """Draw the distribution of each column, of the data in grey and of the samples as an outline.

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
    view = _View(flow, context, n, seed, mixture=True)
    data, chosen, names = _table(data, columns, view.size, at_most=12)
    axes = _axes(ax, len(chosen), (4.8, 3.2) if len(chosen) == 1 else (2.8, 2.2))
    for axis, column, name in zip(axes, chosen, names, strict=True):
        points = view.samples[:, [column]]
        limits = _limits([points, None if data is None else data[:, [column]]])
        if data is not None:
            _histogram(axis, data[:, column], limits[0], _DATA, "data")
        if view.size == 1 and np.ndim(context) < 2:
            _density(axis, view, limits, 400)
        else:
            _histogram(axis, points[:, 0], limits[0], _FLOW, "flow")
        _frame(axis, limits, title=name, legend=axis is axes[0] and data is not None)
    return axes[0].figure.figure


def history(history: Any, *, ax: Axes | None = None) -> Figure:
    """Draw the losses of training and validation, in nats, over the epochs, and mark the best.

    The best epoch has the least validation loss, or training loss if there was no validation.
    Epochs far worse than the rest, such as the first, may lie above the picture.

    Args:
      history: what `model.fit` returned, a dictionary as its `.history`, or the path of a file
        that Keras' `CSVLogger` wrote.
      ax: see the module.

    Returns:
      The Figure.

    Example:
      >>> plots.history(model.fit(x, epochs=100, validation_split=0.1))
    """
    if isinstance(history, (str, os.PathLike)):
        table = np.genfromtxt(history, delimiter=",", names=True, ndmin=1)
        logs = {name: table[name] for name in table.dtype.names}
    else:
        logs = getattr(history, "history", history)
    losses = {name: np.asarray(logs[name], float) for name in ("loss", "val_loss") if name in logs}
    losses = {name: values for name, values in losses.items() if np.isfinite(values).any()}
    if "loss" not in losses:
        raise ValueError(f"`history` must hold a finite 'loss'. Received: keys {sorted(logs)}")
    epochs = logs.get("epoch", getattr(history, "epoch", range(len(losses["loss"]))))

    axis = _axes(ax, 1, (4.8, 3.2))[0]
    for name, values in losses.items():
        label, color = ("training", _DATA) if name == "loss" else ("validation", _FLOW)
        every = len(epochs) // len(values)  # more than 1 with `validation_freq`
        at = 1 + np.asarray(epochs)[every - 1 :: every]
        axis.plot(at, values, color=color, label=label)
    best = int(np.nanargmin(values))
    label = f"best: {values[best]:.4g} in epoch {at[best]:g}"
    axis.plot(at[best], values[best], "o", color=color, label=label)
    both = np.concatenate(list(losses.values()))
    both = both[np.isfinite(both)]
    low, bulk, top = both.min(), np.quantile(both, 0.9), both.max()
    if top - low > 3 * (bulk - low) > 0:
        top = bulk + 0.25 * (bulk - low)
    margin = 0.06 * (top - low) or 0.1
    axis.set_ylim(low - margin, top + margin)
    _frame(axis, (), xlabel="epoch", ylabel="negative log-likelihood (nats)", legend=True)
    return axis.figure.figure


class _View:
    """What pictures need of a flow: samples (n, D), drawn once, and the density, all in NumPy."""

    def __init__(self, flow: Any, context: Any, n: int, seed: int, mixture: bool = False):
        if not (hasattr(flow, "log_prob") and hasattr(flow, "sample")):
            raise ValueError(f"`flow` must have `log_prob` and `sample`. Received: flow={flow!r}")
        self._flow, self._kwargs, rows = flow, {}, ()
        if context is not None:
            if isinstance(flow, tfd.Distribution) and not isinstance(flow, Flow):
                raise ValueError(f"`context` must be None, TFP would ignore it, for flow={flow!r}")
            context = np.asarray(context)
            if context.ndim != 1 and not (mixture and context.ndim == 2 and len(context)):
                shapes = "(C,) or (N, C)" if mixture else "(C,)"
                raise ValueError(f"`context` must be {shapes}. Received: shape={context.shape}")
            if context.ndim == 2:
                context = _thin(context, n)
                rows, n = (len(context),), math.ceil(n / len(context))
            self._kwargs = {"context": context}
        # Two integers are a stateless seed for TFP. With one, samples change from call to call.
        drawn = np.asarray(flow.sample(n, seed=tf.constant([0, seed]), **self._kwargs))
        self._event = drawn.shape[1 + len(rows) :]
        if len(self._event) > 1:
            raise ValueError(f"`flow` must have events (D,) and no batch. Received: flow={flow!r}")
        self.size, self._dtype = math.prod(self._event), drawn.dtype
        self.samples = drawn.reshape(-1, self.size).astype(float)
        if not np.isfinite(self.samples).all(axis=1).any():
            raise ValueError(f"`flow` must have finite samples. Received: flow={flow!r}")

    def density(self, points: np.ndarray) -> np.ndarray:
        """The density (N,) at the points (N, D)."""
        # Not in a tf.function, which would be traced for each panel and used only once.
        points = tf.constant(points.reshape(-1, *self._event), self._dtype)
        log_prob = np.asarray(self._flow.log_prob(points, **self._kwargs), float)
        if log_prob.shape != points.shape[:1]:
            raise ValueError(f"`flow` must have no batch shape. Received: flow={self._flow!r}")
        return np.exp(log_prob)


def _stages(flow: Any, context: Any) -> list[tuple[str, tfd.Distribution]]:
    """A name and a distribution after each of 0, 1, ..., K bijectors."""
    if not isinstance(flow, tfd.Distribution):
        flow = getattr(flow, "distribution", flow)
    if not hasattr(flow, "bijector"):
        raise ValueError(f"`flow` must be a flow with a bijector. Received: flow={flow!r}")
    if not isinstance(flow, Flow):
        flow = Flow(flow.distribution, flow.bijector)

    def title(bijector: tfb.Bijector) -> str:
        kind = type(bijector).__name__.lstrip("_")  # TFP has both `Invert` and `_Invert`
        if kind == "Invert":
            return f"inverse of {title(bijector.bijector)}"
        given = bijector.name.rstrip("_0123456789").replace("_", "") != kind.lower()
        return bijector.name if given else kind

    titles = ["base", *(title(step) for step in reversed(chain_steps(flow.bijector)))]
    flow = flow if context is None else flow.given(context)
    return list(zip(titles, flow.stages(), strict=True))


def _table(
    data: Any, columns: Any, size: int, at_most: int | None = None
) -> tuple[np.ndarray | None, list[int], list[str]]:
    """Returns the data as (N, D), the indices of the columns to draw, and their names."""
    names, chosen = [f"x{i}" for i in range(size)], list(range(size))
    if data is not None:
        names = [str(name) for name in getattr(data, "columns", names)]
        data = np.asarray(data, float)
        data = data[:, None] if data.ndim == size == 1 else data
        if data.shape != (len(data), size) or not len(data):
            raise ValueError(f"`data` must have shape (N, {size}). Received: shape={data.shape}")
        if not np.isfinite(data).all():
            raise ValueError(f"`data` must be finite. Received: {np.argwhere(~np.isfinite(data))}")
    if columns is None:
        chosen = chosen[:at_most]
    elif len(columns) == size and all(isinstance(column, str) for column in columns):
        chosen, names = chosen[:at_most], list(columns)
    elif len(columns) and all(column in chosen for column in columns):
        chosen = list(columns)
    else:
        raise ValueError(
            f"`columns` must be {size} names or be indices from 0 to {size - 1}. "
            f"Received: columns={columns!r}"
        )
    return data, chosen, [names[i] for i in chosen]


def _thin(points: np.ndarray, n: int) -> np.ndarray:
    """At most n rows, evenly spaced."""
    return points[:: math.ceil(len(points) / n)]


def _limits(
    tables: Sequence[np.ndarray | None], extent: Any = None, square: bool = False
) -> np.ndarray:
    """Limits (D, 2): those asked for, or such that they hold the bulk of each table."""
    finite = [x[np.isfinite(x).all(axis=1)] for x in tables if x is not None]
    if extent is not None:
        limits = np.asarray(extent, float).reshape(-1, 2)
        if len(limits) != finite[0].shape[1] or not (limits[:, 0] < limits[:, 1]).all():
            raise ValueError(
                "`extent` must be (left, right) or, in 2-D, (left, right, bottom, top), "
                f"with left < right and bottom < top. Received: extent={extent!r}"
            )
        return limits
    low = np.min([np.quantile(x, 0.005, axis=0) for x in finite], axis=0)
    high = np.max([np.quantile(x, 0.995, axis=0) for x in finite], axis=0)
    width = np.where(high > low, high - low, 1.0)
    half = 0.62 * (width.max() if square else width)
    return np.stack([(low + high) / 2 - half, (low + high) / 2 + half], axis=-1)


def _axes(
    ax: Any, count: int, cell: tuple[float, float], per_row: int | None = None
) -> np.ndarray:
    """The Axes that the user brought, or those of a new figure with cells (width, height) in inches."""
    if ax is not None:
        axes = np.ravel(np.asarray(ax, dtype=object))
        if len(axes) != count:
            raise ValueError(f"`ax` must hold one Axes a panel, {count}. Received: {len(axes)}")
        return axes
    import matplotlib.pyplot as plt

    per_row = per_row or (count if count <= 4 else min((3, 4), key=lambda width: -count % width))
    rows = math.ceil(count / per_row)
    # pyplot makes the figure, which is how a notebook learns to show figures, and forgets it at
    # once: a notebook would show it again at the end of the cell, and pyplot would keep it forever.
    with plt.ioff():
        figure = plt.figure(figsize=(cell[0] * per_row, cell[1] * rows), layout="constrained")
    plt.close(figure)
    axes = figure.subplots(rows, per_row, squeeze=False).ravel()
    for spare in axes[count:]:
        spare.remove()
    return axes[:count]


def _frame(
    axis: Axes,
    limits: Any,
    *,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    legend: bool = False,
    equal: bool = True,
) -> None:
    """Sets limits and words; if `equal`, x and y get one scale where their ranges are alike."""
    for limit, set_limit in zip(limits, (axis.set_xlim, axis.set_ylim), strict=False):
        set_limit(limit)
    if len(limits) == 2:
        width, height = np.diff(limits, axis=1)[:, 0]
        alike = equal and 1 / 3 <= width / height <= 3
        axis.set_aspect("equal" if alike else "auto")
    axis.set_title(title, fontsize=9)
    axis.set_xlabel(xlabel, fontsize=9)
    axis.set_ylabel(ylabel, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.locator_params(nbins=5)
    if legend:
        axis.legend(fontsize=8)


def _density(axis: Axes, view: _View, limits: np.ndarray, resolution: int) -> Any:
    """Draws the density, a curve in 1-D and an image in 2-D, and returns what it drew."""
    # At the middle of each pixel, so that pixels times their area sum to a probability.
    steps = (np.arange(resolution) + 0.5) / resolution
    ticks = [low + (high - low) * steps for low, high in limits]
    values = view.density(np.stack([x.ravel() for x in np.meshgrid(*ticks)], axis=-1))
    if len(limits) == 1:
        return axis.plot(ticks[0], values, color=_FLOW, label="flow")[0]
    ranked = np.sort(np.where(np.isfinite(values), values, 0.0))
    level = ranked[np.searchsorted(ranked.cumsum(), 0.99 * ranked.sum())]
    return axis.imshow(
        values.reshape(resolution, resolution),
        extent=limits.ravel(),
        origin="lower",
        interpolation="bilinear",
        cmap="viridis",
        vmin=0.0,
        vmax=ranked[-1] if ranked[-1] <= 2 * level else level,
    )


def _histogram(
    axis: Axes, values: np.ndarray, limits: np.ndarray, color: str, label: str | None = None
) -> None:
    """Draws a histogram, filled if of data, that adds up to the share of values within limits."""
    edges = np.linspace(*limits, 1 + int(np.clip(len(values) ** 0.5, 12, 50)))
    weights = np.full(len(values), 1 / (len(values) * (edges[1] - edges[0])))
    kind = "stepfilled" if color == _DATA else "step"
    axis.hist(values, edges, weights=weights, color=color, label=label, histtype=kind)


def _scatter(axis: Axes, points: np.ndarray, color: Any, label: str | None = None) -> None:
    # Rasterized: a PDF or SVG with thousands of circles is slow to open.
    axis.scatter(*points.T, s=6, c=color, linewidths=0, alpha=0.7, label=label, rasterized=True)
