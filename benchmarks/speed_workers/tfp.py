"""TensorFlow Probability as its documentation shows it: `tfb.RealNVP` and
`tfb.MaskedAutoregressiveFlow` in a `tfb.Chain` and a `tfd.TransformedDistribution`.

`tfb.RealNVP` and `tfb.MaskedAutoregressiveFlow` call their networks anew for the log-determinant;
what is computed twice in a graph, TensorFlow removes where it can.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from protocol import Program, Setting

tfd, tfb = tfp.distributions, tfp.bijectors

PACKAGES = ("tensorflow-probability",)


def build(setting: Setting) -> Program:
    """Modes: `graph` and `xla`."""
    size, n = setting.event_size, setting.batch_size
    makers = {
        "affine": affine_coupling,
        "spline": spline_coupling,
        "maf": autoregressive,
        "ffjord": continuous,
    }
    layers, variables = [], []
    for i in range(setting.layers):
        made, its_variables = makers[setting.family](setting, i)
        variables += its_variables
        if setting.family == "maf" and i:
            layers.append(tfb.Permute(np.arange(size)[::-1]))
        layers.append(made)
    flow = tfd.TransformedDistribution(
        tfd.MultivariateNormalDiag(tf.zeros(size), tf.ones(size)), tfb.Chain(layers)
    )
    # This optimizer applies the masks that tfb.AutoregressiveNetwork keeps as constraints.
    optimizer = tf_keras.optimizers.Adam(setting.learning_rate, jit_compile=False)
    optimizer.build(variables)
    x = tf.constant(np.random.default_rng(0).normal(size=(n, size)), "float32")
    seed = tf.constant([0, 1])  # An argument: a constant's noise could be folded into the graph.
    jit = setting.mode == "xla"

    @tf.function(jit_compile=jit)
    def step(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(flow.log_prob(x))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    log_prob = tf.function(flow.log_prob, jit_compile=jit)
    sample = tf.function(lambda seed: flow.sample(n, seed=seed), jit_compile=jit)
    both = tf.function(
        lambda seed: flow.experimental_sample_and_log_prob(n, seed=seed), jit_compile=jit
    )
    tasks = {
        "train": lambda: wait(step(x)),
        "log_prob": lambda: wait(log_prob(x)),
        "sample": lambda: wait(sample(seed)),
        "sample_and_log_prob": lambda: wait(both(seed)[1]),
    }
    note = "DormandPrince chooses the steps (rtol 1e-5)" if setting.family == "ffjord" else ""
    return Program(sum(int(np.prod(v.shape)) for v in variables), tasks, note=note)


def network(setting: Setting, layer: int) -> tf_keras.Sequential:
    kept, moved = setting.halves(layer)
    hidden = [tf_keras.layers.Dense(units, "relu") for units in setting.hidden_units]
    last = tf_keras.layers.Dense(
        moved * setting.outputs, kernel_initializer=tf_keras.initializers.RandomNormal(stddev=1e-3)
    )
    made = tf_keras.Sequential([*hidden, last])
    made.build((None, kept))
    return made


def masked(setting: Setting, layer: int) -> int:
    """`num_masked` of tfb.RealNVP: the first columns are kept, or, if negative, the last."""
    kept, _ = setting.halves(layer)
    return kept if layer % 2 == 0 else -kept


def affine_coupling(setting: Setting, layer: int) -> tuple[tfb.Bijector, list[tf.Variable]]:
    net = network(setting, layer)
    coupling = tfb.RealNVP(
        masked(setting, layer),
        shift_and_log_scale_fn=lambda x, depth: tf.split(net(x), 2, axis=-1),
    )
    return coupling, net.trainable_variables


def spline_coupling(setting: Setting, layer: int) -> tuple[tfb.Bijector, list[tf.Variable]]:
    net, bins, smallest = network(setting, layer), setting.bins, 1e-3
    sizes = (bins, bins, bins - 1)

    def positions(x: tf.Tensor) -> tf.Tensor:
        room = 2 * setting.bound - bins * smallest
        return tf.math.softmax(x, axis=-1) * room + smallest

    def spline(x: tf.Tensor, depth: int) -> tfb.Bijector:
        parameters = tf.reshape(net(x), (-1, depth, sum(sizes)))
        widths, heights, slopes = tf.split(parameters, sizes, axis=-1)
        return tfb.RationalQuadraticSpline(
            positions(widths),
            positions(heights),
            tf.math.softplus(slopes) + smallest,
            range_min=-setting.bound,
        )

    coupling = tfb.RealNVP(masked(setting, layer), bijector_fn=spline)
    return coupling, net.trainable_variables


def autoregressive(setting: Setting, layer: int) -> tuple[tfb.Bijector, list[tf.Variable]]:
    net = tfb.AutoregressiveNetwork(
        params=2,
        event_shape=setting.event_size,
        hidden_units=list(setting.hidden_units),
        activation="relu",
    )
    net.build((None, setting.event_size))
    return tfb.MaskedAutoregressiveFlow(net, name=f"maf_{layer}"), net.trainable_variables


def continuous(setting: Setting, layer: int) -> tuple[tfb.Bijector, list[tf.Variable]]:
    hidden = [tf_keras.layers.Dense(units, "swish") for units in setting.hidden_units]
    net = tf_keras.Sequential([*hidden, tf_keras.layers.Dense(setting.event_size)])
    net.build((None, setting.event_size + 1))

    def velocity(t: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        return net(tf.concat([x, tf.fill(tf.shape(x[..., :1]), t)], axis=-1))

    flow = tfb.FFJORD(
        velocity,
        ode_solve_fn=tfp.math.ode.DormandPrince(rtol=1e-5, atol=1e-5).solve,
        trace_augmentation_fn=tfb.ffjord.trace_jacobian_exact,
    )
    return flow, net.trainable_variables


def wait(result: tf.Tensor) -> None:
    result.numpy()
