"""The command line: what it writes, and the one line it says about whatever is wrong."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from tfp_flows import FlowModel
from tfp_flows.model import ConstantColumnWarning, unstack
from tfp_flows_cli import app, pictures
from tfp_flows_cli import fitted as fitted_files
from tfp_flows_cli.report import report

ROOT = Path(__file__).parents[1]
QUICK = ["--flow", "real_nvp", "--epochs", "2", "--layers", "2", "--hidden", "4", "--members", "1"]


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
    before = FlowModel.load(out / "member-1.keras").optimizer.iterations.numpy()
    result = run("fit", folder / "people.csv", "--out", out, "--resume", "--epochs", 4)
    assert result.exit_code == 0, result.output
    assert pd.read_csv(out / "history.csv")["epoch"].tolist() == [0, 1, 2, 3]
    assert FlowModel.load(out / "member-1.keras").optimizer.iterations.numpy() > before > 0
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
    "dependent": (
        csv("a,b,c\n" + "".join(f"{i},{i * i},{i + i * i}\n" for i in range(9))),
        [],
        "'c' is a linear function of 'a', 'b'",
    ),
    "the same twice": (
        csv("a,b\n" + "".join(f"{i * i},{i * i}\n" for i in range(9))),
        [],
        "--exclude b",
    ),
    "too many categories": (
        csv("a,b\n" + "".join(f"{i * i},n{i}\n" for i in range(9))),
        [],
        "9 different values, too many for categories",
    ),
    "nothing but categories": (csv("a,b\n" + "x,u\ny,v\nx,v\n" * 4), [], "no column of numbers"),
    "categories as context": (
        csv("a,b\n" + "1.5,red\n2,blue\n3,red\n" * 3),
        ["--context", "b"],
        "column 'b' holds text such as 'red'",
    ),
    "ids": (
        csv("a,b\n" + "".join(f"{i * i},{2**62 + i}\n" for i in range(9))),
        [],
        "column 'b' differs in no digit",
    ),
    "degrees": (
        csv("a,b\n" + "".join(f"{i * 20},{i * i}\n" for i in range(9))),
        ["--flow", "circular_spline"],
        "give --degrees",
    ),
    "a comma too many": (csv("a,b\n1,2,3\n4,5,6\n"), [], "row 1 has 3 fields"),
    "encoding": (
        other_file("table.csv", "größe,b\n1,2\n".encode("cp1252")),
        [],
        "is not in UTF-8: see line 1",
    ),
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


def test_outliers_do_not_squeeze_the_others(folder):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    x[7, 0] = 1e6
    pd.DataFrame(x, columns=["p", "q"]).to_csv(folder / "far.csv", index=False)
    out = folder / "far"
    result = run("fit", folder / "far.csv", "--out", out, *QUICK, "--plain", "--epochs", 40)
    assert "'p' is 1e+06 in row 8, where 90 % of the values lie between" in result.output
    assert "OutlierWarning" not in result.output and "Warning" not in result.stderr
    scores = pd.read_csv(io.StringIO(run("score", out, folder / "far.csv").stdout))["log_prob"]
    # A standard normal has -2.84.
    assert np.median(scores) > -3.5


def test_a_report_names_the_row_that_decides_the_mean():
    own = np.r_[np.linspace(-1, 1, 40), -5000.0]
    lines = report("flow", {"flow": own, "Gaussian": own - 1}, range(101, 142))
    text = " ".join(lines)
    assert "Row 141 of the table is far from all others" in text
    assert "Without: flow 0.000 ±" in text and "Gaussian -1.000 ±" in text


def test_files_of_scores_keep_ids_and_bad_rows(fitted, folder):
    out, _ = fitted
    table = make_table(6).astype({"weight": object})
    table["who"] = list("abcdef")
    table.loc[2, "weight"] = "?"
    table.to_csv(folder / "bad.csv", index=False)
    result = run("score", out, folder / "bad.csv", "--id", "who")
    assert result.exit_code == 1 and "'weight' holds no number but '?'" in result.stderr
    result = run("score", out, folder / "bad.csv", "--id", "who", "--skip-bad")
    assert result.exit_code == 0 and "1 of 6 rows have no score" in result.stderr
    written = pd.read_csv(io.StringIO(result.stdout))
    assert written["who"].tolist() == list("abcdef")
    assert written["log_prob"].isna().tolist() == [False, False, True, False, False, False]
    assert written["quantile"].dropna().between(0, 1).all()


def test_samples_are_written_as_their_ending_says(fitted, folder):
    out, _ = fitted
    texts = {}
    for ending in ("csv", "tsv", "csv.gz", "parquet"):
        path = folder / f"more.{ending}"
        assert run("sample", out, "-n", 5, "--seed", 1, "--out", path).exit_code == 0
        read = {"parquet": pd.read_parquet}.get(ending, pd.read_csv)
        texts[ending] = read(path, **({"sep": "\t"} if ending == "tsv" else {}))
        np.testing.assert_allclose(texts[ending], texts["csv"], rtol=1e-6)
        assert list(texts[ending]) == ["height", "weight"]
    result = run("sample", out, "--out", folder / "more.xlsx")
    assert result.exit_code == 1 and "--out must end in .csv" in result.stderr


def test_angles_in_degrees(folder):
    degrees = np.random.default_rng(0).normal(170, 20, (80, 2)) % 360
    path, out = folder / "wind.csv", folder / "wind"
    pd.DataFrame(degrees, columns=["a", "b"]).to_csv(path, index=False)
    command = ["fit", path, *QUICK, "--flow", "circular_spline", "--degrees", "--out", out]
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert "uniform on the circle" in result.output and "Gaussian" not in result.output
    drawn = pd.read_csv(io.StringIO(run("sample", out, "-n", 50, "--seed", 0).stdout))
    assert 50 < drawn.abs().to_numpy().max() <= 180
    shifted = folder / "shifted.csv"
    pd.DataFrame(degrees - 360, columns=["a", "b"]).to_csv(shifted, index=False)
    one, other = (run("score", out, file).stdout for file in (path, shifted))
    assert one == other
    scores = pd.read_csv(io.StringIO(one))["log_prob"]
    assert scores.mean() == pytest.approx(-2 * np.log(360), abs=2)  # Per square degree.


def test_categories_beside_numbers(folder):
    rng = np.random.default_rng(0)
    kind, smokes = rng.choice(["cat", "dog", "owl"], 120), rng.random(120) < 0.3
    weight = np.where(kind == "owl", 1.0, 9.0) + rng.normal(0, 0.1, 120)
    table = pd.DataFrame({"weight": weight, "kind": kind, "smokes": smokes})
    path, out = folder / "animals.csv", folder / "animals"
    table.to_csv(path, index=False)
    result = run("fit", path, "--out", out, *QUICK)
    assert result.exit_code == 0, result.output
    assert "shares and Gaussian regression" in result.output
    drawn = pd.read_csv(io.StringIO(run("sample", out, "-n", 200, "--seed", 0).stdout))
    assert set(drawn["kind"]) == {"cat", "dog", "owl"} and set(drawn["smokes"]) == {True, False}
    scores = pd.read_csv(io.StringIO(run("score", out, path).stdout))["log_prob"]
    model = FlowModel.load(out / "flow.keras")
    events = np.column_stack(
        [[["cat", "dog", "owl"].index(k) for k in kind], smokes.astype(float), weight]
    )
    np.testing.assert_allclose(scores, model.log_prob(events), rtol=1e-4)
    table.loc[3, "kind"] = "eel"
    table.to_csv(folder / "eel.csv", index=False)
    result = run("score", out, folder / "eel.csv")
    assert result.exit_code == 1
    assert "column 'kind' must hold one of cat, dog, owl, but is 'eel' in row 4" in result.stderr
    assert "1 of 120 rows" in run("score", out, folder / "eel.csv", "--skip-bad").stderr


def test_rows_without_a_number_are_left_out_and_numbered_as_in_the_table(folder):
    table = make_table(70)
    table.loc[[0, 5], "weight"] = np.nan
    path, out = folder / "holes.csv", folder / "holes"
    table.to_csv(path, index=False)
    command = ["fit", path, "--out", out, *QUICK, "--exclude", "age", "--plain"]
    result = run(*command)
    assert result.exit_code == 1 and "has no value in row 1 (2 such rows)" in result.stderr
    result = run(*command, "--drop-missing")
    assert result.exit_code == 0, result.output
    assert "Left out 2 of 70 rows without a number." in result.output
    assert "68 rows: " in result.output
    assert run("plot", out, "--out", folder / "again").exit_code == 0
    result = run("fit", path, "--out", out, "--resume", "--epochs", 3)
    assert result.exit_code == 0, result.output


def test_ties_sentinels_and_outliers_are_named(folder):
    table = make_table()
    table["age"] = np.round(table["age"] / 20)
    table.loc[[3, 9], "height"] = -999
    table.loc[7, "weight"] = 1e60
    table.to_csv(folder / "odd.csv", index=False)
    result = run("fit", folder / "odd.csv", "--out", folder / "odd", *QUICK)
    assert "Many values are equal in 'age' (" in result.output
    assert "--dequantize 0,0,1 fits probabilities" in result.output
    assert "'height' is -999 in 2 rows" in result.output
    assert "'weight' is 1e+60 in row 8" in result.output


def test_rounded_columns_as_probabilities(folder):
    table = make_table(80).round()[["height", "weight"]]
    table.to_csv(folder / "rounded.csv", index=False)
    out = folder / "rounded"
    command = ["fit", folder / "rounded.csv", "--dequantize", "1", "--out", out, *QUICK]
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert "Many values are equal" not in result.output
    drawn = pd.read_csv(io.StringIO(run("sample", out, "-n", 20, "--seed", 0).stdout))
    assert (drawn == drawn.round()).all().all()


@pytest.mark.parametrize(
    "options",
    [
        ["--support", "positive", "--base", "student_t"],
        ["--linear", "none", "--dtype", "float64", "--dropout", "0.1"],
        ["--support", "50:300,positive"],
    ],
)
def test_options_reach_the_flow(options, folder):
    out = folder / "_".join(options).replace(":", "")
    command = ["fit", folder / "people.csv", "--columns", "height,weight", "--out", out]
    result = run(*command, *QUICK, "--plain", *options)
    assert result.exit_code == 0, result.output
    flow = FlowModel.load(out / "flow.keras").distribution
    parts = {type(part).__name__ for part in flow.submodules}
    assert ("Support" in parts) == ("--support" in options)
    assert ("LU" in parts) == ("--linear" not in options)
    assert flow.dtype == ("float64" if "float64" in options else "float32")
    assert ("StudentT" in parts) == ("student_t" in options)


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
