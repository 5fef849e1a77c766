"""How the cost grows: one size is changed, the others stay at those of the main table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from speed_workers.client import LIBRARIES, Machine, Result, measure
from speed_workers.protocol import Setting
from speed_workers.report import OURS, median, number, print_table

SIZES = {
    "event_size": (2, 8, 32, 128, 512),
    "layers": (1, 4, 16, 64),
    "batch_size": (64, 512, 2048, 8192),
}
TITLES = {"event_size": "columns", "layers": "layers", "batch_size": "batch"}
TASK_TITLES = {"train": "training step", "sample": "sample"}


@dataclasses.dataclass
class Sweep:
    """One panel: `curves` has `(size, ms)` by library; `missing` says why there is no result."""

    family: str
    task: str
    field: str
    curves: dict[str, list[tuple[int, float]]]
    missing: dict[tuple[str, int], str]

    @property
    def title(self) -> str:
        names = {"affine": "affine coupling", "spline": "spline coupling", "maf": "MAF"}
        return f"{names[self.family]}, {TASK_TITLES[self.task]}"


def run(
    settings: Sequence[Setting], field: str, task: str, machine: Machine, rounds: int
) -> tuple[Sweep, list[Result]]:
    """Time `task` of all programs, one a library, at every size of `field`."""
    curves: dict[str, list[tuple[int, float]]] = {s.library: [] for s in settings}
    missing, everything = {}, []
    for size in SIZES[field]:
        resized = [dataclasses.replace(setting, **{field: size}) for setting in settings]
        results = measure(resized, [task], machine, rounds=rounds)
        for result in results:
            result.failures = [f"{TITLES[field]} {size}: {text}" for text in result.failures]
        everything += results
        for result in results:
            library = result.setting.library
            if result.times.get(task):
                curves[library].append((size, median(result, task)))
            else:
                late = any(": > " in text for text in result.failures)
                missing[library, size] = f"> {machine.limit:g} s" if late else "failed"
    return Sweep(settings[0].family, task, field, curves, missing), everything


def print_sweep(sweep: Sweep) -> None:
    """Milliseconds by size, and the growth: the exponent of the size in the last step."""
    print(f"\n{sweep.title}, ms, against {TITLES[sweep.field]}:\n")
    rows = []
    for library, curve in sweep.curves.items():
        times = dict(curve)
        cells = [
            number(times[n]) if n in times else sweep.missing[library, n]
            for n in SIZES[sweep.field]
        ]
        rows.append([LIBRARIES[library].title, *cells, growth(curve)])
    print_table(["program", *map(str, SIZES[sweep.field]), "growth"], rows)


def growth(curve: Sequence[tuple[int, float]]) -> str:
    if len(curve) < 2:
        return ""
    (n0, t0), (n1, t1) = curve[-2:]
    return f"{math.log(t1 / t0) / math.log(n1 / n0):.2f}"


def plot(sweeps: Sequence[Sweep], path: Path) -> None:
    """Draw one panel a sweep, on logarithmic axes."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    columns = min(3, len(sweeps))
    rows = -(-len(sweeps) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.2 * columns, 3.5 * rows), squeeze=False, layout="constrained"
    )
    libraries = list(LIBRARIES)
    for axis, sweep in zip(axes.flat, sweeps, strict=False):
        for library, curve in sweep.curves.items():
            if not curve:
                continue
            ours = library == OURS
            axis.plot(
                *zip(*curve, strict=True),
                marker="o",
                markersize=5 if ours else 4,
                linewidth=2.5 if ours else 1.3,
                color="black" if ours else f"C{libraries.index(library)}",
                zorder=3 if ours else 2,
                label=LIBRARIES[library].title,
            )
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(SIZES[sweep.field], map(str, SIZES[sweep.field]))
        axis.minorticks_off()
        axis.set_xlabel(TITLES[sweep.field])
        axis.set_title(sweep.title, fontsize=10)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("milliseconds")
    for axis in axes.flat[len(sweeps) :]:
        axis.set_visible(False)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=130)
