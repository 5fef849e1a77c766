"""Identity: bijectors with other weights are others, to TFP, its caches and `tf.function`."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from cases import CASES
from helpers import normal, randomize
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows import Flow, bijectors, distributions, flows
from tfp_flows.bijectors import transformers

SIZE = 3
BASE = tfd.MultivariateNormalDiag([0.0] * SIZE)


def lu(seed: int) -> bijectors.LU:
    return randomize(bijectors.LU(SIZE), seed)


# A composition, made of what has weights.
COMPOSITIONS = {
    "alone": lambda b: b,
    "chain": lambda b: tfb.Chain([tfb.Shift(1.0), b]),
    "inverse": tfb.Invert,
    "nested": lambda b: tfb.Invert(tfb.Chain([tfb.Invert(b), tfb.Scale(2.0)])),
    "blockwise": lambda b: tfb.Blockwise([b], [SIZE]),
}


@pytest.fixture(params=COMPOSITIONS)
def pair(request):
    """Two of the same class and arguments, with different weights."""
    return [COMPOSITIONS[request.param](lu(seed)) for seed in (0, 1)]


@pytest.mark.parametrize("name", CASES)
def test_another_with_equal_arguments_is_another(name):
    first, second = CASES[name].build("float32"), CASES[name].build("float32")
    assert first == first
    assert first != second
    assert len({first, second, first}) == 2
    assert tfb.Chain([first]) != tfb.Chain([second])
    assert tfb.Chain([first]) == tfb.Chain([first])


def test_a_variable_is_not_its_value():
    equal = [tf.Variable(0.5), tf.Variable(0.5)]
    first, second = (bijectors.ShiftAndCube(variable) for variable in equal)
    equal[1].assign(2.0)
    x = tf.constant([[1.0, 0.0]])
    np.testing.assert_allclose(first.forward(x), [[1.0, 0.5]])
    np.testing.assert_allclose(second.forward(x), [[1.0, 2.0]])
    positive = [tfp.util.TransformedVariable(1.0, tfb.Exp()) for _ in range(2)]
    assert bijectors.BimodalSoftsign(positive[0]) != bijectors.BimodalSoftsign(positive[1])


def test_one_does_not_answer_with_what_another_computed(pair):
    x = tf.constant(normal(5, SIZE))
    for call in ("inverse", "forward", "inverse_log_det_jacobian", "forward_log_det_jacobian"):
        first, second = (getattr(bijector, call)(x, **event(call)) for bijector in pair)
        alone = getattr(pair[1], call)(tf.identity(x), **event(call))
        np.testing.assert_allclose(second, alone, rtol=1e-6)
        assert np.abs(second - first).max() > 1e-3


def event(call: str) -> dict:
    return {"event_ndims": 1} if call.endswith("jacobian") else {}


def test_a_function_runs_its_own_trace_for_each(pair):
    push = tf.function(lambda bijector, x: bijector.forward(x))
    x = tf.constant(normal(5, SIZE))
    for bijector in (*pair, pair[0]):
        np.testing.assert_allclose(push(bijector, x), bijector.forward(tf.identity(x)), rtol=1e-5)
    assert push.experimental_get_tracing_count() == 2


def test_two_densities_in_one_graph(pair):
    densities = [tfd.TransformedDistribution(BASE, bijector) for bijector in pair]
    x = tf.constant(normal(5, SIZE))
    both = tf.function(lambda x: [density.log_prob(x) for density in densities])(x)
    for found, density in zip(both, densities, strict=True):
        np.testing.assert_allclose(found, density.log_prob(tf.identity(x)), rtol=1e-5)


def test_divergence_is_not_that_of_the_bases(pair):
    first, second = (Flow(BASE, bijector) for bijector in pair)
    try:
        divergence = tfd.kl_divergence(first, second)
    except NotImplementedError:  # Or an estimate, which is not 0.
        divergence = np.inf
    assert divergence > 1e-3
    other_base = tfd.MultivariateNormalDiag([1.0] * SIZE)
    same_bijector = tfd.kl_divergence(first, Flow(other_base, pair[0]))
    np.testing.assert_allclose(same_bijector, tfd.kl_divergence(BASE, other_base))


def test_a_context_that_was_filled_in_belongs_to_one():
    layers = [
        randomize(bijectors.Coupling(SIZE, transformers.Affine(), (4,), context_size=2), seed)
        for seed in (0, 1)
    ]
    x, context = tf.constant(normal(5, SIZE)), tf.constant(normal(5, 2))
    first, second = (Flow(BASE, layer).given(context).bijector for layer in layers)
    assert first != second
    first.inverse(x)
    expected = layers[1].inverse(tf.identity(x), context=context)
    np.testing.assert_allclose(second.inverse(x), expected, rtol=1e-6)


def test_distributions_with_weights_are_others():
    makers = [
        lambda: distributions.ConditionalMixture(2, 3),
        lambda: distributions.Resampled(2, (4,), draws=8),
        lambda: distributions.Dequantized(flows.real_nvp(2, layers=1, hidden_units=(4,)), 1.0),
    ]
    for make in makers:
        assert make() != make()


def test_a_class_of_ones_own_has_identity():
    class Scaled(bijectors.Bijector):
        def __init__(self, name: str = "scaled"):
            parameters = dict(locals())
            self.log_scale = tf.Variable(0.0)
            super().__init__(parameters=parameters)

        def _forward_and_log_det(self, x):
            log_det = tf.fill(tf.shape(x)[:-1], self.log_scale * x.shape[-1])
            return x * tf.exp(self.log_scale), log_det

        def _inverse_and_log_det(self, y):
            log_det = tf.fill(tf.shape(y)[:-1], -self.log_scale * y.shape[-1])
            return y * tf.exp(-self.log_scale), log_det

    first, second = Scaled(), Scaled()
    second.log_scale.assign(1.0)
    assert first != second
    x = tf.ones([1, SIZE])
    np.testing.assert_allclose(first.forward(x), 1.0)
    np.testing.assert_allclose(second.forward(x), np.e, rtol=1e-6)
    assert first.name == "scaled"
    assert first.log_scale.name.startswith("scaled/")
    assert first.forward_min_event_ndims == 1


class Learned(transformers.Affine):
    """An affine map times a number that is no field, so that two are equal to a dataclass."""

    def __init__(self):
        super().__init__()
        self.log_factor = tf.Variable(0.0)

    def forward(self, x, parameters):
        y, log_slope = super().forward(x, parameters)
        return y * tf.exp(self.log_factor), log_slope + self.log_factor

    def inverse(self, y, parameters):
        x, log_slope = super().inverse(y * tf.exp(-self.log_factor), parameters)
        return x, log_slope - self.log_factor


def test_transformers_with_variables_of_their_own_share_nothing():
    first, second = (
        bijectors.MaskedAutoregressive(SIZE, Learned(), (4,), seed=0) for _ in range(2)
    )
    second.transformer.log_factor.assign(1.0)
    x = tf.constant(normal(5, SIZE))
    tf.function(first.forward)(x)
    with tf.GradientTape() as tape:
        y = tf.function(second.forward)(x)
    np.testing.assert_allclose(y, second.forward(tf.identity(x)), rtol=1e-5)
    assert tape.gradient(y, second.transformer.log_factor) is not None


@pytest.mark.parametrize("use", ["nothing", "values", "copies"])
def test_what_is_not_used_any_more_leaves_memory(use):
    def made():
        bijector = tfb.Chain([lu(0), bijectors.Coupling(SIZE, transformers.Affine(), (4,))])
        if use == "values":
            bijector.inverse(bijector.forward(tf.constant(normal(5, SIZE))))
        if use == "copies":
            copied = [part.copy(name="other") for part in bijector.bijectors]
            tfb.Chain(copied).forward(tf.constant(normal(5, SIZE)))
        return [weakref.ref(part) for part in bijector.bijectors]

    parts = made()
    gc.collect()
    assert [part() for part in parts] == [None, None]
