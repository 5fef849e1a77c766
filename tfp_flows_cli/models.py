"""Models for a table: their family, size, dtype and optimizer, by its rows and what is asked."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pandas as pd
from tensorflow_probability import bijectors as tfb

from tfp_flows import Flow, FlowModel, bases, distributions, flows
from tfp_flows_cli.checks import has_outliers
from tfp_flows_cli.errors import InputError
from tfp_flows_cli.recipe import Recipe, Rows

__all__ = ["new_model"]

_BASES = {
    "mixture": lambda size, dtype, seed: bases.mixture(size, dtype=dtype, seed=seed),
    "normal": lambda size, dtype, seed: bases.normal(size, dtype=dtype),
    "student_t": lambda size, dtype, seed: bases.student_t(size, dtype=dtype),
}
_FEW_ROWS = 1000
_FAR_OUT = 1e6  # Times the range of the middle 90 %.
_FLAGS = {"hidden_units": "hidden", "context_size": "context"}


def new_model(
    recipe: Recipe, rows: Rows, *, index: int = 0, learning_rate: float | None
) -> FlowModel:
    """A compiled model for the training rows, of a size and a dtype that suit them.

    Of several, `index` says which, from 0.
    """
    seed = recipe.seed + index
    family = getattr(flows, recipe.flow)
    known = inspect.signature(family).parameters
    n, size = len(rows), rows.y.shape[1] - len(recipe.labels)
    small = n < _FEW_ROWS
    dtype = recipe.options.get("dtype") or _dtype(rows)
    asked = {k: v for k, v in recipe.options.items() if k not in ("base", "steps", "dtype")}
    categories = [len(words) for words in recipe.labels.values()]
    context_size = None if rows.c is None else rows.c.shape[1]
    if categories or context_size:
        asked["context_size"] = sum(categories) + (context_size or 0)
    for name in asked:
        if name not in known:
            flag = _FLAGS.get(name, name)
            raise InputError(f"--{flag}: the flow {recipe.flow} has no such option.")
    # Small tables call for small networks, or the flow learns the rows by heart.
    width = int(np.clip(2 ** round(math.log2(n) / 2), 16, 128))
    usual: dict[str, Any] = {}
    if "hidden_units" in known:
        usual = {"layers": 4 if small else 8, "hidden_units": [width] if small else [width, width]}
    if recipe.is_regression:
        # More layers of one column are no richer than more bins.
        usual = {"layers": 1, "hidden_units": [128, 128], "activation": "silu"}
    if "dropout" in known:
        usual["dropout"] = recipe.dropout_of(index)
    if "bins" in known:
        usual["bins"] = 4 if small else 8
    if "linear" in known and size > 1 and not recipe.on_circle:
        # It starts where columns are uncorrelated: tight relations are there from the start.
        usual["linear"] = "lu"
    options = {**usual, **asked, "dtype": dtype, "seed": seed}
    if options.get("linear") == "none":
        options["linear"] = None
    if "base" in recipe.options:
        options["base"] = _BASES[recipe.options["base"]](size, dtype, seed)
    if isinstance(options.get("support"), list):
        parts = [tuple(p) if isinstance(p, list) else p for p in options["support"]]
        options["support"] = parts[0] if len(parts) == 1 else parts
    steps = recipe.options.get("steps")
    if steps is not None or categories:
        options.setdefault("support", "real")
    try:
        flow: Any = family(size, **{k: v for k, v in options.items() if k in known})
        if recipe.degrees:
            to_degrees = tfb.Scale(np.asarray(180 / np.pi, dtype))
            flow = Flow(flow.distribution, tfb.Chain([to_degrees, *flow.bijector.bijectors]))
        if steps is not None:
            steps = steps * size if len(steps) == 1 else steps
            flow = distributions.Dequantized(flow, steps)
            flow.seed = recipe.seed
        if categories:
            flow = distributions.WithCategories(
                flow, categories, context_size=context_size, seed=seed
            )
        model = FlowModel(flow)
        if not recipe.degrees:
            _adapt(model, recipe, rows)
    except ValueError as error:
        raise InputError(f"{recipe.data}: {rows.in_table(str(error))}.") from error
    # Like a Gaussian prior on the weights, decay weighs less, the more rows there are. Averages of
    # the weights over the last 50 steps or so are what is validated and kept: they jitter less.
    optimizer = keras.optimizers.AdamW(
        learning_rate or _usual_rate(recipe, n),
        weight_decay=20 / n,
        clipnorm=10.0,
        use_ema=True,
        ema_momentum=0.98,
    )
    model.compile(optimizer)
    return model


def _usual_rate(recipe: Recipe, rows: int) -> float:
    """The learning rate for so many rows for training."""
    if recipe.is_regression:
        return 3e-3
    return 5e-3 if rows < _FEW_ROWS else 1e-3


def _adapt(model: FlowModel, recipe: Recipe, rows: Rows) -> None:
    """Standardize, by quartiles where outliers would squeeze the others.

    Not where they are so far out that their likelihood alone would decide the training.
    """
    frames = _named(recipe, rows)
    low, middle, high = np.quantile(rows.y, [0.05, 0.5, 0.95], axis=0)
    near = (np.abs(rows.y - middle) <= _FAR_OUT * (high - low)).all()
    outliers = any(has_outliers(values) for values in rows.y.T)
    if outliers and near and not recipe.in_own_units:
        with contextlib.suppress(ValueError):  # Half of the values of a column are equal.
            model.adapt(*frames, scale="robust")
            return
    model.adapt(*frames)


def _named(recipe: Recipe, rows: Rows) -> Sequence[pd.DataFrame]:
    """The rows as frames, for messages to have the names of columns."""
    frames = [pd.DataFrame(rows.y, columns=recipe.columns)]
    if rows.c is not None:
        frames.insert(0, pd.DataFrame(rows.c, columns=recipe.context))
    return frames


def _dtype(rows: Rows) -> str:
    """float64 if float32, with its 7 digits, would blur a column or overflow."""
    x = np.hstack(rows.inputs)
    scale, largest = x.std(0), np.abs(x).max(0)
    constant = np.ptp(x, axis=0) == 0  # Of the context.
    fine = (constant | ((scale > 1e-4 * largest) & (scale > 1e-30))) & (largest < 1e30)
    return "float32" if fine.all() else "float64"
