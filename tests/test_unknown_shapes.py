"""Events and contexts of which a graph does not know the shape, or which are no numbers."""

import numpy as np
import pytest
import tensorflow as tf
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


def test_an_unknown_number_of_axes_is_an_error():
    flow = flows.real_nvp(2, **SMALL)
    with pytest.raises(ValueError, match=r"of shape \(\.\.\., 2\). Received: .* unknown shape"):
        traced(flow.log_prob, tf.TensorSpec(None))(X)
    with pytest.raises(ValueError, match=r"call `tf\.ensure_shape`"):
        traced(flow.bijector.inverse, tf.TensorSpec(None))(X)


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
