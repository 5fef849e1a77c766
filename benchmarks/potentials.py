"""Planar, radial, Sylvester, autoregressive and residual flows on four potentials, by reverse KL.

Run it from the root of the repository: `python benchmarks/potentials.py [--out FILE]`.

The densities are `exp(-U(z)) / Z`, with the energies of Danilo Rezende and Shakir Mohamed,
"Variational Inference with Normalizing Flows" (2015), table 1. The paper's U2 to U4 are ridges that
go on for ever along z1, and its figures show -4 < z1 < 4; there is no density without an end, so
that here a steep wall stands at |z1| = 4.

The table has the exact KL(flow || density) in nats: the mean of `log q(z) + U(z) + log Z` over
draws of the flow, with log Z integrated on a grid.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from common import print_table
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tfp_flows import Flow, flows
from tfp_flows.distributions import bases

WALL = 4.0

# Planar and radial layers are tiny, and it takes many; the others have more parameters a layer.
FLOWS = {
    "planar": {"layers": 32},
    "radial": {"layers": 32},
    "sylvester": {"layers": 16},
    "iaf": {"layers": 4, "hidden_units": (64, 64)},
    "residual": {"layers": 8, "hidden_units": (64, 64)},
}
# Those whose cheap direction is that of a density are turned round.
INVERTED = ("residual",)


def _bump(x: tf.Tensor, width: float) -> tf.Tensor:
    """`-½ (x / width)²`."""
    return -0.5 * (x / width) ** 2


def u1(z: tf.Tensor) -> tf.Tensor:
    """Two halves of a ring: `½ ((‖z‖ - 2) / 0.4)² - log(Σ± exp(-½ ((z1 ± 2) / 0.6)²))`."""
    sides = tf.stack([_bump(z[..., 0] - 2, 0.6), _bump(z[..., 0] + 2, 0.6)])
    return -_bump(tf.norm(z, axis=-1) - 2, 0.4) - tf.reduce_logsumexp(sides, axis=0)


def u2(z: tf.Tensor) -> tf.Tensor:
    """A wave: `½ ((z2 - w1) / 0.4)²` with `w1 = sin(2π z1 / 4)`."""
    return -_bump(z[..., 1] - _wave(z), 0.4)


def u3(z: tf.Tensor) -> tf.Tensor:
    """A wave that splits and joins: `-log(Σ exp(-½ (d / 0.35)²))` over `d = z2 - w1` and
    `d = z2 - w1 + w2`, with `w2 = 3 exp(-½ ((z1 - 1) / 0.6)²)`.
    """
    gap = z[..., 1] - _wave(z)
    lower = gap + 3 * tf.exp(_bump(z[..., 0] - 1, 0.6))
    return -tf.reduce_logsumexp(tf.stack([_bump(gap, 0.35), _bump(lower, 0.35)]), axis=0)


def u4(z: tf.Tensor) -> tf.Tensor:
    """A wave that forks: as `u3`, with `d = z2 - w1` over 0.4 instead of 0.35, and
    `w3 = 3 σ((z1 - 1) / 0.3)` for `w2`.
    """
    gap = z[..., 1] - _wave(z)
    lower = gap + 3 * tf.sigmoid((z[..., 0] - 1) / 0.3)
    return -tf.reduce_logsumexp(tf.stack([_bump(gap, 0.4), _bump(lower, 0.35)]), axis=0)


def _wave(z: tf.Tensor) -> tf.Tensor:
    return tf.sin(2 * np.pi * z[..., 0] / 4)


POTENTIALS = {"U1": u1, "U2": u2, "U3": u3, "U4": u4}


def target(potential: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
    """`-U(z)`, with the wall: the log-density up to a constant."""
    return lambda z: _bump(tf.nn.relu(tf.abs(z[..., 0]) - WALL), 0.1) - potential(z)


def log_normalizer(log_density: Callable[[tf.Tensor], tf.Tensor]) -> float:
    """`log ∫ exp(log_density(z)) dz`, by the midpoint rule on [-8, 8]²."""
    step = 0.01
    ticks = np.arange(-8, 8, step) + step / 2
    grid = tf.constant(np.stack(np.meshgrid(ticks, ticks), axis=-1))
    return float(tf.reduce_logsumexp(log_density(grid))) + 2 * np.log(step)


def train(
    flow: Flow, log_density: Callable[[tf.Tensor], tf.Tensor], options: argparse.Namespace
) -> None:
    """Minimize the mean of `log q(z) - β log_density(z)` over draws of the flow.

    As in the paper, `β` goes from 0.01 to 1 at first, so that the flow finds all modes.
    """
    optimizer = keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(options.learning_rate, options.steps), clipnorm=1.0
    )

    def annealed(z: tf.Tensor) -> tf.Tensor:
        done = tf.cast(optimizer.iterations, z.dtype) / options.steps
        return tf.minimum(0.01 + 4 * done, 1.0) * log_density(z)

    tfp.vi.fit_surrogate_posterior(
        annealed,
        flow,
        optimizer=optimizer,
        num_steps=options.steps,
        sample_size=options.batch_size,
        seed=options.seed,
        jit_compile=True,
    )


def measure(
    flow: Flow, log_density: Callable[[tf.Tensor], tf.Tensor], log_z: float
) -> tuple[float, float]:
    """KL(flow || density) in nats, and twice its standard error."""
    z, log_q = flow.sample_and_log_prob(100_000, seed=1)
    gap = (log_q - log_density(z)).numpy().astype("float64") + log_z
    return gap.mean(), 2 * gap.std() / np.sqrt(len(gap))


def draw(axis: Axes, log_prob: Callable[[tf.Tensor], tf.Tensor], title: str) -> None:
    """The density on [-4.5, 4.5]²."""
    ticks = np.linspace(-4.5, 4.5, 181, dtype="float32")
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1)
    density = np.exp(log_prob(grid))
    axis.imshow(density, extent=(-4.5, 4.5) * 2, origin="lower", interpolation="bilinear")
    axis.set_title(title, fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flows", nargs="+", choices=FLOWS, default=list(FLOWS))
    parser.add_argument("--potentials", nargs="+", choices=POTENTIALS, default=list(POTENTIALS))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="picture to write, as potentials.png")
    options = parser.parse_args()

    figure = Figure(
        figsize=(2.1 * (1 + len(options.flows)), 2.2 * len(options.potentials)),
        layout="constrained",
    )
    axes = figure.subplots(len(options.potentials), 1 + len(options.flows), squeeze=False)

    def rows() -> Iterator[list[str]]:
        for row, energy in zip(axes, options.potentials, strict=True):
            log_density = target(POTENTIALS[energy])
            log_z = log_normalizer(log_density)
            draw(row[0], lambda z, f=log_density, c=log_z: f(z) - c, energy)
            for axis, name in zip(row[1:], options.flows, strict=True):
                keras.utils.set_random_seed(options.seed)
                flow = flows.get(name, 2, base=bases.normal(2), seed=options.seed, **FLOWS[name])
                if name in INVERTED:
                    flow = Flow(flow.distribution, tfp.bijectors.Invert(flow.bijector))
                start = time.perf_counter()
                train(flow, log_density, options)
                seconds = time.perf_counter() - start
                kl, error = measure(flow, log_density, log_z)
                draw(axis, flow.log_prob, f"{name}: {kl:.2f} nats")
                count = sum(int(np.prod(v.shape)) for v in flow.trainable_variables)
                layers = FLOWS[name]["layers"]
                yield [
                    energy,
                    name,
                    f"{kl:.3f} ± {error:.3f}",
                    layers,
                    f"{count:,}",
                    f"{seconds:.0f}",
                ]

    header = ["potential", "flow", "KL ± 2 s.e., nats", "layers", "parameters", "seconds"]
    print_table(header, rows())
    if options.out:
        figure.savefig(options.out, dpi=150)


if __name__ == "__main__":
    main()
