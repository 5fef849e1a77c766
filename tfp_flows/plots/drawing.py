"""What the pictures of `tfp_flows.plots` are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows.distributions.chain import flatten_chain
from tfp_flows.distributions.flow import Flow

if TYPE_CHECKING:
    from matplotlib.axes import Axes


__all__ = [
    "DATA_COLOR",
    "FLOW_COLOR",
    "View",
    "axes_for",
    "draw_density",
    "draw_histogram",
    "draw_scatter",
    "frame",
    "limits_of",
    "named_stages",
    "read_table",
    "thin",
]

FLOW_COLOR, DATA_COLOR = "#2a788e", "#f0a860"  # Teal, from the middle of viridis, and orange.


class View:
    """What pictures need of a flow: samples (n, D), drawn once, and the density, all in NumPy."""

    def __init__(self, flow: Any, context: Any, n: int, seed: int, mixture: bool = False):
        if not (hasattr(flow, "log_prob") and hasattr(flow, "sample")):
            raise ValueError(f"`flow` must have `log_prob` and `sample`. Received: flow={flow!r}")
        if n < 1:
            raise ValueError(f"`n` must be at least 1. Received: n={n}")
        rows: tuple[int, ...] = ()
        self._flow, self._kwargs = flow, {}
        if context is not None:
            if isinstance(flow, tfd.Distribution) and not isinstance(flow, Flow):
                raise ValueError(f"`context` must be None, TFP would ignore it, for flow={flow!r}")
            context = np.asarray(context)
            if context.ndim != 1 and not (mixture and context.ndim == 2 and len(context)):
                shapes = "(C,) or (N, C)" if mixture else "(C,)"
                raise ValueError(f"`context` must be {shapes}. Received: shape={context.shape}")
            if context.ndim == 2:
                context = thin(context, n)
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


def named_stages(flow: Any, context: Any) -> list[tuple[str, tfd.Distribution]]:
    """A name and a distribution after each of 0, 1, ..., K bijectors."""
    distribution: Any = getattr(flow, "distribution", None) if hasattr(flow, "fit") else flow
    if not hasattr(distribution, "bijector"):
        raise ValueError(f"`flow` must be a flow with a bijector. Received: flow={flow!r}")
    if not hasattr(flow, "stages"):
        flow = Flow(distribution.distribution, distribution.bijector)

    titles = ["base", *map(title_of, reversed(flatten_chain(distribution.bijector)))]
    return list(zip(titles, flow.stages(context), strict=True))


def title_of(bijector: tfb.Bijector) -> str:
    """What a picture calls a bijector: the name that it was given, or its kind."""
    kind = type(bijector).__name__.lstrip("_")  # TFP has both `Invert` and `_Invert`.
    if kind == "Invert":
        return f"inverse of {title_of(bijector.bijector)}"
    given = bijector.name.rstrip("_0123456789").replace("_", "") != kind.lower()
    return bijector.name if given else kind


def read_table(
    data: Any, columns: Any, size: int, at_most: int | None = None
) -> tuple[np.ndarray | None, list[int], list[str]]:
    """Returns the data as (N, D), the indices of the columns to draw, and their names."""
    names, chosen = [f"x{i}" for i in range(size)], list(range(size))
    if data is not None:
        names = [str(name) for name in getattr(data, "columns", names)]
        try:
            data = np.asarray(data, float)
        except (TypeError, ValueError) as error:
            raise ValueError(f"`data` must be numbers. Received: {error}") from error
        data = data[:, None] if data.ndim == size == 1 else data
        if data.shape != (len(data), size) or not len(data):
            raise ValueError(f"`data` must have shape (N, {size}). Received: shape={data.shape}")
        if not np.isfinite(data).all():
            row, column = np.argwhere(~np.isfinite(data))[0]
            bad = f"{data[row, column]} in row {row}, column {column}"
            raise ValueError(f"`data` must be finite. Received: {bad}")
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


def thin(points: np.ndarray, n: int) -> np.ndarray:
    """At most n rows, evenly spaced."""
    return points[:: math.ceil(len(points) / n)]


def limits_of(
    tables: Sequence[np.ndarray | None], extent: Any = None, square: bool | None = None
) -> np.ndarray:
    """Limits (D, 2): those asked for, or such that they hold the bulk of each table.

    Square if asked for, or, unless forbidden, if there are two columns and their ranges are alike.
    """
    finite = [x[np.isfinite(x).all(axis=1)] for x in tables if x is not None]
    if extent is not None:
        limits = np.asarray(extent, float)
        if limits.shape != (2 * finite[0].shape[1],) or not (limits[::2] < limits[1::2]).all():
            raise ValueError(
                "`extent` must be (left, right) or, in 2-D, (left, right, bottom, top), "
                f"with left < right and bottom < top. Received: extent={extent!r}"
            )
        return limits.reshape(-1, 2)
    low = np.min([np.quantile(x, 0.005, axis=0) for x in finite], axis=0)
    high = np.max([np.quantile(x, 0.995, axis=0) for x in finite], axis=0)
    width = np.where(high > low, high - low, 1.0)
    if square or (square is None and len(width) == 2 and _alike(*width)):
        width = width.max()
    half = 0.62 * width
    return np.stack([(low + high) / 2 - half, (low + high) / 2 + half], axis=-1)


def _alike(width: float, height: float) -> bool:
    """Whether x and y can share one scale, as of a toy, and are not, say, minutes and metres."""
    return 1 / 3 <= width / height <= 3


def axes_for(
    ax: Any, count: int, cell: tuple[float, float], per_row: int | None = None
) -> np.ndarray:
    """The Axes that the user brought, or new ones; a cell is (width, height) in inches."""
    if ax is not None:
        axes = np.ravel(np.asarray(ax, dtype=object))
        if len(axes) != count:
            raise ValueError(f"`ax` must hold one Axes a panel, {count}. Received: {len(axes)}")
        return axes
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    per_row = per_row or (count if count <= 4 else min((3, 4), key=lambda width: -count % width))
    rows = math.ceil(count / per_row)
    # pyplot isn't told of the figure: it would keep it forever, and a notebook would show it twice,
    # as the value of the cell and at the cell's end. But a notebook can show no figure at all
    # until pyplot has loaded its backend, which is what this call is for.
    plt.draw_if_interactive()
    figure = Figure(figsize=(cell[0] * per_row, cell[1] * rows), layout="constrained")
    axes = figure.subplots(rows, per_row, squeeze=False).ravel()
    for spare in axes[count:]:
        spare.remove()
    return axes[:count]


def frame(
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
    setters: list[Callable[[Any], Any]] = [axis.set_xlim, axis.set_ylim]
    for limit, set_limit in zip(limits, setters, strict=False):
        set_limit(limit)
    if len(limits) == 1:
        axis.set_ylim(bottom=0)
    if len(limits) == 2:
        axis.set_aspect("equal" if equal and _alike(*np.ptp(limits, axis=1)) else "auto")
    writers: dict[Callable[..., Any], str] = {
        axis.set_title: title,
        axis.set_xlabel: xlabel,
        axis.set_ylabel: ylabel,
    }
    for write, words in writers.items():
        if words:  # Else what the user has written stays.
            write(words, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.locator_params(nbins=5)
    if legend:
        if axis.patches:  # matplotlib would lay the legend over the histogram: make room above it.
            axis.set_ylim(0, 1.18 * axis.get_ylim()[1])
            axis.legend(fontsize=8, loc="upper center", ncols=2)
        else:
            axis.legend(fontsize=8, markerscale=2 if axis.collections else 1)


def draw_density(axis: Axes, view: View, limits: np.ndarray, resolution: int) -> Any:
    """Draws the density, a curve in 1-D and an image in 2-D, and returns what it drew."""
    # At the middle of each pixel, so that pixels times their area sum to a probability.
    steps = (np.arange(resolution) + 0.5) / resolution
    ticks = [low + (high - low) * steps for low, high in limits]
    values = view.density(np.stack([x.ravel() for x in np.meshgrid(*ticks)], axis=-1))
    if len(limits) == 1:
        return axis.plot(ticks[0], values, color=FLOW_COLOR, label="flow")[0]
    left, right, bottom, top = map(float, limits.ravel())
    axis.set_facecolor("#440154")  # No density, as TFP's NaN outside a bijector's range means.
    ranked = np.sort(np.where(np.isfinite(values), values, 0.0))
    level = ranked[np.searchsorted(ranked.cumsum(), 0.99 * ranked.sum())]
    return axis.imshow(
        values.reshape(resolution, resolution),
        extent=(left, right, bottom, top),
        origin="lower",
        interpolation="bilinear",
        cmap="viridis",
        vmin=0.0,
        vmax=ranked[-1] if ranked[-1] <= 2 * level else level,
    )


def draw_histogram(
    axis: Axes,
    values: np.ndarray,
    limits: np.ndarray,
    color: str,
    label: str | None = None,
    filled: bool = False,
    count: int | None = None,
) -> None:
    """Draws a histogram that adds up to the share of the values within the limits.

    It has as many bins as suit `count` values, for histograms that are compared to have the same.
    """
    low, high = limits
    count = len(values) if count is None else count
    edges = np.linspace(low, high, 1 + int(np.clip(count**0.5, 24, 48))).tolist()
    weights = np.full(len(values), 1 / (len(values) * (edges[1] - edges[0])))
    style = {"histtype": "stepfilled", "alpha": 0.5} if filled else {"histtype": "step"}
    axis.hist(values, edges, weights=weights, color=color, label=label, **style)


def draw_scatter(
    axis: Axes, points: np.ndarray, color: Any, label: str | None = None, alpha: float = 0.7
) -> None:
    # Rasterized: a PDF or SVG with thousands of circles is slow to open.
    x, y = points.T
    axis.scatter(x, y, s=6, c=color, linewidths=0, alpha=alpha, label=label, rasterized=True)
