"""normflows' multi-scale Glow and torchflows' AffineGlow, on PyTorch, without `torch.compile`.

normflows as its documentation of Glow has it: `GlowBlock`, `Squeeze` and `Merge`, a trained
diagonal normal at every level, Adamax with a weight decay of 1e-5; its depth and width are those of
ours. torchflows with its preset, whose networks are of one size, and AdamW, as its `fit` has it;
noise is drawn anew for every batch, which `fit` would not do.
"""

from __future__ import annotations

from functools import partial

import normflows as nf
import numpy as np
import torch
from data import Images
from torch import Tensor
from torchflows.bijections.finite.multiscale import AffineGlow
from torchflows.flows import Flow
from training import Options, Program, main


def build(images: Images, options: Options) -> Program:
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    height, width, channels = images.shape
    if options.model == "normflows":
        model = with_normflows((channels, height, width), options)
        optimizer = torch.optim.Adamax(model.parameters(), lr=1e-3, weight_decay=1e-5)
    else:
        model = Flow(AffineGlow((channels, height, width)))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    of = partial(model.log_prob, y=None) if options.model == "normflows" else model.log_prob

    def to_torch(x: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))

    def step(x: np.ndarray, rate: float) -> None:
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss = -of(to_torch(x)).mean()
        if torch.isfinite(loss):
            loss.backward()
            optimizer.step()

    @torch.no_grad()
    def log_prob(x: np.ndarray) -> np.ndarray:
        model.eval()
        return of(to_torch(x)).numpy()

    trained = [p for p in model.parameters() if p.requires_grad]
    return Program(sum(p.numel() for p in trained), step, log_prob)


def with_normflows(shape: tuple[int, int, int], options: Options) -> nf.MultiscaleFlow:
    channels, *grid = shape
    levels, bases, flows, merges = options.levels, [], [], []
    for i in range(levels):
        blocks = [
            nf.flows.GlowBlock(channels * 2 ** (levels + 1 - i), options.width)
            for _ in range(options.steps)
        ]
        flows.append([*blocks, nf.flows.Squeeze()])
        left = 2 ** (levels - i)
        if i > 0:
            merges.append(nf.flows.Merge())
        wide = channels * left * (1 if i else 2)
        bases.append(nf.distributions.DiagGaussian((wide, *(length // left for length in grid))))
    return nf.MultiscaleFlow(bases, flows, merges, class_cond=False)


if __name__ == "__main__":
    main(build)
