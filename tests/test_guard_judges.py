"""By which rows weights are judged when training breaks, and which weights there are."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from broken_training import DATA, ROWS, Scripted, broken_training, shifted
from tensorflow_probability import distributions as tfd

from tfp_flows import FlowModel, flows
from tfp_flows.model import guard


def test_rows_without_density_in_the_validation_data_leave_the_choice_to_the_training_rows():
    x = np.abs(DATA) + 0.1
    held_out = x[:20].copy()
    held_out[3, 0] = -1.0
    flow = flows.real_nvp(2, layers=1, hidden_units=(8,), support="positive", seed=0)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([9], [0.01, 1e15])
    model = FlowModel(flow)
    model.compile(keras.optimizers.Adam(schedule))
    start = model.evaluate(x, verbose=0)
    with pytest.warns(RuntimeWarning, match="on the training rows"):
        model.fit(x, validation_data=(held_out,), epochs=6, batch_size=32, shuffle=False, verbose=0)
    assert model.evaluate(x, verbose=0) < start


@pytest.mark.parametrize("moment", ["on_train_begin", "on_epoch_begin"])
def test_weights_that_a_callback_loads_before_training_are_what_is_gone_back_to(moment):
    mean = np.array([0.5, 0.5], "float32")
    load = keras.callbacks.LambdaCallback(**{moment: lambda *_: weight.assign(mean)})
    model = FlowModel(shifted())
    (weight,) = model.trainable_weights
    model.compile(Scripted(1, np.nan))
    with pytest.warns(RuntimeWarning, match="from before training"):
        model.fit(DATA, batch_size=32, shuffle=False, verbose=0, callbacks=[load])
    np.testing.assert_array_equal(weight.numpy(), mean)


def test_datasets_of_many_batches_are_judged_as_a_whole():
    sorted_rows = np.concatenate([DATA, 6 + np.tile(DATA, (2, 1))])
    start = np.array([0.0, 0.0], "float32")
    mean = tfd.MultivariateNormalDiag(tf.Variable(start), [1.0, 1.0])
    batches = tf.data.Dataset.from_tensor_slices(sorted_rows).batch(2)  # The first fit the start.
    model, message = broken_training(
        mean,
        Scripted(2 * 144 + 1, np.nan, 0.02),
        (batches.shuffle(144, seed=0),),
        judged=sorted_rows,
        validation_data=batches,
    )
    assert "with a validation loss of" in message and "before training" not in message
    assert model.get_weights()[0][0] > 2.0


def test_joined_batches_have_the_mean_loss_of_their_rows():
    model = FlowModel(shifted())
    weight = np.linspace(0.0, 2.0, ROWS).astype("float32")
    parts = [(DATA[:10], None, weight[:10]), (DATA[10:], None, weight[10:])]
    expected = -np.mean(weight * model.log_prob(DATA))
    assert guard.mean_loss(model, parts) == pytest.approx(expected, rel=1e-5)
    assert guard.mean_loss(model, [DATA[:10], parts[1]]) == pytest.approx(
        -(np.sum(model.log_prob(DATA[:10])) + np.sum((weight * model.log_prob(DATA))[10:])) / ROWS,
        rel=1e-5,
    )


class OwnStep(FlowModel):
    """A training step that reports its loss by another name."""

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(self(data, training=True))
        weights = self.trainable_weights
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"nats": loss}


def test_a_training_step_of_ones_own_may_call_its_loss_as_it_likes():
    model = OwnStep(shifted())
    model.compile(keras.optimizers.SGD(0.1))
    assert set(model.fit(DATA, epochs=2, verbose=0).history) == {"nats"}
    good = model.evaluate(DATA, verbose=0)
    model.compile(Scripted(4, np.nan, 0.1))
    with pytest.warns(RuntimeWarning, match="of the end of epoch 1, with a loss"):
        model.fit(DATA, batch_size=32, epochs=2, shuffle=False, verbose=0)
    assert model.evaluate(DATA, verbose=0) < good


def test_the_weights_that_the_warning_names_are_not_replaced_by_later_callbacks():
    """The running loss of an epoch is best, while its last step, like the next, is far off."""
    early = keras.callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([4, 5], [0.01, 500.0, 1e30])
    _, message = broken_training(
        shifted(), keras.optimizers.SGD(schedule), callbacks=[early], epochs=4
    )
    assert "those of the end of epoch 1" in message


def test_the_stated_validation_loss_is_that_of_the_weights_that_are_kept():
    """Of rows that can be read once, Keras' loss is known: that of averages, where they are."""

    def rows():
        while True:
            yield (DATA[:48],)
            yield (DATA[48:],)

    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([8], [0.1, 1e30])
    optimizer = keras.optimizers.SGD(schedule, use_ema=True, ema_momentum=0.9)
    options = {"validation_data": rows(), "validation_steps": 2, "epochs": 6}
    swap = keras.callbacks.SwapEMAWeights()
    _, message = broken_training(shifted(), optimizer, callbacks=[swap], **options)
    assert "of the end of epoch 3, with a validation loss" in message
