"""Dequantized: events of other batches than the context's, and values that are no numbers."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import randomize

from tfp_flows import Flow, FlowModel, bijectors
from tfp_flows.bijectors.support import Support
from tfp_flows.distributions import bases
from tfp_flows.distributions.dequantized import Dequantized

tfb = tfp.bijectors


def standard_normal(size):
    return bases.normal(size, trainable=False)


def affine(size, context_size=None):
    transformer = bijectors.transformers.Affine()
    return bijectors.Coupling(size, transformer, (8,), context_size=context_size, seed=0)


@pytest.mark.parametrize("noise", [None, (4,)])
@pytest.mark.parametrize("samples", [1, 5])
def test_events_with_fewer_axes_than_the_batch_are_those_of_every_context(noise, samples):
    scale = tfb.Chain([Support(1, "real"), affine(1, context_size=2)])
    dequantized = Dequantized(Flow(standard_normal(1), scale), 1.0, noise=noise, samples=samples)
    randomize(dequantized, stddev=0.2)
    context = np.random.default_rng(0).normal(size=(3, 2))
    repeats = np.repeat(context[:, np.newaxis], 4000, 1)
    one = dequantized.log_prob([1.0], context=repeats)
    assert one.shape == (3, 4000)
    rows = dequantized.log_prob(np.ones((3, 4000, 1)), context=repeats)
    np.testing.assert_allclose(np.mean(one, 1), np.mean(rows, 1), atol=0.06)
    assert np.ptp(np.mean(rows, 1)) > 0.3  # Else contexts would make no difference.
    traced = tf.function(dequantized.given(context).log_prob, input_signature=[tf.TensorSpec([1])])
    assert traced(tf.ones([1])).shape == (3,)


def test_infinite_values_have_no_probability():
    dequantized = Dequantized(Flow(standard_normal(2), Support(2, "real")), 1.0, noise=(4,))
    found = dequantized.log_prob([[np.inf, 0.0], [-np.inf, np.inf], [np.nan, 0.0], [0.0, 0.0]])
    np.testing.assert_array_equal(found[:3], [-np.inf, -np.inf, np.nan])
    assert np.isfinite(found[3])


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_what_is_not_finite_is_said_to_be_so(value):
    x = np.round(np.random.default_rng(0).normal(50, 5, size=(256, 2)))
    x[7, 1] = value
    flow = Flow(standard_normal(2), tfb.Chain([Support(2, "real"), affine(2)]))
    model = FlowModel(Dequantized(flow, [1.0, 0.0]))
    with pytest.raises(ValueError, match=r"`x` must be finite.* row 7, column 1"):
        model.adapt(x)


def test_a_column_of_one_rounded_value_has_a_probability_and_no_constant_one_a_density():
    flow = Flow(standard_normal(2), tfb.Chain([Support(2, "real"), affine(2)]))
    model = FlowModel(Dequantized(flow, [1.0, 0.0]))
    x = np.c_[np.full(50, 3.0), np.linspace(0, 1, 50)]
    model.adapt(x)
    np.testing.assert_allclose(flow.bijector.bijectors[0].shift, [3.0, 0.5], atol=0.1)
    with pytest.raises(ValueError, match="`x` must vary"):
        model.adapt(np.c_[x[:, :1], x[:, :1]])
