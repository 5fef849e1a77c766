"""The command in this process, and the table that its tests fit."""

import numpy as np
import pandas as pd
from typer.testing import CliRunner

from tfp_flows_cli import app

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


def fit(folder, name, *options):
    """Fit the table in the folder for two epochs; the new folder, and what was said."""
    result = run("fit", folder / "people.csv", "--out", folder / name, *options, *QUICK)
    assert result.exit_code == 0, result.output
    return folder / name, result.output
