"""Orthogonal maps, which keep lengths and volume: reflections and rotations."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.bijectors.matrices import (
    multiply,
    reflect,
    reflection_count,
    reflection_vectors,
)
from tfp_flows.bijectors.parametric import Parametric
from tfp_flows.bijectors.transformers.base import Pair
from tfp_flows.ops.checks import positive_int
from tfp_flows.ops.limits import claim

__all__ = ["Householder", "Rotation"]

_LARGEST = 1e3


class Householder(Parametric):
    """A rotation as a product of reflections.

    Forward: `y = H_1 H_2 ... H_k x`, where `H_i = I - 2 v_i v_iᵀ / (v_iᵀ v_i)`
    Inverse: `x = H_k ... H_2 H_1 y`
    Log-det: `0`: reflections preserve volume, and their number is even.

    Both directions cost two products with the `reflections` vectors, and the triangular solve that
    binds them. Vectors start as pairs of equal ones in random directions: each pair is the
    identity, and every vector moves away from its twin. A vector of exactly 0 reflects nothing.

    Shapes: events `(event_size,)`, context `(..., context_size)`; the batch shapes of both
    broadcast. `reflections * event_size` parameters.

    Args:
      event_size: number of columns, at least 2.
      reflections: how many, an even number; by default `event_size` or one less, which are enough
        for every rotation.
      dtype: floating dtype of events.
      context_size: width of the context, or `None`.
      conditioner: hidden widths of an MLP that reads the context, or a Keras 3 layer
        `(batch, context_size) -> (batch, features)`.
      seed: integer for reproducible first vectors and initial weights, or `None`.
      validate_args: as in every `tfb.Bijector`.
      name: name of the bijector.

    Raises:
      ValueError: a size is not a positive integer, `event_size` is 1, `reflections` is odd,
        `dtype` is neither float32 nor float64; an event or context does not fit; context is
        missing, or given to an unconditional bijector.

    Source: Jakub M. Tomczak and Max Welling, "Improving Variational Auto-Encoders using
    Householder Flow" (2016).

    Example:
      >>> turn = bijectors.Householder(8, reflections=4)
      >>> turn.forward(np.ones((10, 8), "float32")).shape     # (10, 8)
    """

    closed_inverse = True
    is_monotone = True
    independent_over_batch = True

    def __init__(
        self,
        event_size: int,
        reflections: int | None = None,
        dtype: str | tf.DType = "float32",
        *,
        context_size: int | None = None,
        conditioner: Sequence[int] | keras.layers.Layer = (64, 64),
        seed: int | None = None,
        validate_args: bool = False,
        name: str = "householder",
    ):
        parameters = dict(locals())
        size = _at_least_two(event_size)
        pairs = reflection_count(reflections, size, even=True) // 2
        super().__init__(
            event_size,
            [np.repeat(reflection_vectors(pairs, size, seed), 2, axis=0)],
            context_size=context_size,
            conditioner=conditioner,
            dtype=dtype,
            seed=seed,
            parameters=parameters,
            is_affine=True,
        )

    def _map(self, x: tf.Tensor, vectors: tf.Tensor) -> Pair:
        return reflect(vectors, x), tf.zeros([], x.dtype)

    def _unmap(self, y: tf.Tensor, vectors: tf.Tensor) -> Pair:
        return reflect(vectors, y, adjoint=True), tf.zeros([], y.dtype)


class Rotation(Parametric):
    """A rotation by the Cayley transform of a skew-symmetric matrix.

    Forward: `y = Q x`, where `Q = (I - S/2)⁻¹ (I + S/2)` and `S = A - Aᵀ`
    Inverse: `x = Qᵀ y`
    Log-det: `0`: rotations preserve volume.

    `A` is strictly lower triangular, with `event_size (event_size - 1) / 2` free entries, as many
    as rotations have, and each has a gradient of its own at the start, which is the identity. To
    second order `Q` is `exp(S)`; in the plane it turns by `2 atan(a / 2)` radians, where
    `Rotation2D` turns by its angle. Half turns are the limit of infinite entries; beyond
    ±1000, of which one is 0.004 radians short, they change nothing any more. (The gradient of
    `tf.linalg.expm` does not compile under XLA: its loop has no fixed length.) Both directions
    cost a product with `Q`, and a solve with `event_size³` operations to make it: once without
    context, for every context otherwise.

    Shapes: as in `Householder`.

    Args:
      event_size: number of columns, at least 2.
      dtype: floating dtype of events.
      context_size, conditioner, validate_args, name: as in `Householder`.
      seed: integer for reproducible initial weights of the conditioner, or `None`.

    Raises:
      ValueError: as in `Householder`.

    Source: Arthur Cayley, "Sur quelques propriétés des déterminants gauches" (1846).

    Example:
      >>> turn = bijectors.Rotation(3)
      >>> turned = tfd.TransformedDistribution(tfd.MultivariateNormalDiag([0.0, 0.0, 0.0]), turn)
    """

    closed_inverse = True
    is_monotone = True
    independent_over_batch = True

    def __init__(
        self,
        event_size: int,
        dtype: str | tf.DType = "float32",
        *,
        context_size: int | None = None,
        conditioner: Sequence[int] | keras.layers.Layer = (64, 64),
        seed: int | None = None,
        validate_args: bool = False,
        name: str = "rotation",
    ):
        parameters = dict(locals())
        size = _at_least_two(event_size)
        claim(size, size)
        super().__init__(
            event_size,
            [np.zeros(size * (size - 1) // 2)],
            context_size=context_size,
            conditioner=conditioner,
            dtype=dtype,
            seed=seed,
            parameters=parameters,
            is_affine=True,
        )

    def _map(self, x: tf.Tensor, entries: tf.Tensor) -> Pair:
        return multiply(self._matrix(entries), x), tf.zeros([], x.dtype)

    def _unmap(self, y: tf.Tensor, entries: tf.Tensor) -> Pair:
        matrix = tf.linalg.matrix_transpose(self._matrix(entries))
        return multiply(matrix, y), tf.zeros([], y.dtype)

    def _matrix(self, entries: tf.Tensor) -> tf.Tensor:
        # Beyond, the solution loses digits, and at last is none: rounding errors grow with them.
        entries = tf.clip_by_value(entries, -_LARGEST, _LARGEST)
        below = tfp.math.fill_triangular(entries / 2)
        below = tf.pad(below, [[0, 0]] * (below.shape.rank - 2) + [[1, 0], [0, 1]])
        half = below - tf.linalg.matrix_transpose(below)
        one = tf.eye(self.event_size, dtype=entries.dtype)
        return tf.linalg.solve(one - half, one + half)


def _at_least_two(event_size: int) -> int:
    if positive_int(event_size, "event_size") < 2:
        raise ValueError(
            f"`event_size` must be at least 2: a line has no rotations. Received: {event_size}"
        )
    return event_size
