"""The analytic bijectors, against figures worked out by hand."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import Flow, bijectors

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers


def test_shift_and_cube_by_hand():
    cube = bijectors.ShiftAndCube(0.5)
    np.testing.assert_allclose(cube.forward([2.0, 1.0]), [2.0, 5.0])
    np.testing.assert_allclose(cube.inverse([2.0, 5.0]), [2.0, 1.0])
    # A published tutorial has a log-det of 1 here: the Jacobian's diagonal is 1, its log is 0.
    assert cube.forward_log_det_jacobian([2.0, 1.0], 1) == 0.0


def test_rotation_by_hand():
    quarter = bijectors.Rotation2D(np.pi / 2)
    np.testing.assert_allclose(quarter.forward([1.0, 0.0]), [0.0, 1.0], atol=1e-7)
    # A published tutorial has `sin·x0 - cos·x1` here, which would give (0, -1) for this point.
    np.testing.assert_allclose(quarter.forward([0.0, 1.0]), [-1.0, 0.0], atol=1e-7)
    sixth = bijectors.Rotation2D(np.pi / 3)
    np.testing.assert_allclose(sixth.forward([0.0, 1.0]), [-np.sqrt(0.75), 0.5], rtol=1e-6)
    assert sixth.forward_log_det_jacobian([1.0, 2.0], 1) == 0.0


def test_softsign_by_hand():
    softsign = bijectors.BimodalSoftsign(2.0, 3.0)
    np.testing.assert_allclose(softsign.forward([1.0, -0.5]), [2.0, -1.5])
    np.testing.assert_allclose(softsign.inverse([2.0, -1.5]), [1.0, -0.5], rtol=1e-6)
    # Slope at x = 1: 3 * 2 / (1 + 2)².
    log_det = softsign.forward_log_det_jacobian(1.0, 0)
    np.testing.assert_allclose(log_det, np.log(6 / 9), rtol=1e-6)


def test_softsign_makes_a_normal_bimodal():
    two_modes = tfd.TransformedDistribution(tfd.Normal(0.0, 1.0), bijectors.BimodalSoftsign())
    y = np.linspace(-0.99, 0.99, 397, dtype="float32")
    density = two_modes.prob(y).numpy()
    peaks = y[1:-1][(density[1:-1] > density[:-2]) & (density[1:-1] > density[2:])]
    assert len(peaks) == 2
    # The log-density of |x| = a peaks where 2 log(1 + a) - a²/2 does: at a(1 + a) = 2, a = 1.
    np.testing.assert_allclose(peaks, [-0.5, 0.5], atol=0.01)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softsign_has_no_density_outside_its_support(dtype):
    base = tfd.MultivariateNormalDiag(tf.zeros([2], dtype), tf.ones([2], dtype))
    chain = tfb.Chain([bijectors.Rotation2D(0.3), bijectors.BimodalSoftsign(2.0, 3.0)])
    y = tf.constant([[9.0, 9.0], [0.0, 4.0], [1e4, 0.0], [0.5, -0.5]], dtype)
    with tf.GradientTape() as tape:
        tape.watch(y)
        log_prob = Flow(base, chain).log_prob(y)
    np.testing.assert_array_equal(np.isneginf(log_prob), [True, True, True, False])
    assert np.isfinite(log_prob[3]) and np.isfinite(tape.gradient(log_prob, y)).all()


def test_flow_has_no_density_outside_the_range_of_tfp_bijectors():
    flow = Flow(tfd.MultivariateNormalDiag([0.0, 0.0]), tfb.Sigmoid())
    y = tf.constant([[0.5, 2.0], [-1.0, 0.5], [0.5, 0.5], [np.nan, 0.5]])
    log_prob = flow.log_prob(y).numpy()
    np.testing.assert_array_equal(np.isneginf(log_prob), [True, True, False, False])
    assert np.isfinite(log_prob[2]) and np.isnan(log_prob[3])  # A missing value stays one.


@pytest.mark.parametrize(
    "make",
    [bijectors.ShiftAndCube, bijectors.Rotation2D, bijectors.BimodalSoftsign],
)
def test_scalar_arguments(make):
    """Floats follow the input's dtype; tensors, variables and transformed variables work."""
    x = np.random.default_rng(0).normal(size=(4, 2))
    expected = make(0.7).forward(x)
    assert expected.dtype == tf.float64
    assert make(0.7).forward(x.astype("float32")).dtype == tf.float32
    positive = tfp.util.TransformedVariable(tf.constant(0.7, "float64"), tfb.Exp())
    for value in (np.float64(0.7), tf.constant(0.7, "float64"), tf.Variable(0.7, dtype="float64")):
        np.testing.assert_allclose(make(value).forward(x), expected, rtol=1e-12)
    each = make(np.full([1], 0.7))  # An array has its own dtype.
    np.testing.assert_allclose(each.forward(x), expected, rtol=1e-12)
    bijector = make(positive)
    np.testing.assert_allclose(bijector.forward(x), expected, rtol=1e-12)
    assert len(bijector.trainable_variables) == 1


def test_parameters_make_batches():
    angles = tf.constant([0.1, 0.2, 0.3])
    base = tfd.MultivariateNormalDiag([0.0, 1.0])
    rotated = tfd.TransformedDistribution(base, bijectors.Rotation2D(angles))
    assert rotated.batch_shape == (3,) and rotated.sample(5).shape == (5, 3, 2)
    each = [
        tfd.TransformedDistribution(base, bijectors.Rotation2D(angle)).log_prob([1.0, 2.0])
        for angle in (0.1, 0.2, 0.3)
    ]
    np.testing.assert_allclose(rotated.log_prob([1.0, 2.0]), each, rtol=1e-6)
