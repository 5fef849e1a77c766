"""Every name of `tfp_flows.ops.internals` does what we rely on; each failure says what to mend.

These names of TensorFlow Probability, TensorFlow and Keras are private, or moved before. When one
of the three is upgraded, this file is the first to run.
"""

import ast
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import Flow, flows, networks
from tfp_flows.ops import internals

tfd, tfb = tfp.distributions, tfp.bijectors


def mend(name, what):
    """What an assertion says when it fails."""
    return f"{what}: mend `{name}` in tfp_flows/ops/internals.py"


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


def test_a_model_that_is_built():
    class Model(internals.BuiltModel):
        def __init__(self):
            super().__init__()
            self.weight = self.add_weight(shape=(), initializer="ones")
            self.built = True
            self.calls = 0

        def call(self, x):
            self.calls += 1
            return x * self.weight

    model = Model()
    model.compile("sgd", "mse", jit_compile=False, run_eagerly=True)
    model.fit(np.ones([4, 1]), np.ones([4, 1]), batch_size=4, verbose=0)
    assert model.calls == 1, mend("BuiltModel", "Keras calls models to build them before training")


def test_nothing_is_recorded_in_the_block():
    x = tf.constant(3.0)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        recorded = x**2
        with internals.stop_recording():
            unrecorded = x**2
    message = mend("stop_recording", "tapes record where they must not, memory grows with layers")
    assert tape.gradient(recorded, x) == 6.0, message
    assert tape.gradient(unrecorded, x) is None, message
    accumulator = tf.autodiff.ForwardAccumulator(x, tf.constant(1.0))
    with accumulator as forward, internals.stop_recording():
        unrecorded = x**2
    assert forward.jvp(unrecorded) is None, message


def test_the_barrier_of_xla():
    @tf.function(jit_compile=True)
    def barred(x, y):
        return internals.optimization_barrier(x, y)

    values = tf.constant(1.0), tf.constant([2.0, 3.0])
    message = mend("optimization_barrier", "XLA may merge recomputed layers with the first pass")
    for found, value in zip(barred(*values), values, strict=True):
        np.testing.assert_array_equal(found, value, err_msg=message)
    operations = barred.get_concrete_function(*values).graph.get_operations()
    assert "XlaOptimizationBarrier" in {operation.type for operation in operations}, message


def test_layers_within_a_layer():
    network = networks.MLP((4, 4), dropout=0.5)
    outer = keras.Sequential([network])
    found = internals.layers_of(outer)
    message = mend("layers_of", "layers within layers are not found, dropout would go unseen")
    assert found[0] is outer and network in found, message
    kinds = [type(layer).__name__ for layer in found]
    assert (kinds.count("Dense"), kinds.count("Dropout")) == (2, 2), message


def test_the_moments_of_adam():
    weights = [keras.Variable(np.zeros(shape)) for shape in (2, 3)]
    optimizer = keras.optimizers.Adam(0.1)
    optimizer.build(weights)
    optimizer.apply([tf.fill([2], 2.0), tf.fill([3], 4.0)], weights)
    message = mend("adam_slots", "Keras' Adam keeps its moments elsewhere, steps would be wrong")
    for weight, gradient in zip(weights, (2.0, 4.0), strict=True):
        momentum, velocity = internals.adam_slots(optimizer, weight)
        assert momentum.shape == velocity.shape == weight.shape, message
        np.testing.assert_allclose(momentum.numpy(), 0.1 * gradient, rtol=1e-5, err_msg=message)
        np.testing.assert_allclose(velocity.numpy(), 1e-3 * gradient**2, 1e-4, err_msg=message)


def test_averages_of_weights():
    weight = keras.Variable([1.0, 2.0])
    for wrap in (lambda optimizer: optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = wrap(keras.optimizers.SGD(0.0, use_ema=True, ema_momentum=0.5))
        optimizer.build([weight])
        weight.assign([3.0, 4.0])
        internals.restart_averages(optimizer)
        weight.assign([5.0, 6.0])
        optimizer.finalize_variable_values([weight])
        message = mend("restart_averages", "Keras keeps averages elsewhere, bad weights come back")
        np.testing.assert_array_equal(weight.numpy(), [3.0, 4.0], err_msg=message)
    internals.restart_averages(keras.optimizers.SGD())  # It has none.


def test_weights_and_their_averages():
    weight = keras.Variable([1.0, 2.0])
    optimizer = keras.optimizers.SGD(1.0, use_ema=True, ema_momentum=0.5)
    optimizer.build([weight])
    optimizer.apply([np.array([1.0, 1.0], "float32")])
    ((found, average),) = internals.weights_and_averages(optimizer)
    message = mend("weights_and_averages", "the command keeps the last weights, not their averages")
    assert found is weight, message
    np.testing.assert_allclose(average, [0.0, 1.0], err_msg=message)
    optimizer.apply([np.array([1.0, 1.0], "float32")])
    np.testing.assert_allclose(average, [-0.5, 0.5], err_msg=message)


def test_the_mean_of_losses():
    inputs = keras.Input([1])
    model = keras.Model(inputs, keras.layers.Dense(1, kernel_initializer="zeros")(inputs))
    model.compile("sgd", "mse", jit_compile=False)
    model.train_on_batch(np.zeros([4, 1]), np.full([4, 1], 3.0))
    tracker = internals.loss_tracker(model)
    message = mend("loss_tracker", "Keras averages losses elsewhere, a bad batch goes unseen")
    assert isinstance(tracker, keras.metrics.Mean), message
    assert float(tracker.result()) == pytest.approx(9.0), message
    assert float(tracker.total) == pytest.approx(36.0), message


def test_data_of_ones_own_for_keras():
    class Twos(internals.DataAdapter):
        num_batches = 2

        def get_tf_dataset(self):
            return self

        def __iter__(self):
            return iter(tf.data.Dataset.from_tensor_slices(np.full([2, 3, 1], 2.0, "float32")))

    class Mean(keras.Sequential):
        def compute_loss(self, x, *_, **__):
            return tf.reduce_mean(x + 0 * self(x))

    model = Mean([keras.layers.Dense(1)])
    model.compile("sgd")
    history = model.fit(Twos(), epochs=3, verbose=0).history
    message = mend("DataAdapter", "Keras does not take data of a class of its own: `fit` fails")
    assert history["loss"] == [2.0] * 3, message


def test_what_there_is_where_no_strategy_is_chosen():
    message = mend("DefaultStrategy", "arrays are handed to Keras as a dataset, which is slower")
    assert isinstance(tf.distribute.get_strategy(), internals.DefaultStrategy), message
    one = tf.distribute.OneDeviceStrategy("CPU:0")
    assert not isinstance(one, internals.DefaultStrategy), message


def test_where_functional_models_are_defined():
    inputs = keras.Input([2])
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    config = keras.saving.serialize_keras_object(model)
    message = mend("FUNCTIONAL_MODULE", "files with functional models as conditioners are refused")
    assert config["class_name"] == "Functional", message
    assert config["module"] == internals.FUNCTIONAL_MODULE, message


def test_every_name_is_tested_here():
    used = {
        node.attr
        for node in ast.walk(ast.parse(Path(__file__).read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "internals"
    }
    assert set(internals.__all__) <= used
