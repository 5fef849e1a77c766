"""Tables of what was measured: ours beside every other library, with ratios and goals."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from speed_workers.client import LIBRARIES, Result

OURS = "tfp_flows"
TASKS = {
    "train": "training step, ms",
    "log_prob": "log_prob, ms",
    "sample": "sample, ms",
    "sample_and_log_prob": "sample and log_prob, ms",
    "first_step": "first step, s",
    "memory": "memory of training, MB",
}


# The user of our flows chooses a mode for these, as of every other library; for the rest
# `FlowModel.compile` does, and what it chooses counts.
OWN_MODE = ("log_prob", "sample", "sample_and_log_prob")


class Goal(NamedTuple):
    """At most so many times the floor, times the best other library, and seconds."""

    floor: float | None = None
    other: float | None = None
    seconds: float | None = None


GOALS = {
    ("affine", "train"): Goal(floor=1.5, other=0.55),
    ("spline", "train"): Goal(floor=2.0, other=0.6),
    ("maf", "train"): Goal(other=0.65),
    ("affine", "log_prob"): Goal(other=0.65),
    ("spline", "log_prob"): Goal(other=0.65),
    ("maf", "log_prob"): Goal(other=0.65),
    ("maf", "sample"): Goal(other=0.12),
    ("spline", "first_step"): Goal(seconds=3.0),
    ("ffjord6", "train"): Goal(other=0.5),
    ("ffjord6", "log_prob"): Goal(other=0.5),
    ("ffjord43", "train"): Goal(other=0.5),
    ("ffjord43", "log_prob"): Goal(other=0.5),
}


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    for cells in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def number(x: float) -> str:
    return f"{x:.0f}" if x >= 99.95 else f"{x:.1f}" if x >= 9.995 else f"{x:.2f}"


def median(result: Result, task: str) -> float:
    return statistics.median(result.times[task])


def best(results: Sequence[Result], task: str) -> Result | None:
    """The fastest of them, if any ran the task."""
    able = [result for result in results if result.times.get(task)]
    return min(able, key=lambda result: median(result, task), default=None)


class Ratio(NamedTuple):
    """Of two programs, round by round."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, ours: Result, other: Result, task: str) -> Ratio:
        # Of starts there can be more of the one than of the other.
        pairs = zip(ours.times[task], other.times[task], strict=False)
        ratios = [a / b for a, b in pairs]
        return cls(statistics.median(ratios), min(ratios), max(ratios))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f} to {self.most:.2f})"


def main_row(family: str, task: str, results: Sequence[Result]) -> list[str]:
    """One task of one family: the best mode of every library, ratios, and the goal."""
    of = {name: [r for r in results if r.setting.library == name] for name in LIBRARIES}
    found = {name: best(of[name], task) for name in LIBRARIES}
    if task not in OWN_MODE:
        found[OURS] = best([r for r in of[OURS] if r.chosen], task) or found[OURS]
    ours = found[OURS]
    other = best([r for name, r in found.items() if r and name not in ("floor", OURS)], task)
    cells = []
    for name, result in found.items():
        if result is None or (name == "floor" and task not in ("train", "log_prob")):
            cells.append("")
            continue
        text = f"{number(median(result, task))} {result.setting.mode}"
        cells.append(f"**{text}**" if result is other else text)
    goal = GOALS.get((family, task), Goal())
    floor = found["floor"] if task in ("train", "log_prob") else None
    to_floor = Ratio.of(ours, floor, task) if ours and floor else None
    to_other = Ratio.of(ours, other, task) if ours and other else None
    seconds = median(ours, task) if ours and goal.seconds else None
    checks = [
        (to_floor and to_floor.median, goal.floor, "× floor"),
        (to_other and to_other.median, goal.other, "× other"),
        (seconds, goal.seconds, "s"),
    ]
    goals = ", ".join(f"{limit:g} {unit}" for _, limit, unit in checks if limit)
    missed = [
        f"{value:.2f} {unit}" for value, limit, unit in checks if limit and value and value > limit
    ]
    unknown = [unit for value, limit, unit in checks if limit and value is None]
    met = "" if not goals else f"no: {', '.join(missed)}" if missed else "yes"
    met = "?" if unknown and not missed else met
    return [family, TASKS[task], *cells, str(to_floor or ""), str(to_other or ""), goals, met]


def print_main(results: dict[str, list[Result]], tasks: Sequence[str]) -> None:
    """Family by family and task by task; the fastest other library in bold type."""
    titles = [library.title for library in LIBRARIES.values()]
    header = ["family", "task", *titles, "ours / floor", "ours / best other", "at most", "met"]
    print_table(
        header,
        [main_row(family, task, found) for family, found in results.items() for task in tasks],
    )


def print_modes(results: dict[str, list[Result]], tasks: Sequence[str]) -> None:
    """All modes of all programs, with the number of their parameters."""
    rows = []
    for family, found in results.items():
        for result in found:
            title = LIBRARIES[result.setting.library].title
            mode = result.setting.mode + (" (chosen)" if result.chosen else "")
            cells = [number(median(result, t)) if result.times.get(t) else "" for t in tasks]
            count = "" if result.parameters is None else f"{result.parameters:,}"
            rows.append([family, title, mode, count, *cells])
    header = ["family", "program", "mode", "parameters", *(TASKS[task] for task in tasks)]
    print_table(header, rows)


def print_fit(results: Sequence[Result]) -> None:
    """`model.fit` beside a loop of one's own."""
    rows = []
    for result in results:
        if not (result.times.get("fit") and result.times.get("bare")):
            continue
        pairs = zip(result.times["fit"], result.times["bare"], strict=False)
        ratios = [a / b for a, b in pairs]
        ratio = Ratio(statistics.median(ratios), min(ratios), max(ratios))
        setting = result.setting
        flow = f"{setting.family}, {setting.event_size} columns, batch {setting.batch_size}"
        mode = setting.mode + (" (chosen)" if result.chosen else "")
        times = [number(median(result, task)) for task in ("fit", "bare")]
        met = "yes" if ratio.median <= 1.1 else f"no: {ratio.median:.2f}"
        rows.append([flow, mode, *times, ratio, "1.1", met if result.chosen else ""])
    header = ["flow", "mode", "fit, ms a step", "bare loop, ms a step", "fit / bare"]
    print_table([*header, "at most", "met"], rows)


def print_notes(results: Iterable[Result]) -> None:
    """What failed, and what does not match."""
    lines: dict[str, None] = {}
    for result in results:
        setting = result.setting
        who = f"{LIBRARIES[setting.library].title}, {setting.mode}, {setting.family}"
        notes = [result.remark, *result.failures]
        lines.update(dict.fromkeys(f"- {who}: {note}" for note in notes if note))
    print("\n".join(lines))


def print_machine(results: Iterable[Result]) -> None:
    """When, with which versions, and on what it was measured."""
    versions = {"Python": platform.python_version()}
    for result in results:
        versions.update(result.versions)
    listed = ", ".join(f"{name} {number}" for name, number in versions.items())
    cores = len(os.sched_getaffinity(0))
    print(
        f"{time.strftime('%Y-%m-%d')}; {listed}. {cpu()}, {cores} cores, load "
        f"{os.getloadavg()[0]:.1f} at the end."
    )


def cpu() -> str:
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()
