"""Flows of sounds, given their spectrograms: couplings of samples in groups."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows.bijectors import LU, ActNorm, Coupling, MultiScale, Squeeze
from tfp_flows.bijectors.transformers import Affine
from tfp_flows.distributions.flow import Flow
from tfp_flows.networks import SpectrogramUpsampler, WaveNet
from tfp_flows.networks.conditioner import network_policy
from tfp_flows.ops.checks import floating, positive_int
from tfp_flows.ops.seeds import check_seed

__all__ = ["waveglow"]

_FLOWS_BETWEEN_EXITS = 4
_CHANNELS_AN_EXIT = 2


def waveglow(
    samples: int = 4096,
    mels: int | None = 80,
    hop: int = 256,
    flows: int = 12,
    group: int = 8,
    width: int = 64,
    seed: int | None = None,
    *,
    layers: int = 6,
    dtype: str | tf.DType = "float32",
    name: str = "waveglow",
) -> Flow:
    """WaveGlow: waves given their spectrograms, by couplings of `group` samples at a time.

    From data to base, `ActNorm` standardizes the wave, and groups of samples become channels
    (`Squeeze`). Then come `flows` pairs of `LU`, an invertible 1×1 convolution, and an affine
    `Coupling`, whose `WaveNet` reads half of the channels and the spectrogram, stretched to the
    same length by a trained `SpectrogramUpsampler`. After every 4 pairs 2 channels leave: they are
    normal given the others and the spectrogram (`MultiScale`).

    Both directions cost one call of every network: a wave is drawn at once. No weight knows of the
    length: train on segments, and let `audio.synthesize` make waves of any number of frames.

    Shapes: events `(samples, 1)`; context, a spectrogram as `audio.log_mel` makes it,
    `(..., samples // hop, mels)`. `FlowModel.adapt`, or the first batch of training, initializes
    layers from data.

    Args:
      samples: length of a segment, a multiple of `hop`.
      mels: bands of the spectrogram; `None` for a flow of waves alone.
      hop: samples a frame, a multiple of `group`.
      flows: how many pairs of `LU` and coupling.
      group: how many samples become the channels of one position.
      width: of the networks.
      seed: integer for reproducible initial weights, or `None`.
      layers: of every network.
      dtype: floating dtype of events.
      name: name of the flow.

    Raises:
      ValueError: a number is not a positive integer, or not a multiple of the other.

    Source: Ryan Prenger, Rafael Valle and Bryan Catanzaro, "WaveGlow: A Flow-based Generative
    Network for Speech Synthesis" (2019), where the channels that leave are standard normal.

    Example:
      >>> flow = flows.waveglow(64, mels=10, hop=16, flows=2, width=8, layers=2, seed=0)
      >>> flow.sample(3, context=np.zeros((4, 10)), seed=0).shape
      TensorShape([3, 64, 1])
    """
    dtype = floating(dtype)
    numbers = {"samples": samples, "hop": hop, "flows": flows, "group": group, "width": width}
    for what, number in {**numbers, "layers": layers, "mels": 1 if mels is None else mels}.items():
        positive_int(number, what)
    for one, other in (("samples", "hop"), ("hop", "group")):
        if numbers[one] % numbers[other]:
            raise ValueError(
                f"`{one}` must be a multiple of `{other}`. "
                f"Received: {one}={numbers[one]}, {other}={numbers[other]}"
            )
    if group < 2:
        raise ValueError(f"`group` must be 2 or more. Received: group={group}")
    rng = np.random.default_rng(check_seed(seed))
    policy = network_policy(dtype.name)
    context_size = None if mels is None else (None, width)

    def next_seed() -> int | None:
        return None if seed is None else int(rng.integers(2**31))

    def chain(first: int, channels: int) -> list[tfb.Bijector]:
        """The layers from the one of number `first` on, from data to base."""
        found: list[tfb.Bijector] = []
        for i in range(first, flows):
            shape = (None, channels)
            network = WaveNet(width, layers=layers, seed=next_seed(), dtype=policy)
            options = {"context_size": context_size, "dtype": dtype, "seed": next_seed()}
            leaves = i > first and i % _FLOWS_BETWEEN_EXITS == 0
            if leaves and channels > _CHANNELS_AN_EXIT + 1:
                kept = channels - _CHANNELS_AN_EXIT
                return [*found, MultiScale(shape, chain(i, kept), network, kept=kept, **options)]
            order = np.random.default_rng((seed or 0, i)).permutation(channels).tolist()
            found.append(LU(channels, dtype, permutation=order, seed=next_seed()))
            found.append(Coupling(shape, Affine(), network, **options))
        return found

    embedding = None
    if mels is not None:
        embedding = SpectrogramUpsampler(
            width, hop // group, mels=mels, seed=next_seed(), dtype=policy
        )
    zeros = tf.zeros([samples, 1], dtype)
    grouped = tfb.Invert(Squeeze(group, event_ndims=2))
    return Flow(
        tfd.Independent(tfd.Normal(zeros, tf.ones_like(zeros)), 2, name="base"),
        tfb.Chain([ActNorm(1, dtype), grouped, *chain(0, group), Squeeze(group, event_ndims=2)]),
        embedding=embedding,
        context_shape=None if mels is None else (samples // hop, mels),
        name=name,
    )
