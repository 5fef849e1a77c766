"""Our flows of images: Glow, with learned noise, given the class, and TarFlow.

`model.fit` trains `FlowModel(Dequantized(flow))` on pixels as they are; of patches, whose noise is
part of their preparation (see `data.py`), the flow alone.
"""

from __future__ import annotations

import json
import math
import sys
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from common import Schedule, parameter_count
from data import Images, held_memory, load, peak_memory
from tfp import limit_threads
from training import Options, finish, held_out, summary

from tfp_flows import Flow, FlowModel, flows
from tfp_flows.bijectors import TokenAutoregressive
from tfp_flows.distributions import Dequantized, bits_per_dim
from tfp_flows.distributions.chain import flatten_chain

WEIGHTED = 16  # Noise draws of an importance-weighted bound, on `FEW` images.
FEW = 500


def build(images: Images, options: Options) -> FlowModel:
    classes = 10 if options.model.endswith("classes") else None
    if options.model.startswith("tarflow"):
        flow = flows.tarflow(
            images.shape,
            options.patch,
            options.blocks,
            options.layers,
            options.width,
            context_size=classes,
            seed=options.seed,
        )
    else:
        flow = flows.glow(
            images.shape,
            options.levels,
            options.steps,
            options.width,
            context_size=classes,
            seed=options.seed,
        )
    if images.are_patches:
        return FlowModel(flow)
    noise = (options.width,) if options.model.endswith("variational") else None
    return FlowModel(Dequantized(flow, 1.0, noise=noise, align="left"))


def train(model: FlowModel, images: Images, options: Options) -> dict[str, Any]:
    """Train for the time that is given, tracing and compilation included."""
    schedule = Timed(options.minutes, options.learning_rate, clock=options.now)
    x = images.train[:5000]
    model.compile(keras.optimizers.Adam(options.learning_rate))
    if images.are_patches:
        model.adapt(images.continuous(x, np.random.default_rng(1)))
        shape = (options.batch_size, *images.shape)
        batches = tf.data.Dataset.from_generator(
            lambda: images.batches(options.batch_size, options.seed),
            output_signature=tf.TensorSpec(shape, tf.float32),
        )
        model.fit(batches, steps_per_epoch=10**9, callbacks=schedule, verbose=0)
    else:
        context = [one_hot(images.labels["train"])] if options.model.endswith("classes") else []
        model.adapt(*[part[:5000] for part in context], x.astype("float32"))
        model.fit(
            *context,
            images.train.astype("float32"),
            batch_size=options.batch_size,
            epochs=10**6,
            callbacks=schedule,
            verbose=0,
        )
    return {
        "seconds": schedule.elapsed(),
        "steps": schedule.steps,
        "ms": 1e3 * float(np.median(schedule.times)),
        "memory": peak_memory(),
        "notes": [],
    }


class Timed(Schedule):
    """A schedule that notes how long steps take."""

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.times: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        super().on_train_batch_begin(batch, logs)
        self.before = self.clock()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.times.append(self.clock() - self.before)
        super().on_train_batch_end(batch, logs)


def score(model: FlowModel, images: Images, options: Options) -> dict[str, Any]:
    """Scores of held-out images by every bound there is, and notes."""
    x, labels = held_out(images, options)
    if images.are_patches:
        y = images.continuous(x, np.random.default_rng(2))
        nats = model.predict(y, batch_size=200, verbose=0)
        return {"scores": {"uniform": summary(images.nats(nats, y))}, "notes": []}
    x = x.astype("float32")

    def scored(log_prob: np.ndarray) -> list[float]:
        return summary(bits_per_dim(-log_prob.astype("float64"), images.shape))

    model.distribution.seed = 2  # Equal noise for equal pixels, whatever the class.
    if options.model.endswith("classes"):
        counts = np.bincount(images.labels["train"], minlength=10)
        given = [predict(model, x, one_hot(np.full(len(x), c))) for c in range(10)]
        joint = np.stack(given, -1).astype("float64") + np.log(counts / counts.sum())
        right = joint.argmax(-1) == labels
        error = 2 * right.std() / math.sqrt(len(right))
        top = joint.max(-1)
        marginal = top + np.log(np.exp(joint - top[:, None]).sum(-1))
        note = f"class by Bayes' rule: {100 * right.mean():.2f} ± {100 * error:.2f} % right"
        nats = np.take_along_axis(np.stack(given, -1), labels[:, None], -1)[:, 0]
        found = {"given the class, uniform": scored(nats), "uniform": scored(marginal)}
        return {"scores": found, "notes": [note]}
    bound = "variational" if options.model.endswith("variational") else "uniform"
    scores = {bound: scored(predict(model, x))}
    model.distribution.samples = WEIGHTED
    model.compile(model.optimizer)  # Reads the attributes again.
    scores[f"{bound}, {WEIGHTED} weighted samples, {FEW} images"] = scored(predict(model, x[:FEW]))
    return {"scores": scores, "notes": []}


def predict(model: FlowModel, x: np.ndarray, *context: np.ndarray) -> np.ndarray:
    """Log-probabilities. Batches are equal for all classes, and so is their noise."""
    return model.predict((*context, x) if context else x, batch_size=100, verbose=0)


def one_hot(labels: np.ndarray) -> np.ndarray:
    return np.eye(10, dtype="float32")[labels]


def sampling(flow: Flow, count: int = 64) -> str:
    """Sampling with cached keys and values against all tokens anew for every one."""
    z = flow.distribution.sample(count, seed=0)

    @tf.function
    def cached(z: tf.Tensor) -> tf.Tensor:
        return flow.bijector.forward(z)

    @tf.function
    def anew(z: tf.Tensor) -> tf.Tensor:
        for part in reversed(flatten_chain(flow.bijector)):
            z = (
                token_by_token(part, z)
                if isinstance(part, TokenAutoregressive)
                else part.forward(z)
            )
        return z

    def milliseconds(sample: Any) -> float:
        sample(z)
        times = []
        for _ in range(3):
            start = time.process_time()
            sample(z)
            times.append(time.process_time() - start)
        return 1e3 * float(np.median(times))

    ours, theirs = cached(z), anew(z)
    gap = float(tf.reduce_max(tf.abs(ours - theirs) / (1 + tf.abs(theirs))))
    fast, slow = milliseconds(cached), milliseconds(anew)
    return (
        f"{count} draws: {fast:.0f} ms with a cache, {slow:.0f} ms token by token, "
        f"{slow / fast:.1f} times; largest relative difference {gap:.0e}"
    )


def token_by_token(layer: TokenAutoregressive, x: tf.Tensor) -> tf.Tensor:
    """The layer's forward map by a call of the whole network for every token."""
    x = tf.reverse(x, [1]) if layer.reverse else x
    y = tf.zeros_like(x)
    for _ in tf.range(layer.event_size[0]):
        y, _ = layer.transformer.forward(x, layer.conditioner(y))
    return tf.reverse(y, [1]) if layer.reverse else y


def main() -> None:
    options = Options(**json.loads(sys.argv[1]))
    limit_threads(options.threads)
    keras.utils.set_random_seed(options.seed)
    images = load(options.data)
    before = held_memory()
    model = build(images, options)
    result = {**train(model, images, options), **score(model, images, options)}
    if options.model == "tarflow":
        flow = model.distribution if images.are_patches else model.distribution.distribution
        result["notes"].append(sampling(flow))
    finish(result, parameter_count(model), before)


if __name__ == "__main__":
    main()
