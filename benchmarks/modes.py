"""Forty modes in two dimensions, by `vi.fit` with a bridge and without one.

    python benchmarks/modes.py

The target of Midgley et al., "Flow Annealed Importance Sampling Bootstrap" (2023): 40 normals of
equal weight and deviation log(1 + e), whose means are uniform in a square of 80 by 80, here the
ones that the literature has drawn, by PyTorch's generator with seed 0. The density is normalized,
so the log evidence is 0. A mode counts as found if it has a quarter of its share of 10,000 draws,
within 3 deviations; the forward ESS is that of 10,000 draws of the target.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import vi

tfd = tfp.distributions
DEVIATION = math.log1p(math.e)
DRAWS = 10_000
MEANS = [
    (-0.2995, 21.4577),
    (-32.9218, -29.4376),
    (-15.4062, 10.7263),
    (-0.7925, 31.7156),
    (-3.5498, 10.5845),
    (-12.0885, -7.8626),
    (-38.2139, -26.4913),
    (-16.4889, 1.4817),
    (15.8134, 24.0009),
    (-27.1176, -17.4185),
    (14.5287, 33.2155),
    (-8.2320, 29.9325),
    (-6.4473, 4.2326),
    (36.2190, -37.1068),
    (-25.1815, -10.1266),
    (-15.5920, 34.5600),
    (-25.9272, -18.4133),
    (-27.9456, -37.4624),
    (-23.3496, 34.3839),
    (17.8487, 19.3869),
    (2.1037, -20.5073),
    (6.7674, -37.3478),
    (-28.9026, -20.6212),
    (25.2375, 23.4529),
    (-17.7398, -1.4433),
    (25.5824, 39.7653),
    (15.8753, 5.4037),
    (26.8195, -23.5521),
    (7.4538, -31.0122),
    (-27.7234, -20.6633),
    (18.0989, 16.0864),
    (-23.6941, 12.0843),
    (21.9589, -5.0487),
    (1.5273, 9.2682),
    (24.8151, 38.4078),
    (-30.8249, -14.6588),
    (15.7204, 33.1420),
    (34.8083, 35.2943),
    (7.9606, -34.7833),
    (3.6797, -25.0242),
]
MODES = np.array(MEANS, "float32")
TARGET = tfd.MixtureSameFamily(
    tfd.Categorical(logits=tf.zeros(40)),
    tfd.MultivariateNormalDiag(MODES, tf.fill([2], DEVIATION)),
)
JOINT = tfd.JointDistributionSequential([TARGET])


def found(draws: np.ndarray) -> int:
    """How many modes the draws have."""
    distances = np.linalg.norm(draws[:, None] - MODES, axis=-1)
    inside = distances.min(1) < 3 * DEVIATION
    counts = np.bincount(distances.argmin(1)[inside], minlength=40)
    return int(np.sum(counts >= len(draws) / 40 / 4))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--bins", type=int, default=24)
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--sample-size", type=int, default=2048)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    for seed in options.seeds:
        for name in ("reverse KL", "bridge, α = 2"):
            posterior = vi.surrogate(
                JOINT,
                "neural_spline",
                layers=options.layers,
                bins=options.bins,
                bound=4.0,
                hidden_units=(options.units, options.units),
                seed=seed,
            )
            way: dict[str, Any] = {}  # The defaults, which start at a mode.
            if name != "reverse KL":
                wide = 25 * np.random.default_rng(seed).normal(size=(2000, 2))
                posterior.flow.adapt(wide.astype("float32"))
                rate = keras.optimizers.schedules.CosineDecay(options.learning_rate, options.steps)
                adam = keras.optimizers.Adam(rate, global_clipnorm=10.0)
                way = {"objective": "alpha", "alpha": 2.0, "anneal": 0.8, "optimizer": adam}
            start, cpu = time.perf_counter(), time.process_time()
            vi.fit(
                JOINT,
                posterior,
                steps=options.steps,
                sample_size=options.sample_size,
                seed=seed,
                verbose=0,
                **way,
            )
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            draws = posterior.sample(DRAWS, seed=1)[0].numpy()
            print(f"{name}, seed {seed}: {found(draws)} modes; {seconds:.0f} s, CPU {cpu:.0f} s")
            reference = [TARGET.sample(DRAWS, seed=2)]
            print(vi.diagnose(JOINT, posterior, draws=DRAWS, reference=reference), flush=True)


if __name__ == "__main__":
    main()
