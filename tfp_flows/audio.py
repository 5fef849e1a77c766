"""Sound: mel spectrograms, waves from spectrograms by a flow, and files.

Waves are arrays `(..., T)` of numbers between -1 and 1; flows take them as events `(T, 1)`.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_flows.distributions import Flow
from tfp_flows.ops.checks import as_real, positive_int

__all__ = ["log_mel", "mel_filters", "read", "synthesize", "write"]


def log_mel(
    wave: Any,
    *,
    rate: float,
    hop: int = 256,
    mels: int = 80,
    window: int | None = None,
    scale: str = "slaney",
    low: float = 0.0,
    high: float | None = None,
    floor: float = 1e-5,
) -> tf.Tensor:
    """Mel spectrogram: the logarithm of how loud every band of frequencies is, in every frame.

    `log max(floor, filters · |STFT(wave)|)`, natural logarithm, with a Hann window. Frame `k` is
    centred on the samples from `hop k` to `hop (k + 1)`; at both ends the wave is mirrored.

    Args:
      wave: `(..., T)`, `T` a multiple of `hop`.
      rate: samples a second, in hertz.
      hop: samples a frame.
      mels: number of bands.
      window: samples of the window, `4 hop` by default.
      scale: "slaney", which is linear below 1,000 Hz, or "htk"; see `mel_filters`.
      low: lowest frequency, in hertz.
      high: highest frequency, `rate / 2` by default.
      floor: smallest value, so that silence has a logarithm.

    Returns:
      `(..., T // hop, mels)`, in the dtype of the wave.

    Raises:
      ValueError: an argument is out of range, or `T` is not a multiple of `hop`, or shorter than
        the window.

    Source: S. S. Stevens, J. Volkmann and E. B. Newman, "A Scale for the Measurement of the
    Psychological Magnitude Pitch" (1937).

    Example:
      >>> wave = np.sin(2 * np.pi * 440 * np.arange(8192) / 8000).astype("float32")
      >>> audio.log_mel(wave, rate=8000, hop=128, mels=40).shape
      TensorShape([64, 40])
    """
    wave = as_real(wave, _dtype(wave), "wave")
    hop = positive_int(hop, "hop")
    window = 4 * hop if window is None else positive_int(window, "window")
    length = wave.shape[-1] if wave.shape.rank else None
    if length is None or length % hop or length < window or window < hop:
        raise ValueError(
            f"`wave` must have a multiple of hop={hop} samples on its last axis, and {window} or "
            f"more, for a window of {window}. Received: shape={tuple(wave.shape)}"
        )
    if not 0 < floor < math.inf:
        raise ValueError(f"`floor` must be positive and finite. Received: floor={floor!r}")
    before = (window - hop) // 2
    ends = [[0, 0]] * (wave.shape.rank - 1) + [[before, window - hop - before]]
    padded = tf.pad(wave, ends, "REFLECT")
    spectrum = tf.abs(tf.signal.stft(padded, window, hop, fft_length=window))
    filters = mel_filters(
        mels, rate=rate, window=window, scale=scale, low=low, high=high, dtype=wave.dtype
    )
    bands = tf.matmul(spectrum, tf.constant(filters.T))
    return tf.math.log(tf.maximum(bands, tf.constant(floor, wave.dtype)))


def mel_filters(
    mels: int,
    *,
    rate: float,
    window: int,
    scale: str = "slaney",
    low: float = 0.0,
    high: float | None = None,
    dtype: str | tf.DType = "float32",
) -> np.ndarray:
    """Triangular filters, `(mels, window // 2 + 1)`, from frequencies to bands of equal height.

    Band `k` rises from the frequency `f_k` to `f_{k + 1}` and falls to `f_{k + 2}`, which are
    equally far apart on the scale; its area over frequencies in hertz is 1. With `m` in mel,

    "slaney": `m = 3 f / 200` below 1,000 Hz, and `15 + 27 log(f / 1000) / log 6.4` above
    "htk": `m = 2595 log10(1 + f / 700)`

    Args:
      mels: number of bands.
      rate: samples a second, in hertz.
      window: samples of a frame.
      scale: "slaney" or "htk".
      low: lowest frequency, in hertz.
      high: highest frequency, `rate / 2` by default.
      dtype: of the result.

    Raises:
      ValueError: an argument is out of range; or a band is so narrow that it holds no frequency of
        the window.

    Source: Malcolm Slaney, "Auditory Toolbox" (1998); Steve Young et al., "The HTK Book" (2006).

    Example:
      >>> audio.mel_filters(40, rate=8000, window=512).shape
      (40, 257)
    """
    positive_int(mels, "mels")
    positive_int(window, "window")
    high = rate / 2 if high is None else high
    if not (math.isfinite(rate) and 0 <= low < high <= rate / 2):
        raise ValueError(
            "`low` and `high` must be frequencies, in hertz, from 0 to half of `rate`. "
            f"Received: low={low!r}, high={high!r}, rate={rate!r}"
        )
    if scale not in _SCALES:
        raise ValueError(f"`scale` must be one of {sorted(_SCALES)}. Received: scale={scale!r}")
    to_mel, to_hertz = _SCALES[scale]
    corners = to_hertz(np.linspace(to_mel(low), to_mel(high), mels + 2))
    frequencies = np.arange(window // 2 + 1) * rate / window
    rising = (frequencies - corners[:-2, None]) / np.diff(corners)[:-1, None]
    falling = (corners[2:, None] - frequencies) / np.diff(corners)[1:, None]
    filters = np.maximum(0.0, np.minimum(rising, falling))
    empty = np.flatnonzero(filters.sum(1) == 0)
    if len(empty):
        raise ValueError(
            f"`mels` must be so few that every band holds a frequency of a window of {window} "
            f"samples. Received: mels={mels}, whose band {empty[0]} holds none"
        )
    areas = (corners[2:] - corners[:-2]) / 2
    return (filters / areas[:, None]).astype(tf.as_dtype(dtype).as_numpy_dtype)


def synthesize(
    flow: Any, spectrogram: Any, *, temperature: float = 1.0, seed: Any | None = None
) -> tf.Tensor:
    """Draw waves of any length from a flow of segments, given their spectrograms.

    Of many waves of one length, `tf.function` of a call saves most of the time: without it, what
    Python does for every layer takes longer than to compute some seconds of sound.

    Args:
      flow: `flows.waveglow`, or a `FlowModel` or `Dequantized` of one.
      spectrogram: `(..., frames, mels)`, of any number of frames.
      temperature: as in `Flow.sample`.
      seed: as in `Flow.sample`.

    Returns:
      Waves `(..., hop · frames)`, in the units of the data that the flow was trained on.

    Raises:
      ValueError: the flow takes no spectrograms, or they have another width.

    Example:
      >>> flow = flows.waveglow(64, mels=10, hop=16, flows=2, width=8, layers=2, seed=0)
      >>> audio.synthesize(flow, np.zeros((20, 10)), seed=0).shape
      TensorShape([320])
    """
    while not isinstance(flow, Flow) and hasattr(flow, "distribution"):
        flow = flow.distribution
    shape = getattr(flow, "context_shape", None)
    if not isinstance(flow, Flow) or shape is None or len(shape) != 2:
        raise ValueError(
            "`flow` must be one of waves given spectrograms, as `flows.waveglow`. "
            f"Received: {flow!r}"
        )
    frames, mels = shape
    spectrogram = as_real(spectrogram, flow.dtype, "spectrogram")
    if spectrogram.shape.rank < 2 or spectrogram.shape[-1] != mels or not spectrogram.shape[-2]:
        raise ValueError(
            f"`spectrogram` must have shape (..., frames, {mels}). "
            f"Received: shape={tuple(spectrogram.shape)}"
        )
    hop = flow.event_shape[0] // frames
    zeros = tf.zeros([hop * spectrogram.shape[-2], 1], flow.dtype)
    base = tfd.Independent(tfd.Normal(zeros, tf.ones_like(zeros)), 2)
    longer = Flow(base, flow.bijector)
    context = flow.embedded(spectrogram)
    return longer.sample(context=context, seed=seed, temperature=temperature)[..., 0]


def read(path: str | os.PathLike[str]) -> tuple[np.ndarray, int]:
    """A sound file as a wave, `(T,)` or `(T, channels)` in float32, and its rate in hertz.

    Raises:
      ImportError: the package `soundfile` is not installed.
    """
    return _soundfile().read(path, dtype="float32")


def write(path: str | os.PathLike[str], wave: Any, *, rate: int) -> None:
    """Write a wave `(T,)` as a sound file with 16 bits a sample; values beyond ±1 are clipped.

    Args:
      path: its ending, ".wav" or ".flac" say, is that of the format.
      wave: `(T,)`, or `(T, channels)`.
      rate: samples a second, in hertz.

    Raises:
      ImportError: the package `soundfile` is not installed.
      ValueError: the wave has a NaN.
    """
    wave = np.asarray(wave)
    if np.isnan(wave).any():
        raise ValueError(f"`wave` must hold numbers. Received: {np.isnan(wave).sum()} NaN")
    _soundfile().write(path, np.clip(wave, -1.0, 1.0), rate, subtype="PCM_16")


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError as error:
        raise ImportError(
            "Sound files need the package soundfile: pip install 'tfp_flows[audio]'"
        ) from error
    return soundfile


def _dtype(wave: Any) -> tf.DType:
    return tf.float64 if getattr(wave, "dtype", None) in ("float64", tf.float64) else tf.float32


def _slaney(hertz: Any) -> Any:
    above = 15 + 27 * np.log(np.maximum(hertz, 1000.0) / 1000) / np.log(6.4)
    return np.where(np.asarray(hertz) < 1000, 3 * np.asarray(hertz) / 200, above)


def _slaney_hertz(mel: Any) -> Any:
    return np.where(mel < 15, 200 * mel / 3, 1000 * 6.4 ** ((np.maximum(mel, 15) - 15) / 27))


_SCALES = {
    "slaney": (_slaney, _slaney_hertz),
    "htk": (
        lambda hertz: 2595 * np.log10(1 + np.asarray(hertz) / 700),
        lambda mel: 700 * (10 ** (mel / 2595) - 1),
    ),
}
