"""Speed of this checkout beside another one, such as an earlier commit, in one run.

    git worktree add ../before COMMIT
    python benchmarks/versions.py ../before

Both build the flows of `speed.py`, each in a process of its own, and take turns, round after round.
Times are in milliseconds, the ratio is that of one round: its median, least and largest.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from speed_workers.client import LIBRARIES, Library, Machine, measure
from speed_workers.protocol import Setting

FAMILIES = ("affine", "spline", "maf")
TASKS = ("train", "log_prob", "sample")
LIBRARIES["before"] = Library("before", "ours", ("graph",))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="the root of the other checkout")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="for a task, in every round")
    options = parser.parse_args()
    print("| flow | task | before, ms | now, ms | now / before |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as cache:
        machine = Machine(Path(), 300.0, options.seconds, cache, {"before": options.before})
        for family in options.families:
            settings = [Setting(library, "graph", family) for library in ("before", "tfp_flows")]
            before, now = measure(settings, options.tasks, machine, rounds=options.rounds)
            for failure in before.failures + now.failures:
                print(f"{family}: {failure}")
            for task in options.tasks:
                pairs = zip(now.times[task], before.times[task], strict=True)
                ratios = [ours / theirs for ours, theirs in pairs]
                print(
                    f"| {family} | {task} | {statistics.median(before.times[task]):.3g} "
                    f"| {statistics.median(now.times[task]):.3g} | {statistics.median(ratios):.3f} "
                    f"({min(ratios):.3f} to {max(ratios):.3f}) |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
