"""Pieces of graphs that XLA compiles: which, when, and which not."""

import threading

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal, randomize

from tfp_flows import FlowModel, bijectors, flows
from tfp_flows.ops.xla import call_compiled, without_xla

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers


def test_only_the_spline_is_compiled_and_only_in_graphs():
    def twice(factor, x):
        return (factor * x if tf.inside_function() else x / 0,)

    np.testing.assert_array_equal(call_compiled(twice, 2.0, tf.constant(1.0), shapes=[0]), [np.inf])
    function = tf.function(lambda x: call_compiled(twice, 2.0, x, shapes=[0])[0])
    assert function(tf.constant(3.0)) == 6.0
    calls = [
        op
        for op in function.get_concrete_function(tf.TensorSpec([])).graph.get_operations()
        if "Call" in op.type
    ]
    assert [op.get_attr("_XlaMustCompile") for op in calls] == [True]


def test_what_is_compiled_ahead_is_what_the_graph_calls(monkeypatch):
    """XLA looks kernels up by the names of functions, so these must be the same ones."""
    threads, traces = [], []

    class Thread(threading.Thread):
        def start(self):
            threads.append(self)

    monkeypatch.setattr(threading, "Thread", Thread)

    def compiled_names(graph):
        functions = graph.as_graph_def().library.function
        return {f.signature.name for f in functions if f.attr["_XlaMustCompile"].b}

    def tripled(factor, x):
        traces.append(x.shape)  # A function has one name for every trace.
        return (factor * x,)

    function = tf.function(
        lambda x: (
            call_compiled(tripled, 3.0, 2 * x, shapes=[0])[0]
            + call_compiled(tripled, 3.0, x, shapes=[0])[0]
        )
    )
    names = compiled_names(function.get_concrete_function(tf.TensorSpec([4])).graph)
    assert len(names) == len(threads) == len(traces) == 1
    threads[0].run()
    np.testing.assert_array_equal(function(tf.ones([4])), [9.0] * 4)


def test_nothing_is_compiled_ahead_where_xla_compiles_everything(monkeypatch):
    def quadrupled(factor, x):
        assert threading.current_thread() is threading.main_thread()
        return (factor * x,)

    monkeypatch.setattr(threading, "Thread", pytest.fail)
    function = tf.function(
        lambda x: call_compiled(quadrupled, 4.0, x, shapes=[0])[0], jit_compile=True
    )
    np.testing.assert_array_equal(function(tf.ones([4])), [4.0] * 4)


def test_without_fusion_nothing_is_compiled(tmp_path):
    flow = flows.neural_spline(2, layers=2, hidden_units=(8,), seed=0)
    x = tf.constant(normal(10, 2))

    def compiled_calls():
        graph = tf.function(lambda: flow.log_prob(x)).get_concrete_function().graph
        return [op for op in graph.get_operations() if "Call" in op.type]

    assert len(compiled_calls()) == 2
    with without_xla():
        assert not compiled_calls()
    path = tmp_path / "exported"
    FlowModel(flow).export(path)
    assert b"XlaMustCompile" not in (path / "saved_model.pb").read_bytes()


@pytest.mark.parametrize("family", ["bernstein", "naf", "flow_plus_plus"])
def test_gradients_of_samples_compile(family):
    """As reverse KL needs; softmax over another axis than the last has none within XLA's loops."""
    flow = randomize(flows.get(family, 2, layers=1, hidden_units=(4,), seed=0))

    z = tf.constant(normal(8, 2))  # Given: XLA draws other numbers.

    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(flow.bijector.forward(tf.identity(z)) ** 2)
        return tape.gradient(loss, flow.trainable_variables)

    compiled = tf.function(gradients, jit_compile=True, autograph=False)()
    for found, expected in zip(compiled, gradients(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
