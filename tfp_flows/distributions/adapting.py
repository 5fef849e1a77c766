"""Data-dependent initialization of the bijectors of a flow, from the data's end on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.distributions.chain import flatten_chain
from tfp_flows.ops.capabilities import Adaptable, adapt_part, awaits_data, context_size_of
from tfp_flows.ops.checks import as_real

__all__ = ["adapt"]

# Means and covariances need no more than these, and layers would need the memory.
_ROWS, _NUMBERS = 65_536, 2**22


def adapt(flow: Any, y: Any, context: Any | None, *, again: bool) -> None:
    """What `Flow.adapt` does."""
    parts = flatten_chain(flow.bijector)
    chosen = [isinstance(part, Adaptable) and (again or awaits_data(part)) for part in parts]
    last = max((i for i, is_chosen in enumerate(chosen) if is_chosen), default=-1)
    if last < 0:
        return
    if context_size_of(parts[0]) is None:
        adapt_part(parts[0], y, None, again=again)  # All rows, for a support must hold them all.
        chosen[0] = False
    rows = min(_ROWS, max(_NUMBERS // math.prod(flow.event_shape), 2))
    thin = slice(None, None, 1 + len(y) // rows)
    y = as_real(y[thin] if isinstance(y, np.ndarray) else y, flow.dtype, "y")
    y = y if len(y) <= rows else y[thin]
    context = None if context is None else tf.convert_to_tensor(context)[thin]
    given = flatten_chain(flow.given(context).bijector)
    context = flow.embedded(context)
    for i in range(last + 1):
        y = given[i - 1].inverse(tf.identity(y)) if i else y
        if chosen[i]:
            adapt_part(parts[i], y, context, again=again)
