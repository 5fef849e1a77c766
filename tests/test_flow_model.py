"""FlowModel: any distribution trains by Keras' own means, and says what is wrong when it can't."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal, randomize
from training import CONTEXT, CONTEXTS, DATA, compiled, small_flow, standard, train, weights

from tfp_flows import FlowModel, bijectors, flows

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers


def tfp_mixture():
    scale = tfp.util.TransformedVariable(tf.ones([3, 2]), tfb.Softplus())
    parts = tfd.MultivariateNormalDiag(tf.Variable(normal(3, 2)), scale)
    return tfd.MixtureSameFamily(tfd.Categorical(logits=tf.Variable(tf.zeros(3))), parts), 3


def tfp_masked_autoregressive_flow():
    network = tfb.AutoregressiveNetwork(2, event_shape=[2], hidden_units=[8], activation="tanh")
    bijector = tfb.MaskedAutoregressiveFlow(network)
    return tfd.TransformedDistribution(standard(), bijector), 4


def tfp_real_nvp_in_a_closure():
    network = tfb.real_nvp_default_template([8])
    bijector = tfb.RealNVP(1, shift_and_log_scale_fn=network)
    return tfd.TransformedDistribution(standard(), bijector), 4


def ours_and_tfp_in_one_chain():
    chain = tfb.Chain(
        [
            tfb.Scale(tfp.util.TransformedVariable(tf.ones(2), tfb.Exp())),
            bijectors.Coupling(2, transformers.RationalQuadraticSpline(bins=4), (8,)),
            tfb.Permute([1, 0]),
            tfb.Invert(bijectors.Coupling(2, transformers.Affine(), (8,))),
            tfp_masked_autoregressive_flow()[0].bijector,
            bijectors.Rotation2D(tf.Variable(0.1)),
        ]
    )
    return tfd.TransformedDistribution(standard(), chain), 1 + 4 + 4 + 4 + 1


def trained_base():
    base = tfd.Independent(tfd.Normal(tf.Variable([0.0, 0.0]), 1.0), 1)
    return small_flow(base=base), 1 + 8


def scalar_events():
    bijector = bijectors.BimodalSoftsign(scale=tfp.util.TransformedVariable(20.0, tfb.Exp()))
    return tfd.TransformedDistribution(tfd.Normal(tf.Variable(0.0), 1.0), bijector), 2


def flow_within_a_distribution():
    return tfd.Sample(tfd.Independent(small_flow(), 0), []), 8


DISTRIBUTIONS = [
    tfp_mixture,
    tfp_masked_autoregressive_flow,
    tfp_real_nvp_in_a_closure,
    ours_and_tfp_in_one_chain,
    trained_base,
    scalar_events,
    flow_within_a_distribution,
]


@pytest.mark.filterwarnings("ignore:.*tf.layers.dense:UserWarning", "ignore:.*layer.updates")
@pytest.mark.parametrize("make", DISTRIBUTIONS, ids=lambda make: make.__name__)
def test_any_distribution_with_variables_trains(make):
    distribution, variable_count = make()
    data = DATA if distribution.event_shape.rank else DATA[:, 0]
    model = FlowModel(distribution)
    model.compile(keras.optimizers.Adam(0.02))
    assert len(model.trainable_variables) == variable_count
    assert all(isinstance(v, keras.Variable) for v in model.variables)
    with tf.GradientTape() as tape:
        distribution.log_prob(tf.identity(data))
    used = {v.ref() for v in tape.watched_variables()}
    assert used == {v.value.ref() for v in model.trainable_variables}  # the same storage
    before = weights(model)
    history = train(model, data, epochs=3)
    assert history["loss"][-1] < history["loss"][0]
    changed = [(a != b).any() for a, b in zip(before, weights(model), strict=True)]
    assert sum(changed) == variable_count  # all but the standardizer's
    np.testing.assert_allclose(
        model.predict(data, verbose=0),
        distribution.log_prob(tf.identity(data)),
        rtol=1e-5,  # Compiled or not, float32 rounds otherwise.
        atol=1e-5,
    )
    assert model.sample(3).shape == (3, *distribution.event_shape)


def test_masks_in_constraints_survive_training():
    distribution, _ = tfp_masked_autoregressive_flow()
    model = compiled(distribution, keras.optimizers.Adam(0.1))
    train(model)
    x = tf.constant(normal(4, 2))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        z = distribution.bijector.inverse(x)
    jacobian = tape.batch_jacobian(z, x, experimental_use_pfor=False).numpy()
    assert np.abs(jacobian[:, 1, 0]).max() > 1e-3
    assert (jacobian[:, 0, 1] == 0).all()


@pytest.mark.parametrize(
    ("distribution", "error", "message"),
    [
        (
            tfd.Normal(0.0, 1.0),
            ValueError,
            r"`distribution` must have trainable variables.*Received: distribution=.*Normal",
        ),
        (tfb.Identity(), TypeError, r"`distribution` must be a Flow or another tfd"),
        (tfd.Normal(tf.Variable([0.0, 1.0]), 1.0), ValueError, r"batch_shape \(\).*\(2,\)"),
        (tfd.Categorical(logits=tf.Variable([0.0, 1.0])), ValueError, "floating dtype.*int32"),
    ],
)
def test_a_distribution_that_cannot_be_trained_is_an_error(distribution, error, message):
    with pytest.raises(error, match=message):
        FlowModel(distribution)


def test_stages_of_a_model():
    model = FlowModel(randomize(small_flow(CONTEXT)))
    model.adapt(CONTEXTS, DATA)
    stages = model.stages(CONTEXTS[0])
    x = normal(4, 2)
    z = (CONTEXTS[0] - CONTEXTS.mean(0)) / CONTEXTS.std(0)
    expected = model.distribution.log_prob(x, context=z)
    np.testing.assert_allclose(stages[2].log_prob(x), expected, atol=1e-4)
    plain = tfd.TransformedDistribution(standard(), tfb.Chain([tfb.Shift(tf.Variable([1.0, 2.0]))]))
    assert len(FlowModel(plain).stages()) >= 2
    with pytest.raises(TypeError, match="`stages` needs a"):
        FlowModel(tfd.Normal(tf.Variable(0.0), 1.0)).stages()


def test_an_embedding_trains_and_is_saved(tmp_path):
    rng = np.random.default_rng(0)
    context = rng.normal(size=(400, 5, 1)).astype("float32")
    x = (3 * context.mean(1) + 0.1 * rng.normal(size=(400, 1))).astype("float32")
    flow = flows.real_nvp(
        1, layers=2, hidden_units=(16,), embedding=keras.layers.GRU(8), context_shape=(5, 1)
    )
    model = FlowModel(flow)
    model.adapt(context, x)
    model.compile(keras.optimizers.Adam(2e-2))
    before = model.evaluate(context, x, verbose=0)
    model.fit(context, x, epochs=15, batch_size=100, verbose=0)
    assert model.evaluate(context, x, verbose=0) < before - 0.5
    model.save(tmp_path / "model.keras")
    loaded = FlowModel.load(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.log_prob(x, context), model.log_prob(x, context))


@pytest.mark.parametrize("name", flows.names())
def test_every_family_trains_given_context_and_is_saved(name, tmp_path):
    keras.utils.set_random_seed(0)  # Of 6 steps, some orders of the rows end higher than others.
    rng = np.random.default_rng(0)
    context, x = rng.normal(size=(64, 2)), rng.normal(size=(64, 2))
    flow = flows.get(name, 2, layers=2, hidden_units=(8,), context_size=2, seed=0)
    model = FlowModel(flow)
    model.adapt(context, x)
    model.compile(keras.optimizers.Adam(1e-2))
    before = model.predict((context, x), verbose=0)
    model.fit(context, x, epochs=3, batch_size=32, verbose=0)
    after = model.predict((context, x), verbose=0)
    assert np.isfinite(after).all() and after.mean() > before.mean()
    model.save(tmp_path / "model.keras")
    loaded = FlowModel.load(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict((context, x), verbose=0), after)
    assert loaded.sample(3, context=context[:4]).shape == (3, 4, 2)


def test_compile_refuses_what_keras_would_not_understand():
    model = FlowModel(small_flow())
    with pytest.raises(ValueError, match="`steps_per_execution` must be a positive integer"):
        model.compile("adam", steps_per_execution=0)
    with pytest.raises(ValueError, match="`jit_compile` must be True, False or 'auto'"):
        model.compile("adam", jit_compile="yes")
