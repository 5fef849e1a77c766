"""The commands and their options: reads and checks what the user gave, then calls `fitting`."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from typer import Argument, Option

from tfp_flows.cli import options, tables
from tfp_flows.cli.recipe import Recipe
from tfp_flows.cli.tables import InputError
from tfp_flows.ops.files import atomic_write

__all__ = ["app", "main"]

app = typer.Typer(
    name="tfp-flows",
    help="Normalizing flows of tables of numbers: fit, score, sample and plot.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

Data = Annotated[
    str, Argument(help="CSV, Parquet, .npy or .npz file, or a built-in set: faithful.")
]
Model = Annotated[Path, Argument(help="A .keras file, or the folder that `fit` made.")]
BY_ROWS = "by number of rows"


def main() -> None:
    """The entry point of `tfp-flows`."""
    os.environ.setdefault("MPLBACKEND", "Agg")  # In this process: figures need no display.
    warnings.formatwarning = lambda message, *_, **__: f"Warning: {message}\n"
    app()


@contextlib.contextmanager
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except (InputError, OSError) as error:
        typer.echo(f"Error: {_in_words(error)}", err=True)
        raise typer.Exit(1) from error


def _in_words(error: InputError | OSError) -> str:
    if isinstance(error, InputError):
        return str(error)
    text = " ".join((error.strerror or str(error)).split())
    return f"{error.filename}: {text}." if error.filename else f"{text}."


@app.command()
def fit(
    data: Annotated[
        str | None, Argument(help=Data.__metadata__[0].help, show_default="faithful")
    ] = None,
    flow: Annotated[
        str | None, Option(help="Family, as in tfp_flows.flows.", show_default=Recipe.flow)
    ] = None,
    columns: Annotated[
        str | None, Option(help="Columns to model: A,B.", show_default="all but the context")
    ] = None,
    context: Annotated[
        str | None, Option(help="Columns that condition them: C,D.", show_default="none")
    ] = None,
    epochs: Annotated[int, Option(help="Most epochs to train, resumed ones included.")] = 500,
    patience: Annotated[int, Option(help="Stop after so many epochs without progress.")] = 30,
    batch_size: Annotated[int | None, Option(show_default=BY_ROWS)] = None,
    learning_rate: Annotated[
        float | None, Option(help="It halves when progress stalls.", show_default=BY_ROWS)
    ] = None,
    noise: Annotated[
        float | None,
        Option(help="Blur of training rows, in deviations of a column.", show_default=BY_ROWS),
    ] = None,
    layers: Annotated[int | None, Option(help="Number of bijectors.", show_default=BY_ROWS)] = None,
    hidden: Annotated[
        str | None, Option(help="Hidden widths of each network: 64,64.", show_default=BY_ROWS)
    ] = None,
    validation: Annotated[
        float | None,
        Option(
            help="Share of the rows that says when to stop.", show_default=str(Recipe.validation)
        ),
    ] = None,
    test: Annotated[
        float | None,
        Option(
            help="Share of the rows that is held out for the report.", show_default=str(Recipe.test)
        ),
    ] = None,
    seed: Annotated[
        int | None, Option(help="Of the split and the training.", show_default=str(Recipe.seed))
    ] = None,
    out: Annotated[
        Path | None, Option(help="New folder for the results.", show_default="runs/NAME OF DATA")
    ] = None,
    resume: Annotated[
        bool, Option("--resume", help="Go on from the best epoch of the fit in --out.")
    ] = False,
) -> None:
    """Fit a flow to a table, or to some columns given others, and compare it with baselines.

    Rows are split at random: most are for training, --validation of them say when to stop, and
    --test of them are held out for the report: their log-likelihood beside that of a Gaussian and
    a kernel density estimate or, given a context, of linear regression.

    Writes flow.keras, flow.json, history.csv, stages.png, samples.png, marginals.png, history.png
    and, of one or two columns, density.png.
    """
    with _errors_in_one_line():
        asked = {
            "columns": options.names("--columns", columns),
            "context": options.names("--context", context),
            "flow": flow,
            "layers": options.integer("--layers", layers, least=1),
            "hidden": options.widths("--hidden", hidden),
            "validation": options.number("--validation", validation, below=1, zero=True),
            "test": options.number("--test", test, below=1, zero=True),
            "seed": options.integer("--seed", seed, least=0),
        }
        asked = {name: value for name, value in asked.items() if value is not None}
        options.integer("--epochs", epochs, least=1)
        options.integer("--patience", patience, least=1)
        options.integer("--batch-size", batch_size, least=1)
        options.number("--learning-rate", learning_rate, below=math.inf, zero=False)
        options.number("--noise", noise, below=1, zero=True)
        out = out or Path("runs") / Path(data or "faithful").stem
        if out.exists() and not resume:
            raise InputError(f"{out} exists: choose another --out, or --resume the fit in it.")
        if resume:
            recipe = Recipe.load(out / "flow.json")
            recipe.check_resumed(asked, out)
            data = data or recipe.data
        data = data or "faithful"
        frame = tables.read(data)
        recipe = recipe if resume else Recipe.new(frame, data, asked)
        rows = recipe.rows(frame, data)
        if resume and rows.digest() != recipe.digest:
            raise InputError(f"{data} holds other values than those that {out} was fitted to.")
        train, held_out, test_rows = (rows[index] for index in recipe.split(len(rows)))
        names = [*recipe.context, *recipe.columns]
        tables.check_spread(np.hstack(rows.inputs), names, data)
        # A context may be constant there, as that of a rare class is.
        tables.check_spread(train.y, recipe.columns, f"{data}, its rows for training")

        from tfp_flows.cli import fitting

        if resume:
            model, _ = fitting.load(out)
            done = fitting.progress(out / "history.csv").epochs
            if done >= epochs:
                raise InputError(f"{out} has had {done} epochs already: give it more --epochs.")
            if learning_rate is not None:
                model.optimizer.learning_rate.assign(learning_rate)
        else:
            model = fitting.new_model(recipe, train, learning_rate=learning_rate)
            _make_folder(out.parent)
            with atomic_write(out, overwrite=False) as folder:
                folder.mkdir()
                dataclasses.replace(recipe, digest=rows.digest()).save(folder / "flow.json")
                model.save(folder / "flow.keras")

    given = f" given {_listed(recipe.context)}" if recipe.context else ""
    typer.echo(f"{data}: {_listed(recipe.columns)}{given}.")
    typer.echo(
        f"{len(rows):,} rows: {len(train):,} to train, {len(held_out):,} to validate, "
        f"{len(test_rows):,} held out."
    )
    weights = sum(math.prod(v.shape) for v in model.trainable_variables)
    typer.echo(f"{recipe.flow}: {weights:,} weights, {model.event_dtype}.")
    try:
        with _errors_in_one_line():
            fitting.train(
                model,
                train,
                held_out,
                out,
                epochs=epochs,
                patience=patience,
                batch_size=batch_size,
                noise=noise,
                seed=recipe.seed,
            )
    except KeyboardInterrupt:
        typer.echo(f"\nInterrupted: `tfp-flows fit --resume --out {out}` goes on.", err=True)
        raise typer.Exit(130) from None
    if len(test_rows):
        fitting.compare(model, f"{recipe.flow} flow", train, test_rows)
    typer.echo("")
    with _errors_in_one_line():
        written = fitting.draw(model, recipe, rows, out, history=out / "history.csv")
    typer.echo(f"Wrote to {out}: flow.keras, flow.json, history.csv, {', '.join(written)}")


@app.command()
def score(
    model: Model,
    data: Data,
    out: Annotated[
        Path | None, Option(help="New CSV file.", show_default="standard output")
    ] = None,
) -> None:
    """Write the log-density of each row, in nats, as CSV with the column log_prob.

    Columns are found by the names that the fit had, in any order among others. Rows with the least
    log-density are the least usual ones. For a model that was not made by `fit`, columns count by
    their place, those of the context first.
    """
    with _errors_in_one_line():
        _check_new(out)
        frame = tables.read(data)

        from tfp_flows.cli import fitting

        flow, recipe = fitting.load(model)
        rows = recipe.named_by(frame, data).rows(frame, data)
        tables.write(out, ["log_prob"], [fitting.log_prob(flow, rows)])


@app.command()
def sample(
    model: Model,
    n: Annotated[
        int | None,
        Option(
            "-n", help="Number of rows; with --context for each row.", show_default="1000; or 1"
        ),
    ] = None,
    context: Annotated[
        str | None, Option(help="Table of values to condition on, for a flow with a context.")
    ] = None,
    seed: Annotated[int | None, Option(help="Same seed, same rows.", show_default="random")] = None,
    out: Annotated[
        Path | None, Option(help="New CSV file.", show_default="standard output")
    ] = None,
) -> None:
    """Draw new rows and write them as CSV, in front of them the context that they are given."""
    with _errors_in_one_line():
        _check_new(out)
        options.integer("-n", n, least=1)
        options.integer("--seed", seed, least=0)
        frame = None if context is None else tables.read(context)

        from tfp_flows.cli import fitting

        flow, recipe = fitting.load(model)
        if frame is None and recipe.context:
            raise InputError(f"{model} needs a table for --context: {_listed(recipe.context)}.")
        if frame is not None and not recipe.context:
            raise InputError(f"--context: {model} takes no context.")
        n = n or (1000 if frame is None else 1)
        c = None
        if frame is not None and context is not None:
            recipe = recipe.named_by(frame, context, ["context"])
            c = tables.numbers(frame, recipe.context, context)
        seed = int(np.random.default_rng().integers(2**31)) if seed is None else seed
        drawn = fitting.sample(flow, n, c, seed)
        values = [*([] if c is None else np.repeat(c, n, axis=0).T), *drawn.T]
        tables.write(out, [*recipe.context, *recipe.columns], values)


@app.command()
def plot(
    model: Model,
    data: Annotated[
        str | None, Argument(help=Data.__metadata__[0].help, show_default="what it was fitted to")
    ] = None,
    out: Annotated[
        Path | None, Option(help="Folder for the pictures.", show_default="the model's")
    ] = None,
) -> None:
    """Draw the pictures of a fit again, with other data or in another folder.

    Pictures that are in the folder already are replaced.
    """
    with _errors_in_one_line():
        frame = None if data is None else tables.read(data)

        from tfp_flows.cli import fitting

        flow, recipe = fitting.load(model)
        folder = model if model.is_dir() else model.parent
        out = out or folder
        if data is None and recipe.data:
            data, frame = recipe.data, tables.read(recipe.data)
        if data is None and recipe.context:
            raise InputError(f"{model} has a context: give DATA with values of it.")
        rows = None
        if frame is not None and data is not None:
            recipe = recipe.named_by(frame, data)
            rows = recipe.rows(frame, data)
        _make_folder(out)
    history = folder / "history.csv" if recipe.data else None
    with _errors_in_one_line():
        written = fitting.draw(flow, recipe, rows, out, history=history)
    typer.echo(f"Wrote to {out}: {', '.join(written)}")


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {path} cannot be made: {error.strerror}.") from error


def _check_new(out: Path | None) -> None:
    if out is not None and out.exists():
        raise InputError(f"{out} exists: choose another --out.")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
