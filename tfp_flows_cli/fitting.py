"""The course of a fit: flows one after another, classical densities, and the stack of them."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from pathlib import Path

import numpy as np
import typer

from tfp_flows import FlowModel, distributions
from tfp_flows.model import OutlierWarning, TiedValuesWarning, stack, unstack
from tfp_flows.model.ties import tied_columns
from tfp_flows.ops.files import atomic_write
from tfp_flows_cli import classical, fitted, pictures
from tfp_flows_cli.classical import Candidate
from tfp_flows_cli.models import new_model
from tfp_flows_cli.plot import make_folder
from tfp_flows_cli.recipe import Recipe, Rows
from tfp_flows_cli.report import report
from tfp_flows_cli.splits import Split
from tfp_flows_cli.training import progress, train

__all__ = ["Training", "done_epochs", "finish", "fit_members", "new_folder", "tie_note"]

_MOST_COLUMNS_OF_KERNELS = 12
_MOST_MIXTURES = 8  # In the stack.
_SHARE_OF_CLASSICAL = 0.25  # Of the time, at most.
_SCORES = 1001


@dataclasses.dataclass(frozen=True)
class Training:
    """How long to train: `minutes` is for all flows and the classical densities together."""

    epochs: int
    patience: int
    batch_size: int | None
    learning_rate: float | None
    minutes: float


def new_folder(out: Path, recipe: Recipe, split: Split, learning_rate: float | None) -> FlowModel:
    """Make the folder of a fit, with its recipe and the first flow as it starts."""
    model = _new_model(recipe, split, 0, learning_rate)
    make_folder(out.parent)
    with atomic_write(out, overwrite=False) as folder:
        folder.mkdir()
        recipe.save(folder / "flow.json")
        model.save(_member_file(folder, recipe, 0))
    return model


def fit_members(
    out: Path, recipe: Recipe, split: Split, training: Training, first: FlowModel | None
) -> tuple[list[FlowModel], list[Candidate]]:
    """Train all flows, from where they are, and fit the classical densities.

    `first` is the first flow, if the fit is new.
    """
    end = time.monotonic() + 60 * training.minutes
    classical_seconds = _SHARE_OF_CLASSICAL * 60 * training.minutes
    models: list[FlowModel] = []
    others: list[Candidate] = []
    count = 1 if recipe.plain else recipe.members
    for i in range(count):
        file = _member_file(out, recipe, i)
        model = first
        if i or model is None:
            model = _load_or_make(file, recipe, split, i, training.learning_rate)
        if not i:
            weights = sum(math.prod(variable.shape) for variable in model.trainable_variables)
            typer.echo(f"{recipe.flow}: {weights:,} weights, {model.event_dtype}.")
        noise = recipe.noise_of(i, len(split.train))
        if count > 1:
            typer.echo(f"Flow {i + 1} of {count}, with noise {noise:.2g}:")
        train(
            model,
            split.train,
            split.validation,
            file,
            out / recipe.history_of(i),
            epochs=training.epochs,
            patience=training.patience,
            batch_size=training.batch_size,
            noise=noise,
            categories=len(recipe.labels),
            seed=recipe.seed + i,
            seconds=max(end - time.monotonic() - (0 if i else classical_seconds), 1.0)
            / (count - i),
        )
        models.append(model)
        if not i:  # Now, for the first epoch to be seen early.
            others = _classical(model, recipe, split, classical_seconds)
    return models, others


def finish(
    out: Path, recipe: Recipe, split: Split, models: list[FlowModel], others: list[Candidate]
) -> None:
    """Stack what was fitted, save it, and write the report and the pictures."""
    validation = split.validation
    model = models[0]
    if not recipe.plain and len(validation):
        chosen = [
            *[one for one in others if "mixture" not in one.name],
            *[one for one in others if "mixture" in one.name][:_MOST_MIXTURES],
        ]
        model = stack(
            models, validation.y, validation.c, others=[one.distribution for one in chosen]
        )
    if not recipe.plain:
        model.save(out / "flow.keras")
    scores = np.sort(fitted.log_prob(model, split.train))
    at = np.linspace(0, len(scores) - 1, min(len(scores), _SCORES)).round().astype(int)
    judged = validation if len(validation) else split.train
    best = int(np.argmax([fitted.log_prob(each, judged).mean() for each in models]))
    recipe = dataclasses.replace(recipe, best=best + 1, scores=scores[at].astype(float).tolist())
    recipe.save(out / "flow.json")
    if len(split.test):
        _report(model, models, recipe, split, others)
    typer.echo("")
    written = pictures.draw(
        model,
        recipe,
        split.every,
        out,
        flow=model if recipe.plain else models[best],
        history=out / recipe.history_of(best),
    )
    typer.echo(f"Wrote to {out}: flow.keras, flow.json, history.csv, {', '.join(written)}")


def tie_note(recipe: Recipe, rows: Rows) -> str | None:
    """A sentence that names the columns with ties, where these are not dequantized."""
    steps = recipe.options.get("steps")
    first = len(recipe.labels)
    tied = [] if steps is not None else tied_columns(rows.y[:, first:])
    if not tied:
        return None
    named = ", ".join(
        f"{recipe.columns[first + column]!r} ({100 * share:.2g} % of its values are distinct)"
        for column, share, _ in tied
    )
    grid = [0.0] * (len(recipe.columns) - first)
    for column, _, step in tied:
        grid[column] = step or 0.0
    remedy = ""
    if any(grid):
        steps = ",".join(f"{step:g}" for step in grid)
        remedy = f" --dequantize {steps} fits probabilities of rounded values instead."
    floor = ""
    if not recipe.context:
        floor = ": variances of mixtures stay above 1e-6 of those of the columns"
    return (
        f"Many values are equal in {named}. A density can grow there without bound{floor}.{remedy}"
    )


def _load_or_make(
    file: Path, recipe: Recipe, split: Split, index: int, learning_rate: float | None
) -> FlowModel:
    if not file.exists():
        model = _new_model(recipe, split, index, learning_rate)
        model.save(file)
        return model
    model = FlowModel.load(file)
    if learning_rate is not None:
        model.optimizer.learning_rate.assign(learning_rate)
    return model


def _new_model(recipe: Recipe, split: Split, index: int, learning_rate: float | None) -> FlowModel:
    with warnings.catch_warnings():
        # Both have been said, with rows as they are in the table.
        warnings.simplefilter("ignore", TiedValuesWarning)
        warnings.simplefilter("ignore", OutlierWarning)
        if index:
            warnings.simplefilter("ignore")  # The first has said all.
        return new_model(recipe, split.train, index=index, learning_rate=learning_rate)


def _classical(model: FlowModel, recipe: Recipe, split: Split, seconds: float) -> list[Candidate]:
    """Densities in the model's units; none where it has units of its own, or context."""
    if recipe.in_own_units or recipe.context or not len(split.validation):
        return []
    x = np.asarray(model.event_standardizer(split.train.y), "float64")
    validation = np.asarray(model.event_standardizer(split.validation.y))
    dtype = model.event_dtype
    found = [classical.gaussian(x, validation, dtype)]
    if len(x) > x.shape[1] + 1 and x.shape[1] <= _MOST_COLUMNS_OF_KERNELS:
        found.append(classical.kernel_density(x, validation, dtype, seed=recipe.seed))
    found += classical.gaussian_mixtures(x, validation, dtype, seconds=seconds, seed=recipe.seed)
    return found


def _report(
    model: FlowModel,
    models: list[FlowModel],
    recipe: Recipe,
    split: Split,
    others: list[Candidate],
) -> None:
    test, name = split.test, f"{recipe.flow} flow"
    scores = {name: fitted.log_prob(model, test)}
    weights: list[str] = []
    if not recipe.plain:
        parts = unstack(model)
        alone = _weights(parts, models)
        name = f"stack of {len(parts)}" if len(parts) > 1 else f"{next(iter(alone))}, alone"
        scores = {name: scores.popitem()[1]}
        scores[f"best {recipe.flow} flow"] = fitted.log_prob(models[recipe.best - 1], test)
        if len(parts) > 1:
            weights = [f"{part} {weight:.2f}" for part, weight in alone.items()]
    z = models[0].event_standardizer(test.y)
    log_det = float(models[0].event_standardizer.log_det())
    shown = {one.name.split(" of ")[0]: one for one in reversed(others)}  # The best mixture.
    for kind in ("Gaussian", "kernel density estimate", "mixture"):
        if kind in shown:
            one = shown[kind]
            scores[one.name] = np.asarray(one.distribution.log_prob(z)) + log_det
    if recipe.labels:
        scores["shares and Gaussian regression"] = classical.shares_and_regression(
            split.train.y, test.y, [len(words) for words in recipe.labels.values()]
        )
    elif test.c is not None and split.train.c is not None:
        scores["linear regression, Gaussian"] = classical.linear_regression(
            split.train.y, split.train.c, test.y, test.c
        )
    if recipe.on_circle:
        period = 360.0 if recipe.degrees else 2 * np.pi
        uniform = np.full(len(test), -test.y.shape[1] * np.log(period))
        scores["uniform on the circle"] = uniform
    typer.echo("")
    for line in report(name, scores, split.test.numbers.tolist(), weights):
        typer.echo(line)


def _weights(parts: list[tuple[float, FlowModel]], models: list[FlowModel]) -> dict[str, float]:
    """The weights of the parts of a stack, those of mixtures together."""
    words: dict[str, float] = {}
    for weight, part in parts:
        made = part.distribution
        name = "kernel density estimate"
        if isinstance(made, distributions.GaussianMixture):
            name = "Gaussian" if made.components == 1 else "mixtures of Gaussians"
        for i, each in enumerate(models):
            name = f"flow {i + 1}" if each.distribution is made else name
        words[name] = words.get(name, 0.0) + weight
    return words


def _member_file(out: Path, recipe: Recipe, index: int) -> Path:
    return out / ("flow.keras" if recipe.plain else f"member-{index + 1}.keras")


def done_epochs(out: Path) -> int:
    """How many epochs the flows of a folder have had: the least of all."""
    return min(progress(path).epochs for path in out.glob("history*.csv"))
