"""The private names of TFP's joint distributions, as `test_internals.py` does for the others."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import mend

from tfp_flows.ops import internals

tfd, tfb = tfp.distributions, tfp.bijectors
PARTS = [tfd.Exponential(1.0), lambda a: tfd.Normal(0.0, a), lambda b: tfd.Normal(b, 2.0)]
JOINTS = {
    "pinned": tfd.JointDistributionSequential(PARTS).experimental_pin(None, None, 1.0),
    "pinned batched": tfd.JointDistributionSequentialAutoBatched(PARTS).experimental_pin(
        None, None, 1.0
    ),
    "batched": tfd.JointDistributionSequentialAutoBatched(PARTS[:2]),
    "plain": tfd.JointDistributionSequential(PARTS[:2]),
}


@pytest.mark.parametrize("name", JOINTS)
def test_the_parts_that_are_not_pinned(name):
    parts = internals.joint_parts(JOINTS[name])
    message = mend("joint_parts", "it is not known what is to be inferred")
    assert [type(part).__name__.lstrip("_") for part in parts.values()] == [
        "Exponential",
        "Normal",
    ], message


@pytest.mark.parametrize("name", JOINTS)
def test_the_bijector_of_a_joint_takes_others_for_its_parts(name):
    joint, z = JOINTS[name], [tf.constant([0.3, -1.0]), tf.constant([1.0, 2.0])]
    default = joint.experimental_default_event_space_bijector().forward(z)
    same = internals.joint_bijector(
        joint, lambda part: part.experimental_default_event_space_bijector()
    ).forward(z)
    message = mend("joint_bijector", "surrogates have other constraints than TFP chooses")
    np.testing.assert_allclose(same, default, err_msg=message)
    doubled = internals.joint_bijector(joint, lambda part: tfb.Scale(2.0)).forward(z)
    np.testing.assert_allclose(doubled, 2 * np.stack(z), err_msg=message)


@pytest.mark.parametrize("name", ["pinned", "pinned batched"])
def test_the_distributions_of_pins_given_a_draw(name):
    found, pins = internals.pinned_distributions(JOINTS[name], [tf.ones(()), tf.constant(3.0)])
    message = mend("pinned_distributions", "ArviZ gets no log-likelihood")
    ((key, part),) = found.items()
    np.testing.assert_allclose([part.mean(), part.stddev(), pins[key]], [3, 2, 1], err_msg=message)
