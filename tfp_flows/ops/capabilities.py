"""What a part of a flow can do, as the part itself says; and what is known of TFP and Keras.

Bijectors, transformers, layers and distributions say by attributes what may be done with them. The
defaults are safe: a part that says nothing is used correctly, only not in the fastest way.

context_size: width of the context, or its shape, or `None`; on bijectors and distributions. A
  conditional distribution has a method `given(context)`, too.
needs_raw_data: whether data must come in their own units, not standardized before.
adapt: a method for data-dependent initialization; with `adapts_layers`, that of layers inside,
  it takes `context` and `again`, too.
is_initialized: false as long as `adapt` has to see the first batch of training.

velocity: a method of maps that follow a velocity field, from times and events to velocities.

Four more are about how a class computes. A class states them in its own body, as class attribute or
property; a class derived from it, which may compute otherwise, states them again.

closed_inverse: whether both directions are cheap and exact to rounding, at every point, so that the
  input of a layer can be computed again from its output (`distributions.reversible`).
is_monotone: whether the map of a single column is strictly monotone, as every continuous bijection
  of an interval is, so that a flow of one column has a `cdf`.
independent_over_batch: whether each event is mapped without looking at the others, and no loss is
  added on the way, so that chunks of a batch can be computed side by side (`distributions.chunks`).
repeatable: false of a layer whose second call would not do the same again.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import keras
from tensorflow_probability import bijectors as tfb

from tfp_flows.ops.grids import Size
from tfp_flows.ops.internals import InvertBase, knows_whether_increasing

__all__ = [
    "Adaptable",
    "Conditional",
    "ConditionalDistribution",
    "HasVelocity",
    "adapt_part",
    "awaits_data",
    "context_size_of",
    "has_closed_inverse",
    "independent_over_batch",
    "is_affine",
    "is_formula",
    "is_learned",
    "is_monotone",
    "needs_raw_data",
    "why_not_repeatable",
]


@runtime_checkable
class Conditional(Protocol):
    """What may take context, of `context_size`, or none if that is `None`."""

    context_size: Size | None


@runtime_checkable
class ConditionalDistribution(Conditional, Protocol):
    """A distribution that may take context."""

    def given(self, context: Any) -> Any:
        """The distribution given context `(*batch, context_size)`, with that batch shape."""


@runtime_checkable
class Adaptable(Protocol):
    """What sets its parameters from data before training: data-dependent initialization."""

    def adapt(self, y: Any) -> None:
        """Set parameters such that `y`, events `(n, D)` at the data's end, are well mapped."""


@runtime_checkable
class HasVelocity(Protocol):
    """What maps events along a velocity field, from time 0 to 1."""

    def velocity(self, t: Any, x: Any, context: Any = None) -> Any:
        """The velocity of events `x`, `(n, D)`, at the times `t`."""


@runtime_checkable
class _Initializable(Adaptable, Protocol):
    is_initialized: bool


@runtime_checkable
class _AdaptsLayers(Protocol):
    adapts_layers: bool

    def adapt(self, y: Any, context: Any, *, again: bool) -> None:
        """The same for all layers inside, or, without `again`, for those that await data."""


@runtime_checkable
class _HasUnits(Protocol):
    needs_raw_data: bool


@runtime_checkable
class _HasActivation(Protocol):
    activation: Any


@runtime_checkable
class _DrawsNumbers(Protocol):
    seed_generator: Any


# Facts about the classes of others. Each of TFP's bijectors maps event by event, but for those of
# functions or networks that users give, batch normalization, and an ODE whose step size is chosen
# for the whole batch.
_TFP_OF_NETWORKS = (tfb.Glow, tfb.Inline, tfb.MaskedAutoregressiveFlow, tfb.RealNVP)
_TFP_OF_BATCHES = (*_TFP_OF_NETWORKS, tfb.BatchNormalization, tfb.FFJORD)
# Their variables may be hidden in functions. Those of `tfb.Inline` are formulas.
_TFP_LEARNED = (tfb.FFJORD, tfb.Glow, tfb.MaskedAutoregressiveFlow, tfb.RealNVP)
# With the classes that the public ones make of parts that are not composite tensors.
_TFP = frozenset(
    base
    for part in vars(tfb).values()
    if isinstance(part, type) and issubclass(part, tfb.Bijector)
    for base in part.__mro__
    if issubclass(base, tfb.Bijector)
)
# 1 / x falls on both sides of its pole, but is larger on the right; so is a negative odd power.
_TFP_NOT_MONOTONE = (tfb.AbsoluteValue, tfb.Power, tfb.Reciprocal)
# Layers that compute row by row; a `Sequential` does if the layers in it do.
_KERAS_INDEPENDENT = (
    keras.Sequential,
    keras.layers.Activation,
    keras.layers.Dense,
    keras.layers.Dropout,
    keras.layers.InputLayer,
    keras.layers.LayerNormalization,
)
_KERAS_STATEFUL = (keras.layers.BatchNormalization, keras.layers.SpectralNormalization)


def context_size_of(part: Any) -> Size | None:
    """Width, or shape, of the context that a bijector or a distribution takes itself, or None."""
    return part.context_size if isinstance(part, Conditional) else None


def needs_raw_data(part: Any) -> bool:
    """Whether data must come in their own units, not standardized before."""
    return isinstance(part, _HasUnits) and bool(part.needs_raw_data)


def awaits_data(part: Any) -> bool:
    """Whether `adapt` has to see the first batch of training."""
    return isinstance(part, _Initializable) and not part.is_initialized


def adapt_part(part: Any, y: Any, context: Any, *, again: bool) -> None:
    """Data-dependent initialization of a part, if it has one.

    Args:
      part: any part of a flow.
      y: events at the data's end of the part.
      context: that of the flow, if it has one.
      again: whether what was adapted before goes again.
    """
    if not isinstance(part, Adaptable) or not (again or awaits_data(part)):
        return
    if isinstance(part, _AdaptsLayers):
        part.adapt(y, context if context_size_of(part) is not None else None, again=again)
    else:
        part.adapt(y)


def has_closed_inverse(part: Any) -> bool:
    """Whether both directions are cheap and exact to rounding, at every point."""
    return _states(part, "closed_inverse")


def is_monotone(bijector: tfb.Bijector) -> bool:
    """Whether the map of a single column is known to be strictly monotone."""
    if isinstance(bijector, InvertBase):
        return is_monotone(bijector.bijector)
    if type(bijector) not in _TFP:
        return _states(bijector, "is_monotone")
    if isinstance(bijector, _TFP_NOT_MONOTONE):
        return False
    return is_affine(bijector) or knows_whether_increasing(bijector)


def is_affine(bijector: tfb.Bijector) -> bool:
    """Whether the map is a matrix and a shift, so that it maps means to means.

    `is_constant_jacobian` says so, but TFP's networks also say it of a constant determinant.
    """
    parts = (bijector, *bijector.submodules)
    networks = any(isinstance(part, _TFP_OF_NETWORKS) for part in parts)
    return bool(bijector.is_constant_jacobian) and not networks


def is_learned(bijector: tfb.Bijector) -> bool:
    """Whether the map has variables, or a network of TFP's, whose variables may be hidden."""
    parts = (bijector, *bijector.submodules)
    return bool(bijector.variables) or any(isinstance(part, _TFP_LEARNED) for part in parts)


def is_formula(bijector: tfb.Bijector) -> bool:
    """Whether all bijectors inside are closed formulas, and their variables can be seen."""
    parts = (bijector, *bijector.submodules)
    return all(
        has_closed_inverse(part) or (type(part) in _TFP and not isinstance(part, _TFP_LEARNED))
        for part in parts
        if isinstance(part, tfb.Bijector)
    )


def independent_over_batch(part: Any) -> bool:
    """Whether a bijector or a layer maps each event without the others, and adds no loss."""
    if isinstance(part, keras.layers.Layer) and not _is_plain(part):
        return False
    if type(part) in _TFP:
        return not isinstance(part, _TFP_OF_BATCHES)
    return type(part) in _KERAS_INDEPENDENT or _states(part, "independent_over_batch")


def _is_plain(layer: keras.layers.Layer) -> bool:
    """Whether the layer adds no loss, and its activation, if it has one, is a function of Keras.

    Of other functions nothing is known: they may look at all rows.
    """
    activation = layer.activation if isinstance(layer, _HasActivation) else None
    known = activation is None or activation in vars(keras.activations).values()
    return layer.activity_regularizer is None and known


def why_not_repeatable(layer: keras.layers.Layer) -> str | None:
    """Why a second call of a layer would not do the same again, or None if it would."""
    if "repeatable" in vars(type(layer)) and not _states(layer, "repeatable"):
        return "is not repeatable"
    if isinstance(layer, _DrawsNumbers) and layer.seed_generator is not None:
        return "draws random numbers"
    if isinstance(layer, _KERAS_STATEFUL):
        return "changes its state"
    if layer.activity_regularizer is not None:
        return "adds a loss of its activations"
    return None


def _states(part: Any, name: str) -> bool:
    """Whether the class of the part, not only one that it is derived from, says so."""
    return name in vars(type(part)) and bool(getattr(part, name))
