"""What the programs share: a process trains one model of a toy, and prints how near it came.

Options come as JSON in the first argument: the file with draws, their exact log-densities and the
matrix that standardizes them, the model, minutes, and so on. The result is the last line of what is
printed. NumPy alone.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

WARMUP = 100  # Steps in which the learning rate rises.
Step = Callable[[np.ndarray, float], Any]
LogProb = Callable[[np.ndarray], np.ndarray]


def main(build: Callable[[dict[str, Any]], tuple[int, Step, LogProb]]) -> None:
    """Train what `build` makes of the options: parameters, a step, and a log-density."""
    options = json.loads(sys.argv[1])
    now = time.process_time if options["clock"] == "cpu" else time.perf_counter
    data = np.load(options["draws"])
    shift, matrix = data["train"].mean(0, dtype="float64"), data["matrix"]
    train = ((data["train"] - shift) @ matrix).astype("float32")
    options["event_size"] = train.shape[1]
    rng = np.random.default_rng(options["seed"])
    limit, times = 60 * options["minutes"], []
    start = now()
    parameters, step, log_prob = build(options)
    while now() - start < limit:
        batch = train[rng.integers(len(train), size=options["batch_size"])]
        share = min((now() - start) / limit, 1.0)
        rise = min(1.0, (len(times) + 1) / WARMUP)
        before = now()
        step(batch, options["learning_rate"] * rise * 0.5 * (1 + math.cos(math.pi * share)))
        times.append(now() - before)
    seconds = now() - start
    test = ((data["test"] - shift) @ matrix).astype("float32")
    log_prob(test[:1000])
    before = now()
    found = np.concatenate(
        [log_prob(part) for part in np.split(test, range(1000, len(test), 1000))]
    )
    scoring = (now() - before) / (len(test) / 1000)
    gap = data["log_prob"] - (found.astype("float64") + np.linalg.slogdet(matrix)[1])
    result = {
        "kl": float(gap.mean()),
        "error": float(2 * gap.std() / math.sqrt(len(gap))),
        "seconds": seconds,
        "steps": len(times),
        "ms": 1e3 * float(np.median(times)),
        "log_prob_ms": 1e3 * scoring,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "parameters": parameters,
    }
    print(json.dumps(result), flush=True)
