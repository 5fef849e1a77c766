"""Training velocity fields by flow matching."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import FlowModel, flows
from tfp_flows.model import SolverErrorWarning
from tfp_flows.model.flow_matching import _assign

tfd, tfb = tfp.distributions, tfp.bijectors


@pytest.mark.parametrize("loss", ["flow_matching", "ot_flow_matching"])
def test_flow_matching_learns_a_conditional_density(loss, tmp_path):
    rng = np.random.default_rng(0)
    context = rng.choice([-1.0, 1.0], size=(4096, 1)).astype("float32")
    x = (context + 0.3 * rng.normal(size=(4096, 1))).astype("float32")
    model = FlowModel(flows.ffjord(1, hidden_units=(32, 32), context_size=1, seed=0))
    model.adapt(context, x)
    model.compile(keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.95), loss=loss)
    logs = model.fit(
        context, x, epochs=12, batch_size=256, verbose=0, validation_data=(context, x)
    ).history
    exact = float(tf.reduce_mean(tfd.Normal(context, 0.3).log_prob(x)))
    assert -exact < logs["val_loss"][-1] < -exact + 0.1
    assert model.evaluate(context, x, verbose=0) < -exact + 0.1
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(
        model.predict((context, x), verbose=0), loaded.predict((context, x), verbose=0)
    )
    assert loaded.objective == loss
    loaded.fit(context, x, epochs=1, verbose=0)


def test_densities_that_are_missing_are_told_after_training():
    """By the squares of speeds, training goes on where no solver can follow."""
    x = np.random.default_rng(0).normal(size=(400, 2)).astype("float32")
    model = FlowModel(flows.ffjord(2, hidden_units=(16,), seed=0))
    model.compile(keras.optimizers.Adam(10.0), loss="flow_matching")
    with pytest.warns(SolverErrorWarning, match="training rows are NaN: 'rk4' cannot"):
        model.fit(x, epochs=3, verbose=0)


def test_pairs_never_cross_contexts_and_are_the_nearest():
    rng = np.random.default_rng(0)
    x, context = rng.normal(size=(40, 2)), rng.integers(0, 3, size=(40, 1)).astype(float)
    start = x[rng.permutation(40)]
    pairs = _assign(start, x)
    np.testing.assert_array_equal(start[pairs], x)
    pairs = _assign(start, x, context)
    assert sorted(pairs) == list(range(40))
    np.testing.assert_array_equal(context[pairs], context)
    np.testing.assert_array_equal(_assign(start, x, np.arange(40.0)[:, None]), np.arange(40))
