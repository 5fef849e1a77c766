"""What makes flows fast: each short cut agrees with the plain way, and is taken where it should."""

import contextlib
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal
from rational_quadratic_oracle import interval

from tfp_flows import Flow, FlowModel, bijectors, flows
from tfp_flows.distributions import chunks
from tfp_flows.model.adam import one_operation_a_weight
from tfp_flows.model.data import arrays_of, epoch_of_batches, split_off
from tfp_flows.ops import xla
from tfp_flows.ops.feature_major import permute_features, select_features
from tfp_flows.ops.xla import call_compiled, without_xla

tfd = tfp.distributions
transformers = bijectors.transformers


# Columns.


@pytest.mark.parametrize("numbers", [[0, 1], [3, 4], [1, 3], [], [4]])
def test_picked_rows_are_the_rows(numbers):
    numbers = np.array(numbers, int)
    rows = tf.constant(normal(5, 6))
    weight = normal(6, len(numbers))
    with tf.GradientTape() as tape:
        tape.watch(rows)
        found = select_features(rows, numbers)
        total = tf.reduce_sum(found * weight)
    np.testing.assert_array_equal(found, rows.numpy()[numbers].T)
    expected = np.zeros((5, 6), "float32")
    expected[numbers] = weight.T
    np.testing.assert_array_equal(tape.gradient(total, rows), expected)


def test_an_infinite_column_does_not_reach_the_others():
    x = np.array([[np.inf, 1.0, -np.inf, 2.0]], "float32")
    np.testing.assert_array_equal(select_features(tf.constant(x.T), np.array([1, 3])), [[1.0, 2.0]])


def test_rows_in_another_order_and_their_gradient():
    rows, order = tf.constant(normal(4, 3)), np.array([2, 0, 3, 1])
    weight = normal(4, 3, seed=1)
    with tf.GradientTape() as tape:
        tape.watch(rows)
        found = permute_features(rows, order)
        total = tf.reduce_sum(found * weight)
    np.testing.assert_array_equal(found, rows.numpy()[order])
    np.testing.assert_array_equal(tape.gradient(total, rows).numpy()[order], weight)


def test_a_coupling_takes_infinite_values_column_by_column():
    for transformer in (transformers.Affine(), transformers.RationalQuadraticSpline()):
        layer = bijectors.Coupling(4, transformer, (8,), mask=[True, False, True, False], seed=0)
        y = np.array([[1.0, np.inf, 2.0, 3.0]], "float32")
        np.testing.assert_allclose(layer.inverse(y), y, rtol=1e-6)


def test_a_coupling_transposes_events_once_on_each_side():
    """In the backward pass too: a transposition takes as long as a product of the network."""
    layer = bijectors.Coupling(4, transformers.Affine(), (8,), seed=0)

    @tf.function(autograph=False)
    def gradient(y):
        with tf.GradientTape() as tape:
            tape.watch(y)
            x = layer.inverse(y)
        return tape.gradient(x, y)

    graph = gradient.get_concrete_function(tf.TensorSpec([6, 4])).graph
    assert [op.type for op in graph.get_operations()].count("Transpose") == 4


# The spline.


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("direction", ["forward", "inverse"])
@pytest.mark.parametrize("bins", [1, 2, 8])
def test_the_spline_is_the_plain_formula_with_its_gradient(bins, direction, mode):
    spline = transformers.RationalQuadraticSpline(bins=bins, bound=3.0)
    x = tf.constant(normal(50, 4, dtype="float64", scale=2.0))
    parameters = tf.constant(normal(50, 3 * bins - 1, 4, seed=1, dtype="float64", scale=2.0))
    upstream = normal(2, 50, 4, seed=2, dtype="float64")

    def plain(x, parameters):
        return interval(spline, x, parameters, inverse=direction == "inverse")

    def with_gradients(function):
        with tf.GradientTape() as tape:
            tape.watch([x, parameters])
            y, log_det = function(x, parameters)
        sources = [x, parameters]
        return y, log_det, *tape.gradient([y, log_det], sources, list(map(tf.constant, upstream)))

    fast = getattr(spline, direction)
    fast = tf.function(fast) if mode == "graph" else fast
    assert (np.abs(x) > 3).any() and (np.abs(x) < 3).any()
    for found, expected in zip(with_gradients(fast), with_gradients(plain), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("rows", "known"), [(None, 100), (100, None)])
def test_gradients_may_know_more_or_less_of_their_shape(rows, known):
    spline = transformers.RationalQuadraticSpline(bins=4)
    x, parameters = tf.constant(normal(100)), tf.constant(normal(11, 100, seed=1))
    upstream = tf.constant(normal(100, seed=2))

    def gradients(x, parameters, upstream):
        with tf.GradientTape() as tape:
            tape.watch([x, parameters])
            y, _ = spline.inverse(x, parameters)
        return tape.gradient(y, [x, parameters], upstream)

    shapes = [rows], [11, rows], [known]
    signature = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
    found = tf.function(gradients, input_signature=signature)(x, parameters, upstream)
    for a, b in zip(found, gradients(x, parameters, upstream), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_parameters_may_be_shared_by_many_values():
    spline = transformers.RationalQuadraticSpline()
    x, parameters = normal(5, 4), normal(1, spline.parameter_count, 4)
    each = np.repeat(parameters, 5, axis=0)
    for found, expected in zip(
        spline.forward(tf.constant(x), tf.constant(parameters)),
        spline.forward(tf.constant(x), tf.constant(each)),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5)


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
    threads = []

    class Thread(threading.Thread):
        def start(self):
            threads.append(self)

    monkeypatch.setattr(xla.threading, "Thread", Thread)

    def compiled_names(graph):
        functions = graph.as_graph_def().library.function
        return {f.signature.name for f in functions if f.attr["_XlaMustCompile"].b}

    def tripled(factor, x):
        return (factor * x,)

    function = tf.function(
        lambda x: (
            call_compiled(tripled, 3.0, 2 * x, shapes=[0])[0]
            + call_compiled(tripled, 3.0, x, shapes=[0])[0]
        )
    )
    names = compiled_names(function.get_concrete_function(tf.TensorSpec([4])).graph)
    assert len(names) == len(threads) == 1
    graph = tf.function(xla._compiled(tripled, 3.0)).get_concrete_function(tf.TensorSpec([4])).graph
    assert compiled_names(graph) == names
    threads[0].run()
    np.testing.assert_array_equal(function(tf.ones([4])), [9.0] * 4)


def test_nothing_is_compiled_ahead_where_xla_compiles_everything(monkeypatch):
    def quadrupled(factor, x):
        assert threading.current_thread() is threading.main_thread()
        return (factor * x,)

    monkeypatch.setattr(xla, "_compile_ahead", pytest.fail)
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


# Halves.


class Mine(keras.layers.Dense):
    """A layer of which nothing is known."""


@pytest.fixture(scope="module")
def conditional():
    flow = flows.real_nvp(3, layers=2, hidden_units=(8,), context_size=2, seed=0)
    for i, variable in enumerate(flow.trainable_variables):
        variable.assign_add(tf.random.stateless_normal(variable.shape, (0, i), stddev=0.2))
    return flow


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("rows", [128, 201])
def test_halves_give_what_the_whole_gives(conditional, rows, known):
    x, context = normal(rows, 3), normal(rows, 2, seed=1)
    expected = conditional.log_prob(x, context=context)
    size = rows if known else None
    signature = [tf.TensorSpec([size, 3]), tf.TensorSpec([size, 2])]
    halved = tf.function(
        lambda x, context: conditional.log_prob(x, context=context), input_signature=signature
    )
    np.testing.assert_allclose(halved(x, context), expected, rtol=1e-5, atol=1e-5)
    one = normal(1, 2, seed=1)
    found = tf.function(lambda: conditional.log_prob(x, context=one))()
    np.testing.assert_allclose(found, conditional.log_prob(x, context=one), rtol=1e-5, atol=1e-5)


def test_halves_give_the_gradients_of_the_whole(conditional):
    x, context = tf.constant(normal(128, 3)), tf.constant(normal(128, 2, seed=1))
    sources = [x, context, *conditional.trainable_variables]

    def gradients():
        with tf.GradientTape() as tape:
            tape.watch(sources[:2])
            loss = tf.reduce_mean(conditional.log_prob(x, context=context))
        return tape.gradient(loss, sources)

    for found, expected in zip(tf.function(gradients)(), gradients(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(), 128, 201, [2, 100], [[128]]])
def test_draws_in_halves_are_those_of_the_whole(shape):
    flow = flows.real_nvp(3, layers=2, hidden_units=(8,), seed=0)
    for i, variable in enumerate(flow.trainable_variables):
        variable.assign_add(tf.random.stateless_normal(variable.shape, (0, i), stddev=0.2))
    shape = tf.constant(shape[0]) if np.ndim(shape) == 2 else shape  # A tensor.
    draw, draw_both = (
        tf.function(lambda shape, method=method: method(shape, seed=1))
        for method in (flow.sample, flow.sample_and_log_prob)
    )
    x = flow.sample(shape, seed=1)
    np.testing.assert_allclose(draw(shape), x, rtol=1e-5, atol=1e-5)
    found, log_prob = draw_both(shape)
    np.testing.assert_allclose(found, x, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(log_prob, flow.log_prob(x), rtol=1e-4, atol=1e-4)


def test_a_flow_may_change_the_rank_of_events():
    base = tfd.Sample(tfd.Normal(0.0, 1.0), [200, 3])
    chain = tfp.bijectors.Chain(
        [tfp.bijectors.Scale(2.0), tfp.bijectors.Reshape([600], event_shape_in=[200, 3])]
    )
    flow = Flow(base, chain)
    for shape in ((), 300):
        x, log_prob = flow.sample_and_log_prob(shape, seed=0)
        expected = tf.reduce_sum(tfd.Normal(0.0, 2.0).log_prob(x), -1)
        draw = tf.function(lambda shape=shape: flow.sample_and_log_prob(shape, seed=0))
        np.testing.assert_array_equal(draw()[0], x)
        for found in (log_prob, draw()[1], flow.log_prob(x), tf.function(flow.log_prob)(x)):
            np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_halves_are_taken_where_they_pay(monkeypatch):
    def halved(rows, jit=False, cores=2):
        traces = []
        monkeypatch.setattr(chunks, "_cores", lambda: cores)

        def total(x):
            traces.append(x.shape[0])
            return tf.reduce_sum(x, -1)

        x = tf.ones([rows, 2])
        found = tf.function(lambda: chunks.map_chunks(total, x), jit_compile=jit)()
        np.testing.assert_array_equal(found, np.full(rows, 2.0))
        return traces

    assert halved(256) == [128]  # Traced once, for both.
    assert halved(100) == [100]
    assert halved(256, jit=True) == [256]
    assert halved(256, cores=1) == [256]
    traces = []
    chunks.map_chunks(lambda x: traces.append(len(x)) or x, tf.ones([256]))
    assert traces == [256]  # Not in eager mode.


@pytest.mark.parametrize(
    "layers",
    [
        [keras.layers.Dense(4), keras.layers.BatchNormalization()],
        [keras.layers.Dense(4, activity_regularizer="l2")],
        [keras.layers.ActivityRegularization(l2=0.1)],
        [keras.layers.Lambda(lambda h: h - tf.reduce_mean(h, 0))],
    ],
)
def test_layers_of_batches_see_whole_batches(layers):
    def halves_of(network):
        layer = bijectors.Coupling(2, transformers.Affine(), network)
        flow = Flow(tfd.MultivariateNormalDiag([0.0, 0.0]), layer)
        graph = tf.function(flow.log_prob).get_concrete_function(tf.TensorSpec([256, 2])).graph
        return sum("Call" in op.type for op in graph.get_operations())

    assert halves_of((4,)) == halves_of(keras.Sequential([keras.layers.Dense(4)])) == 2
    assert halves_of(keras.Sequential(layers)) == 0
    assert halves_of(Mine(4)) == 0


def test_batches_of_distributions_are_not_halved(conditional):
    x, contexts = normal(200, 3), normal(200, 2, seed=1)
    shifts = normal(200, 3, seed=2)
    bijector = conditional.given(contexts[0]).bijector
    cases = [
        conditional.given(contexts),
        conditional.given(contexts[:5, None]),
        Flow(tfd.MultivariateNormalDiag(shifts), bijector),
        Flow(tfd.MultivariateNormalDiag(np.zeros(3, "float32")), tfp.bijectors.Shift(shifts)),
    ]
    for flow in cases:
        expected = flow.log_prob(x)
        found = tf.function(flow.log_prob)(x)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [flows.neural_spline, flows.autoregressive_spline])
def test_splines_of_any_number_of_rows_share_what_is_compiled(make):
    flow = make(3, layers=2, hidden_units=(8,), dtype="float64", seed=0)
    for i, variable in enumerate(flow.trainable_variables):
        variable.assign_add(normal(*variable.shape, seed=i, dtype="float64", scale=0.2))

    def with_gradients(x):
        with tf.GradientTape() as tape:
            log_prob = flow.log_prob(x)
        return log_prob, *tape.gradient(log_prob, flow.trainable_variables)

    signature = [tf.TensorSpec([None, 3], tf.float64)]
    function = tf.function(with_gradients, input_signature=signature)
    for rows in (1, 90, 130):
        x = normal(rows, 3, dtype="float64")
        for found, expected in zip(function(x), with_gradients(x), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_columns_of_unknown_number_are_taken():
    for transformer in (transformers.Affine(), transformers.RationalQuadraticSpline()):
        layer = bijectors.Coupling(3, transformer, (8,), mask="alternate", seed=0)
        forward = tf.function(layer.forward, input_signature=[tf.TensorSpec([None, None])])
        np.testing.assert_allclose(forward(np.ones([4, 3], "float32")), np.ones([4, 3]), rtol=1e-6)


# Batches, and steps at a time.


@pytest.mark.parametrize("rows", [12, 14])
def test_an_epoch_has_every_row_once(rows):
    keras.utils.set_random_seed(0)  # With a seed, too, epochs differ.
    x, weight = np.arange(rows * 2.0).reshape(rows, 2), np.arange(rows * 1.0)
    batches = epoch_of_batches([x, weight], 4, shuffle=True, dtype="float32")
    epochs = []
    for _ in range(2):
        sizes, parts = [], []
        for batch_x, batch_weight in batches:
            sizes.append(len(batch_x))
            np.testing.assert_array_equal(batch_x[:, 0], 2 * batch_weight)
            parts.append(batch_weight.numpy())
        assert sizes == [4, 4, 4, 2][: len(sizes)] and len(sizes) == len(batches)
        epochs.append(np.concatenate(parts))
        np.testing.assert_array_equal(np.sort(epochs[-1]), weight)
    assert (epochs[0] != epochs[1]).any()
    assert batch_x.dtype == "float32"
    first, _ = next(iter(epoch_of_batches([x, weight], 4, shuffle=False, dtype="float64")))
    np.testing.assert_array_equal(first, x[:4])
    plain = epoch_of_batches([x], rows, shuffle=False, dtype="float32")
    assert plain.element_spec == tf.TensorSpec([rows, 2])


def test_arrays_are_told_from_other_data():
    x, y = normal(4, 2), normal(4, 1)
    assert [part is x or part is y for part in arrays_of((x, y), None, None)] == [True, True]
    assert arrays_of(x, None, y[:3]) is None
    assert arrays_of(tf.data.Dataset.range(3), None, None) is None
    assert arrays_of(x[:0], None, None) is None
    (kept, _), (held_out, _) = split_off([x, y], 0.25)
    np.testing.assert_array_equal(np.concatenate([kept, held_out]), x)
    assert len(held_out) == 1 and split_off([x], 0.0)[1] is None


def test_a_split_must_leave_rows():
    for share in (0.5, 1.0):
        with pytest.raises(ValueError, match="`validation_split` must leave rows"):
            split_off([normal(1, 2)], share)


class Steps(keras.callbacks.Callback):
    """How many steps run at a time."""

    def on_epoch_end(self, epoch, logs=None):
        self.at_a_time = self.model.steps_per_execution


class Batches(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = 0

    def on_train_batch_end(self, batch, logs=None):
        self.seen += 1


def test_light_steps_run_many_at_a_time_unless_batches_are_watched(monkeypatch):
    model = FlowModel(flows.real_nvp(2, layers=1, hidden_units=(4,), seed=0))
    model.compile(keras.optimizers.SGD(0.0))
    steps, watch = Steps(), Batches()
    hook = keras.callbacks.LambdaCallback(on_test_batch_end=lambda batch, logs: None)

    def at_a_time(*callbacks, **options):
        model.fit(normal(70, 2), batch_size=10, verbose=0, callbacks=[steps, *callbacks], **options)
        return steps.at_a_time

    assert at_a_time() == 32
    assert at_a_time(watch) == 1 and watch.seen == 7
    assert at_a_time(hook) == 1
    validation = tf.data.Dataset.from_tensors(normal(5, 2)).repeat()
    assert at_a_time(validation_data=validation, validation_steps=2) == 1
    function = model._traced[32][0]
    assert at_a_time(keras.callbacks.EarlyStopping("loss")) == 32
    assert model._traced[32][0] is function is not None  # Not traced again.
    assert model.optimizer.iterations == 5 * 7
    # Steps that are counted are counted one by one.
    rows = tf.data.Dataset.from_tensors(normal(10, 2)).repeat()
    assert model.predict(rows, steps=3, verbose=0).shape == (30,)
    monkeypatch.setattr("tfp_flows.model.trainer._CHEAP_STEP", 100)
    assert at_a_time() == 1
    model.compile(keras.optimizers.SGD(0.0), steps_per_execution=3)
    assert at_a_time() == 3


def test_after_a_bad_loss_no_step_changes_anything():
    model = FlowModel(flows.real_nvp(2, layers=1, hidden_units=(4,), seed=0))
    model.compile(keras.optimizers.SGD(0.1))
    x = normal(70, 2)
    x[12, 0] = 3e38  # Of the second of seven batches: its square is infinite.
    with pytest.warns(RuntimeWarning, match="The last finite weights are kept"):
        model.fit(x, batch_size=10, shuffle=False, verbose=0)
    assert model.optimizer.iterations == 1
    assert model.steps_per_execution == 1


def test_a_saved_model_goes_on_choosing(tmp_path):
    model = FlowModel(flows.real_nvp(2, layers=1, hidden_units=(4,), seed=0))
    for steps, expected in (("auto", 32), (3, 3)):
        model.compile(keras.optimizers.Adam(), steps_per_execution=steps)
        model.save(tmp_path / "flow.keras")
        loaded = FlowModel.load(tmp_path / "flow.keras")
        steps = Steps()
        loaded.fit(normal(20, 2), batch_size=10, verbose=0, callbacks=[steps])
        assert steps.at_a_time == expected


def test_evaluation_is_of_all_rows_whatever_runs_at_a_time():
    model = FlowModel(flows.real_nvp(2, layers=1, hidden_units=(4,), seed=0))
    model.compile(keras.optimizers.SGD(0.0))
    x = normal(70, 2)
    expected = -np.mean(model.log_prob(x))
    for callbacks in (None, [Batches()], None):
        history = model.fit(
            x, batch_size=10, validation_data=(x,), callbacks=callbacks, verbose=0
        ).history
        assert history["loss"] == pytest.approx([expected], abs=1e-5)
        assert history["val_loss"] == pytest.approx([expected], abs=1e-5)
        assert model.evaluate(x, batch_size=10, verbose=0) == pytest.approx(expected, abs=1e-5)
        assert model.predict(x, batch_size=10, verbose=0).shape == (70,)


# Sampling of autoregressive layers.


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


# Adam.


def updated(optimizer, dtype, context, steps=5):
    """Weights and the optimizer's variables after some steps; the types of operations in a step."""
    weights = [keras.Variable(normal(*shape), dtype=dtype) for shape in ((3, 2), (2,))]
    optimizer.build(weights)

    @tf.function
    def step(*gradients):
        with context(optimizer):
            optimizer.apply(list(gradients), weights)

    for i in range(steps):
        step(*(tf.constant(normal(*w.shape, seed=i + 1), dtype) for w in weights))
    types = types_of_operations(step.get_concrete_function(*weights).graph)
    return [v.numpy() for v in (*weights, *optimizer.variables)], types


def types_of_operations(graph):
    graph = graph.as_graph_def()
    nodes = [graph.node, *(function.node_def for function in graph.library.function)]
    return [node.op for some in nodes for node in some]


ADAMS = {
    "plain": {},
    "other constants": {"beta_1": 0.7, "beta_2": 0.9, "epsilon": 0.1},
    "accumulated": {"gradient_accumulation_steps": 2},
    "clipped": {"clipnorm": 0.1},
    "decayed": {"weight_decay": 0.1},
    "averaged": {"use_ema": True, "ema_overwrite_frequency": 2},
    "schedule": {"learning_rate": keras.optimizers.schedules.CosineDecay(0.3, 4)},
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", ADAMS)
def test_one_operation_a_weight_makes_the_updates_of_keras(case, dtype):
    options = {"learning_rate": 0.1, **ADAMS[case]}
    plain = lambda optimizer: contextlib.nullcontext()  # noqa: E731
    expected, types = updated(keras.optimizers.Adam(**options), dtype, plain)
    assert "ResourceApplyAdam" not in types
    found, types = updated(keras.optimizers.Adam(**options), dtype, one_operation_a_weight)
    assert types.count("ResourceApplyAdam") == 2
    # Weights move by 0.1 a step. Keras rounds its constants to float32, where 1 - 0.999 has four
    # digits; see the next test.
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)


def test_in_float64_the_updates_are_those_of_the_formula():
    rate = 0.125  # Keras keeps it in float32, which has this one.
    (found, *_), _ = updated(keras.optimizers.Adam(rate), "float64", one_operation_a_weight)
    weight, m, v = normal(3, 2).astype("float64"), 0.0, 0.0
    for n in range(1, 6):
        g = normal(3, 2, seed=n).astype("float64")
        m, v = m + 0.1 * (g - m), v + 0.001 * (g**2 - v)
        unbiased = np.sqrt(1 - 0.999**n) / (1 - 0.9**n)
        weight = weight - rate * unbiased * m / (np.sqrt(v) + 1e-7)
    np.testing.assert_allclose(found, weight, rtol=1e-12)


def test_of_other_optimizers_nothing_is_changed():
    class Own(keras.optimizers.Adam):
        pass

    for optimizer in (
        Own(0.1),
        keras.optimizers.Adam(0.1, amsgrad=True),
        keras.optimizers.Nadam(0.1),
    ):
        _, types = updated(optimizer, "float32", one_operation_a_weight, steps=1)
        assert "ResourceApplyAdam" not in types
    optimizer = keras.optimizers.AdamW(0.1)
    _, types = updated(optimizer, "float32", one_operation_a_weight, steps=1)
    assert types.count("ResourceApplyAdam") == 2
    assert "update_step" not in vars(optimizer)  # Taken back after the block.


def test_sparse_gradients_are_taken():
    weight, optimizer = keras.Variable(np.ones([3, 2])), keras.optimizers.Adam(0.1)
    optimizer.build([weight])
    with one_operation_a_weight(optimizer):
        slices = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([1]), tf.constant([3, 2]))
        optimizer.apply([slices], [weight])
    np.testing.assert_allclose(weight.numpy(), [[1, 1], [0.9, 0.9], [1, 1]], atol=1e-6)


def test_a_flow_is_trained_so_whatever_scales_its_loss():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-3))
    for chosen in (keras.optimizers.Adam(1e-3), optimizer):
        model = FlowModel(flows.real_nvp(2, layers=1, hidden_units=(4,), seed=0))
        model.compile(chosen)
        model.build_optimizer()
        graph = tf.function(model.train_step).get_concrete_function(tf.ones([8, 2])).graph
        types = types_of_operations(graph)
        assert types.count("ResourceApplyAdam") == len(model.trainable_variables)
