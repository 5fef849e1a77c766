"""The tutorials run from top to bottom, and are committed as they ran, with figures.

To run them again in place, after a change to one of them or to the package:
`python tests/test_tutorials.py`.
"""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "tutorials"
TUTORIALS = sorted(FOLDER.glob("*.ipynb"))


def execute(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Run a copy of the notebook in the tutorials' folder; raises CellExecutionError."""
    client = NotebookClient(
        nbformat.from_dict(notebook),
        kernel_name="python3",
        timeout=300,
        record_timing=False,
        resources={"metadata": {"path": str(FOLDER)}},
    )
    os.environ.pop("MPLBACKEND", None)  # The kernel's own backend puts figures into the notebook.
    return client.execute()


def save(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write the notebook without what differs from machine to machine."""
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(notebook, path)


def figures(notebook: nbformat.NotebookNode) -> int:
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_there_are_four():
    assert [path.name[:2] for path in TUTORIALS] == ["01", "02", "03", "04"]


@pytest.mark.slow
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs_and_is_committed_with_its_figures(path):
    committed = nbformat.read(path, as_version=4)
    executed = execute(committed)
    assert figures(executed) == figures(committed) > 3
    for cell in committed.cells:
        if cell.cell_type == "code":
            assert cell.execution_count and all(o.get("name") != "stderr" for o in cell.outputs)
    assert path.stat().st_size < 1_000_000


if __name__ == "__main__":
    for tutorial in TUTORIALS:
        save(execute(nbformat.read(tutorial, as_version=4)), tutorial)
