"""The keywords of flows: each with its type, default and meaning, once for all families.

A family is a function that takes its own keywords and `**options: Unpack[CouplingOptions]`, or
another of the dictionaries here. The decorator `family` gives it the whole signature, its defaults
and its help.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import textwrap
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple, TypedDict, TypeVar, get_args, get_type_hints

import keras
from tensorflow_probability import distributions as tfd

from tfp_flows.distributions.flow import Flow

__all__ = ["AutoregressiveOptions", "CouplingOptions", "FlowOptions", "Option", "family"]


class Option(NamedTuple):
    """What a keyword is if it is left out, and what it means."""

    default: Any
    meaning: str


class FlowOptions(TypedDict, total=False):
    """The keywords that every flow takes."""

    layers: Annotated[int, Option(8, "how many bijectors are stacked.")]
    hidden_units: Annotated[
        Sequence[int], Option((128, 128), "widths of each network's hidden layers.")
    ]
    linear: Annotated[
        str | None,
        Option(
            None,
            'what mixes columns before every layer: "lu", "qr", "householder", "rotation", '
            '"permutation" (fixed), or None.',
        ),
    ]
    actnorm: Annotated[
        bool,
        Option(
            False,
            "whether an `ActNorm` stands before every layer; it starts from `FlowModel.adapt`, or "
            "from the first batch of training.",
        ),
    ]
    context_size: Annotated[
        int | None, Option(None, "width of the context; None for an unconditional flow.")
    ]
    embedding: Annotated[
        keras.layers.Layer | None,
        Option(
            None,
            "a Keras 3 layer that makes vectors of contexts that are sequences or images, trained "
            "with the flow; it sets `context_size`.",
        ),
    ]
    context_shape: Annotated[
        Sequence[int] | None, Option(None, "the shape of one context, with `embedding`.")
    ]
    base: Annotated[
        tfd.Distribution | None,
        Option(None, "base distribution with events (D,), see `bases`; a standard normal if None."),
    ]
    support: Annotated[
        str | Sequence[Any] | None,
        Option(
            None,
            'where the data live, as in `bijectors.Support`: "positive", "angle", an interval '
            '(low, high), a list of these, one per column, or "simplex" for D proportions; all '
            "reals if None.",
        ),
    ]
    dtype: Annotated[str, Option("float32", '"float32" or "float64".')]
    seed: Annotated[
        int | None,
        Option(
            None,
            "integer for reproducible initial weights, or None. Masks and permutations that are "
            "drawn at random depend on it too, but are the same for every None: saved weights fit "
            "into a flow made by the same call.",
        ),
    ]
    name: Annotated[str, Option("flow", "name of the flow.")]


class NetworkOptions(FlowOptions, total=False):
    """The keywords of flows that have networks without context, too."""

    activation: Annotated[
        str, Option("relu", "any Keras activation, for the networks' hidden layers.")
    ]


class CouplingOptions(NetworkOptions, total=False):
    """The keywords of flows of couplings."""

    dropout: Annotated[
        float, Option(0.0, "rate in [0, 1) in the networks, active in training only.")
    ]


class AutoregressiveOptions(NetworkOptions, total=False):
    """The keywords of autoregressive flows."""

    passes: Annotated[
        int | None,
        Option(
            None,
            "number of blocks in which columns go: D by default; with fewer, sampling takes fewer "
            "steps.",
        ),
    ]
    residual: Annotated[bool, Option(False, "residual connections in the networks.")]


Family = TypeVar("Family", bound=Callable[..., Flow])


def family(**defaults: Any) -> Callable[[Family], Family]:
    """Give a function that makes a flow the full signature and help, and every option a value.

    The function's `**options: Unpack[...]` become keywords; `inspect.signature`, `help` and
    completion see them. The function gets all of them, those left out with their defaults.

    Args:
      **defaults: of options, where this family has others; its name is the function's.

    Raises:
      TypeError: by the decorated function, for a keyword that it does not take.

    Example:
      >>> @family(layers=4)
      ... def cubic_flow(event_size: int, *, bins: int = 8, **options: Unpack[CouplingOptions]):
      ...     return coupling(event_size, CubicSpline(bins=bins), **options)
    """

    def decorate(function: Family) -> Family:
        options = _options_of(function)
        _check_keywords("family", defaults, list(options))
        signature = _signature_of(function, options, {"name": function.__name__, **defaults})

        def make(*args: Any, **kwargs: Any) -> Flow:
            _check_keywords(function.__name__, kwargs, list(signature.parameters))
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{function.__name__}(): {error}") from None
            bound.apply_defaults()
            return function(*bound.args, **bound.kwargs)

        made: Any = functools.wraps(function)(make)
        made.__signature__ = signature
        made.__annotations__ = {name: p.annotation for name, p in signature.parameters.items()}
        made.__annotations__["return"] = signature.return_annotation
        made.__doc__ = _with_meanings(function.__doc__, options)
        return made

    return decorate


def _options_of(function: Callable[..., Flow]) -> dict[str, tuple[Any, Option]]:
    """Type and `Option` of every key of the dictionary that the function unpacks."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    (unpacked,) = (p.annotation for p in parameters if p.kind is p.VAR_KEYWORD)
    (dictionary,) = get_args(unpacked)
    hints = get_type_hints(dictionary, include_extras=True)
    return {name: (hint.__origin__, hint.__metadata__[0]) for name, hint in hints.items()}


def _signature_of(
    function: Callable[..., Flow],
    options: dict[str, tuple[Any, Option]],
    defaults: dict[str, Any],
) -> inspect.Signature:
    """The function's signature, with its options as keywords."""
    signature = inspect.signature(function, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    shared = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(name, option.default),
            annotation=kind,
        )
        for name, (kind, option) in options.items()
    ]
    return signature.replace(parameters=[*own, *shared])


def _with_meanings(doc: str | None, options: dict[str, tuple[Any, Option]]) -> str | None:
    """The docstring, with the arguments explained above the source."""
    if doc is None:  # under python -OO
        return None
    meanings = {name: option.meaning for name, (_, option) in options.items()}
    lines = [
        textwrap.fill(f"{name}: {meaning}", 98, initial_indent="  ", subsequent_indent="    ")
        for name, meaning in {"event_size": "number of columns, D.", **meanings}.items()
    ]
    head, source, tail = inspect.cleandoc(doc).partition("\n\nSource:")
    return "\n".join([head, "", "Args:", *lines]) + source + tail


def _check_keywords(function: str, given: dict[str, Any], known: list[str]) -> None:
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean `{near[0]}`?" if near else "."
            raise TypeError(
                f"{function}() takes no keyword `{name}`{hint} It takes {', '.join(known)}. "
                f"Received: {name}={value!r}"
            )
