"""The command line: what it writes, and the one line it says about whatever is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from tfp_flows import FlowModel
from tfp_flows.cli import app
from tfp_flows.model import ConstantColumnWarning

ROOT = Path(__file__).parents[1]
QUICK = ["--epochs", "2", "--layers", "2", "--hidden", "4"]


def run(*arguments):
    """Run the command in this process; a bug's traceback is raised, not swallowed."""
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def make_table(rows=60):
    rng = np.random.default_rng(0)
    age = rng.uniform(20, 60, rows)
    height = 100 + age + rng.normal(0, 5, rows)
    return pd.DataFrame(
        {"height": height, "weight": height / 2 + rng.normal(size=rows), "age": age}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    make_table().to_csv(folder / "people.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def fitted(folder):
    """A folder with a flow of two columns, fitted for two epochs."""
    out = folder / "fitted"
    result = run("fit", folder / "people.csv", "--columns", "height,weight", "--out", out, *QUICK)
    assert result.exit_code == 0, result.output
    return out, result.output


@pytest.fixture(scope="module")
def conditional(folder):
    out = folder / "conditional"
    result = run("fit", folder / "people.csv", "--context", "age", "--out", out, *QUICK)
    assert result.exit_code == 0, result.output
    return out, result.output


def test_fit_writes_model_history_and_pictures_and_reports_likelihoods(fitted):
    out, text = fitted
    pictures = {"density.png", "stages.png", "samples.png", "marginals.png", "history.png"}
    assert {path.name for path in out.iterdir()} == {
        *pictures,
        *("flow.keras", "flow.json", "history.csv"),
    }
    assert all((out / name).stat().st_size > 1000 for name in pictures)
    assert len(pd.read_csv(out / "history.csv")) == 2
    for line in ("held-out rows in nats", "neural_spline flow", "Gaussian, full", "kernel density"):
        assert line in text


@pytest.mark.parametrize("ending", ["csv", "parquet", "npz", "npy"])
def test_score_is_log_prob_for_every_kind_of_file(fitted, folder, ending):
    out, _ = fitted
    table = make_table()
    path = folder / f"scored.{ending}"
    if ending == "csv":
        table[["age", "weight", "height"]].to_csv(path, index=False)  # Columns go by name.
    elif ending == "parquet":
        table.to_parquet(path)
    elif ending == "npz":
        np.savez(path, **{name: table[name].to_numpy() for name in table})
    else:
        # Without names columns go by place, which a file with two columns and a plain model has.
        np.save(path, table[["height", "weight"]].to_numpy())
        FlowModel.load(out / "flow.keras").save(folder / "plain.keras")
        out = folder / "plain.keras"
    scores = folder / f"scores_{ending}.csv"
    result = run("score", out, path, "--out", scores)
    assert result.exit_code == 0, result.output
    model = FlowModel.load(out / "flow.keras" if out.is_dir() else out)
    expected = model.log_prob(table[["height", "weight"]].to_numpy())
    written = pd.read_csv(scores)
    assert list(written) == ["log_prob"]
    np.testing.assert_allclose(written["log_prob"], expected, rtol=1e-5)


def test_sample_is_reproducible_and_named(fitted):
    out, _ = fitted
    first, second = (run("sample", out, "-n", 5, "--seed", 3).output for _ in range(2))
    assert first == second != run("sample", out, "-n", 5, "--seed", 4).output
    lines = first.strip().splitlines()
    assert lines[0] == "height,weight" and len(lines) == 6


def test_a_fit_given_context(conditional, folder):
    out, text = conditional
    assert "linear regression, Gaussian" in text
    ages = folder / "ages.csv"
    ages.write_text("age\n25\n55\n")
    result = run("sample", out, "--context", ages, "-n", 3, "--seed", 0)
    lines = result.output.strip().splitlines()
    assert lines[0] == "age,height,weight"
    assert [line.split(",")[0] for line in lines[1:]] == ["25.0"] * 3 + ["55.0"] * 3
    scores = run("score", out, folder / "people.csv").output.strip().splitlines()
    model, table = FlowModel.load(out / "flow.keras"), make_table()
    expected = model.log_prob(table[["height", "weight"]], table[["age"]])
    np.testing.assert_allclose([float(s) for s in scores[1:]], expected, rtol=1e-4)


def test_a_class_may_be_absent_among_the_rows_for_training(folder):
    table = make_table()[["height"]]
    held_out = np.random.default_rng(0).permutation(len(table))[:12]
    table["rare"] = np.isin(np.arange(len(table)), held_out[[1, 10]]) * 1.0
    table.to_csv(folder / "rare.csv", index=False)
    out = folder / "rare"
    with pytest.warns(ConstantColumnWarning):
        result = run("fit", folder / "rare.csv", "--context", "rare", "--out", out, *QUICK)
    assert result.exit_code == 0, result.output
    assert "weights, float32" in result.output
    assert "nan" not in result.output
    assert "linear regression, Gaussian" in result.output


def test_plot_draws_again_elsewhere(fitted, folder):
    out, _ = fitted
    result = run("plot", out, "--out", folder / "pictures")
    assert result.exit_code == 0, result.output
    assert (folder / "pictures" / "stages.png").exists()


def test_resume_goes_on_where_the_fit_ended(folder):
    out = folder / "resumed"
    command = ["fit", folder / "people.csv", "--columns", "height,weight", "--out", out]
    assert run(*command, *QUICK).exit_code == 0
    before = FlowModel.load(out / "flow.keras").optimizer.iterations.numpy()
    result = run("fit", folder / "people.csv", "--out", out, "--resume", "--epochs", 4)
    assert result.exit_code == 0, result.output
    assert pd.read_csv(out / "history.csv")["epoch"].tolist() == [0, 1, 2, 3]
    assert FlowModel.load(out / "flow.keras").optimizer.iterations.numpy() > before > 0
    result = run("fit", folder / "people.csv", "--out", out, "--resume", "--columns", "weight")
    assert result.exit_code == 1 and "--columns cannot change" in result.stderr


def csv(text):
    def write(path):
        path.with_suffix(".csv").write_text(text)
        return path.with_suffix(".csv")

    return write


def table_with(column, value):
    def write(path):
        table = make_table(20).astype({column: object})
        table.loc[4, column] = value
        table.to_csv(path.with_suffix(".csv"), index=False)
        return path.with_suffix(".csv")

    return write


def other_file(name, content=b""):
    def write(path):
        path = path.with_name(name)
        path.write_bytes(content)
        return path

    return write


BAD_TABLES = {
    "missing": (table_with("weight", ""), [], "column 'weight' has no value in row 5"),
    "text": (table_with("height", "tall"), [], "column 'height' holds no number but 'tall'"),
    "infinite": (table_with("height", "inf"), [], "column 'height' must be finite"),
    "constant": (csv("a,b\n" + "1,2\n3,2\n" * 9), [], "column 'b' is constant, 2"),
    "empty": (csv(""), [], "is empty"),
    "no rows": (csv("a,b\n"), [], "has no rows"),
    "one row": (csv("a,b\n1,2\n"), [], "two rows or more"),
    "no header": (csv("1,2\n3,4\n"), [], "has no header"),
    "twice": (csv("a,a\n1,2\n3,4\n"), [], "two columns 'a'"),
    "unknown column": (table_with("age", 3), ["--columns", "size"], "no column 'size'"),
    "both": (
        table_with("age", 3),
        ["--columns", "age,height", "--context", "age"],
        "'age' is in both --columns and --context",
    ),
    "flow": (
        table_with("age", 3),
        ["--flow", "glow"],
        "--flow must be one of autoreg",
    ),
    "fraction": (table_with("age", 3), ["--validation", "1.5"], "--validation must be"),
    "epochs": (table_with("age", 3), ["--epochs", "0"], "--epochs must be"),
    "no file": (lambda path: path.with_name("nothing.csv"), [], "There is no file"),
    "ending": (other_file("table.xls", b"x"), [], "must end in one of .csv"),
    "parquet": (other_file("table.parquet", b"no parquet"), [], "cannot be read"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_bad_table_is_one_line_and_nothing_is_written(name, tmp_path):
    write, options, message = BAD_TABLES[name]
    path, out = write(tmp_path / "table"), tmp_path / "out"
    result = run("fit", path, "--out", out, *QUICK, *options)
    assert result.exit_code == 1
    assert message in result.stderr and result.stderr.startswith("Error: ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert not out.exists()


def test_an_existing_folder_or_file_is_left_alone(fitted, folder):
    out, _ = fitted
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    result = run("fit", folder / "people.csv", "--out", out, *QUICK)
    assert result.exit_code == 1 and "exists: choose another --out" in result.stderr
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    kept = folder / "kept.csv"
    kept.write_text("mine")
    result = run("score", out, folder / "people.csv", "--out", kept)
    assert result.exit_code == 1 and kept.read_text() == "mine"


@pytest.mark.parametrize("kind", ["truncated", "foreign", "missing"])
def test_a_bad_model_is_one_line(kind, fitted, folder):
    model = folder / f"{kind}.keras"
    if kind == "truncated":
        model.write_bytes((fitted[0] / "flow.keras").read_bytes()[:2000])
    elif kind == "foreign":
        model.write_text("no model")
    result = run("score", model, folder / "people.csv")
    assert result.exit_code == 1 and model.name in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_help_names_every_command_and_option():
    text = run("--help").output
    assert all(command in text for command in ("fit", "score", "sample", "plot"))
    text = run("fit", "--help").output
    for option in ("flow", "columns", "context", "epochs", "batch-size", "validation", "seed"):
        assert f"--{option}" in text


def test_the_installed_command_is_quiet(fitted):
    """In a process of its own: the result on standard output, and nothing on standard error."""
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    result = subprocess.run(
        [sys.executable, "-m", "tfp_flows_command", "sample", str(fitted[0]), "-n", "2"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=120,
    )
    assert result.returncode == 0 and result.stderr == ""
    assert len(result.stdout.strip().splitlines()) == 3
