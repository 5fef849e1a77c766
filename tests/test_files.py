"""Files: written whole or not at all, compared before they are loaded, and bounded."""

import errno
import json
import os
import pathlib
import re
import stat
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal, randomize

from tfp_flows import Flow, FlowModel, bijectors, flows, networks, serialization
from tfp_flows.ops import limits
from tfp_flows.ops.files import atomic_write

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers

X = normal(20, 4)


def base(size=4):
    return tfd.MultivariateNormalDiag(tf.zeros(size))


def small(mask="half", seed=0):
    coupling = bijectors.Coupling(4, transformers.Affine(), (4,), mask=mask, seed=seed)
    return FlowModel(randomize(Flow(base(), tfb.Chain([coupling]))))


@pytest.fixture(scope="module")
def model():
    made = small()
    made.compile("adam")
    return made


def hidden(folder):
    return [name for name in os.listdir(folder) if name.startswith(".tmp-")]


# Whole or not at all.


class Disk:
    """A disk that is full after so many bytes, for whatever is written by Python's `open`."""

    def __init__(self, monkeypatch, room):
        import builtins

        real = builtins.open

        def limited_open(file, mode="r", *args, **kwargs):
            opened = real(file, mode, *args, **kwargs)
            if "w" in mode or "x" in mode:
                write = opened.write
                written = 0

                def limited_write(content):
                    nonlocal written
                    written += len(content)
                    if written > room:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    return write(content)

                opened.write = limited_write
            return opened

        monkeypatch.setattr(builtins, "open", limited_open)


WRITES = {
    "f.keras": lambda model, path: model.save(path),
    "f.weights.h5": lambda model, path: model.save_weights(path),
    "folder": lambda model, path: model.save(path, zipped=False),
    "export": lambda model, path: model.export(path),
}


def content(path):
    if path.is_dir():
        return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    return path.read_bytes()


@pytest.mark.parametrize("name", WRITES)
def test_a_write_that_fails_at_the_end_leaves_the_older_one(name, model, tmp_path, monkeypatch):
    path = tmp_path / name
    WRITES[name](model, path)
    before, entries = content(path), sorted(os.listdir(tmp_path))

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        WRITES[name](model, path)
    assert content(path) == before
    with pytest.raises(OSError, match="No space left"):
        WRITES[name](model, tmp_path / f"new-{name}")
    assert sorted(os.listdir(tmp_path)) == entries
    monkeypatch.undo()
    WRITES[name](model, path)
    assert sorted(os.listdir(tmp_path)) == entries


def test_a_save_that_is_cut_midway_leaves_the_older_one(model, tmp_path, monkeypatch):
    path = tmp_path / "f.keras"
    model.save(path)
    before = path.read_bytes()
    Disk(monkeypatch, len(before) // 2)
    with pytest.raises(OSError, match="No space left"):
        model.save(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["f.keras"]


def test_whatever_ends_the_block_nothing_is_left(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("older")
    for error in (KeyboardInterrupt, SystemExit, ValueError):
        with pytest.raises(error), atomic_write(path) as part:
            part.write_text("half")
            raise error
        with pytest.raises(error), atomic_write(path) as part:
            part.mkdir()
            (part / "file").write_text("half")
            raise error
    assert path.read_text() == "older"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_permissions_links_and_the_like_are_kept(tmp_path, monkeypatch):
    path, link = tmp_path / "a.txt", tmp_path / "link.txt"
    before = os.umask(0o027)
    try:
        with atomic_write(path) as part:
            part.write_text("1")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    link.symlink_to(path)
    with atomic_write(link) as part:
        part.write_text("2")
    assert link.is_symlink()
    assert path.read_text() == "2"
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    with pytest.raises(FileExistsError, match="exists"), atomic_write(path, overwrite=False):
        pytest.fail("the block must not run")
    monkeypatch.setattr(os, "access", lambda *_: False)  # Root may write everything.
    with pytest.raises(PermissionError, match="must not be written"), atomic_write(path):
        pytest.fail("the block must not run")
    monkeypatch.undo()
    with atomic_write("/dev/null") as part:
        part.write_text("3")
    assert pathlib.Path("/dev/null").is_char_device()
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "absent" / "a") as part:
        part.write_text("4")
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "link.txt"]


def test_names_as_long_as_a_folder_takes(tmp_path):
    for name in ("a" * 249 + ".keras", "流" * 80 + ".keras", "🌊" * 62 + ".keras"):
        with atomic_write(tmp_path / name) as part:
            assert part.name.endswith(".keras")
            part.write_text("x")
        assert os.listdir(tmp_path) == [name]
        os.remove(tmp_path / name)


def test_a_folder_takes_the_place_of_an_older_one(tmp_path):
    path = tmp_path / "folder"
    for number in range(2):
        with atomic_write(path) as part:
            part.mkdir()
            (part / f"{number}").write_text("x")
        assert os.listdir(path) == [f"{number}"]
    assert os.listdir(tmp_path) == ["folder"]


def test_what_save_takes(model, tmp_path):
    for path in ("m.h5", "m", "m.weights.h5", "m.keras.zip"):
        with pytest.raises(ValueError, match=r"`filepath` must end in '\.keras'.*Received"):
            model.save(tmp_path / path)
    with pytest.raises(ValueError, match=r"must end in '\.weights\.h5'"):
        model.save_weights(str(tmp_path / "m.h5"))
    assert os.listdir(tmp_path) == []
    for path in (tmp_path / "a.keras", str(tmp_path / "b.keras")):
        model.save(path)
        with pytest.raises(FileExistsError, match="exists, and `overwrite` is false"):
            model.save(path, overwrite=False)
        np.testing.assert_array_equal(FlowModel.load(path).log_prob(X), model.log_prob(X))
    weights = tmp_path / "a.weights.h5"
    model.save_weights(weights)
    with pytest.raises(FileExistsError):
        model.save_weights(weights, overwrite=False)
    model.save_weights(tmp_path / "s.weights.json", max_shard_size=1e-7)
    again = small()
    again.load_weights(tmp_path / "s.weights.json")
    np.testing.assert_array_equal(again.log_prob(X), model.log_prob(X))
    assert not hidden(tmp_path)


def test_a_folder_with_other_things_is_not_replaced(model, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    for write in (model.export, lambda path: model.save(path, zipped=False)):
        with pytest.raises(ValueError, match=r"has 'thesis\.tex' in it"):
            write(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_callbacks_write_whole_files(tmp_path, monkeypatch):
    made = small()
    made.compile("adam")
    kept = keras.callbacks.ModelCheckpoint(tmp_path / "f.keras")
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
    made.fit(X, verbose=0, callbacks=[kept, backup])
    before = content(tmp_path)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        made.fit(X, verbose=0, callbacks=[keras.callbacks.ModelCheckpoint(tmp_path / "f.keras")])
    assert content(tmp_path) == before


# The fixed structure.


def chain(*steps):
    return FlowModel(randomize(Flow(base(), tfb.Chain(list(steps)))))


AFFINE = transformers.Affine()
STRUCTURES = {
    "mask": lambda seed: small([[True, True, False, False], [False, True, False, True]][seed]),
    "random masks": lambda seed: FlowModel(
        flows.neural_spline(4, layers=4, hidden_units=(4,), seed=seed)
    ),
    "permutation": lambda seed: chain(
        bijectors.Permutation(4, seed=seed), bijectors.Coupling(4, AFFINE, (4,))
    ),
    "LU": lambda seed: chain(bijectors.LU(4, permutation="random", seed=seed)),
    "order": lambda seed: chain(
        bijectors.MaskedAutoregressive(4, AFFINE, (4,), order="random", seed=seed)
    ),
    "passes": lambda seed: chain(
        bijectors.MaskedAutoregressive(4, AFFINE, (4,), passes=[2, 4][seed])
    ),
    "within Invert": lambda seed: chain(
        tfb.Invert(bijectors.MaskedAutoregressive(4, AFFINE, (4,), order="random", seed=seed))
    ),
    "TFP's permutation": lambda seed: chain(
        tfb.Permute([[1, 0, 3, 2], [3, 2, 1, 0]][seed]), bijectors.Coupling(4, AFFINE, (4,))
    ),
}


def spline(bound=3.0, activation="relu", base=base, invert=False, scale=2.0, family="maf"):
    network = networks.MLP((4,), activation=activation)
    layer = bijectors.Coupling(4, transformers.RationalQuadraticSpline(4, bound=bound), network)
    other = getattr(flows, family)(4, layers=1, hidden_units=(4,), seed=0).bijector
    parts = [tfb.Scale(scale), tfb.Invert(layer) if invert else layer, other]
    return FlowModel(Flow(base(), tfb.Chain(parts)))


def student():
    return tfd.Sample(tfd.StudentT(3.0, 0.0, 1.0), 4)


@pytest.mark.parametrize(
    "other",
    [
        {"bound": 4.0},
        {"activation": "tanh"},
        {"base": student},
        {"invert": True},
        {"scale": 5.0},
        {"family": "iaf"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_weights_that_fit_but_mean_something_else_are_refused(other, tmp_path):
    path = tmp_path / "f.weights.h5"
    one = randomize(spline())
    one.save_weights(path)
    same = spline(scale=np.float32(2.0))
    same.load_weights(path)
    np.testing.assert_array_equal(same.log_prob(X), one.log_prob(X))
    with pytest.raises(ValueError, match=r"the same classes and arguments in 'Flow'. Received"):
        spline(**other).load_weights(path)
    with pytest.raises(ValueError, match="the same classes and arguments"):
        FlowModel.from_config(spline(**other).get_config()).load_weights(path)


def test_weights_of_layers_and_variables_of_ones_own_come_back(tmp_path):
    """Keras counts up the names of layers, and a file makes another class of such variables."""

    def made():
        inputs = keras.Input((2,))
        functional = keras.Model(inputs, keras.layers.Dense(5, "tanh")(inputs))
        scale = tfp.util.TransformedVariable([1.0, 2.0, 3.0, 4.0], tfb.Softplus())
        return chain(bijectors.Coupling(4, AFFINE, functional), tfb.Scale(scale))

    one, other = made(), made()
    one.adapt(X)
    one.save_weights(tmp_path / "f.weights.h5")
    one.save(tmp_path / "f.keras")
    other.load_weights(tmp_path / "f.weights.h5")
    np.testing.assert_array_equal(other.log_prob(X), one.log_prob(X))
    np.testing.assert_array_equal(FlowModel.load(tmp_path / "f.keras").log_prob(X), one.log_prob(X))


@pytest.mark.parametrize("kind", STRUCTURES)
def test_weights_of_another_structure_are_refused(kind, tmp_path):
    one, other, same = (STRUCTURES[kind](seed) for seed in (0, 1, 0))
    paths = [tmp_path / "f.keras", tmp_path / "f.weights.h5"]
    one.save(paths[0])
    one.save_weights(paths[1])
    tf.train.Checkpoint(model=one).write(str(tmp_path / "checkpoint"))
    before = other.get_weights()
    message = r"must be of a model with the same (mask|order|permutation|classes)"
    for path in paths:
        with pytest.raises(ValueError, match=message):
            other.load_weights(path)
        for a, b in zip(before, other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        same.load_weights(path)
    np.testing.assert_array_equal(same.log_prob(X), one.log_prob(X))
    with pytest.raises(ValueError, match=message):
        tf.train.Checkpoint(model=other).restore(str(tmp_path / "checkpoint"))
    same = STRUCTURES[kind](0)
    tf.train.Checkpoint(model=same).restore(str(tmp_path / "checkpoint")).expect_partial()
    np.testing.assert_array_equal(same.log_prob(X), one.log_prob(X))
    np.testing.assert_array_equal(FlowModel.load(paths[0]).log_prob(X), one.log_prob(X))


def test_the_number_of_parts_is_compared_and_older_files_load(tmp_path):
    one = small()
    path = tmp_path / "f.weights.h5"
    one.save_weights(path)
    with pytest.raises(ValueError, match=r"masks, orders or permutations. Received: weights of o"):
        chain(
            bijectors.Coupling(4, AFFINE, (4,)), bijectors.Permutation(4, "reversed")
        ).load_weights(path)
    with h5py.File(path, "a") as file:
        found = []
        file.visit(lambda name: found.append(name) if name.endswith("structure") else None)
        assert len(found) == 1
        versions = np.array(file[found[0]])
        versions[:, -1] = 99  # Of another version, hashes say nothing.
        file[found[0]][...] = versions
    small(mask="alternate").load_weights(path)
    with h5py.File(path, "a") as file:
        del file[found[0]]
    again = small()
    again.load_weights(path)
    np.testing.assert_array_equal(again.log_prob(X), one.log_prob(X))


def test_closures_have_weights_files_too(tmp_path):
    """What cannot be saved as a config: of functions, nothing is compared."""
    made = FlowModel(
        tfd.TransformedDistribution(
            base(), tfb.RealNVP(2, shift_and_log_scale_fn=tfb.real_nvp_default_template([4]))
        )
    )
    made.save_weights(tmp_path / "f.weights.h5")
    before = made.log_prob(X)
    randomize(made, seed=5)
    assert np.abs(made.log_prob(X) - before).max() > 1e-3
    made.load_weights(tmp_path / "f.weights.h5")
    np.testing.assert_array_equal(made.log_prob(X), before)


# Hostile files.


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    """The parts of a good file, for others to be made from it."""
    path = tmp_path_factory.mktemp("victim") / "good.keras"
    coupling = bijectors.Coupling(4, transformers.RationalQuadraticSpline(4), networks.MLP((4,)))
    made = FlowModel(Flow(base(), tfb.Chain([coupling])))
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
PLACE = ("config", "distribution", "arguments", "bijector")


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
    assert FlowModel.load(good).log_prob(X).shape == (20,)


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
