"""Flows and models that build fast, for the tests of many files."""

import tensorflow as tf
import tensorflow_probability as tfp
from helpers import randomize

from tfp_flows import Flow, FlowModel, bijectors, flows

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers


EVENT, CONTEXT = 3, 2
SMALL = {
    "ffjord": {"layers": 2, "hidden_units": (8,), "steps": 2},
    "ot_flow": {"layers": 2, "hidden_units": (8,), "steps": 2},
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


def affine_model(dtype="float32", context_size=None, last=None):
    """A model of two columns: one affine coupling, and a last bijector before the data."""
    options = {"context_size": context_size, "dtype": dtype, "seed": 0}
    steps = [] if last is None else [last]
    steps.append(bijectors.Coupling(2, bijectors.transformers.Affine(), (4,), **options))
    base = tfd.MultivariateNormalDiag(tf.zeros(2, dtype))
    return FlowModel(randomize(Flow(base, tfb.Chain(steps))))


def masked_model(mask="half", seed=0):
    """A model of four columns: one affine coupling."""
    affine = bijectors.transformers.Affine()
    coupling = bijectors.Coupling(4, affine, (4,), mask=mask, seed=seed)
    base = tfd.MultivariateNormalDiag(tf.zeros(4))
    return FlowModel(randomize(Flow(base, tfb.Chain([coupling]))))
