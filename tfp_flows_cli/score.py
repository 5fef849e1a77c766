"""`tfp-flows score`: the log-density of each row."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer
from typer import Option

from tfp_flows_cli.errors import InputError, in_one_line
from tfp_flows_cli.options import Data, Decimal, Encoding, Model, Sep, TablePath

__all__ = ["score"]


def score(
    model: Model,
    data: Data,
    out: TablePath = None,
    id: Annotated[
        str | None, Option(help="A column to write beside the scores.", show_default="none")
    ] = None,
    skip_bad: Annotated[
        bool, Option("--skip-bad", help="Give rows without numbers an empty score.")
    ] = False,
    sep: Sep = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
) -> None:
    """Write the log-density of each row, in nats, and how usual it is.

    The column log_prob is the log-density; quantile is the share of the rows of the fit that have
    less, where the fit is known: a row with 0.01 is among the least usual ones.

    Columns are found by the names that the fit had, in any order among others. For a model that was
    not made by `fit`, columns count by their place, those of the context first.
    """
    with in_one_line():
        from tfp_flows_cli import tables, values
        from tfp_flows_cli.text import Format

        tables.check_writable(out)
        tables.check_source(data)
        if not model.exists():
            raise InputError(f"There is no model {model}.")
        frame = tables.read(data, Format(sep, decimal, encoding))
        if id is not None:
            values.check_names(frame, [id], data)

        from tfp_flows_cli import fitted

        flow, recipe = fitted.load(model)
        recipe = recipe.named_by(frame.drop(columns=[] if id is None else [id]), data)
        columns = [*recipe.context, *recipe.columns]
        values.check_names(frame, columns, data)
        usable = np.ones(len(frame), bool)
        if skip_bad:
            usable = values.usable_rows(frame, columns, recipe.labels)
            if not usable.any():
                raise InputError(f"{data} has no row of numbers in {', '.join(columns)}.")
        scores = np.full(len(frame), np.nan, flow.event_dtype)
        scores[usable] = fitted.log_prob(flow, recipe.rows(frame[usable], data))
        written = {} if id is None else {id: frame[id].to_numpy()}
        written["log_prob"] = scores
        if recipe.scores:
            quantile = np.searchsorted(recipe.scores, scores[usable]) / len(recipe.scores)
            written["quantile"] = np.full(len(frame), np.nan)
            written["quantile"][usable] = quantile
        tables.write(out, list(written), list(written.values()))
    if not usable.all():
        typer.echo(f"{(~usable).sum()} of {len(frame)} rows have no score.", err=True)
