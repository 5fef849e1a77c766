"""Standardizing: data of every kind that `adapt` takes, and those that it refuses."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal
from small_flows import affine_model

from tfp_flows import FlowModel, bijectors, distributions, flows
from tfp_flows.model.standardizer import Standardizer

tfd, tfb = tfp.distributions, tfp.bijectors

ROWS = 60
X = normal(ROWS, 2)


# Rows and shapes.


def test_context_and_events_of_different_numbers_of_rows_are_an_error(conditional):
    context = normal(ROWS - 1, 3)
    calls = {
        "adapt": lambda: conditional.adapt(context, X),
        "fit": lambda: conditional.fit(context, X, verbose=0),
        "fit pair": lambda: conditional.fit((context, X), verbose=0),
        "validation": lambda: conditional.fit(
            normal(ROWS, 3), X, validation_data=(context, X), verbose=0
        ),
        "weight": lambda: conditional.fit(
            normal(ROWS, 3), X, sample_weight=np.ones(ROWS - 1), verbose=0
        ),
        "evaluate": lambda: conditional.evaluate(context, X, verbose=0),
        "predict": lambda: conditional.predict((context, X), verbose=0),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=r"must have equally many rows. Received: .*59 rows"):
            call()
            pytest.fail(name)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (4, 2), (3, 3, 2)])
def test_events_of_any_rank_are_standardized(shape):
    x = 3 * normal(ROWS, *shape, dtype="float64") + 5
    standardizer = Standardizer(shape, dtype="float64", name="s")
    standardizer.adapt(x, "x")
    z = standardizer(x)
    np.testing.assert_allclose(np.mean(z, 0), np.zeros(shape), atol=1e-12)
    np.testing.assert_allclose(np.std(z, 0), np.ones(shape))
    np.testing.assert_allclose(standardizer.log_det(), -np.log(x.std(0)).sum())
    np.testing.assert_allclose(standardizer.inverse(z), x)
    x[(..., slice(-1, None)) if shape else ...] = 2.0
    last = ", ".join(str(size - 1) for size in shape[-1:]) or "0"
    with pytest.raises(ValueError, match=rf"constant column, .*{last}, which"):
        standardizer.adapt(x, "x")


def test_one_dimensional_data_of_a_one_column_flow_are_one_clear_error():
    made = FlowModel(flows.neural_spline(1, layers=1, hidden_units=(4,), seed=0))
    made.compile("adam")
    x = normal(ROWS)
    with pytest.raises(ValueError, match=r"shape \(n, 1\). Received: shape=\(60,\): use `x\[:, np"):
        made.adapt(x)
    for call in (made.fit, made.evaluate, made.predict):
        with pytest.raises(ValueError, match=r"shape \(n, 1\). Received: shape=\(60,\)"):
            call(x, verbose=0)
    with pytest.raises(ValueError, match=r"shape \(..., 1\). Received: \(60,\)"):
        made.log_prob(x)


# What holds no numbers.


def not_numbers():
    pandas, sparse = pytest.importorskip("pandas"), pytest.importorskip("scipy.sparse")
    names = ["a", "b"]
    nullable = pandas.DataFrame(X, columns=names).astype("Float64")
    nullable.iloc[3, 1] = pandas.NA
    dates = pandas.DataFrame({"a": pandas.date_range("2020", periods=ROWS), "b": X[:, 0]})
    text = pandas.DataFrame({"a": pandas.array(["u"] * ROWS, dtype="string"), "b": X[:, 0]})
    classes = pandas.DataFrame({"a": pandas.Categorical(["u"] * ROWS), "b": X[:, 0]})
    words = tf.data.Dataset.from_tensor_slices([["a", "b"]]).batch(2)
    return {
        "nothing": (None, "None"),
        "objects": (X.astype(object), "object"),
        "frame of objects": (pandas.DataFrame(X.astype(object), columns=names), "column 'a'"),
        "nullable": (nullable, "row 3, column 'b'"),
        "nullable series": (nullable["b"], "row 3, column 'b'"),
        "dates in a frame": (dates, "datetime.* column 'a'"),
        "text in a frame": (text, "string in column 'a'"),
        "categories": (classes, "category in column 'a'"),
        "masked": (np.ma.MaskedArray(X, np.eye(ROWS, 2, k=-4) > 0), "row 4, column 0"),
        "dates": (X.astype("datetime64[s]"), "datetime64"),
        "complex": (X + 0j, "complex"),
        "text": (X.astype(str), "<U"),
        "records": (np.zeros(ROWS, [("a", float), ("b", float)]), "'a'"),
        "ragged list": ([[1.0, 2.0], [3.0]], "different lengths"),
        "list of text": ([["a", "b"]], "<U"),
        "list with a gap": ([[1.0, None]], "object"),
        "list of masked rows": ([X[0], np.ma.MaskedArray(X[1], [False, True])], "row 1"),
        "sparse": (sparse.csr_matrix(X), "csr_matrix"),
        "sparse tensor": (tf.sparse.from_dense(X), "SparseTensor"),
        "ragged tensor": (tf.ragged.constant([[1.0, 2.0], [3.0]]), "RaggedTensor"),
        "tensor of text": (tf.constant([["a", "b"]]), "string"),
        "complex tensor": (tf.constant(X + 0j), "complex"),
        "dataset of text": (words, "string"),
        "a word": ("abc", "str"),
        "dictionary": ({"x": X}, "dict"),
    }


def test_what_holds_no_numbers_is_one_clear_error_everywhere(plain, conditional):
    context = normal(ROWS, 3)
    for kind, (data, received) in not_numbers().items():
        message = rf"must hold numbers, real and none of them absent. Received: .*{received}"
        calls = [
            plain.adapt,
            plain.fit,
            plain.evaluate,
            plain.predict,
            plain.log_prob,
            lambda data: conditional.fit((context, data), verbose=0),
        ]
        if kind != "nothing":  # These are optional.
            calls += [
                lambda data: conditional.adapt(data, X),
                lambda data: conditional.fit(data, X, verbose=0),
                lambda data: conditional.evaluate(data, X, verbose=0),
                lambda data: conditional.log_prob(X, data),
                lambda data: plain.fit(X, validation_data=(data,), verbose=0),
                lambda data: plain.fit(X, sample_weight=data, verbose=0),
            ]
        for i, call in enumerate(calls):
            with pytest.raises(ValueError, match=message):
                call(data)
                pytest.fail(f"{kind}, call {i}")


def test_what_holds_numbers_in_other_clothes_is_taken(plain):
    pandas = pytest.importorskip("pandas")
    plain.adapt(X)
    expected = plain.log_prob(X)
    for data in (
        X.tolist(),
        tuple(map(tuple, X.tolist())),
        pandas.DataFrame(X).astype("Float32"),
        pandas.DataFrame(X),
        np.ma.MaskedArray(X),
        tf.Variable(X),
        X.astype(np.longdouble),
        X.astype(">f4"),
    ):
        plain.adapt(data)
        np.testing.assert_allclose(plain.predict(data, verbose=0), expected, rtol=1e-5)
        np.testing.assert_allclose(plain.log_prob(data), expected, rtol=1e-5)
        assert plain.evaluate(data, verbose=0) == pytest.approx(-np.mean(expected), rel=1e-4)
    scalar = FlowModel(tfd.Normal(tf.Variable(0.0), 1.0))
    np.testing.assert_allclose(scalar.log_prob(0.5), tfd.Normal(0.0, 1.0).log_prob(0.5), rtol=1e-6)


def test_truth_values_beside_numbers_in_a_table_are_0_and_1(plain):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(X, columns=["a", "b"]).assign(b=X[:, 1] > 0)
    array = table.astype("float32").to_numpy()
    plain.adapt(table)
    np.testing.assert_allclose(plain.event_standardizer.shift, array.mean(0), atol=1e-6)
    expected = plain.log_prob(array)
    np.testing.assert_allclose(plain.log_prob(table), expected, rtol=1e-5)
    np.testing.assert_allclose(plain.predict(table, verbose=0), expected, rtol=1e-5)
    assert np.isfinite(plain.fit(table, verbose=0).history["loss"]).all()


def test_bfloat16_is_a_number(plain):
    x = tf.cast(X, "bfloat16")
    for data in (x, x.numpy()):
        plain.adapt(data)
        plain.fit(data, verbose=0)
        np.testing.assert_allclose(plain.event_standardizer.shift, X.mean(0), atol=0.02)


def test_adapt_takes_arrays_and_datasets_that_hold_and_end(plain, conditional):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return X

    sliced = tf.data.Dataset.from_tensor_slices
    for wrong, received in (
        ((x for x in X), "generator"),
        (Batches(), "Batches"),
        (sliced({"x": X}).batch(8), "a dataset of dict"),
        (sliced(X[:0]).batch(8), "a dataset without elements"),
        (sliced(X).batch(8).repeat(), "repeats forever"),
        (3.0, r"shape=\(\)|float"),
        (np.float32(3), r"shape=\(\)"),
    ):
        with pytest.raises(ValueError, match=f"`x` must .*Received: .*({received})"):
            plain.adapt(wrong)
    with pytest.raises(ValueError, match=r"must have shape|Received: float"):
        FlowModel(tfd.Normal(tf.Variable(0.0), 1.0)).adapt(0.5)
    embedding = keras.layers.Dense(2)
    made = flows.maf(2, layers=1, hidden_units=(4,), embedding=embedding, context_shape=(3,))
    context = normal(ROWS, 3)
    context[7, 1] = np.nan
    with pytest.raises(ValueError, match=r"`x` must be finite. Received: nan at row 7, column 1"):
        FlowModel(made).adapt(context, X)


@pytest.mark.parametrize(
    "arguments",
    [
        (np.full((ROWS, 3), 1e39), 100 * X + 50),
        (normal(ROWS, 3), np.full((ROWS, 2), 1e39)),
        (100 * X + 50,),
        (normal(ROWS - 1, 3), 100 * X + 50),
    ],
    ids=["unit of context", "unit of events", "no context", "rows"],
)
def test_what_fails_leaves_the_model_as_it_was(arguments):
    made = affine_model(context_size=3, last=bijectors.ActNorm(2))
    made.adapt(normal(ROWS, 3, seed=1), X)
    before = made.get_weights()
    with pytest.raises(ValueError):
        made.adapt(*arguments)
    for a, b in zip(before, made.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def small_glow():
    return flows.glow((4, 4, 1), levels=1, steps=1, width=4)


@pytest.mark.parametrize(
    "make, wrong",
    [
        (lambda: flows.circular_spline(2, layers=1, hidden_units=(4,)), (3,)),
        (lambda: flows.sphere(layers=1, hidden_units=(4,)), (2,)),
        (lambda: distributions.Censored(flows.real_nvp(1, layers=1, support="positive")), (1,)),
        (small_glow, (4, 4)),
        (small_glow, (6, 6, 1)),
        (lambda: distributions.Dequantized(small_glow(), 1.0), (4, 4)),
    ],
    ids=["torus", "sphere", "times", "no channels", "large images", "grey levels"],
)
def test_data_that_are_not_standardized_have_the_shape_of_events_too(make, wrong):
    flow = make()
    needed = ", ".join(map(str, flow.event_shape))
    received = re.escape(str((ROWS, *wrong)))
    with pytest.raises(ValueError, match=rf"`x` must have shape \(n, {needed}\).*{received}"):
        FlowModel(flow).adapt(np.round(normal(ROWS, *wrong)))


def test_a_missing_context_is_one_clear_error(conditional):
    for method in (conditional.adapt, conditional.fit, conditional.evaluate):
        with pytest.raises(ValueError, match="`context` is missing"):
            method(None, X)
        with pytest.raises(ValueError, match="`context` is missing"):
            method(X)


@pytest.mark.parametrize("by", ["adapt", "fit"])
def test_columns_of_tables_keep_the_order_of_training(by, tmp_path):
    pandas = pytest.importorskip("pandas")
    events = pandas.DataFrame(X, columns=["a", "b"])
    context = pandas.DataFrame(normal(ROWS, 3, seed=1), columns=["u", "v", 7])
    made = FlowModel(flows.real_nvp(2, layers=2, hidden_units=(4,), context_size=3, seed=0))
    made.compile("adam")
    if by == "adapt":
        made.adapt(context, events)
    else:
        made.fit(context, events, verbose=0)
    made.save(tmp_path / "m.keras")
    swapped, turned = events[["b", "a"]], context[[7, "u", "v"]]
    for model in (made, FlowModel.load(tmp_path / "m.keras")):
        calls = {
            "events": [
                lambda m: m.log_prob(swapped, context),
                lambda m: m.score(swapped, context),
                lambda m: m.predict((context, swapped), verbose=0),
                lambda m: m.fit(context, swapped, verbose=0),
                lambda m: m.fit(context, X, validation_data=(context, swapped), verbose=0),
            ],
            "context": [
                lambda m: m.sample(2, turned),
                lambda m: m.evaluate(turned, events, verbose=0),
                lambda m: m.train_on_batch(turned, events),
            ],
        }
        for what, made_of in calls.items():
            for call in made_of:
                with pytest.raises(ValueError, match=f"The {what} must have columns in the order"):
                    call(model)
        other = events.rename(columns={"a": "c"})  # Only where there is no doubt.
        expected = model.log_prob(events, context)
        for same in (other, X):
            np.testing.assert_array_equal(model.log_prob(same, context), expected)
    for wrong in (swapped.assign(c=1.0), swapped.assign(a=np.nan)):  # What is refused says nothing.
        with pytest.raises(ValueError):
            made.fit(context, wrong, verbose=0)
        np.testing.assert_array_equal(made.log_prob(events, context), expected)
    made.adapt(turned, swapped)  # Anew.
    assert np.isfinite(made.log_prob(swapped, turned)).all()
