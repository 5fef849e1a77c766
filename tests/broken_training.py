"""Trainings that break at a chosen step, for the tests of what is done then."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import normal
from tensorflow_probability import distributions as tfd

from tfp_flows import Flow, FlowModel, bijectors
from tfp_flows.bijectors import transformers

ROWS = 96
DATA = normal(ROWS, 2)


class Scripted(keras.optimizers.SGD):
    """Gradient descent whose step of a given number sets all weights to a value instead."""

    def __init__(self, step, value, learning_rate=0.01):
        super().__init__(learning_rate)
        self.step = step
        self.value = value

    def update_step(self, gradient, variable, learning_rate):
        usual = variable - tf.cast(learning_rate, variable.dtype) * gradient
        bad = tf.fill(tf.shape(usual), tf.cast(self.value, variable.dtype))
        variable.assign(tf.where(tf.equal(self.iterations, self.step), bad, usual))


def shifted():
    """A normal whose mean is trained from 3: every step makes it better."""
    return tfd.MultivariateNormalDiag(tf.Variable([3.0, 3.0], name="mean"), [1.0, 1.0])


def affine():
    coupling = bijectors.Coupling(2, transformers.Affine(), (8,), seed=0)
    return Flow(tfd.MultivariateNormalDiag([0.0, 0.0]), coupling)


def broken_training(
    distribution, optimizer, data=(DATA,), compile_options=None, judged=DATA, **options
):
    """The model and the message, after a training that must stop and leave finite densities."""
    model = FlowModel(distribution)
    model.compile(optimizer, **(compile_options or {}))
    options = {"batch_size": 32, "shuffle": False, "verbose": 0, "epochs": 3} | options
    with pytest.warns(RuntimeWarning, match="Training stopped") as caught:
        model.fit(*data, **options)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert np.isfinite(model.log_prob(DATA)).all()
    (message,) = [str(w.message) for w in caught if "Training stopped" in str(w.message)]
    stated = re.search(r"with a (?:validation )?loss of ([-\d.e+]+)", message)
    if stated and judged is not None:
        found = model.evaluate(judged, verbose=0)
        assert float(stated[1].rstrip(".")) == pytest.approx(found, rel=1e-4)
    return model, message
