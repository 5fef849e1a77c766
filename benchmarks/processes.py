"""Models of several libraries, each trained in a process of its own, of its own environment."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["add_options", "run"]

HERE = Path(__file__).resolve().parent


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options about time and place that all such benchmarks have."""
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--jobs", type=int, default=1, help="models at a time, for --clock cpu")
    parser.add_argument(
        "--peers-python", type=Path, default=HERE.parent / ".venv-peers" / "bin" / "python"
    )


def run(
    program: str, order: Mapping[str, Any], options: argparse.Namespace, *, is_peer: bool
) -> dict[str, Any]:
    """What a program found, the last line that it printed, or `failure`: why it found nothing.

    Args:
      program: path below `benchmarks`; it is given the order as JSON.
      order: what it is to do.
      options: those of `add_options`.
      is_peer: whether it runs in the environment of the peers.
    """
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": str(options.threads),
        "PYTHONPATH": os.pathsep.join(map(str, (HERE.parent, HERE))),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    python = options.peers_python if is_peer else sys.executable
    command = [python, HERE / program, json.dumps(order)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        return {"failure": "not installed: make .venv-peers/installed"}
    except subprocess.CalledProcessError as error:
        return {"failure": error.stderr.strip().rpartition("\n")[2][:300]}
    found: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    return found
