"""Every example runs: those of the README, and those in the docstrings of public objects."""

import doctest
import inspect
import os
import re
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
    distributions,
    flows,
    networks,
    plots,
    serialization,
    testing,
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
    flows,
    networks,
    plots,
    serialization,
    testing,
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
                for method, value in vars(obj).items():
                    private = method.startswith("_") or method in KERAS_METHODS
                    if inspect.isfunction(value) and not private:
                        found[f"{obj.__module__}.{name}.{method}"] = value
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
    source = doctest.script_from_examples(inspect.getdoc(EXAMPLES[name]))
    exec(compile(source, name, "exec"), dict(names_of_the_docs))


def test_public_objects_are_documented():
    undocumented = [name for name, obj in OBJECTS.items() if not inspect.getdoc(obj)]
    assert not undocumented


@pytest.mark.parametrize(
    "name",
    [n for n, obj in OBJECTS.items() if inspect.isclass(obj) or ".flows" in obj.__module__],
)
def test_classes_and_flows_have_an_example(name):
    exempt = ("toys.", "Transformer", "Conditioner", "names", "Table", "Warning")
    if not any(part in name for part in exempt):
        assert name in EXAMPLES


def readme_examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(readme_examples())))
def test_readme_example_runs(number, tmp_path):
    os.chdir(tmp_path)
    try:
        exec(compile(readme_examples()[number], f"README example {number}", "exec"), {})
    finally:
        os.chdir(ROOT)


def test_readme_names_every_flow_and_links_files_that_exist():
    text = (ROOT / "README.md").read_text()
    assert all(f"`{name}`" in text for name in flows.names())
    links = re.findall(r"\]\((?!http|#)([^)]+)\)", text)
    assert links and all((ROOT / link).exists() for link in links)
