"""Sampling of autoregressive layers: the compiled loop is the plain one, with its gradient."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal, randomize

from tfp_flows import bijectors, flows

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers


SOLVED = {
    "plain": {},
    "context": {"context_size": 2},
    "residual": {"residual": True, "conditioner": (8, 8, 8)},
    "blocks": {"passes": 3},
    "other order": {"order": "random"},
}


@pytest.mark.parametrize(
    ("case", "rows"), [*((case, 6) for case in SOLVED), ("plain", None), ("context", None)]
)
def test_the_compiled_loop_is_the_plain_one_with_its_gradient(case, rows):
    options = {"conditioner": (8, 8), "dtype": "float64", "seed": 0, **SOLVED[case]}
    layer = bijectors.MaskedAutoregressive(5, transformers.Affine(), **options)
    for i, variable in enumerate(layer.trainable_variables):
        variable.assign(normal(*variable.shape, seed=i, dtype="float64", scale=0.5))
    given = {"context": tf.constant(normal(6, 2, dtype="float64"))} if "context" in case else {}
    weight = normal(6, 5, dtype="float64")

    def plain(x):
        log_det = layer.forward_log_det_jacobian(x, event_ndims=1, **given)
        return layer.forward(x, **given), log_det

    # Traced where no tape records, and differentiated later.
    compiled = tf.function(plain, input_signature=[tf.TensorSpec([rows, 5], tf.float64)])
    functions = compiled.get_concrete_function().graph.as_graph_def().library.function
    assert any(f.attr["_XlaMustCompile"].b for f in functions)

    def values_and_gradients(function, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y, log_det = function(x)
            total = tf.reduce_sum(weight * y) + tf.reduce_sum(log_det**2)
        return y, log_det, *tape.gradient(total, [x, *layer.trainable_variables])

    x = tf.constant(normal(6, 5, seed=1, dtype="float64"))
    found, expected = (values_and_gradients(function, x) for function in (compiled, plain))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


def test_under_tapes_the_loop_has_second_derivatives():
    layer = bijectors.MaskedAutoregressive(3, transformers.Affine(), (4,), dtype="float64", seed=0)
    for i, variable in enumerate(layer.trainable_variables):
        variable.assign(normal(*variable.shape, seed=i, dtype="float64", scale=0.5))

    def penalty_gradients(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                total = tf.reduce_sum(layer.forward(x) ** 2)
            penalty = tf.reduce_sum(inner.gradient(total, x) ** 2)
        return outer.gradient(penalty, [x, *layer.trainable_variables])

    x = tf.constant(normal(6, 3, dtype="float64"))
    pairs = zip(tf.function(penalty_gradients)(x), penalty_gradients(x), strict=True)
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("rows", [0, 1, 2, 300])
def test_any_number_of_rows_is_drawn(rows):
    flow = flows.maf(3, layers=2, hidden_units=(4,), seed=0)
    draw = tf.function(lambda n: flow.sample(n, seed=1))
    expected = flow.sample(rows, seed=1)
    assert expected.shape == (rows, 3)
    for n in (tf.constant(rows), rows):
        np.testing.assert_allclose(draw(n), expected, atol=1e-5)


def test_a_light_transformer_need_not_be_hashable():
    class Own(transformers.Affine):
        __hash__ = None

    layer = bijectors.MaskedAutoregressive(3, Own(), (4,), seed=0)
    x = tf.constant(normal(5, 3))
    np.testing.assert_allclose(tf.function(layer.forward)(x), layer.forward(x), atol=1e-6)


def test_layers_share_what_is_compiled_to_sample_them():
    flow = flows.maf(4, layers=5, hidden_units=(8, 8), seed=0)
    graph = tf.function(lambda: flow.sample(10, seed=0)).get_concrete_function().graph
    functions = graph.as_graph_def().library.function
    assert sum(f.attr["_XlaMustCompile"].b for f in functions) == 1


def test_gradients_inside_of_loops_of_graphs():
    """As samplers of MCMC take them: what XLA compiles cannot hand out what its loops keep."""
    layer = randomize(bijectors.MaskedAutoregressive(3, transformers.Affine(), (8,), seed=0))
    start = tf.constant(normal(4, 3))

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(layer.forward(x) ** 2)
        return x - 0.01 * tape.gradient(y, x)

    @tf.function
    def in_loop(x):
        return tf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, step(x)), (0, x))[1]

    np.testing.assert_allclose(in_loop(start), step(step(step(start))), rtol=1e-5, atol=1e-6)
