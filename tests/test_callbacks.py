"""Keras' callbacks: early stopping, checkpoints, schedules, logs, and going on after a cut."""

import keras
import numpy as np
import pytest
import tensorflow_probability as tfp
from training import DATA, compiled, train

from tfp_flows import FlowModel, bijectors, flows

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers


def test_early_stopping_restores_the_best_weights(model):
    model.optimizer.learning_rate = 0.5
    stop = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
    history = train(model, epochs=30, validation_data=(DATA[:20],), callbacks=[stop])
    losses = history["val_loss"]
    assert len(losses) < 30
    assert np.argmin(losses) == len(losses) - 3
    assert model.evaluate(DATA[:20], verbose=0) == pytest.approx(min(losses), abs=1e-5)


def test_checkpoints_of_both_kinds(model, tmp_path):
    whole, only = tmp_path / "best.keras", tmp_path / "{epoch}.weights.h5"
    callbacks = [
        keras.callbacks.ModelCheckpoint(whole, monitor="loss", save_best_only=True),
        keras.callbacks.ModelCheckpoint(only, save_weights_only=True),
    ]
    train(model, callbacks=callbacks)
    expected = model.log_prob(DATA)
    loaded = FlowModel.load(whole)
    np.testing.assert_array_equal(loaded.log_prob(DATA), expected)
    model.load_weights(tmp_path / "1.weights.h5")
    assert np.abs(model.log_prob(DATA) - expected).max() > 0
    model.load_weights(tmp_path / "2.weights.h5")
    np.testing.assert_array_equal(model.log_prob(DATA), expected)


def test_learning_rates_follow_their_callbacks(model):
    rates = []
    record = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: rates.append(float(model.optimizer.learning_rate))
    )
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.1 / (epoch + 1))
    train(model, callbacks=[schedule, record])
    np.testing.assert_allclose(rates, [0.1, 0.05])
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.1, patience=1, min_delta=1e6)
    rates.clear()
    train(model, epochs=3, callbacks=[plateau, record])
    np.testing.assert_allclose(rates, [0.05, 0.005, 0.0005], rtol=1e-5)


def test_logs_are_written(model, tmp_path):
    callbacks = [
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.TensorBoard(tmp_path / "board", histogram_freq=1),
        keras.callbacks.TerminateOnNaN(),
    ]
    history = train(model, validation_split=0.2, callbacks=callbacks)
    rows = np.genfromtxt(tmp_path / "log.csv", delimiter=",", names=True)
    np.testing.assert_allclose(rows["loss"], history["loss"], rtol=1e-5)
    np.testing.assert_allclose(rows["val_loss"], history["val_loss"], rtol=1e-5)
    assert {path.parent.name for path in tmp_path.rglob("events*")} == {"train", "validation"}


def test_one_callback_need_not_be_in_a_list(model):
    ended = []
    callback = keras.callbacks.LambdaCallback(on_train_end=ended.append)
    train(model, epochs=1, callbacks=callback)
    assert len(ended) == 1


class Interrupt(keras.callbacks.Callback):
    """What a power cut is to `BackupAndRestore`: an error in the midst of the third epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if self.model.epochs_done == 2:
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):
        self.model.epochs_done = epoch + 1


def test_backup_and_restore_resumes_after_an_interruption(tmp_path):
    def made():
        model = compiled()
        model.epochs_done = 0
        return model

    whole = train(made(), epochs=4)["loss"]
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        train(made(), epochs=4, callbacks=[backup, Interrupt()])
    resumed = made()  # as in a new process
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    losses = train(resumed, epochs=4, callbacks=[backup])["loss"]
    np.testing.assert_allclose(losses, whole[2:], rtol=1e-6)
    assert resumed.optimizer.iterations == 4 * 4


@pytest.mark.parametrize("method", ["evaluate", "test_on_batch"])
def test_evaluations_by_a_callback_leave_the_training_loss_alone(method):
    """Of rows without density, too, whose loss is infinite."""
    rows = np.abs(DATA) + 0.1
    options = {"verbose": 0} if method == "evaluate" else {}
    found = []

    def evaluate(batch, logs):
        found.append(float(getattr(callback.model, method)(-rows, **options)))

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=evaluate)
    losses = []
    for callbacks in ([], [callback]):
        flow = flows.real_nvp(2, layers=1, hidden_units=(8,), support="positive", seed=0)
        model = FlowModel(flow)
        model.compile("adam")
        fitted = model.fit(
            rows, batch_size=15, epochs=2, shuffle=False, verbose=0, callbacks=callbacks
        )
        losses.append(fitted.history["loss"])
    assert len(found) == 2 * 4 and not np.isfinite(found).any()
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
