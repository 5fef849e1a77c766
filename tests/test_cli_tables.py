"""Tables as people have them: separators, decimals, encodings, comments, packing, pipes."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

import tfp_flows
from tfp_flows import datasets, flows
from tfp_flows_cli import options, tables, values
from tfp_flows_cli.errors import InputError
from tfp_flows_cli.recipe import Recipe
from tfp_flows_cli.text import Format

EXPECTED = pd.DataFrame({"a": [1.5, 2.5, -3.0], "b": [10.0, 20.25, 30.0]})
TEXTS = {
    "commas": "a,b\n1.5,10\n2.5,20.25\n-3,30\n",
    "blanks behind commas": "a, b\n1.5, 10\n2.5, 20.25\n-3, 30\n",
    "semicolons": "a;b\n1.5;10\n2.5;20.25\n-3;30\n",
    "decimal commas": "a;b\n1,5;10\n2,5;20,25\n-3;30\n",
    "tabs": "a\tb\n1.5\t10\n2.5\t20.25\n-3\t30\n",
    "decimal commas between tabs": "a\tb\n1,5\t10\n2,5\t20,25\n-3\t30\n",
    "bars": "a|b\n1.5|10\n2.5|20.25\n-3|30\n",
    "blanks": "a    b\n1.5  10\n2.5  20.25\n-3   30\n",
    "comments": "# from a logger\na,b\n1.5,10\n# a pause\n2.5,20.25\n\n-3,30\n",
    "commas at the ends of rows": "a,b\n1.5,10,\n2.5,20.25,\n-3,30,\n",
    "commas at the ends of all lines": "a,b,\n1.5,10,\n2.5,20.25,\n-3,30,\n",
    "quotation marks": '"a","b"\n"1.5","10"\n"2.5","20.25"\n"-3","30"\n',
    "lines of Windows": "a,b\r\n1.5,10\r\n2.5,20.25\r\n-3,30\r\n",
    "no line end": "a,b\n1.5,10\n2.5,20.25\n-3,30",
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_kind_of_text_is_found_out(name, tmp_path):
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path = tmp_path / "table.txt"
        path.write_bytes(TEXTS[name].encode(encoding))
        frame = tables.read(str(path))
        assert list(frame) == ["a", "b"]
        np.testing.assert_array_equal(values.numbers(frame, ["a", "b"], "it"), EXPECTED)


@pytest.mark.parametrize("packing", ["gz", "bz2", "xz"])
def test_packed_text(packing, tmp_path):
    path = tmp_path / f"table.csv.{packing}"
    EXPECTED.to_csv(path, index=False)
    np.testing.assert_array_equal(tables.read(str(path)), EXPECTED)
    path.write_bytes(b"no such thing")
    with pytest.raises(InputError, match=r"cannot be (unpacked|read)"):
        tables.read(str(path))


def test_what_the_user_says_counts(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes("größe:b\n1,5:2\n2,5:3\n".encode("cp1252"))
    frame = tables.read(str(path), Format(separator=":", decimal=",", encoding="cp1252"))
    assert frame.to_dict("list") == {"größe": [1.5, 2.5], "b": [2, 3]}
    with pytest.raises(InputError, match="Name its encoding, as in --encoding cp1252"):
        tables.read(str(path))
    with pytest.raises(InputError, match="--encoding: Python knows none called 'klingon'"):
        tables.read(str(path), Format(encoding="klingon"))
    with pytest.raises(InputError, match=r"--decimal must be \. or a comma"):
        tables.read(str(path), Format(decimal="x", encoding="cp1252"))
    with pytest.raises(InputError, match="--sep must be one character"):
        tables.read(str(path), Format(separator="::", encoding="cp1252"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n1,2,3\n", "row 2 has 3 fields, and the header names 2 columns, between commas"),
        ("a;b\n1;2\n" * 1 + "3;4\n" * 300 + "1;2;3\n", "row 302 has 3 fields"),
        ("1,2\n3,4\n", "has no header"),
        ("# nothing\n", "is empty"),
        ("a,b\n", "has no rows"),
        ("a,a\n1,2\n", "two columns 'a'"),
    ],
)
def test_what_is_wrong_with_a_text(text, message, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        tables.read(str(path))


def test_names_of_flows_and_sets_are_those_of_the_package():
    assert list(options.FAMILIES) == flows.names()
    assert ("faithful", *datasets.names()) == tables.BUILT_IN


def command(*arguments, **kwargs):
    root = os.path.dirname(os.path.dirname(tfp_flows.__file__))
    return subprocess.run(
        [sys.executable, "-m", "tfp_flows_cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": root},
        **kwargs,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, "score"),
        (["-h"], 0, "score"),
        (["--version"], 0, "tfp-flows 0."),
        (["fit", "--help"], 0, "--minutes"),
        (["fit", "--layers", "many"], 2, "--layers"),
        (["fit", "--flow", "glow"], 1, "--flow must be one of autoregressive_spline"),
        (["fit", "nothing.csv"], 1, "There is no file nothing.csv"),
        (["score", "nothing", "faithful"], 1, "There is no model nothing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_and_errors_come_without_tensorflow(arguments, code, said, tmp_path):
    start = time.monotonic()
    done = command(*arguments, cwd=tmp_path)
    seconds = time.monotonic() - start
    assert done.returncode == code
    assert said in done.stdout + done.stderr
    assert seconds < 3  # Under 0.6 alone on a machine; the import of TensorFlow takes 5.


def test_a_recipe_of_the_first_version_is_read(tmp_path):
    path = tmp_path / "flow.json"
    old = {"data": "faithful", "columns": ["a"], "context": [], "flow": "maf", "layers": 3}
    path.write_text(json.dumps({**old, "hidden": None, "validation": 0.2, "test": 0.1, "seed": 4}))
    recipe = Recipe.load(path)
    assert recipe.plain and recipe.options == {"layers": 3} and recipe.flow == "maf"
    recipe.save(path)
    assert Recipe.load(path) == recipe
    path.write_text('{"columns": 3}')
    with pytest.raises(InputError, match="was not written by tfp-flows"):
        Recipe.load(path)


def test_the_history_of_a_fit_is_that_of_its_best_flow():
    recipe = Recipe("a.csv", ["a"], [])
    assert [recipe.history_of(i) for i in range(2)] == ["history.csv", "history-2.csv"]
    assert recipe.noise_of(0, 100) == pytest.approx(0.14) and recipe.noise_of(1, 100) == 0
    fixed = dataclasses.replace(recipe, noise=0.3)
    assert fixed.noise_of(0, 100) == fixed.noise_of(1, 100) == 0.3


def test_standard_input_is_a_table(tmp_path):
    done = command("fit", "-", "--columns", "b", cwd=tmp_path, input="a,b\n1,2\n3,2\n")
    assert done.returncode == 1
    assert done.stderr == "Error: -: column 'b' is constant, 2: leave it out (--exclude b).\n"
