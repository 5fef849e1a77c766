"""Flows that follow a velocity field: the field, and what comes before and behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows.distributions.chain import Given, flatten_chain, shared_context_size
from tfp_flows.ops.capabilities import HasVelocity, context_size_of

__all__ = ["Field", "count_fields", "field_of", "path"]


class Field(NamedTuple):
    """The one bijector of a flow that has a velocity, and its surroundings, under a context.

    From base to data, draws of `base` go through `inner`, the field, and `outer`.
    """

    base: tfd.Distribution
    inner: tfb.Bijector
    bijector: Any
    outer: tfb.Bijector
    context: tf.Tensor | None

    @property
    def kwargs(self) -> dict[str, Any]:
        """The context as the field takes it, if it does."""
        return {} if self.bijector.context_size is None else {"context": self.context}


def count_fields(flow: Any) -> int:
    """How many bijectors of a flow have a velocity."""
    if not hasattr(flow, "bijector"):
        return 0
    return sum(isinstance(part, HasVelocity) for part in flatten_chain(flow.bijector))


def field_of(flow: Any, context: tf.Tensor | None) -> Field:
    """The field of a flow, given context `(*batch, *context_shape)`, if it takes any.

    Raises:
      ValueError: there is none, or more than one.
    """
    if count_fields(flow) != 1:
        raise ValueError(
            "A flow with one `Continuous` bijector is needed, as `flows.ffjord` makes it. "
            f"Received: {count_fields(flow)} of them in {flow!r}"
        )
    embedded, parts = flow.embedded(context), flatten_chain(flow.bijector)
    index = next(i for i, part in enumerate(parts) if isinstance(part, HasVelocity))
    given = [part if shared_context_size(part) is None else Given(part, embedded) for part in parts]
    base = flow.distribution
    return Field(
        base if context_size_of(base) is None else base.given(embedded),
        tfb.Chain(given[index + 1 :]),
        parts[index],
        tfb.Chain(given[:index]),
        embedded,
    )


def path(flow: Any, x: tf.Tensor, times: Sequence[float], context: tf.Tensor | None) -> tf.Tensor:
    """What `Flow.path` does."""
    field = field_of(flow, context)
    inside = field.outer.inverse(tf.identity(x))
    return field.outer.forward(field.bijector.path(inside, times, **field.kwargs))
