"""What users of Keras do by habit works, or gives one error that says what to do instead."""

import copy
import io
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import normal
from tensorflow_probability import distributions as tfd

from tfp_flows import Flow, FlowModel, bases, bijectors, flows

DATA = normal(24, 2)
CONTEXTS = normal(24, 1, seed=1)


def made(context_size=None, **options):
    flow = flows.real_nvp(2, layers=2, hidden_units=(4,), context_size=context_size, seed=0)
    model = FlowModel(flow)
    model.compile("sgd", **options)
    return model


@pytest.fixture(scope="module")
def model():
    return made()


@pytest.fixture(scope="module")
def conditional():
    return made(1)


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "mse"},
        {"loss_weights": [1.0]},
        {"metrics": ["mae"]},
        {"weighted_metrics": ["mae"]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_compares_with_targets_is_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"`{name}` must be None.*Received: {name}="):
        made(**options)


def test_numbers_out_of_range_are_an_error(model):
    for size in (-5, 0, 2.5, True):
        for method in (model.fit, model.evaluate, model.predict):
            with pytest.raises(ValueError, match="`batch_size` must be a positive integer"):
                method(DATA, batch_size=size, verbose=0)
    for share in (1.5, 1.0, -0.5):
        with pytest.raises(ValueError, match="`validation_split` must be a share"):
            model.fit(DATA, validation_split=share, verbose=0)
    for epochs in (-1, 1.5):
        with pytest.raises(ValueError, match="`epochs` must be a whole number, 0 or more"):
            model.fit(DATA, epochs=epochs, verbose=0)
    for method in (model.fit, model.train_on_batch):
        with pytest.raises(ValueError, match="`class_weight` must be None"):
            method(DATA, class_weight={0: 1.0})
    assert model.fit(DATA, epochs=0, verbose=0).history == {}
    assert model.fit(DATA, epochs=3, initial_epoch=2, verbose=0).epoch == [2]


def test_a_context_of_none_is_none(model):
    expected = model.evaluate(DATA, verbose=0)
    assert model.evaluate(None, DATA, verbose=0) == expected
    assert model.test_on_batch(None, DATA) == pytest.approx(expected)
    model.fit(None, DATA, verbose=0)
    for method in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
        with pytest.raises(ValueError, match=r"`x` must hold numbers.*None"):
            method(None)
    for method in (model.predict, model.predict_on_batch, model.adapt):
        with pytest.raises(ValueError, match=r"`x` must hold numbers.*None"):
            method(None)


def test_no_rows(model, conditional):
    assert model.predict(DATA[:0], verbose=0).shape == (0,)
    assert conditional.predict((CONTEXTS[:0], DATA[:0]), verbose=0).shape == (0,)
    nothing = tf.data.Dataset.from_tensor_slices(DATA[:0]).batch(4)
    assert model.predict(nothing, verbose=0).shape == (0,)
    normalized = FlowModel(Flow(bases.normal(2), bijectors.ActNorm(2)))
    methods = (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch)
    for method in (*methods, model.adapt, normalized.adapt):
        with pytest.raises(ValueError, match="`x` must have one row or more"):
            method(DATA[:0])


def test_weights_of_rows_are_one_number_a_row():
    model = made()
    methods = (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch)
    for method in methods:
        with pytest.raises(ValueError, match=r"`sample_weight` must have shape \(n,\)"):
            method(DATA, sample_weight=np.ones((len(DATA), 2)))
        with pytest.raises(ValueError, match=r"`sample_weight` must have shape \(n,\)"):
            method(DATA, sample_weight=2.0)
    wide = tf.data.Dataset.from_tensors((DATA, None, np.ones((len(DATA), 2))))
    with pytest.raises(ValueError, match=r"`sample_weight` must have shape \(n,\)"):
        model.fit(wide, verbose=0)
        with pytest.raises(ValueError, match="must have equally many rows"):
            method(DATA, sample_weight=np.ones(3))
    column = model.evaluate(DATA, sample_weight=np.full((len(DATA), 1), 2.0), verbose=0)
    assert column == pytest.approx(2 * model.evaluate(DATA, verbose=0))
    with pytest.raises(ValueError, match="`validation_freq` must be"):
        model.fit(DATA, validation_freq=0)


def test_one_batch_at_a_time(conditional):
    model = made()
    loss = model.evaluate(DATA, verbose=0)
    assert model.test_on_batch(DATA) == pytest.approx(loss)
    assert model.train_on_batch(DATA) == pytest.approx(loss)
    assert model.test_on_batch(DATA, return_dict=True)["loss"] < loss
    weights = np.zeros(len(DATA))
    assert model.train_on_batch(DATA.astype("float64"), sample_weight=weights) == 0.0
    found = model.predict_on_batch(DATA)
    np.testing.assert_allclose(found, model.predict(DATA, verbose=0), atol=1e-6)
    for method in (model.train_on_batch, model.test_on_batch, model.predict_on_batch):
        with pytest.raises(ValueError, match=r"events must have shape \(n, 2\)"):
            method(DATA[:, :1])
    first = conditional.test_on_batch(CONTEXTS, DATA)
    assert conditional.train_on_batch(CONTEXTS, DATA) == pytest.approx(first)
    assert conditional.test_on_batch(CONTEXTS, DATA) < first
    assert conditional.predict_on_batch((CONTEXTS, DATA)).shape == (len(DATA),)


class Batches(keras.utils.PyDataset):
    """Three batches of arrays."""

    def __init__(self, *arrays):
        super().__init__()
        self.arrays = arrays

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return tuple(array[8 * i : 8 * i + 8] for array in self.arrays)


def test_data_that_keras_reads_batch_by_batch(conditional):
    weights = np.linspace(0, 2, 24).astype("float32")
    conditional.fit(Batches(CONTEXTS, DATA, weights), verbose=0)
    expected = conditional.test_on_batch(CONTEXTS, DATA, weights)
    assert conditional.evaluate(Batches(CONTEXTS, DATA, weights), verbose=0) == (
        pytest.approx(expected, rel=1e-5)
    )


def test_the_first_batch_of_all_initializes_actnorm():
    flow = flows.real_nvp(2, layers=1, hidden_units=(4,), actnorm=True)
    model = FlowModel(flow)
    model.compile("sgd")
    model.train_on_batch(5 + DATA)
    norms = [part for part in flow.submodules if hasattr(part, "is_initialized")]
    assert norms and all(norm.is_initialized for norm in norms)


def test_what_is_frozen_is_not_trained():
    model = made()
    free = FlowModel(tfd.MultivariateNormalDiag(tf.Variable([0.0, 1.0])))
    free.compile("sgd")
    for frozen in (model, free):
        before = frozen.get_weights()
        frozen.trainable = False
        for train in (frozen.fit, frozen.train_on_batch, frozen.train_step):
            with pytest.raises(ValueError, match="nothing to train"):
                train(DATA)
        assert np.isfinite(frozen.evaluate(DATA, verbose=0))
        assert all(map(np.array_equal, before, frozen.get_weights()))
    free.trainable = True
    free.fit(DATA, verbose=0)
    assert not np.array_equal(before[0], free.get_weights()[0])
    layers = made()
    for layer in layers.layers:
        layer.trainable = False
    with pytest.raises(ValueError, match="nothing to train"):
        layers.fit(DATA)


def test_what_was_frozen_trains_the_same_weights_again():
    model = made(1)
    before = [weight.path for weight in model.trainable_weights]
    model.trainable = False
    model.trainable = True
    assert [weight.path for weight in model.trainable_weights] == before


def test_output_shapes(model, conditional):
    assert model.compute_output_shape((None, 2)) == (None,)
    assert model.compute_output_shape([5, 2]) == (5,)
    assert conditional.compute_output_shape(((7, 1), (7, 2))) == (7,)
    scalar = FlowModel(tfd.Normal(tf.Variable(0.0), 1.0))
    assert scalar.compute_output_shape((3,)) == (3,)


def test_a_seed_below_zero(model):
    assert np.array_equal(model.sample(3, seed=-1), model.sample(3, seed=-1))
    assert not np.array_equal(model.sample(3, seed=-1), model.sample(3, seed=1))


def test_layers_have_telling_names_and_shapes(model):
    names = [layer.name for layer in model.layers]
    assert names == ["coupling_1_conditioner", "coupling_2_conditioner", "event_standardizer"]
    assert model.get_layer("coupling_2_conditioner") is model.conditioners[1]
    out = io.StringIO()
    model.summary(print_fn=lambda line, **_: out.write(line))
    assert "?" not in out.getvalue() and "coupling_1_conditioner" in out.getvalue()
    for flow in (
        flows.maf(3, layers=2, hidden_units=(4,), context_size=1),
        flows.planar(2, layers=2, context_size=1),
        flows.ffjord(2, hidden_units=(4,), context_size=1),
        flows.ot_flow(2, hidden_units=(4, 4)),
    ):
        made_of = FlowModel(flow)
        names = [layer.name for layer in made_of.layers]
        assert len(set(names)) == len(names)
        out = io.StringIO()
        made_of.summary(print_fn=lambda line, out=out, **_: out.write(line))
        assert "?" not in out.getvalue()


def test_copies(model):
    expected = model.predict(DATA, verbose=0)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert np.array_equal(twin.predict(DATA, verbose=0), expected)
        twin.set_weights([weight + 1 for weight in twin.get_weights()])
        assert np.array_equal(model.predict(DATA, verbose=0), expected)
    clone = keras.models.clone_model(model)
    assert [w.shape for w in clone.get_weights()] == [w.shape for w in model.get_weights()]
    assert clone.count_params() == model.count_params() > 0


def test_export_takes_the_one_format(model, tmp_path):
    model.export(tmp_path / "a", format="tf_saved_model")
    assert (tmp_path / "a" / "saved_model.pb").exists()
    with pytest.raises(ValueError, match="`format` must be 'tf_saved_model'"):
        model.export(tmp_path / "b", format="onnx")


def test_quantization_is_refused():
    with pytest.raises(ValueError, match="cannot be quantized"):
        made().quantize("int8")
    model = made()
    model.conditioners[0].head.quantize("int8")
    with pytest.raises(ValueError, match="must not be quantized"):
        model.log_prob(DATA)


def test_lora_reaches_the_last_layer_of_conditioners(tmp_path):
    model = made()
    before = model.predict(DATA, verbose=0)
    head = model.conditioners[0].head
    head.enable_lora(2)
    np.testing.assert_allclose(model.predict(DATA, verbose=0), before, atol=1e-6)
    model.compile(keras.optimizers.Adam(0.1))
    model.fit(DATA, epochs=3, batch_size=8, verbose=0)
    assert np.abs(head.lora_kernel_b).max() > 0.01
    found = model.predict(DATA, verbose=0)
    np.testing.assert_allclose(tf.function(model.log_prob)(DATA), found, atol=1e-5)
    model.save(tmp_path / "flow.keras")
    loaded = FlowModel.load(tmp_path / "flow.keras")
    np.testing.assert_allclose(loaded.predict(DATA, verbose=0), found, atol=1e-5)


@pytest.mark.parametrize(
    "copied",
    [
        lambda model, path: (model.save(path), FlowModel.load(path))[1],
        lambda model, path: copy.deepcopy(model),
        lambda model, path: pickle.loads(pickle.dumps(model)),
    ],
    ids=["file", "deepcopy", "pickle"],
)
def test_lora_outlives_copies(copied, tmp_path):
    model = made()
    model.conditioners[1].head.trainable = False
    for conditioner in model.conditioners:
        conditioner.head.enable_lora(2, lora_alpha=3)
    model.conditioners[1].head.trainable = False
    model.compile(keras.optimizers.Adam(0.1))
    model.fit(DATA, epochs=2, batch_size=8, verbose=0)
    twin = copied(model, tmp_path / "flow.keras")
    np.testing.assert_allclose(twin.log_prob(DATA), model.log_prob(DATA), atol=1e-5)
    assert twin.conditioners[0].head.lora_alpha == 3
    names = [[v.path.rsplit("/", 1)[1] for v in m.trainable_variables] for m in (model, twin)]
    assert names[0] == names[1] and len(names[0]) == 7
    assert twin.optimizer.iterations == model.optimizer.iterations
    kernel = twin.conditioners[0].head._kernel.numpy()
    twin.fit(DATA, verbose=0)
    np.testing.assert_array_equal(twin.conditioners[0].head._kernel, kernel)


def test_a_model_without_optimizer_evaluates():
    model = FlowModel(flows.real_nvp(2, layers=2, hidden_units=(4,), seed=0))
    model.compile(None)
    assert model.evaluate(DATA, verbose=0) == pytest.approx(
        -np.mean(model.log_prob(DATA)), abs=1e-5
    )
    for call in (model.fit, model.train_on_batch):
        with pytest.raises(ValueError, match="`optimizer`"):
            call(DATA)


def test_a_flow_model_is_a_layer_of_other_models():
    class Encoder(keras.Model):
        def __init__(self, flow):
            super().__init__()
            self.dense = keras.layers.Dense(2)
            self.flow = flow

        def call(self, x):
            return self.flow.log_prob(self.dense(x))

    inner = made()
    outer = Encoder(inner)
    assert outer(DATA).shape == (len(DATA),)
    assert len(outer.trainable_weights) == 2 + len(inner.trainable_weights)


def test_stages_take_what_log_prob_takes():
    embedding = keras.layers.Dense(3)
    layers = keras.Sequential([keras.layers.Flatten(), embedding])
    flow = flows.real_nvp(2, layers=2, hidden_units=(4,), embedding=layers, context_shape=(4, 1))
    model = FlowModel(flow)
    contexts = normal(24, 4, 1)
    base, *_, last = model.stages(contexts)
    np.testing.assert_allclose(last.log_prob(DATA), model.log_prob(DATA, contexts), atol=1e-6)
    assert base is flow.distribution


def test_tensors_of_any_number_type(model, conditional):
    for dtype in ("int32", "int64", "float64", "float16"):
        events, contexts = tf.constant([[1, 2]], dtype), tf.constant([[1]], dtype)
        expected = model.log_prob(np.array([[1.0, 2.0]], "float32"))
        np.testing.assert_allclose(model.log_prob(events), expected)
        assert model.log_prob(events).dtype == tf.float32
        assert conditional.log_prob(events, contexts).dtype == tf.float32
        assert conditional.sample(2, contexts).dtype == tf.float32
