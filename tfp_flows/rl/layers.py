"""The layer that policies and critics share: a place and a width, made of context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfp_flows import flows
from tfp_flows.bijectors import Coupling
from tfp_flows.bijectors.transformers import Affine
from tfp_flows.distributions import Flow, bases
from tfp_flows.ops.seeds import derived_seed

__all__ = ["conditional_flow", "location_scale"]


def location_scale(
    event_size: int,
    context_size: int,
    hidden_units: Sequence[int],
    *,
    dtype: str,
    seed: int | None,
    max_log_scale: float = 5.0,
    max_shift: float | None = None,
) -> Coupling:
    """`y = μ(context) + σ(context) x`: a log-determinant that depends on the context alone.

    `|log σ| < max_log_scale`: by default, a policy may become 150 times as narrow as it starts.
    `|μ| < max_shift`, or any number if that is None.
    """
    return Coupling(
        event_size,
        Affine(max_log_scale=max_log_scale, max_shift=max_shift),
        hidden_units,
        mask=[False] * event_size,
        context_size=context_size,
        dtype=dtype,
        seed=seed,
        name="location_scale",
    )


def conditional_flow(
    name: str, event_size: int, context_size: int, hidden_units: Sequence[int], **options: Any
) -> tuple[Any, list[Any]]:
    """Base and bijectors of a family by its name, behind a `location_scale`.

    Args:
      name: as in `flows.get`; "gaussian" for a `location_scale` alone.
      event_size: number of columns.
      context_size: width of the context.
      hidden_units: widths of each network's hidden layers.
      **options: of `flows.get`: `layers`, `dtype`, `seed`, and the family's own.

    Raises:
      ValueError: no family has this name.
    """
    dtype, seed = options["dtype"], options["seed"]
    if name != "gaussian" and name not in flows.names():
        raise ValueError(
            f"`flow` must be 'gaussian', one of {flows.names()}, or a Flow. Received: flow={name!r}"
        )
    last = location_scale(event_size, context_size, hidden_units, dtype=dtype, seed=seed)
    if name == "gaussian":
        return bases.normal(event_size, trainable=False, dtype=dtype), [last]
    made: Flow = flows.get(
        name,
        event_size,
        context_size=context_size,
        hidden_units=hidden_units,
        **{**options, "seed": derived_seed(seed, 1)},
    )
    if made.needs_raw_data:
        raise ValueError(
            f"`flow` must have {event_size} unbounded columns, not angles. Received: flow={name!r}"
        )
    return made.distribution, [last, made.bijector]
