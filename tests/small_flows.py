"""Flows that build fast, for the tests of Flow."""

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors, flows

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers


EVENT, CONTEXT = 3, 2
SMALL = {
    "elementwise_spline": {"layers": 2, "hidden_units": (8,), "bins": 4, "seed": 0},
    "neural_spline": {"layers": 2, "hidden_units": (8,), "bins": 4, "seed": 0},
    "nice": {"layers": 2, "hidden_units": (8,), "seed": 0},
    "real_nvp": {"layers": 2, "hidden_units": (8,), "seed": 0},
}


def base(event_size=EVENT, dtype="float32"):
    return tfd.MultivariateNormalDiag(tf.zeros([event_size], dtype))


def small_flow(name="real_nvp", context_size=None, **options):
    if context_size is not None:
        options["context_size"] = context_size
    return flows.get(
        name, EVENT, **{**SMALL.get(name, {"layers": 2, "hidden_units": (8,)}), **options}
    )


def conditional(event_size, flip=False, name="conditional"):
    return bijectors.Coupling(
        event_size,
        transformers.Affine(),
        (8,),
        flip=flip,
        context_size=CONTEXT,
        seed=0,
        name=name,
    )
