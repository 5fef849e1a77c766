"""The floor: the networks of a flow of couplings alone, without any flow.

Every network has the inputs and outputs of its coupling's; their outputs are summed. No program
that runs these networks with TensorFlow and Adam can be much faster.
"""

from __future__ import annotations

import itertools

import keras
import numpy as np
import tensorflow as tf
from protocol import Program, Setting

PACKAGES = ("tensorflow", "keras")


def build(setting: Setting) -> Program:
    """Modes: `graph` and `xla`. There is none for MAF, whose masks are a part of its network."""
    if setting.family == "maf":
        raise ValueError("the floor is that of couplings")
    networks = []
    for layer in range(setting.layers):
        kept, moved = setting.halves(layer)
        sizes = (kept, *setting.hidden_units, moved * setting.outputs)
        networks.append([dense(*shape) for shape in itertools.pairwise(sizes)])
    variables = tf.nest.flatten(networks)
    optimizer = keras.optimizers.Adam(setting.learning_rate)
    optimizer.build(variables)
    shape = (setting.batch_size, setting.event_size)
    x = tf.constant(np.random.default_rng(0).normal(size=shape), "float32")
    jit = setting.mode == "xla"

    def forward(x: tf.Tensor) -> tf.Tensor:
        total = 0.0
        for network in networks:
            total += tf.reduce_sum(apply(network, x[:, : network[0][0].shape[0]]), -1)
        return total

    @tf.function(jit_compile=jit)
    def step(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(forward(x))
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    log_prob = tf.function(forward, jit_compile=jit)
    tasks = {"train": lambda: wait(step(x)), "log_prob": lambda: wait(log_prob(x))}
    return Program(sum(int(np.prod(v.shape)) for v in variables), tasks)


def dense(inputs: int, outputs: int) -> tuple[tf.Variable, tf.Variable]:
    weights = tf.random.stateless_normal((inputs, outputs), (0, 0), stddev=(2 / inputs) ** 0.5)
    return tf.Variable(weights), tf.Variable(tf.zeros(outputs))


def apply(network: list[tuple[tf.Variable, tf.Variable]], x: tf.Tensor) -> tf.Tensor:
    for weights, bias in network[:-1]:
        x = tf.nn.relu(tf.matmul(x, weights) + bias)
    weights, bias = network[-1]
    return tf.matmul(x, weights) + bias


def wait(result: tf.Tensor) -> None:
    result.numpy()
