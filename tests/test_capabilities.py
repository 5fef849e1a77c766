"""What parts say of themselves, what is known of TFP and Keras, and one check of context."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal, randomize

from tfp_flows import Flow, bijectors, distributions, flows, networks
from tfp_flows.bijectors import transformers
from tfp_flows.bijectors.base import Bijector
from tfp_flows.distributions import chunks, reversible
from tfp_flows.distributions.conditional import Conditional, context_shape_of
from tfp_flows.ops import capabilities, checks, internals

tfd, tfb = tfp.distributions, tfp.bijectors
CLAIMS = ("has_closed_inverse", "is_monotone", "independent_over_batch")


class Doubled(Bijector):
    """A bijector of another package, which says nothing of itself."""

    def __init__(self):
        super().__init__(forward_min_event_ndims=1, parameters={}, name="doubled")

    def _forward_and_log_det(self, x):
        return 2 * x, tf.fill(tf.shape(x)[:-1], np.float32(x.shape[-1] * np.log(2)))

    def _inverse_and_log_det(self, y):
        return y / 2, tf.fill(tf.shape(y)[:-1], np.float32(-y.shape[-1] * np.log(2)))


class Stated(Doubled):
    closed_inverse = True
    is_monotone = True
    independent_over_batch = True


class Derived(Stated):
    """It may map otherwise."""


def base(size=2):
    return tfd.Independent(tfd.Normal(tf.zeros([size]), 1.0), 1)


def claims(part):
    return [getattr(capabilities, name)(part) for name in CLAIMS]


def test_a_part_that_says_nothing_gets_the_safe_default():
    assert claims(Doubled()) == [False, False, False]
    assert claims(Stated()) == [True, True, True]
    assert claims(Derived()) == [False, False, False]

    class Other(bijectors.Coupling):
        pass

    coupling = bijectors.Coupling(2, transformers.Affine(), (4,))
    assert claims(coupling) == [True, True, True]
    assert claims(Other(2, transformers.Affine(), (4,))) == [False, False, False]


def test_what_a_third_party_states_is_used():
    """It is chunked, recomputed, and has a cumulative probability; else it works all the same."""
    x = normal(300, 2)
    for make, is_stated in ((Doubled, False), (Stated, True), (Derived, False)):
        flow = Flow(base(), tfb.Chain([make(), bijectors.LU(2)]))
        assert chunks.is_batch_independent(flow) == is_stated
        expected = base().log_prob(x / 2) - 2 * np.log(2)
        for log_prob in (flow.log_prob, tf.function(flow.log_prob)):
            np.testing.assert_allclose(log_prob(x), expected, rtol=1e-5)
        np.testing.assert_allclose(reversible.log_prob(flow, x), expected, rtol=1e-5)
        column = Flow(base(1), make())
        if is_stated:
            np.testing.assert_allclose(column.cdf([[0.0]]), [0.5])
        else:
            with pytest.raises(NotImplementedError):
                column.cdf([[0.0]])


def test_transformers_pass_on_what_they_can_do():
    closed, numerical = transformers.Affine(), transformers.SumOfSquares()
    for transformer, expected in (
        (closed, True),
        (transformers.Inverse(closed), True),
        (transformers.RationalQuadraticSpline(4), True),
        (numerical, False),
        (transformers.Inverse(numerical), False),
        (transformers.CircularSpline(4), False),
    ):
        layer = bijectors.Elementwise(2, transformer)
        assert capabilities.has_closed_inverse(layer) == expected, transformer
        on_a_line = not isinstance(transformer, transformers.CircularSpline)
        assert capabilities.is_monotone(layer) == on_a_line
    assert not bijectors.MaskedAutoregressive(2, transformers.CircularSpline(4), (4,)).is_monotone


def test_facts_about_tfp():
    def closure(x, size, **_):
        return x, None

    independent = capabilities.independent_over_batch
    for part in (tfb.Exp(), tfb.Chain([Doubled()]), tfb.Invert(Doubled()), tfb.Permute([1, 0])):
        assert independent(part), part
    networks_of_users = tfb.RealNVP(num_masked=1, shift_and_log_scale_fn=closure)
    assert not independent(networks_of_users)
    assert not independent(tfb.Inline(tf.exp, tf.math.log, forward_min_event_ndims=0))
    affine = [tfb.Shift(1.0), tfb.Scale(2.0), tfb.Permute([1, 0]), tfb.Invert(tfb.Shift(1.0))]
    assert all(map(capabilities.is_affine, affine))
    assert not capabilities.is_affine(tfb.Exp())
    monotone = {
        part.name: capabilities.is_monotone(part)
        for part in (
            tfb.Exp(),
            tfb.Invert(tfb.Exp()),
            tfb.Shift(1.0),
            tfb.Reciprocal(),
            tfb.Power(3.0),
            tfb.AbsoluteValue(),
            tfb.IteratedSigmoidCentered(),
        )
    }
    assert [name for name, known in monotone.items() if known] == ["exp", "invert_exp", "shift"]
    assert internals.knows_whether_increasing(tfb.Exp())
    assert not internals.knows_whether_increasing(tfb.IteratedSigmoidCentered())


def test_facts_about_layers():
    independent, why_not = capabilities.independent_over_batch, capabilities.why_not_repeatable
    for layer in (keras.layers.Dense(2), networks.MLP((4,)), networks.ResidualMLP(4)):
        assert independent(layer) and why_not(layer) is None, layer
    for layer in (keras.layers.BatchNormalization(), keras.layers.Lambda(lambda x: x)):
        assert not independent(layer), layer
    assert not independent(keras.layers.Dense(2, activity_regularizer="l2"))
    for name in ("relu", "silu", "softmax", None):
        assert independent(keras.layers.Dense(2, activation=name)), name
    assert why_not(keras.layers.Dropout(0.5)) == "draws random numbers"
    assert why_not(keras.layers.Dropout(0.0)) is None
    assert why_not(keras.layers.BatchNormalization()) == "changes its state"

    class Counts(keras.layers.Dense):
        repeatable = False

    assert why_not(Counts(2)) == "is not repeatable"


def test_an_activation_that_looks_at_all_rows_sees_them_all():
    """As any function may that is not Keras' own."""

    def centred(x):
        return x - tf.reduce_mean(x, 0, keepdims=True)

    dense = keras.Sequential([keras.layers.Dense(4, activation=centred)])
    for network in (networks.MLP((4,), activation=centred), dense):
        layer = bijectors.Coupling(2, transformers.Affine(), network)
        flow, x = randomize(Flow(base(), tfb.Chain([layer]))), normal(300, 2)
        np.testing.assert_allclose(tf.function(flow.log_prob)(x), flow.log_prob(x), rtol=1e-4)


def test_data_dependent_initialization_is_stated():
    flow = flows.real_nvp(2, layers=1, hidden_units=(4,), actnorm=True)
    parts = [part for part in flow.submodules if capabilities.awaits_data(part)]
    assert parts and all(isinstance(part, bijectors.ActNorm) for part in parts)
    assert all(isinstance(part, capabilities.Adaptable) for part in (flow, *parts))
    flow.adapt(normal(50, 2))
    assert not any(map(capabilities.awaits_data, flow.submodules))
    assert not isinstance(Doubled(), capabilities.Adaptable)


def test_two_directions_come_from_one_call_of_the_network():
    layer = randomize(bijectors.Coupling(2, transformers.Affine(), (4,), seed=0))
    x = tf.constant(normal(5, 2))
    forward, inverse = layer.directions(x)
    y, log_det = forward(x)
    np.testing.assert_allclose(y, layer.forward(x), rtol=1e-5)
    np.testing.assert_allclose(inverse(y)[0], x, atol=1e-5)
    np.testing.assert_allclose(inverse(y)[1], -log_det, atol=1e-5)
    forward, inverse = Doubled().directions(x)
    np.testing.assert_allclose(inverse(forward(x)[0])[0], x)


# Context.


class OfAnotherPackage(tfd.Normal):
    """A conditional distribution that is not derived from ours."""

    context_size = 3

    def __init__(self):
        super().__init__(0.0, 1.0)

    def given(self, context):
        return tfd.Normal(context[..., 0], 1.0)


def test_distributions_of_others_may_be_conditional():
    part = OfAnotherPackage()
    assert isinstance(part, capabilities.ConditionalDistribution)
    assert context_shape_of(part) == (3,)
    assert context_shape_of(tfd.Normal(0.0, 1.0)) is None


def test_conditional_distributions_share_their_methods():
    mixture = distributions.ConditionalMixture(2, context_size=3, components=2)
    flow = flows.real_nvp(2, context_size=3, layers=1, hidden_units=(4,))
    rounded = distributions.Dequantized(flow, 1.0, seed=0)
    x, context = np.round(normal(4, 2)), normal(4, 3)
    for part in (mixture, flow, rounded):
        assert isinstance(part, Conditional)
        assert part.context_shape == (3,)
        given = part.given(context)
        assert given.batch_shape == (4,)
        log_prob = part.log_prob(x, context=context)
        np.testing.assert_allclose(given.log_prob(x), log_prob, rtol=1e-4)
        np.testing.assert_allclose(part.prob(x, context=context), np.exp(log_prob), rtol=1e-4)
        np.testing.assert_allclose(part.unnormalized_log_prob(x, context), log_prob, rtol=1e-4)
        drawn = part.sample(5, context=context, seed=1)
        assert drawn.shape == (5, 4, 2)
        for again in (
            part.sample_and_log_prob(5, context, 1),
            part.experimental_sample_and_log_prob(5, 1, context=context),
        ):
            np.testing.assert_array_equal(again[0], drawn)
            assert again[1].shape == (5, 4)
        with pytest.raises(ValueError, match=r"`context` is missing: this .* \(\.\.\., 3\)"):
            part.log_prob(x)
        with pytest.raises(ValueError, match=r"`context` must have shape \(\.\.\., 3\).*\(4, 2\)"):
            part.sample(5, context=context[:, :2])


def test_the_check_of_context():
    check = checks.check_context
    assert check(None, None, tf.float32, "it") is None
    assert check([[1, 2]], (2,), tf.float64, "it").dtype == tf.float64
    assert check(np.zeros((7, 5, 3)), (5, 3), tf.float32, "it").shape == (7, 5, 3)
    with pytest.raises(ValueError, match="`context` was given, but it is unconditional"):
        check([1.0], None, tf.float32, "it")
    with pytest.raises(ValueError, match=r"shape \(\.\.\., 5, 3\) for it. Received: shape=\(3,\)"):
        check(np.zeros(3), (5, 3), tf.float32, "it")


# Private names of TFP and TensorFlow.


def test_the_body_of_a_vectorized_map_is_known():
    seen = []

    def body(x):
        seen.append(internals.in_vectorized_map())
        return x

    tf.vectorized_map(body, tf.zeros([3]))
    tf.function(body)(tf.zeros([]))
    body(tf.zeros([]))
    assert seen == [True, False, False]
