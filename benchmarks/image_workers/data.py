"""Images and how they are dequantized, the same for all programs: NumPy alone.

Pixels are whole numbers in `0 ... 255`. Uniform noise makes them continuous, `(x + u) / 256`; the
mean negative log-density `nats` of these is a bound on the bits a dimension of the pixels,
`nats / (D log 2) + 8`.

**Patches.** `bsds300` are 8×8 patches less their mean, of which the benchmark wants the density of
the first 63 columns `e`, since the 64 numbers of a patch add up to 0. For a flow on images the mean
that was taken away is replaced by one that is drawn: `X = (e_1, ..., e_63, -Σe) + s u`, with `u`
standard normal, independent of `e`, and `s = 0.1`. That is a linear map of `(e, u)`, and its
determinant is `64 s` (of `[[I, s 1], [-1ᵀ, s]]`: `s + s 1ᵀ1`). So `p(e) N(u) = p(X) 64 s`, and

    log p(e) >= E_u [log p(X) + log(64 s) - log N(u)],

with equality where the model knows that `u` is independent of `e`: for a Gaussian with the exact
covariance the right-hand side is the Gaussian density of `e`, for every `u`. So the flow's numbers
are lower bounds on those that the benchmark asks for. `python benchmarks/image_workers/data.py`
prints what a Gaussian has on both sides.
"""

from __future__ import annotations

import dataclasses
import gzip
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FASHION = Path("/usr/share/datasets/fashion-mnist")
SPREAD = 0.1  # `s`, about as large as the pixels of a patch less their mean.


@dataclasses.dataclass(frozen=True)
class Images:
    """Images `(n, H, W, 1)` of integers, and their classes where there are some."""

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    labels: dict[str, np.ndarray]  # Of "train", "validation" and "test".

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self.train.shape[1:]
        return height, width, channels

    @property
    def are_patches(self) -> bool:
        return self.name == "bsds300"

    def continuous(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What is trained on and scored, float32: with new noise at every call."""
        y = (x + rng.random(x.shape, "float32")) / np.float32(256)
        if self.are_patches:
            u = rng.standard_normal((len(x), 1, 1, 1), "float32")
            y += np.float32(SPREAD) * u - y.mean((1, 2, 3), keepdims=True)
        return y

    def batches(self, size: int, seed: int) -> Iterator[np.ndarray]:
        """Random batches for training, without end."""
        rng = np.random.default_rng(seed)
        while True:
            yield self.continuous(self.train[rng.integers(len(self.train), size=size)], rng)

    def nats(self, log_prob: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Log-density of what was made continuous as `y`: of patches, of their 63 columns."""
        log_prob = np.asarray(log_prob, "float64")
        if not self.are_patches:
            return log_prob
        u = y.astype("float64").mean((1, 2, 3)) / SPREAD
        return log_prob + math.log(64 * SPREAD) + 0.5 * (u**2 + math.log(2 * math.pi))

    def score(self, nats: np.ndarray) -> np.ndarray:
        """What the table shows of every image: bits a dimension, of patches nats."""
        if self.are_patches:
            return nats
        return 8 - nats / (math.prod(self.shape) * math.log(2))


def load(name: str) -> Images:
    """The images of a name, split into those for training, validation and test."""
    labels: dict[str, np.ndarray] = {}
    if name == "mnist":
        with np.load(DATA / "images" / "mnist.npz") as file:
            x, test = file["x_train"], file["x_test"]
            y, labels["test"] = file["y_train"], file["y_test"]
    elif name == "fashion":
        x, y = _idx("train-images-idx3-ubyte"), _idx("train-labels-idx1-ubyte")
        test, labels["test"] = _idx("t10k-images-idx3-ubyte"), _idx("t10k-labels-idx1-ubyte")
    elif name == "freyfaces":
        with np.load(DATA / "images" / "freyfaces.npz") as file:
            x = file[file.files[0]]
        x = x[np.random.default_rng(0).permutation(len(x))]
        x, test, y = x[:1765], x[1765:], None
    elif name == "bsds300":
        with np.load(DATA / "bsds300" / "bsds300_patches_u8.npz") as file:
            parts = [file[part].reshape(-1, 8, 8, 1) for part in ("train", "val", "test")]
        return Images(name, *parts, labels)
    else:
        raise ValueError(f"`name` must be that of a data set. Received: {name!r}")
    left = 200 if name == "freyfaces" else 10_000  # The last ones are for validation.
    if y is not None:
        labels["train"], labels["validation"] = y[:-left], y[-left:]
    x, test = x[..., None], test[..., None]
    return Images(name, x[:-left], x[-left:], test, labels)


def _idx(name: str) -> np.ndarray:
    """An array of Fashion-MNIST, as Debian's package dataset-fashion-mnist has it."""
    with gzip.open(FASHION / f"{name}.gz") as file:
        data = file.read()
    shape = np.frombuffer(data, ">i4", data[3], offset=4)
    return np.frombuffer(data, "uint8", offset=4 + 4 * data[3]).reshape(shape)


def held_memory() -> float:
    """The memory this process holds now, MB; its peak begins anew from there."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_memory() -> float:
    """The most memory this process held since, MB."""
    return _status("VmHWM")


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def gaussian() -> None:
    """Print test nats of a Gaussian of the 63 columns, and of one of the images."""
    images = load("bsds300")
    rng = np.random.default_rng(0)

    def fitted(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        mean, covariance = x.mean(0), np.cov(x.T)
        z = np.linalg.solve(np.linalg.cholesky(covariance), (y - mean).T)
        log_det = np.linalg.slogdet(covariance)[1]
        return -0.5 * ((z**2).sum(0) + log_det + len(mean) * math.log(2 * math.pi))

    train = images.continuous(images.train, rng).astype("float64").reshape(-1, 64)
    y = images.continuous(images.test, rng)
    test = y.astype("float64").reshape(-1, 64)
    columns = [(x - x.mean(1, keepdims=True))[:, :63] for x in (train, test)]
    for what, nats in (
        ("63 columns", fitted(*columns)),
        ("8×8 images, by the bound", images.nats(fitted(train, test), y)),
    ):
        print(f"{what}: {nats.mean():.3f} ± {2 * nats.std() / math.sqrt(len(nats)):.3f}")


if __name__ == "__main__":
    gaussian()
