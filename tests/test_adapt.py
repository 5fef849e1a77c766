"""Standardizing: columns that `adapt` takes, those that it warns of, and those that it refuses."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal, randomize

from tfp_flows import Flow, FlowModel, bijectors, distributions, flows
from tfp_flows.model import ConstantColumnWarning, OutlierWarning
from tfp_flows.model.standardizer import Standardizer
from tfp_flows.ops import columns

tfd, tfb = tfp.distributions, tfp.bijectors

ROWS = 60
X = normal(ROWS, 2)


def model(dtype="float32", context_size=None, last=None):
    """A small flow: one affine coupling, and a last bijector before the data."""
    options = {"context_size": context_size, "dtype": dtype, "seed": 0}
    affine = bijectors.transformers.Affine()
    steps = [] if last is None else [last]
    steps.append(bijectors.Coupling(2, affine, (4,), **options))
    base = tfd.MultivariateNormalDiag(tf.zeros(2, dtype))
    return FlowModel(randomize(Flow(base, tfb.Chain(steps))))


@pytest.fixture(scope="module")
def plain():
    made = model()
    made.compile("adam")
    return made


@pytest.fixture(scope="module")
def conditional():
    made = model(context_size=3)
    made.compile("adam")
    return made


# Constant columns.


def test_a_constant_column_of_the_context_is_centred_with_a_warning(conditional):
    context = np.c_[normal(ROWS, 2, seed=1), np.full(ROWS, 7.0)].astype("float32")
    with pytest.warns(ConstantColumnWarning, match="`x` is constant in column 2:"):
        conditional.adapt(context, X)
    standardizer = conditional.context_standardizer
    np.testing.assert_allclose(standardizer.shift[2], 7.0)
    np.testing.assert_allclose(standardizer.scale[2], 1.0)
    np.testing.assert_allclose(np.std(standardizer(context), 0), [1, 1, 0], atol=1e-5)
    assert np.isfinite(conditional.log_prob(X, context)).all()
    conditional.fit(context, X, verbose=0)


def test_a_context_that_varies_in_no_digit_is_an_error(conditional):
    context = np.c_[normal(ROWS, 2, seed=1), 1e9 + np.arange(ROWS)]
    with pytest.raises(ValueError, match=r"`x` must vary.*column, 2,.* no digit of float32"):
        conditional.adapt(context, X)


@pytest.mark.parametrize("last", [None, "actnorm", "support", "spline"])
def test_a_constant_column_of_the_events_is_an_error_whatever_the_flow(last):
    steps = {
        None: lambda: None,
        "actnorm": lambda: bijectors.ActNorm(2),
        "support": lambda: bijectors.Support(2, ["real", "positive"]),
        "spline": lambda: bijectors.Coupling(2, bijectors.transformers.CircularSpline(4), (4,)),
    }
    with pytest.raises(ValueError, match=r"`x` must vary in every column.*constant column, 1"):
        model(last=steps[last]()).adapt(np.c_[X[:, 0], np.full(ROWS, 0.1)])


def test_every_part_has_one_notion_of_constant():
    """What varies in no digit of float32 is constant to all of them, and to none in float64."""
    y = 1e6 + 0.1 * normal(ROWS, 2, dtype="float64")
    assert columns.constant_columns(y, "float32").all()
    assert not columns.constant_columns(y, "float64").any()
    norm = bijectors.ActNorm(2)
    norm.adapt(y)
    np.testing.assert_array_equal(norm.log_scale, [0, 0])
    for refuses in (bijectors.Support(2, "real").adapt, model().adapt):
        with pytest.raises(ValueError, match="no digit of float32"):
            refuses(y)
    bijectors.Support(2, "real", dtype="float64").adapt(y)
    lu = bijectors.LU(2, dtype="float64", max_log_scale=40.0)
    lu.adapt(np.c_[y[:, 0], np.full(ROWS, 0.1)])  # Rounding leaves a variance of 1e-34.
    log_scale = lu.forward_log_det_jacobian(tf.zeros([2], "float64"))
    np.testing.assert_allclose(log_scale, np.log(y[:, 0].std(ddof=1) * 1e-4), rtol=1e-4)


# Units.


@pytest.mark.parametrize("unit", [1e-39, 1e-33, 1e33, 1e39, 1e300, 1e-300])
def test_a_unit_that_float32_cannot_hold_is_an_error(unit, plain):
    x = X.astype("float64") * [1, unit]
    with pytest.raises(ValueError, match=r"`x` must be in units that fit float32.*column 1.*resc"):
        plain.adapt(x)
    pandas = pytest.importorskip("pandas")
    with pytest.raises(ValueError, match=r"in column 'b'.*or use float64"):
        plain.adapt(pandas.DataFrame(x, columns=["a", "b"]))
    for refuses in (bijectors.ActNorm(2), bijectors.Support(2, "real")):
        with pytest.raises(ValueError, match=r"fit float32|no digit of float32"):
            refuses.adapt(x)


def test_a_positive_column_too_small_for_float32_is_an_error():
    x = np.abs(X.astype("float64")) * 1e-42
    with pytest.raises(ValueError, match="in row 0, which float32 takes for 0: rescale the column"):
        model(last=bijectors.Support(2, "positive")).adapt(x)
    circular = bijectors.Coupling(2, bijectors.transformers.CircularSpline(4), (4,))
    with pytest.raises(ValueError, match="within the range of float32"):
        model(last=circular).adapt(x * 1e82)


@pytest.mark.parametrize("unit", [1e-39, 1e39, 1e-200, 1e200])
def test_float64_holds_them(unit):
    made = model("float64")
    x = X.astype("float64")
    made.adapt(x)
    expected = made.log_prob(x)
    made.adapt(x * unit)  # Squares of these leave float64.
    np.testing.assert_allclose(made.log_prob(x * unit), expected - 2 * np.log(unit), rtol=1e-9)


def test_a_unit_that_float64_cannot_hold_is_an_error():
    with pytest.raises(ValueError, match=r"fit float64.*column 0.*e\+300: rescale the column$"):
        model("float64").adapt(X.astype("float64") * 1e300)


def test_values_beyond_the_dtype_are_reported_before_training(plain):
    x = X.astype("float64")
    x[5, 1] = 1e39
    with pytest.raises(ValueError, match=r"within the range of float32. Received: 1e\+39 at row 5"):
        plain.fit(x, verbose=0)


# Outliers.


def with_outliers(n=4000, seed=0):
    """0.5 % of the rows are 10⁴ times wider than the others."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)) * np.where(rng.random((n, 1)) < 0.005, 1e4, 1)


def test_outliers_are_reported_by_column_and_row(plain):
    x = np.random.default_rng(0).normal(size=(3000, 2))
    x[1234, 1] = 1e6
    with pytest.warns(OutlierWarning, match=r"column 1: 1e\+06 in row 1234, .*scale='robust'"):
        plain.adapt(x)
    with pytest.warns(OutlierWarning, match="column 0"):
        plain.adapt(with_outliers())
    pandas = pytest.importorskip("pandas")
    with pytest.warns(OutlierWarning, match="column 'b': .* row 1234"):
        plain.adapt(pandas.DataFrame(x, columns=["a", "b"]))


LAST = {
    "actnorm": lambda: bijectors.ActNorm(2),
    "real": lambda: bijectors.Support(2, "real"),
}


@pytest.mark.parametrize("last", LAST)
def test_outliers_are_reported_where_the_last_bijector_standardizes(last):
    x = np.random.default_rng(0).normal(size=(3000, 2))
    x[1234, 1] = 1e6
    made = model(last=LAST[last]())
    with pytest.warns(OutlierWarning, match=r"column 1: 1e\+06 in row 1234, .*take logarithms\.$"):
        made.adapt(x)
    dequantized = distributions.Dequantized(made.distribution, 0.1)
    if last != "actnorm":
        with pytest.warns(OutlierWarning, match="column 1"):
            FlowModel(dequantized).adapt(np.round(x, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", OutlierWarning)
        made.adapt(np.delete(x, 1234, 0))
        wide = np.exp(2 * x[:1000])  # Wide before the logarithm, not behind it.
        model(last=bijectors.Support(2, "positive")).adapt(wide)


HEAVY_TAILS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "exponential": lambda rng, n: rng.exponential(size=n),
    "lognormal": lambda rng, n: rng.lognormal(size=n),
    "wide lognormal": lambda rng, n: rng.lognormal(sigma=2, size=n),
    "student": lambda rng, n: rng.standard_t(2, size=n),
    "laplace": lambda rng, n: rng.laplace(size=n),
    "spike and slab": lambda rng, n: rng.normal(size=n) * np.where(rng.random(n) < 0.2, 1e3, 1),
    "class": lambda rng, n: (rng.random(n) < 0.01) * 1.0,
}


@pytest.mark.parametrize("kind", HEAVY_TAILS)
def test_heavy_tails_raise_no_alarm(kind):
    rng = np.random.default_rng(1)
    for n in (100, 3000, 30_000):
        assert columns.find_outlier(HEAVY_TAILS[kind](rng, n)[:, np.newaxis]) is None


def test_a_cauchy_sample_raises_one_when_it_squeezes_its_bulk():
    """Of few rows it does not; of 30,000, the deviation is 60 times the bulk's."""
    rng = np.random.default_rng(0)
    few = [columns.find_outlier(rng.standard_cauchy((100, 1))) for _ in range(50)]
    assert sum(found is not None for found in few) <= 3
    assert columns.find_outlier(rng.standard_cauchy((300_000, 1))) is not None


def test_a_robust_scale_is_exact_and_keeps_the_bulk():
    x = with_outliers()
    made = model("float64")
    flow = made.distribution
    made.adapt(x, scale="robust")
    low, median, high = np.quantile(x, [0.25, 0.5, 0.75], axis=0)
    scale = (high - low) / 1.3489795
    np.testing.assert_allclose(made.event_standardizer.scale, scale)
    assert (np.abs(scale - 1) < 0.1).all()
    units = tfb.Chain([tfb.Shift(median), tfb.Scale(scale)])
    expected = tfd.TransformedDistribution(flow, units).log_prob(x)
    np.testing.assert_allclose(made.log_prob(x), expected, rtol=1e-9)


@pytest.mark.parametrize("far", [1e4, 1e6, 1e12])
def test_a_robust_scale_of_one_outlier_however_far(far):
    x = normal(500, 2)
    x[3, 1] = far
    made = model()
    made.adapt(x, scale="robust")
    np.testing.assert_allclose(made.event_standardizer.shift, [0, 0], atol=0.2)
    np.testing.assert_allclose(made.event_standardizer.scale, [1, 1], atol=0.2)
    np.testing.assert_array_equal(np.isnan(made.log_prob(x)), False)


def test_a_context_without_quartiles_still_tells_its_outliers():
    rng = np.random.default_rng(0)
    context = np.where(rng.random(400) < 0.8, 0, rng.normal(size=400))[:, None]
    context[0] = 1e12
    made = model(context_size=1)
    with pytest.warns(OutlierWarning, match="row 0"):
        made.adapt(context, normal(400, 2), scale="robust")


def test_a_robust_scale_reaches_what_starts_from_data():
    steps = tfb.Chain([bijectors.Permutation(2, "reversed"), bijectors.ActNorm(2)])
    made = FlowModel(Flow(tfd.MultivariateNormalDiag(tf.zeros(2)), steps))
    made.adapt(with_outliers(), scale="robust")
    norm = steps.bijectors[1]
    assert np.abs(norm.log_scale).max() < 0.5  # Outliers alone would make it 6.


def test_a_robust_scale_of_what_has_no_quartiles():
    made = model(context_size=3)
    classes = np.eye(3, dtype="float32")[[0, 1, 2] + [0] * 3 + [1] * 3 + [2] * 3 + [0] * 48]
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConstantColumnWarning)
        made.adapt(classes, X, scale="robust")
    np.testing.assert_allclose(made.context_standardizer.scale, classes.std(0), rtol=1e-5)
    tied = np.c_[X[:, 0], np.where(np.arange(ROWS) < 50, 0.0, X[:, 1])]
    with pytest.raises(ValueError, match=r"quartiles that differ.*column 1, half"):
        made.adapt(classes, tied, scale="robust")
    with pytest.raises(ValueError, match="`scale` must be 'standard' for a flow whose last"):
        model(last=bijectors.Support(2, "real")).adapt(X, scale="robust")
    with pytest.raises(ValueError, match=r"`scale` must be 'standard' or 'robust'.*'minmax'"):
        made.adapt(classes, X, scale="minmax")


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
    made = model(context_size=3, last=bijectors.ActNorm(2))
    made.adapt(normal(ROWS, 3, seed=1), X)
    before = made.get_weights()
    with pytest.raises(ValueError):
        made.adapt(*arguments)
    for a, b in zip(before, made.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_missing_context_is_one_clear_error(conditional):
    for method in (conditional.adapt, conditional.fit, conditional.evaluate):
        with pytest.raises(ValueError, match="`context` is missing"):
            method(None, X)
        with pytest.raises(ValueError, match="`context` is missing"):
            method(X)
