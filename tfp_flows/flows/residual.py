"""Residual flows: contractive residual layers, which move all columns at once."""

from __future__ import annotations

from typing_extensions import Unpack

from tfp_flows.bijectors import Residual
from tfp_flows.distributions.flow import Flow
from tfp_flows.flows.build import Builder
from tfp_flows.flows.options import FlowOptions, family

__all__ = ["residual"]


@family(hidden_units=(64, 64))
def residual(
    event_size: int,
    *,
    lipschitz: float = 0.97,
    log_det: str = "auto",
    **options: Unpack[FlowOptions],
) -> Flow:
    """Residual flow: layers that add a network with a Lipschitz constant below 1.

    `log_prob` costs one network call a layer and the log-det; `sample` some 10 to 40 calls a layer,
    for a fixed point. `lipschitz` and `log_det` are those of `bijectors.Residual`. For cheap draws
    with their densities, as in variational inference, use `tfb.Invert(flow.bijector)`.

    Source: Ricky T. Q. Chen, Jens Behrmann, David Duvenaud and Jörn-Henrik Jacobsen, "Residual
    Flows for Invertible Generative Modeling" (2019).

    Example:
      >>> flow = flows.residual(2, layers=4, hidden_units=(32, 32))
    """
    build = Builder(event_size, options)
    return build.flow(
        [
            Residual(
                build.size,
                options["hidden_units"],
                lipschitz,
                log_det,
                context_size=build.context_size,
                dtype=build.dtype,
                seed=build.next_seed(),
            )
            for _ in range(build.layers)
        ]
    )
