"""Saving: what is loaded in another process is what was saved."""

import copy
import json
import pickle
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal, run_python
from saved_models import (
    CONTEXTS,
    DATA,
    EVENT,
    EXPORTED,
    MODELS,
    OPTIMIZERS,
    ROWS,
    SPECTROGRAMS,
    WAVES,
    Double,
    base,
    data_of,
    made,
    of_all_kinds,
    resumed,
    train,
    values,
)

import tfp_flows
from tfp_flows import Flow, FlowModel, bijectors, flows, networks, serialization
from tfp_flows.ops.internals import layers_of

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers


LOAD = """
import sys
import numpy as np
sys.path.insert(0, {tests!r})
import keras, tensorflow as tf
import saved_models as t

results = {{}}
def note(kind, name, model, resume):
    found = t.values(model, name)
    if resume:
        found.update(t.resumed(model, name))
    for key, value in found.items():
        results[f"{{kind}}/{{name}}/{{key}}"] = value

for name in t.MODELS:
    note("load", name, t.FlowModel.load(f"{{name}}.keras"), name in t.OPTIMIZERS)
note("keras", "mixture", keras.saving.load_model("mixture.keras"), False)
for name in ("masks", "context", "mixture"):
    model = t.made(name)
    model.load_weights(f"{{name}}.weights.h5")
    note("weights", name, model, name == "context")
    model = t.made(name)
    tf.train.Checkpoint(model=model).restore(f"{{name}}_checkpoint").expect_partial()
    note("checkpoint", name, model, name == "context")
np.savez("results.npz", **results)
"""
USE_EXPORT = """
import sys
for absent in ("tfp_flows", "tensorflow_probability", "tf_keras"):
    sys.modules[absent] = None  # importing it is an ImportError
import numpy as np
import tensorflow as tf

data, results = np.load("data.npz"), {}
x, context = tf.constant(data["x"], tf.float32), tf.constant(data["context"])
flow = tf.saved_model.load("masks")
results["masks"] = flow.log_prob(x)
results["signature"] = flow.signatures["log_prob"](x=x)["log_prob"]
results["sample"] = flow.sample(tf.constant(1000))
results["other sample"] = flow.sample(1000)
results["signature sample"] = flow.signatures["sample"](n=tf.constant(7))["x"]
flow = tf.saved_model.load("context")
results["context"] = flow.log_prob(x, context)
signature = flow.signatures["log_prob"]
results["context signature"] = signature(x=x[:9], context=context[:9])["log_prob"]
results["context sample"] = flow.sample(4, context)
flow = tf.saved_model.load("double")
results["double"] = flow.log_prob(tf.constant(data["x"], tf.float64))
flow = tf.saved_model.load("sound")
results["sound"] = flow.log_prob(tf.constant(data["wave"]), tf.constant(data["spectrogram"]))
assert sys.modules["tfp_flows"] is None
np.savez("exported.npz", **results)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Models trained and saved in every way; what they gave, and what loaded ones gave."""
    folder, expected = tmp_path_factory.mktemp("saved"), {}
    for name in MODELS:
        keras.utils.set_random_seed(0)
        model = made(name)
        model.adapt(*data_of(name))
        for variable in model.trainable_variables:
            variable.assign_add(tf.random.uniform(variable.shape, -0.2, 0.2, variable.dtype))
        if name in OPTIMIZERS:
            train(model, name)
        model.save(folder / f"{name}.keras")
        model.save_weights(folder / f"{name}.weights.h5")
        tf.train.Checkpoint(model=model).write(folder / f"{name}_checkpoint")
        if name in EXPORTED:
            model.export(folder / name)
        expected[name] = values(model, name)
        if name in OPTIMIZERS:
            expected[name].update(resumed(model, name))
    given = {"context": CONTEXTS, "spectrogram": SPECTROGRAMS}
    np.savez(folder / "data.npz", x=DATA, wave=WAVES, **given)
    package = str(Path(tfp_flows.__file__).parents[1])
    run_python(LOAD.format(tests=str(Path(__file__).parent)), folder, PYTHONPATH=package)
    run_python(USE_EXPORT, folder, PYTHONPATH="")
    return folder, expected, np.load(folder / "results.npz"), np.load(folder / "exported.npz")


LOADED = [
    *(("load", name) for name in MODELS),
    ("keras", "mixture"),
    *(
        (kind, name)
        for kind in ("weights", "checkpoint")
        for name in ("masks", "context", "mixture")
    ),
]
RESUMED = [
    *(("load", name) for name in OPTIMIZERS),
    ("weights", "context"),
    ("checkpoint", "context"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), LOADED)
def test_a_loaded_model_is_the_saved_one(saved, kind, name):
    _, expected, loaded, _ = saved
    for key in ("log_prob", "sample", "weights", "iterations"):
        actual = loaded[f"{kind}/{name}/{key}"]
        assert np.isfinite(actual).all()
        np.testing.assert_array_equal(actual, expected[name][key], err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), RESUMED)
def test_training_goes_on_where_it_was(saved, kind, name):
    _, expected, loaded, _ = saved
    assert loaded[f"{kind}/{name}/iterations"] == expected[name]["iterations"] == 6
    for key in ("losses", "trained"):
        actual = loaded[f"{kind}/{name}/{key}"]
        assert np.isfinite(actual).all()
        np.testing.assert_allclose(actual, expected[name][key], rtol=1e-5, err_msg=key)


@pytest.mark.slow  # the models saved for all take a while
def test_an_exported_model_needs_tensorflow_only(saved):
    _, expected, _, exported = saved
    for name in EXPORTED:
        rtol = 1e-12 if name == "double" else 1e-5
        np.testing.assert_allclose(exported[name], expected[name]["log_prob"], rtol=rtol)
    np.testing.assert_allclose(exported["signature"], exported["masks"], rtol=1e-6)
    np.testing.assert_allclose(exported["context signature"], exported["context"][:9], rtol=1e-5)
    assert exported["sample"].shape == (1000, EVENT)
    assert exported["signature sample"].shape == (7, EVENT)
    assert exported["context sample"].shape == (4, ROWS, EVENT)
    assert np.abs(exported["sample"] - exported["other sample"]).max() > 0.1
    np.testing.assert_allclose(exported["sample"].mean(0), DATA.mean(0), atol=1.0)


NESTED = {
    "sample": lambda: tfd.Sample(MODELS["masks"](), 3),
    "independent": lambda: tfd.Independent(MODELS["masks"](), 0),
    "flow on flow": lambda: Flow(MODELS["masks"](), tfb.Invert(tfb.Chain([Double()]))),
}


@pytest.mark.parametrize("name", [*MODELS, *NESTED])
def test_a_config_is_json_and_comes_back(name):
    distribution = {**MODELS, **NESTED}[name]()
    config = serialization.serialize(distribution)
    text = json.dumps(config)
    again = serialization.deserialize(json.loads(text))
    assert type(again) is type(distribution)
    assert json.dumps(serialization.serialize(again)) == text
    # Variables of TFP's objects have their values in it, so one can go on with these.
    if name in ("mixture", "picky"):
        x = normal(3, EVENT)
        np.testing.assert_array_equal(again.log_prob(x), distribution.log_prob(x))


@pytest.mark.slow  # the models saved for all take a while
def test_what_is_shared_stays_shared(saved):
    folder, *_ = saved
    model = FlowModel.load(folder / "kinds.keras")
    fresh = FlowModel(of_all_kinds())
    assert len(model.variables) == len(fresh.variables)
    steps = model.distribution.bijector.bijectors
    assert steps[4] is steps[6]
    assert steps[7].conditioner.layer.features is steps[8].conditioner.layer.features
    assert steps[9].scale is steps[10].shift
    assert isinstance(steps[5].scale, tfp.util.DeferredTensor)
    assert isinstance(steps[0], Double)
    assert steps[0].factor == 3.0
    assert steps[7].transformer.scale == 0.3
    np.testing.assert_array_equal(steps[2].bijector.mask, [True, False, True, True, False])


def test_copies_and_pickles_are_the_same_model():
    model = FlowModel(flows.real_nvp(EVENT, layers=4, hidden_units=(4,)))
    model.adapt(DATA)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(again.log_prob(DATA), model.log_prob(DATA))
        assert again.trainable_variables[0] is not model.trainable_variables[0]


@keras.saving.register_keras_serializable("tests")
class Weighted(FlowModel):
    """A subclass with an argument of its own."""

    def __init__(self, distribution, factor=1.0, **options):
        super().__init__(distribution, **options)
        self.factor = factor

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


def test_entries_that_a_subclass_adds_to_its_config_come_back(tmp_path):
    model = Weighted(flows.nice(2, layers=1, hidden_units=(4,)), factor=3.0)
    model.save(tmp_path / "flow.keras")
    loaded = keras.saving.load_model(tmp_path / "flow.keras")
    for again in (loaded, copy.deepcopy(model), keras.models.clone_model(model)):
        assert again.factor == 3.0
    unknown = {**model.get_config(), "colour": "red"}
    with pytest.raises(TypeError, match="colour"):
        Weighted.from_config(unknown)


def test_any_name_of_a_dtype_is_saved():
    for dtype in ("float64", tf.float64, np.float64, np.dtype("float64")):
        flow = flows.nice(2, layers=1, hidden_units=(4,), dtype=dtype)
        again = serialization.deserialize(serialization.serialize(flow))
        assert again.dtype == tf.float64


def test_what_was_saved_before_training_loads_without_a_word(tmp_path):
    model = FlowModel(flows.real_nvp(2, layers=2, hidden_units=(4,), seed=0))
    model.compile("adam")
    model.save(tmp_path / "m.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loaded = FlowModel.load(tmp_path / "m.keras")
    assert len(loaded.optimizer.variables) == 2 + 2 * len(model.trainable_variables)


def test_frozen_layers_stay_frozen_and_the_optimizer_resumes(tmp_path):
    shared = networks.MLP((4,), dropout=0.2, activation="silu")
    steps = [
        bijectors.Coupling(2, transformers.Affine(), (4, 4)),
        bijectors.Coupling(2, transformers.Affine(), shared, flip=True),
        bijectors.Coupling(2, transformers.Affine(), networks.ResidualMLP(4, blocks=1)),
    ]
    # A network that the coupling made, one sublayer of a network, and one that was given.
    steps[0].conditioner.layer.features.trainable = False
    steps[2].conditioner.layer.features.trainable = False
    layers_of(shared)[1].trainable = False
    model = FlowModel(Flow(base(2), tfb.Chain(steps)))
    model.compile(keras.optimizers.Adam(0.01))
    model.adapt(DATA[:, :2])
    model.fit(DATA[:, :2], verbose=0)
    model.save(tmp_path / "f.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of Keras, of an optimizer that does not fit
        loaded = FlowModel.load(tmp_path / "f.keras")
    assert len(model.trainable_variables) == 6
    assert len(model.variables) == len(loaded.variables) > 16
    assert [v.shape for v in loaded.trainable_variables] == [
        v.shape for v in model.trainable_variables
    ]
    for a, b in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("policy", ["mixed_float16"])
def test_mixed_precision_is_saved(policy, tmp_path):
    keras.config.set_dtype_policy(policy)
    try:
        model = FlowModel(flows.real_nvp(2, layers=2, hidden_units=(4,)))
        model.compile("adam")
        model.fit(DATA[:, :2], verbose=0)
        model.save(tmp_path / "f.keras")
        loaded = FlowModel.load(tmp_path / "f.keras")
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(loaded.optimizer, keras.optimizers.LossScaleOptimizer)
    np.testing.assert_array_equal(loaded.log_prob(DATA[:, :2]), model.log_prob(DATA[:, :2]))


def test_weights_of_another_seed_are_refused_within_another_model(tmp_path):
    class Own(keras.Model):
        def __init__(self, seed):
            super().__init__()
            self.flow = FlowModel(flows.real_nvp(5, layers=4, hidden_units=(4,), seed=seed))

        def call(self, x):
            return self.flow(x)

    models = [Own(seed) for seed in (1, 1, 2)]
    for model in models:
        model(np.zeros([2, 5], "float32"))
    models[0].save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(ValueError, match="with the same mask in 'coupling'"):
        models[2].load_weights(tmp_path / "a.weights.h5")
    models[1].load_weights(tmp_path / "a.weights.h5")
    models[2].save_weights(tmp_path / "b.weights.h5")
    models[2].load_weights(tmp_path / "b.weights.h5")  # What was refused before is forgotten.
