"""The command line says in one line whatever is wrong, and then writes nothing."""

import pytest
from command_line import QUICK, make_table, run


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
        "column 'b' holds text such as 'red', and a context must hold numbers",
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


@pytest.mark.parametrize(
    ("column", "value", "options"),
    [
        ("weight", -1.0, ["--support", "real,positive,positive"]),
        ("age", 30.5, ["--dequantize", "0,0,1"]),
        ("age", 200.0, ["--columns", "age", "--flow", "circular_spline"]),
    ],
)
def test_rows_are_those_of_the_table(column, value, options, tmp_path):
    """Also behind rows that are left out, and of those that are drawn for training."""
    table = make_table(60).round({"age": 0})
    table["age"] = table["age"] % 3 if "circular_spline" in options else table["age"]
    table.loc[3, "age"] = None
    for row in (20, 21, 22):  # Of these, one at least is a row for training.
        table.loc[row, column] = value
    table.to_csv(tmp_path / "table.csv", index=False)
    usual = ["--out", tmp_path / "out", "--drop-missing", "--epochs", "1", *options]
    result = run("fit", tmp_path / "table.csv", *usual)
    assert result.exit_code == 1
    assert any(f"row {row}" in result.stderr for row in (21, 22, 23)), result.stderr


def test_a_column_may_be_called_as_rows_are(tmp_path):
    table = make_table(60).rename(columns={"weight": "row 999"})
    table.loc[20:50, "row 999"] = -1.0
    table.to_csv(tmp_path / "table.csv", index=False)
    usual = ["--out", tmp_path / "out", "--support", "real,positive,positive"]
    result = run("fit", tmp_path / "table.csv", *usual)
    assert result.exit_code == 1 and "'row 999'. Received: -1.0 in row " in result.stderr


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
