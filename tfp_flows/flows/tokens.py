"""Flows of patches: images as tokens, each given those before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows.bijectors import ActNorm, Squeeze, TokenAutoregressive
from tfp_flows.bijectors.transformers import Affine
from tfp_flows.distributions.chain import flatten_chain
from tfp_flows.distributions.dequantized import Dequantized
from tfp_flows.distributions.flow import Flow
from tfp_flows.flows.images import check_image
from tfp_flows.networks import ContextDropout
from tfp_flows.ops.checks import as_real, floating, positive_int
from tfp_flows.ops.seeds import check_seed

__all__ = ["denoised", "guided", "tarflow"]


def tarflow(
    event_shape: Sequence[int],
    patch: int = 4,
    blocks: int = 4,
    layers: int = 2,
    width: int = 128,
    context_size: int | None = None,
    seed: int | None = None,
    *,
    context_dropout: float = 0.1,
    dtype: str | tf.DType = "float32",
    name: str = "tarflow",
) -> Flow:
    """TarFlow: images as patches, each shifted and scaled by what a transformer reads off others.

    From data to base, `ActNorm` standardizes the channels, patches of `patch × patch` pixels become
    tokens, and `blocks` of `TokenAutoregressive` map them, every other one from the last token on.

    `log_prob` costs one call of every network, `sample` goes through the tokens of every block one
    after another. Starts as the identity, but for the units of the data.

    Given a context, whole contexts are zeros now and then in training, so that `guided` can tell
    what they have to say.

    Shapes: events `event_shape`, `(H, W, C)`, in any unit: `FlowModel.adapt`, or the first batch of
    training, standardizes them. Context `(..., context_size)`, as a class by one number for each.

    Args:
      event_shape: height and width, multiples of `patch`, and channels.
      patch: length of a patch.
      blocks: how many layers of the flow.
      layers: of every transformer.
      width: of every transformer.
      context_size: width of the context, or `None`.
      seed: integer for reproducible initial weights, or `None`.
      context_dropout: rate in `[0, 1)` at which contexts are zeros in training.
      dtype: floating dtype of events.
      name: name of the flow.

    Raises:
      ValueError: `event_shape` is no shape of an image, or its lengths are no multiples of `patch`;
        a number is not a positive integer.

    Source: Shuangfei Zhai et al., "Normalizing Flows are Capable Generative Models" (2024).

    Example:
      >>> flow = flows.tarflow((8, 8, 1), patch=4, blocks=2, layers=1, width=8, seed=0)
      >>> flow.sample(3, seed=0).shape
      TensorShape([3, 8, 8, 1])
    """
    dtype = floating(dtype)
    shape = check_image(event_shape)
    for number, what in ((patch, "patch"), (blocks, "blocks"), (layers, "layers")):
        positive_int(number, what)
    rng = np.random.default_rng(check_seed(seed))
    squeeze = Squeeze(patch)
    grid = tuple(squeeze.forward_event_shape(shape))
    tokens = (math.prod(grid[:-1]), grid[-1])
    chain = [
        TokenAutoregressive(
            tokens,
            Affine(),
            (width,) * layers,
            reverse=i % 2 == 1,
            context_size=context_size,
            dtype=dtype,
            seed=None if seed is None else int(rng.integers(2**31)),
        )
        for i in range(blocks)
    ]
    embedding = None
    if context_size is not None and context_dropout:
        embedding = ContextDropout(context_dropout, seed=seed)
    zeros = tf.zeros(shape, dtype)
    to_grid = tfb.Reshape(event_shape_in=tokens, event_shape_out=grid)
    return Flow(
        tfd.Independent(tfd.Normal(zeros, tf.ones_like(zeros)), 3, name="base"),
        tfb.Chain(
            [
                ActNorm(shape[-1], dtype),
                tfb.Invert(squeeze),
                to_grid,
                *chain,
                tfb.Invert(to_grid),
                Squeeze(patch),
            ]
        ),
        embedding=embedding,
        context_shape=None if embedding is None or context_size is None else (context_size,),
        name=name,
    )


def guided(flow: Flow, guidance: float) -> Flow:
    """The same flow, with the same weights, that makes more of its context.

    Parameters of every `TokenAutoregressive` are moved away from those that it has without context:
    see there. Its densities are those of what it draws, not of the data.

    Args:
      flow: as `tarflow` makes it, with context.
      guidance: how far, 0 or more.

    Raises:
      ValueError: the flow has no such layer with context; or `guidance` is negative.

    Example:
      >>> flow = flows.tarflow((8, 8, 1), blocks=2, layers=1, width=8, context_size=10, seed=0)
      >>> flows.guided(flow, 1.5).sample(3, context=np.eye(10)[7], seed=0).shape
      TensorShape([3, 8, 8, 1])
    """
    parts = flatten_chain(flow.bijector)
    is_guided = [
        isinstance(part, TokenAutoregressive) and part.context_size is not None for part in parts
    ]
    if not any(is_guided):
        raise ValueError(
            "`flow` must have layers of tokens with context, as `tarflow` has. "
            f"Received: flow={flow!r}"
        )
    layers = [
        part.guided(guidance) if chosen else part
        for part, chosen in zip(parts, is_guided, strict=True)
    ]
    return flow.copy(bijector=tfb.Chain(layers))


def denoised(flow: Any, y: Any, noise: float, context: Any | None = None) -> tf.Tensor:
    """What events with normal noise most likely were before, by the score of a flow of such events.

    `E[x | y] = y + σ² ∇_y log p(y)`, where `y = x + σ ε`, `ε ~ N(0, I)`, and `p` is the density of
    `y`, which the flow has learned.

    A density of data that lie on a surface, or on a grid as pixels do, has no upper bound. With
    noise it has, and flows of images give better draws if they are trained with noise and their
    draws denoised. The flow's likelihood is then that of noisy data: there are no bits a dimension.

    New noise in every batch comes from the data:
    `tf.data.Dataset.from_tensor_slices(x).shuffle(len(x)).batch(64).map(add_noise)`, with
    `add_noise = lambda x: x + σ * tf.random.normal(tf.shape(x))` of floats.

    It costs one call of `log_prob` and its gradient.

    Args:
      flow: what was trained on noisy events, as `flow` or as a `FlowModel`: any distribution whose
        `log_prob` is a density with a gradient.
      y: noisy events `(..., *event_shape)`, draws of the flow for example.
      noise: `σ`, their standard deviation, in the same units.
      context: as in `log_prob`, if the flow takes one.

    Returns:
      `x`, in the shape of `y`.

    Raises:
      ValueError: `noise` is no positive number; or the flow is one of rounded values, which has
        probabilities in place of a density.

    Source: Shuangfei Zhai et al., "Normalizing Flows are Capable Generative Models" (2024); the
    formula is in Bradley Efron, "Tweedie's Formula and Selection Bias" (2011).

    Example:
      >>> noisy = tfd.MultivariateNormalDiag([0.0], [2.0])   # of x ~ N(0, 3) and noise of N(0, 1)
      >>> flows.denoised(noisy, [[4.0]], 1.0).numpy()
      array([[3.]], dtype=float32)
    """
    if not (math.isfinite(noise) and noise > 0):
        raise ValueError(f"`noise` must be positive and finite. Received: noise={noise!r}")
    if isinstance(flow, Dequantized) or isinstance(
        getattr(flow, "distribution", None), Dequantized
    ):
        raise ValueError(
            "`flow` must have a density: train on floats with normal noise, without Dequantized. "
            f"Received: flow={flow!r}"
        )
    y = as_real(y, getattr(flow, "event_dtype", flow.dtype), "y")
    given = {} if context is None else {"context": context}
    with tf.GradientTape() as tape:
        tape.watch(y)
        log_prob = flow.log_prob(y, **given)
    return y + noise**2 * tape.gradient(log_prob, y)
