"""What runs in every process that is timed: it takes orders as JSON lines, and answers with times.

`python protocol.py MODULE` imports MODULE of this folder and calls its `build(setting)`, which
returns a `Program`. Orders on stdin, answers on stdout, one JSON object a line:

- first, unasked, after the imports: `{"versions": {...}}`
- a `Setting`: builds the program and trains one step: `{"parameters", "first_step", "memory",
  "tasks", "note", "chosen"}`, seconds and MB
- `{"task", "seconds"}`: runs the task for that long untimed, and as long timed: `{"milliseconds",
  "runs"}`, the median
- whatever fails: `{"error"}`

Only the standard library is imported here, since both environments and all libraries share it.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, TextIO


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is timed: a library, in one of its modes, with a flow and a batch of some size."""

    library: str
    mode: str
    family: str = "affine"  # affine (couplings), spline (couplings), maf or ffjord
    event_size: int = 43
    layers: int = 10
    hidden_units: tuple[int, ...] = (128, 128)
    batch_size: int = 512
    bins: int = 8
    bound: float = 5.0
    steps: int = 16  # Of RK4, by ffjord.
    learning_rate: float = 1e-4
    threads: int = 2
    compile_sampling: bool = False  # With torch.compile, which takes its time for every task.

    def halves(self, layer: int) -> tuple[int, int]:
        """How many columns a coupling keeps and how many it moves: the halves, in turn."""
        half = self.event_size // 2
        rest = self.event_size - half
        return (half, rest) if layer % 2 == 0 else (rest, half)

    @property
    def outputs(self) -> int:
        """Parameters a column: shift and scale, or widths, heights and inner slopes of bins."""
        return 3 * self.bins - 1 if self.family == "spline" else 2


@dataclasses.dataclass(frozen=True)
class Program:
    """A flow that is ready to run: every task returns when its result is there.

    A task that returns a number has timed itself, in seconds. The first of `tasks` is run at once,
    to measure the time to the first step.
    """

    parameters: int
    tasks: dict[str, Callable[[], float | None]]
    note: str = ""
    chosen: bool = False  # The library chooses this mode by itself.


def median_milliseconds(task: Callable[[], float | None], seconds: float) -> tuple[float, int]:
    """Median time of a run, and the number of runs, until the seconds are over.

    As long before, the task runs untimed: other programs had their turn, and the caches are theirs.
    There are 3 timed runs or more; a task that has timed itself, over many steps, runs once or more
    in both parts.
    """
    end = time.perf_counter() + seconds
    while time.perf_counter() < end and task() is None:
        pass
    times: list[float] = []
    least, end = 3, time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        own = task()
        least = 3 if own is None else 1
        times.append(time.perf_counter() - start if own is None else own)
    return 1e3 * statistics.median(times), len(times)


def memory(field: str) -> float:
    """Memory of this process in MB: now (`VmRSS`), or at most so far (`VmHWM`)."""
    with open("/proc/self/status") as status:
        return int(re.search(rf"{field}:\s+(\d+) kB", status.read())[1]) / 1024


def reset_peak_memory() -> None:
    """Let `VmHWM` start anew from the memory that is held now."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def answer(order: dict[str, Any], build: Callable[[Setting], Program], state: dict) -> dict:
    """Carry out one order."""
    if "task" in order:
        task = state["program"].tasks[order["task"]]
        milliseconds, runs = median_milliseconds(task, order["seconds"])
        return {"milliseconds": milliseconds, "runs": runs}
    reset_peak_memory()
    before = memory("VmRSS")
    start = time.perf_counter()
    program = state["program"] = build(Setting(**order))
    first = next(iter(program.tasks.values()))
    first()
    first_step = time.perf_counter() - start
    for _ in range(3):
        first()
    return {
        "parameters": program.parameters,
        "first_step": first_step,
        "memory": memory("VmHWM") - before,
        "tasks": list(program.tasks),
        "note": program.note,
        "chosen": program.chosen,
    }


def serve(module: str, orders: TextIO, answers: TextIO) -> None:
    """Answer until the orders end."""
    threads = int(os.environ["OMP_NUM_THREADS"])
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:threads])  # Pools of threads of every library follow this.
    worker = importlib.import_module(module)
    versions = {name: version(name) for name in worker.PACKAGES}
    print(json.dumps({"versions": versions}), file=answers, flush=True)
    state: dict[str, Program] = {}
    for line in orders:
        try:
            result = answer(json.loads(line), worker.build, state)
        except Exception as error:  # Reported in the table; other tasks may go on.
            text = " ".join(f"{type(error).__name__}: {error}".split())
            result = {"error": text[:300]}
        print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    # Whatever a library prints goes to stderr; only answers go where the driver reads.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.argv[1], sys.stdin, channel)
