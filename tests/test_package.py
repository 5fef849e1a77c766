"""The package as a whole: public names, the direction of imports, and what importing it does."""

import ast
import collections
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tfp_flows

PACKAGE = Path(tfp_flows.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
COMMAND = sorted((PACKAGE.parent / "tfp_flows_cli").glob("*.py"))
MODULES = {
    ".".join(("tfp_flows", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in FILES
}

# The order in which the parts stand on each other: each may import those before it.
ORDER = ("ops", "networks", "bijectors", "distributions", "flows", "model", "vi", "rl")
# What stands beside the order, and what of the package it may import.
BESIDE = {
    "_version": (),
    "audio": ("ops", "distributions"),
    "datasets": ("distributions",),
    "diagnostics": ("ops",),
    "serialization": ("ops", "bijectors", "distributions"),
    "testing": ("ops", "networks", "bijectors", "distributions", "serialization"),
    "plots": ("ops", "distributions", "model"),
}
BELOW = {part: {*ORDER[:i]} for i, part in enumerate(ORDER)} | {
    part: set(below) for part, below in BESIDE.items()
}
BELOW["model"].add("serialization")
BELOW["vi"].add("serialization")


def part_of(module):
    """The part of the package that a module belongs to: the first name under `tfp_flows`."""
    return module.split(".")[1]


def imported_modules(path):
    """Full names of all modules and names that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def run(code, **environment):
    """Run Python code in a process of its own, and return what it did."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "PYTHONPATH": str(PACKAGE.parent),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("name", [name for name in MODULES if "__main__" not in name])
def test_all_is_sorted_and_real(name):
    module = importlib.import_module(name)
    if "__all__" not in vars(module):
        assert part_of(f"{name}.") in ("testing", "_version"), "a public module has __all__"
        return
    # As ruff sorts: names in capitals, such as MLP, come first.
    assert list(module.__all__) == sorted(module.__all__, key=lambda n: (not n.isupper(), n))
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        assert getattr(module, public, None) is not None, public


def test_the_names_of_the_readme_are_public():
    from tfp_flows import Flow, FlowModel, bijectors, datasets, flows, networks, plots, testing

    assert {"Flow", "FlowModel", "bijectors", "datasets", "flows"} <= set(tfp_flows.__all__)
    assert issubclass(Flow, object)
    assert issubclass(FlowModel, object)
    assert bijectors.transformers.RationalQuadraticSpline
    assert all((datasets.faithful, flows.get, networks.MLP, plots.stages, testing.check_flow))
    assert tfp_flows.__version__.count(".") >= 1


@pytest.mark.parametrize("name", [name for name in MODULES if name != "tfp_flows"])
def test_imports_point_one_way(name):
    part = part_of(name)
    if part == "__main__":
        return  # It calls the command, which stands on top of all.
    assert part in BELOW, f"say in this test what {part} may import"
    for imported in imported_modules(MODULES[name]):
        assert imported.split(".")[0] != "tfp_flows_cli"
        if imported.split(".")[0] == "tfp_flows":
            other = imported.split(".")[1]
            assert other == part or other in BELOW[part], f"{name} imports {imported}"


def test_there_is_no_way_around():
    """What may be imported, followed to the end, never leads back."""

    def reached(part, path=()):
        assert part not in path, f"a circle: {path}"
        return BELOW[part].union(*(reached(other, (*path, part)) for other in BELOW[part]))

    for part in BELOW:
        reached(part)


def test_tests_and_benchmarks_are_short():
    root = Path(__file__).parents[1]
    paths = [*root.glob("tests/*.py"), *root.glob("benchmarks/**/*.py")]
    lengths = {path.name: len(path.read_text().splitlines()) for path in paths}
    assert len(lengths) > 80
    assert {name: length for name, length in lengths.items() if length > 350} == {}


@pytest.mark.parametrize(
    "path", [*FILES, *COMMAND], ids=lambda path: str(path.relative_to(PACKAGE.parent))
)
def test_a_file_is_short_and_never_imports_legacy_keras(path):
    source = path.read_text()
    assert len(source.splitlines()) < 350
    for imported in imported_modules(path):
        names = imported.split(".")
        assert names[0] != "tf_keras"
        assert names[:2] != ["tensorflow", "keras"]
    attributes = [
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    ]
    assert "tf.keras" not in attributes


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_pandas_and_matplotlib_are_imported_inside_functions(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            for name in names:
                assert name.split(".")[0] not in ("pandas", "matplotlib", "gymnasium"), ast.unparse(
                    node
                )


def test_importing_has_no_side_effects():
    done = run(
        """
import logging, random, sys, warnings
import numpy as np
import tensorflow as tf
import tensorflow_probability, keras

def state():
    return {
        "floatx": keras.config.floatx(),
        "policy": keras.config.dtype_policy().name,
        "epsilon": keras.config.epsilon(),
        "root level": logging.getLogger().level,
        "root handlers": list(logging.getLogger().handlers),
        "tf level": tf.get_logger().level,
        "absl level": logging.getLogger("absl").level,
        "filters": list(warnings.filters),
        "eager": tf.executing_eagerly(),
        "numpy seed": np.random.get_state()[1].tolist(),
        "random seed": random.getstate(),
        "numpy errors": np.geterr(),
        "numpy print": np.get_printoptions(),
    }

before, loaded = state(), set(sys.modules)
import tfp_flows
after = state()
assert after == before, {k: (before[k], after[k]) for k in before if before[k] != after[k]}
new = {name.split(".")[0] for name in set(sys.modules) - loaded}
print(sorted(new - {"pathlib", "zipfile"}))
""",
        TF_USE_LEGACY_KERAS="0",  # off, hence no error
        KERAS_BACKEND="tensorflow",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # Nothing else is loaded that TensorFlow, TFP, Keras and NumPy do without.
    assert "tfp_flows" in done.stdout
    for extra in (
        "pandas",
        "matplotlib",
        "PIL",
        "typer",
        "pyarrow",
        "sklearn",
        "scipy",
        "gymnasium",
    ):
        assert f"'{extra}'" not in done.stdout


def test_a_plain_import_needs_neither_pandas_nor_matplotlib_but_keras_on_tensorflow():
    done = run(
        """
import sys
for missing in ("pandas", "matplotlib", "typer", "pyarrow", "sklearn", "gymnasium"):
    sys.modules[missing] = None  # importing it is an ImportError
import keras
backend, keras.config.backend = keras.config.backend, lambda: "jax"  # as by keras.json
try:
    import tfp_flows
except ImportError as error:
    print(error)
keras.config.backend = backend
import tfp_flows
"""
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("tfp_flows needs Keras on TensorFlow: set KERAS_BACKEND")
    assert done.stdout.endswith("Received: jax\n")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"TF_USE_LEGACY_KERAS": "1"}, "needs Keras 3.*unset.*TF_USE_LEGACY_KERAS"),
        ({"TF_USE_LEGACY_KERAS": "True"}, "needs Keras 3.*unset.*TF_USE_LEGACY_KERAS"),
        ({"KERAS_BACKEND": "jax"}, "needs Keras on TensorFlow.*KERAS_BACKEND=jax"),
        ({"KERAS_BACKEND": "torch"}, "needs Keras on TensorFlow.*KERAS_BACKEND=torch"),
    ],
)
def test_another_keras_is_one_clear_error(environment, message):
    done = run("import tfp_flows", **environment)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.search(f"^ImportError: tfp_flows {message}", last), done.stderr[-500:]
    assert "During handling" not in done.stderr


def test_every_test_file_is_in_one_part_of_make_test():
    root = Path(__file__).parents[1]
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    found = collections.Counter()
    for part in re.findall(r"^\t\$\(PYTEST\) (.*)$", makefile, re.MULTILINE):
        patterns = re.findall(r"tests/\S+", part)
        # Of two halves of one file, the second says "not".
        if "-k" not in part or "not " in part:
            found.update(path.name for pattern in patterns for path in root.glob(pattern))
    assert found == {path.name: 1 for path in (root / "tests").glob("test_*.py")}
