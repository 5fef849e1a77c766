"""What the user got wrong: one line on standard error, and exit code 1."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import typer

__all__ = ["InputError", "in_one_line"]


class InputError(ValueError):
    """Something that the user gave is not what it must be; the message is one line."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


@contextlib.contextmanager
def in_one_line() -> Iterator[None]:
    """End the command with one line where an InputError or an OSError is raised."""
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
