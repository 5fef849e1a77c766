"""What starts from data gets them, whoever trains, and is not trained on raw data in silence."""

import warnings

import keras
import numpy as np
import pytest
from helpers import normal

from tfp_flows import FlowModel, flows

DATA = normal(24, 2)


def with_actnorm():
    flow = flows.real_nvp(2, layers=2, hidden_units=(4,), actnorm=True, seed=0)
    model = FlowModel(flow)
    model.compile(keras.optimizers.SGD(0.0))
    return model


def test_the_first_batch_initializes_whoever_builds_the_optimizer():
    one, other = with_actnorm(), with_actnorm()
    other.optimizer.build(other.trainable_variables)
    assert other.train_on_batch(100 * DATA) == one.train_on_batch(100 * DATA)
    norm = next(part for part in one.distribution.submodules if hasattr(part, "initialized"))
    before = norm.shift.numpy()
    one.train_on_batch(300 * DATA)
    np.testing.assert_array_equal(norm.shift, before)


def test_a_model_around_one_that_awaits_data_is_told_so():
    inner = with_actnorm()
    inputs = keras.Input((2,))
    outer = keras.Model(inputs, inner(inputs))
    outer.compile("sgd", loss=lambda y, log_prob: -log_prob)
    with pytest.warns(UserWarning, match="act_norm.*has seen no data: call `adapt`"):
        outer.fit(DATA, np.zeros(24), verbose=0)
    inner.adapt(DATA)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outer.compile("sgd", loss=lambda y, log_prob: -log_prob)
        outer.fit(DATA, np.zeros(24), verbose=0)
