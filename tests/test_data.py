"""The data that FlowModel takes: every form, weights, shapes, and what is not finite."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal
from training import (
    CONTEXT,
    CONTEXTS,
    DATA,
    ROWS,
    compiled,
    holed,
    same,
    small_flow,
    train,
    weights,
)

from tfp_flows import FlowModel, bijectors, flows
from tfp_flows.model.data import arrays_of, split_off
from tfp_flows.model.epochs import Epochs

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers


def test_losses_are_means_over_rows_whatever_the_batches(model):
    log_prob = model.log_prob(DATA).numpy()
    for batch_size in (7, 16, ROWS):
        loss = model.evaluate(DATA, batch_size=batch_size, verbose=0)
        assert loss == pytest.approx(-log_prob.mean(), abs=1e-5)
    np.testing.assert_allclose(model.predict(DATA, batch_size=7, verbose=0), log_prob, atol=1e-6)
    model.optimizer.learning_rate = 0.0
    loss = train(model, epochs=1, batch_size=16)["loss"][0]
    assert loss == pytest.approx(-log_prob.mean(), abs=1e-5)
    assert model.evaluate(DATA, verbose=0, return_dict=True).keys() == {"loss"}


def test_validation_data_in_every_form(model):
    model.optimizer.learning_rate = 0.0
    held_out, weight = DATA[40:], np.linspace(0, 2, 10)
    loss = -model.log_prob(held_out).numpy()
    dataset = tf.data.Dataset.from_tensor_slices(held_out).batch(4)
    forms = {
        "array": ({"validation_data": held_out}, loss.mean()),
        "tuple": ({"validation_data": (held_out,)}, loss.mean()),
        "weights": ({"validation_data": (held_out, None, weight)}, (weight * loss).mean()),
        "dataset": ({"validation_data": dataset}, loss.mean()),
        "split": ({"validation_split": 0.2}, loss.mean()),
        "split and weights": (
            {"validation_split": 0.2, "sample_weight": np.r_[np.ones(40), weight]},
            (weight * loss).mean(),
        ),
    }
    for name, (options, expected) in forms.items():
        history = train(model, epochs=1, **options)
        assert history["val_loss"][0] == pytest.approx(expected, abs=1e-4), name


def test_context_goes_first_everywhere():
    model = compiled(small_flow(CONTEXT))
    model.adapt(CONTEXTS, DATA)
    dataset = tf.data.Dataset.from_tensor_slices((CONTEXTS, DATA)).batch(16)
    weight = np.linspace(0, 2, ROWS).astype("float32")
    forms = {
        "two arrays": ((CONTEXTS, DATA), {}),
        "a tuple": (((CONTEXTS, DATA),), {}),
        "a list": (([CONTEXTS, DATA],), {}),
        "a dataset": ((dataset,), {}),
    }
    initial, trained = weights(model), []
    for name, (data, options) in forms.items():
        model.set_weights(initial)
        for variable in model.optimizer.variables if model.optimizer.built else ():
            if variable is not model.optimizer.learning_rate:
                variable.assign(tf.zeros_like(variable))
        train(model, *data, epochs=1, **options)
        trained.append(weights(model))
        assert same(trained[0], trained[-1]), name
    log_prob = model.log_prob(DATA, CONTEXTS).numpy()
    assert np.abs(log_prob - model.log_prob(DATA, np.roll(CONTEXTS, 1, 0))).max() > 1e-3
    for data in ((CONTEXTS, DATA), [CONTEXTS, DATA], dataset):
        np.testing.assert_allclose(model.predict(data, verbose=0), log_prob, atol=1e-5)
    for data in ((CONTEXTS, DATA), ((CONTEXTS, DATA),), (dataset,)):
        loss = model.evaluate(*data, verbose=0)
        assert loss == pytest.approx(-log_prob.mean(), abs=1e-5)
    weighted = (-weight * log_prob).mean()
    triples = tf.data.Dataset.from_tensor_slices((CONTEXTS, DATA, weight)).batch(16)
    assert model.evaluate(triples, verbose=0) == pytest.approx(weighted, abs=1e-5)
    model.optimizer.learning_rate = 0.0
    for form in ((CONTEXTS, DATA, weight), triples):
        loss = train(model, CONTEXTS, DATA, validation_data=form, epochs=1)["val_loss"][0]
        assert loss == pytest.approx(weighted, abs=1e-4)
    assert model.sample(4, CONTEXTS[:6]).shape == (4, 6, 2)


def test_rows_of_weight_zero_do_not_matter(model):
    weight = np.where(np.arange(ROWS) % 3 == 0, 0.0, 1.5)
    trained = []
    for garbage in (0.0, 7.0):
        data = np.where(weight[:, None] == 0, DATA + garbage, DATA).astype("float32")
        model.set_weights(model.initial)
        for variable in model.optimizer.variables:
            variable.assign(tf.zeros_like(variable))
        model.optimizer.learning_rate = 0.01
        history = train(model, data, sample_weight=weight, epochs=1)
        trained.append((*weights(model), history["loss"]))
    assert same(*trained)
    assert not same(trained[0][:-1], model.initial)


def test_weights_scale_the_loss_of_their_rows(model):
    weight = np.linspace(0, 3, ROWS)
    expected = (-weight * model.log_prob(DATA).numpy()).mean()
    triples = tf.data.Dataset.from_tensor_slices((DATA, weight)).batch(16)
    triples = triples.map(lambda x, w: (x, None, w))
    for data, options in [
        (DATA, {"sample_weight": weight}),
        (DATA, {"sample_weight": weight[:, None]}),
        (triples, {}),
    ]:
        loss = model.evaluate(data, verbose=0, **options)
        assert loss == pytest.approx(expected, abs=1e-5)
    model.optimizer.learning_rate = 0.0
    assert train(model, sample_weight=weight, epochs=1)["loss"][0] == pytest.approx(
        expected, abs=1e-4
    )
    with pytest.raises(ValueError, match="`sample_weight` must be in the elements of a dataset"):
        train(model, triples, sample_weight=weight)


def test_datasets_may_repeat_forever(model):
    dataset = tf.data.Dataset.from_tensor_slices(DATA).repeat().batch(16)
    history = train(
        model,
        dataset,
        steps_per_epoch=3,
        batch_size=None,
        validation_data=dataset,
        validation_steps=2,
    )
    assert model.optimizer.iterations == 6
    assert len(history["val_loss"]) == 2
    with pytest.raises(ValueError, match=r"`x` must end.*repeats forever"):
        model.adapt(dataset)


def test_frames_generators_and_sequences(model):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(DATA, columns=["a", "b"])

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            return (DATA[16 * i : 16 * (i + 1)],)

    def generator():
        while True:
            yield (DATA[:16],)

    expected = model.log_prob(DATA).numpy()
    np.testing.assert_allclose(model.log_prob(frame), expected, atol=1e-6)
    np.testing.assert_allclose(model.log_prob(DATA.tolist()), expected, atol=1e-5)
    np.testing.assert_allclose(model.predict(frame, verbose=0), expected, atol=1e-6)
    assert np.isfinite(train(model, frame, validation_split=0.2)["val_loss"]).all()
    assert np.isfinite(train(model, Batches(), batch_size=None)["loss"]).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Keras, about shuffling
        assert np.isfinite(train(model, generator(), steps_per_epoch=2, batch_size=None)["loss"][0])


@pytest.mark.parametrize(
    ("flow", "data", "message"),
    [
        (small_flow, (DATA[:, :1],), r"events must have shape \(n, 2\).*1\)"),
        (small_flow, (np.zeros([5, 3]),), r"events must have shape \(n, 2\).*3\)"),
        (small_flow, (DATA, DATA), "`context` was given, but this FlowModel is unconditional"),
        (lambda: small_flow(CONTEXT), (DATA,), "`context` is missing"),
        (lambda: small_flow(CONTEXT), (DATA, DATA), r"context must have shape \(n, 3\)"),
    ],
)
def test_data_of_the_wrong_shape_are_an_error(flow, data, message):
    model = compiled(flow())
    with pytest.raises(ValueError, match=message):
        train(model, *data)
    with pytest.raises(ValueError, match=message):
        model.evaluate(*data, verbose=0)
    with pytest.raises(ValueError, match=message):
        model.predict(data[0] if len(data) == 1 else data, verbose=0)


def test_bad_values_are_reported_before_training_starts(model):
    pandas = pytest.importorskip("pandas")
    before = weights(model)
    dataset = tf.data.Dataset.from_tensor_slices(holed(37, 1)).batch(16)
    weight = np.where(np.arange(ROWS) == 4, np.nan, 1.0)
    cases = [
        ((holed(3, 1),), {}, r"`x` must be finite. Received: nan at row 3, column 1; 1 of 100"),
        ((holed(3, 0, -np.inf),), {}, r"`x` .*-inf at row 3, column 0"),
        ((tf.constant(holed(3, 1)),), {}, r"`x` .*row 3, column 1"),
        ((pandas.DataFrame(holed(3, 1), columns=["a", "b"]),), {}, r"`x` .*row 3, column 'b'"),
        ((dataset,), {"batch_size": None}, r"`x` .*row 37, column 1"),
        ((DATA,), {"validation_data": (holed(2, 0),)}, r"`validation_data\[0\]` .*row 2, column 0"),
        ((DATA,), {"sample_weight": weight}, r"`sample_weight` .*row 4"),
        ((DATA.astype(str),), {}, "`x` must hold numbers"),
    ]
    for data, options, message in cases:
        with pytest.raises(ValueError, match=message):
            train(model, *data, **options)
    assert same(before, weights(model))
    conditional = compiled(small_flow(CONTEXT))
    for data, name in [
        ((CONTEXTS, holed(5, 0)), "y"),
        ((holed(5, 0), DATA), "x"),
        (((holed(5, 0), DATA),), r"x\[0\]"),
    ]:
        with pytest.raises(ValueError, match=f"`{name}` must be finite.*row 5, column 0"):
            train(conditional, *data)


def test_shapes_are_checked_however_often_the_model_was_trained():
    model = FlowModel(flows.real_nvp(2, layers=1, hidden_units=(4,), context_size=3))
    model.compile()
    c, x = np.zeros((8, 3), "float32"), np.ones((8, 2), "float32")
    for rows in (8, 5):
        model.fit(c[:rows], x[:rows], verbose=0)
    with pytest.raises(ValueError, match=r"events must have shape \(n, 2\).*\(8, 1\)"):
        model.fit(c, x[:, :1], verbose=0)
    with pytest.raises(ValueError, match=r"context must have shape \(n, 3\)"):
        model.evaluate(c[:, :2], x, verbose=0)
    with pytest.raises(ValueError, match=r"call `predict\(\(context, x\)\)`"):
        model.predict(c, x)


@pytest.mark.parametrize("rows", [12, 14])
@pytest.mark.parametrize("kind", ["epochs", "dataset"])
def test_an_epoch_has_every_row_once(rows, kind):
    keras.utils.set_random_seed(0)  # With a seed, too, epochs differ.
    x, weight = np.arange(rows * 2.0).reshape(rows, 2), np.arange(rows * 1.0)
    epochs = Epochs([x, weight], 4, shuffle=True, dtype="float32")
    assert len(epochs) == epochs.num_batches == -(-rows // 4)
    batches = epochs.as_dataset() if kind == "dataset" else epochs
    orders = []
    for _ in range(2):
        sizes, parts = [], []
        for batch_x, batch_weight in batches:
            sizes.append(len(batch_x))
            np.testing.assert_array_equal(batch_x[:, 0], 2 * batch_weight)
            parts.append(batch_weight.numpy())
        assert sizes == [4, 4, 4, 2][: len(sizes)] and len(sizes) == len(batches)
        orders.append(np.concatenate(parts))
        np.testing.assert_array_equal(np.sort(orders[-1]), weight)
    assert (orders[0] != orders[1]).any()
    assert batch_x.dtype == "float32"


def test_epochs_in_order_of_one_array_without_what_is_left_over():
    x, weight = np.arange(10.0).reshape(5, 2), np.arange(5.0)
    first, _ = next(iter(Epochs([x, weight], 4, shuffle=False, dtype="float64")))
    np.testing.assert_array_equal(first, x[:4])
    plain = Epochs([x], 5, shuffle=False, dtype="float32").as_dataset()
    assert plain.element_spec == tf.TensorSpec([5, 2])
    (only,) = Epochs([x], 3, shuffle=False, dtype="float64", drop_remainder=True)
    np.testing.assert_array_equal(only, x[:3])
    (few,) = Epochs([x], 8, shuffle=False, dtype="float64", drop_remainder=True)
    np.testing.assert_array_equal(few, x)


def test_fewer_steps_an_epoch_than_there_are_batches(model):
    """A cap for trials, by which an iterator of Keras goes on in the next epoch."""
    model.optimizer.learning_rate = 0.0
    keras.config.set_max_steps_per_epoch(2)
    try:
        losses = train(model, epochs=4, batch_size=16)["loss"]
    finally:
        keras.config.set_max_steps_per_epoch(None)
    expected = -model.log_prob(DATA).numpy().mean()
    assert losses == pytest.approx([expected] * 4, abs=0.5)


def test_rows_of_an_epoch_may_be_changed():
    keras.utils.set_random_seed(3)

    def noise(rows, seed):
        return [rows[0] + tf.random.stateless_normal(rows[0].shape, seed, dtype="float64")]

    epochs = Epochs([np.zeros([8, 2])], 4, shuffle=False, dtype="float64", change=noise)
    first, second = (np.concatenate(list(epochs)) for _ in range(2))
    assert len(np.unique(np.concatenate([first, second]))) == 32
    keras.utils.set_random_seed(3)
    again = Epochs([np.zeros([8, 2])], 4, shuffle=False, dtype="float64", change=noise)
    np.testing.assert_array_equal(np.concatenate(list(again)), first)


def test_arrays_are_told_from_other_data():
    x, y = normal(4, 2), normal(4, 1)
    assert [part is x or part is y for part in arrays_of((x, y), None, None)] == [True, True]
    assert arrays_of(x, None, y[:3]) is None
    assert arrays_of(tf.data.Dataset.range(3), None, None) is None
    assert arrays_of(x[:0], None, None) is None
    (kept, _), (held_out, _) = split_off([x, y], 0.25)
    np.testing.assert_array_equal(np.concatenate([kept, held_out]), x)
    assert len(held_out) == 1 and split_off([x], 0.0)[1] is None


def test_a_split_must_leave_rows():
    for share in (0.5, 1.0):
        with pytest.raises(ValueError, match="`validation_split` must leave rows"):
            split_off([normal(1, 2)], share)


def test_the_batch_that_initializes_is_trained_on():
    def batches(count):
        for _ in range(count):
            yield (DATA[:20],)

    def made():
        flow = flows.real_nvp(DATA.shape[1], layers=2, hidden_units=(4,), actnorm=True, seed=0)
        model = FlowModel(flow)
        model.compile("sgd")
        return model

    model = made()
    model.fit(batches(4), epochs=2, steps_per_epoch=2, verbose=0)
    assert model.optimizer.iterations == 4
    model = made()
    model.fit(batches(1), verbose=0)
    assert model.optimizer.iterations == 1
    with pytest.raises(ValueError, match="at least one batch"):
        made().fit(batches(0), verbose=0)
