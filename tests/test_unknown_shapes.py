"""Events and contexts of which a graph does not know the shape, or which are no numbers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import CASES, TRANSFORMERS
from helpers import normal, randomize

from tfp_flows import FlowModel, distributions, flows

X = normal(20, 2)
UNKNOWN = tf.TensorSpec([None, None])
SMALL = {"hidden_units": (8,), "layers": 1, "seed": 0}
FAMILIES = {
    name: {} if name == "elementwise_spline" else {"layers": 1, "seed": 0}
    for name in flows.names()
    if name != "circular_spline"
}


def traced(function, spec):
    return tf.function(function, input_signature=[spec])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_axis_may_be_unknown(name):
    flow = randomize(getattr(flows, name)(2, **FAMILIES[name]), stddev=0.1)
    log_prob = traced(flow.log_prob, UNKNOWN)
    np.testing.assert_allclose(log_prob(X), flow.log_prob(X), rtol=1e-4, atol=1e-4)
    with pytest.raises(tf.errors.InvalidArgumentError):
        log_prob(X[:, :1])


@pytest.mark.parametrize("options", [{"linear": "lu"}, {"actnorm": True}, {"support": "positive"}])
def test_what_stands_around_layers_takes_no_other_width(options):
    flow = flows.real_nvp(2, **SMALL, **options)
    log_prob = traced(flow.log_prob, UNKNOWN)
    np.testing.assert_allclose(log_prob(X), flow.log_prob(X), rtol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError):
        log_prob(X[:, :1])
    for direction in (flow.bijector.forward, flow.bijector.inverse):
        with pytest.raises(tf.errors.InvalidArgumentError):
            traced(direction, UNKNOWN)(X[:, :1])


@pytest.mark.parametrize("name", [name for name in CASES if "context" in name])
def test_the_size_of_the_context_may_be_unknown(name):
    bijector = CASES[name].build("float64")
    x, context = CASES[name].inputs("float64")

    def inverse(context):
        return bijector.inverse(x, context=context)

    graph = traced(inverse, tf.TensorSpec([None] * context.ndim, "float64"))
    np.testing.assert_allclose(graph(context), inverse(context), atol=1e-9)
    with pytest.raises(tf.errors.InvalidArgumentError):
        graph(np.concatenate([context, context], -1))
    with pytest.raises(ValueError, match=r"call `tf\.ensure_shape` on it"):
        traced(inverse, tf.TensorSpec(None, "float64"))(context)


def test_draws_of_an_unknown_rank_are_an_error():
    flow = flows.real_nvp(2, **SMALL)
    for draw in (flow.sample, flow.experimental_sample_and_log_prob):
        graph = tf.function(draw, input_signature=[tf.TensorSpec([None], "int32")])
        with pytest.raises(ValueError, match="`sample_shape` must have a known length"):
            graph(tf.constant([2, 3]))


def test_an_unknown_number_of_axes_is_an_error():
    flow = flows.real_nvp(2, **SMALL)
    with pytest.raises(ValueError, match=r"of shape \(\.\.\., 2\). Received: .* unknown shape"):
        traced(flow.log_prob, tf.TensorSpec(None))(X)
    with pytest.raises(ValueError, match=r"call `tf\.ensure_shape`"):
        traced(flow.bijector.inverse, tf.TensorSpec(None))(X)


@pytest.mark.parametrize("known", ["events", "context"])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.context_size])
def test_events_or_context_may_know_the_batch_alone(name, known):
    bijector = CASES[name].build("float64")
    x, context = map(tf.constant, CASES[name].inputs("float64"))
    specs = [
        tf.TensorSpec([len(value) if known == which else None, *value.shape[1:]], value.dtype)
        for value, which in ((x, "events"), (context, "context"))
    ]

    def both_ways(x, context):
        forward = bijector.forward(x, context=context)
        inverse = bijector.inverse(tf.identity(forward), context=context)
        log_det = bijector.forward_log_det_jacobian(x, context=context)
        return forward, inverse, log_det

    in_graph = tf.function(both_ways, input_signature=specs)
    expected = both_ways(x, context)
    for found, value in zip(in_graph(x, context), expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-6, atol=1e-6)
    if known == "events":  # One context for all events.
        expected = both_ways(x, tf.repeat(context[:1], len(x), 0))
        for found, value in zip(in_graph(x, context[:1]), expected, strict=True):
            np.testing.assert_allclose(found, value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_values_and_parameters_of_unknown_batches_broadcast(name):
    transformer = TRANSFORMERS[name]
    value = tf.tanh(normal(4, 2, dtype="float64"))
    parameters = normal(4, transformer.parameter_count, 2, seed=1, dtype="float64")
    specs = [tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in (value, parameters)]
    forward = tf.function(transformer.forward, input_signature=specs)
    for shared in ((value[:1], parameters), (value, parameters[:1])):
        expected = transformer.forward(*(tf.repeat(x, 4 // len(x), 0) for x in shared))
        for found, other in zip(forward(*shared), expected, strict=True):
            np.testing.assert_allclose(found, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", ["neural_spline", "autoregressive_spline", "maf"])
def test_a_dataset_may_know_the_batch_of_the_context_alone(family):
    flow = flows.get(family, 2, context_size=1, hidden_units=(8,), layers=1, seed=0)
    model = FlowModel(flow)
    model.compile("adam")
    signature = (tf.TensorSpec((4, 1)), tf.TensorSpec((None, 2)))
    batches = [(X[i : i + 4, :1] ** 2, X[i : i + 4]) for i in (0, 4, 8)]
    data = tf.data.Dataset.from_generator(lambda: batches, output_signature=signature)
    expected = -np.mean(model.log_prob(X[:12], context=X[:12, :1] ** 2))
    assert model.evaluate(data, verbose=0) == pytest.approx(expected, abs=1e-5)
    history = model.fit(data, verbose=0)
    assert history.history["loss"][0] == pytest.approx(expected, abs=0.1)
    assert model.evaluate(data, verbose=0) != pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_graphs_that_know_that_there_is_nothing(name):
    """TensorFlow's optimizer has ended the process for it."""
    transformer = TRANSFORMERS[name]
    parameters = tf.zeros([0, transformer.parameter_count, 2])
    for direction in (transformer.forward, transformer.inverse):
        for x in (tf.zeros([0, 2]), tf.zeros([0, 1])):
            y, log_det = tf.function(direction)(x, parameters)
            assert y.shape == log_det.shape == (0, 2)


def test_graphs_of_draws_given_context():
    flow = flows.naf(2, layers=2, hidden_units=(8,), context_size=1, seed=0)
    call = lambda context: flow.sample_and_log_prob(3, context=context, seed=0)  # noqa: E731
    for found, expected in zip(tf.function(call)(X[:4, :1]), call(X[:4, :1]), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", ["auto", 1, 2])
def test_a_dataset_of_unknown_length_is_its_rows_alone(steps):
    """Keras finds out at its end, in a step without data, which must not count."""
    model = FlowModel(flows.real_nvp(2, **SMALL))
    model.compile(keras.optimizers.SGD(0.0), steps_per_execution=steps)
    batches = [(X[i : i + 4],) for i in (0, 4, 8)]
    data = tf.data.Dataset.from_generator(
        lambda: batches, output_signature=(tf.TensorSpec((4, 2)),)
    )
    expected = -np.mean(model.log_prob(X[:12]))
    assert model.evaluate(data, verbose=0) == pytest.approx(expected, abs=1e-5)
    history = model.fit(data, validation_data=data, verbose=0).history
    assert history["loss"][0] == pytest.approx(expected, abs=1e-5)
    assert history["val_loss"][0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("spec", [UNKNOWN, tf.TensorSpec(None)])
def test_datasets_that_do_not_say_their_shape(spec):
    def dataset(width):
        def batches():
            for i in range(0, 20, 5):
                yield (X[i : i + 5, :width],)

        return tf.data.Dataset.from_generator(batches, output_signature=(spec,))

    model = FlowModel(flows.real_nvp(2, **SMALL))
    model.adapt(X)
    model.compile("adam")
    if spec.shape.rank is not None:  # Of the others Keras itself cannot tell the batches.
        expected = -np.mean(model.log_prob(X))
        assert model.evaluate(dataset(2), verbose=0) == pytest.approx(expected, abs=1e-5)
        model.fit(dataset(2), verbose=0)
        for method in (model.evaluate, model.fit):
            with pytest.raises(tf.errors.InvalidArgumentError):
                method(dataset(1), verbose=0)
    np.testing.assert_allclose(
        model.predict(dataset(2), verbose=0), model.log_prob(X), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    "value",
    [
        np.array([[1 + 5j, 2.0]]),
        np.array([["2020-01-01", "2020-01-02"]], "datetime64[D]"),
        np.array([[1, 2]], "timedelta64[s]"),
        np.array([["1", "2"]]),
        np.array([[b"1", b"2"]]),
    ],
    ids=["complex", "dates", "times", "text", "bytes"],
)
def test_arrays_of_other_things_are_no_numbers(value):
    flow = flows.real_nvp(2, context_size=2, **SMALL)
    plain = flows.real_nvp(2, **SMALL)
    mixture = distributions.GaussianMixture(2, 2)
    for call in (plain.log_prob, plain.prob, mixture.log_prob):
        with pytest.raises(TypeError, match="`value` must be numbers"):
            call(value)
    for call in (lambda: flow.log_prob(X[:1], context=value), lambda: flow.sample(3, value)):
        with pytest.raises(TypeError, match="`context` must be numbers"):
            call()


def test_a_number_is_no_event():
    for flow in (flows.maf(1, **SMALL), flows.real_nvp(2, **SMALL)):
        with pytest.raises(ValueError, match=r"`value` must hold events.*Received: shape=\(\)"):
            flow.log_prob(3.0)
