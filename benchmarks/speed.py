"""Speed of tfp_flows beside that of other flow libraries, as Markdown tables: `make bench`.

Every library builds the same flow: couplings that keep and move halves in turn, or MAF, with
networks of 2 × 128 relu units for 43 columns, 10 layers, batches of 512, Adam, float32, 2 threads;
or one velocity of 2 × 64 units that RK4 follows in 16 steps, for 6 and for 43 columns.
Each program is a process of its own; all take turns, round after round, so that drifts of the
machine meet all of them, and ratios are of one round. "floor" is the networks alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from speed_workers import report, sweep
from speed_workers.client import LIBRARIES, Machine, Result, measure
from speed_workers.protocol import Setting

ROOT = Path(__file__).resolve().parents[1]
VELOCITY = {"family": "ffjord", "layers": 1, "hidden_units": (64, 64)}
FAMILIES = {
    "affine": {},
    "spline": {"family": "spline"},
    "maf": {"family": "maf"},
    "ffjord6": {**VELOCITY, "event_size": 6},
    "ffjord43": {**VELOCITY, "event_size": 43},
}
SWEPT = ("tfp_flows", "tfp", "nflows", "zuko", "flowjax")


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as cache:
        machine = Machine(options.peers_python, options.limit, options.seconds, cache)
        results = (
            run_sweeps(options, machine)
            if options.sweep is not None
            else run_tables(options, machine)
        )
    print("\nNotes:\n")
    report.print_notes(results)
    print()
    report.print_machine(results)
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(r) for r in results], indent=1))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tasks = [*report.TASKS, "fit"]
    parser.add_argument("--families", nargs="+", choices=FAMILIES)
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=tasks)
    parser.add_argument("--only", nargs="+", choices=LIBRARIES, help="these programs")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument(
        "--compile-sampling", action="store_true", help="torch.compile for samples too, slowly"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="for a task, in every round")
    parser.add_argument("--starts", type=int, default=2, help="processes a program, first steps")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds that a call may take")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--sweep", nargs="*", choices=sweep.SIZES, help="sweeps of (these) sizes, not the tables"
    )
    parser.add_argument("--plot", type=Path, help="file for the plot of the sweeps")
    parser.add_argument("--json", type=Path, help="file for all rounds")
    parser.add_argument("--peers-python", type=Path, default=ROOT / ".venv-peers/bin/python")
    return parser.parse_args()


def settings(libraries: Sequence[str], family: str, options: argparse.Namespace) -> list[Setting]:
    """All modes of the libraries."""
    sizes = FAMILIES[family]
    return [
        Setting(
            library,
            mode,
            threads=options.threads,
            compile_sampling=options.compile_sampling,
            **sizes,
        )
        for library in libraries
        for mode in LIBRARIES[library].modes_of(sizes.get("family", "affine"))
        if not (mode == "compile" and options.no_compile)
    ]


def run_tables(options: argparse.Namespace, machine: Machine) -> list[Result]:
    """The main table, that of all modes, and `model.fit` beside a loop."""
    tasks = [task for task in options.tasks if task != "fit"]
    libraries = options.only or list(LIBRARIES)
    results = {}
    for family in (options.families or FAMILIES) if tasks else ():
        results[family] = measure(
            settings(libraries, family, options),
            tasks,
            machine,
            rounds=options.rounds,
            starts=options.starts,
        )
    if tasks:
        print("\nThe best mode of every library:\n")
        report.print_main(results, tasks)
        print(
            "\nWhy goals are missed: benchmarks/README.md, below the same table. GPU: not measured."
        )
        print("\nAll modes:\n")
        report.print_modes(results, tasks)
    everything = [result for found in results.values() for result in found]
    if "fit" in options.tasks and "tfp_flows" in libraries:
        fits = [*settings(["tfp_flows"], "affine", options)]
        small = {"event_size": 2, "layers": 4, "hidden_units": (32, 32), "batch_size": 256}
        fits += [
            dataclasses.replace(setting, **small)
            for setting in settings(["tfp_flows"], "spline", options)
        ]
        found = measure(fits, ["fit", "bare"], machine, rounds=options.rounds)
        print("\n`model.fit` beside a bare loop over a compiled step:\n")
        report.print_fit(found)
        everything += found
    return everything


def run_sweeps(options: argparse.Namespace, machine: Machine) -> list[Result]:
    """Training against all sizes, and the sampling of MAF against the columns: first modes only."""
    libraries = options.only or SWEPT
    wanted = [
        (family, "train", field)
        for family in options.families or ("affine",)
        if family in ("affine", "spline")
        for field in options.sweep or sweep.SIZES
    ]
    if "maf" in (options.families or FAMILIES):
        wanted.append(("maf", "sample", "event_size"))
    sweeps, everything = [], []
    for family, task, field in wanted:
        able = settings(libraries, family, options)
        first_modes = [s for s in able if s.mode == LIBRARIES[s.library].modes[0]]
        made, found = sweep.run(first_modes, field, task, machine, options.rounds)
        sweep.print_sweep(made)
        sweeps.append(made)
        everything += found
        if options.plot:
            sweep.plot(sweeps, options.plot)  # Again with every one, for they take long.
    return everything


if __name__ == "__main__":
    main()
