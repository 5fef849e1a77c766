"""Every law of `tfp_flows.testing` fails on a bijector or flow that breaks it, and says so."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import Flow, bijectors, testing

tfd, tfb = tfp.distributions, tfp.bijectors
t = bijectors.transformers


class Wrong(bijectors.Bijector):
    """The identity on vectors; subclasses break one thing."""

    def __init__(self, name="wrong"):
        super().__init__(forward_min_event_ndims=1, parameters=dict(locals()), name=name)

    def _forward_and_log_det(self, x):
        return tf.identity(x), tf.zeros_like(x[..., 0])

    def _inverse_and_log_det(self, y):
        return tf.identity(y), tf.zeros_like(y[..., 0])


class RotationOfATutorial(bijectors.Rotation2D):
    def _forward_and_log_det(self, x):
        x0, x1, angle = self._tensors(x, self.angle)
        cos, sin = tf.cos(angle), tf.sin(angle)
        return self._event(cos * x0 - sin * x1, sin * x0 - cos * x1)


class CubeOfATutorial(bijectors.ShiftAndCube):
    def _forward_and_log_det(self, x):
        y, log_det = super()._forward_and_log_det(x)
        return y, log_det + 1

    def _inverse_and_log_det(self, y):
        x, log_det = super()._inverse_and_log_det(y)
        return x, log_det - 1


class WrongSign(bijectors.BimodalSoftsign):
    def _inverse_and_log_det(self, y):
        x, log_det = super()._inverse_and_log_det(y)
        return x, -log_det


class MixesRows(Wrong):
    def _forward_and_log_det(self, x):
        return x + tf.reduce_mean(x), tf.zeros_like(x[..., 0])


class ForgetsToSum(Wrong):
    def forward_log_det_jacobian(self, x, event_ndims=None, name="fldj"):
        return tf.reduce_sum(x, -1)


class EagerDiffers(Wrong):
    def _forward_and_log_det(self, x):
        return (x + 1.0 if tf.executing_eagerly() else x), tf.zeros_like(x[..., 0])

    def _inverse_and_log_det(self, y):
        return (y - 1.0 if tf.executing_eagerly() else y), tf.zeros_like(y[..., 0])


class Widens(Wrong):
    def _forward_and_log_det(self, x):
        return tf.cast(x, tf.float64), tf.zeros_like(x[..., 0])


class Overflows(Wrong):
    def _forward_and_log_det(self, x):
        return tf.sinh(x), tf.reduce_sum(tf.math.log(tf.cosh(x)), -1)


class InfiniteSlopeAtZero(Wrong):
    def _forward_and_log_det(self, x):
        return x + tf.norm(x, axis=-1, keepdims=True), tf.zeros_like(x[..., 0])


class NoGradient(Wrong):
    def __init__(self):
        super().__init__()
        self.shift = tf.Variable(1.0)

    def _forward_and_log_det(self, x):
        return x + tf.stop_gradient(self.shift), tf.zeros_like(x[..., 0])


class HidesItsVariable(Wrong):
    def __init__(self):
        super().__init__()
        hidden = tf.Variable(1.0)
        self.shift = lambda x: x + hidden

    def _forward_and_log_det(self, x):
        return self.shift(x), tf.zeros_like(x[..., 0])


class TwoCalls(bijectors.Coupling):
    def _forward(self, x):
        return self._forward_and_log_det(x)[0]

    def _inverse(self, y):
        return self._inverse_and_log_det(y)[0]


@keras.saving.register_keras_serializable("tests")
class ForgetsItsArgument(bijectors.ShiftAndCube):
    def __init__(self, coefficient=1.0):
        super().__init__(coefficient)

    def get_config(self):
        return {}


class Leaks(bijectors.Coupling):
    def _transform(self, x, context, direction):
        y, log_det = super()._transform(x, context, direction)
        return y + [1e-6, 0.0] * y[..., 1:], log_det


class Jumps(Wrong):
    """Has a gap in its range: the slope is 1 wherever there is one, and the inverse is right."""

    def _forward_and_log_det(self, x):
        return x + tf.sign(x), tf.zeros_like(x[..., 0])

    def _inverse_and_log_det(self, y):
        return y - tf.sign(y), tf.zeros_like(y[..., 0])


@tf.custom_gradient
def doubled_with_the_slope_of_the_identity(x):
    return 2 * x, lambda upstream: upstream


class LiesAboutItsGradient(Wrong):
    def _forward_and_log_det(self, x):
        return doubled_with_the_slope_of_the_identity(x), tf.zeros_like(x[..., 0])

    def _inverse_and_log_det(self, y):
        return y / 2, tf.zeros_like(y[..., 0])


class NamesItsDtype(tfb.Bijector):
    """TFP compares dtypes, and a name is none."""

    def __init__(self):
        super().__init__(forward_min_event_ndims=1, dtype="float32", parameters={})

    def _forward(self, x):
        return x

    def _inverse(self, y):
        return y

    def _forward_log_det_jacobian(self, x):
        return tf.zeros_like(x[..., 0])


WRONG_BIJECTORS = {
    "round trip": lambda: RotationOfATutorial(0.3),
    "log-det": lambda: CubeOfATutorial(0.3),
    "inverse log-det": lambda: WrongSign(),
    "bijective": lambda: RotationOfATutorial(0.3),
    "finite differences": LiesAboutItsGradient,
    "scalar congruency": Jumps,
    "batch shapes": MixesRows,
    "event ndims": ForgetsToSum,
    "modes": EagerDiffers,
    "dtype": Widens,
    "finite": Overflows,
    "gradients": NoGradient,
    "tracking": HidesItsVariable,
    "chain": NamesItsDtype,
    "one pass": lambda: TwoCalls(2, t.Affine(), (4,)),
    "config": lambda: ForgetsItsArgument(0.5),
    "Jacobian zeros": lambda: Leaks(2, t.Affine(), (4,)),
}

X = np.random.default_rng(0).normal(size=(6, 2)).astype("float32")
ZEROS = np.array([[False, True], [False, False]])


def only(law: str, laws: dict) -> set:
    return set(laws) - {law}


@pytest.mark.parametrize("law", testing.BIJECTOR_LAWS)
def test_a_wrong_bijector_fails(law):
    skip = only(law, testing.BIJECTOR_LAWS)
    zeros = ZEROS if law == "Jacobian zeros" else None
    testing.check_bijector(bijectors.Coupling(2, t.Affine(), (4,)), X, skip=skip)
    with pytest.raises(AssertionError, match=f"breaks the law '{law}"):
        testing.check_bijector(WRONG_BIJECTORS[law](), X, jacobian_zeros=zeros, skip=skip)


@pytest.mark.parametrize("law", ["finite differences", "scalar congruency"])
def test_points_and_images_find_what_gradients_do_not(law):
    testing.check_bijector(WRONG_BIJECTORS[law](), X, skip={law, "config", "finite", "modes"})


def test_infinite_gradients_fail():
    with pytest.raises(
        AssertionError, match=r"'finite': gradient of forward has nan at the input 0.0"
    ):
        skip = only("finite", testing.BIJECTOR_LAWS)
        testing.check_bijector(InfiniteSlopeAtZero(), X, skip=skip)


def test_the_worst_input_is_shown():
    with pytest.raises(AssertionError, match=r"expected .* at the input \[") as failure:
        testing.check_bijector(RotationOfATutorial(0.3), X)
    # The forward map has x1 with the wrong sign: the error grows with |x1|.
    error = np.abs(2 * np.cos(0.3) * X[:, 1]) / (1 + np.abs(X[:, 1]))
    assert str(X[error.argmax()]) in str(failure.value)


class WrongLogProb(Flow):
    def _sample_and_log_prob(self, sample_shape, seed):
        x, log_prob = super()._sample_and_log_prob(sample_shape, seed)
        return x, log_prob + 0.1


class Remembers(Flow):
    """A cache as TFP's, which knows an input again when the variables have changed."""

    def log_prob(self, value, name="log_prob"):
        if not hasattr(self, "_answer"):
            self._answer = super().log_prob(value)
        return self._answer


def normal() -> tfd.Distribution:
    return tfd.MultivariateNormalDiag([0.0, 0.0])


def hidden_in_a_closure() -> Flow:
    network = keras.Sequential([keras.Input([1]), keras.layers.Dense(2)])

    def shift_and_log_scale(x, units):
        return tf.split(network(x), 2, -1)

    return Flow(normal(), tfb.RealNVP(1, shift_and_log_scale_fn=shift_and_log_scale))


WRONG_FLOWS = {
    "sample_and_log_prob": lambda: WrongLogProb(normal(), bijectors.ShiftAndCube(0.5)),
    # The logarithm of a negative number.
    "not NaN": lambda: tfd.TransformedDistribution(normal(), tfb.Exp()),
    "flow tracking": hidden_in_a_closure,
    "no stale value": lambda: Remembers(normal(), tfb.Shift(tf.Variable([1.0, 1.0]))),
    "flow one pass": lambda: Flow(normal(), TwoCalls(2, t.Affine(), (4,))),
    "flow modes": lambda: Flow(normal(), EagerDiffers()),
    "integral": lambda: Flow(normal(), CubeOfATutorial(0.5)),
    "config": lambda: Flow(normal(), ForgetsItsArgument(0.5)),
}


@pytest.mark.parametrize("law", testing.FLOW_LAWS)
def test_a_wrong_flow_fails(law):
    skip = only(law, testing.FLOW_LAWS)
    testing.check_flow(Flow(normal(), bijectors.Coupling(2, t.Affine(), (4,))), X, skip=skip)
    with pytest.raises(AssertionError, match=f"breaks the law '{law}"):
        testing.check_flow(WRONG_FLOWS[law](), X, skip=skip)


def test_a_class_that_is_not_registered_breaks_the_last_law_alone():
    class Doubled(bijectors.Bijector):
        def __init__(self, name="doubled"):
            super().__init__(parameters=dict(locals()), forward_min_event_ndims=1)

        def _forward_and_log_det(self, x):
            return 2 * x, tf.fill(tf.shape(x)[:-1], tf.math.log(tf.constant(4, x.dtype)))

        def _inverse_and_log_det(self, y):
            return y / 2, tf.fill(tf.shape(y)[:-1], -tf.math.log(tf.constant(4, y.dtype)))

    testing.check_bijector(Doubled(), X, skip=["config"])
    with pytest.raises(AssertionError, match=r"law 'config'.*register_keras_serializable"):
        testing.check_bijector(Doubled(), X)


def test_unknown_law_to_skip():
    with pytest.raises(ValueError, match="`skip` must name laws of"):
        testing.check_bijector(Wrong(), X, skip=["roundtrip"])
