"""Stacking: one model of several densities, weighed by the likelihood of validation rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_flows.distributions.stacked import Stacked, stacking_weights
from tfp_flows.model.arguments import require_rows
from tfp_flows.model.data import check_rows
from tfp_flows.model.flow_model import FlowModel

__all__ = ["stack", "unstack"]

_LEAST_GAIN = 1e-3  # Nats a row: what gives less costs its time at every call.
_ROWS = 4096  # At a time.


def stack(
    models: Sequence[FlowModel],
    x: Any,
    context: Any | None = None,
    *,
    others: Sequence[tfd.Distribution] = (),
) -> FlowModel:
    """The mixture of trained models that is best on validation rows, as one model.

    On these rows its likelihood is no less than that of the best member, and it is often much more:
    members that fail in different places cover for each other. Members without which it would be
    less by 0.001 nats a row at most are left out; where one member is left, the result is a model
    of this alone. The members are shared with the result, not copied.

    Args:
      models: models that were adapted to the same rows, so that their standardized units are equal.
        Models of one architecture with different seeds are members, too.
      x: validation events `(n, ...)`, which no member was trained on.
      context: their context, if the models take it.
      others: further densities with trainable variables, in the models' standardized units.

    Raises:
      ValueError: there is no model, the models have different units, or the members have different
        events, dtypes or contexts; or a density of a validation row is NaN.

    Source: Padhraic Smyth and David Wolpert, "Linearly Combining Density Estimators via Stacking"
    (1999).

    Example:
      >>> models = [FlowModel(flows.maf(2, layers=2, seed=seed)) for seed in (0, 1)]
      >>> for each in models:
      ...     each.adapt(x)
      >>> both = stack(models, x[:100])
      >>> both.predict(x[:3])
    """
    if not (isinstance(models, Sequence) and models):
        received = "none" if isinstance(models, Sequence) else f"a {type(models).__name__}"
        raise ValueError(f"`models` must hold one FlowModel or more. Received: {received}")
    check_rows(x=x, context=context)
    require_rows(x)
    for i, one in enumerate(others):
        if not one.trainable_variables:
            raise ValueError(
                f"`others[{i}]` must have trainable variables, as every model has. Received: {one}"
            )
    first, members = models[0], [*(model.distribution for model in models), *others]
    for i, model in enumerate(models):
        for name in ("event_standardizer", "context_standardizer"):
            if not _equal(getattr(model, name), getattr(first, name)):
                raise ValueError(
                    "`models` must be adapted to the same rows, or none of them. Received: "
                    f"models[{i}] in other units than models[0]"
                )
    members = Stacked(members).members  # They fit together.
    log_probs = _log_probs(first, members, np.asarray(x), context)
    weights = stacking_weights(log_probs)
    chosen = _needed(log_probs, weights)
    weights = stacking_weights(log_probs[:, chosen])
    if len(chosen) == 1:
        return _in_units_of(first, members[chosen[0]])
    stacked = Stacked([members[i] for i in chosen])
    stacked.set_weights(weights)
    return _in_units_of(first, stacked)


def _needed(log_probs: np.ndarray, weights: np.ndarray) -> list[int]:
    """The members that the mixture needs, those with the least weight being asked first."""
    chosen = [int(i) for i in np.argsort(weights)]
    best = _mean(log_probs, weights, chosen)
    for i in chosen.copy():
        rest = [j for j in chosen if j != i]
        if rest and _mean(log_probs, weights, rest) > best - _LEAST_GAIN:
            chosen = rest
    return sorted(chosen)


def _mean(log_probs: np.ndarray, weights: np.ndarray, chosen: list[int]) -> float:
    """The mean log-density of the mixture of some members, with their weights as they are."""
    if not weights[chosen].sum():
        return -np.inf
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights[chosen] / weights[chosen].sum())
        joint = log_probs[:, chosen] + log_weights
        return float(np.logaddexp.reduce(joint, axis=1).mean())


def _log_probs(
    model: FlowModel, members: Sequence[tfd.Distribution], x: np.ndarray, context: Any | None
) -> np.ndarray:
    """Log-densities by each member, `(rows, members)`, in standardized units."""
    found = []
    for start in range(0, len(x), _ROWS):
        z = model.event_standardizer(tf.convert_to_tensor(x[start : start + _ROWS]))
        given: dict[str, Any] = {}
        if context is not None:
            given["context"] = model.standardize_context(context[start : start + _ROWS])
        found.append(np.stack([np.asarray(m.log_prob(z, **given)) for m in members], axis=-1))
    return np.concatenate(found)


def _in_units_of(model: FlowModel, distribution: tfd.Distribution) -> FlowModel:
    result = FlowModel(distribution)
    result.event_standardizer.set_weights(model.event_standardizer.get_weights())
    if model.context_standardizer is not None and result.context_standardizer is not None:
        result.context_standardizer.set_weights(model.context_standardizer.get_weights())
    return result


def _equal(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def unstack(model: FlowModel) -> list[tuple[float, FlowModel]]:
    """The members of a model that `stack` made, each with its weight, the largest first.

    Members are models in the same units. Of any other model, the result is this model, with
    weight 1.
    """
    stacked = model.distribution
    if not isinstance(stacked, Stacked):
        return [(1.0, model)]
    weights = stacked.weights.numpy().tolist()
    order = np.argsort(weights)[::-1]
    return [(weights[i], _in_units_of(model, stacked.members[i])) for i in order]
