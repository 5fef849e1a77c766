"""Hostile, damaged and foreign files: each is refused with a clear error, and runs nothing."""

import json
import sys
import zipfile

import keras
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import Flow, FlowModel, bijectors, flows, networks, serialization

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    """The parts of a good file, for others to be made from it."""
    path = tmp_path_factory.mktemp("victim") / "good.keras"
    coupling = bijectors.Coupling(2, transformers.Affine(), networks.MLP((4,)))
    model = FlowModel(Flow(tfd.MultivariateNormalDiag(tf.zeros(2)), tfb.Chain([coupling])))
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
        with pytest.raises(ValueError, match=r"bad\.keras' is not a saved FlowModel: "):
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
            with pytest.raises(ValueError, match=r"bad\.keras' is not a saved FlowModel"):
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


def test_a_truncated_file_is_a_clear_error(victim, tmp_path):
    whole = write(tmp_path / "whole.keras", victim).read_bytes()
    path = tmp_path / "part.keras"
    for share in (0.0, 0.001, 0.1, 0.5, 0.9, 0.99, 1 - 1 / len(whole)):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=r"part\.keras' is not a saved FlowModel: "):
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
        with pytest.raises(ValueError, match=r"damaged\.keras' is not a saved FlowModel: "):
            FlowModel.load(path)
    # The weights of another architecture.
    other = FlowModel(flows.nice(2, layers=1, hidden_units=(5,)))
    other.save(tmp_path / "other.keras")
    with zipfile.ZipFile(tmp_path / "other.keras") as archive:
        write(path, {**victim, "model.weights.h5": archive.read("model.weights.h5")})
    with pytest.raises(ValueError, match="is not a saved FlowModel: "):
        FlowModel.load(path)


def test_foreign_files_are_clear_errors(victim, tmp_path):
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
        with pytest.raises(ValueError, match=r"foreign\.keras' is not a saved FlowModel: "):
            FlowModel.load(path)
    path.write_bytes(victim["model.weights.h5"])
    with pytest.raises(ValueError, match=r"foreign\.keras' is not a saved FlowModel: "):
        FlowModel.load(path)
    with pytest.raises(FileNotFoundError, match=r"There is no file '.*absent\.keras'"):
        FlowModel.load(tmp_path / "absent.keras")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        FlowModel.load(tmp_path)
