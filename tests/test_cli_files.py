"""The command line writes whole files, and says in one line where it cannot."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import normal
from typer.testing import CliRunner

import tfp_flows
from tfp_flows import FlowModel, flows
from tfp_flows_cli import app
from tfp_flows_cli.training import progress


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table, and a model of it."""
    folder = tmp_path_factory.mktemp("cli")
    np.save(folder / "data.npy", normal(60, 2))
    FlowModel(flows.real_nvp(2, layers=2, hidden_units=(4,), seed=0)).save(folder / "flow.keras")
    return folder


@pytest.fixture
def full_disk(monkeypatch):
    """Nothing that is written reaches the disk."""

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)


def test_a_full_disk_is_one_line_and_leaves_nothing(folder, tmp_path, full_disk):
    model, data = folder / "flow.keras", folder / "data.npy"
    for command in (
        ("fit", data, "--out", tmp_path / "run", "--epochs", 1),
        ("score", model, data, "--out", tmp_path / "scores.csv"),
        ("sample", model, "-n", 5, "--out", tmp_path / "more.csv"),
        ("plot", model, "--out", tmp_path),
    ):
        result = run(*command)
        assert result.exit_code == 1, command
        assert "No space left on device." in result.stderr
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1
        assert os.listdir(tmp_path) == []


def test_training_that_fills_the_disk_keeps_what_was_written(folder, tmp_path, monkeypatch):
    out = tmp_path / "run"
    command = [
        "fit",
        folder / "data.npy",
        "--out",
        out,
        "--layers",
        1,
        "--hidden",
        4,
        "--members",
        1,
    ]
    real, count = os.fsync, 0

    def soon_full(descriptor):
        nonlocal count
        count += 1
        if count > 25:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", soon_full)
    result = run(*command, "--epochs", 40)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "Error: No space left on device."
    monkeypatch.undo()
    assert not [name for name in os.listdir(out) if name.startswith(".tmp-")]
    done = progress(out / "history.csv")
    assert 0 < done.epochs < 40
    FlowModel.load(out / "member-1.keras")
    result = run("score", out, folder / "data.npy")
    assert f"`tfp-flows fit --resume --out {out}` ends the fit" in result.stderr
    result = run("fit", "--resume", "--out", out, "--epochs", done.epochs + 1)
    assert result.exit_code == 0, result.output
    again = progress(out / "history.csv")
    assert again.epochs == done.epochs + 1
    assert {"flow.keras", "flow.json", "history.csv", "density.png"} <= set(os.listdir(out))


def test_standard_output_on_a_full_disk_is_one_line(folder):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tfp_flows_cli", "sample", "flow.keras", "-n", "5"],
            cwd=folder,
            env={
                **os.environ,
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "PYTHONPATH": str(Path(tfp_flows.__file__).parents[1]),
            },
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=300,
        )
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if "cudart_stub" not in line]
    assert lines[-1] == "Error: Standard output cannot be written: No space left on device."
    assert not [line for line in lines if "Traceback" in line or "Exception ignored" in line]
