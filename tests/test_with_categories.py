"""Categories and numbers of one row: exact densities, draws, training and files."""

import itertools

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from helpers import normal, randomize
from tensorflow_probability import distributions as tfd

from tfp_flows import FlowModel, distributions, flows

SMALL = {"layers": 2, "hidden_units": (4,)}


def joint(categories=(3, 2), context_size=None, **options):
    width = sum(categories) + (context_size or 0)
    numbers = flows.real_nvp(2, **SMALL, context_size=width, support="real", seed=0, **options)
    made = distributions.WithCategories(
        numbers, categories, hidden_units=(4,), context_size=context_size, seed=0
    )
    return randomize(made, stddev=0.4)


@pytest.mark.parametrize("context_size", [None, 2])
def test_the_density_sums_and_integrates_to_one(context_size):
    made = joint(context_size=context_size, dtype="float64")
    given = {} if context_size is None else {"context": np.array([0.3, -0.2])}
    axis = np.linspace(-20, 20, 401)
    x = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    total, shares = 0.0, {}
    for codes in itertools.product(range(3), range(2)):
        events = np.concatenate([np.tile(codes, (len(x), 1)), x], 1)
        shares[codes] = np.exp(made.log_prob(events, **given)).sum() * 0.1**2
        total += shares[codes]
    assert total == pytest.approx(1, abs=1e-3)
    assert np.ptp(list(shares.values())) > 0.01  # Else nothing was tested.
    drawn = np.asarray(made.sample(20_000, seed=0, **given))
    for codes, share in shares.items():
        found = (drawn[:, :2] == codes).all(1)
        assert found.mean() == pytest.approx(share, abs=0.015)


def test_numbers_depend_on_categories_as_the_density_says():
    made = joint(dtype="float64")
    drawn = np.asarray(made.sample(40_000, seed=1))
    for codes in ((0, 0), (2, 1)):
        x = drawn[(drawn[:, :2] == codes).all(1)][:, 2:]
        hot = np.concatenate([np.eye(3)[codes[0]], np.eye(2)[codes[1]]])
        expected = made.distribution.sample(40_000, context=hot, seed=2)
        np.testing.assert_allclose(x.mean(0), np.mean(expected, 0), atol=0.1)


def test_what_is_no_category_has_no_density():
    made = joint()
    events = np.array([[0, 1, 0.1, 0.2]] * 6, "float32")
    events[1:4, 0] = [3, -1, 0.5]
    events[4, 1] = np.inf
    events[5, 1] = np.nan
    found = made.log_prob(events).numpy()
    assert np.isfinite(found[0]) and (found[1:5] == -np.inf).all() and np.isnan(found[5])
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(tf.boolean_mask(made.log_prob(events[:5]), [1, 0, 0, 0, 0]))
    gradients = tape.gradient(value, made.trainable_variables)
    assert all(np.isfinite(g).all() for g in gradients if g is not None)


def test_graphs_and_shapes():
    made, context = joint(context_size=1), normal(5, 1)
    events = made.sample(3, context=context, seed=0)
    assert events.shape == (3, 5, 4)
    expected = made.log_prob(events, context=context)
    assert expected.shape == (3, 5)
    for jit in (False, True):
        compiled = tf.function(made.log_prob, jit_compile=jit)
        np.testing.assert_allclose(compiled(events, context=context), expected, rtol=1e-4)
    row = made.log_prob(events[1, 2], context=context[2])
    np.testing.assert_allclose(row, expected[1, 2], rtol=1e-5)
    np.testing.assert_array_equal(made.sample(3, context=context, seed=0), events)


def test_a_model_learns_what_depends_on_what(tmp_path):
    rng = np.random.default_rng(0)
    kind = rng.choice(3, 2000, p=[0.5, 0.3, 0.2])
    flag = (rng.random(2000) < np.array([0.1, 0.5, 0.9])[kind]).astype(int)
    x = 100 + 10 * kind[:, None] + rng.normal(0, 1 + flag[:, None], (2000, 2))
    data = np.column_stack([kind, flag, x]).astype("float32")
    numbers = flows.real_nvp(2, layers=2, context_size=5, support="real", seed=0)
    model = FlowModel(distributions.WithCategories(numbers, [3, 2], seed=0))
    model.adapt(data)
    # Before training, probabilities are those of each column alone.
    start = model.distribution
    shares = np.exp([start.log_prob(data[:1])])
    assert np.isfinite(shares).all()
    model.compile(keras.optimizers.Adam(3e-3))
    model.fit(data, epochs=60, batch_size=200, verbose=0)
    log_prob = np.log([0.5, 0.3, 0.2])[kind] + np.log(
        np.where(flag, np.array([0.1, 0.5, 0.9])[kind], np.array([0.9, 0.5, 0.1])[kind])
    )
    log_prob += tfd.Normal(100.0 + 10 * kind, 1.0 + flag).log_prob(x.T).numpy().sum(0)
    loss = model.evaluate(data, verbose=0)
    assert loss == pytest.approx(-log_prob.mean(), abs=0.1)
    model.save(tmp_path / "joint.keras")
    again = FlowModel.load(tmp_path / "joint.keras")
    np.testing.assert_array_equal(again.log_prob(data), model.log_prob(data))


def test_steps_of_rounded_numbers_are_known():
    numbers = flows.real_nvp(2, **SMALL, context_size=3, support="real")
    made = distributions.WithCategories(distributions.Dequantized(numbers, [1.0, 0.0]), [3])
    assert made.steps == [1.0, 1.0, 0.0]
    assert joint().steps == [1.0, 1.0, 0.0, 0.0]


def test_bad_arguments_raise():
    numbers = flows.real_nvp(2, **SMALL, context_size=5)
    with pytest.raises(ValueError, match="context_size 6"):
        distributions.WithCategories(numbers, [3, 3])
    with pytest.raises(ValueError, match="2 or more"):
        distributions.WithCategories(numbers, [4, 1])
    with pytest.raises(TypeError, match="`distribution`"):
        distributions.WithCategories("flow", [3, 2])
    made = joint()
    with pytest.raises(ValueError, match=r"0, ..., 2 in column 0. Received: 3.0 in row 1"):
        made.adapt(np.array([[0, 0, 1, 1], [3, 0, 1, 2]], "float32"))
    plain = distributions.WithCategories(numbers, [3, 2])
    with pytest.raises(ValueError, match="let its last bijector be a Support"):
        plain.adapt(np.zeros((4, 4)))


def test_given_context_it_is_as_others_are():
    made = joint(context_size=2)
    given = made.given(normal(5, 2))
    np.testing.assert_array_equal(given.sample(4, seed=1), given.sample(4, seed=1))
    drawn = given.sample(seed=1)
    np.testing.assert_allclose(given[1:3].log_prob(drawn[1:3]), given.log_prob(drawn)[1:3])
    with pytest.raises(TypeError, match="numbers"):
        given.log_prob(np.array([None] * 4))


@pytest.mark.parametrize("steps", [0.0, 1.0])
def test_adapt_names_columns_of_the_whole_row(steps):
    made = joint()
    if steps:
        numbers = distributions.Dequantized(made.distribution, steps, align="left")
        made = distributions.WithCategories(numbers, [3, 2])
    data = np.column_stack([np.arange(9) % 3, np.arange(9) % 2, np.arange(9), np.arange(9) ** 2.0])
    for column, value, error in (
        (3, np.inf, "finite.* row 7, column 3"),
        (3, np.nan, "finite.* row 7, column 3"),
        (1, 2.0, "categories 0, ..., 1 in column 1"),
        *([(2, 0.5, "multiples of `steps`, 1 in column 2")] if steps else []),
    ):
        bad = data.copy()
        bad[7, column] = value
        with pytest.raises(ValueError, match=error):
            FlowModel(made).adapt(bad)
        frame = pd.DataFrame(bad, columns=list("abcd"))
        named = error.replace(f"column {column}", f"column '{frame.columns[column]}'")
        with pytest.raises(ValueError, match=named):
            FlowModel(made).adapt(frame)
