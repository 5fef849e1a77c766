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
      SolverErrorWarning: the mean of the absolute differences is not below 0.02 nats, or the
        log-density of some rows is NaN. Training by flow matching solves no equation, and meets
        neither.
    """
    fields = [part for part in model.distribution.submodules if isinstance(part, Continuous)]
    fixed = [field for field in fields if field.solver != "dopri5"]
    if not fields:
        return
    for inputs, _ in joined(batches):
        some = tf.nest.map_structure(lambda x: x[:_ROWS], inputs)
        log_prob = np.asarray(model(some, training=False))
        if missing := np.count_nonzero(np.isnan(log_prob)):
            _warn(
                f"The log-densities of {missing} of {len(log_prob)} training rows are NaN: "
                f"{fields[0].solver!r} cannot solve the equation of the velocity that was learned."
            )
        elif fixed and np.array_equal(log_prob, model(some, training=False)):
            # Where the two differ they are random, as of rounded values: no error is seen.
            error = np.abs(_of_half_steps(model, some, fixed) - log_prob).mean()
            if not error < _WORST:
                _warn(
                    f"With twice the steps of {fixed[0].solver!r}, log-densities of training rows "
                    f"differ by {error:.2g} nats: they are not those of the flow, nor is the loss. "
                    f"Received: steps={fixed[0].steps}"
                )
        return


def _of_half_steps(model: Any, inputs: Any, fields: list[Continuous]) -> np.ndarray:
    steps = [field.steps for field in fields]
    try:
        for field in fields:
            field.steps *= 2
        return np.asarray(model(inputs, training=False))
    finally:
        for field, count in zip(fields, steps, strict=True):
            field.steps = count


def _warn(what: str) -> None:
    warnings.warn(
        f"{what} Take a smaller learning rate, more `steps` or solver='dopri5', or the penalties "
        "`kinetic` and `jacobian`.",
        SolverErrorWarning,
        stacklevel=4,
    )
