"""`FlowModel.adapt`: units of the data, and parts of a flow that start from data."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import randomize
from training import CONTEXT, CONTEXTS, DATA, ROWS, holed, small_flow, weights

from tfp_flows import FlowModel, bijectors, flows
from tfp_flows.model.ties import TiedValuesWarning

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers


def test_adapt_changes_units_by_an_exact_jacobian():
    flow = randomize(small_flow(dtype="float64"))
    model = FlowModel(flow)
    plain = flow.log_prob(DATA.astype("float64"))
    np.testing.assert_allclose(model.log_prob(DATA), plain)  # not adapted, nothing changes
    model.adapt(DATA)
    shift, scale = DATA.astype("float64").mean(0), DATA.astype("float64").std(0)
    in_data_units = tfd.TransformedDistribution(
        flow, tfb.Chain([tfb.Shift(shift), tfb.Scale(scale)])
    )
    expected = in_data_units.log_prob(DATA.astype("float64"))
    np.testing.assert_allclose(model.log_prob(DATA), expected, rtol=1e-9)
    model.compile()
    np.testing.assert_allclose(model.predict(DATA, verbose=0), expected, rtol=1e-9)
    assert model.evaluate(DATA, verbose=0) == pytest.approx(-np.mean(expected), abs=1e-5)
    np.testing.assert_allclose(
        model.sample(5, seed=1), flow.sample(5, seed=1) * scale + shift, rtol=1e-9
    )
    assert len(model.trainable_variables) == len(flow.trainable_variables)


def test_adapt_standardizes_context_too():
    flow = randomize(small_flow(CONTEXT))
    model = FlowModel(flow)
    model.adapt(CONTEXTS, DATA)
    z = (CONTEXTS - CONTEXTS.mean(0)) / CONTEXTS.std(0)
    x = (DATA - DATA.mean(0)) / DATA.std(0)
    expected = flow.log_prob(x, context=z) - np.log(DATA.std(0)).sum()
    np.testing.assert_allclose(model.log_prob(DATA, CONTEXTS), expected, atol=1e-4)
    sample = flow.sample(2, context=z, seed=1) * DATA.std(0) + DATA.mean(0)
    np.testing.assert_allclose(model.sample(2, CONTEXTS, seed=1), sample, atol=1e-4)
    adapted = weights(model)
    for data in (
        ((CONTEXTS, DATA),),
        (tf.data.Dataset.from_tensor_slices((CONTEXTS, DATA)).batch(16),),
    ):
        other = FlowModel(small_flow(CONTEXT))
        other.adapt(*data)
        assert all(
            np.allclose(a, b) for a, b in zip(adapted[-4:], weights(other)[-4:], strict=True)
        )


def test_adapt_takes_datasets_and_frames_and_scalars():
    expected = DATA.mean(0), DATA.std(0)
    pandas = pytest.importorskip("pandas")
    for data in (
        tf.data.Dataset.from_tensor_slices(DATA).batch(16),
        pandas.DataFrame(DATA),
        tf.constant(DATA),
        DATA.tolist(),
    ):
        model = FlowModel(small_flow())
        model.adapt(data)
        for weight, value in zip(weights(model)[-2:], expected, strict=True):
            np.testing.assert_allclose(weight, value, rtol=1e-5)
    scalar = FlowModel(tfd.Normal(tf.Variable(0.0), 1.0))
    scalar.adapt(DATA[:, 0])
    expected = tfd.Normal(DATA[:, 0].mean(), DATA[:, 0].std()).log_prob(DATA[:, 0])
    np.testing.assert_allclose(scalar.log_prob(DATA[:, 0]), expected, atol=1e-4)


def test_what_adapt_cannot_use_is_an_error():
    model, conditional = FlowModel(small_flow()), FlowModel(small_flow(CONTEXT))
    pandas = pytest.importorskip("pandas")
    constant = np.c_[DATA[:, 0], np.full(ROWS, 0.1)]
    with pytest.raises(ValueError, match=r"`x` must vary in every column.*constant column, 1"):
        model.adapt(constant)
    with pytest.raises(ValueError, match="constant column, 'b'"):
        model.adapt(pandas.DataFrame(constant, columns=["a", "b"]))
    with pytest.raises(ValueError, match=r"`y` must vary.*constant column, 1"):
        conditional.adapt(CONTEXTS, constant)
    with pytest.raises(ValueError, match=r"`x` must have shape \(n, 2\).*\(50, 3\)"):
        model.adapt(CONTEXTS)
    with pytest.raises(ValueError, match="`x` must have two rows or more"):
        model.adapt(DATA[:1])
    with pytest.raises(ValueError, match="`context` was given"):
        model.adapt(CONTEXTS, DATA)
    with pytest.raises(ValueError, match=r"`x` must be finite.*row 3, column 1"):
        model.adapt(holed(3, 1))
    assert (model.event_standardizer.shift.numpy() == 0).all()  # nothing happened


def test_a_column_beyond_the_digits_of_its_dtype_is_an_error():
    stamps = 1.7e9 + np.random.default_rng(0).normal(0, 100, (50, 1))
    with pytest.raises(ValueError, match="varies in no digit of float32"):
        FlowModel(flows.real_nvp(1, layers=1, hidden_units=(4,))).adapt(stamps)
    FlowModel(flows.real_nvp(1, layers=1, hidden_units=(4,), dtype="float64")).adapt(stamps)


def test_adapt_lets_actnorm_and_lu_start_from_the_data():
    x = np.random.default_rng(0).normal(size=(300, 3)) @ np.diag([1.0, 5.0, 0.1]) + [3.0, 0.0, 1.0]
    flow = flows.real_nvp(3, layers=2, hidden_units=(8,), actnorm=True, linear="lu", seed=0)
    model = FlowModel(flow)
    model.adapt(x)
    z = flow.bijector.inverse(x.astype("float32")).numpy()
    np.testing.assert_allclose(np.cov(z.T), np.eye(3), atol=1e-2)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-4)
    # The flow's last step standardizes: the model need not.
    np.testing.assert_array_equal(model.event_standardizer.scale, 1.0)


def test_actnorm_starts_from_the_first_batch_of_training_and_never_from_a_sample(tmp_path):
    x = (7 + 3 * np.random.default_rng(0).normal(size=(64, 2))).astype("float32")
    model = FlowModel(flows.real_nvp(2, layers=2, hidden_units=(8,), actnorm=True))
    layers = model.distribution.bijector.bijectors
    norms = [layer for layer in layers if isinstance(layer, bijectors.ActNorm)]
    model.sample(5)
    model.log_prob(x)
    assert not any(norm.is_initialized for norm in norms)
    model.compile(keras.optimizers.SGD(0.0))
    model.fit(x, batch_size=32, shuffle=False, verbose=0)
    assert all(norm.is_initialized for norm in norms)
    np.testing.assert_allclose(norms[0].shift, x[:4096].mean(0), rtol=1e-5)
    # Saved with the weights: a model that is loaded does not start again.
    model.save(tmp_path / "model.keras")
    loaded = FlowModel.load(tmp_path / "model.keras")
    loaded.compile(keras.optimizers.SGD(0.0))
    loaded.fit(x + 100, verbose=0)
    np.testing.assert_array_equal(loaded.log_prob(x), model.log_prob(x))


def test_actnorm_does_not_see_validation_rows():
    x = np.concatenate([np.random.default_rng(0).normal(size=(80, 2)), np.full((20, 2), 100.0)])
    model = FlowModel(flows.real_nvp(2, layers=1, hidden_units=(8,), actnorm=True))
    model.compile(keras.optimizers.SGD(0.0))
    model.fit(x.astype("float32"), validation_split=0.2, verbose=0)
    np.testing.assert_allclose(
        model.distribution.bijector.bijectors[0].shift, x[:80].mean(0), atol=1e-5
    )


def test_support_is_adapted_in_units_of_the_data():
    x = np.random.default_rng(0).lognormal(3.0, 0.5, size=(400, 2)).astype("float32")
    model = FlowModel(flows.real_nvp(2, layers=2, hidden_units=(8,), support="positive"))
    model.adapt(x)
    logs = np.log(x.astype("float64"))
    z = (logs - logs.mean(0)) / logs.std(0)
    expected = -0.5 * (z**2).sum(1) - np.log(2 * np.pi) - np.log(logs.std(0)).sum() - logs.sum(1)
    np.testing.assert_allclose(model.log_prob(x), expected, rtol=1e-4)
    assert np.isneginf(model.log_prob(-x)).all()


def test_adapt_warns_of_tied_values():
    x = np.random.default_rng(0).normal(size=(2000, 2)).astype("float32")
    x[:, 1] = np.round(x[:, 1], 1)
    model = FlowModel(flows.real_nvp(2, layers=2, hidden_units=(8,)))
    with pytest.warns(TiedValuesWarning, match=r"1.*steps of 0\.1.*Dequantized"):
        model.adapt(x)
