"""The other end of `protocol.py`: starts a process for every program, and times them in turn."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from speed_workers.protocol import Setting

HERE = Path(__file__).resolve().parent
AT_START = ("first_step", "memory")  # Measured once a process; everything else in rounds.


@dataclasses.dataclass(frozen=True)
class Library:
    """Which file runs a library, in which modes, and in whose environment."""

    title: str
    module: str
    modes: tuple[str, ...]
    families: tuple[str, ...] = ("affine", "spline", "maf")
    is_peer: bool = False  # Needs the peers' environment.

    def modes_of(self, family: str) -> tuple[str, ...]:
        """None, where the library has no such family; solvers are not compiled by PyTorch."""
        if family not in self.families:
            return ()
        return tuple(mode for mode in self.modes if (family, mode) != ("ffjord", "compile"))


TORCH = {"module": "torch_flows", "modes": ("eager", "compile"), "is_peer": True}
EVERY = ("affine", "spline", "maf", "ffjord")
LIBRARIES = {
    "floor": Library("floor", "floor", ("graph", "xla"), ("affine", "spline")),
    "tfp_flows": Library("tfp_flows", "ours", ("graph", "xla"), EVERY),
    "tfp": Library("TFP", "tfp", ("graph", "xla"), EVERY),
    "nflows": Library("nflows", **TORCH),
    "normflows": Library("normflows", **TORCH),
    "zuko": Library("Zuko", **TORCH, families=EVERY),
    "torchflows": Library("torchflows", **TORCH, families=("ffjord",)),
    "flowjax": Library("FlowJAX", "flowjax_flows", ("jit",), is_peer=True),
}


@dataclasses.dataclass
class Result:
    """What came out for one program: `times` by task, a number a round or a start."""

    setting: Setting
    times: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    parameters: int | None = None
    chosen: bool = False
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    remark: str = ""  # How the program differs from the others.
    failures: list[str] = dataclasses.field(default_factory=list)

    def fail(self, text: str) -> None:
        if text not in self.failures:
            self.failures.append(text)


class Failure(Exception):
    """A program did not do what it was asked for; the message says why."""


class TimeLimit(Failure):
    """A program took too long, and was ended."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """How programs are run: their interpreters, and limits of time in seconds."""

    peers_python: Path
    limit: float
    seconds: float  # For a task, in every round.
    cache: str  # An empty folder, so that no compiler finds results of an earlier run.
    # Where a library is imported from, if not from this checkout or the environment.
    checkouts: Mapping[str, Path] = dataclasses.field(default_factory=dict)

    def python(self, library: Library) -> str:
        return str(self.peers_python) if library.is_peer else sys.executable


class Worker:
    """The process of one program."""

    def __init__(self, setting: Setting, machine: Machine):
        library = LIBRARIES[setting.library]
        self._limit = machine.limit
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (open as long as the process)
        environment = {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            "JAX_PLATFORMS": "cpu",
            "OMP_NUM_THREADS": str(setting.threads),
            "PYTHONPATH": str(machine.checkouts.get(setting.library, HERE.parents[1])),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TORCHINDUCTOR_CACHE_DIR": machine.cache,
        }
        try:
            self._process = subprocess.Popen(
                [machine.python(library), str(HERE / "protocol.py"), library.module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env=environment,
            )
        except FileNotFoundError:
            raise Failure("not installed") from None
        self.versions = self._answer()["versions"]

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """The answer to an order; `Failure` with the program's error, or if there is none."""
        with contextlib.suppress(BrokenPipeError):  # Its end is seen where the answer misses.
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        if not select.select([self._process.stdout], [], [], self._limit)[0]:
            self.close()
            raise TimeLimit(f"> {self._limit:g} s")
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            last = self._errors.read().strip().rpartition("\n")[2]
            raise Failure(f"ended with code {self._process.returncode}: {last[:300]}")
        found = json.loads(line)
        if "error" in found:
            raise Failure(found["error"])
        return found

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def start(result: Result, tasks: Sequence[str], machine: Machine) -> tuple[Worker | None, list]:
    """A process with the program built and all tasks run once, and the tasks that work.

    Time to the first step and memory are noted in `result`, and so is what fails.
    """
    worker, ready = None, []
    try:
        worker = Worker(result.setting, machine)
        result.versions = worker.versions
        built = worker.ask(dataclasses.asdict(result.setting))
    except Failure as failure:
        result.fail(str(failure))
        if worker is not None:
            worker.close()
        return None, []
    result.parameters, result.chosen = built["parameters"], built["chosen"]
    result.remark = built["note"]
    at_start = {name: built[name] for name in AT_START}
    for task in [task for task in tasks if task in built["tasks"]]:
        try:
            worker.ask({"task": task, "seconds": 0})
            ready.append(task)
        except TimeLimit as failure:  # The process is gone: a new one, without this task.
            result.fail(f"{task}: {failure}")
            return start(result, [other for other in tasks if other != task], machine)
        except Failure as failure:
            result.fail(f"{task}: {failure}")
    for name, value in at_start.items():
        result.times.setdefault(name, []).append(value)
    return worker, ready


def measure(
    settings: Sequence[Setting],
    tasks: Sequence[str],
    machine: Machine,
    *,
    rounds: int,
    starts: int = 1,
) -> list[Result]:
    """Time all programs: `starts` processes for each, then rounds in which all take turns.

    All tasks are run once before, which compiles them.

    Within a round every program runs the same task for some time and gives the median; the next
    round goes through the programs in the opposite order.
    """
    results = [Result(setting) for setting in settings]
    timed = [task for task in tasks if task not in AT_START]
    for _ in range(starts - 1):
        for result in results:
            if result.setting.mode == "compile":
                continue  # Each start takes a minute.
            worker, _ = start(result, [], machine)
            if worker is not None:
                worker.close()
    with contextlib.ExitStack() as stack:
        running = []
        for result in results:
            worker, ready = start(result, timed, machine)
            if worker is not None:
                stack.callback(worker.close)
                running.append((result, worker, ready))
        for task, (result, worker, ready) in turns(timed, running, rounds):
            try:
                answer = worker.ask({"task": task, "seconds": machine.seconds})
                result.times.setdefault(task, []).append(answer["milliseconds"])
            except Failure as failure:
                result.fail(f"{task}: {failure}")
                ready.remove(task)
                result.times.pop(task, None)  # Ratios are of rounds: all of them, or none.
    return results


def turns(tasks: Sequence[str], running: list[tuple], rounds: int) -> Iterator[tuple]:
    """Who runs what, in order: `(task, (result, worker, ready))`."""
    for i in range(rounds):
        for task in tasks:
            able = [program for program in running if task in program[2]]
            yield from ((task, program) for program in (able[::-1] if i % 2 else able))
