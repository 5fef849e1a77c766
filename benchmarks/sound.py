"""Speech by WaveGlow: nats per sample, and waves from spectrograms beside Griffin-Lim's.

Run it from the root of the repository, with the extra `test` installed:
`python benchmarks/sound.py --minutes 30 --plot benchmarks/sound.png`.

The sentences are 556 of one speaker at 8 kHz with 16 bits, which Debian has in the package
`asterisk-core-sounds-en-wav`; whole files are for training, validation or test. Log-likelihoods are
log-probabilities of the integers from -32,768 to 32,767, per sample: by uniform dequantization a
lower bound for the flows, exact for the linear predictors, whose Gaussian is integrated over the
cell of each integer. The linear predictors of order 16 are

- of all sentences: coefficients and variance by least squares on those for training; and
- of every frame: both by least squares on the frame itself, 32 ms of a test sentence, and given
  to the model for free: 17 numbers a frame, where the conditional flow is given a spectrogram.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import keras
import librosa
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from common import Schedule, parameter_count, print_table
from scipy.special import log_ndtr
from speed_workers.protocol import memory, reset_peak_memory

from tfp_flows import Flow, FlowModel, audio, distributions, flows

tfd = tfp.distributions

RATE, FULL = 8000, 2**15
ORDER, FRAME = 16, 256
TEMPERATURES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

Sentence = tuple[np.ndarray, np.ndarray]  # Integers (T,), and spectrogram (T // hop, mels).


def sentences(options: argparse.Namespace) -> dict[str, list[Sentence]]:
    """All sentences, cut to whole frames, as parts for training, validation and test."""
    found = []
    for path in sorted(options.data.rglob("*.wav")):
        if path.parent.name == "silence":
            continue
        wave, rate = audio.read(path)
        if rate != RATE:
            raise ValueError(f"Sounds must have {RATE} samples a second. Received: {rate}, {path}")
        wave = np.round(FULL * wave[: len(wave) // options.hop * options.hop]).astype("float32")
        if len(wave) >= max(options.samples, 4 * options.hop):
            found.append((wave, log_mel(wave / FULL, options)))
    order = np.random.default_rng(0).permutation(len(found))
    parts = {"test": order[:60], "validation": order[60:80], "train": order[80:]}
    return {part: [found[i] for i in chosen] for part, chosen in parts.items()}


def log_mel(wave: np.ndarray, options: argparse.Namespace) -> np.ndarray:
    wave = wave.astype("float32")
    return audio.log_mel(wave, rate=RATE, hop=options.hop, mels=options.mels).numpy()


# Training.


def segments(train: list[Sentence], options: argparse.Namespace) -> tf.data.Dataset:
    """Random batches without end of spectrograms and waves, each within one sentence."""
    hop, frames = options.hop, options.samples // options.hop
    counts = [len(spectrogram) for _, spectrogram in train]
    firsts = np.cumsum([0, *counts[:-1]])
    starts = np.concatenate(
        [first + np.arange(count - frames + 1) for first, count in zip(firsts, counts, strict=True)]
    )
    starts = tf.constant(starts, tf.int32)
    wave = tf.constant(np.concatenate([wave for wave, _ in train]).reshape(-1, hop))
    spectrogram = tf.constant(np.concatenate([spectrogram for _, spectrogram in train]))

    def draw(_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        rows = tf.random.uniform([options.batch_size], 0, len(starts), tf.int32)
        rows = tf.gather(starts, rows)[:, None] + tf.range(frames)
        waves = tf.reshape(tf.gather(wave, rows), [options.batch_size, options.samples, 1])
        return tf.gather(spectrogram, rows), waves

    return tf.data.Dataset.range(1).repeat().map(draw).prefetch(4)


def train(
    data: tf.data.Dataset, options: argparse.Namespace, *, conditional: bool
) -> tuple[FlowModel, dict[str, str]]:
    """A model trained for the minutes, and what a step took."""
    keras.utils.set_random_seed(options.seed)
    reset_peak_memory()
    before = memory("VmRSS")
    flow = flows.waveglow(
        options.samples,
        options.mels if conditional else None,
        options.hop,
        options.flows,
        options.group,
        options.width,
        options.seed,
        layers=options.layers,
    )
    model = FlowModel(distributions.Dequantized(flow, 1.0))
    if not conditional:
        data = data.map(lambda _, wave: wave)
    model.adapt(data.take(32))
    model.compile(keras.optimizers.Adam(options.learning_rate, global_clipnorm=100.0))
    schedule, start = Schedule(options.minutes, options.learning_rate), time.process_time()
    # One epoch without end: the schedule stops it.
    model.fit(data, steps_per_epoch=10**9, callbacks=schedule, verbose=0)
    seconds = schedule.elapsed()
    figures = {
        "parameters": f"{parameter_count(model):,}",
        "steps": f"{schedule.steps:,}",
        "seconds": f"{seconds:.0f}",
        "CPU seconds": f"{time.process_time() - start:.0f}",
        "seconds a step": f"{seconds / schedule.steps:.3f}",
        "memory, MB": f"{memory('VmHWM') - before:.0f}",
    }
    return model, figures


# Likelihoods: log-probabilities of whole sentences, in nats.


def flow_nats(model: FlowModel, data: list[Sentence]) -> np.ndarray:
    """By the flow of segments, whose layers map waves of any length."""
    flow = model.distribution.distribution
    found = []
    for wave, spectrogram in data:
        zeros = tf.zeros([len(wave), 1])
        base = tfd.Independent(tfd.Normal(zeros, tf.ones_like(zeros)), 2)
        longer = distributions.Dequantized(Flow(base, flow.bijector), 1.0, seed=0)
        given = {}
        if flow.context_shape is not None:
            given["context"] = flow.embedded(tf.constant(spectrogram[None]))
        found.append(longer.log_prob(wave[None, :, None], **given)[0])
    return np.array(found)


def lags(wave: np.ndarray) -> np.ndarray:
    """The `ORDER` samples before each, the last one first, `(T, ORDER)`."""
    padded = np.concatenate([np.zeros(ORDER), wave])
    return np.stack([padded[ORDER - k : len(padded) - k] for k in range(1, ORDER + 1)], 1)


def linear_fit(inputs: np.ndarray, wave: np.ndarray) -> tuple[np.ndarray, float]:
    """Coefficients by least squares, and the deviation, at least where an integer is certain."""
    coefficients = np.linalg.lstsq(inputs, wave, rcond=1e-9)[0]
    return coefficients, max(float(np.std(wave - inputs @ coefficients)), 0.1)


def linear_nats(inputs: np.ndarray, wave: np.ndarray, fit: tuple[np.ndarray, float]) -> float:
    """Log-probability of integers, of each given the last `ORDER` of them."""
    coefficients, deviation = fit
    distance = np.abs(wave - inputs @ coefficients)  # Symmetric: so the smaller tail is taken.
    near, far = (log_ndtr((side - distance) / deviation) for side in (0.5, -0.5))
    return float(np.sum(near + np.log1p(-np.exp(far - near))))


def linear_nats_by_frame(wave: np.ndarray) -> float:
    inputs = lags(wave)
    total = 0.0
    for i in range(0, len(wave), FRAME):
        part = inputs[i : i + FRAME], wave[i : i + FRAME]
        total += linear_nats(*part, linear_fit(*part))
    return total


def per_sample(nats: np.ndarray, data: list[Sentence]) -> tuple[float, float]:
    """Negative log-probability a sample, and two standard errors, over sentences."""
    lengths = np.array([len(wave) for wave, _ in data])
    mean = -nats.sum() / lengths.sum()
    return mean, 2 * np.sqrt(np.sum((nats + mean * lengths) ** 2)) / lengths.sum()


# Waves from spectrograms.


def synthesize(model: FlowModel, spectrogram: np.ndarray, temperature: float) -> np.ndarray:
    return audio.synthesize(model, spectrogram, temperature=temperature, seed=0).numpy() / FULL


def griffin_lim(spectrogram: np.ndarray, options: argparse.Namespace) -> np.ndarray:
    """By 60 iterations, with frames where those of `audio.log_mel` are."""
    window = 4 * options.hop
    loudness = librosa.feature.inverse.mel_to_stft(
        np.exp(spectrogram).T, sr=RATE, n_fft=window, power=1.0
    )
    lengths = {"hop_length": options.hop, "win_length": window, "n_fft": window}
    wave = librosa.griffinlim(loudness, n_iter=60, center=False, random_state=0, **lengths)
    return wave[(window - options.hop) // 2 :][: options.hop * len(spectrogram)]


def made_of(data: list[Sentence], make: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
    """Waves of all sentences, made one after another as one sound: each call has its price."""
    wave = make(np.concatenate([spectrogram for _, spectrogram in data]))
    return np.split(wave, np.cumsum([len(recorded) for recorded, _ in data])[:-1])


def distances(
    waves: list[np.ndarray], data: list[Sentence], options: argparse.Namespace
) -> np.ndarray:
    """Mean absolute differences of log-mel spectrograms, of waves as they are written to files."""
    found = []
    for wave, (_, spectrogram) in zip(waves, data, strict=True):
        written = np.clip(np.round(FULL * wave), -FULL, FULL - 1) / FULL
        found.append(np.mean(np.abs(log_mel(written, options) - spectrogram)))
    return np.array(found)


def best_temperature(model: FlowModel, data: list[Sentence], options: argparse.Namespace) -> float:
    """That of the smallest mean distance."""

    def mean_distance(temperature: float) -> float:
        waves = made_of(data, lambda s: synthesize(model, s, temperature))
        return float(np.mean(distances(waves, data, options)))

    return min(TEMPERATURES, key=mean_distance)


def draw_spectrograms(
    waves: dict[str, np.ndarray], path: Path, options: argparse.Namespace
) -> None:
    """One sentence, as it was recorded and as it was made, side by side."""
    figure, axes = plt.subplots(1, len(waves), figsize=(13, 3.6), sharey=True, layout="constrained")
    for axis, (name, wave) in zip(axes, waves.items(), strict=True):
        spectrum = np.abs(librosa.stft(wave, n_fft=256, hop_length=32))
        image = axis.imshow(
            20 * np.log10(np.maximum(spectrum, 1e-4)),
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=-60,
            vmax=30,
            extent=(0, len(wave) / RATE, 0, RATE / 2000),
        )
        axis.set_title(name)
        axis.set_xlabel("seconds")
    axes[0].set_ylabel("kHz")
    figure.colorbar(image, ax=axes, label="dB", pad=0.01)
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("/usr/share/asterisk/sounds"))
    parser.add_argument("--minutes", type=float, default=30.0, help="of training, for each flow")
    parser.add_argument("--models", type=Path, help="folder where trained flows are, or will be")
    parser.add_argument("--plot", type=Path, help="file for a picture of one sentence")
    parser.add_argument("--only", choices=["conditional", "unconditional"])
    parser.add_argument("--part", choices=["test", "validation"], default="test")
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--hop", type=int, default=128)
    parser.add_argument("--mels", type=int, default=40)
    parser.add_argument("--flows", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    data = sentences(options)
    held_out = data[options.part]
    models, rows = {}, []
    names = ("conditional", "unconditional") if options.only is None else (options.only,)
    for name in names:
        path = None if options.models is None else options.models / f"sound_{name}.keras"
        if path is not None and path.exists():
            models[name], figures = FlowModel.load(path), {}
        else:
            batches = segments(data["train"], options)
            models[name], figures = train(batches, options, conditional=name == "conditional")
            print(name, figures, flush=True)
            if path is not None:
                models[name].save(path)
        rows.append([f"WaveGlow, {name}", flow_nats(models[name], held_out), figures])
    inputs = np.concatenate([lags(wave) for wave, _ in data["train"]])
    everywhere = linear_fit(inputs, np.concatenate([wave for wave, _ in data["train"]]))
    nats = [linear_nats(lags(wave), wave, everywhere) for wave, _ in held_out]
    rows.append(["linear predictor of all sentences", np.array(nats), {}])
    nats = [linear_nats_by_frame(wave) for wave, _ in held_out]
    rows.append(["linear predictor of every frame", np.array(nats), {}])

    columns = ["parameters", "steps", "seconds", "CPU seconds", "seconds a step", "memory, MB"]
    table = []
    for name, nats, figures in rows:
        mean, error = per_sample(nats, held_out)
        bits = f"{mean / np.log(2):.3f}"
        table.append([name, f"{mean:.3f} ± {error:.3f}", bits, *map(figures.get, columns)])
    table = [["" if cell is None else cell for cell in row] for row in table]
    seconds = sum(len(wave) for wave, _ in held_out) / RATE
    print(f"{len(held_out)} sentences, {seconds:.0f} s\n")
    print_table(["model", "nats a sample ± 2 s.e.", "bits a sample", *columns], table)
    if "conditional" not in models:
        return

    model = models["conditional"]
    temperature = best_temperature(model, data["validation"], options)
    makers = {
        f"WaveGlow at temperature {temperature}": lambda s: synthesize(model, s, temperature),
        "Griffin-Lim, 60 iterations": lambda s: griffin_lim(s, options),
    }
    one_second = np.concatenate([spectrogram for _, spectrogram in held_out])[: RATE // options.hop]
    table, made = [], {}
    for name, make in makers.items():
        alone = []
        for _ in range(5):
            start = time.perf_counter()
            make(one_second)
            alone.append(time.perf_counter() - start)
        start = time.perf_counter()
        made[name] = made_of(held_out, make)
        together = (time.perf_counter() - start) / seconds
        found = distances(made[name], held_out, options)
        mean, error = found.mean(), 2 * found.std() / np.sqrt(len(found))
        times = [f"{np.median(alone):.2f}", f"{together:.3f}"]
        table.append([name, f"{mean:.3f} ± {error:.3f}", *times])
    print()
    header = ["resynthesis", "log-mel L1 ± 2 s.e.", "s for 1 s", "s a second, all at once"]
    print_table(header, table)
    if options.plot is not None:
        index = min(range(len(held_out)), key=lambda i: abs(len(held_out[i][0]) - 2 * RATE))
        shown = {"recorded": held_out[index][0] / FULL}
        shown.update({name: waves[index] for name, waves in made.items()})
        draw_spectrograms(shown, options.plot, options)


if __name__ == "__main__":
    main()
