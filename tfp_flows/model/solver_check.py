"""Whether the steps of continuous flows are short enough for what was learned."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors import Continuous
from tfp_flows.model.data import joined

__all__ = ["SolverErrorWarning", "warn_of_steps"]

_ROWS = 256
_WORST = 0.02  # In nats.


class SolverErrorWarning(UserWarning):
    """Steps of a solver are so long that densities are not those of the flow."""


def warn_of_steps(model: Any, batches: Iterable[Any]) -> None:
    """Compare the log-densities of some rows with those by twice as many steps of fixed length.

    A velocity field that bends within a step has a density that its solver does not see: training
    then gains likelihood from the solver's errors.

    Args:
      model: a `FlowModel`.
      batches: as Keras hands them over; the first is looked at.

    Warns:
      SolverErrorWarning: the mean of the absolute differences is not below 0.02 nats.
    """
    fields = [part for part in model.distribution.submodules if isinstance(part, Continuous)]
    fixed = [field for field in fields if field.solver != "dopri5"]
    if not fixed:
        return
    for inputs, _ in joined(batches):
        some = tf.nest.map_structure(lambda x: x[:_ROWS], inputs)
        steps = [field.steps for field in fixed]
        log_prob, again = (np.asarray(model(some, training=False)) for _ in range(2))
        if not np.array_equal(log_prob, again):  # Random, as of rounded values: no error is seen.
            return
        try:
            for field in fixed:
                field.steps *= 2
            error = np.abs(np.asarray(model(some, training=False)) - log_prob).mean()
        finally:
            for field, count in zip(fixed, steps, strict=True):
                field.steps = count
        if not error < _WORST:
            warnings.warn(
                f"With twice the steps of {fixed[0].solver!r}, log-densities of training rows "
                f"differ by {error:.2g} nats: they are not those of the flow, nor is the loss. "
                "Take more `steps` or solver='dopri5', a smaller learning rate, or the penalties "
                f"`kinetic` and `jacobian`. Received: steps={steps[0]}",
                SolverErrorWarning,
                stacklevel=3,
            )
        return
