"""Peak memory of training steps by the number of layers: activations kept, or computed again.

Run it from the root of the repository: `python benchmarks/memory.py`; of a continuous flow, whose
layers are the steps of its solver: `--modes continuous --layers 8 64`. Every row is a process of
its own on Linux, whose resident memory the kernel reports.

- all: the peak of the steps, over what the process held before the model was made; the sum of
- state: weights, gradients and Adam's two moments, computed: 16 bytes a parameter;
- program: what TensorFlow holds for the traced step, whatever the batch: what the process held more
  after a step of two rows, without the state; and
- activations: the peak over that in steps of the full batch, without the gradients.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import keras
import tensorflow as tf
from common import parameter_count, print_table
from speed_workers.protocol import memory, reset_peak_memory

from tfp_flows import FlowModel, flows

_MB = 2**20
_STEPS = 3


def measure(options: argparse.Namespace, layers: int, mode: str) -> dict[str, float]:
    """Megabytes and milliseconds of training steps in this process."""
    _train(options, 1, "ordinary")  # What TensorFlow allocates once, is allocated now.
    before = _settled()
    at_start, seconds, parameters = _train(options, layers, mode)
    peak, copy = memory("VmHWM"), 4 * parameters / _MB
    return {
        "all": peak - before,
        "state": 4 * copy,
        "program": at_start - before - 3 * copy,
        "activations": peak - at_start - copy,
        "milliseconds": 1e3 * seconds,
    }


def _train(options: argparse.Namespace, layers: int, mode: str) -> tuple[float, float, int]:
    """Memory after a step of two rows, median seconds of a step of the batch, and parameters."""
    size, widths = options.event_size, options.hidden_units
    if mode == "continuous":
        model = FlowModel(flows.ffjord(size, hidden_units=widths, steps=layers, seed=0))
    else:
        flow = flows.neural_spline(size, layers=layers, hidden_units=widths, seed=0)
        model = FlowModel(flow, memory=mode)
    model.compile(keras.optimizers.Adam(1e-4))
    model.build_optimizer()
    x = tf.random.stateless_normal([options.batch_size, options.event_size], [0, 0])
    step = tf.function(
        model.train_step,
        input_signature=[tf.TensorSpec([None, options.event_size])],
        autograph=False,
    )
    step(x[:2])  # Traces. The full batch must come later, for its memory is not all given back.
    at_start, seconds = _settled(), []
    for _ in range(1 + _STEPS):
        start = time.perf_counter()
        float(step(x)["loss"])
        seconds.append(time.perf_counter() - start)
    return at_start, statistics.median(seconds[1:]), parameter_count(model)


def _settled() -> float:
    """Megabytes held now, without what is only kept for later allocations; the peak starts anew."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    reset_peak_memory()
    return memory("VmRSS")


def _rows(options: argparse.Namespace) -> Iterator[list[object]]:
    """One row a process."""
    for mode in options.modes:
        first: dict[str, float] = {}
        for layers in options.layers:
            command = [sys.executable, *sys.argv, "--one", str(layers), mode]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            figures = json.loads(output.splitlines()[-1])
            first = first or figures
            cells = [
                f"{figures[name]:.0f} ({figures[name] / first[name]:.2f} ×)"
                for name in ("all", "state", "program", "activations")
            ]
            yield [mode, layers, *cells, f"{figures['milliseconds']:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--event-size", type=int, default=43)
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--hidden-units", type=int, nargs="+", default=[128, 128])
    parser.add_argument("--batch-size", type=int, default=4096)
    modes = ("ordinary", "reversible", "continuous")
    parser.add_argument("--modes", nargs="+", choices=modes, default=modes[:2])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # Layers and mode: one process.
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options, int(options.one[0]), options.one[1])))
        return
    sizes = [f"{name}, MB" for name in ("all", "state", "program", "activations")]
    header = ["memory", "layers", *sizes, "ms a step"]
    print_table(header, _rows(options))


if __name__ == "__main__":
    main()
