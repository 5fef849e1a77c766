"""The tutorials run from top to bottom, and are committed as they ran, with their figures.

Here they train for a few steps, which shows all that is checked; with `TUTORIALS=full` in the
environment they train to the end. To run them again in place, to the end, after a change to one of
them or to the package, with the extra `tutorials` installed:
`python tests/test_tutorials.py [01 ...]`.
"""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "tutorials"
TUTORIALS = sorted(FOLDER.glob("*.ipynb"))
each_tutorial = pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)


# What a cell before all others does to the loops that train: at most 2 epochs of 20 batches; of
# agents and posteriors, 20 updates; and few episodes, chains and draws to judge them by.
SHORT = """
import warnings

import keras
import tensorflow as tf
import tensorflow_probability as tfp
from tfp_flows import rl, vi
from tfp_flows.rl.agent import Agent

def short_fit(model, x, *arguments, fit=keras.Model.fit, epochs=1, **options):
    x = x.take(20) if isinstance(x, tf.data.Dataset) else x
    model.jit_compile = False
    return fit(model, x, *arguments, epochs=min(epochs, 2), **options)

def short_vi(*arguments, vi=tfp.vi.fit_surrogate_posterior, num_steps=20, **options):
    options["jit_compile"] = False
    return vi(*arguments, num_steps=min(num_steps, 20), **options)

def short_posterior(*arguments, fit=vi.fit, steps=2000, sample_size=64, **options):
    options["jit_compile"] = False
    return fit(*arguments, steps=min(steps, 20), sample_size=16, start=False, **options)

def short_chains(*arguments, neutra=vi.neutra, draws=1000, warmup=500, **options):
    return neutra(*arguments, draws=50, warmup=10, **options)

def short_agent(agent, steps, *, fit=Agent.fit, log_every=1000, **options):
    return fit(agent, agent.warmup + 20, log_every=agent.warmup, **options)

def short_judgement(agent, episodes, *, evaluate=Agent.evaluate, **options):
    return evaluate(agent, 2, **options)

def short_trajectories(agent, episodes, *, trajectories=Agent.trajectories, **options):
    return trajectories(agent, min(episodes, 16), **options)

def short_critic(critic, *arguments, fit=rl.FlowCritic.fit, steps, **options):
    return fit(critic, *arguments, steps=20, **options)

keras.Model.fit, tfp.vi.fit_surrogate_posterior = short_fit, short_vi
vi.fit, vi.neutra = short_posterior, short_chains
Agent.fit, Agent.evaluate, rl.FlowCritic.fit = short_agent, short_judgement, short_critic
Agent.trajectories = short_trajectories
# That so few steps and draws are not to be trusted is said as it should be.
for beginning in ("R̂ of", "Estimated shape parameter of Pareto"):
    warnings.filterwarnings("ignore", beginning)
# So few calls of each traced function that TensorFlow would warn of its tracing.
tf.get_logger().setLevel("ERROR")
"""


def execute(notebook: nbformat.NotebookNode, *, short: bool = False) -> nbformat.NotebookNode:
    """Run a copy of the notebook in the tutorials' folder; raises CellExecutionError."""
    notebook = nbformat.from_dict(notebook)
    if short:
        notebook.cells.insert(0, nbformat.v4.new_code_cell(SHORT))
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=300,
        record_timing=False,
        coalesce_streams=True,
        # What TensorFlow's C++ says at its start belongs to the terminal.
        extra_arguments=["--IPKernelApp.capture_fd_output=False"],
        resources={"metadata": {"path": str(FOLDER)}},
    )
    # With no backend set, the kernel chooses the one that puts figures into the notebook.
    env = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    if not short:
        env.pop("XLA_FLAGS", None)  # Of tests that run most machine code only once.
    env["PYTHONPATH"] = str(FOLDER.parent)  # this tree's package, installed or not
    executed = client.execute(env=env)
    del executed.cells[:short]
    return executed


def save(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write the notebook without the version of Python, which differs between machines."""
    notebook.metadata.language_info = {"name": "python"}
    nbformat.write(notebook, path)


def kinds(notebook: nbformat.NotebookNode) -> list[list[str]]:
    """For every code cell the kinds of its outputs: "stdout", "stderr", "text/plain, image/png"."""
    return [
        [output.get("name") or ", ".join(sorted(output.data)) for output in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def printed(notebook: nbformat.NotebookNode) -> str:
    return "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", ()))


def test_all_are_there():
    assert [path.name[:2] for path in TUTORIALS] == [f"{i:02}" for i in range(1, 16)]


@each_tutorial
def test_committed_as_it_ran(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, 1 + len(code)))
    shown = [kind for cell in kinds(notebook) for kind in cell]
    assert sum("image/png" in kind for kind in shown) >= 4
    assert "stderr" not in shown
    assert not re.search(r"\bnan\b", printed(notebook))
    # No control characters, as of progress bars, and no paths of this machine.
    assert not re.search(r"[\x00-\x09\x0b-\x1f]|/(home|root|tmp|usr|Users)/", printed(notebook))
    assert path.stat().st_size < 1_000_000


@pytest.mark.slow
@each_tutorial
def test_runs(path):
    """Fails if a cell raises, prints a NaN, or shows things of other kinds than those committed."""
    committed = nbformat.read(path, as_version=4)
    executed = execute(committed, short=os.environ.get("TUTORIALS") != "full")
    assert kinds(executed) == kinds(committed)
    assert not re.search(r"\bnan\b", printed(executed))


if __name__ == "__main__":
    for tutorial in TUTORIALS:
        if len(sys.argv) == 1 or tutorial.name[:2] in sys.argv:
            save(execute(nbformat.read(tutorial, as_version=4)), tutorial)
