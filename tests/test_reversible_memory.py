"""Memory of reversible training: activations that are computed again, and FlowModel(memory=)."""

import functools
import gc
import weakref
from typing import ClassVar

import helpers
import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import Flow, FlowModel, bijectors, flows
from tfp_flows.distributions import reversible

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers

EVENT, CONTEXT, ROWS = 4, 2, 12
SMALL = {"layers": 2, "hidden_units": (8,), "seed": 0}
normal, randomize = helpers.normal, functools.partial(helpers.randomize, stddev=0.1)


def base(size=EVENT, dtype="float32"):
    return tfd.MultivariateNormalDiag(tf.zeros([size], dtype))


@keras.saving.register_keras_serializable("test_reversible")
class Witness(keras.layers.Layer):
    """A feature network that knows how many of its activations are kept, and when it runs.

    `alive` holds one object for every call whose gradient can still be asked for. `log` is written
    when the operations run, in graphs too: `("forward", name)` and `("backward", name)`.
    """

    alive: ClassVar[weakref.WeakSet] = weakref.WeakSet()
    most_alive = 0
    log: ClassVar[list] = []

    def __init__(self, name=None, **kwargs):
        super().__init__(name=name, **kwargs)
        self.dense = keras.layers.Dense(4, activation="tanh")

    @classmethod
    def reset(cls):
        gc.collect()
        cls.alive.clear()
        cls.most_alive = 0
        cls.log.clear()

    def _noted(self, x, direction):
        def note(x):
            Witness.log.append((direction, self.name))
            return x

        # Of stateful functions, a graph would keep the order by itself.
        return tf.ensure_shape(tf.numpy_function(note, [x], x.dtype, stateful=False), x.shape)

    def call(self, inputs):
        @tf.custom_gradient
        def witnessed(x):
            class Kept:
                pass

            kept = Kept()
            Witness.alive.add(kept)
            Witness.most_alive = max(Witness.most_alive, len(Witness.alive))

            def gradient(g, kept=kept):
                return self._noted(g, "backward")

            return self._noted(x, "forward"), gradient

        return witnessed(self.dense(inputs))


def witnessed_flow(layers):
    steps = []
    for i in range(layers):
        network = Witness(name=f"network_{i}")
        steps += [
            bijectors.Coupling(EVENT, transformers.Affine(), network, flip=bool(i % 2)),
            bijectors.LU(EVENT, permutation="reversed"),
        ]
    return randomize(Flow(base(), tfb.Chain(steps)))


@pytest.mark.parametrize(
    ("log_prob", "kept", "most"), [(Flow.log_prob, 6, 6), (reversible.log_prob, 0, 1)]
)
def test_no_activations_live_between_forward_and_backward(log_prob, kept, most):
    flow, x = witnessed_flow(6), tf.constant(normal(ROWS, EVENT))
    Witness.reset()
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(log_prob(flow, x))
    gc.collect()
    assert len(Witness.alive) == kept
    Witness.reset()
    tape.gradient(loss, flow.trainable_variables)
    assert max(Witness.most_alive, kept) == most


def test_a_graph_recomputes_a_layer_only_when_the_one_before_is_done():
    flow, x = witnessed_flow(6), tf.constant(normal(ROWS, EVENT))

    @tf.function(autograph=False)
    def gradients(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(reversible.log_prob(flow, x))
        return tape.gradient(loss, flow.trainable_variables)

    gradients(x)
    Witness.reset()
    gradients(x)
    names = [f"network_{i}" for i in range(6)]
    expected = [("forward", name) for name in names]
    for name in reversed(names):
        expected += [("forward", name), ("backward", name)]
    assert Witness.log == expected


def test_xla_gets_a_barrier_before_every_step():
    flow = witnessed_flow(3)

    @tf.function(autograph=False, jit_compile=True)
    def gradients(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(reversible.log_prob(flow, x))
        return tape.gradient(loss, flow.trainable_variables)

    graph = gradients.get_concrete_function(tf.TensorSpec([ROWS, EVENT])).graph
    barriers = [o for o in graph.get_operations() if o.type == "XlaOptimizationBarrier"]
    assert len(barriers) == 6  # Three couplings, three linear maps.


def floats_for_the_backward_pass(log_prob, layers, jit_compile):
    """How many numbers a graph hands from the forward to the backward pass, variables aside."""
    flow = flows.neural_spline(EVENT, layers=layers, hidden_units=(8,), linear="lu", seed=0)
    variables = flow.trainable_variables
    count = 0

    @tf.function(autograph=False, jit_compile=jit_compile)
    def trace(x):
        nonlocal count
        graph = tf.compat.v1.get_default_graph()
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(log_prob(flow, x))
        forward = set(graph.get_operations())
        tape.gradient(loss, variables)
        handed = {
            tensor.ref()
            for operation in set(graph.get_operations()) - forward
            for tensor in operation.inputs
            if tensor.op in forward and tensor.dtype.is_floating and ROWS in tensor.shape
        }
        count = sum(np.prod(reference.deref().shape) for reference in handed)

    trace.get_concrete_function(tf.TensorSpec([ROWS, EVENT]))
    return count


@pytest.mark.parametrize("jit_compile", [False, True])
def test_memory_does_not_grow_with_the_layers(jit_compile):
    ordinary, few, many = (
        floats_for_the_backward_pass(log_prob, layers, jit_compile)
        for log_prob, layers in (
            (Flow.log_prob, 6),
            (reversible.log_prob, 2),
            (reversible.log_prob, 6),
        )
    )
    assert few == many < ordinary / 20


def trained(memory, jit_compile=False, **options):
    """The model, its data and the losses."""
    flow = flows.real_nvp(2, linear="lu", actnorm=True, dtype="float64", **SMALL, **options)
    model = FlowModel(flow, memory=memory)
    model.compile(keras.optimizers.Adam(0.01), jit_compile=jit_compile)
    context_size = options.get("context_size")
    x = normal(300, 2, dtype="float64") @ [[2.0, 1.0], [0.0, 0.5]] + 3
    data = (x,) if context_size is None else (normal(300, context_size, dtype="float64"), x)
    model.adapt(*data)
    history = model.fit(*data, batch_size=150, epochs=3, shuffle=False, verbose=0)
    return model, data, history.history["loss"]


@pytest.mark.parametrize("options", [{}, {"context_size": CONTEXT}, {"jit_compile": True}])
def test_training_is_the_same(options):
    model, data, losses = trained("ordinary", **options)
    other, _, other_losses = trained("reversible", **options)
    assert losses[-1] < losses[0] - 1e-3
    np.testing.assert_allclose(other_losses, losses, rtol=1e-9)
    inputs = data if len(data) > 1 else data[0]
    np.testing.assert_allclose(
        other.predict(inputs, verbose=0), model.predict(inputs, verbose=0), rtol=1e-6
    )


def test_the_model_trains_by_recomputation():
    """A step calls every network once, or twice: there, and on the way back."""
    for memory, calls in (("ordinary", 1), ("reversible", 2)):
        model = FlowModel(witnessed_flow(2), memory=memory)
        model.compile("adam", run_eagerly=True)
        Witness.reset()
        model.fit(normal(ROWS, EVENT), epochs=1, batch_size=ROWS, verbose=0)
        assert Witness.log.count(("forward", "network_0")) == calls


def test_saving_keeps_it(tmp_path):
    model, data, _ = trained("reversible")
    assert model.get_config()["memory"] == "reversible"
    model.save(tmp_path / "flow.keras")
    loaded = FlowModel.load(tmp_path / "flow.keras")
    assert loaded.memory == "reversible"
    expected = model.predict(*data, verbose=0)
    np.testing.assert_allclose(loaded.predict(*data, verbose=0), expected, rtol=1e-12)
    model.export(tmp_path / "exported")
    exported = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(exported.log_prob(*data), expected, rtol=1e-10)
