"""Images: bits a dimension after a given time of training, beside other libraries.

Run it from the root of the repository, after `make .venv-peers/installed` for the peers:
`python benchmarks/images.py --data mnist --minutes 20`. Every model is a process of its own and has
the same minutes, images, batches and learning rate's course: a rise, then a cosine to 0. Peers are
built and optimized as their documentation does, see `image_workers`.

Numbers are bounds, and say which: by one draw of uniform noise (`uniform`), of learned noise
(`variational`), or by several draws, weighted. Patches of BSDS300 are 8×8 images here, scored by
nats of the benchmark's 63 columns: `image_workers/data.py` says how, and that these, too, are lower
bounds. A model given the class is scored given it, as a mixture over the classes, and as a
classifier by Bayes' rule.

`--clock cpu` counts the processor time of each process instead of the minutes that pass: with one
thread each, the models are then comparable although other work runs on the machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import processes
from common import print_table, write_csv

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE / "image_workers"))
from data import Images, load  # noqa: E402 (the folder of the programs)
from training import Options  # noqa: E402

OURS = ("glow", "glow-variational", "glow-classes", "tarflow", "tarflow-classes")
PEERS = ("normflows", "torchflows", "tfb")
TITLES = {
    "glow": "tfp_flows, Glow",
    "glow-variational": "tfp_flows, Glow, learned noise",
    "glow-classes": "tfp_flows, Glow given the class",
    "tarflow": "tfp_flows, TarFlow",
    "tarflow-classes": "tfp_flows, TarFlow given the class",
    "normflows": "normflows, multi-scale Glow",
    "torchflows": "torchflows, AffineGlow",
    "tfb": "TFP, tfb.Glow",
}
MNIST = {
    "single scale, uniform (Lippe, UvA tutorial 11)": "1.08",
    "RealNVP, uniform (in Grathwohl et al. 2019)": "1.06",
    "Glow, uniform (in Grathwohl et al. 2019)": "1.05",
    "multi-scale, variational, on a GPU (Lippe, UvA tutorial 11)": "1.02",
}
BSDS300 = {
    "RealNVP (Papamakarios et al. 2017)": "153.28",
    "Glow (Durkan et al. 2019)": "155.07",
    "spline coupling (Durkan et al. 2019)": "157.54",
}
PUBLISHED = {"mnist": MNIST, "bsds300": BSDS300}
# Tried for our Glow and normflows alone, at 2.5 minutes; one that is given holds for all.
RATES = {"glow": 2e-3, "tarflow": 1e-3, "normflows": 4e-3, "torchflows": 1e-3, "tfb": 1e-3}


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a process found that trained the model of that name, or why it found nothing."""
    is_torch = name in ("normflows", "torchflows")
    worker = "torch_flows" if is_torch else "tfp" if name == "tfb" else "ours"
    given = {field.name for field in dataclasses.fields(Options)} & set(vars(options))
    order = {key: getattr(options, key) for key in given}
    tarflow = name.startswith("tarflow")
    order["model"] = name
    order["learning_rate"] = options.learning_rate or RATES[name.partition("-")[0]]
    order["width"] = options.tarflow_width if tarflow else options.width
    program = f"image_workers/{worker}.py"
    return {"model": name, **processes.run(program, order, options, is_peer=is_torch)}


def rows(result: dict[str, Any], images: Images) -> list[list[str]]:
    """Rows of the table, one for every bound; what all have in common stands in the first."""
    title = TITLES[result["model"]]
    if "failure" in result:
        return [[title, result["failure"], *[""] * 6]]
    digits = 2 if images.are_patches else 3
    cost = [
        f"{result['seconds']:.0f}",
        f"{result['steps']:,}",
        f"{result['ms']:.0f}",
        f"{result['memory']:.0f}",
        f"{result['parameters']:,}",
    ]
    scores = [
        [title, bound, f"{mean:.{digits}f} ± {error:.{digits}f}"]
        for bound, (mean, error) in result["scores"].items()
    ]
    return [[*row, *(cost if i == 0 else [""] * 5)] for i, row in enumerate(scores)]


def flat(result: dict[str, Any], data: str) -> list[dict[str, object]]:
    """The same as records of a CSV file."""
    keys = ("seconds", "steps", "ms", "memory", "parameters")
    return [
        {
            "data": data,
            "model": result["model"],
            "bound": bound,
            "score": mean,
            "two_standard_errors": error,
            **{key: result[key] for key in keys},
            "notes": "; ".join(result["notes"]),
        }
        for bound, (mean, error) in result.get("scores", {}).items()
    ]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", choices=("mnist", "freyfaces", "fashion", "bsds300"), default="mnist"
    )
    parser.add_argument("--models", nargs="+", choices=(*OURS, *PEERS))
    parser.add_argument("--minutes", type=float, default=20.0, help="of training, tracing included")
    processes.add_options(parser)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, help="instead of the one for each model")
    parser.add_argument("--levels", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4, help="couplings a level")
    parser.add_argument("--width", type=int, default=32, help="of all networks but TarFlow's")
    parser.add_argument("--tarflow-width", type=int, default=64)
    parser.add_argument("--patch", type=int, default=4, help="length of TarFlow's")
    parser.add_argument("--blocks", type=int, default=4, help="of TarFlow")
    parser.add_argument("--layers", type=int, default=2, help="of each of its transformers")
    parser.add_argument("--test-rows", type=int, default=10_000)
    parser.add_argument("--on-validation", action="store_true", help="score validation rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    images = load(options.data)
    if options.models is None:
        options.models = [
            name
            for name in (*OURS, *PEERS)
            if images.labels or not name.endswith("classes")
            if not (images.are_patches and name.endswith("variational"))
        ]
    return options


def main() -> None:
    options = parse()
    images = load(options.data)
    unit = "nats" if images.are_patches else "bits a dimension"
    part = "validation" if options.on_validation else "test"
    count = min(options.test_rows, len(getattr(images, part)))
    table: list[list[str]] = []
    records: list[dict[str, object]] = []
    notes: list[str] = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for result in pool.map(lambda name: run(name, options), options.models):
            print(json.dumps(result), file=sys.stderr, flush=True)
            table += rows(result, images)
            records += flat(result, options.data)
            notes += [f"- {TITLES[result['model']]}: {note}" for note in result.get("notes", [])]
            if options.csv and records:
                write_csv(options.csv, records)
    table += [
        [name, "", value, *[""] * 5] for name, value in PUBLISHED.get(options.data, {}).items()
    ]
    print(
        f"{options.data}, {options.minutes:g} minutes ({options.clock}) on {options.threads} "
        f"threads, batches of {options.batch_size}; {count:,} {part} images; memory is what "
        "training takes on top of the libraries and the data\n"
    )
    header = [
        "model",
        "bound",
        f"{unit} ± 2 s.e.",
        "seconds",
        "steps",
        "ms a step",
        "MB",
        "parameters",
    ]
    print_table(header, table)
    print("\n" + "\n".join(notes))


if __name__ == "__main__":
    main()
