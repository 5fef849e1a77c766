"""A picture of how a training went."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from tfp_flows.plots.drawing import DATA_COLOR, FLOW_COLOR, axes_for, frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["history"]


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
        logs = {name: table[name] for name in table.dtype.names or ()}
    else:
        logs = getattr(history, "history", history)
    losses = {name: np.asarray(logs[name], float) for name in ("loss", "val_loss") if name in logs}
    losses = {name: values for name, values in losses.items() if np.isfinite(values).any()}
    if "loss" not in losses:
        raise ValueError(f"`history` must hold a finite 'loss'. Received: keys {sorted(logs)}")
    epochs = logs.get("epoch", getattr(history, "epoch", range(len(losses["loss"]))))

    axis = axes_for(ax, 1, (4.8, 3.2))[0]
    for name, values in losses.items():
        label, color = ("training", DATA_COLOR) if name == "loss" else ("validation", FLOW_COLOR)
        every = len(epochs) // len(values)  # more than 1 with `validation_freq`
        at = 1 + np.asarray(epochs)[every - 1 :: every][: len(values)]
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
    frame(axis, (), xlabel="epoch", ylabel="negative log-likelihood (nats per row)", legend=True)
    axis.xaxis.get_major_locator().set_params(integer=True)
    return axis.figure.figure
