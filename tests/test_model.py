"""FlowModel: any distribution trains by Keras' own means, and says what is wrong when it can't."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal, randomize

from tfp_flows import Flow, FlowModel, bijectors, flows, networks
from tfp_flows.model import guard
from tfp_flows.model.ties import TiedValuesWarning

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers

ROWS, CONTEXT = 50, 3


DATA = (normal(ROWS, 2) @ [[1.0, 0.5], [0.0, 0.3]]).astype("float32") * [2, 0.1] + [5, -3]
DATA = DATA.astype("float32")
CONTEXTS = 10 + 4 * normal(ROWS, CONTEXT, seed=1)


def small_flow(context_size=None, **options):
    return flows.real_nvp(
        2, **{"layers": 2, "hidden_units": (8,), "seed": 0, "context_size": context_size, **options}
    )


def compiled(distribution=None, optimizer=None, **options):
    model = FlowModel(small_flow() if distribution is None else distribution)
    model.compile(optimizer or keras.optimizers.Adam(0.01), **options)
    return model


def train(model, *data, **options):
    """A short training that is the same at every call; returns the history."""
    keras.utils.set_random_seed(0)
    options = {"epochs": 2, "batch_size": 16, "verbose": 0, "shuffle": False, **options}
    return model.fit(*(data or (DATA,)), **options).history


def weights(model):
    return [np.array(value) for value in model.get_weights()]


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


# Any distribution.


def standard(dtype="float32"):
    return tfd.MultivariateNormalDiag(tf.zeros([2], dtype))


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
        model.predict(data, verbose=0), distribution.log_prob(tf.identity(data)), atol=1e-5
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


# Keras' callbacks.


@pytest.fixture(scope="module")
def shared():
    """One compiled model for all tests that only look at how training runs."""
    model = compiled()
    model.adapt(DATA)
    model.initial = weights(model)
    model.fit(DATA[:16], batch_size=16, verbose=0)
    return model


@pytest.fixture
def model(shared):
    """The same model, as new."""
    shared.set_weights(shared.initial)
    for variable in shared.optimizer.variables:
        variable.assign(tf.zeros_like(variable))
    shared.optimizer.learning_rate = 0.01
    return shared


def test_early_stopping_restores_the_best_weights(model):
    model.optimizer.learning_rate = 0.5
    stop = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
    history = train(model, epochs=30, validation_data=(DATA[:20],), callbacks=[stop])
    losses = history["val_loss"]
    assert len(losses) < 30
    assert np.argmin(losses) == len(losses) - 3
    assert model.evaluate(DATA[:20], verbose=0) == pytest.approx(min(losses), abs=1e-5)


def test_checkpoints_of_both_kinds(model, tmp_path):
    whole, only = tmp_path / "best.keras", tmp_path / "{epoch}.weights.h5"
    callbacks = [
        keras.callbacks.ModelCheckpoint(whole, monitor="loss", save_best_only=True),
        keras.callbacks.ModelCheckpoint(only, save_weights_only=True),
    ]
    train(model, callbacks=callbacks)
    expected = model.log_prob(DATA)
    loaded = FlowModel.load(whole)
    np.testing.assert_array_equal(loaded.log_prob(DATA), expected)
    model.load_weights(tmp_path / "1.weights.h5")
    assert np.abs(model.log_prob(DATA) - expected).max() > 0
    model.load_weights(tmp_path / "2.weights.h5")
    np.testing.assert_array_equal(model.log_prob(DATA), expected)


def test_learning_rates_follow_their_callbacks(model):
    rates = []
    record = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: rates.append(float(model.optimizer.learning_rate))
    )
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.1 / (epoch + 1))
    train(model, callbacks=[schedule, record])
    np.testing.assert_allclose(rates, [0.1, 0.05])
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.1, patience=1, min_delta=1e6)
    rates.clear()
    train(model, epochs=3, callbacks=[plateau, record])
    np.testing.assert_allclose(rates, [0.05, 0.005, 0.0005], rtol=1e-5)


def test_logs_are_written(model, tmp_path):
    callbacks = [
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.TensorBoard(tmp_path / "board", histogram_freq=1),
        keras.callbacks.TerminateOnNaN(),
    ]
    history = train(model, validation_split=0.2, callbacks=callbacks)
    rows = np.genfromtxt(tmp_path / "log.csv", delimiter=",", names=True)
    np.testing.assert_allclose(rows["loss"], history["loss"], rtol=1e-5)
    np.testing.assert_allclose(rows["val_loss"], history["val_loss"], rtol=1e-5)
    assert {path.parent.name for path in tmp_path.rglob("events*")} == {"train", "validation"}


def test_one_callback_need_not_be_in_a_list(model):
    ended = []
    callback = keras.callbacks.LambdaCallback(on_train_end=ended.append)
    train(model, epochs=1, callbacks=callback)
    assert len(ended) == 1


class Interrupt(keras.callbacks.Callback):
    """What a power cut is to `BackupAndRestore`: an error in the midst of the third epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if self.model.epochs_done == 2:
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):
        self.model.epochs_done = epoch + 1


def test_backup_and_restore_resumes_after_an_interruption(tmp_path):
    def made():
        model = compiled()
        model.epochs_done = 0
        return model

    whole = train(made(), epochs=4)["loss"]
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        train(made(), epochs=4, callbacks=[backup, Interrupt()])
    resumed = made()  # as in a new process
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    losses = train(resumed, epochs=4, callbacks=[backup])["loss"]
    np.testing.assert_allclose(losses, whole[2:], rtol=1e-6)
    assert resumed.optimizer.iterations == 4 * 4


# Data.


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
            if variable is not model.optimizer._learning_rate:
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
        (small_flow, (DATA, DATA), "`context`: this distribution needs none"),
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


# Optimizers, precision, and how the training step runs.


def test_weight_decay_clipping_and_averages():
    def after(optimizer):
        model = compiled(randomize(small_flow()), optimizer)
        model.adapt(DATA)
        train(model)
        return np.concatenate([np.ravel(w) for w in weights(model)[:-2]])

    start = np.concatenate(
        [np.ravel(v) for v in FlowModel(randomize(small_flow())).trainable_variables]
    )
    plain = after(keras.optimizers.SGD(0.01))
    decayed = after(keras.optimizers.AdamW(0.01, weight_decay=5.0))
    assert np.abs(decayed).sum() < 0.8 * np.abs(start).sum()
    clipped = after(keras.optimizers.SGD(0.01, clipnorm=1e-3))
    assert 0 < np.abs(clipped - start).max() < np.abs(plain - start).max() / 10
    averaged = after(keras.optimizers.SGD(0.01, use_ema=True, ema_momentum=0.99))
    assert 0 < np.abs(averaged - start).max() < 0.8 * np.abs(plain - start).max()


def test_ways_to_run_the_step_agree():
    def after(**options):
        model = compiled(randomize(small_flow()), **options)
        model.adapt(DATA)
        history = train(model, DATA[:48])
        assert model.optimizer.iterations == 6
        return [history["loss"][-1], *map(np.array, weights(model))]

    expected = after(jit_compile=False)
    for options in ({"jit_compile": True}, {"steps_per_execution": 3}, {"run_eagerly": True}):
        for a, b in zip(after(**options), expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4, err_msg=str(options))


def test_a_step_is_traced_once():
    traces = []

    @keras.saving.register_keras_serializable("test_model")
    class Traced(keras.layers.Dense):
        def call(self, inputs, training=None):
            if training:
                traces.append(1)
            return super().call(inputs)

    coupling = bijectors.Coupling(2, transformers.Affine(), Traced(8))
    train(compiled(Flow(standard(), coupling)), DATA[:48])
    assert len(traces) == 1


def test_float64_is_kept_all_the_way():
    model = compiled(small_flow(dtype="float64"))
    # Rows which float32 can't tell apart.
    data = 1.0 + 1e-9 * np.random.default_rng(0).normal(size=(ROWS, 2))
    model.adapt(data)
    assert all(v.dtype == "float64" for v in model.variables)
    train(model, data, validation_split=0.2)
    log_prob = model.predict(data, verbose=0)
    assert log_prob.dtype == np.float64
    np.testing.assert_allclose(log_prob, model.log_prob(data), atol=1e-12)
    assert np.ptp(log_prob) > 0.1
    assert model.sample(2).dtype == tf.float64
    assert keras.config.floatx() == "float32"
    assert keras.config.dtype_policy().name == "float32"


@pytest.fixture
def policy(request):
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"], indirect=True)
def test_mixed_precision_runs_conditioners_in_half(policy):
    seen = []

    @keras.saving.register_keras_serializable("test_model")
    class Seen(keras.layers.Dense):
        def call(self, inputs):
            outputs = super().call(inputs)
            seen.append(outputs.dtype)
            return outputs

    couplings = [
        bijectors.Coupling(2, transformers.RationalQuadraticSpline(bins=4), (8, 8), seed=0),
        bijectors.Coupling(2, transformers.Affine(), Seen(8, activation="relu"), flip=True),
    ]
    model = compiled(Flow(standard(), tfb.Chain(couplings)), keras.optimizers.Adam(0.02))
    model.adapt(DATA)
    history = train(model, epochs=5)
    assert history["loss"][-1] < history["loss"][0] - 0.05
    assert set(seen) == {tf.as_dtype(policy.removeprefix("mixed_"))}
    half = couplings[0].conditioner.layer.features(np.zeros([1, 1], "float32"))
    assert half.dtype == policy.removeprefix("mixed_")
    assert model.log_prob(DATA).dtype == tf.float32
    assert model.predict(DATA, verbose=0).dtype == np.float32
    assert all(v.dtype == "float32" for v in model.trainable_variables)
    scales = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scales == (policy == "mixed_float16")
    inner = model.optimizer.inner_optimizer if scales else model.optimizer
    assert inner.iterations == 5 * 4


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
def test_an_infinite_scaled_gradient_lowers_the_scale_and_training_goes_on(policy):
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.01), initial_scale=2.0**40
    )
    model = compiled(optimizer=optimizer)
    model.adapt(DATA)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        history = train(model, epochs=8)
    assert np.isfinite(history["loss"]).all()
    assert optimizer.dynamic_scale < 2.0**40
    assert history["loss"][-1] < history["loss"][0]


# Keras layers as conditioners.


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
    assert [type(layer).__name__ for layer in dropped._flatten_layers()].count("Dropout") == 2


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


# Standardizing.


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
    with pytest.raises(ValueError, match=r"`x` must vary.*constant column, 2"):
        conditional.adapt(np.c_[CONTEXTS[:, :2], np.ones(ROWS)], DATA)
    with pytest.raises(ValueError, match=r"`x` must have shape \(n, 2\).*\(50, 3\)"):
        model.adapt(CONTEXTS)
    with pytest.raises(ValueError, match="`x` must have two rows or more"):
        model.adapt(DATA[:1])
    with pytest.raises(ValueError, match="`adapt` was given context"):
        model.adapt(CONTEXTS, DATA)
    with pytest.raises(ValueError, match=r"`x` must be finite.*row 3, column 1"):
        model.adapt(holed(3, 1))
    assert (model.event_standardizer.shift.numpy() == 0).all()  # nothing happened


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


# What is not finite.


def holed(row, column, value=np.nan):
    data = DATA.copy()
    data[row, column] = value
    return data


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


LIMIT = 0.15


@tf.custom_gradient
def nan_gradient_above_the_limit(x):
    return tf.identity(x), lambda upstream: tf.where(x > LIMIT, np.nan, upstream)


class Fragile(bijectors.Bijector):
    """A trained scale that makes NaN, in the value or in the gradient alone, above a limit."""

    def __init__(self, gradient_only=False, name="fragile"):
        parameters = dict(locals())
        self.gradient_only = gradient_only
        self.log_scale = tf.Variable(0.0, name="log_scale")
        super().__init__(
            forward_min_event_ndims=1, dtype=tf.float32, parameters=parameters, name=name
        )

    def _safe(self):
        log_scale = tf.convert_to_tensor(self.log_scale)
        if self.gradient_only:
            return nan_gradient_above_the_limit(log_scale)
        return tf.where(log_scale > LIMIT, np.nan, log_scale)

    def _forward_and_log_det(self, x):
        return x * tf.exp(self._safe()), 2 * self._safe() + tf.zeros_like(x[..., 0])

    def _inverse_and_log_det(self, y):
        return y * tf.exp(-self._safe()), -2 * self._safe() + tf.zeros_like(y[..., 0])


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("gradient_only", [False, True])
def test_a_loss_that_turns_nan_stops_training_and_keeps_the_best_weights(
    gradient_only, jit_compile
):
    coupling = bijectors.Coupling(2, transformers.Affine(), (8,), name="innocent", seed=0)
    flow = Flow(standard(), tfb.Chain([coupling, Fragile(gradient_only)]))
    model = compiled(flow, keras.optimizers.SGD(0.001), jit_compile=jit_compile)
    best = {}

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if np.isfinite(logs["loss"]):
                best[logs["val_loss"]] = weights(self.model)

    message = (
        "not the gradient of 'log_scale:0' in bijector 'fragile'"
        if gradient_only
        else "The first layer to give a NaN is bijector 2 of 2 from the data, 'fragile'"
    )
    data = 3 * normal(64, 2)
    with pytest.warns(RuntimeWarning, match=message) as caught:
        history = train(model, data, epochs=20, validation_data=(data,), callbacks=[Watch()])
    text = str(caught[0].message)
    assert text.startswith("Training stopped at batch ")
    assert "The best finite weights are kept, those of the end of epoch" in text
    assert 1 < len(history["loss"]) < 20
    assert np.isnan(history["loss"][-1])
    assert same(weights(model), best[min(best)])
    assert model.evaluate(data, verbose=0) == pytest.approx(min(best), abs=1e-6)


def test_the_best_weights_are_those_of_the_best_validation(model):
    stop = guard.StopOnNonFinite(lambda: "Why.", lambda: 0.0)
    stop.set_model(model)
    stop.on_train_begin()
    model.stop_training = False
    logs = [
        {"loss": -9.0},
        {"loss": 3.0, "val_loss": 1.0},
        {"loss": -8.0},
        {"loss": 2.0, "val_loss": 2.0},
    ]
    for epoch, log in enumerate(logs):
        model.set_weights([np.full_like(w, epoch + 1.0) for w in model.initial])
        stop.on_epoch_end(epoch, log)
    with pytest.warns(RuntimeWarning, match=r"at batch 7: .* Why\. The best finite weights"):
        stop.on_train_batch_end(7, {"loss": np.inf})
    assert model.stop_training
    assert all((w == 2.0).all() for w in weights(model))


def test_nan_in_the_first_epoch_leaves_finite_weights():
    flow = Flow(standard(), Fragile())
    flow.bijector.log_scale.assign(0.3)
    model = compiled(flow)
    with pytest.warns(RuntimeWarning, match="The last finite weights are kept"):
        history = train(model)
    assert len(history["loss"]) == 1
    assert flow.bijector.log_scale == 0.3


def test_of_a_step_with_one_bad_gradient_no_weight_is_changed():
    coupling = bijectors.Coupling(2, transformers.Affine(), (8,), seed=0)
    fragile = Fragile(gradient_only=True)
    model = compiled(Flow(standard(), tfb.Chain([coupling, fragile])))
    before = weights(model)
    assert np.isfinite(model.train_step(DATA)["loss"])
    assert not same(weights(model), before)
    fragile.log_scale.assign(0.3)
    before = weights(model)
    assert np.isnan(model.train_step(DATA)["loss"])
    assert same(weights(model), before)


def test_the_base_and_the_log_determinant_can_be_the_culprit():
    outside = Flow(
        tfd.Independent(tfd.Uniform([0.0, 0.0], tf.Variable([1.0, 1.0])), 1), tfb.Scale(1.0)
    )
    with pytest.warns(RuntimeWarning, match="an infinite value is the base distribution, 'Ind"):
        train(compiled(outside))
    squashed = bijectors.BimodalSoftsign(scale=tf.Variable(2.0))
    coupling = bijectors.Coupling(2, transformers.Affine(), (8,))
    with pytest.warns(RuntimeWarning, match="'bimodal_softsign', in its log-determinant"):
        train(compiled(Flow(standard(), tfb.Chain([squashed, coupling]))))
    # Of TFP's own classes: all is well with the data, but not once they are shifted.
    wide = bijectors.BimodalSoftsign(scale=20.0)
    chain = tfb.Chain([tfb.Shift(tf.Variable([100.0, 0.0])), wide])
    plain = tfd.TransformedDistribution(standard(), chain)
    with pytest.warns(RuntimeWarning, match="bijector 2 of 2 from the data, 'bimodal_softsign'"):
        train(compiled(plain))
    # With context.
    steps = [bijectors.Coupling(2, transformers.Affine(), (8,), context_size=CONTEXT), squashed]
    with pytest.warns(RuntimeWarning, match="bijector 2 of 2 from the data, 'bimodal_softsign'"):
        train(compiled(Flow(standard(), tfb.Chain(steps))), CONTEXTS, DATA)


def test_the_search_for_the_culprit_ends_on_endless_data():
    first = [DATA[:4], DATA[:4], np.full([4, 2], np.nan, "float32")]

    def generator():
        while True:
            yield first.pop(0) if first else DATA[:4]  # the NaN comes once, and never again

    dataset = tf.data.Dataset.from_generator(
        generator, output_signature=tf.TensorSpec([4, 2], tf.float32)
    )
    with pytest.warns(RuntimeWarning, match="batch 2: .* could not be found again"):
        shift = tfb.Shift(tf.Variable([0.0, 0.0]))
        train(compiled(Flow(standard(), shift)), dataset, steps_per_epoch=10, batch_size=None)


def test_terminate_on_nan_does_not_get_in_the_way():
    flow = Flow(standard(), Fragile())
    flow.bijector.log_scale.assign(0.3)
    with pytest.warns(RuntimeWarning, match="'fragile'"):
        train(compiled(flow), callbacks=[keras.callbacks.TerminateOnNaN()])


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


def test_a_column_beyond_the_digits_of_its_dtype_is_an_error():
    stamps = 1.7e9 + np.random.default_rng(0).normal(0, 100, (50, 1))
    with pytest.raises(ValueError, match="varies in no digit of float32"):
        FlowModel(flows.real_nvp(1, layers=1, hidden_units=(4,))).adapt(stamps)
    FlowModel(flows.real_nvp(1, layers=1, hidden_units=(4,), dtype="float64")).adapt(stamps)


def test_mixed_precision_is_a_part_of_the_file(tmp_path):
    x = np.random.default_rng(0).normal(size=(8, 2)).astype("float32")
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = FlowModel(flows.real_nvp(2, layers=2, hidden_units=(8,)))
    finally:
        keras.config.set_dtype_policy(before)
    for variable in model.distribution.trainable_variables:
        variable.assign_add(np.random.default_rng(1).normal(0, 0.3, variable.shape))
    model.save(tmp_path / "mixed.keras")
    loaded = keras.saving.load_model(tmp_path / "mixed.keras")
    assert loaded.dtype_policy.name == "mixed_float16"
    np.testing.assert_array_equal(loaded.log_prob(x), model.log_prob(x))


# Parts that start from data.


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
    norms = [b for b in model.distribution.bijector.bijectors if hasattr(b, "is_initialized")]
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
