"""BSDS300, rebuilt: test log-likelihood of 8×8 image patches after a given time of training.

Run it from the root of the repository: `python benchmarks/bsds300.py --minutes 10`.

The recipe is that of Papamakarios et al. (2017): grey values with uniform noise, divided by 256,
less each patch's mean, without the last pixel: 63 columns. The patches are other random ones than
the paper's, of the same images; a Gaussian with full covariance has 96.70 ± 0.36 nats on them (in
the paper 96.67 ± 0.25). Every training step draws its noise anew. The flow has autoregressive
layers of logistic mixtures, as Flow++ has in couplings, between them a linear layer that whitens.
"""

from __future__ import annotations

import argparse

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from common import DATA, Schedule, log_prob, parameter_count, print_table

from tfp_flows import Flow, FlowModel, bijectors

tfd, tfb = tfp.distributions, tfp.bijectors

PUBLISHED = {
    "RealNVP (Papamakarios et al. 2017)": "153.28",
    "MAF (Papamakarios et al. 2017)": "154.93",
    "Glow (Durkan et al. 2019)": "155.07",
    "autoregressive spline (Durkan et al. 2019)": "157.31",
    "FFJORD (Grathwohl et al. 2019)": "157.40",
    "spline coupling (Durkan et al. 2019)": "157.54",
}


def dequantize(patches: np.ndarray, seed: int) -> np.ndarray:
    """Patches of integers, `(n, 64)`, as the columns of the benchmark, `(n, 63)`."""
    x = (patches + np.random.default_rng(seed).random(patches.shape)) / 256
    return (x - x.mean(1, keepdims=True))[:, :-1].astype("float32")


def noisy_batches(patches: np.ndarray, batch_size: int) -> tf.data.Dataset:
    """Random batches without end, with new noise in every one."""
    patches = tf.constant(patches)

    def draw(_: tf.Tensor) -> tf.Tensor:
        rows = tf.random.uniform([batch_size], 0, patches.shape[0], tf.int32)
        grey = tf.cast(tf.gather(patches, rows), tf.float32)
        x = (grey + tf.random.uniform(tf.shape(grey))) / 256
        return (x - tf.reduce_mean(x, 1, keepdims=True))[:, :-1]

    return tf.data.Dataset.range(1).repeat().map(draw).prefetch(4)


def build(options: argparse.Namespace) -> FlowModel:
    """A whitening layer at the data's end, then autoregressive mixtures in alternating order."""
    mixture = bijectors.transformers.MixtureOfLogistics(options.components)
    layers = [
        bijectors.MaskedAutoregressive(
            63,
            bijectors.transformers.Inverse(mixture),
            options.hidden_units,
            order="reversed" if i % 2 else None,
            seed=options.seed + i,
        )
        for i in range(options.layers)
    ]
    base = tfd.MultivariateNormalDiag(tf.zeros(63), tf.ones(63))
    return FlowModel(Flow(base, tfb.Chain([bijectors.LU(63), *layers])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="of training, compiling aside")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--components", type=int, default=8)
    parser.add_argument("--hidden-units", type=int, nargs="+", default=[512])
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    data = np.load(DATA / "bsds300" / "bsds300_patches_u8.npz")
    keras.utils.set_random_seed(options.seed)
    schedule = Schedule(options.minutes, options.learning_rate)
    model = build(options)
    model.adapt(dequantize(data["train"][:100_000], seed=1))
    model.compile(keras.optimizers.Adam(options.learning_rate, beta_2=0.99), jit_compile=True)
    batches = noisy_batches(data["train"], options.batch_size)
    # One epoch without end: the schedule stops it.
    model.fit(batches, steps_per_epoch=10**9, callbacks=schedule, verbose=0)
    seconds = schedule.elapsed()

    values = {name: log_prob(model, [dequantize(data[name], seed=2)]) for name in ("val", "test")}
    shown = {
        name: f"{nats.mean():.2f} ± {2 * nats.std() / np.sqrt(len(nats)):.2f}"
        for name, nats in values.items()
    }
    rows = [
        [
            "tfp_flows, autoregressive logistic mixtures",
            shown["test"],
            shown["val"],
            f"{seconds:.0f}",
            f"{schedule.steps:,}",
            f"{parameter_count(model):,}",
        ],
        *([name, nats, "", "", "", ""] for name, nats in PUBLISHED.items()),
    ]
    header = ["BSDS300, rebuilt", "test nats ± 2 s.e.", "val", "seconds", "steps", "parameters"]
    print_table(header, rows)
    print("\nPublished rows: trained to convergence on the original patches.")


if __name__ == "__main__":
    main()
