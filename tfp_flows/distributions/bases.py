"""Base distributions for flows, trained with them: a function each, and two that take context.

Every function returns a distribution with events `(event_size,)` and batch shape (), to be given
as `base=` to the functions of `flows`, or to `Flow`. All take

  event_size: number of columns D.
  dtype: "float32" or "float64".

and raise a ValueError that names an argument which is not what it must be. Variables start so that
data standardized to mean 0 and deviation 1 are covered.

A base conditioned on context has an attribute `context_size` and a method `given(context)`, which
returns a distribution with batch shape `context.shape[:-1]`; a `Flow` over it hands it the context.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows.bijectors.coupling import Coupling
from tfp_flows.bijectors.transformers import Affine
from tfp_flows.distributions.flow import Flow
from tfp_flows.distributions.mixture import (
    COMPONENT_SCALE,
    ConditionalMixture,
    diagonal_mixture,
    spread_means,
)
from tfp_flows.distributions.resampled import Resampled
from tfp_flows.ops.checks import floating, positive_int

__all__ = [
    "box",
    "conditional_mixture",
    "conditional_normal",
    "mixture",
    "normal",
    "resampled",
    "student_t",
    "torus",
]


def normal(
    event_size: int, *, trainable: bool = True, dtype: str | tf.DType = "float32"
) -> tfd.Independent:
    """Independent normals, with means 0 and deviations 1, trained unless `trainable=False`.

    Example:
      >>> base = distributions.bases.normal(2)
    """
    zeros = _zeros(event_size, dtype)
    loc, scale = zeros, tf.ones_like(zeros)
    if trainable:
        loc, scale = tf.Variable(loc, name="loc"), _positive(scale, "scale")
    return tfd.Independent(tfd.Normal(loc, scale), 1, name="normal")


def mixture(
    event_size: int,
    components: int = 8,
    *,
    reparameterize: bool = False,
    dtype: str | tf.DType = "float32",
    seed: int | None = None,
) -> tfd.MixtureSameFamily:
    """A mixture of normals with diagonal covariance; weights, means and deviations are trained.

    A flow over it need not tear one mode into several.

    Args:
      components: how many normals.
      reparameterize: whether draws have the right gradients, those of the weights too, by implicit
        reparametrization, as a fit by reverse KL divergence needs. It makes draws outside of
        `tf.function` slow.
      seed: integer for other initial means, or None.

    Source: as base of flows, Pavel Izmailov, Polina Kirichenko, Marc Finzi and Andrew Gordon
    Wilson, "Semi-Supervised Learning with Normalizing Flows" (2020).

    Example:
      >>> flow = flows.real_nvp(2, base=distributions.bases.mixture(2, components=4))
    """
    zeros = _zeros(event_size, dtype)
    positive_int(components, "components")
    logits = tf.Variable(tf.zeros([components], zeros.dtype), name="logits")
    loc = tf.Variable(spread_means(event_size, components, seed), dtype=zeros.dtype, name="loc")
    scale = _positive(COMPONENT_SCALE * tf.ones_like(loc), "scale")
    return diagonal_mixture(logits, loc, scale, reparameterize=reparameterize)


def student_t(
    event_size: int, df: float = 5.0, *, dtype: str | tf.DType = "float32"
) -> tfd.Independent:
    """Independent Student t's with trained degrees of freedom, means and scales: heavy tails.

    A flow whose bijectors have bounded slopes keeps the tails of its base. Degrees of freedom stay
    above 1, where the mean exists.

    Args:
      df: initial degrees of freedom of every column, above 1.

    Source: Priyank Jaini, Ivan Kobyzev, Yaoliang Yu and Marcus Brubaker, "Tails of Lipschitz
    Triangular Flows" (2020).

    Example:
      >>> base = distributions.bases.student_t(2, df=3.0)
    """
    zeros = _zeros(event_size, dtype)
    if not (math.isfinite(df) and df > 1):
        raise ValueError(f"`df` must be a finite number above 1. Received: df={df!r}")
    ones = tf.ones_like(zeros)
    above_one = tfb.Softplus(low=tf.constant(1, zeros.dtype))
    df = tfp.util.TransformedVariable(df * ones, above_one, name="df")
    loc = tf.Variable(zeros, name="loc")
    return tfd.Independent(tfd.StudentT(df, loc, _positive(ones, "scale")), 1, name="student_t")


def box(
    event_size: int,
    low: float = -1.0,
    high: float = 1.0,
    *,
    dtype: str | tf.DType = "float32",
) -> tfd.Independent:
    """The uniform distribution on `[low, high]^D`; nothing is trained.

    Example:
      >>> base = distributions.bases.box(2, 0.0, 1.0)
    """
    zeros = _zeros(event_size, dtype)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"`low` must be below `high`. Received: low={low!r}, high={high!r}")
    return tfd.Independent(tfd.Uniform(zeros + low, zeros + high), 1, name="box")


def torus(event_size: int, *, dtype: str | tf.DType = "float32") -> tfd.Independent:
    """The uniform distribution of `D` angles in `[-π, π)`, in radians; nothing is trained.

    The log-density is `-D log 2π`, at ±π too, and `-inf` outside: wrap angles before. It is the
    base of circular flows.

    Source: Danilo Jimenez Rezende et al., "Normalizing Flows on Tori and Spheres" (2020).

    Example:
      >>> distributions.bases.torus(2).log_prob([0.0, 3.0]) / np.log(2 * np.pi)     # -2.0
    """
    zeros = _zeros(event_size, dtype)
    # One number beyond the one that is closest to π: an angle of π is found on either side of it.
    end = np.nextafter(zeros.dtype.as_numpy_dtype(np.pi), 4, dtype=zeros.dtype.as_numpy_dtype)
    return tfd.Independent(tfd.Uniform(zeros - end, zeros + end), 1, name="torus")


def resampled(
    event_size: int,
    hidden_units: Sequence[int] | keras.layers.Layer = (64, 64),
    truncation: int = 100,
    *,
    draws: int = 4096,
    dtype: str | tf.DType = "float32",
    seed: int | None = None,
) -> Resampled:
    """A standard normal whose draws a network accepts or rejects; see `Resampled`.

    Example:
      >>> flow = flows.real_nvp(2, base=distributions.bases.resampled(2))
    """
    return Resampled(event_size, hidden_units, truncation, draws=draws, dtype=dtype, seed=seed)


def conditional_normal(
    event_size: int,
    context_size: int,
    hidden_units: Sequence[int] | keras.layers.Layer = (64, 64),
    *,
    dtype: str | tf.DType = "float32",
    seed: int | None = None,
) -> Flow:
    """Independent normals whose means and deviations a network computes from the context.

    Starts as the standard normal; deviations stay within `exp(±3)`.

    Args:
      context_size: width of the context.
      hidden_units: hidden widths of the network, or a Keras 3 layer.
      seed: integer for reproducible initial weights, or None.

    Example:
      >>> base = distributions.bases.conditional_normal(2, context_size=3)
      >>> base.given(np.zeros((5, 3))).batch_shape      # (5,)
    """
    zeros = _zeros(event_size, dtype)
    positive_int(context_size, "context_size")
    layer = Coupling(
        event_size,
        Affine(),
        hidden_units,
        mask=[False] * event_size,
        context_size=context_size,
        dtype=zeros.dtype,
        seed=seed,
    )
    return Flow(normal(event_size, trainable=False, dtype=dtype), layer, name="conditional_normal")


def conditional_mixture(
    event_size: int,
    context_size: int,
    components: int = 8,
    hidden_units: Sequence[int] | keras.layers.Layer = (64, 64),
    *,
    dtype: str | tf.DType = "float32",
    seed: int | None = None,
) -> ConditionalMixture:
    """A mixture of normals whose parameters a network computes from the context.

    See `ConditionalMixture`.

    Example:
      >>> base = distributions.bases.conditional_mixture(2, context_size=3, components=4)
    """
    return ConditionalMixture(
        event_size, context_size, components, hidden_units, dtype=dtype, seed=seed
    )


def _zeros(event_size: int, dtype: str | tf.DType) -> tf.Tensor:
    """Zeros for every column, once size and dtype are found right."""
    positive_int(event_size, "event_size")
    dtype = floating(dtype)
    return tf.zeros([event_size], dtype)


def _positive(value: tf.Tensor, name: str) -> tfp.util.TransformedVariable:
    """A variable that stays positive and changes by factors."""
    return tfp.util.TransformedVariable(value, tfb.Exp(), name=name)
