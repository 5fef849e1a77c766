"""`tfp-flows sample`: new rows."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from typer import Option

from tfp_flows_cli import options
from tfp_flows_cli.errors import InputError, in_one_line
from tfp_flows_cli.options import Decimal, Encoding, Model, Sep, TablePath

__all__ = ["sample"]


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
    out: TablePath = None,
    sep: Sep = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
) -> None:
    """Draw new rows and write them, in front of them the context that they are given."""
    with in_one_line():
        from tfp_flows_cli import tables, values
        from tfp_flows_cli.text import Format

        tables.check_writable(out)
        options.integer("-n", n, least=1)
        options.integer("--seed", seed, least=0)
        if not model.exists():
            raise InputError(f"There is no model {model}.")
        frame = None if context is None else tables.read(context, Format(sep, decimal, encoding))

        from tfp_flows_cli import fitted

        flow, recipe = fitted.load(model)
        if frame is None and recipe.context:
            raise InputError(f"{model} needs a table for --context: {', '.join(recipe.context)}.")
        if frame is not None and not recipe.context:
            raise InputError(f"--context: {model} takes no context.")
        n = n or (1000 if frame is None else 1)
        c = None
        if frame is not None and context is not None:
            recipe = recipe.named_by(frame, context, ["context"])
            c = values.numbers(frame, recipe.context, context, truth_values=True)
        seed = int(np.random.default_rng().integers(2**31)) if seed is None else seed
        drawn = fitted.sample(flow, n, c, seed)
        parts = [*([] if c is None else np.repeat(c, n, axis=0).T), *recipe.written(drawn)]
        tables.write(out, [*recipe.context, *recipe.columns], parts)
