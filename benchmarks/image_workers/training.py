"""What the programs share: a process trains one model for some minutes and prints what came out.

Options come as JSON in the first argument, and the result is the last line of what is printed.
NumPy alone: `ours.py`, `tfp.py` and `torch_flows.py` each hand in a `Program`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from data import Images, held_memory, load, peak_memory

WARMUP = 100  # Steps in which the learning rate rises.


@dataclasses.dataclass(frozen=True)
class Options:
    """What is trained, how, and on what."""

    model: str
    data: str
    minutes: float
    batch_size: int
    learning_rate: float
    levels: int
    steps: int
    width: int
    patch: int
    blocks: int
    layers: int
    seed: int
    test_rows: int
    on_validation: bool
    threads: int
    clock: str

    @property
    def now(self) -> Callable[[], float]:
        """Seconds by the clock that was chosen: those that pass, or those of this process alone."""
        return time.process_time if self.clock == "cpu" else time.perf_counter


@dataclasses.dataclass(frozen=True)
class Program:
    """A model: `step(images, learning_rate)` trains, `log_prob(images)` are nats an image."""

    parameters: int
    step: Callable[[np.ndarray, float], Any]
    log_prob: Callable[[np.ndarray], np.ndarray]


def learning_rate(options: Options, elapsed: float, steps: int) -> float:
    """It rises in the first steps, then falls to 0 along a cosine in the time that is given."""
    share = min(elapsed / (60 * options.minutes), 1.0)
    rise = min(1.0, (steps + 1) / WARMUP)
    return options.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * share))


def held_out(images: Images, options: Options) -> tuple[np.ndarray, np.ndarray | None]:
    """The images that are scored, and their classes."""
    part = "validation" if options.on_validation else "test"
    x, y = getattr(images, part), images.labels.get(part)
    chosen = np.random.default_rng(0).permutation(len(x))[: options.test_rows]
    return x[chosen], None if y is None else y[chosen]


def summary(scores: np.ndarray) -> list[float]:
    """Mean and two standard errors."""
    return [float(scores.mean()), float(2 * scores.std() / math.sqrt(len(scores)))]


def train(program: Program, images: Images, options: Options) -> dict[str, Any]:
    """Train for the time that is given, tracing and compilation included; then score."""
    times: list[float] = []
    now = options.now
    start = now()
    for batch in images.batches(options.batch_size, options.seed):
        before = now()
        program.step(batch, learning_rate(options, before - start, len(times)))
        times.append(now() - before)
        if now() - start > 60 * options.minutes:
            break
    seconds, memory = now() - start, peak_memory()
    x, _ = held_out(images, options)
    y = images.continuous(x, np.random.default_rng(2))
    nats = np.concatenate([program.log_prob(part) for part in np.split(y, range(200, len(y), 200))])
    return {
        "seconds": seconds,
        "steps": len(times),
        "ms": 1e3 * float(np.median(times)),
        "memory": memory,
        "scores": {"uniform": summary(images.score(images.nats(nats, y)))},
        "notes": [],
    }


def main(build: Callable[[Images, Options], Program]) -> None:
    """Read the options, train what `build` makes of them, and print the result."""
    options = Options(**json.loads(sys.argv[1]))
    images = load(options.data)
    before = held_memory()
    program = build(images, options)
    finish(train(program, images, options), program.parameters, before)


def finish(result: dict[str, Any], parameters: int, before: float) -> None:
    """Print the result; memory is what the process took for training on top of `before`."""
    result["memory"] -= before
    print(json.dumps({**result, "parameters": parameters}), flush=True)
