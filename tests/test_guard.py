"""When training breaks, the weights that stay are finite and good, and the message is true."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from broken_training import DATA, ROWS, Scripted, affine, broken_training, shifted
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows import FlowModel, flows
from tfp_flows.model import guard

WAYS = {
    "one step at a time": {"steps_per_execution": 1},
    "many": {"steps_per_execution": 32},
    "eager": {"run_eagerly": True},
    "compiled": {"jit_compile": True},
}


@pytest.mark.parametrize("way", WAYS)
def test_weights_made_nan_by_a_step_of_finite_numbers_are_replaced(way):
    for step in (0, 1, 4) if way == "one step at a time" else (1, 4):
        check_replaced(step, WAYS[way])


def check_replaced(step, options):
    model, message = broken_training(shifted(), Scripted(step, np.nan), compile_options=options)
    assert "The optimizer made the weights" in message and "mean" in message
    origin = "from before training" if step < 3 else "of the end of epoch 1"
    assert f"The best finite weights are kept, those {origin}," in message
    mean = model.distribution.loc.numpy()
    assert (mean == 3.0).all() if step < 3 else (mean < 3.0).all()


def test_weights_made_bad_by_the_very_last_step_are_replaced():
    _, message = broken_training(shifted(), Scripted(5, np.inf), epochs=2)
    assert message.startswith("Training stopped at the end of epoch 2")
    assert "those of the end of epoch 1" in message
    _, message = broken_training(affine(), keras.optimizers.SGD(1e30), epochs=1, batch_size=ROWS)
    assert "those from before training" in message
    # Finite weights, but of no use: no loss has seen them yet.
    _, message = broken_training(shifted(), Scripted(2, 1e30), epochs=1)
    assert message.startswith("Training stopped at the end of epoch 1: the loss is not finite.")
    assert "those from before training" in message


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(1e30),
        lambda: keras.optimizers.Adam(1e38),
    ],
    ids=["SGD", "Adam"],
)
def test_absurd_learning_rates_leave_finite_weights(optimizer):
    broken_training(affine(), optimizer())
    broken_training(flows.maf(2, layers=2, hidden_units=(8,), seed=0), optimizer())


def test_a_finite_jump_to_useless_weights_is_not_what_is_kept():
    # The running loss of epoch 2 is the best one, but its last step throws the mean away.
    class Jump(Scripted):
        def update_step(self, gradient, variable, learning_rate):
            super().update_step(gradient, variable, learning_rate)
            bad = tf.where(tf.equal(self.iterations, 7), np.nan, 0.0)
            variable.assign_add(bad * tf.ones_like(variable))

    model, message = broken_training(shifted(), Jump(5, 1e5), epochs=4)
    assert "those of the end of epoch 1" in message
    assert model.evaluate(DATA, verbose=0) < 20


def test_the_weights_of_the_moment_are_kept_where_they_are_the_best():
    """A step with a bad gradient is left out; the steps of the first epoch before it are not."""

    @tf.custom_gradient
    def fragile(x):
        return tf.identity(x), lambda upstream: tf.where(x < 2.9, np.nan, upstream)

    shift = tf.Variable([3.0, 3.0])
    mean = tfp.util.DeferredTensor(shift, fragile)
    distribution = tfd.MultivariateNormalDiag(mean, [1.0, 1.0])
    _, message = broken_training(distribution, keras.optimizers.SGD(0.02))
    assert "those of the last step" in message
    assert (shift.numpy() < 2.95).all()


def test_epochs_without_validation_are_judged_on_its_rows():
    some = DATA[:10]
    _, message = broken_training(
        shifted(),
        Scripted(16, np.nan),
        judged=some,
        epochs=6,
        validation_data=(some,),
        validation_freq=2,
    )
    assert "those of the end of epoch 5, with a validation loss of" in message


def test_weights_from_before_training_are_judged_on_validation_rows():
    start = tfd.MultivariateNormalDiag(tf.Variable(DATA.mean(0)), [1.0, 1.0])
    _, message = broken_training(
        start, Scripted(7, np.nan, learning_rate=2.5), judged=DATA, epochs=4, validation_data=DATA
    )
    assert "those from before training, with a validation loss of" in message


def test_a_generator_is_read_by_keras_alone():
    read = []

    def batches():
        for i in range(12):
            time.sleep(0.003)  # Keras waits for it in another thread.
            read.append(i)
            yield (DATA[:32],)

    _, message = broken_training(
        shifted(), Scripted(10, np.nan), (batches(),), steps_per_epoch=3, batch_size=None, epochs=4
    )
    assert "those of the end of epoch 3; the data cannot be read again to judge them" in message
    assert read == list(range(12))


def test_the_best_validation_is_kept_unless_it_fails_on_training_rows():
    some = DATA[:10]
    model, message = broken_training(
        shifted(), Scripted(7, np.nan), judged=some, epochs=4, validation_data=(some,)
    )
    assert "those of the end of epoch 2, with a validation loss of" in message

    low = tf.Variable([-10.0, -10.0])
    box = tfd.Independent(tfd.Uniform(low, [10.0, 10.0]), 1)
    far = np.concatenate([DATA, [[-9.9, 0.0]]]).astype("float32")
    model = FlowModel(box)
    model.compile(keras.optimizers.SGD(0.0))
    judge = guard.mean_loss(model, iter([far]))
    assert judge == pytest.approx(2 * np.log(20), rel=1e-5)
    model.distribution.distribution.low.assign([-5.0, -5.0])
    assert guard.mean_loss(model, iter([DATA, far])) == np.inf
    assert guard.mean_loss(model, iter([])) is None


def test_scaled_losses_datasets_and_sample_weights():
    scaled = keras.optimizers.LossScaleOptimizer(Scripted(4, np.nan))
    _, message = broken_training(shifted(), scaled)
    assert "the end of epoch 1" in message
    dataset = tf.data.Dataset.from_tensor_slices(DATA).batch(32)
    _, message = broken_training(shifted(), Scripted(4, np.nan), (dataset,), batch_size=None)
    assert "the end of epoch 1" in message
    _, message = broken_training(
        shifted(),
        Scripted(4, np.nan),
        (dataset.repeat(),),
        judged=None,  # 50 batches are, not of equal parts.
        batch_size=None,
        steps_per_epoch=3,
    )
    assert "the end of epoch 1" in message
    _, message = broken_training(
        shifted(), Scripted(4, np.nan), sample_weight=np.ones(ROWS, "float32")
    )
    assert "the end of epoch 1" in message


def test_data_that_cannot_be_read_again_are_said_to_be():
    batches = ((DATA[:32],) for _ in range(6))
    _, message = broken_training(
        shifted(), Scripted(3, np.nan), (batches,), batch_size=None, steps_per_epoch=3
    )
    assert "those of the end of epoch 1; the data cannot be read again" in message


def test_a_state_of_the_optimizer_that_is_not_finite_is_said_to_be():
    class Poisoned(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            super().update_step(gradient * np.nan, variable, learning_rate)

    _, message = broken_training(shifted(), Poisoned(0.01, momentum=0.9))
    assert message.endswith("compile again before the next training.")
    _, message = broken_training(shifted(), Scripted(1, np.nan))
    assert "compile again" not in message


@pytest.mark.parametrize("value", [np.nan, 1e30])
def test_averages_of_bad_weights_do_not_come_back(value):
    """Keras puts them in the place of the weights when a training ends, this or the next one."""

    class Averaged(Scripted):
        def __init__(self):
            super().__init__(4, value)
            self.use_ema, self.ema_momentum = True, 0.9

    model, message = broken_training(shifted(), Averaged())
    assert "those of the end of epoch 1" in message and "compile again" not in message
    kept = model.evaluate(DATA, verbose=0)
    model.fit(DATA, batch_size=32, verbose=0)
    assert model.evaluate(DATA, verbose=0) < kept


def test_weights_that_never_give_a_finite_loss_are_left_and_said_to_be():
    box = tfd.Independent(tfd.Uniform([0.0, 0.0], tf.Variable([1.0, 1.0])), 1)
    model = FlowModel(box)
    model.compile("sgd")
    with pytest.warns(RuntimeWarning, match="no weights of this training give a finite loss"):
        model.fit(DATA, verbose=0)
    assert (model.get_weights()[0] == 1.0).all()
    model.distribution.distribution.high.assign([np.nan, np.nan])
    with pytest.warns(RuntimeWarning, match="No weights of this training are finite"):
        model.fit(DATA, verbose=0)


def test_mixed_precision_and_a_base_class_of_another_kind():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        flow = affine()
    finally:
        keras.config.set_dtype_policy("float32")
    model, _ = broken_training(flow, Scripted(4, np.nan, 1e-3))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    plain = tfd.TransformedDistribution(
        tfd.MultivariateNormalDiag([0.0, 0.0]), tfb.Shift(tf.Variable([1.0, 1.0]))
    )
    broken_training(plain, Scripted(1, np.nan))
