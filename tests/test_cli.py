"""The command line: what it writes and reports."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import QUICK, fit, make_table, run

from tfp_flows import FlowModel
from tfp_flows.model import ConstantColumnWarning, unstack
from tfp_flows_cli import fitted as fitted_files
from tfp_flows_cli import pictures
from tfp_flows_cli.report import report

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def conditional(folder):
    return fit(folder, "conditional", "--context", "age")


def test_fit_writes_model_history_and_pictures_and_reports_likelihoods(fitted):
    out, text = fitted
    pictures = {"density.png", "stages.png", "samples.png", "marginals.png", "history.png"}
    assert {path.name for path in out.iterdir()} == {
        *pictures,
        *("flow.keras", "member-1.keras", "flow.json", "history.csv"),
    }
    assert all((out / name).stat().st_size > 1000 for name in pictures)
    assert len(pd.read_csv(out / "history.csv")) == 2
    for line in ("held-out rows, in nats", "real_nvp flow", "Gaussian  ", "kernel density"):
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
    assert list(written) == ["log_prob", "quantile"][: 1 + out.is_dir()]
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
    found = [float(line.split(",")[0]) for line in scores[1:]]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_class_may_be_absent_among_the_rows_for_training(folder):
    table = make_table()[["height"]]
    held_out = np.random.default_rng(0).permutation(len(table))[:12]
    table["rare"] = np.isin(np.arange(len(table)), held_out[[1, 10]]) * 1.0
    table["one"] = 1.0
    table.to_csv(folder / "rare.csv", index=False)
    out = folder / "rare"
    with pytest.warns(ConstantColumnWarning):
        result = run("fit", folder / "rare.csv", "--context", "rare,one", "--out", out, *QUICK)
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
    before = FlowModel.load(out / "member-1.keras").optimizer.iterations.numpy()
    result = run("fit", folder / "people.csv", "--out", out, "--resume", "--epochs", 4)
    assert result.exit_code == 0, result.output
    assert pd.read_csv(out / "history.csv")["epoch"].tolist() == [0, 1, 2, 3]
    assert FlowModel.load(out / "member-1.keras").optimizer.iterations.numpy() > before > 0
    result = run("fit", folder / "people.csv", "--out", out, "--resume", "--columns", "weight")
    assert result.exit_code == 1 and "--columns cannot change" in result.stderr


def test_the_result_is_a_stack_and_its_weights_are_said(folder):
    rng = np.random.default_rng(0)
    turn = rng.uniform(0, 2 * np.pi, 400)
    ring = np.column_stack([np.cos(turn), np.sin(turn)]) + rng.normal(0, 0.1, (400, 2))
    pd.DataFrame(ring, columns=["x", "y"]).to_csv(folder / "ring.csv", index=False)
    out = folder / "ring"
    result = run("fit", folder / "ring.csv", "--out", out, *QUICK)
    assert result.exit_code == 0, result.output
    parts = unstack(FlowModel.load(out / "flow.keras"))
    assert len(parts) > 1 and sum(weight for weight, _ in parts) == pytest.approx(1)
    for words in (f"stack of {len(parts)} ", "best real_nvp flow", "Weights: ", "the stack is"):
        assert words in result.output


def test_names_of_columns_are_drawn_as_they_stand(folder):
    table = make_table()[["height", "weight"]]
    table.columns = ["price $", "$x^2$ größe 身長"]
    table.to_csv(folder / "names.csv", index=False)
    result = run("fit", folder / "names.csv", "--out", folder / "names", "--plain", *QUICK)
    assert result.exit_code == 0, result.output
    assert (folder / "names" / "density.png").stat().st_size > 1000
    figures = pictures._figures(*fitted_files.load(folder / "names"), None, flow=None, history=None)
    axis = figures["density"].axes[0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == (r"price \$", r"\$x^2\$ größe 身長")


def test_plain_is_one_flow_alone(folder):
    out = folder / "plain"
    command = ["fit", folder / "people.csv", "--out", out, "--columns", "weight", "--plain"]
    result = run(*command, *QUICK)
    assert result.exit_code == 0, result.output
    assert not list(out.glob("member-*"))
    model = FlowModel.load(out / "flow.keras")
    assert unstack(model)[0][1] is model
    assert "Weights" not in result.output and "mixture of" in result.output


def test_a_report_names_what_is_as_good(fitted):
    lines = report(
        "flow", {"flow": np.zeros(9), "Gaussian": np.linspace(-0.1, 0.1, 9)}, range(1, 10)
    )
    assert lines[-1].startswith("It is not ahead of the Gaussian by more than two standard errors")
    lines = report("flow", {"flow": np.ones(9), "Gaussian": np.linspace(-0.1, 0.1, 9)}, range(9))
    assert "not ahead" not in " ".join(lines) and "ahead by 1.000 ± 0.02" in lines[-1]


def test_a_model_that_is_no_stack_is_called_what_it_is(folder):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal([[0.0, 5.0]], 1, (300, 2)), columns=["p", "q"])
    table.to_csv(folder / "normal.csv", index=False)
    command = ["fit", folder / "normal.csv", "--out", folder / "normal", *QUICK, "--epochs", 1]
    text = run(*command).output
    model = FlowModel.load(folder / "normal" / "flow.keras")
    (name,) = [line[2:].split("  ")[0] for line in text.splitlines() if " ± 0" in line][:1]
    parts = unstack(model)
    if len(parts) > 1:
        assert name == f"stack of {len(parts)}"
    else:
        kind = type(parts[0][1].distribution).__name__
        assert kind == ("Flow" if name.startswith("flow") else "GaussianMixture")


def test_help_names_every_command_and_option():
    text = run("--help").output
    assert all(command in text for command in ("fit", "score", "sample", "plot"))
    text = run("fit", "--help").output
    for option in ("flow", "columns", "context", "epochs", "batch-size", "validation", "seed"):
        assert f"--{option}" in text


def test_the_installed_command_is_quiet(fitted):
    """In a process of its own: the result on standard output, and nothing on standard error."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"}
    result = subprocess.run(
        [sys.executable, "-m", "tfp_flows_cli", "sample", str(fitted[0]), "-n", "2"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=120,
    )
    assert result.returncode == 0 and result.stderr == ""
    assert len(result.stdout.strip().splitlines()) == 3
