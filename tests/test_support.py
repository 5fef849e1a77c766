"""Support: exact maps onto the supports of data, and what happens outside of them."""

import json
import math
import re

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import Flow, FlowModel, bijectors, serialization, testing
from tfp_flows.bijectors.support import Support

tfd, tfb = tfp.distributions, tfp.bijectors

ELEMENTWISE = {
    "real": ("real", (0.0, 1e4, -1e4)),
    "positive": ("positive", (1e-30, 1.0, 1e4)),
    "interval": ((-2.0, 3.0), (-1.99, 0.0, 2.99)),
    "unit interval": ((0.0, 1.0), (1e-30, 0.5, 1 - 1e-6)),
    "angle": ("angle", (-np.pi, 0.0, np.pi)),
    "mixed": (["real", "positive", (-2.0, 3.0)], (0.5, 1e-6, 2.99)),
}


def moved(size, support, dtype="float32"):
    """A `Support` with shift and scale of its own."""
    bijector = Support(size, support, dtype)
    rng = np.random.default_rng(1)
    bijector.shift.assign(rng.normal(0, 0.3, size))
    bijector.scale.assign(rng.uniform(0.6, 1.4, size))
    return bijector


def inputs(size, dtype="float32"):
    return np.random.default_rng(2).normal(size=(8, size)).astype(dtype)


def standard_normal(size, dtype="float32"):
    return tfd.MultivariateNormalDiag(tf.zeros([size], dtype), tf.ones([size], dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_supports_of_columns_obey_all_laws(name, dtype):
    support, extremes = ELEMENTWISE[name]
    testing.check_bijector(
        moved(3, support, dtype),
        inputs(3, dtype),
        inverse_extremes=np.array(extremes, dtype),
        jacobian_zeros=~np.eye(3, dtype=bool),
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 4])
def test_simplex_obeys_the_laws(size, dtype):
    # Laws that take events to have one size are tested below; no constant event sums to 1.
    testing.check_bijector(
        moved(size, "simplex", dtype),
        inputs(size, dtype),
        inverse_extremes=(),
        skip=("log-det", "batch shapes"),
    )


@pytest.mark.parametrize("size", [1, 2, 5])
def test_simplex_log_det_is_that_of_the_first_proportions(size):
    bijector, x = moved(size, "simplex", "float64"), tf.constant(inputs(size, "float64"))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = bijector.forward(x)
    jacobian = tape.batch_jacobian(y, x)[:, :-1]
    log_det = bijector.forward_log_det_jacobian(tf.identity(x), 1)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], rtol=1e-9)
    np.testing.assert_allclose(tf.reduce_sum(y, -1), 1, rtol=1e-12)
    assert (y.numpy() > 0).all()


def test_simplex_changes_the_event_size():
    bijector, x = Support(3, "simplex"), inputs(3)
    flow = Flow(standard_normal(3), tfb.Chain([bijector]))
    assert flow.event_shape == (4,)
    assert flow.event_shape_tensor().numpy().tolist() == [4]
    assert bijector.inverse_event_shape([4]) == (3,)
    assert bijector.inverse_event_shape_tensor([4]).numpy().tolist() == [3]
    assert flow.sample([5, 2], seed=0).shape == (5, 2, 4)
    y = bijector.forward(x)
    for batch in ((), (1,), (4, 2)):
        rows = int(np.prod(batch))
        part = tf.reshape(y[:rows], [*batch, 4])
        expected = np.reshape(flow.log_prob(y[:rows]), batch)
        np.testing.assert_allclose(flow.log_prob(part), expected, rtol=1e-5)


def test_simplex_by_hand():
    bijector = Support(2, "simplex", "float64")
    np.testing.assert_allclose(bijector.forward([0.0, 0.0]), [1 / 3] * 3)
    # v = (1/2, 1/4): the first gets 1/2 of the stick, the second 1/4 of the rest.
    x = [math.log(2), math.log(1 / 3)]
    np.testing.assert_allclose(bijector.forward(x), [1 / 2, 1 / 8, 3 / 8])
    log_det = bijector.forward_log_det_jacobian(tf.constant(x, "float64"), 1)
    np.testing.assert_allclose(log_det, math.log(1 / 2 * 1 / 2) + math.log(1 / 8 * 3 / 4))


def test_dirichlet_through_the_simplex_and_back():
    # With the same measure on the simplex, the densities differ by the log-det alone.
    dirichlet = tfd.Dirichlet(tf.constant([2.0, 3.0, 4.0], "float64"))
    y = dirichlet.sample(50, seed=(0, 1))
    bijector = moved(2, "simplex", "float64")
    back = tfd.TransformedDistribution(dirichlet, tfb.Invert(bijector))
    through = tfd.TransformedDistribution(back, bijector)
    np.testing.assert_allclose(through.log_prob(tf.identity(y)), dirichlet.log_prob(y), rtol=1e-10)


def test_columns_by_hand():
    bijector = Support(3, ["real", "positive", (0.0, 4.0)], "float64")
    x = tf.constant([2.0, 0.5, math.log(3)], "float64")
    y = bijector.forward(x)
    np.testing.assert_allclose(y, [2.0, math.exp(0.5), 3.0])
    # The slope of 4 σ(u) is 4 · 3/4 · 1/4.
    log_det = bijector.forward_log_det_jacobian(tf.identity(x), 1)
    np.testing.assert_allclose(log_det, 0.5 + math.log(3 / 4))
    bijector.shift.assign([1.0, 0.0, 0.0])
    bijector.scale.assign([2.0, 1.0, 1.0])
    np.testing.assert_allclose(bijector.forward(tf.identity(x))[0], 5.0)
    changed = bijector.forward_log_det_jacobian(tf.identity(x), 1)
    np.testing.assert_allclose(changed, log_det + math.log(2))


def test_positive_columns_of_a_normal_are_lognormal():
    flow = Flow(standard_normal(1, "float64"), Support(1, "positive", "float64"))
    y = np.array([[0.01], [1.0], [30.0]])
    np.testing.assert_allclose(flow.log_prob(y), scipy.stats.lognorm.logpdf(y[:, 0], 1))


@pytest.mark.parametrize("name", ["interval", "unit interval", "angle"])
def test_density_integrates_to_one(name):
    support = ELEMENTWISE[name][0]
    low, high = (-np.pi, np.pi) if support == "angle" else support
    flow = Flow(standard_normal(1, "float64"), moved(1, support, "float64"))
    edges = np.linspace(low, high, 100_001)
    centres = (edges[1:] + edges[:-1]) / 2
    mass = flow.prob(centres[:, None]).numpy().sum() * (edges[1] - edges[0])
    assert abs(mass - 1) < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("support", "outside"),
    [
        ("positive", [[-1.0, 1.0], [1.0, 0.0], [-1e4, 1e4]]),
        ((-2.0, 3.0), [[3.0, 0.0], [0.0, -2.0], [1e4, -1e4]]),
        ("angle", [[3.2, 0.0], [0.0, -3.2]]),
        ("simplex", [[0.5, 0.5, 0.5], [1.5, -0.25, -0.25], [0.0, 0.5, 0.5], [0.2, 0.2, 0.5]]),
    ],
)
def test_no_density_and_finite_gradients_outside(support, outside, dtype):
    scale = tf.Variable(tf.constant([0.8, 1.2], dtype))
    base = tfd.MultivariateNormalDiag(tf.zeros([2], dtype), scale)
    coupling = bijectors.Coupling(2, bijectors.transformers.Affine(), (4,), dtype=dtype, seed=0)
    last = moved(2, support, dtype)
    flow = Flow(base, tfb.Chain([last, coupling]))
    inside = last.forward(tf.zeros([1, 2], dtype))
    y = tf.concat([tf.constant(outside, dtype), inside], 0)
    with tf.GradientTape() as tape:
        tape.watch(y)
        log_prob = flow.log_prob(y)
    assert (log_prob.numpy()[:-1] == -np.inf).all()
    assert np.isfinite(log_prob.numpy()[-1])
    sources = [y, *flow.trainable_variables]
    for gradient in tape.gradient(log_prob, sources, unconnected_gradients="zero"):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("support", ["positive", (-2.0, 3.0), (-4.0, 0.0), "angle", "simplex"])
def test_the_farthest_draws_are_inside(support):
    bijector = Support(2, support)
    flow = Flow(standard_normal(2), bijector)
    far = tf.constant([[40.0, -40.0], [1e4, -1e4], [-1e4, 1e4], [0.0, 1e30]])
    assert np.isfinite(flow.log_prob(tf.identity(bijector.forward(far)))).all()


def test_angles_of_pi_are_inside():
    flow = Flow(standard_normal(2), Support(2, "angle"))
    assert np.isfinite(flow.log_prob(np.array([np.pi, -np.pi], "float32")))
    assert (np.abs(flow.bijector.forward([100.0, -100.0])) <= np.float32(np.pi)).all()


# Standardization.


def test_adapt_standardizes_the_unconstrained_columns():
    rng = np.random.default_rng(0)
    y = np.stack([rng.normal(7, 3, 200), rng.lognormal(2, 0.5, 200), rng.uniform(1, 2, 200)], 1)
    bijector = Support(3, ["real", "positive", (1.0, 2.0)], "float64")
    bijector.adapt(y)
    logits = np.log(y[:, 2] - 1) - np.log(2 - y[:, 2])
    unconstrained = np.stack([y[:, 0], np.log(y[:, 1]), logits], 1)
    np.testing.assert_allclose(bijector.shift, unconstrained.mean(0))
    np.testing.assert_allclose(bijector.scale, unconstrained.std(0))
    x = bijector.inverse(y).numpy()
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(x.std(0), 1)


def test_units_do_not_matter_to_positive_columns():
    y = np.random.default_rng(0).lognormal(size=(100, 1))
    found = []
    for unit in (1e-12, 1.0, 1e12):
        bijector = Support(1, "positive")
        bijector.adapt(unit * y)
        found.append(bijector.inverse((unit * y).astype("float32")))
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
    np.testing.assert_allclose(found[2], found[1], atol=1e-4)


def test_adapt_on_the_simplex():
    y = np.random.default_rng(0).dirichlet([2.0, 3.0, 4.0], 100)
    bijector = Support(2, "simplex")
    bijector.adapt(y)
    np.testing.assert_allclose(np.mean(bijector.inverse(y.astype("float32")), 0), 0, atol=1e-5)
    with pytest.raises(ValueError, match=r"'simplex'.* Received: 0.9 in row 1, in a row that sums"):
        bijector.adapt([[0.2, 0.3, 0.5], [0.9, 0.3, 0.5]])


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([[1.0, 1.0], [2.0, -0.5]], "'positive' for column 1. Received: -0.5 in row 1"),
        ([[1.0, 1.0], [3.0, 0.5]], "(0.0, 3.0) for column 0. Received: 3.0 in row 1"),
        ([[1.0, 1.0], [np.nan, 0.5]], "column 0. Received: nan in row 1"),
        ([[1.0, 1.0], [1.0, 2.0]], "must vary in every column. Received: a constant column, 0"),
        ([[1.0, 1.0]], "must have shape (n, 2), with two rows or more. Received: shape=(1, 2)"),
        ([[1.0], [2.0]], "must have shape (n, 2), with two rows or more. Received: shape=(2, 1)"),
    ],
)
def test_adapt_says_what_is_wrong(y, message):
    bijector = Support(2, [(0.0, 3.0), "positive"])
    with pytest.raises(ValueError, match=re.escape(message)):
        bijector.adapt(y)
    assert bijector.scale.numpy().tolist() == [1, 1]


def test_adapt_names_columns_of_tables():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"age": [1.0, 2.0], "income": [1.0, -1.0]})
    with pytest.raises(ValueError, match="column 'income'"):
        Support(2, "positive").adapt(table)


# Construction and saving.


@pytest.mark.parametrize(
    "support",
    [
        *("reel", ["real"], ["real", "simplex"], ["real", (1.0,)], ["real", None], 3.0, None),
        *((1.0, 1.0), (2.0, 1.0), (0.0, np.inf), (0.0, 1.0, 2.0), (0.0, 1e-50), (True, 5)),
    ],
)
def test_a_wrong_support_is_refused(support):
    with pytest.raises(ValueError, match=r"`support` must be .* a list of 2.* Received: support="):
        Support(2, support)


def test_wrong_sizes_and_dtypes_are_refused():
    with pytest.raises(ValueError, match="`event_size` must be a positive integer"):
        Support(0, "real")
    with pytest.raises(ValueError, match="`dtype` must be float32 or float64"):
        Support(2, "real", "float16")
    with pytest.raises(ValueError, match="events of size 4"):
        Support(3, "simplex").inverse(np.zeros([2, 3], "float32"))


def test_two_numbers_are_one_interval_and_numpy_values_save():
    bijector = Support(2, np.array([0.0, 2.0]))
    assert bijector.support == (0.0, 2.0)
    config = json.loads(json.dumps(serialization.serialize(Support(2, ["real", np.arange(2)]))))
    assert serialization.deserialize(config).support == ["real", (0.0, 1.0)]


def test_a_model_is_saved_with_its_adapted_support(tmp_path):
    y = np.random.default_rng(0).lognormal(3, 0.5, (64, 2)).astype("float32")
    last = Support(2, "positive")
    last.adapt(y)
    coupling = bijectors.Coupling(2, bijectors.transformers.Affine(), (4,), seed=0)
    model = FlowModel(Flow(standard_normal(2), tfb.Chain([last, coupling])))
    model.compile("adam")
    model.fit(y, epochs=1, verbose=0)
    assert last.shift.numpy().min() > 2  # Kept, not trained.
    assert not any(v is last.shift for v in model.distribution.trainable_variables)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.log_prob(y), model.log_prob(y))
