"""The application: its commands, each in a file of its own, and what holds for all of them."""

from __future__ import annotations

import os
import sys
import warnings
from importlib import metadata
from typing import Annotated

import typer
from typer import Option

from tfp_flows_cli.fit import fit
from tfp_flows_cli.plot import plot
from tfp_flows_cli.sample import sample
from tfp_flows_cli.score import score

__all__ = ["app", "main"]

app = typer.Typer(
    name="tfp-flows",
    help="Densities of tables of numbers, by normalizing flows: fit, score, sample and plot.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (fit, score, sample, plot):
    app.command()(command)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"tfp-flows {metadata.version('tfp_flows')}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Densities of tables of numbers, by normalizing flows: fit, score, sample and plot."""


def main() -> None:
    """The entry point of `tfp-flows`."""
    os.environ.setdefault("MPLBACKEND", "Agg")  # In this process: figures need no display.
    warnings.formatwarning = lambda message, *_, **__: f"Warning: {message}\n"
    try:
        app(prog_name="tfp-flows")
    except BrokenPipeError:  # `tfp-flows score ... | head` has read enough.
        sys.exit(1)
