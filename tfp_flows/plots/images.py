"""Pictures of flows of images: samples as a grid, and stages as strips."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfp_flows.distributions.chain import flatten_chain
from tfp_flows.plots.drawing import axes_for, title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_samples", "draw_stages", "is_of_images"]


def is_of_images(flow: Any) -> bool:
    """Whether events are images, `(H, W, C)`."""
    shape = getattr(flow, "event_shape", None)
    return shape is not None and shape.rank == 3


def draw_samples(
    flow: Any, data: Any, n: int | None, context: Any, seed: int, temperature: float, ax: Any
) -> Figure:
    """A grid of samples, and one of data beside it, if there are any."""
    context = None if context is None else np.asarray(context)
    count = 64 if n is None else n
    kwargs: dict[str, Any] = {} if temperature == 1.0 else {"temperature": temperature}
    if context is not None:
        kwargs["context"] = context
    rows = 1 if context is None or context.ndim == 1 else len(context)
    drawn = flow.sample(math.ceil(count / rows), seed=tf.constant([0, seed]), **kwargs)
    # One context a row, in the order in which they were given.
    drawn = np.asarray(drawn)
    drawn = np.moveaxis(drawn, 0, 1) if drawn.ndim == 5 else drawn
    grids = [("samples", drawn.reshape(-1, *drawn.shape[-3:])[:count])]
    if data is not None:
        data = np.asarray(data)
        if data.shape[1:] != drawn.shape[-3:]:
            raise ValueError(
                f"`data` must have shape (N, {', '.join(map(str, drawn.shape[-3:]))}). "
                f"Received: shape={data.shape}"
            )
        grids.insert(0, ("data", data[:count]))
    limits = _limits(grids[0][1])
    per_row = drawn.shape[1] if rows > 1 else math.ceil(math.sqrt(count))
    axes = axes_for(ax, len(grids), (3.6, 3.8))
    for axis, (title, images) in zip(axes, grids, strict=True):
        _draw(axis, images, per_row, limits, title)
    return axes[0].figure.figure


def draw_stages(flow: Any, context: Any, n: int, max_stages: int, seed: int, ax: Any) -> Figure:
    """A strip of images a stage: the same draws of the base, pushed on."""
    if context is not None and hasattr(flow, "standardize_context"):
        context = flow.standardize_context(context)
    while not hasattr(flow, "bijector"):  # A model, or a distribution of rounded pixels.
        if not hasattr(flow, "distribution"):
            raise ValueError(f"`flow` must be a flow with a bijector. Received: flow={flow!r}")
        flow = flow.distribution
    titles = ["base", *map(title_of, reversed(flatten_chain(flow.bijector)))]
    given = flow.given(context) if context is not None else flow
    if given.batch_shape.rank:
        raise ValueError(
            f"`context` must be that of one image. Received: shape={np.shape(context)}"
        )
    parts = flatten_chain(given.bijector)[::-1]
    every = [given.distribution.sample(n, seed=tf.constant([0, seed]))]
    for part in parts:
        every.append(part.forward(every[-1]))
    shown = np.linspace(0, len(every) - 1, min(max_stages, len(every))).round().astype(int)
    axes = axes_for(ax, len(shown), (0.8 * n, 1.0), per_row=1)
    for axis, k in zip(axes, shown, strict=True):
        images = every[k]
        # What later only reshapes makes images of groups of pixels.
        for part in parts[k:]:
            if part.forward_event_shape(images.shape[1:]) != images.shape[1:]:
                images = part.forward(images)
        images = np.asarray(images)
        _draw(axis, images, n, _limits(images), f"{k}: {titles[k]}")
    return axes[0].figure.figure


def _draw(
    axis: Axes, images: np.ndarray, per_row: int, limits: tuple[float, float], title: str
) -> None:
    """Images side by side, with a line between them; grey, or in colours of three channels."""
    count, height, width, channels = images.shape
    rows = math.ceil(count / per_row)
    low, high = limits
    grid = np.ones((rows * (height + 1) - 1, per_row * (width + 1) - 1, channels))
    for i, image in enumerate(np.clip((images - low) / (high - low), 0.0, 1.0)):
        y, x = i // per_row * (height + 1), i % per_row * (width + 1)
        grid[y : y + height, x : x + width] = image
    shown = grid if channels == 3 else grid.mean(-1)
    axis.imshow(shown, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    axis.set_title(title, fontsize=9)
    axis.set_axis_off()


def _limits(images: np.ndarray) -> tuple[float, float]:
    """What is drawn black and white: the bulk of the values lies between."""
    finite = images[np.isfinite(images)]
    low, high = np.quantile(finite, [0.005, 0.995]) if finite.size else (0.0, 1.0)
    return float(low), float(high if high > low else low + 1)
