"""`validate_args` of the analytic bijectors: tensors are checked once, variables at every call."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb

from tfp_flows import bijectors

X = tf.constant([[0.1, 0.2]])
WRONG = tf.errors.InvalidArgumentError
# A bijector of one parameter, and values that it must not have.
PARAMETERS = {
    "sharpness": (lambda v, **kw: bijectors.BimodalSoftsign(v, **kw), [-1.0, 0.0, np.inf, np.nan]),
    "scale": (lambda v, **kw: bijectors.BimodalSoftsign(1.0, v, **kw), [-1.0, 0.0, np.inf, np.nan]),
    "coefficient": (bijectors.ShiftAndCube, [np.inf, np.nan]),
    "angle": (bijectors.Rotation2D, [-np.inf, np.nan]),
}
CASES = [(name, make, wrong) for name, (make, values) in PARAMETERS.items() for wrong in values]


@pytest.mark.parametrize(("name", "make", "wrong"), CASES)
def test_a_wrong_tensor_is_refused(name, make, wrong):
    for value in (tf.constant(wrong), np.array([1.0, wrong], "float32")):
        with pytest.raises(WRONG, match=name):
            make(value, validate_args=True)
        make(value)
    for value in (wrong, np.float32(wrong)):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            make(value)


@pytest.mark.parametrize(("name", "make", "wrong"), CASES)
def test_a_wrong_variable_is_refused_when_it_is_used(name, make, wrong):
    variable = tf.Variable(wrong)
    bijector = make(variable, validate_args=True)
    for call in (bijector.forward, bijector.inverse, bijector.forward_log_det_jacobian):
        with pytest.raises(WRONG, match=name):
            call(X)
    variable.assign(0.5)
    assert np.isfinite(bijector.forward(X)).all()


@pytest.mark.parametrize("name", PARAMETERS)
def test_what_is_known_in_a_graph_only_is_refused_there(name):
    make, (wrong, *_) = PARAMETERS[name]
    variable = tf.Variable(0.5)
    bijector = make(variable, validate_args=True)
    of_tensor = tf.function(lambda value: make(value, validate_args=True).forward(X))
    of_variable = tf.function(lambda: bijector.forward(X))
    expected = make(0.5).forward(X)
    np.testing.assert_allclose(of_tensor(tf.constant(0.5)), expected, rtol=1e-6)
    np.testing.assert_allclose(of_variable(), expected, rtol=1e-6)
    variable.assign(wrong)
    with pytest.raises(WRONG, match=name):
        of_tensor(tf.constant(wrong))
    with pytest.raises(WRONG, match=name):
        of_variable()


def test_right_parameters_pass():
    positive = tfp.util.TransformedVariable(2.0, tfb.Exp())
    for sharpness in (2.0, np.float32(2.0), tf.constant(2.0), tf.Variable(2.0), positive):
        bijector = bijectors.BimodalSoftsign(sharpness, validate_args=True)
        np.testing.assert_allclose(bijector.forward(X), 2 * X / (1 + 2 * X), rtol=1e-6)
    assert bijectors.BimodalSoftsign(tf.constant(-1.0)).copy(name="other").name == "other"
    with pytest.raises(WRONG, match="sharpness"):
        bijectors.BimodalSoftsign(tf.constant(-1.0)).copy(validate_args=True)
