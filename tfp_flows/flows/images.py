"""Flows of images: couplings over the channels of ever smaller grids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows.bijectors import LU, ActNorm, Coupling, MultiScale, Squeeze
from tfp_flows.bijectors.transformers import Affine, Transformer
from tfp_flows.distributions.flow import Flow
from tfp_flows.networks import GatedResNet
from tfp_flows.networks.conditioner import network_policy
from tfp_flows.ops.checks import floating, positive_int
from tfp_flows.ops.grids import Size
from tfp_flows.ops.seeds import check_seed

__all__ = ["check_image", "glow"]


def glow(
    event_shape: Sequence[int],
    levels: int = 3,
    steps: int = 8,
    width: int = 64,
    transformer: Transformer | None = None,
    context_size: Size | None = None,
    dtype: str | tf.DType = "float32",
    seed: int | None = None,
    *,
    blocks: int = 1,
    name: str = "glow",
) -> Flow:
    """Glow: images at several scales, by couplings, 1×1 convolutions and activation norms.

    From data to base, `ActNorm` standardizes the channels. Then every level squeezes blocks of 2×2
    pixels into channels, and has `steps` of `ActNorm`, `LU` (an invertible 1×1 convolution) and a
    `Coupling` whose `GatedResNet` reads half of the channels. Behind each level but the last, half
    of the channels leave: they are normal given the others (`MultiScale`). A level whose grid is
    odd is not squeezed.

    Both directions cost one call of every network. Starts as a permutation of channels.

    Shapes: events `event_shape`, `(H, W, C)`, in any unit: `FlowModel.adapt`, or the first batch of
    training, initializes all layers from data. Context `(..., context_size)`, a class as one number
    for each, or an image `(..., *context_size)`, whose grid is a multiple of that of every level.

    Args:
      event_shape: height, width and channels.
      levels: how many scales.
      steps: couplings a level.
      width: of the networks.
      transformer: a `bijectors.transformers.Transformer`, `Affine()` by default.
      context_size: width of the context, or the shape of an image, or `None`.
      dtype: floating dtype of events.
      seed: integer for reproducible initial weights, or `None`.
      blocks: residual blocks of every network.
      name: name of the flow.

    Raises:
      ValueError: `event_shape` is no shape of an image, or its lengths are odd; a number is not a
        positive integer; there are so many levels that no channel is left to split.

    Source: Diederik P. Kingma and Prafulla Dhariwal, "Glow: Generative Flow with Invertible 1×1
    Convolutions" (2018).

    Example:
      >>> flow = flows.glow((8, 8, 1), levels=2, steps=2, width=8, seed=0)
      >>> flow.sample(3, seed=0, temperature=0.7).shape
      TensorShape([3, 8, 8, 1])
    """
    dtype = floating(dtype)
    shape = check_image(event_shape)
    for number, what in ((levels, "levels"), (steps, "steps"), (width, "width")):
        positive_int(number, what)
    rng = np.random.default_rng(check_seed(seed))

    def next_seed() -> int | None:
        return None if seed is None else int(rng.integers(2**31))

    def network(blocks: int) -> GatedResNet:
        policy = network_policy(dtype.name)
        return GatedResNet(width, blocks=blocks, seed=next_seed(), dtype=policy)

    def step(shape: tuple[int, ...], index: int) -> list[tfb.Bijector]:
        coupling = Coupling(
            shape,
            transformer or Affine(),
            network(blocks),
            context_size=context_size,
            dtype=dtype,
            seed=next_seed(),
        )
        permutation = np.random.default_rng((seed or 0, *shape, index)).permutation(shape[-1])
        mix = LU(shape[-1], dtype, permutation=permutation.tolist(), seed=next_seed())
        return [ActNorm(shape[-1], dtype), mix, coupling]

    def level(shape: tuple[int, ...], left: int) -> list[tfb.Bijector]:
        height, length, channels = shape
        squeezed = height % 2 == 0 and length % 2 == 0
        if squeezed:
            shape = (height // 2, length // 2, 4 * channels)
        if shape[-1] < 2:
            raise ValueError(
                f"`levels` must be {levels - left} or less for event_shape={tuple(event_shape)}: "
                f"the next level would have a single channel. Received: levels={levels}"
            )
        layers = [layer for i in range(steps) for layer in step(shape, i)]
        if left > 1:
            inner = level((*shape[:-1], shape[-1] // 2), left - 1)
            layers.append(
                MultiScale(
                    shape,
                    inner,
                    network(1),
                    context_size=context_size,
                    dtype=dtype,
                    seed=next_seed(),
                )
            )
        return [tfb.Invert(Squeeze(2)), *layers, Squeeze(2)] if squeezed else layers

    Squeeze(2).forward_event_shape(shape)  # Refuses odd lengths, and says which would do.
    zeros = tf.zeros(shape, dtype)
    base = tfd.Independent(tfd.Normal(zeros, tf.ones_like(zeros)), 3, name="base")
    layers = [ActNorm(shape[-1], dtype, name="units"), *level(shape, levels)]
    return Flow(base, tfb.Chain(layers), name=name)


def check_image(event_shape: Sequence[int]) -> tuple[int, int, int]:
    """The shape as a tuple; a ValueError unless it is one of images."""
    shape = tuple(event_shape) if isinstance(event_shape, Sequence) else ()
    if len(shape) != 3:
        raise ValueError(
            f"`event_shape` must be (height, width, channels). Received: {event_shape!r}"
        )
    height, width, channels = (positive_int(size, "event_shape") for size in shape)
    return height, width, channels
