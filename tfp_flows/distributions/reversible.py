"""Densities whose gradients need no stored activations: each layer's input is computed again.

Automatic differentiation keeps what every layer computed until the backward pass uses it, so memory
grows with the number of layers. But a layer of a flow has an inverse: what went into it can be
computed again from what came out. `log_prob` here runs from data to base as always and keeps only
what arrives at the base; `recomputation` has the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows.bijectors.base import Bijector
from tfp_flows.distributions.chain import Given, flatten_chain
from tfp_flows.distributions.flow import Flow
from tfp_flows.distributions.recomputation import Layer, Reversible
from tfp_flows.networks.conditioner import Conditioner
from tfp_flows.ops.capabilities import has_closed_inverse, why_not_repeatable
from tfp_flows.ops.internals import InvertBase, TransformedDistributionBase, layers_of

__all__ = ["check_reversible", "log_prob"]


def log_prob(flow: tfd.Distribution, x: Any, context: Any | None = None) -> tf.Tensor:
    """`flow.log_prob(x, context)`, whose backward pass recomputes activations from the base's end.

    Value and gradients, by `x`, `context` and all variables, are the same up to rounding. Memory
    for activations is that of one layer, however many there are, if these are all reversible:
    `Coupling` and `Elementwise` with `Additive`, `Affine` or a spline that is not circular, `LU`,
    `QR`, `Triangular`, `Householder`, `Rotation`, `Permutation`, `ActNorm`, `Rotation2D` and
    `ShiftAndCube` with a scalar parameter; also in `tfb.Invert`. All other bijectors are
    differentiated the ordinary way, and what they need is kept, as is one event between them and
    their neighbours.

    Costs one forward and one inverse pass more than the ordinary gradient, which share one call of
    each coupling's network: about 1.6 times its time. Rounding errors of the recomputation add up
    along the layers, and where a layer stretches its input by a factor, so does it the errors so
    far: in float32, `LU` layers with scales far from 1 and many layers cost digits of the gradient.

    Args:
      flow: a `Flow` or another `tfd.TransformedDistribution`.
      x: events `(..., D)`.
      context: as in `Flow.log_prob`.

    Returns:
      log-densities in nats, of the batch shape of `x` and `context`.

    Raises:
      ValueError: as in `check_reversible`, and as in `Flow.log_prob`.
      NotImplementedError: under a `tf.autodiff.ForwardAccumulator`.

    Source: Aidan N. Gomez, Mengye Ren, Raquel Urtasun and Roger B. Grosse, "The Reversible
    Residual Network: Backpropagation Without Storing Activations" (2017).

    Example:
      >>> flow = flows.real_nvp(2, layers=64)
      >>> with tf.GradientTape() as tape:
      ...     loss = -tf.reduce_mean(reversible.log_prob(flow, x))
      >>> gradients = tape.gradient(loss, flow.trainable_variables)
    """
    check_reversible(flow)
    if isinstance(flow, Flow):
        flow = flow.given(context)
    elif context is not None:
        raise ValueError(f"`context` was given, but only a Flow takes one. Received: flow={flow!r}")
    flow = flow.copy(bijector=tfb.Chain(_grouped(flatten_chain(flow.bijector))))
    # Not `Flow.log_prob`, which may split `x`, but not the context that the layers hold.
    return tfd.Distribution.log_prob(flow, x)


def check_reversible(flow: tfd.Distribution) -> None:
    """Raise a ValueError if activations of `flow` cannot be recomputed.

    Raises:
      ValueError: `flow` has no bijector; or a reversible layer has a conditioner that would not
        compute the same again, as with `Dropout`, that changes state when called, as with
        `BatchNormalization`, or that adds a loss of its activations.
    """
    if not isinstance(flow, TransformedDistributionBase):
        raise ValueError(
            "Activations are recomputed through a bijector: `distribution` must be a Flow or "
            f"another tfd.TransformedDistribution. Received: distribution={flow!r}"
        )
    for bijector in (_layer(part).bijector for part in flatten_chain(flow.bijector)):
        if not _is_reversible(bijector):
            continue
        networks = (part for part in bijector.submodules if isinstance(part, Conditioner))
        for layer in (layer for network in networks for layer in layers_of(network.layer)):
            reason = why_not_repeatable(layer)
            if reason:
                raise ValueError(
                    "Activations are recomputed in the backward pass, which needs conditioners "
                    f"that compute the same again, but a layer {reason}. "
                    f"Received: {type(layer).__name__} {layer.name!r} in {bijector.name!r}"
                )


def _layer(bijector: tfb.Bijector) -> Layer:
    """The bijector without the `tfb.Invert`s and the context around it."""
    inverted, context = False, None
    while isinstance(bijector, InvertBase | Given):
        if isinstance(bijector, Given):
            context = bijector.context
        else:
            inverted = not inverted
        bijector = bijector.bijector
    return Layer(bijector, inverted, context)


def _is_reversible(bijector: tfb.Bijector) -> bool:
    # A batch of maps would broadcast events, which could not be rebuilt in their own shape.
    return (
        isinstance(bijector, Bijector)
        and has_closed_inverse(bijector)
        and bijector.experimental_batch_shape() == ()
    )


def _grouped(parts: Sequence[tfb.Bijector]) -> list[tfb.Bijector]:
    """The bijectors of a chain, with neighbours that are reversible as one `Reversible`."""
    chain: list[tfb.Bijector] = []
    group: list[Layer] = []

    def end_group() -> None:
        if group:
            context = next((layer.context for layer in group if layer.context is not None), None)
            whole = Reversible(group)
            chain.append(whole if context is None else Given(whole, context))
            group.clear()

    for part in parts:
        layer = _layer(part)
        if not _is_reversible(layer.bijector):
            end_group()
            chain.append(part)
            continue
        contexts = [other.context for other in (*group, layer) if other.context is not None]
        if any(context is not contexts[0] for context in contexts):
            end_group()
        group.append(layer)
    end_group()
    return chain
