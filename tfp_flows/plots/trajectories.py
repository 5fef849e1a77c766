"""A picture of continuous flows: the ways from base to data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfp_flows.plots.drawing import DATA_COLOR, FLOW_COLOR, View, axes_for, frame, limits_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["paths"]

_TIMES = np.linspace(0.0, 1.0, 41)


def paths(
    flow: Any,
    *,
    context: Any = None,
    n: int | None = None,
    columns: Sequence[int] = (0, 1),
    extent: Sequence[float] | None = None,
    seed: int = 0,
    ax: Axes | None = None,
) -> Figure:
    """Draw the ways of samples of a continuous flow from base to data.

    1-D: positions over the time, 0 at the base. More dimensions: lines in the plane of two columns,
    from orange points, draws of the base, to teal ones, those of the flow.

    Args:
      flow: a `Flow` with one `Continuous` bijector, or a `FlowModel` of one, drawn in the units of
        its data.
      n: number of samples; 50 in 1-D, otherwise 300, unless given.
      columns: indices of the two columns to draw, if D > 2.
      context, extent, seed, ax: see the module.

    Returns:
      The Figure.

    Example:
      >>> flow = flows.ffjord(2, hidden_units=(16,), seed=0)
      >>> plots.paths(flow).savefig("paths.png")
    """
    if not hasattr(flow, "path"):
        raise ValueError(f"`flow` must be a Flow or a FlowModel. Received: flow={flow!r}")
    size = flow.event_shape[-1]
    view = View(flow, context, n or (50 if size == 1 else 300), seed)
    given = {} if context is None else {"context": context}
    way = np.asarray(flow.path(view.samples, _TIMES, **given), float)
    axis = axes_for(ax, 1, (4.8, 3.2) if size == 1 else (4.4, 4.4))[0]
    if size == 1:
        axis.plot(_TIMES, way[..., 0], color=FLOW_COLOR, linewidth=0.6, alpha=0.7)
        frame(axis, (), xlabel="time", ylabel="x0")
        axis.set_xlim(0, 1)
        if extent is not None:
            axis.set_ylim(*extent)
        return axis.figure.figure
    if len(columns) != 2 or not all(column in range(size) for column in columns):
        raise ValueError(f"`columns` must be two indices. Received: columns={columns!r}")
    way = way[..., list(columns)]
    axis.plot(way[..., 0], way[..., 1], color="0.6", linewidth=0.4, alpha=0.6, zorder=1)
    for points, color, label in ((way[0], DATA_COLOR, "base"), (way[-1], FLOW_COLOR, "flow")):
        axis.scatter(*points.T, s=8, c=color, linewidths=0, label=label, zorder=2)
    limits = limits_of([way[0], way[-1]], extent, square=True)
    names = [f"x{column}" for column in columns]
    frame(axis, limits, xlabel=names[0], ylabel=names[1], legend=True)
    return axis.figure.figure
