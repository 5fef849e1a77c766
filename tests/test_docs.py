"""Every example runs and gives what it says: in the README, and in docstrings of public objects.

What an example prints stands below it, as in any doctest, or behind it in a comment: a literal, as
in `# [2., 5.]`, is the value of the line, and a tuple, as in `# (5,)`, its shape or itself.
"""

import ast
import doctest
import inspect
import io
import os
import re
import tokenize
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_flows
from tfp_flows import (
    bases,
    bijectors,
    datasets,
    diagnostics,
    distributions,
    flows,
    networks,
    plots,
    rl,
    serialization,
    testing,
    vi,
)
from tfp_flows.distributions import toys
from tfp_flows.model import ties

ROOT = Path(__file__).parent.parent
MODULES = [
    tfp_flows,
    bijectors,
    bijectors.transformers,
    bases,
    datasets,
    diagnostics,
    flows,
    networks,
    plots,
    rl,
    serialization,
    testing,
    vi,
    toys,
    distributions,
    ties,
]
KERAS_METHODS = ("build", "call")


def public_objects() -> dict[str, object]:
    """Public classes, functions and methods, by name, without those that other packages define."""
    found = {}
    for module in MODULES:
        for name in module.__all__:
            obj = getattr(module, name)
            if not (inspect.isclass(obj) or inspect.isfunction(obj)):
                continue
            found[f"{obj.__module__}.{name}"] = obj
            if inspect.isclass(obj):
                for method in dir(obj):  # With those of bases that are not public.
                    value = inspect.getattr_static(obj, method)
                    private = method.startswith("_") or method in KERAS_METHODS
                    ours = inspect.isfunction(value) and value.__module__.startswith("tfp_flows.")
                    if ours and not private:
                        found[f"{value.__module__}.{value.__qualname__}"] = value
    return found


OBJECTS = public_objects()
EXAMPLES = {name: obj for name, obj in OBJECTS.items() if ">>>" in (inspect.getdoc(obj) or "")}


@pytest.fixture(scope="module")
def names_of_the_docs() -> dict:
    """What an example may use without importing it, as a reader would expect."""
    x = np.random.default_rng(0).normal(size=(64, 2)).astype("float32")
    model = tfp_flows.FlowModel(flows.real_nvp(2, layers=2, hidden_units=(8,)))
    model.adapt(x)
    model.compile()
    return {
        **{name: getattr(tfp_flows, name) for name in tfp_flows.__all__},
        "base": tfp.distributions.MultivariateNormalDiag([0.0, 0.0, 0.0]),
        "distributions": distributions,
        "ties": ties,
        "Bijector": bijectors.Bijector,
        "keras": keras,
        "np": np,
        "tf": tf,
        "tfd": tfp.distributions,
        "tfb": tfp.bijectors,
        "x": x,
        "model": model,
    }


def results(source: str) -> dict[int, str]:
    """Comments behind lines of code that begin as a literal does, by the number of the line."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        text = token.string.lstrip("# ")
        if token.type != tokenize.COMMENT or not token.line[: token.start[1]].strip():
            continue
        if re.match(r"[-\d(\[{'\"]|True$|False$|None$", text):
            found[token.start[0]] = text
    return found


def run(source: str, name: str, names: dict) -> object:
    """Run code; check the values of its lines where it says them, and return the last one."""
    known, value = results(source), None
    for statement in ast.parse(source).body:
        if not isinstance(statement, ast.Expr):
            exec(compile(ast.Module([statement], []), name, "exec"), names)
            continue
        value = eval(compile(ast.Expression(statement.value), name, "eval"), names)
        if statement.end_lineno in known:
            result = ast.literal_eval(known[statement.end_lineno])  # What is no literal raises.
            check_result(value, result, ast.unparse(statement))
    return value


def check_result(value: object, result: object, line: str) -> None:
    if isinstance(result, tuple) and not isinstance(value, tuple):
        shape = value if isinstance(value, tf.TensorShape) else np.shape(value)
        assert tuple(shape) == result, line
    elif isinstance(result, str | bool | None):
        assert value == result, line
    else:
        given, result = (np.array(tf.nest.flatten(v), "float64").ravel() for v in (value, result))
        np.testing.assert_allclose(given, result, rtol=1e-6, atol=1e-6, err_msg=line)


@pytest.mark.parametrize("name", EXAMPLES)
def test_docstring_example_runs(name, names_of_the_docs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A real fit of 50 epochs shows nothing here that one epoch does not.
    fit = keras.Model.fit
    monkeypatch.setattr(
        keras.Model,
        "fit",
        lambda self, *args, **kwargs: fit(self, *args, **{**kwargs, "epochs": 1}),
    )
    names = dict(names_of_the_docs)
    for example in doctest.DocTestParser().get_examples(inspect.getdoc(EXAMPLES[name])):
        value = run(example.source, name, names)
        if example.want:
            options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            given = f"{value!r}\n"
            assert doctest.OutputChecker().check_output(example.want, given, options), given


def test_a_wrong_result_is_an_error():
    names = {"np": np, "tf": tf}
    run("a = 3\nnp.ones([2, 3])  # (2, 3)\nnp.arange(2.0)  # [0., 1.]\n2 + 2  # four", "", names)
    wrong = ["np.ones(2)  # (3,)", "2 + 2  # 5", "tf.ones(2)  # [1., 2.]", "'a'  # 'b'"]
    for line in wrong:
        with pytest.raises(AssertionError):
            run(line, "", names)
    with pytest.raises(SyntaxError):
        run("1 + 1  # -2 log 2π", "", names)


def test_public_objects_are_documented():
    undocumented = [name for name, obj in OBJECTS.items() if not inspect.getdoc(obj)]
    assert not undocumented


@pytest.mark.parametrize(
    "name",
    [n for n, obj in OBJECTS.items() if inspect.isclass(obj) or ".flows" in obj.__module__],
)
def test_classes_and_flows_have_an_example(name):
    exempt = ("toys.", "Transformer", "Conditioner", "names", "Table", "Images", "Warning")
    if not any(part in name for part in exempt):
        assert name in EXAMPLES


def readme_examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(readme_examples())))
def test_readme_example_runs(number, tmp_path):
    os.chdir(tmp_path)
    try:
        run(readme_examples()[number], f"README example {number}", {})
    finally:
        os.chdir(ROOT)


def test_readme_names_every_flow_and_links_files_that_exist():
    text = (ROOT / "README.md").read_text()
    assert all(f"`{name}`" in text for name in flows.names())
    links = re.findall(r"\]\((?!http|#)([^)]+)\)", text)
    assert links and all((ROOT / link).exists() for link in links)
