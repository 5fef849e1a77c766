"""Targets and posteriors that several tests of inference use."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import Flow, bijectors

tfd = tfp.distributions
Y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], "float32")
SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], "float32")


@tfd.JointDistributionCoroutineAutoBatched
def schools():
    mu = yield tfd.Normal(0.0, 5.0, name="mu")
    tau = yield tfd.HalfCauchy(0.0, 5.0, name="tau")
    effects = yield tfd.Sample(tfd.Normal(0.0, 1.0), 8, name="effects")
    yield tfd.Normal(mu + tau * effects, SIGMA, name="y")


EIGHT_SCHOOLS = schools.experimental_pin(y=Y)


def gaussian(dtype="float64", size=2):
    """A standard normal pushed through a shift and a scale, both trained."""
    base = tfd.MultivariateNormalDiag(tf.zeros([size], dtype), tf.ones([size], dtype))
    return Flow(base, bijectors.ActNorm(size, dtype))
