"""`tfb.Glow` of TensorFlow Probability, its default networks at the width of ours, and Adam."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from data import Images
from training import Options, Program, main

tfd, tfb = tfp.distributions, tfp.bijectors


def build(images: Images, options: Options) -> Program:
    limit_threads(options.threads)
    tf.random.set_seed(options.seed)
    glow = tfb.Glow(
        output_shape=images.shape,
        num_glow_blocks=options.levels,
        num_steps_per_block=options.steps,
        coupling_bijector_fn=lambda shape: tfb.GlowDefaultNetwork(shape, options.width),
        exit_bijector_fn=tfb.GlowDefaultExitNetwork,
        seed=options.seed,
    )
    flow = glow(tfd.Sample(tfd.Normal(0.0, 1.0), glow.inverse_event_shape(images.shape)))
    optimizer = tf.optimizers.Adam(options.learning_rate)
    flow.log_prob(images.continuous(images.train[:1000], np.random.default_rng(0)))  # ActNorm.
    variables = [tf.keras.Variable(v) for v in flow.trainable_variables]
    optimizer.build(variables)

    @tf.function
    def update(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(flow.log_prob(x))
        gradients = tape.gradient(loss, flow.trainable_variables)
        optimizer.apply(gradients, variables)
        return loss

    def step(x: np.ndarray, rate: float) -> None:
        optimizer.learning_rate = rate
        update(tf.constant(x))

    log_prob = tf.function(flow.log_prob)
    count = sum(int(np.prod(v.shape)) for v in flow.trainable_variables)
    return Program(count, step, lambda x: log_prob(tf.constant(x)).numpy())


def limit_threads(threads: int) -> None:
    """Of TensorFlow, before it has run anything."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


if __name__ == "__main__":
    main(build)
