"""Standardizing: columns that `adapt` takes, those that it warns of, and those that it refuses."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal
from small_flows import affine_model

from tfp_flows import Flow, FlowModel, bijectors, distributions, flows
from tfp_flows.model import ConstantColumnWarning, OutlierWarning, TiedValuesWarning
from tfp_flows.ops import columns

tfd, tfb = tfp.distributions, tfp.bijectors

ROWS = 60
X = normal(ROWS, 2)


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
        affine_model(last=steps[last]()).adapt(np.c_[X[:, 0], np.full(ROWS, 0.1)])


def test_every_part_has_one_notion_of_constant():
    """What varies in no digit of float32 is constant to all of them, and to none in float64."""
    y = 1e6 + 0.1 * normal(ROWS, 2, dtype="float64")
    assert columns.constant_columns(y, "float32").all()
    assert not columns.constant_columns(y, "float64").any()
    norm = bijectors.ActNorm(2)
    norm.adapt(y)
    np.testing.assert_array_equal(norm.log_scale, [0, 0])
    for refuses in (bijectors.Support(2, "real").adapt, affine_model().adapt):
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
        affine_model(last=bijectors.Support(2, "positive")).adapt(x)
    circular = bijectors.Coupling(2, bijectors.transformers.CircularSpline(4), (4,))
    with pytest.raises(ValueError, match="within the range of float32"):
        affine_model(last=circular).adapt(x * 1e82)


@pytest.mark.parametrize("unit", [1e-39, 1e39, 1e-200, 1e200])
def test_float64_holds_them(unit):
    made = affine_model("float64")
    x = X.astype("float64")
    made.adapt(x)
    expected = made.log_prob(x)
    made.adapt(x * unit)  # Squares of these leave float64.
    np.testing.assert_allclose(made.log_prob(x * unit), expected - 2 * np.log(unit), rtol=1e-9)


def test_a_unit_that_float64_cannot_hold_is_an_error():
    with pytest.raises(ValueError, match=r"fit float64.*column 0.*e\+300: rescale the column$"):
        affine_model("float64").adapt(X.astype("float64") * 1e300)


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
    made = affine_model(last=LAST[last]())
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
        affine_model(last=bijectors.Support(2, "positive")).adapt(wide)


def real_maf(seed=0, **options):
    return flows.maf(2, layers=1, support="real", seed=seed, **options)


# With what columns behind the first there are, if it is one of categories.
PARTS = {
    "flow": (real_maf, 0),
    "dequantized": (lambda: distributions.Dequantized(real_maf(), [0.0, 1.0]), 0),
    "stacked": (lambda: distributions.Stacked([real_maf(0), real_maf(1)]), 0),
    "categories": (lambda: distributions.WithCategories(real_maf(context_size=3), [3]), 1),
}


@pytest.mark.parametrize("far", [1e4, 1e20])
@pytest.mark.parametrize("name", PARTS)
def test_outliers_are_reported_however_far_in_whatever_holds_a_flow(name, far):
    make, before = PARTS[name]
    x = np.random.default_rng(0).normal(size=(200, 2))
    x[:, 1] = np.round(x[:, 1] * 3)
    x[:, 0] = np.linspace(-1, 1, 200)
    data = np.c_[np.tile([0.0, 1, 2, 1], 50)[:, None][:, :before], x]
    with warnings.catch_warnings():
        warnings.simplefilter("error", OutlierWarning)
        warnings.simplefilter("ignore", TiedValuesWarning)
        FlowModel(make()).adapt(data)
    data[3, before] = far
    with pytest.warns(OutlierWarning, match=f"in column {before}: .* in row 3"):
        FlowModel(make()).adapt(data)


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
    made = affine_model("float64")
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
    made = affine_model()
    made.adapt(x, scale="robust")
    np.testing.assert_allclose(made.event_standardizer.shift, [0, 0], atol=0.2)
    np.testing.assert_allclose(made.event_standardizer.scale, [1, 1], atol=0.2)
    np.testing.assert_array_equal(np.isnan(made.log_prob(x)), False)


def test_a_context_without_quartiles_still_tells_its_outliers():
    rng = np.random.default_rng(0)
    context = np.where(rng.random(400) < 0.8, 0, rng.normal(size=400))[:, None]
    context[0] = 1e12
    made = affine_model(context_size=1)
    with pytest.warns(OutlierWarning, match="row 0"):
        made.adapt(context, normal(400, 2), scale="robust")


def test_a_robust_scale_reaches_what_starts_from_data():
    steps = tfb.Chain([bijectors.Permutation(2, "reversed"), bijectors.ActNorm(2)])
    made = FlowModel(Flow(tfd.MultivariateNormalDiag(tf.zeros(2)), steps))
    made.adapt(with_outliers(), scale="robust")
    norm = steps.bijectors[1]
    assert np.abs(norm.log_scale).max() < 0.5  # Outliers alone would make it 6.


def test_a_robust_scale_of_what_has_no_quartiles():
    made = affine_model(context_size=3)
    classes = np.eye(3, dtype="float32")[[0, 1, 2] + [0] * 3 + [1] * 3 + [2] * 3 + [0] * 48]
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConstantColumnWarning)
        made.adapt(classes, X, scale="robust")
    np.testing.assert_allclose(made.context_standardizer.scale, classes.std(0), rtol=1e-5)
    tied = np.c_[X[:, 0], np.where(np.arange(ROWS) < 50, 0.0, X[:, 1])]
    with pytest.raises(ValueError, match=r"quartiles that differ.*column 1, half"):
        made.adapt(classes, tied, scale="robust")
    with pytest.raises(ValueError, match="`scale` must be 'standard' for a flow whose last"):
        affine_model(last=bijectors.Support(2, "real")).adapt(X, scale="robust")
    with pytest.raises(ValueError, match=r"`scale` must be 'standard' or 'robust'.*'minmax'"):
        made.adapt(classes, X, scale="minmax")


@pytest.mark.parametrize(
    "distribution",
    [
        lambda: Flow(
            tfd.MultivariateNormalDiag([0.0]), tfb.Chain([tfb.Exp(), bijectors.ActNorm(1)])
        ),
        lambda: tfd.Independent(tfd.Gamma(tf.Variable([2.0]), tf.Variable([1.0])), 1),
    ],
    ids=["exp", "gamma"],
)
def test_data_that_leave_the_support_are_refused(distribution):
    model = FlowModel(distribution())
    x = np.exp(normal(ROWS, 1))
    with pytest.raises(ValueError, match=r"no density: \d+ of 60 rows.*`Support`"):
        model.adapt(x)
    assert np.isfinite(model.log_prob(x)).all()
