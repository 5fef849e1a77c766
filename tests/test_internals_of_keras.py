"""Every name of Keras in `tfp_flows.ops.internals` does what we rely on."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import mend

from tfp_flows import networks
from tfp_flows.ops import internals

tfd, tfb = tfp.distributions, tfp.bijectors


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


def test_weights_in_a_file(tmp_path):
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(3)])
    model.compile("adam")
    model.optimizer.build(model.trainable_variables)
    path = tmp_path / "f.weights.h5"
    path.write_bytes(internals.weights_file(model))
    again = keras.models.clone_model(model)
    again.load_weights(path)
    message = mend("weights_file", "Keras makes another file of weights: `save_weights` fails")
    for one, other in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other, err_msg=message)
    model.save_weights(tmp_path / "keras.weights.h5")
    with h5py.File(path) as ours, h5py.File(tmp_path / "keras.weights.h5") as theirs:
        found = [[], []]
        for file, names in zip((ours, theirs), found, strict=True):
            file.visit(names.append)
        assert found[0] == found[1], message


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


def test_what_lora_keeps_from_training():
    for layer in (keras.layers.Dense(3), keras.layers.Embedding(4, 3)):
        layer.build((None, 2))
        assert internals.kernel_under_lora(layer) is None
        first = layer.weights[0]
        layer.enable_lora(1)
        reason = mend("kernel_under_lora", "Keras keeps another variable, or calls it otherwise")
        assert internals.kernel_under_lora(layer) is first, reason
        assert not first.trainable, reason
