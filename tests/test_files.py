"""Files are written whole or not at all, and what `save` takes."""

import errno
import os
import pathlib
import stat

import keras
import numpy as np
import pytest
import tensorflow_probability as tfp
from helpers import normal, run_python
from small_flows import masked_model

from tfp_flows import FlowModel, bijectors
from tfp_flows.ops.files import atomic_write

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers

X = normal(20, 4)


@pytest.fixture(scope="module")
def model():
    made = masked_model()
    made.compile("adam")
    return made


def hidden(folder):
    return [name for name in os.listdir(folder) if name.startswith(".tmp-")]


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


def test_weights_on_a_full_disk_are_an_error(model, tmp_path):
    """HDF5 itself ends the process there; a limit on the size of files is what a full disk is."""
    model.save_weights(tmp_path / "f.weights.h5")
    before = content(tmp_path)
    code = """
        import resource
        from small_flows import masked_model

        model = masked_model()
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, -1))
        try:
            model.save_weights("f.weights.h5")
        except OSError as error:
            print(error.strerror)
    """
    tests = str(pathlib.Path(__file__).parent)
    paths = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
    assert "File too large" in run_python(code, tmp_path, PYTHONPATH=paths).stdout
    assert content(tmp_path) == before


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
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(NotADirectoryError, match="file' is a file"),
        atomic_write(path / "../file") as part,
    ):
        part.mkdir()
    assert (tmp_path / "file").read_text() == "x"


def test_what_save_takes(model, tmp_path):
    for path in ("m.h5", "m", "m.weights.h5", "m.keras.zip"):
        with pytest.raises(ValueError, match=r"`filepath` must end in '\.keras'.*Received"):
            model.save(tmp_path / path)
    with pytest.raises(ValueError, match=r"must end in '\.weights\.h5'"):
        model.save_weights(str(tmp_path / "m.h5"))
    for write in (model.save, model.save_weights):
        with pytest.raises(TypeError, match="`filepath` must be a path"):
            write(None)
    for name in ("no/f.keras", "no/f.weights.h5"):
        with pytest.raises(FileNotFoundError, match=f"no folder for '.*{name}'"):
            WRITES[name[3:]](model, tmp_path / name)
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
    again = masked_model()
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
    made = masked_model()
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
