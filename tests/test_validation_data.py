"""Validation data and datasets are checked before training, as other data are."""

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf
from helpers import normal
from training import CONTEXTS, DATA, compiled, small_flow

from tfp_flows import FlowModel


class Never(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        pytest.fail("Training began.")


@pytest.fixture(scope="module")
def plain():
    return compiled()


WRONG = {
    "masked": (np.ma.masked_greater(DATA, 5.0), "a masked value"),
    "columns": (np.c_[DATA, DATA], r"shape \(n, 2\)"),
    "no rows": (DATA[:0], "`validation_data` must have one row or more"),
    "dict": ({"x": DATA}, "`validation_data` must hold numbers.* a dict"),
    "sparse": (scipy.sparse.csr_matrix(DATA), "not dense"),
    "columns of a dataset": (
        tf.data.Dataset.from_tensors(np.c_[DATA, DATA]),
        r"batches of events of shape \(None, 2\)",
    ),
    "a dataset beside others": (
        (tf.data.Dataset.from_tensors(DATA), None, np.ones(50)),
        "a dataset alone",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_validation_data_are_an_error_before_training(plain, name):
    data, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        plain.fit(DATA, validation_data=data, callbacks=Never(), verbose=0)


def test_validation_data_of_a_conditional_flow_need_context():
    model = compiled(small_flow(3))
    with pytest.raises(ValueError, match="`validation_data` must have context and events"):
        model.fit(CONTEXTS, DATA, validation_data=DATA, callbacks=Never(), verbose=0)
    losses = [
        model.fit(CONTEXTS, DATA, validation_data=data, verbose=0).history["val_loss"]
        for data in ((CONTEXTS, DATA), [CONTEXTS, DATA], ((CONTEXTS, DATA),))
    ]
    assert np.isfinite(losses).all()


def test_validation_data_come_in_all_forms_that_training_data_have(plain):
    pandas = pytest.importorskip("pandas")
    plain.optimizer.learning_rate = 0.0
    expected = -np.mean(plain.log_prob(DATA))
    table = pandas.DataFrame(DATA)
    for data in (DATA, DATA.tolist(), [DATA], (DATA,), table, table.astype("Float64")):
        found = plain.fit(DATA, validation_data=data, verbose=0).history["val_loss"]
        assert found == pytest.approx([expected], abs=1e-5)


def test_a_dataset_of_single_events_is_refused(plain):
    single = tf.data.Dataset.from_tensor_slices(DATA)
    for call in (plain.fit, plain.evaluate, plain.predict):
        with pytest.raises(ValueError, match=r"made by `batch`. Received: shape=\(2,\)"):
            call(single, verbose=0)


def test_variables_of_keras_are_arrays(plain):
    variable = keras.Variable(DATA)
    np.testing.assert_array_equal(
        plain.predict(variable, verbose=0), plain.predict(DATA, verbose=0)
    )
    plain.adapt(variable)
    with pytest.raises(ValueError, match=r"`x` must be an array.* KerasTensor"):
        plain.adapt(keras.Input((2,)))
    with pytest.raises(ValueError, match=r"`x` must be an array.* KerasTensor"):
        plain.log_prob(keras.Input((2,)))


def test_callbacks_come_in_nests(plain):
    ends = []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(epoch))
    plain.fit(normal(8, 2), callbacks=[[note], (note,)], verbose=0)
    assert ends == [0, 0]
    with pytest.raises(TypeError, match=r"`callbacks` must be .* Received: 'early'"):
        plain.fit(DATA, callbacks=["early"], verbose=0)


def test_a_batch_before_compile_is_an_error():
    with pytest.raises(ValueError, match="compile"):
        FlowModel(small_flow()).train_on_batch(DATA)
