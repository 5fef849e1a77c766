"""Zuko's CNF, torchflows' FFJORD, OT-Flow and residual flow, and torchcfm's flow matching.

Each with the presets of its library and Adam, but of the sizes of ours: two layers of 64 units, 32
of OT-Flow; torchflows' residual flow with 8 layers, whose networks are larger. Beyond two columns
Zuko's CNF trains by its estimate of the trace, which is many times as fast, and is judged exactly.
torchcfm trains its own `MLP`; its density is by torchdiffeq's dopri5 (rtol and atol 1e-5) and an
exact trace, since the library has none. Nothing is compiled: none of the libraries does.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor
from training import LogProb, Step, main


def build(options: dict[str, Any]) -> tuple[int, Step, LogProb]:
    torch.manual_seed(options["seed"])
    torch.set_num_threads(options["threads"])
    make = MODELS[options["model"]]
    model, loss, log_prob = make(options["event_size"], options["width"])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step(x: np.ndarray, rate: float) -> None:
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        value = loss(torch.from_numpy(x))
        if torch.isfinite(value):
            value.backward()
            optimizer.step()

    def score(x: np.ndarray) -> np.ndarray:
        model.eval()
        return log_prob(torch.from_numpy(x)).detach().numpy()

    return sum(p.numel() for p in model.parameters() if p.requires_grad), step, score


def zuko_cnf(size: int, width: int) -> Any:
    import zuko

    flow = zuko.flows.CNF(size, hidden_features=(width, width))
    field = flow.transform

    def loss(x: Tensor) -> Tensor:
        field.exact = size <= 2
        return -flow().log_prob(x).mean()

    def log_prob(x: Tensor) -> Tensor:
        field.exact = True
        return torch.cat([flow().log_prob(part).detach() for part in x.split(250)])

    return flow, loss, log_prob


def torchflows_continuous(name: str, size: int, width: int) -> Any:
    from torchflows.bijections.continuous.ffjord import FFJORD
    from torchflows.bijections.continuous.otflow import OTFlowBijection
    from torchflows.flows import ContinuousFlow

    if name == "ffjord":
        flow = ContinuousFlow(FFJORD((size,), nn_kwargs={"hidden_size": width}))
    else:
        sizes = {"hidden_size": width // 2}
        flow = ContinuousFlow(OTFlowBijection((size,), time_derivative_kwargs=sizes))

    def loss(x: Tensor) -> Tensor:
        log_prob, *auxiliary = flow.log_prob(x, return_aux=True)
        return -log_prob.mean() + flow.regularization(*auxiliary)

    return flow, loss, lambda x: flow.log_prob(x)[0]


def torchflows_residual(size: int, width: int) -> Any:
    from torchflows.bijections.finite.residual.architectures import ResFlow
    from torchflows.flows import Flow

    flow = Flow(ResFlow((size,), n_layers=8))
    return flow, lambda x: -flow.log_prob(x).mean(), flow.log_prob


def torchcfm_matching(optimal: bool, size: int, width: int) -> Any:
    from torchcfm import conditional_flow_matching as cfm
    from torchcfm.models import MLP
    from torchdiffeq import odeint

    net = MLP(size, w=width, time_varying=True)
    kind = "ExactOptimalTransport" if optimal else ""
    matcher = getattr(cfm, f"{kind}ConditionalFlowMatcher")(sigma=0.0)

    def loss(x: Tensor) -> Tensor:
        t, at, velocity = matcher.sample_location_and_conditional_flow(torch.randn_like(x), x)
        return ((net(torch.cat([at, t[:, None]], -1)) - velocity) ** 2).mean()

    def moves(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = state[0].detach().requires_grad_(True)
            velocity = net(torch.cat([x, t.expand(len(x), 1)], -1))
            columns = range(x.shape[1])
            parts = [
                torch.autograd.grad(velocity[:, i].sum(), x, retain_graph=True) for i in columns
            ]
        trace = sum(part[0][:, i] for i, part in zip(columns, parts, strict=True))
        return velocity.detach(), trace

    def log_prob(x: Tensor) -> Tensor:
        times, start = torch.tensor([1.0, 0.0]), (x, torch.zeros(len(x)))
        found, traces = odeint(moves, start, times, rtol=1e-5, atol=1e-5, method="dopri5")
        base = torch.distributions.Normal(0.0, 1.0).log_prob(found[-1]).sum(-1)
        return base + traces[-1]

    return net, loss, log_prob


MODELS = {
    "zuko_cnf": zuko_cnf,
    "torchflows_ffjord": functools.partial(torchflows_continuous, "ffjord"),
    "torchflows_ot_flow": functools.partial(torchflows_continuous, "ot_flow"),
    "torchflows_residual": torchflows_residual,
    "torchcfm": functools.partial(torchcfm_matching, False),
    "torchcfm_ot": functools.partial(torchcfm_matching, True),
}

if __name__ == "__main__":
    main(build)
