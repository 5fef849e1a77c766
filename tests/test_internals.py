"""Every name of `tfp_flows.ops.internals` does what we rely on; each failure says what to mend.

These names of TensorFlow Probability, TensorFlow and Keras are private, or moved before. When one
of the three is upgraded, this file and that of Keras' names are the first to run.
"""

import ast
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import mend

from tfp_flows import Flow, bijectors, flows
from tfp_flows.ops import internals

tfd, tfb = tfp.distributions, tfp.bijectors


class Asked(tfb.Bijector):
    """The identity on vectors, which counts how often its log-det is computed."""

    def __init__(self):
        super().__init__(forward_min_event_ndims=1, name="asked")
        self.computed = 0

    def _forward(self, x):
        return tf.identity(x)

    def _inverse(self, y):
        return tf.identity(y)

    def _forward_log_det_jacobian(self, x):
        self.computed += 1
        return tf.zeros_like(x[..., 0])

    def _inverse_log_det_jacobian(self, y):
        self.computed += 1
        return tf.zeros_like(y[..., 0])


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_a_log_det_that_is_left_in_the_cache_is_not_computed(direction):
    bijector, log_det = Asked(), tf.constant([3.0, 4.0])
    x = tf.ones([2, 5])
    other = getattr(bijector, direction)(x)
    remember = {
        "forward": internals.remember_forward_log_det,
        "inverse": internals.remember_inverse_log_det,
    }[direction]
    remember(bijector, x, log_det)
    found = getattr(bijector, f"{direction}_log_det_jacobian")(x)
    back = "inverse" if direction == "forward" else "forward"
    opposite = getattr(bijector, f"{back}_log_det_jacobian")(other)
    what = "TFP's bijector does not look for log-dets where we leave them, every flow is slower"
    message = mend(f"remember_{direction}_log_det", what)
    assert bijector.computed == 0, message
    np.testing.assert_array_equal(found, log_det, err_msg=message)
    np.testing.assert_array_equal(opposite, -log_det, err_msg=message)
    getattr(bijector, f"{direction}_log_det_jacobian")(tf.identity(x))
    assert bijector.computed == 1, "The cache knows tensors that it never saw."


def test_injective():
    message = mend("is_injective", "TFP says otherwise which bijectors map two points to one")
    assert internals.is_injective(tfb.Exp()), message
    assert not internals.is_injective(tfb.AbsoluteValue()), message


def test_the_transform_of_a_deferred_tensor():
    softplus = tfb.Softplus()
    deferred = tfp.util.TransformedVariable(tf.ones(2), softplus)
    what = "a DeferredTensor keeps its transform elsewhere, constrained variables cannot be saved"
    assert internals.deferred_transform(deferred) is softplus, mend("deferred_transform", what)


@pytest.mark.parametrize(
    ("base", "public"),
    [(internals.ChainBase, tfb.Chain), (internals.InvertBase, tfb.Invert)],
)
def test_bases_of_bijectors(base, public):
    inner = Asked()  # Not a composite tensor, as none of ours is.
    made = public([inner]) if public is tfb.Chain else public(inner)
    what = f"what {public.__name__}(...) makes of our bijectors has another base class"
    assert isinstance(made, base), mend("ChainBase` or `InvertBase", what)
    assert issubclass(public, base), mend("ChainBase` or `InvertBase", what)


def test_the_base_of_transformed_distributions():
    plain = tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(2)), Asked())
    for made in (plain, flows.nice(2, layers=1, hidden_units=(4,))):
        what = "what TransformedDistribution(...) makes of our bijectors has another base class"
        message = mend("TransformedDistributionBase", what)
        assert isinstance(made, internals.TransformedDistributionBase), message
    assert issubclass(Flow, internals.TransformedDistributionBase)


def test_ratios_of_densities_are_found_by_the_class():
    ratio = tfp.experimental.distributions.log_prob_ratio

    class Fixed(tfd.Normal):
        pass

    fixed = Fixed(0.0, 1.0)
    internals.RegisterLogProbRatio(Fixed)(lambda p, x, q, y, name=None: 7.0)
    assert ratio(fixed, 0.0, fixed, 1.0) == 7.0, mend("RegisterLogProbRatio", "It is not found")


def test_prefer_static_gives_numbers_where_shapes_are_known():
    found = []

    @tf.function
    def trace(x):
        shape = internals.prefer_static.shape(x)
        found.append(internals.prefer_static.concat([shape[:1], [7]], 0))
        return shape

    trace.get_concrete_function(tf.TensorSpec([3, 2]))
    trace.get_concrete_function(tf.TensorSpec([None, 2]))
    message = mend("prefer_static", "shapes that are known are not numbers in a graph any more")
    assert not tf.is_tensor(found[0]) and list(found[0]) == [3, 7], message
    assert tf.is_tensor(found[1]), message


def test_variables_are_not_read_when_arguments_are_converted():
    variable = tf.Variable(1.0)
    convert = internals.convert_nonref_to_tensor
    what = "arguments of bijectors are read once at construction, and training does not move them"
    assert convert(variable) is variable, mend("convert_nonref_to_tensor", what)
    assert tf.is_tensor(convert(1.0, dtype=tf.float64)), mend("convert_nonref_to_tensor", what)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_inside_of_xla(jit_compile):
    seen = [internals.in_xla()]

    @tf.function(jit_compile=jit_compile)
    def trace(x):
        seen.append(internals.in_xla())
        # The body of a loop is a graph of its own.
        return tf.while_loop(lambda x: x < 3, lambda x: [x + float(note())], [x])

    def note():
        seen.append(internals.in_xla())
        return True

    trace(tf.constant(0.0))
    what = "it is not known what XLA compiles as a whole, pieces would be compiled within it"
    assert seen[0] is False, mend("in_xla", what)
    assert len(seen) > 2 and set(seen[1:]) == {jit_compile}, mend("in_xla", what)


def test_inside_of_a_while_loop():
    seen = []

    @tf.function
    def trace(x):
        seen.append(internals.in_while_loop())

        def body(x):
            seen.append(internals.in_while_loop())
            return [x + 1.0]

        return tf.while_loop(lambda x: x < 3, body, [x])

    trace(tf.constant(0.0))
    what = "it is not known where pieces are traced again for every gradient"
    assert seen[0] is False and seen[1:] and all(seen[1:]), mend("in_while_loop", what)


def test_inside_of_a_vectorized_map():
    seen = []

    def body(x):
        seen.append(internals.in_vectorized_map())
        return x

    tf.vectorized_map(body, tf.zeros([2]))
    what = "joint distributions would draw equal numbers for every element"
    assert seen and all(seen), mend("in_vectorized_map", what)
    tf.function(body)(tf.zeros([2]))
    assert not seen[-1] and not internals.in_vectorized_map(), mend("in_vectorized_map", what)


def test_how_many_accumulators_follow_a_tensor():
    x, y = tf.constant(1.0), tf.constant(2.0)
    one = tf.constant(1.0)
    message = mend("count_accumulators", "roots have wrong derivatives in forward mode")
    assert internals.count_accumulators(x, y) == 0, message
    with tf.autodiff.ForwardAccumulator(x, one):
        assert internals.count_accumulators(x, y) == 1, message
        assert internals.count_accumulators(y) == 0, message
        with tf.autodiff.ForwardAccumulator(x, one):
            assert internals.count_accumulators(2 * x) == 2, message


def test_what_is_known_of_the_direction_of_maps():
    what = "it is not known which maps rise or fall, quantiles are not implemented for any"
    message = mend("knows_whether_increasing", what)
    assert internals.knows_whether_increasing(tfb.Exp()), message
    assert internals.knows_whether_increasing(tfb.Scale(-1.0)), message
    assert not internals.knows_whether_increasing(Asked()), message


def test_references_to_variables():
    message = mend("is_ref", "variables of arguments are checked once, not at every call")
    assert internals.is_ref(tf.Variable(1.0)), message
    assert not internals.is_ref(tf.constant(1.0)), message


def test_attributes_of_copies():
    bijector = tfb.Scale(tf.Variable(2.0), name="before")
    copied = internals.copy_attributes(bijector, {"name": "after", "validate_args": True})
    message = mend("copy_attributes", "copies lose their variables, or their names")
    assert copied.scale is bijector.scale, message
    assert (copied.name, copied.validate_args) == ("after", True), message
    assert (bijector.name, bijector.validate_args) == ("before", False), message
    assert copied.parameters["name"] == "after", message
    assert len(copied.trainable_variables) == 1, message
    # No copy may be given what another one has in its cache.
    layer = bijectors.TokenAutoregressive((2, 1), bijectors.transformers.Affine(), (4,), False, 1)
    for variable in layer.trainable_variables:
        variable.assign_add(tf.ones_like(variable))
    x, one = tf.ones([2, 1]), tf.ones([1])
    assert np.any(layer.inverse(x, context=one) != layer.guided(2.0).inverse(x, context=one)), (
        message
    )


def test_variables_that_cannot_be_initialized_are_dropped():
    class Huge(keras.layers.Layer):
        def build(self, input_shape):
            self.kernel = self.add_weight(shape=(2,), initializer=lambda shape, dtype: 1 / 0)

        def call(self, inputs):
            return inputs

    message = mend("keep_uninitialized_variables", "after a file that fails no layer can be built")
    with pytest.raises(ZeroDivisionError), internals.keep_uninitialized_variables():
        Huge()(tf.ones([1, 2]))
    assert keras.layers.Dense(2)(tf.ones([1, 2])).shape == (1, 2), message


def test_gradients_that_are_summed_already():
    optimizer = keras.optimizers.SGD(1.0)
    inherited = optimizer._all_reduce_sum_gradients
    gradients = [(tf.ones(2), keras.Variable(tf.zeros(2)))]
    message = mend("gradients_already_summed", "replicas sum gradients twice, or not at all")
    with internals.gradients_already_summed(optimizer):
        assert optimizer._all_reduce_sum_gradients(gradients) == gradients, message
    assert optimizer._all_reduce_sum_gradients == inherited, message


def test_whether_replicas_meet_in_a_call():
    message = mend("supports_no_merge_call", "it is not known how replicas may update variables")
    assert internals.supports_no_merge_call() in (True, False), message


def test_every_name_is_tested():
    used = {
        node.attr
        for path in Path(__file__).parent.glob("test_internals*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "internals"
    }
    assert set(internals.__all__) <= used
