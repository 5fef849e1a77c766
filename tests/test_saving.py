"""Saving: what is loaded in another process is what was saved, and no file runs code."""

import copy
import functools
import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import warnings
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal

import tfp_flows
from tfp_flows import Flow, FlowModel, bijectors, flows, networks, serialization

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers

ROWS, EVENT, CONTEXT = 40, 5, 2


DATA = 2 * normal(ROWS, EVENT) + [0, 5, -3, 1, 10]
CONTEXTS = 3 * normal(ROWS, CONTEXT, seed=1) + 7


# Classes of a user's own, registered, in the shapes in which users write them.


@keras.saving.register_keras_serializable("test_saving")
class Sinh(transformers.Transformer):
    """`y = x + t`, then a sinh of a fixed scale and back: a transformer with an option."""

    def __init__(self, scale=2.0):
        self.scale = scale

    @property
    def parameter_count(self):
        return 1

    def get_config(self):
        return {"scale": self.scale}

    def forward(self, x, parameters):
        y = x + parameters[..., 0, :] * self.scale
        return y, tf.zeros_like(y)

    def inverse(self, y, parameters):
        x = y - parameters[..., 0, :] * self.scale
        return x, tf.zeros_like(x)


@keras.saving.register_keras_serializable("test_saving")
class Double(bijectors.Bijector):
    """A bijector with a number and a variable of its own."""

    def __init__(self, factor=2.0, name="double"):
        parameters = dict(locals())
        self.factor = factor
        self.shift = tf.Variable(0.0, name="shift")
        super().__init__(forward_min_event_ndims=0, parameters=parameters, name=name)

    def _forward_and_log_det(self, x):
        return self.factor * x + self.shift, tf.math.log(self.factor) + tf.zeros_like(x)

    def _inverse_and_log_det(self, y):
        return (y - self.shift) / self.factor, -tf.math.log(self.factor) + tf.zeros_like(y)


@keras.saving.register_keras_serializable("test_saving")
class Wide(keras.layers.Layer):
    """A conditioner with a sublayer and an option."""

    def __init__(self, units=8, **options):
        super().__init__(**options)
        self.units = units
        self.dense = keras.layers.Dense(units, activation=squash)

    def call(self, inputs):
        return self.dense(inputs)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("test_saving")
def squash(x):
    return x / (1 + keras.ops.abs(x))


@keras.saving.register_keras_serializable("test_saving")
class SlowAdam(keras.optimizers.Adam):
    pass


def base(size=EVENT):
    return tfd.MultivariateNormalDiag(tf.zeros(size))


def sequential():
    regularizer = keras.regularizers.L2(1e-3)
    return keras.Sequential(
        [
            keras.layers.Dense(8, activation="relu", kernel_regularizer=regularizer),
            keras.layers.Dense(8, activation=squash),
            keras.layers.BatchNormalization(),
        ]
    )


def functional(width):
    inputs = keras.Input([width])
    hidden = keras.layers.Dense(8, activation="tanh")(inputs)
    outputs = keras.layers.Add()([hidden, keras.layers.Dense(8)(hidden)])
    return keras.Model(inputs, outputs)


def of_all_kinds():
    """Everything that can be in a chain, with a bijector, a layer and a variable used twice."""
    scale = tf.Variable([0.5, 1.0, 2.0, 1.0, 1.0], name="scale")
    coupling = functools.partial(bijectors.Coupling, EVENT)
    layer = Wide(6)
    twice = coupling(transformers.Additive(), functional(2))
    mask = np.array([True, False, True, True, False])
    return Flow(
        tfd.Independent(tfd.StudentT(tf.Variable(7.0), tf.zeros(EVENT), 1.0), 1),
        tfb.Chain(
            [
                Double(3.0),
                tfb.Permute([3, 1, 4, 0, 2]),
                tfb.Invert(coupling(transformers.RationalQuadraticSpline(bins=4), (8,), mask=mask)),
                coupling(transformers.Affine(1.5), sequential(), mask="alternate"),
                twice,
                tfb.Scale(tfp.util.TransformedVariable(tf.fill([EVENT], 0.7), tfb.Softplus())),
                twice,
                coupling(Sinh(0.3), layer),
                coupling(transformers.Affine(), layer),
                tfb.Scale(scale),
                tfb.Shift(scale),
                bijectors.Elementwise(EVENT, transformers.Affine()),
                tfb.Blockwise([bijectors.ShiftAndCube(tf.Variable(0.1)), tfb.Sinh()], [2, 3]),
            ]
        ),
    )


def mixture():
    parts = tfd.MultivariateNormalTriL(
        tf.Variable(normal(3, EVENT)),
        tfp.util.TransformedVariable(tf.eye(EVENT, batch_shape=[3]), tfb.FillScaleTriL()),
    )
    return tfd.MixtureSameFamily(tfd.Categorical(logits=tf.Variable(tf.zeros(3))), parts)


def picky():
    """A distribution that is invalid where its variables are 0."""
    matrix = tf.linalg.LinearOperatorFullMatrix(tf.Variable(tf.eye(EVENT) + 0.1))
    scale = tf.Variable(tf.ones(EVENT), name="scale")
    independent = tfd.Independent(tfd.Normal(tf.zeros(EVENT), scale, validate_args=True), 1)
    return tfd.TransformedDistribution(independent, tfb.ScaleMatvecLinearOperator(matrix))


MODELS = {
    # No seed: what is drawn at random for weights and masks has to be in the file.
    "masks": lambda: flows.real_nvp(EVENT, layers=4, hidden_units=(8,)),
    "context": lambda: flows.real_nvp(EVENT, layers=2, hidden_units=(8,), context_size=CONTEXT),
    "kinds": of_all_kinds,
    "mixture": mixture,
    "picky": picky,
    "double": lambda: flows.neural_spline(EVENT, layers=2, hidden_units=(8,), dtype="float64"),
}
OPTIMIZERS = {  # of those that are trained
    "masks": lambda: keras.optimizers.AdamW(0.01, clipnorm=1.0, use_ema=True),
    "context": lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.02, 100)),
    "kinds": lambda: SlowAdam(0.005),
}
EXPORTED = ("masks", "context", "double")


def data_of(name):
    return (CONTEXTS, DATA) if name == "context" else (DATA,)


def made(name):
    model = FlowModel(MODELS[name]())
    if name in OPTIMIZERS:
        model.compile(OPTIMIZERS[name]())
    return model


def train(model, name):
    options = {"epochs": 2, "batch_size": 16, "shuffle": False, "verbose": 0}
    return model.fit(*data_of(name), **options).history["loss"]


def values(model, name):
    """What has to be the same of a loaded model, numbers all."""
    *context, x = data_of(name)
    return {
        "log_prob": model.log_prob(x, *context).numpy(),
        "sample": model.sample(3, *context, seed=1).numpy(),
        "weights": np.concatenate([np.ravel(w) for w in model.get_weights()]),
        "iterations": int(model.optimizer.iterations) if model.compiled else 0,
    }


def resumed(model, name):
    """What comes of it when training goes on."""
    *context, x = data_of(name)
    return {
        "losses": np.array(train(model, name)),
        "trained": model.log_prob(x, *context).numpy(),
    }


LOAD = """
import sys
import numpy as np
sys.path.insert(0, {tests!r})
import keras, tensorflow as tf
import test_saving as t

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
assert sys.modules["tfp_flows"] is None
np.savez("exported.npz", **results)
"""


def run(code, folder, **environment):
    """Run Python code in a process of its own and in another folder."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


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
    np.savez(folder / "data.npz", x=DATA, context=CONTEXTS)
    package = str(Path(tfp_flows.__file__).parents[1])
    run(LOAD.format(tests=str(Path(__file__).parent)), folder, PYTHONPATH=package)
    run(USE_EXPORT, folder, PYTHONPATH="")
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


# Configs.


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


def test_any_name_of_a_dtype_is_saved():
    for dtype in ("float64", tf.float64, np.float64, np.dtype("float64")):
        flow = flows.nice(2, layers=1, hidden_units=(4,), dtype=dtype)
        again = serialization.deserialize(serialization.serialize(flow))
        assert again.dtype == tf.float64


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
    shared._stack[0].trainable = False
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


# What is refused when saving.


def plain_coupling(transformer=None, conditioner=(4,)):
    return bijectors.Coupling(2, transformer or transformers.Affine(), conditioner)


def flow_of(*steps):
    return Flow(base(2), tfb.Chain([plain_coupling(), *steps]))


class Unregistered(transformers.Additive):
    pass


class UnregisteredBijector(bijectors.ShiftAndCube):
    pass


class UnregisteredDense(keras.layers.Dense):
    pass


class UnregisteredNormal(tfd.Normal):
    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return super()._parameter_properties(dtype, num_classes)


class UnregisteredAdam(keras.optimizers.Adam):
    pass


def unregistered(x):
    return x


def dense(**options):
    return plain_coupling(conditioner=keras.layers.Dense(4, **options))


REFUSED = {
    "transformer": (
        lambda: flow_of(plain_coupling(Unregistered())),
        r"Flow\.bijector\.bijectors\[1\]\.transformer is a .*Unregistered",
    ),
    "bijector": (
        lambda: flow_of(tfb.Invert(UnregisteredBijector(0.1))),
        r"Flow\.bijector\.bijectors\[1\]\.bijector is a .*UnregisteredBijector",
    ),
    "layer": (
        lambda: flow_of(plain_coupling(conditioner=UnregisteredDense(4))),
        r"Flow\.bijector\.bijectors\[1\]\.conditioner holds .*UnregisteredDense",
    ),
    "layer in a layer": (
        lambda: flow_of(plain_coupling(conditioner=keras.Sequential([UnregisteredDense(4)]))),
        r"bijectors\[1\]\.conditioner\.config\.layers.* holds .*UnregisteredDense",
    ),
    "distribution": (
        lambda: tfd.Independent(UnregisteredNormal(tf.Variable([0.0]), 1.0), 1),
        r"Independent\.distribution is a .*UnregisteredNormal",
    ),
    "lambda in a bijector": (
        lambda: flow_of(
            tfb.Inline(tf.identity, lambda y: y, tf.zeros_like, forward_min_event_ndims=0)
        ),
        r"bijectors\[1\]\.forward_fn is a builtins\.function",
    ),
    "closure": (
        lambda: flow_of(tfb.RealNVP(1, shift_and_log_scale_fn=tfb.real_nvp_default_template([4]))),
        r"bijectors\[1\]\.shift_and_log_scale_fn is a .*function",
    ),
    "network of TFP": (
        lambda: flow_of(
            tfb.MaskedAutoregressiveFlow(
                tfb.AutoregressiveNetwork(2, hidden_units=[4], event_shape=[2])
            )
        ),
        r"bijectors\[1\]\.shift_and_log_scale_fn is a .*AutoregressiveNetwork",
    ),
    "deferred function": (
        lambda: flow_of(tfb.Scale(tfp.util.DeferredTensor(tf.Variable(1.0), tf.exp))),
        r"bijectors\[1\]\.scale is a .*function",
    ),
    "constraint": (
        lambda: flow_of(tfb.Scale(tf.Variable(1.0, constraint=tf.abs))),
        r"bijectors\[1\]\.scale\.constraint is a .*function",
    ),
    "lambda as activation": (
        lambda: flow_of(dense(activation=lambda x: x)),
        r"bijectors\[1\]\.conditioner\.config\.activation holds a lambda",
    ),
    "function as activation": (
        lambda: flow_of(dense(activation=unregistered)),
        r"bijectors\[1\]\.conditioner\.config\.activation holds unregistered",
    ),
    "function as initializer": (
        lambda: flow_of(dense(kernel_initializer=lambda shape, dtype: tf.zeros(shape, dtype))),
        r"bijectors\[1\]\.conditioner\.config\.kernel_initializer",
    ),
    "Lambda layer": (
        lambda: flow_of(
            plain_coupling(
                conditioner=keras.Sequential(
                    [keras.layers.Lambda(lambda x: x, output_shape=(1,)), keras.layers.Dense(4)]
                )
            )
        ),
        r"bijectors\[1\]\.conditioner.* holds keras\.layers\.Lambda",
    ),
}


@pytest.mark.filterwarnings("ignore:.*lambda:UserWarning", "ignore:.*tf.layers.dense:UserWarning")
@pytest.mark.filterwarnings("ignore:.*layer.updates:UserWarning")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_could_not_be_loaded_is_refused_when_saving(kind, tmp_path):
    make, message = REFUSED[kind]
    model = FlowModel(make())
    path = tmp_path / "f.keras"
    path.write_bytes(b"older")
    with pytest.raises(TypeError, match=message):
        model.save(path)
    assert path.read_bytes() == b"older"
    model.save_weights(tmp_path / "f.weights.h5")


def test_an_optimizer_that_could_not_be_loaded_is_refused_when_saving(tmp_path):
    model = FlowModel(flow_of())
    model.compile(UnregisteredAdam())
    with pytest.raises(TypeError, match=r"compile config\.optimizer holds .*UnregisteredAdam"):
        model.save(tmp_path / "f.keras")
    assert not (tmp_path / "f.keras").exists()


# What is refused when loading: hostile files.


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    """The parts of a good file, for others to be made from it."""
    path = tmp_path_factory.mktemp("victim") / "good.keras"
    coupling = bijectors.Coupling(2, transformers.Affine(), networks.MLP((4,)))
    model = FlowModel(Flow(base(2), tfb.Chain([coupling])))
    model.compile("adam")
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, parts):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def marshalled(marker):
    """What Keras itself would write for a lambda that leaves a trace."""
    code = f"lambda x: (open({str(marker)!r}, 'w').close(), x)[1]"
    return keras.saving.serialize_keras_object(keras.layers.Lambda(eval(code)))


def hostile_objects(marker):
    shell = {"command": f"touch {marker}"}
    with_lambda = marshalled(marker)
    code = {"value": [with_lambda["config"]["function"]["config"]["code"], None, None]}
    return {
        "class": {"module": "os", "class_name": "system", "config": shell, "registered_name": None},
        "function": {
            "module": "os",
            "class_name": "function",
            "config": "system",
            "registered_name": "function",
        },
        "function under a known name": {
            "module": "os",
            "class_name": "function",
            "config": "system",
            "registered_name": "tfp_flows>MLP",
        },
        "module that acts when imported": {
            "module": "hostile_module",
            "class_name": "Hostile",
            "config": {},
            "registered_name": None,
        },
        "module under Keras' name": {
            "module": "keras.src.utils.python_utils",
            "class_name": "func_load",
            "config": code,
            "registered_name": None,
        },
        "Lambda": with_lambda,
        "Lambda under a known name": {**with_lambda, "registered_name": "tfp_flows>MLP"},
        "legacy Lambda": {
            "class_name": "Lambda",
            "config": with_lambda["config"],
            "registered_name": "tfp_flows>MLP",
        },
        "lambda": {"class_name": "__lambda__", "config": code},
        "lambda of an activation": code,
        "saved model": {
            "module": "keras.layers",
            "class_name": "TFSMLayer",
            "config": {"filepath": str(marker.parent), "call_endpoint": "serve"},
            "registered_name": None,
        },
        "file reader": {
            "module": "keras.layers",
            "class_name": "StringLookup",
            "config": {"vocabulary": "/etc/passwd"},
            "registered_name": None,
        },
        "of our own kind": {"kind": "object", "class": "os>system", "arguments": shell, "id": 99},
        "private": {
            "kind": "object",
            "class": "tfp.bijectors>__loader__",
            "arguments": {},
            "id": 99,
        },
        "not a distribution": {
            "kind": "object",
            "class": "tfp_flows>FlowModel",
            "arguments": {},
            "id": 99,
        },
        "unknown kind": {"kind": "function", "name": "os.system", "id": 99},
        "in Keras' clothes": {
            "kind": "keras",
            "id": 99,
            "config": {
                "module": "keras",
                "class_name": "Sequential",
                "config": {"layers": [with_lambda]},
                "registered_name": None,
            },
        },
    }


def replace(tree, path, value):
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


CHAIN = ("config", "distribution", "arguments", "bijector", "arguments", "bijectors", "items")
COUPLING = (*CHAIN, 0)
LAYER = (*COUPLING, "arguments", "conditioner")
POSITIONS = {
    "distribution": ("config", "distribution"),
    "bijector": COUPLING,
    "transformer": (*COUPLING, "arguments", "transformer"),
    "option of the transformer": (
        *(*COUPLING, "arguments", "transformer", "arguments", "items", "max_log_scale"),
    ),
    "conditioner": LAYER,
    "layer": (*LAYER, "config"),
    "activation": (*LAYER, "config", "config", "activation"),
    "mask": (*COUPLING, "arguments", "mask"),
    "optimizer": ("compile_config", "optimizer"),
    "learning rate": ("compile_config", "optimizer", "config", "learning_rate"),
    "loss": ("compile_config", "loss"),
}


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A file that hostile code would make."""
    marker = tmp_path / "trace"
    (tmp_path / "hostile_module.py").write_text(
        f"open({str(marker)!r}, 'w').close()\nclass Hostile:\n    from_config = open\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield marker
    sys.modules.pop("hostile_module", None)


@pytest.mark.parametrize("position", POSITIONS)
def test_a_hostile_file_is_refused_and_runs_nothing(position, victim, marker, tmp_path):
    to_keras = position in ("layer", "activation", "optimizer", "learning rate", "loss")
    for kind, hostile in hostile_objects(marker).items():
        if to_keras and "kind" in hostile:
            continue  # a plain dictionary to Keras, that names nothing
        config = json.loads(victim["config.json"])
        replace(config, POSITIONS[position], hostile)
        path = write(tmp_path / "bad.keras", {**victim, "config.json": json.dumps(config)})
        with pytest.raises(ValueError, match=r"bad\.keras' is no saved FlowModel: "):
            FlowModel.load(path)
        if POSITIONS[position][0] == "config":
            with pytest.raises((ValueError, TypeError)):
                keras.saving.load_model(path)
        assert not marker.exists(), kind
        assert "hostile_module" not in sys.modules, kind


def test_every_hostile_object_is_known_by_its_config(marker):
    """Whatever the version of Keras would make of it."""
    for kind, hostile in hostile_objects(marker).items():
        if "kind" not in hostile:
            for config in (hostile, {"config": [1, {"x": hostile}]}):
                with pytest.raises(ValueError, match=r"^it.* neither saves nor loads"):
                    serialization.check_keras(config, ValueError, "it")
            assert not marker.exists(), kind


def test_a_hostile_file_that_claims_to_be_another_model(victim, marker, tmp_path):
    for kind, hostile in hostile_objects(marker).items():
        nested = {
            "module": "keras",
            "class_name": "Sequential",
            "config": {"layers": [hostile]},
            "registered_name": None,
        }
        for config in (hostile, nested, {**nested, "registered_name": "tfp_flows>MLP"}):
            path = write(tmp_path / "bad.keras", {**victim, "config.json": json.dumps(config)})
            with pytest.raises(ValueError, match=r"bad\.keras' is no saved FlowModel"):
                FlowModel.load(path)
            assert not marker.exists(), kind
            assert "hostile_module" not in sys.modules, kind


def test_the_hostile_code_would_leave_a_trace(marker):
    """Else the tests above would show nothing."""
    layer = keras.saving.deserialize_keras_object(marshalled(marker), safe_mode=False)
    layer.function(1)
    assert marker.exists()
    marker.unlink()
    __import__("hostile_module")
    assert marker.exists()


# Damaged and foreign files.


@pytest.mark.slow  # the models saved for all take a while
def test_a_truncated_file_is_a_clear_error(saved, tmp_path):
    folder, *_ = saved
    whole = (folder / "context.keras").read_bytes()
    path = tmp_path / "part.keras"
    for share in (0.0, 0.001, 0.1, 0.5, 0.9, 0.99, 1 - 1 / len(whole)):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=r"part\.keras' is no saved FlowModel: "):
            FlowModel.load(path)


def test_damage_within_is_a_clear_error(victim, tmp_path):
    path = tmp_path / "damaged.keras"
    config = json.loads(victim["config.json"])
    weights = victim["model.weights.h5"]
    damaged = [
        {k: v for k, v in victim.items() if k != "config.json"},
        {k: v for k, v in victim.items() if k != "model.weights.h5"},
        {**victim, "config.json": victim["config.json"][:-20]},
        {**victim, "config.json": b"[]"},
        {**victim, "config.json": b"null"},
        {**victim, "config.json": b"\xff\xfe"},
        {**victim, "config.json": json.dumps({**config, "config": {}})},
        {
            **victim,
            "config.json": json.dumps({**config, "config": {"distribution": 3, "name": "f"}}),
        },
        {**victim, "model.weights.h5": weights[: len(weights) // 2]},
        {**victim, "model.weights.h5": b""},
        {**victim, "model.weights.h5": b"\0" * len(weights)},
    ]
    for parts in damaged:
        write(path, parts)
        with pytest.raises(ValueError, match=r"damaged\.keras' is no saved FlowModel: "):
            FlowModel.load(path)
    # The weights of another architecture.
    other = FlowModel(flows.nice(2, layers=1, hidden_units=(5,)))
    other.save(tmp_path / "other.keras")
    with zipfile.ZipFile(tmp_path / "other.keras") as archive:
        write(path, {**victim, "model.weights.h5": archive.read("model.weights.h5")})
    with pytest.raises(ValueError, match="is no saved FlowModel: "):
        FlowModel.load(path)


@pytest.mark.slow  # the models saved for all take a while
def test_foreign_files_are_clear_errors(saved, tmp_path):
    folder, *_ = saved
    path = tmp_path / "foreign.keras"
    plain = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    plain.save(path)
    with pytest.raises(ValueError, match=r"foreign\.keras' .* it holds a Sequential"):
        FlowModel.load(path)
    write(path, {"hello.txt": b"hello"})
    with pytest.raises(ValueError, match=r"foreign\.keras' .*no item named 'config\.json'"):
        FlowModel.load(path)
    for content in (b"", b"a,b\n1,2\n", b"\x89HDF\r\n\x1a\n" + b"\0" * 100):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"foreign\.keras' is no saved FlowModel: "):
            FlowModel.load(path)
    shutil.copy(folder / "masks.weights.h5", path)
    with pytest.raises(ValueError, match=r"foreign\.keras' is no saved FlowModel: "):
        FlowModel.load(path)
    with pytest.raises(FileNotFoundError, match=r"There is no file '.*absent\.keras'"):
        FlowModel.load(tmp_path / "absent.keras")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        FlowModel.load(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "tfp_flows>MLP",  # registered, but no part of a distribution
        "tfp.bijectors>real_nvp_default_template",  # functions of the same modules
        "tfp.distributions>kl_divergence",
        "tf.linalg>eye",
        "tfp.bijectors>Bijector.__init__",
        "tfp_flows.bijectors>transformers",
        "os>system",
        "Flow",
        "",
    ],
)
def test_a_config_names_classes_of_distributions_and_bijectors_only(name):
    for kind in ("object", "transformer"):
        config = {"kind": kind, "class": name, "id": 0, "arguments": {"kind": "dict", "items": {}}}
        with pytest.raises(ValueError, match=f"The class '{name}' is not one that tfp_flows loads"):
            serialization.deserialize(config)


def test_a_damaged_config_is_an_error():
    for config in ({}, {"kind": "object"}, {"kind": "seen", "id": 7}, [1], {"kind": []}):
        with pytest.raises(ValueError, match=r"config of tfp_flows|no kind"):
            serialization.deserialize(config)
    with pytest.raises(TypeError, match=r"^object is a builtins\.object, which cannot be saved"):
        serialization.serialize(object())
