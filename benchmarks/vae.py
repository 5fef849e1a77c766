"""Variational autoencoders by `vi.FlowVAE`: a normal posterior beside inverse autoregressive flow.

    python benchmarks/vae.py                             # binarized MNIST, 30 minutes each
    python benchmarks/vae.py --posteriors iaf --minutes 5
    python benchmarks/vae.py --data freyfaces --posteriors iaf --minutes 15

MNIST is binarized once, each pixel being 1 with its grey value as probability, by NumPy's
`default_rng(0)`; 50,000 images to train, 10,000 to validate, 10,000 to test. Frey Faces, 28 x 20
pixels of 256 values, are shuffled and split into 1,565, 200 and 200, and the likelihood is a
discretized logistic mixture of each pixel; README.md has the options that suit them. Both
posteriors have the same encoder and decoder, and the same minutes of processor time; the learning
rate falls with them along a cosine. Weights are those of the epoch with the best ELBO of validation
images. Printed are -ELBO of test images, in nats or in bits per dimension, and the
importance-weighted likelihood.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from image_workers import data as images

from tfp_flows import flows, vi

tfd = tfp.distributions
dense = keras.layers.Dense
_COMPONENTS = 3


class Cosine(keras.callbacks.Callback):
    """Lets the learning rate fall to 0 over minutes of processor time, and ends training then."""

    def __init__(self, rate: float, minutes: float):
        super().__init__()
        self._rate, self._seconds = rate, 60 * minutes

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._start = time.process_time()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        share = min(1.0, (time.process_time() - self._start) / self._seconds)
        self.model.optimizer.learning_rate.assign(
            self._rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))
        )

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.model.stop_training = time.process_time() - self._start > self._seconds


@keras.saving.register_keras_serializable("benchmarks")
def of_grey_values(output: tf.Tensor) -> tfd.Distribution:
    """Mixtures of logistics, rounded to 0 ... 255, of what the decoder gives for each pixel.

    Its shape is (draws, images, height, width, numbers).
    """
    logits, loc, scale = tf.split(output, 3, -1)
    logistic = tfd.Logistic(127.5 + 64 * loc, 0.5 + 24 * tf.nn.softplus(scale - 1))
    rounded = tfd.QuantizedDistribution(
        tfd.TransformedDistribution(logistic, tfp.bijectors.Shift(-0.5)), 0.0, 255.0
    )
    pixels = tfd.MixtureSameFamily(tfd.Categorical(logits=logits), rounded)
    return tfd.Independent(pixels, 2)


def load(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images to train, to validate and to test, as the likelihood takes them."""
    found = images.load(name)
    parts = (found.train, found.validation, found.test)
    if name == "freyfaces":
        return tuple(part[..., 0].astype("float32") for part in parts)
    rng = np.random.default_rng(0)
    return tuple(
        (rng.random(part.shape, "float32") * 255 < part)[..., 0].astype("float32") for part in parts
    )


def make(options: argparse.Namespace, shape: tuple[int, ...], posterior: str) -> vi.FlowVAE:
    """An autoencoder of fully connected networks."""
    grey = options.data == "freyfaces"
    width, latent = options.width, options.latent
    encoder = keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Rescaling(1 / 127.5 if grey else 2.0, offset=-1.0),
            keras.layers.Flatten(),
            *_layers(width, options.dropout),
        ]
    )
    outputs = 3 * _COMPONENTS if grey else 1
    decoder = keras.Sequential(
        [
            keras.Input((latent,)),
            *_layers(width, options.dropout),
            dense(outputs * math.prod(shape)),
            keras.layers.Reshape((*shape, outputs) if grey else shape),
        ]
    )
    if posterior == "iaf":
        posterior = flows.iaf(
            latent,
            layers=options.layers,
            hidden_units=(options.units,),
            context_size=width,
            seed=options.seed,
        )
    return vi.FlowVAE(
        encoder,
        decoder,
        latent,
        posterior,
        likelihood=of_grey_values if grey else "bernoulli",
        annealing_steps=options.annealing,
        seed=options.seed,
    )


def _layers(width: int, dropout: float) -> list[keras.layers.Layer]:
    parts = []
    for _ in range(2):
        parts.append(dense(width, "silu"))
        if dropout:
            parts.append(keras.layers.Dropout(dropout))
    return parts


def run(options: argparse.Namespace, posterior: str) -> None:
    """Train one, and print its row."""
    train, validation, test = load(options.data)
    model = make(options, train.shape[1:], posterior)
    model.compile(keras.optimizers.Adam(options.learning_rate))
    with TemporaryDirectory() as folder:
        best = Path(folder) / "best.weights.h5"
        start = time.process_time()
        history = model.fit(
            train,
            batch_size=options.batch_size,
            epochs=100_000,
            validation_data=(validation,),
            callbacks=[
                Cosine(options.learning_rate, options.minutes),
                keras.callbacks.ModelCheckpoint(best, save_best_only=True, save_weights_only=True),
                keras.callbacks.TerminateOnNaN(),
            ],
            verbose=0,
        )
        minutes = (time.process_time() - start) / 60
        model.load_weights(best)
    losses = history.history["val_loss"]
    print(
        f"{posterior}: {model.count_params()} numbers, {len(losses)} epochs in {minutes:.1f} CPU "
        f"minutes; best validation {min(losses):.2f} nats after {np.argmin(losses) + 1}",
        flush=True,
    )
    unit = 1 / (math.prod(test.shape[1:]) * math.log(2)) if options.data == "freyfaces" else 1.0
    name = "bits/dim" if options.data == "freyfaces" else "nats"
    # Each image by 20 draws, one after another, so that the error is that of the images alone.
    parts = model.evaluate(np.repeat(test, 20, 0), batch_size=1000, return_dict=True, verbose=0)
    log_p = model.log_prob(test[: options.weighted], draws=500)
    print(
        f"  test -ELBO {unit * parts['loss']:.4f} {name}, of which KL {unit * parts['kl']:.4f}; "
        f"-log p(x) {-unit * log_p.mean():.4f} ± {unit * log_p.std() / len(log_p) ** 0.5:.4f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", choices=("mnist", "freyfaces"), default="mnist")
    parser.add_argument("--posteriors", nargs="+", default=["mean_field", "iaf"])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--width", type=int, default=400)
    parser.add_argument("--latent", type=int, default=40)
    parser.add_argument("--layers", type=int, default=4, help="of the inverse autoregressive flow")
    parser.add_argument("--units", type=int, default=320, help="of its networks")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--annealing", type=int, default=5000)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--weighted", type=int, default=1000, help="images weighted by importance")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for posterior in options.posteriors:
        run(options, posterior)


if __name__ == "__main__":
    main()
