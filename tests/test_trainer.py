"""How a model is trained: optimizers, precision, ways to run a step, and steps at a time."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal, randomize
from training import DATA, ROWS, compiled, small_flow, standard, train, weights

from tfp_flows import Flow, FlowModel, bijectors, flows

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers


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


class Steps(keras.callbacks.Callback):
    """How many steps run at a time, and by which function."""

    def on_epoch_end(self, epoch, logs=None):
        self.at_a_time = self.model.steps_per_execution
        self.function = self.model.train_function


class Batches(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = 0

    def on_train_batch_end(self, batch, logs=None):
        self.seen += 1


def test_light_steps_run_many_at_a_time_unless_batches_are_watched():
    model = FlowModel(flows.real_nvp(2, layers=1, hidden_units=(4,), seed=0))
    model.compile(keras.optimizers.SGD(0.0))
    steps, watch = Steps(), Batches()
    hook = keras.callbacks.LambdaCallback(on_test_batch_end=lambda batch, logs: None)

    def at_a_time(*callbacks, **options):
        options = {"batch_size": 10, "verbose": 0, **options}
        model.fit(normal(70, 2), callbacks=[steps, *callbacks], **options)
        return steps.at_a_time

    assert at_a_time() == 32
    function = steps.function
    assert at_a_time(watch) == 1 and watch.seen == 7
    assert at_a_time(hook) == 1
    validation = tf.data.Dataset.from_tensors(normal(5, 2)).repeat()
    assert at_a_time(validation_data=validation, validation_steps=2) == 1
    assert at_a_time(keras.callbacks.EarlyStopping("loss")) == 32
    assert steps.function is function  # Not traced again.
    assert model.optimizer.iterations == 5 * 7
    # Steps that are counted are counted one by one.
    rows = tf.data.Dataset.from_tensors(normal(10, 2)).repeat()
    assert model.predict(rows, steps=3, verbose=0).shape == (30,)
    assert at_a_time(batch_size=10**8) == 1  # Not light.
    model.compile(keras.optimizers.SGD(0.0), steps_per_execution=3)
    assert at_a_time() == 3


def test_after_a_bad_loss_no_step_changes_anything():
    model = FlowModel(flows.real_nvp(2, layers=1, hidden_units=(4,), seed=0))
    model.compile(keras.optimizers.SGD(0.1))
    x = normal(70, 2)
    x[12, 0] = 3e38  # Of the second of seven batches: its square is infinite.
    with pytest.warns(RuntimeWarning, match="The last finite weights are kept"):
        model.fit(x, batch_size=10, shuffle=False, verbose=0)
    assert model.optimizer.iterations == 1
    assert model.steps_per_execution == 1


def test_a_saved_model_goes_on_choosing(tmp_path):
    model = FlowModel(flows.real_nvp(2, layers=1, hidden_units=(4,), seed=0))
    for steps, expected in (("auto", 32), (3, 3)):
        model.compile(keras.optimizers.Adam(), steps_per_execution=steps)
        model.save(tmp_path / "flow.keras")
        loaded = FlowModel.load(tmp_path / "flow.keras")
        steps = Steps()
        loaded.fit(normal(20, 2), batch_size=10, verbose=0, callbacks=[steps])
        assert steps.at_a_time == expected


def test_evaluation_is_of_all_rows_whatever_runs_at_a_time():
    model = FlowModel(flows.real_nvp(2, layers=1, hidden_units=(4,), seed=0))
    model.compile(keras.optimizers.SGD(0.0))
    x = normal(70, 2)
    expected = -np.mean(model.log_prob(x))
    for callbacks in (None, [Batches()], None):
        history = model.fit(
            x, batch_size=10, validation_data=(x,), callbacks=callbacks, verbose=0
        ).history
        assert history["loss"] == pytest.approx([expected], abs=1e-5)
        assert history["val_loss"] == pytest.approx([expected], abs=1e-5)
        assert model.evaluate(x, batch_size=10, verbose=0) == pytest.approx(expected, abs=1e-5)
        assert model.predict(x, batch_size=10, verbose=0).shape == (70,)


class OwnCalls(keras.callbacks.Callback):
    """What a callback finds when it evaluates a part of a dataset by itself."""

    def on_epoch_end(self, epoch, logs=None):
        rows = tf.data.Dataset.from_tensor_slices(self.x).batch(10)
        self.loss = self.model.evaluate(rows, steps=2, verbose=0)
        self.shape = self.model.predict(rows, steps=2, verbose=0).shape
        self.expected = -np.mean(self.model.log_prob(self.x[:20]))
        self.batch = self.model.test_on_batch(self.x[:20])
        self.trained = self.model.train_on_batch(self.x[:20])


def test_steps_that_a_callback_counts_are_counted_one_by_one():
    model = FlowModel(flows.real_nvp(2, layers=1, hidden_units=(4,), seed=0))
    model.compile(keras.optimizers.SGD(1e-3))
    own, steps = OwnCalls(), Steps()
    own.x = normal(70, 2)
    history = model.fit(own.x, epochs=2, batch_size=10, callbacks=[own, steps], verbose=0).history
    assert own.shape == (20,)
    for found in (own.loss, own.batch, own.trained):
        assert found == pytest.approx(own.expected, abs=1e-5)
    assert steps.at_a_time == 32  # Training itself goes on as before.
    assert model.optimizer.iterations == 2 * (7 + 1)
    assert len(history["loss"]) == 2


def test_an_interrupted_training_leaves_evaluations_that_count_their_steps():
    def interrupt(*_):
        raise KeyboardInterrupt

    model = FlowModel(flows.real_nvp(2, layers=1, hidden_units=(4,), seed=0))
    model.compile(keras.optimizers.SGD(1e-3))
    x = normal(70, 2)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=interrupt)])
    rows = tf.data.Dataset.from_tensor_slices(x).batch(10)
    expected = -np.mean(model.log_prob(x[:20]))
    assert model.evaluate(rows, steps=2, verbose=0) == pytest.approx(expected, abs=1e-5)
