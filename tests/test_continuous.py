"""Continuous flows: traces, penalties, paths and scores."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import randomize

from tfp_flows import Flow, FlowModel, bijectors, datasets, flows, networks, plots
from tfp_flows.model.solver_check import SolverErrorWarning

tfd, tfb = tfp.distributions, tfp.bijectors

DYNAMICS = {
    "one layer": lambda c: networks.VelocityMLP(3, (5,), context_size=c, dtype="float64", seed=0),
    "two layers": lambda c: networks.VelocityMLP(
        3, (5, 4), context_size=c, dtype="float64", activation="tanh", seed=0
    ),
    "three layers": lambda c: networks.VelocityMLP(
        3, (5, 4, 6), context_size=c, dtype="float64", activation="softplus", seed=0
    ),
    "potential": lambda c: networks.Potential(3, 5, context_size=c, dtype="float64", seed=0),
    "layer": lambda c: keras.Sequential(
        [keras.layers.Dense(6, "tanh", dtype="float64"), keras.layers.Dense(3, dtype="float64")]
    ),
}


@pytest.mark.parametrize("context_size", [None, 2])
@pytest.mark.parametrize("name", DYNAMICS)
def test_traces_and_products_against_automatic_differentiation(name, context_size):
    made = DYNAMICS[name](context_size)
    layer = bijectors.Continuous(3, made, context_size=context_size, dtype="float64", seed=0)
    randomize(layer, stddev=0.5)
    rng = np.random.default_rng(0)
    x, t = tf.constant(rng.normal(size=(4, 3))), tf.constant(rng.uniform(size=4))
    context = None if context_size is None else tf.constant(rng.normal(size=(4, 2)))
    network = layer.dynamics
    parameters = network.parameters(context)
    with tf.GradientTape() as tape:
        tape.watch(x)
        velocity = network.velocity(t, x, parameters)
    jacobian = tape.batch_jacobian(velocity, x)
    probe, _ = network.signs(x)
    assert set(np.unique(probe)) <= {-1.0, 1.0}
    again, trace = network.with_trace(t, x, parameters)
    np.testing.assert_allclose(again, velocity, rtol=1e-12)
    np.testing.assert_allclose(trace, tf.linalg.trace(jacobian), rtol=1e-10, atol=1e-12)
    again, product = network.with_product(t, x, parameters, probe)
    np.testing.assert_allclose(again, velocity, rtol=1e-12)
    np.testing.assert_allclose(product, tf.einsum("ni,nij->nj", probe, jacobian), rtol=1e-9)
    # At one time for all rows, and as a Keras layer.
    first = network.parameters(None if context is None else context[:1])
    alone = network.velocity(t[0], x[:1], first)
    np.testing.assert_allclose(alone, velocity[:1], rtol=1e-10)
    columns = [x, t[:, None]] if context is None else [x, t[:, None], context]
    np.testing.assert_allclose(network(tf.concat(columns, -1)), velocity, rtol=1e-12)


def test_hutchinson_is_right_in_the_mean_and_exact_in_evaluation():
    layer = bijectors.Continuous(3, (6, 6, 6), trace="auto", steps=2, dtype="float64", seed=0)
    randomize(layer, stddev=0.5)
    x = np.repeat(np.random.default_rng(0).normal(size=(1, 3)), 4000, 0)
    exact = layer.inverse_log_det_jacobian(x[:1], 1)[0]
    model = FlowModel(Flow(tfd.MultivariateNormalDiag(tf.zeros(3, "float64")), layer))
    evaluated = model(x[:2], training=False)
    layer.trace = "hutchinson"
    drawn = model(x, training=True)
    base = float(evaluated[0] - exact)
    error = np.std(drawn) / np.sqrt(len(drawn))
    assert error > 0
    np.testing.assert_allclose(np.mean(drawn), base + exact, atol=4 * error)
    first, second = model(x[:2], training=False), model(x[:2], training=False)
    np.testing.assert_array_equal(first, second)
    assert first[0] == first[1]


def test_penalties_are_losses_in_training_alone():
    """Of `f = A x + v` with a diagonal `A`: `|v|²` where `A` is 0, and `Σ a²` for any signs."""
    network = keras.layers.Dense(2, use_bias=True)
    layer = bijectors.Continuous(2, network, steps=2, kinetic=2.0, jacobian=3.0)
    model = FlowModel(Flow(tfd.MultivariateNormalDiag(tf.zeros(2)), layer))
    x = tf.constant(np.random.default_rng(0).normal(size=(7, 2)), tf.float32)
    for diagonal, shift, expected in (
        ([0.0, 0.0], [3.0, 4.0], 2 * 25),
        ([0.1, -0.2], [0.0, 0.0], 3 * 0.05),
    ):
        network.kernel.assign(np.vstack([np.diag(diagonal), [[0.0, 0.0]]]))
        network.bias.assign(shift)
        log_prob = model(x, training=True)
        (penalty,) = model.losses
        speed = 0.0
        if not any(shift):  # Events grow, or shrink, exponentially from where they began.
            a = np.array(diagonal)
            speed = 2 * np.mean(np.sum(a**2 * x**2 * (1 - np.exp(-2 * a)) / (2 * a), -1))
        np.testing.assert_allclose(penalty, expected + speed, rtol=1e-4)
        np.testing.assert_allclose(log_prob, model(x, training=False), rtol=1e-6)
        assert not model.losses


def test_path_begins_in_the_base_and_ends_in_the_data():
    flow = flows.ffjord(1, hidden_units=(6,), support="positive", context_size=2, seed=0)
    randomize(flow, stddev=0.3)
    context = np.ones((5, 2), "float32")
    x = flow.sample(context=context, seed=0)
    way = flow.path(x, [0.0, 0.5, 1.0], context)
    assert way.shape == (3, 5, 1)
    np.testing.assert_array_equal(way[2], x)
    outer, layer = flow.bijector.bijectors
    base = flow.given(context).bijector.inverse(tf.identity(x))
    np.testing.assert_allclose(outer.inverse(way[0]), base, atol=1e-4)
    half = layer._solve(base, tf.constant(context), 0.0, 0.5).x
    np.testing.assert_allclose(outer.inverse(way[1]), half, atol=1e-4)
    with pytest.raises(ValueError, match=r"`times` must be in \[0, 1\].*1.5"):
        flow.path(x, [1.5], context)
    with pytest.raises(ValueError, match=r"one `Continuous` bijector.*0 of them"):
        flows.real_nvp(2).path([[0.0, 0.0]], [0.5])


def test_score_is_the_gradient_of_the_log_density():
    flow = Flow(tfd.MultivariateNormalDiag([1.0, 2.0], [1.0, 2.0]), tfb.Identity())
    x = np.array([[0.0, 0.0], [3.0, 1.0]], "float32")
    np.testing.assert_allclose(flow.score(x), [[1.0, 0.5], [-2.0, 0.25]])
    model = FlowModel(flows.real_nvp(2, layers=2, seed=0))
    model.adapt(3 + 2 * np.random.default_rng(0).normal(size=(100, 2)))
    shift, scale = model.event_standardizer.shift, model.event_standardizer.scale
    np.testing.assert_allclose(model.score(x), -(x - shift) / scale**2, rtol=1e-5)


BAD = {
    "solver": (lambda: bijectors.Continuous(2, solver="euler"), "`solver` must be one of.*'euler'"),
    "trace": (lambda: bijectors.Continuous(2, trace="both"), "`trace` must be one of.*'both'"),
    "steps": (lambda: bijectors.Continuous(2, steps=0), "`steps` must be a positive integer"),
    "rtol": (lambda: bijectors.Continuous(2, rtol=0.0), "`rtol` must be positive.*0.0"),
    "kinetic": (lambda: bijectors.Continuous(2, kinetic=-1), "`kinetic` must be 0 or more.*-1"),
    "dynamics": (lambda: bijectors.Continuous(2, "mlp"), "`dynamics` must be a sequence.*'mlp'"),
    "output": (
        lambda: bijectors.Continuous(2, keras.layers.Dense(3)),
        "`dynamics` must return 2 values an event",
    ),
    "sizes": (
        lambda: bijectors.Continuous(2, networks.VelocityMLP(3)),
        r"must have the event size.*\(2, None, 'float32'\).*\(3, None, 'float32'\)",
    ),
    "widths": (
        lambda: flows.ot_flow(2, hidden_units=(3, 4)),
        "one width, or two equal ones.*\\(3, 4\\)",
    ),
    "activation": (lambda: flows.ffjord(2, activation="relu"), "`activation` must be one of"),
    "loss": (
        lambda: FlowModel(flows.ffjord(2)).compile(loss="mse"),
        "`loss` must be None, for the likelihood, or one of.*'mse'",
    ),
    "flow": (
        lambda: FlowModel(flows.real_nvp(2)).compile(loss="flow_matching"),
        "needs a flow with one `Continuous`.*0 of them",
    ),
    "layers": (
        lambda: FlowModel(flows.ffjord(2, layers=2)).compile(loss="flow_matching"),
        "needs a flow with one `Continuous`.*2 of them",
    ),
    "jit": (
        lambda: FlowModel(flows.ffjord(2)).compile(loss="ot_flow_matching", jit_compile=True),
        "`jit_compile` must be False or 'auto'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case):
    make, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.slow
def test_more_steps_change_little_on_a_trained_toy():
    toy = datasets.two_moons()
    model = FlowModel(flows.ffjord(2, seed=0))
    model.compile(keras.optimizers.Adam(5e-3), loss="flow_matching")
    x = toy.sample(2_000, seed=1).numpy()
    untrained = model.log_prob(x)
    model.fit(toy.sample(50_000, seed=0), epochs=2, batch_size=256, verbose=0)
    before = model.predict(x, verbose=0)
    layer = model.distribution.bijector.bijectors[0]
    layer.steps *= 2
    after = model.log_prob(x)
    assert np.mean(after - untrained) > 0.5
    assert np.abs(after - before).max() < 1e-3


def test_paths_are_drawn():
    figure = plots.paths(flows.ffjord(2, hidden_units=(4,), steps=2, seed=0), n=20)
    (axis,) = figure.axes
    assert len(axis.lines) == 20
    np.testing.assert_array_equal(axis.lines[0].get_xdata().shape, (41,))
    figure = plots.paths(flows.ffjord(1, hidden_units=(4,), steps=2, seed=0), n=5)
    assert figure.axes[0].get_xlabel() == "time"
    with pytest.raises(ValueError, match="`columns` must be two indices"):
        plots.paths(flows.ffjord(3, hidden_units=(4,), steps=2, seed=0), columns=(0, 3))


def test_steps_that_are_too_long_for_what_was_learned_are_told_after_training():
    x = datasets.two_moons().sample(512, seed=0).numpy()
    model = FlowModel(flows.ffjord(2, hidden_units=(16,), steps=1, seed=0))
    randomize(model.distribution, stddev=2.0)
    model.compile(keras.optimizers.Adam(1e-9))
    with pytest.warns(SolverErrorWarning, match="With twice the steps of 'rk4'.*steps=1"):
        model.fit(x, epochs=1, verbose=0)
    [field] = [b for b in model.distribution.submodules if isinstance(b, bijectors.Continuous)]
    assert field.steps == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", SolverErrorWarning)
        gentle = FlowModel(flows.ffjord(2, hidden_units=(16,), seed=0))
        gentle.compile(keras.optimizers.Adam(1e-3))
        gentle.fit(x, epochs=1, verbose=0)


@pytest.mark.parametrize("rows", [None, 1, 3])
@pytest.mark.parametrize("linear", ["lu", "qr", None])
@pytest.mark.parametrize("family", [flows.ffjord, flows.ot_flow])
def test_graphs_behind_a_linear_map_give_what_steps_by_hand_give(family, linear, rows):
    """TensorFlow's optimizer of graphs may merge products, and be wrong about ranks then."""
    size = None if rows is None else 2
    options = {"layers": 1, "hidden_units": (8,), "steps": 2, "context_size": size}
    flow = randomize(family(3, linear=linear, **options, seed=0), stddev=0.3)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 3)).astype("float32")
    given = {} if rows is None else {"context": rng.normal(size=(rows, 2)).astype("float32")}
    graph = tf.function(flow.log_prob)(x, **given)
    np.testing.assert_allclose(graph, flow.log_prob(x, **given), rtol=1e-4)
    gradient = tf.function(
        lambda: tf.gradients(flow.log_prob(x, **given), flow.trainable_variables)
    )
    assert all(np.isfinite(part).all() for part in gradient())


def test_normalizations_without_second_derivatives_are_refused():
    """The gradient of a trace is one of them."""
    for norm in (keras.layers.LayerNormalization(), keras.layers.GroupNormalization(2)):
        network = keras.Sequential([keras.layers.Dense(4), norm, keras.layers.Dense(2)])
        with pytest.raises(ValueError, match="must not normalize by mean and variance"):
            bijectors.Continuous(2, network)
    network = keras.Sequential(
        [keras.layers.Dense(4), keras.layers.RMSNormalization(), keras.layers.Dense(2)]
    )
    assert bijectors.Continuous(2, network).forward(tf.ones([3, 2])).shape == (3, 2)
