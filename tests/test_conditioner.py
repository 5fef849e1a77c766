"""Keras layers as conditioners: frozen, with losses, with dropout, with statistics of batches."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import randomize
from training import DATA, ROWS, compiled, same, small_flow, train, weights

from tfp_flows import Flow, FlowModel, bijectors, networks
from tfp_flows.ops.internals import layers_of

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers


def conditional_on(*layers):
    """A flow of one coupling with these layers, in data units near the data."""
    network = keras.Sequential(list(layers))
    coupling = bijectors.Coupling(2, transformers.Affine(), network)
    return Flow(tfd.MultivariateNormalDiag([5.0, -3.0], [2.0, 1.0]), coupling), network


def test_frozen_layers_stay_frozen():
    flow = randomize(small_flow())
    frozen = flow.bijector.bijectors[0].conditioner.layer
    frozen.trainable = False
    model = compiled(flow)
    assert len(model.trainable_variables) == 4
    before = weights(model)
    kept = [v.numpy() for v in frozen.variables]
    train(model)
    assert same(kept, [v.numpy() for v in frozen.variables])
    assert sum((a != b).any() for a, b in zip(before, weights(model), strict=True)) == 4
    frozen.trainable = True
    model.compile(keras.optimizers.Adam(0.01))
    train(model)
    assert not same(kept, [v.numpy() for v in frozen.variables])


def test_a_frozen_tf_variable_stays_frozen():
    base = tfd.Independent(tfd.Normal(tf.Variable([0.0, 0.0], trainable=False), 1.0), 1)
    model = compiled(small_flow(base=base))
    assert len(model.non_trainable_variables) == 3  # and the standardizer's
    train(model)
    np.testing.assert_array_equal(base.distribution.loc, [0.0, 0.0])


def test_a_distribution_with_nothing_left_to_train_is_an_error():
    flow, _ = conditional_on(keras.layers.Dense(4))
    flow.bijector.conditioner.layer.trainable = False
    with pytest.raises(ValueError, match="`distribution` must have trainable variables"):
        FlowModel(flow)


def test_regularizers_count_in_training_only():
    flow, network = conditional_on(
        keras.layers.Dense(4, kernel_regularizer=keras.regularizers.L2(10))
    )
    model = compiled(flow, keras.optimizers.SGD(0.0))
    penalty = 10 * np.square(network.layers[0].kernel).sum()
    plain = -model.log_prob(DATA).numpy().mean()
    history = train(model, epochs=1, validation_data=(DATA,))
    assert penalty > 0.1
    assert history["loss"][0] == pytest.approx(plain + penalty, rel=1e-5)
    assert history["val_loss"][0] == pytest.approx(plain, rel=1e-5)
    assert model.evaluate(DATA, verbose=0) == pytest.approx(plain, rel=1e-5)
    # The penalty has a gradient too: here, the only one there is.
    model.compile(keras.optimizers.SGD(0.01))
    train(model)
    assert 10 * np.square(network.layers[0].kernel).sum() < 0.9 * penalty


def test_dropout_acts_in_training_only():
    flow, _ = conditional_on(keras.layers.Dense(64), keras.layers.Dropout(0.5, seed=0))
    randomize(flow)
    model = compiled(flow, keras.optimizers.SGD(0.0))
    train(model, epochs=1)
    assert len({float(model(DATA, training=True)[0]) for _ in range(5)}) > 1
    np.testing.assert_array_equal(model.predict(DATA, verbose=0), model.predict(DATA, verbose=0))
    np.testing.assert_allclose(model.predict(DATA, verbose=0), flow.log_prob(DATA), rtol=1e-5)
    losses = [train(model, epochs=1)["loss"][0] for _ in range(3)]
    exact = model.evaluate(DATA, verbose=0)
    assert all(abs(loss - exact) > 1e-3 for loss in losses)
    dropped = networks.MLP((8, 8), dropout=0.5)
    assert [type(layer).__name__ for layer in layers_of(dropped)].count("Dropout") == 2


def test_batch_normalization_learns_its_statistics_in_training_only():
    normalize = keras.layers.BatchNormalization(momentum=0.5)
    flow, _ = conditional_on(normalize, keras.layers.Dense(4, activation="tanh"))
    randomize(flow)
    model = compiled(flow, keras.optimizers.SGD(0.0))
    model.predict(DATA, verbose=0)
    model.evaluate(DATA, verbose=0)
    np.testing.assert_array_equal(normalize.moving_mean, [0.0])
    train(model, epochs=10, batch_size=ROWS)
    np.testing.assert_allclose(normalize.moving_mean, DATA[:, 0].mean(keepdims=True), rtol=0.01)
    assert normalize.moving_mean in model.non_trainable_variables
    before = model.predict(DATA[:10], verbose=0)
    np.testing.assert_allclose(before, model.predict(DATA, verbose=0)[:10], atol=1e-5)
