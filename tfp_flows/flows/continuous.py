"""Continuous flows: events follow a velocity field from base to data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from typing_extensions import Unpack

from tfp_flows.bijectors import Continuous
from tfp_flows.distributions.flow import Flow
from tfp_flows.flows.build import Builder
from tfp_flows.flows.options import FlowOptions, family
from tfp_flows.networks import Dynamics, Potential, VelocityMLP
from tfp_flows.ops.checks import positive_int

__all__ = ["ffjord", "ot_flow"]


@family(layers=1, hidden_units=(64, 64))
def ffjord(
    event_size: int,
    *,
    activation: str = "silu",
    solver: str = "rk4",
    steps: int = 16,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    trace: str = "auto",
    kinetic: float = 0.0,
    jacobian: float = 0.0,
    **options: Unpack[FlowOptions],
) -> Flow:
    """Continuous normalizing flow: events follow the velocity field of a dense network.

    Both directions cost `4 · steps` calls of the network. `solver`, `steps`, `rtol`, `atol` and
    `trace`, and the penalties `kinetic` and `jacobian`, are those of `bijectors.Continuous`;
    `activation` is "silu", "tanh" or "softplus". Train by maximum likelihood, or at a small part of
    the cost by flow matching, `model.compile(loss="flow_matching")`.

    Source: Will Grathwohl, Ricky T. Q. Chen, Jesse Bettencourt, Ilya Sutskever and David Duvenaud,
    "FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models" (2019).

    Example:
      >>> flow = flows.ffjord(2, hidden_units=(32, 32), kinetic=0.01)
    """
    make = Builder(event_size, options)

    def dynamics(seed: int | None) -> Dynamics:
        return VelocityMLP(
            make.size,
            options["hidden_units"],
            context_size=make.context_size,
            activation=activation,
            seed=seed,
            dtype=make.dtype,
        )

    solving: dict[str, Any] = {
        "solver": solver,
        "steps": steps,
        "rtol": rtol,
        "atol": atol,
        "trace": trace,
    }
    return _stack(make, dynamics, {**solving, "kinetic": kinetic, "jacobian": jacobian})


@family(layers=1, hidden_units=(32, 32))
def ot_flow(
    event_size: int,
    *,
    solver: str = "rk4",
    steps: int = 8,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    kinetic: float = 0.01,
    **options: Unpack[FlowOptions],
) -> Flow:
    """Continuous flow whose velocity is the gradient of a potential, with a penalty of speed.

    Optimal transport has such velocities, and constant ones: paths become straight, and few steps
    follow them. `hidden_units` is one width, or two equal ones; see `networks.Potential`.

    Both directions cost `4 · steps` calls of the network. `solver`, `steps`, `rtol` and `atol`, and
    the penalty `kinetic`, are those of `bijectors.Continuous`.

    Source: Derek Onken, Samy Wu Fung, Xingjian Li and Lars Ruthotto, "OT-Flow: Fast and Accurate
    Continuous Normalizing Flows via Optimal Transport" (2021).

    Example:
      >>> flow = flows.ot_flow(2, hidden_units=(16, 16))
    """
    make, widths = Builder(event_size, options), options["hidden_units"]
    if not isinstance(widths, Sequence) or not widths:
        raise ValueError(
            f"`hidden_units` must be a sequence of hidden widths. Received: {widths!r}"
        )
    if len({positive_int(width, "hidden_units") for width in widths}) > 1 or len(widths) > 2:
        raise ValueError(
            "`hidden_units` must be one width, or two equal ones, of a residual network. "
            f"Received: hidden_units={widths!r}"
        )

    def dynamics(seed: int | None) -> Dynamics:
        context_size, dtype = make.context_size, make.dtype
        return Potential(make.size, widths[0], context_size=context_size, seed=seed, dtype=dtype)

    solving: dict[str, Any] = {"solver": solver, "steps": steps, "rtol": rtol, "atol": atol}
    return _stack(make, dynamics, {**solving, "kinetic": kinetic})


def _stack(
    make: Builder, dynamics: Callable[[int | None], Dynamics], arguments: dict[str, Any]
) -> Flow:
    """The flow of as many velocity fields as there are layers."""
    layers = []
    for _ in range(make.layers):
        seed = make.next_seed()
        layers.append(
            Continuous(
                make.size,
                dynamics(seed),
                context_size=make.context_size,
                dtype=make.dtype,
                seed=seed,
                **arguments,
            )
        )
    return make.flow(layers)
