"""`tfp-flows fit`: from a table to a model of its density, a report and pictures."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from tfp_flows_cli import options
from tfp_flows_cli.errors import InputError, in_one_line
from tfp_flows_cli.options import DATA_HELP, Decimal, Encoding, Sep

__all__ = ["fit"]

_BY_ROWS = "by number of rows"
_LINEAR = ("lu", "qr", "householder", "rotation", "permutation", "none")


def fit(
    data: Annotated[str | None, Argument(help=DATA_HELP, show_default="faithful")] = None,
    flow: Annotated[
        str | None, Option(help="Family, as in tfp_flows.flows.", show_default="neural_spline")
    ] = None,
    columns: Annotated[
        str | None, Option(help="Columns to model: A,B.", show_default="all but the context")
    ] = None,
    context: Annotated[
        str | None, Option(help="Columns that condition them: C,D.", show_default="none")
    ] = None,
    exclude: Annotated[
        str | None, Option(help="Columns to leave out: E,F.", show_default="none")
    ] = None,
    drop_missing: Annotated[
        bool, Option("--drop-missing", help="Leave rows out that have no number in a column.")
    ] = False,
    minutes: Annotated[float, Option(help="Time for all flows together.")] = 2.0,
    members: Annotated[
        int | None,
        Option(
            help="Flows with other seeds, to be stacked.",
            show_default="2; 4 of one column given others",
        ),
    ] = None,
    plain: Annotated[
        bool, Option("--plain", help="One flow alone: no mixture with others.")
    ] = False,
    epochs: Annotated[int, Option(help="Most epochs to train, resumed ones included.")] = 500,
    patience: Annotated[int, Option(help="Stop after so many epochs without progress.")] = 30,
    batch_size: Annotated[int | None, Option(show_default=_BY_ROWS)] = None,
    learning_rate: Annotated[
        float | None, Option(help="It halves when progress stalls.", show_default=_BY_ROWS)
    ] = None,
    noise: Annotated[
        float | None,
        Option(
            help="Blur of training rows, in deviations of a column.",
            show_default="by rows, and none for some flows",
        ),
    ] = None,
    layers: Annotated[
        int | None, Option(help="Number of bijectors.", show_default=_BY_ROWS)
    ] = None,
    hidden: Annotated[
        str | None, Option(help="Hidden widths of each network: 64,64.", show_default=_BY_ROWS)
    ] = None,
    linear: Annotated[
        str | None, Option(help=f"Between layers: {', '.join(_LINEAR)}.", show_default="lu")
    ] = None,
    dropout: Annotated[
        float | None,
        Option(
            help="Rate in the networks.",
            show_default="0; 0.1 for every second flow of one column given others",
        ),
    ] = None,
    base: Annotated[
        str | None,
        Option(help="normal (trained), student_t or mixture.", show_default="fixed normal"),
    ] = None,
    support: Annotated[
        str | None,
        Option(
            help="Where columns live: real, positive, 0:100; one for all or one each; simplex.",
            show_default="real",
        ),
    ] = None,
    dequantize: Annotated[
        str | None,
        Option(
            help="Steps of rounded columns, 0 of others: 1,0.1,0. Fits probabilities.",
            show_default="none",
        ),
    ] = None,
    degrees: Annotated[
        bool, Option("--degrees", help="Angles are degrees, of flows on the circle.")
    ] = False,
    dtype: Annotated[
        str | None, Option(help="float32 or float64.", show_default="by the digits of the data")
    ] = None,
    validation: Annotated[
        float | None,
        Option(help="Share of the rows that says when to stop.", show_default="0.15"),
    ] = None,
    test: Annotated[
        float | None,
        Option(help="Share of the rows that is held out for the report.", show_default="0.15"),
    ] = None,
    seed: Annotated[
        int | None, Option(help="Of the split and the training.", show_default="0")
    ] = None,
    out: Annotated[
        Path | None, Option(help="New folder for the results.", show_default="runs/NAME OF DATA")
    ] = None,
    resume: Annotated[
        bool, Option("--resume", help="Go on from the best epoch of the fit in --out.")
    ] = False,
    sep: Sep = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
) -> None:
    """Fit a density to a table, or to some columns given others, and compare it with baselines.

    Flows with several seeds are trained, and stacked with mixtures of Gaussians and a kernel
    density estimate: the result is the mixture of all that is best on validation rows.

    Rows are split at random: most are for training, --validation of them say when to stop, and
    --test of them are held out for the report: their log-likelihood beside that of each density
    alone or, given a context, of linear regression.

    Writes flow.keras, flow.json, history.csv, stages.png, samples.png, marginals.png, history.png
    and, of one or two columns, density.png; and the flows alone, member-1.keras and so on.
    """
    with in_one_line():
        chosen = {
            "layers": options.integer("--layers", layers, least=1),
            "hidden_units": options.widths("--hidden", hidden),
            "linear": options.choice("--linear", linear, _LINEAR),
            "dropout": options.number("--dropout", dropout, below=1, zero=True),
            "base": options.choice("--base", base, ("normal", "student_t", "mixture")),
            "support": options.support("--support", support),
            "steps": options.steps("--dequantize", dequantize),
            "dtype": options.choice("--dtype", dtype, ("float32", "float64")),
        }
        asked: dict[str, Any] = {
            "columns": options.names("--columns", columns),
            "context": options.names("--context", context),
            "flow": options.choice("--flow", flow, options.FAMILIES),
            "options": {k: v for k, v in chosen.items() if v is not None} or None,
            "members": options.integer("--members", members, least=1),
            "plain": plain or None,
            "degrees": degrees or None,
            "drop_missing": drop_missing or None,
            "noise": options.number("--noise", noise, below=1, zero=True),
            "validation": options.number("--validation", validation, below=1, zero=True),
            "test": options.number("--test", test, below=1, zero=True),
            "seed": options.integer("--seed", seed, least=0),
        }
        asked = {name: value for name, value in asked.items() if value is not None}
        excluded = options.names("--exclude", exclude) or []
        options.integer("--epochs", epochs, least=1)
        options.integer("--patience", patience, least=1)
        options.integer("--batch-size", batch_size, least=1)
        options.number("--learning-rate", learning_rate, below=math.inf, zero=False)
        options.number("--minutes", minutes, below=math.inf, zero=False)
        shares = asked.get("validation", 0.15), asked.get("test", 0.15)
        if sum(shares) >= 1:
            raise InputError(
                "--validation and --test must add up to less than 1. "
                f"Received: {shares[0]} and {shares[1]}."
            )
        out = out or Path("runs") / _stem(data or "faithful")
        if out.exists() and not resume:
            raise InputError(f"{out} exists: choose another --out, or --resume the fit in it.")
        recipe, split = _prepare(data, asked, excluded, out, resume, (sep, decimal, encoding))

        from tfp_flows_cli.quiet import load_tensorflow

        load_tensorflow()
        from tfp_flows_cli import fitting

        training = fitting.Training(epochs, patience, batch_size, learning_rate, minutes)
        first = None
        if resume:
            done = fitting.done_epochs(out)
            if done >= epochs:
                raise InputError(f"{out} has had {done} epochs already: give it more --epochs.")
        else:
            first = fitting.new_folder(out, recipe, split, learning_rate)

    given = f" given {_listed(recipe.context)}" if recipe.context else ""
    typer.echo(f"{data or recipe.data}: {_listed(recipe.columns)}{given}.")
    typer.echo(
        f"{len(split.every):,} rows: {len(split.train):,} to train, {len(split.validation):,} to "
        f"validate, {len(split.test):,} held out."
    )
    note = fitting.tie_note(recipe, split.train)
    if note:
        typer.echo(f"Note: {note}")
    try:
        with in_one_line():
            models, others = fitting.fit_members(out, recipe, split, training, first)
    except KeyboardInterrupt:
        typer.echo(f"\nInterrupted: `tfp-flows fit --resume --out {out}` goes on.", err=True)
        raise typer.Exit(130) from None
    with in_one_line():
        fitting.finish(out, recipe, split, models, others)


def _prepare(
    data: str | None,
    asked: dict[str, Any],
    excluded: list[str],
    out: Path,
    resume: bool,
    form: tuple[str | None, str | None, str | None],
) -> tuple[Any, Any]:
    """The recipe, and the rows of the table, checked and split; all without TensorFlow."""
    from tfp_flows_cli import checks, tables
    from tfp_flows_cli.recipe import Recipe
    from tfp_flows_cli.splits import Split
    from tfp_flows_cli.text import Format

    text = Format(*form)
    recipe = None
    if resume:
        recipe = Recipe.load(out / "flow.json")
        recipe.check_resumed(asked, out)
        data = data or recipe.data
        text = Format(**recipe.format) if form == (None, None, None) else text
    data = data or "faithful"
    frame = tables.read(data, text)
    if recipe is None:
        recipe = Recipe.new(frame, data, asked, excluded)
        recipe = dataclasses.replace(recipe, format=dataclasses.asdict(text))
    usable = recipe.usable(frame, data)
    if not usable.all():
        typer.echo(f"Left out {(~usable).sum():,} of {len(frame):,} rows without a number.")
    rows = recipe.rows(frame[usable], data)
    if resume and rows.digest() != recipe.digest:
        raise InputError(f"{data} holds other values than those that {out} was fitted to.")
    checks.check_spread(rows.y, recipe.columns, data)
    split = Split.of(recipe, rows)
    # Of a constant column of the context, `adapt` warns: a rare class has one.
    checks.check_spread(split.train.y, recipe.columns, f"{data}, its rows for training")
    if recipe.on_circle:
        if not recipe.degrees:
            checks.check_angles(rows, recipe.columns, data)
    elif recipe.degrees:
        raise InputError("--degrees is for flows on the circle, as --flow circular_spline is.")
    elif recipe.options.get("support") != "simplex":
        measured = recipe.columns[len(recipe.labels) :]
        checks.check_dependence(rows.y[:, len(recipe.labels) :], measured, data)
        for note in checks.notes(rows, measured):
            typer.echo(f"Note: {note}")
    return dataclasses.replace(recipe, digest=rows.digest()), split


def _stem(data: str) -> str:
    """The name of a table, without its folder and endings."""
    name = Path(data).name
    return "table" if data == "-" else name.split(".")[0] or name


def _listed(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
