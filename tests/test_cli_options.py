"""The command line: columns of every kind, and options that reach the flow."""

import io

import numpy as np
import pandas as pd
import pytest
from command_line import QUICK, make_table, run

from tfp_flows import FlowModel
from tfp_flows_cli.models import new_model
from tfp_flows_cli.recipe import Recipe
from tfp_flows_cli.report import report


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


def test_truth_values_as_context(folder):
    table = make_table().assign(smokes=lambda table: table["age"] > 40)
    path, out = folder / "smokers.csv", folder / "smokers"
    table.to_csv(path, index=False)
    asked = ["--columns", "height,weight", "--context", "smokes", "--plain"]
    assert run("fit", path, "--out", out, *QUICK, *asked).exit_code == 0
    table[["smokes"]].to_csv(folder / "context.csv", index=False)
    table[["smokes"]].astype(float).to_csv(folder / "numbers.csv", index=False)
    drawn = [
        run("sample", out, "--context", folder / name, "-n", 2, "--seed", 0).stdout
        for name in ("context.csv", "numbers.csv")
    ]
    assert drawn[0] == drawn[1] and drawn[0].count("\n") == 121


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


def test_one_column_given_others_gets_small_flows():
    asked = {"columns": ["weight"], "context": ["age"]}
    table = make_table()
    recipe = Recipe.new(table, "people", asked)
    assert recipe.members == 4
    assert [recipe.dropout_of(i) for i in range(4)] == [0.1, 0.0, 0.1, 0.0]
    assert [recipe.noise_of(i, 49) for i in range(4)] == pytest.approx([0, 0, 0.2, 0])
    model = new_model(recipe, recipe.rows(table, "people"), index=1, learning_rate=None)
    (layer,) = model.distribution.bijector.bijectors
    assert (128, 128) in [tuple(v.shape) for v in layer.trainable_variables]
    for other in ({"flow": "maf"}, {"columns": ["weight", "height"]}):
        recipe = Recipe.new(table, "people", asked | other)
        assert recipe.members == 2 and recipe.dropout_of(0) == 0.0
    assert Recipe.new(table, "people", asked | {"members": 3}).members == 3
