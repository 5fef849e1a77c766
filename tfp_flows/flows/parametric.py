"""Flows for variational inference: cheap to sample with their density."""

from __future__ import annotations

from typing import Any

from typing_extensions import Unpack

from tfp_flows.bijectors import Planar, Radial, Sylvester
from tfp_flows.distributions.flow import Flow
from tfp_flows.flows.build import Builder
from tfp_flows.flows.options import FlowOptions, family

__all__ = ["planar", "radial", "sylvester"]


@family(layers=16)
def planar(event_size: int, **options: Unpack[FlowOptions]) -> Flow:
    """Planar flow: layers that push along one direction each.

    `sample` costs a few operations a layer, `log_prob` a numerical inverse too: for variational
    inference with `sample_and_log_prob`.

    Without context, parameters are free variables and `hidden_units` is not needed; with context, a
    network makes them from it.

    Source: Danilo Rezende and Shakir Mohamed, "Variational Inference with Normalizing Flows"
    (2015).

    Example:
      >>> x, log_prob = flows.planar(2).sample_and_log_prob(5)
    """
    return _stack(Planar, event_size, options)


@family(layers=16)
def radial(event_size: int, **options: Unpack[FlowOptions]) -> Flow:
    """Radial flow: layers that pull towards a point each, or push away from it.

    Both directions cost a few operations a layer.

    Without context, parameters are free variables and `hidden_units` is not needed; with context, a
    network makes them from it.

    Source: Danilo Rezende and Shakir Mohamed, "Variational Inference with Normalizing Flows"
    (2015).

    Example:
      >>> flow = flows.radial(2)
    """
    return _stack(Radial, event_size, options)


@family()
def sylvester(event_size: int, *, rank: int | None = None, **options: Unpack[FlowOptions]) -> Flow:
    """Sylvester flow: layers that push along `rank` orthogonal directions each; all, by default.

    `sample` costs a few products of matrices a layer, `log_prob` a numerical inverse too.

    Without context, parameters are free variables and `hidden_units` is not needed; with context, a
    network makes them from it.

    Source: Rianne van den Berg, Leonard Hasenclever, Jakub Tomczak and Max Welling, "Sylvester
    Normalizing Flows for Variational Inference" (2018).

    Example:
      >>> x, log_prob = flows.sylvester(3, layers=4).sample_and_log_prob(5)
    """
    return _stack(Sylvester, event_size, options, rank=rank)


def _stack(
    layer: type[Planar | Radial | Sylvester],
    event_size: int,
    options: FlowOptions,
    **arguments: Any,
) -> Flow:
    """The flow of `layers` such layers, whose parameters depend on the context, if on anything."""
    build = Builder(event_size, options)
    return build.flow(
        [
            layer(
                build.size,
                context_size=build.context_size,
                conditioner=options["hidden_units"],
                dtype=build.dtype,
                seed=build.next_seed(),
                **arguments,
            )
            for _ in range(build.layers)
        ]
    )
