"""nflows, normflows, Zuko and torchflows, on PyTorch: eager, and with `torch.compile`.

Conditioners are plain networks of the same shape for all, where the libraries' ready-made classes
would use residual ones; `torch.distributions` does not check values, and Adam is the fused one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from protocol import Program, Setting
from torch import Tensor, nn

PACKAGES = ("torch", "nflows", "normflows", "zuko", "torchflows")


class Model(NamedTuple):
    """A flow as PyTorch's module, and what is timed of it."""

    module: nn.Module
    log_prob: Callable[[Tensor], Tensor]
    sample: Callable[[], Tensor]
    sample_and_log_prob: Callable[[], tuple[Tensor, Tensor]]
    note: str = ""


def build(setting: Setting) -> Program:
    """Modes: `eager` and `compile`."""
    torch.manual_seed(0)
    torch.set_num_threads(setting.threads)
    torch.distributions.Distribution.set_default_validate_args(False)
    make = {
        "nflows": with_nflows,
        "normflows": with_normflows,
        "zuko": with_zuko,
        "torchflows": with_torchflows,
    }
    model = make[setting.library](setting)
    compiled = torch.compile if setting.mode == "compile" else lambda function: function
    parameters = [p for p in model.module.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=setting.learning_rate, fused=True)
    shape = (setting.batch_size, setting.event_size)
    x = torch.tensor(np.random.default_rng(0).normal(size=shape), dtype=torch.float32)
    loss_of = compiled(lambda x: -model.log_prob(x).mean())

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(x)
        loss.backward()
        optimizer.step()

    log_prob = torch.no_grad()(compiled(model.log_prob))
    tasks = {"train": step, "log_prob": lambda: done(log_prob(x))}
    if setting.mode == "eager" or (setting.compile_sampling and setting.family != "maf"):
        # The inverse of MAF would be unrolled: hundreds of networks to compile.
        sample = torch.no_grad()(compiled(model.sample))
        both = torch.no_grad()(compiled(model.sample_and_log_prob))
        tasks["sample"] = lambda: done(sample())
        tasks["sample_and_log_prob"] = lambda: done(both())
    return Program(sum(p.numel() for p in parameters), tasks, note=model.note)


def done(result: object) -> None:
    """On the CPU results are there when a call returns."""


class Network(nn.Sequential):
    """The conditioner that nflows and normflows get: they look for `hidden_features`."""

    def __init__(self, inputs: int, outputs: int, hidden_units: Sequence[int]):
        sizes = (inputs, *hidden_units)
        layers = []
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(*layers, nn.Linear(sizes[-1], outputs))
        self.hidden_features = hidden_units[-1]

    def forward(self, x: Tensor, context: None = None) -> Tensor:
        return super().forward(x)


def moved(setting: Setting, layer: int) -> Tensor:
    """1 at the columns that a coupling moves, 0 at those that it keeps."""
    first = torch.arange(setting.event_size) < setting.event_size // 2
    return (first if layer % 2 else ~first).int()


def with_nflows(setting: Setting) -> Model:
    from nflows import transforms
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow

    make_network = partial(Network, hidden_units=setting.hidden_units)
    layers = []
    for i in range(setting.layers):
        if setting.family == "affine":
            layers.append(transforms.AffineCouplingTransform(moved(setting, i), make_network))
        elif setting.family == "spline":
            spline = transforms.PiecewiseRationalQuadraticCouplingTransform(
                moved(setting, i),
                make_network,
                num_bins=setting.bins,
                tails="linear",
                tail_bound=setting.bound,
            )
            layers.append(spline)
        else:
            if i:
                layers.append(transforms.ReversePermutation(setting.event_size))
            made = transforms.MaskedAffineAutoregressiveTransform(
                setting.event_size,
                setting.hidden_units[0],
                num_blocks=len(setting.hidden_units) - 1,
                use_residual_blocks=False,
            )
            layers.append(made)
    flow = Flow(transforms.CompositeTransform(layers), StandardNormal([setting.event_size]))
    n = setting.batch_size
    return Model(flow, flow.log_prob, lambda: flow.sample(n), lambda: flow.sample_and_log_prob(n))


def with_normflows(setting: Setting) -> Model:
    import normflows as nf
    from normflows.flows.neural_spline.coupling import PiecewiseRationalQuadraticCoupling

    layers = []
    for i in range(setting.layers):
        if setting.family == "affine":
            # torch.chunk makes the first half the larger one.
            moved_size, kept_size = setting.halves(i)
            net = nf.nets.MLP([kept_size, *setting.hidden_units, 2 * moved_size])
            mode = "channel_inv" if i % 2 else "channel"
            layers.append(nf.flows.AffineCouplingBlock(net, split_mode=mode))
        elif setting.family == "spline":
            spline = PiecewiseRationalQuadraticCoupling(
                moved(setting, i),
                partial(Network, hidden_units=setting.hidden_units),
                num_bins=setting.bins,
                tails="linear",
                tail_bound=setting.bound,
            )
            layers.append(nf.flows.Reverse(spline))
        else:
            made = nf.flows.MaskedAffineAutoregressive(
                setting.event_size,
                setting.hidden_units[0],
                num_blocks=len(setting.hidden_units) - 1,
                use_residual_blocks=False,
            )
            layers += [nf.flows.Reverse(made), nf.flows.Permute(setting.event_size, "swap")]
    flow = nf.NormalizingFlow(
        nf.distributions.DiagGaussian(setting.event_size, trainable=False), layers
    )
    n = setting.batch_size
    return Model(flow, flow.log_prob, lambda: flow.sample(n)[0], lambda: flow.sample(n))


def with_zuko(setting: Setting) -> Model:
    import zuko

    hidden = {"hidden_features": setting.hidden_units}
    note = ""
    if setting.family == "ffjord":
        flow = zuko.flows.CNF(setting.event_size, **hidden)
        note = "dopri5 chooses the steps (rtol 1e-5), it has no other solver"
    elif setting.family == "maf":
        flow = zuko.flows.MAF(setting.event_size, transforms=setting.layers, **hidden)
    else:
        univariate = {}
        if setting.family == "spline":
            univariate = {
                "univariate": partial(zuko.transforms.MonotonicRQSTransform, bound=setting.bound),
                "shapes": [(setting.bins,), (setting.bins,), (setting.bins - 1,)],
            }
        layers = [
            zuko.flows.GeneralCouplingTransform(
                setting.event_size, mask=1 - moved(setting, i), **univariate, **hidden
            )
            for i in range(setting.layers)
        ]
        base = zuko.lazy.UnconditionalDistribution(
            zuko.distributions.DiagNormal,
            torch.zeros(setting.event_size),
            torch.ones(setting.event_size),
            buffer=True,
        )
        flow = zuko.lazy.Flow(layers, base)
    shape = (setting.batch_size,)
    return Model(
        flow,
        lambda x: flow().log_prob(x),
        lambda: flow().sample(shape),
        lambda: flow().rsample_and_log_prob(shape),
        note,
    )


def with_torchflows(setting: Setting) -> Model:
    from torchflows.bijections.continuous.ffjord import FFJORD
    from torchflows.flows import ContinuousFlow

    class Stepped(FFJORD):
        """By itself, torchdiffeq's RK4 makes one step of the whole interval."""

        def inverse(self, z: Tensor, **options: Any) -> tuple[Tensor, ...]:
            return super().inverse(z, options={"step_size": 1 / setting.steps}, **options)

    velocity = {"hidden_size": setting.hidden_units[0], "n_hidden_layers": 1}
    flow = ContinuousFlow(Stepped((setting.event_size,), nn_kwargs=velocity))
    shape = (setting.batch_size,)
    return Model(
        flow,
        lambda x: flow.log_prob(x)[0],
        lambda: flow.sample(shape),
        lambda: flow.sample(shape, return_log_prob=True),
        "the trace is estimated; training has its penalty of the Jacobian",
    )
