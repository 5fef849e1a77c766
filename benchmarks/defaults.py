"""What `tfp-flows fit` gives by its defaults, beside classical densities, on real tables.

Run it from the root of the repository: `python benchmarks/defaults.py [--tables concrete quakes]
[--splits 5] [--out defaults.csv]`. Each table and split is one command in a process of its own, as
a user starts it, and its model is scored on the rows that the command held out. A Gaussian, a
kernel density estimate and mixtures of up to 64 Gaussians are those of scikit-learn, on the same
rows for training; bandwidth, number of components and floor of variances are chosen on the same
validation rows. Where a table's columns depend on others, these are left out.

Settings of the command may be tuned on `TUNED` alone; `JUDGED` was named before.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from common import DATA, print_table, write_csv
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from threadpoolctl import threadpool_limits

from tfp_flows import FlowModel
from tfp_flows_cli.recipe import Recipe

TUNED = ("concrete", "kin8nm", "power-plant", "red_wine", "parkinsons", "quakes", "bsds8")
JUDGED = (
    "energy",
    "yacht",
    "protein",
    "naval",
    "white_wine",
    "magic",
    "penguins",
    "torus",
    "bsds63",
)
FILES = {"protein": "protein-tertiary-structure", "naval": "naval-propulsion-plant"}
MOST_ROWS = 10_000
RIVALS = ("Gaussian", "kernel density", "mixture")


def table(name: str, data: Path) -> np.ndarray:
    """At most 10,000 rows of a table, without columns that are constant or depend on others."""
    rng = np.random.default_rng(0)
    if name.startswith("bsds"):
        with np.load(data / "bsds300" / "bsds300_patches_u8.npz") as file:
            patches = file["train"]
        patches = patches[rng.choice(len(patches), MOST_ROWS, replace=False)].astype("float64")
        x = (patches.reshape(MOST_ROWS, -1) + rng.random((MOST_ROWS, 64))) / 256
        x = (x - x.mean(1, keepdims=True))[:, :63]
        x = x[:, ::8] if name == "bsds8" else x
    elif name == "torus":
        x = _first_array(data / "torus" / "rna_7angles.npz")
    elif name in ("magic", "quakes", "penguins"):
        x = _first_array(data / "classic" / f"{name}.npz")
    elif name in ("red_wine", "white_wine", "parkinsons"):
        x = _first_array(data / "rnade_uci" / f"{name}.npz")
    else:
        with np.load(data / "uci_gal_splits" / f"{FILES.get(name, name)}.npz") as file:
            x = np.hstack([file["x"], file["y"].reshape(len(file["x"]), -1)])
    x = np.asarray(x, "float64")
    x = x[np.isfinite(x).all(1)]
    if len(x) > MOST_ROWS:
        x = x[np.sort(rng.choice(len(x), MOST_ROWS, replace=False))]
    x = x[:, np.ptp(x, axis=0) > 0]
    kept: list[int] = []
    z = (x - x.mean(0)) / x.std(0)
    for column in range(x.shape[1]):
        others = z[:, kept]
        rest = z[:, column] - others @ np.linalg.lstsq(others, z[:, column], rcond=None)[0]
        if np.sqrt(np.mean(rest**2)) > 1e-5:
            kept.append(column)
    return x[:, kept]


def _first_array(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as file:
        return file[file.files[0]]


def fit(x: np.ndarray, seed: int, minutes: float) -> tuple[np.ndarray, float, Recipe]:
    """Log-densities of the held-out rows by the command, its seconds, and its recipe."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "table.csv", Path(folder) / "fit"
        columns = [f"x{i}" for i in range(x.shape[1])]
        pd.DataFrame(x, columns=columns).to_csv(source, index=False)
        start = time.monotonic()
        command = [sys.executable, "-m", "tfp_flows_cli", "fit", str(source), "--out", str(out)]
        command += ["--seed", str(seed), "--minutes", str(minutes)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - start
        recipe = Recipe.load(out / "flow.json")
        test = x[recipe.split(len(x))[2]]
        return FlowModel.load(out / "flow.keras").log_prob(test).numpy(), seconds, recipe


def rivals(x: np.ndarray, recipe: Recipe) -> dict[str, np.ndarray]:
    """Log-densities of the held-out rows by classical densities, chosen on validation rows."""
    train, validation, test = recipe.split(len(x))
    mean, scale = x[train].mean(0), x[train].std(0)
    z = (x - mean) / scale
    found: dict[str, list[tuple[float, np.ndarray]]] = {name: [] for name in RIVALS}
    for floor in (1e-6, 1e-4, 1e-3, 1e-2):
        for components in (1, 2, 4, 8, 16, 32, 64):
            if 2 * components > len(train):
                break
            with warnings.catch_warnings(), threadpool_limits(1):
                warnings.simplefilter("ignore")
                made = GaussianMixture(components, reg_covar=floor, random_state=0).fit(z[train])
            score = made.score(z[validation])
            name = "Gaussian" if components == 1 else "mixture"
            found[name].append((score, made.score_samples(z[test])))
            if score < max(score for score, _ in found[name]) - 1:
                break
    root = np.linalg.cholesky(np.cov(z[train].T) + 1e-6 * np.eye(x.shape[1]))
    white = np.linalg.solve(root, z.T).T
    log_volume = np.log(np.diag(root)).sum()
    scott = len(train) ** (-1 / (x.shape[1] + 4))
    for bandwidth in scott * 2.0 ** np.arange(-4, 1.01, 0.5):
        kernels = KernelDensity(bandwidth=bandwidth).fit(white[train])
        score = kernels.score(white[validation]) / len(validation)
        held_out = kernels.score_samples(white[test]) - log_volume
        found["kernel density"].append((score, held_out))
    return {
        name: max(scores, key=lambda pair: pair[0])[1] - np.log(scale).sum()
        for name, scores in found.items()
    }


def measure(name: str, seed: int, options: argparse.Namespace) -> dict[str, object]:
    """One table and split: means, ranks, and the paired difference to the best rival."""
    x = table(name, options.data)
    own, seconds, recipe = fit(x, seed, options.minutes)
    others = rivals(x, recipe)
    best = max(others, key=lambda rival: float(others[rival].mean()))
    gain = own - others[best]
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    return {
        "table": name,
        "rows": len(x),
        "columns": x.shape[1],
        "split": seed,
        "seconds": round(seconds, 1),
        "fit": round(float(own.mean()), 4),
        "error": round(float(own.std(ddof=1) / np.sqrt(len(own))), 4),
        **{rival: round(float(values.mean()), 4) for rival, values in others.items()},
        "rank": 1 + sum(float(values.mean()) > float(own.mean()) for values in others.values()),
        "best rival": best,
        "ahead": round(float(gain.mean()), 4),
        "ahead error": round(float(error), 4),
    }


def main() -> None:
    """Measure, write each result as it comes, and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tables", nargs="+", default=[*TUNED, *JUDGED])
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=Path("defaults.csv"))
    options = parser.parse_args()
    results = []
    for split in range(options.splits):
        for name in options.tables:
            results.append(measure(name, split, options))
            write_csv(options.out, results)
            print(results[-1], flush=True)
    frame = pd.DataFrame(results)
    print_table(
        ["table", "rows × columns", "fit", *RIVALS, "ahead of the best", "rank", "seconds"],
        [
            [
                name,
                f"{part['rows'].iloc[0]:,} × {part['columns'].iloc[0]}",
                f"{part['fit'].mean():.3f}",
                *(f"{part[rival].mean():.3f}" for rival in RIVALS),
                f"{part['ahead'].mean():.3f} ± {part['ahead error'].mean():.3f}",
                f"{part['rank'].mean():.1f}",
                f"{part['seconds'].max():.0f}",
            ]
            for name, part in frame.groupby("table", sort=False)
        ],
    )
    behind = (frame["ahead"] < -2 * frame["ahead error"]).sum()
    ahead = (frame["ahead"] > 2 * frame["ahead error"]).mean()
    print(
        f"Mean rank {frame['rank'].mean():.2f}; behind the best rival by more than 2 s.e. in "
        f"{behind} of {len(frame)} fits, ahead by more in {100 * ahead:.0f} %."
    )


if __name__ == "__main__":
    main()
