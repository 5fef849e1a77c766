"""Small models, their data and a short training, for the tests of FlowModel."""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal

from tfp_flows import FlowModel, bijectors, flows

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers


ROWS, CONTEXT = 50, 3
DATA = (normal(ROWS, 2) @ [[1.0, 0.5], [0.0, 0.3]]).astype("float32") * [2, 0.1] + [5, -3]
DATA = DATA.astype("float32")
CONTEXTS = 10 + 4 * normal(ROWS, CONTEXT, seed=1)


def small_flow(context_size=None, **options):
    return flows.real_nvp(
        2, **{"layers": 2, "hidden_units": (8,), "seed": 0, "context_size": context_size, **options}
    )


def compiled(distribution=None, optimizer=None, **options):
    model = FlowModel(small_flow() if distribution is None else distribution)
    model.compile(optimizer or keras.optimizers.Adam(0.01), **options)
    return model


def train(model, *data, **options):
    """A short training that is the same at every call; returns the history."""
    keras.utils.set_random_seed(0)
    options = {"epochs": 2, "batch_size": 16, "verbose": 0, "shuffle": False, **options}
    return model.fit(*(data or (DATA,)), **options).history


def weights(model):
    return [np.array(value) for value in model.get_weights()]


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def standard(dtype="float32"):
    return tfd.MultivariateNormalDiag(tf.zeros([2], dtype))


def holed(row, column, value=np.nan):
    data = DATA.copy()
    data[row, column] = value
    return data
