"""What a file may ask for is bounded before it is loaded."""

import json
import pathlib
import re
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal

from tfp_flows import Flow, FlowModel, bijectors, networks, serialization
from tfp_flows.ops import limits

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    """The parts of a good file, for others to be made from it."""
    path = tmp_path_factory.mktemp("victim") / "good.keras"
    coupling = bijectors.Coupling(4, transformers.RationalQuadraticSpline(4), networks.MLP((4,)))
    made = FlowModel(Flow(tfd.MultivariateNormalDiag(tf.zeros(4)), tfb.Chain([coupling])))
    made.save(path)
    with zipfile.ZipFile(path) as archive:
        return path, {name: archive.read(name) for name in archive.namelist()}


def write(path, parts, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return path


def obj(cls, number=90, **arguments):
    return {"kind": "object", "class": cls, "id": number, "arguments": arguments}


def ours(cls, **arguments):
    return obj(f"tfp_flows.bijectors>{cls}", **arguments)


def keras_layer(cls, number=91, **config):
    return {
        "kind": "keras",
        "id": number,
        "config": {
            "module": "tfp_flows" if cls in ("MLP", "MADE", "ResidualMLP") else "keras.layers",
            "class_name": cls,
            "config": config,
            "registered_name": f"tfp_flows>{cls}" if cls[0] in "MR" else None,
        },
    }


def listed(*items, kind="list"):
    return {"kind": kind, "items": list(items)}


def transformer(cls, **arguments):
    return {
        "kind": "transformer",
        "class": f"tfp_flows.transformers>{cls}",
        "id": 92,
        "arguments": {"kind": "dict", "items": arguments},
    }


def coupling(**options):
    return ours("Coupling", **{"event_size": 4, "transformer": transformer("Affine"), **options})


def doubling(levels):
    """Chains of two chains of two chains ...: a few bytes for 2^levels bijectors."""
    config = ours("Permutation", event_size=4, permutation="reversed")
    for level in range(levels):
        config = {**config, "id": level}
        config = obj("tfp.bijectors>Chain", bijectors=listed(config, {"kind": "seen", "id": level}))
    return config


def nested(levels):
    config = ours("Permutation", event_size=4, permutation="reversed")
    for level in range(levels):
        config = obj("tfp.bijectors>Invert", number=level, bijector=config)
    return config


HUGE = 10**9
BIJECTORS = {
    "wide network": lambda: coupling(conditioner=listed(HUGE)),
    "two wide layers": lambda: coupling(conditioner=listed(10**5, 10**5)),
    "wide event": lambda: coupling(event_size=HUGE),
    "wide context": lambda: coupling(context_size=HUGE),
    "bins": lambda: coupling(transformer=transformer("RationalQuadraticSpline", bins=HUGE)),
    "degree": lambda: coupling(transformer=transformer("Bernstein", degree=HUGE)),
    "large degree": lambda: coupling(transformer=transformer("Bernstein", degree=10**5)),
    "components": lambda: coupling(transformer=transformer("MixtureOfLogistics", components=HUGE)),
    "matrix": lambda: ours("LU", event_size=10**5),
    "triangle": lambda: ours("Triangular", event_size=10**5),
    "rotation": lambda: ours("Rotation", event_size=10**5),
    "reflections": lambda: ours("Householder", event_size=4, reflections=HUGE),
    "permutation": lambda: ours("Permutation", event_size=10**12),
    "made": lambda: ours(
        "MaskedAutoregressive",
        event_size=10**4,
        transformer=transformer("Affine"),
        conditioner=listed(10**5),
    ),
    "made of Keras": lambda: coupling(
        conditioner=keras_layer("MADE", event_size=10**4, parameter_count=10**4)
    ),
    "residual": lambda: coupling(conditioner=keras_layer("ResidualMLP", units=4, blocks=HUGE)),
    "dense": lambda: coupling(conditioner=keras_layer("Dense", units=HUGE)),
    "embedding": lambda: coupling(
        conditioner=keras_layer("Embedding", input_dim=HUGE, output_dim=64)
    ),
    "repeat": lambda: coupling(conditioner=keras_layer("RepeatVector", n=10**11)),
    "shape": lambda: {
        "kind": "variable",
        "values": [],
        "shape": [10**12],
        "dtype": "float32",
        "trainable": True,
        "name": "v",
        "id": 93,
    },
    "text": lambda: {"kind": "array", "values": ["a"], "dtype": "U1000000000", "id": 94},
    "doubling": lambda: doubling(60),
    "nesting": lambda: nested(200),
}
DISTRIBUTIONS = {
    "sample": lambda: obj(
        "tfp.distributions>Sample",
        distribution=obj("tfp.distributions>Normal", number=95, loc=0.0, scale=1.0),
        sample_shape=listed(10**6, 10**6),
    ),
    "mixture": lambda: obj(
        "tfp_flows>ConditionalMixture", event_size=10**6, context_size=1, components=10**6
    ),
}


def hostile(parts, kind):
    config = json.loads(parts["config.json"])
    if kind in BIJECTORS:
        config["config"]["distribution"]["arguments"]["bijector"] = BIJECTORS[kind]()
    else:
        config["config"]["distribution"] = DISTRIBUTIONS[kind]()
    return {**parts, "config.json": json.dumps(config)}


@pytest.fixture
def small_memory():
    """A limit on what this process may allocate: else a failing test takes the machine down."""
    import resource

    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("kind", [*BIJECTORS, *DISTRIBUTIONS])
def test_a_config_that_asks_for_too_much_is_refused(kind, victim, tmp_path, small_memory):
    good, parts = victim
    path = write(tmp_path / "bad.keras", hostile(parts, kind))
    policy = keras.config.dtype_policy().name
    with pytest.raises(ValueError, match=r"bad\.keras' is not a saved FlowModel") as raised:
        FlowModel.load(path)
    reason = "numbers that may be allocated|may share|nothing that works|DType|recursion"
    assert re.search(reason, str(raised.value))
    assert "allocating" not in str(raised.value)
    assert not limits.has_limit()
    assert keras.config.dtype_policy().name == policy
    tf.Variable(tf.zeros([10]))  # No limit is left in force.
    assert FlowModel.load(good).log_prob(normal(20, 4)).shape == (20,)


def test_keras_own_loader_is_bounded_too(victim, tmp_path):
    _, parts = victim
    path = write(tmp_path / "bad.keras", hostile(parts, "two wide layers"))
    with pytest.raises(ValueError, match=f"more than the {serialization.MAX_NUMBERS:,} numbers"):
        keras.saving.load_model(path)
    assert not limits.has_limit()


def test_the_limit_can_be_raised(victim):
    good, _ = victim
    with pytest.raises(ValueError, match=r"more than the 10 numbers.*max_numbers"):
        FlowModel.load(good, max_numbers=10)
    FlowModel.load(good, max_numbers=10_000)
    with pytest.raises(ValueError, match="more than the 5 numbers"), limits.allocation_limit(5):
        keras.saving.load_model(good)
    with serialization.allocation_limit(10_000):
        keras.saving.load_model(good)
    for numbers in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="`numbers` must be a positive integer"):
            limits.allocation_limit(numbers).__enter__()


@pytest.mark.parametrize(
    "make",
    [
        lambda: tf.Variable(tf.zeros([40])),
        lambda: tf.Variable(np.zeros([40])),
        lambda: keras.Variable(np.zeros(40)),
        lambda: keras.Variable(keras.initializers.RandomNormal(), shape=(4, 10)),
        lambda: keras.layers.Dense(8).build([None, 4]),
        lambda: networks.MLP((8, 1))(tf.zeros([1, 4])),  # Keras tries again where a build fails.
        lambda: bijectors.Triangular(6),
    ],
)
def test_a_limit_counts_variables_of_all_kinds(make):
    with limits.allocation_limit(100):
        make()
    with pytest.raises(ValueError, match="more than the 30 numbers"), limits.allocation_limit(30):
        make()
    assert not limits.has_limit()
    keras.layers.Dense(8)(tf.zeros([1, 4]))


def test_archives_and_arrays_that_unpack_to_too_much_are_refused(victim, tmp_path):
    _, parts = victim
    path = tmp_path / "bomb.keras"
    blank = b" " * (100 * 2**20)
    write(path, {**parts, "config.json": parts["config.json"] + blank}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**20
    with pytest.raises(ValueError, match=r"'config\.json' would unpack from"):
        FlowModel.load(path)
    weights = tmp_path / "w.h5"
    weights.write_bytes(parts["model.weights.h5"])
    with h5py.File(weights, "a") as file:
        file.create_dataset("more", (10**12,), "float32", chunks=(1024,))
    write(path, {**parts, "model.weights.h5": weights.read_bytes()})
    with pytest.raises(ValueError, match=r"would unpack to weights of 4,000,\d{3},\d{3},\d{3} byt"):
        FlowModel.load(path)
    write(path, parts, zipfile.ZIP_DEFLATED)  # Packed once more, a good file is a good one.
    FlowModel.load(path)
