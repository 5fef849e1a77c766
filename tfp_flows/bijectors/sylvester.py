"""Sylvester flows: planar ones in many directions at once."""

from __future__ import annotations

import math
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
    solve_triangular,
)
from tfp_flows.bijectors.parametric import Parametric
from tfp_flows.bijectors.planar import MIN_SLOPE, tanh_root
from tfp_flows.ops.checks import positive_int
from tfp_flows.ops.implicit import implicit_root
from tfp_flows.ops.internals import prefer_static as ps
from tfp_flows.ops.limits import claim

__all__ = ["Sylvester"]


class Sylvester(Parametric):
    """Push along `rank` orthogonal directions, by sigmoids of the position in their space.

    Forward: `y = x + Q R tanh(R̃ Qᵀx + b)`
    Inverse: `x = y - Q R tanh(R̃ z + b)`, where `z + R tanh(R̃ z + b) = Qᵀy`
    Log-det: `Σ_i log(1 + r_ii r̃_ii (1 - tanh²(R̃ Qᵀx + b)_i))`

    `Q` has `rank` orthonormal columns, the first of a product of reflections; `R` and `R̃` are upper
    triangular. Invertible where every `r_ii r̃_ii > -1`. That is made so: both diagonals are
    `sqrt(1 - ε) tanh(·)` with `ε = 0.01`, and no `1 + r_ii r̃_ii` is below `ε`. The forward
    direction costs products with those matrices. The inverse finds `z` row by row from the last,
    a scalar root each as in `Planar`: `rank` steps one after another, and products with
    `rank × rank` matrices for every event. Derivatives, to any order, are those of the root. Starts
    as the identity: `R` is 0, `R̃` a multiple of the identity, the reflections random.

    Shapes: events `(event_size,)`, context `(..., context_size)`; the batch shapes of both
    broadcast. `reflections * event_size + rank (rank + 2)` parameters.

    Args:
      event_size: number of columns.
      rank: number of directions, at most `event_size`, which is the default.
      reflections: how many make `Q`; by default `event_size` or one less.
      dtype: floating dtype of events.
      context_size: width of the context, or `None`.
      conditioner: hidden widths of an MLP that reads the context, or a Keras 3 layer
        `(batch, context_size) -> (batch, features)`.
      seed: integer for reproducible first reflections and initial weights, or `None`.
      validate_args: as in every `tfb.Bijector`.
      name: name of the bijector.

    Raises:
      ValueError: a size is not a positive integer, `rank` is above `event_size`, `dtype` is neither
        float32 nor float64; an event or context does not fit; context is missing, or given to an
        unconditional bijector.

    Source: Rianne van den Berg, Leonard Hasenclever, Jakub M. Tomczak and Max Welling, "Sylvester
    Normalizing Flows for Variational Inference" (2018).

    Example:
      >>> push = bijectors.Sylvester(8, rank=4)
      >>> flow = Flow(tfd.MultivariateNormalDiag(tf.zeros([8])), push)
    """

    is_monotone = True
    independent_over_batch = True

    def __init__(
        self,
        event_size: int,
        rank: int | None = None,
        reflections: int | None = None,
        dtype: str | tf.DType = "float32",
        *,
        context_size: int | None = None,
        conditioner: Sequence[int] | keras.layers.Layer = (64, 64),
        seed: int | None = None,
        validate_args: bool = False,
        name: str = "sylvester",
    ):
        parameters = dict(locals())
        size = positive_int(event_size, "event_size")
        self.rank = size if rank is None else positive_int(rank, "rank")
        if self.rank > size:
            raise ValueError(
                f"`rank` must be at most `event_size`. Received: rank={rank}, event_size={size}"
            )
        count = reflection_count(reflections, size, even=False)
        claim(self.rank, self.rank)
        triangle = np.zeros(self.rank * (self.rank + 1) // 2)
        super().__init__(
            event_size,
            [reflection_vectors(count, size, seed), triangle, triangle, np.zeros(self.rank)],
            context_size=context_size,
            conditioner=conditioner,
            dtype=dtype,
            seed=seed,
            parameters=parameters,
        )

    def _map(
        self, x: tf.Tensor, vectors: tf.Tensor, outer: tf.Tensor, inner: tf.Tensor, shift: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        outer, inner = self._constrained(outer, inner)
        h = tf.tanh(multiply(inner, self._down(vectors, x)) + shift)
        return x + self._up(vectors, multiply(outer, h)), _log_det(outer, inner, h)

    def _unmap(
        self, y: tf.Tensor, vectors: tf.Tensor, outer: tf.Tensor, inner: tf.Tensor, shift: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        outer, inner = self._constrained(outer, inner)
        c = self._down(vectors, y)
        sources = (outer, inner, shift, c)
        z = _solve_rows(*map(tf.stop_gradient, sources))
        z = implicit_root(_equation, z, *sources, solve=_solve)
        h = tf.tanh(multiply(inner, z) + shift)
        return y - self._up(vectors, multiply(outer, h)), -_log_det(outer, inner, h)

    def _down(self, vectors: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """`Qᵀ x`."""
        return reflect(vectors, x, adjoint=True)[..., : self.rank]

    def _up(self, vectors: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
        """`Q z`."""
        rest = ps.concat([ps.shape(z)[:-1], [self.event_size - self.rank]], 0)
        return reflect(vectors, tf.concat([z, tf.zeros(rest, z.dtype)], -1))

    @staticmethod
    def _constrained(outer: tf.Tensor, inner: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`R` and `R̃`, whose diagonals have products above -1."""
        matrices = []
        for entries, offset in ((outer, 0.0), (inner, 1.0)):  # Were both 0, neither would move.
            matrix = tfp.math.fill_triangular(entries, upper=True)
            diagonal = math.sqrt(1 - MIN_SLOPE) * tf.tanh(tf.linalg.diag_part(matrix) + offset)
            matrices.append(tf.linalg.set_diag(matrix, diagonal))
        return matrices[0], matrices[1]


def _gains(outer: tf.Tensor, inner: tf.Tensor) -> tf.Tensor:
    return tf.linalg.diag_part(outer) * tf.linalg.diag_part(inner)


def _log_det(outer: tf.Tensor, inner: tf.Tensor, h: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.math.log1p(_gains(outer, inner) * (1 - h * h)), -1)


def _equation(
    z: tf.Tensor, outer: tf.Tensor, inner: tf.Tensor, shift: tf.Tensor, c: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """`z + R tanh(R̃ z + b) - c`, and its Jacobian matrix by `z`, upper triangular."""
    h = tf.tanh(multiply(inner, z) + shift)
    change = tf.matmul(outer, (1 - h * h)[..., None] * inner)
    return z + multiply(outer, h) - c, tf.eye(z.shape[-1], dtype=z.dtype) + change


def _solve(jacobian: tf.Tensor, v: tf.Tensor, adjoint: bool) -> tf.Tensor:
    return solve_triangular(jacobian, v, lower=False, adjoint=adjoint)


def _solve_rows(outer: tf.Tensor, inner: tf.Tensor, shift: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
    """`z` in `z + R tanh(R̃ z + b) = c`, row by row from the last.

    Row `i` has `a_i = r̃_ii z_i + (terms of later rows)` alone unknown, in one equation
    `a_i + r_ii r̃_ii tanh(a_i) = ...`.
    """
    rank = outer.shape[-1]

    def solve(i: tf.Tensor, z: tf.Tensor, h: tf.Tensor) -> tuple[tf.Tensor, ...]:
        here = tf.one_hot(i, rank, dtype=c.dtype)
        outer_row, inner_row = tf.gather(outer, i, axis=-2), tf.gather(inner, i, axis=-2)
        outer_i, inner_i = tf.gather(outer_row, i, axis=-1), tf.gather(inner_row, i, axis=-1)
        # Entries of `z` and `h` from row `i` on upwards are still 0.
        right = tf.gather(c, i, axis=-1) - tf.reduce_sum(outer_row * h, -1)
        behind = tf.reduce_sum(inner_row * z, -1) + tf.gather(shift, i, axis=-1)
        h_i = tf.tanh(tanh_root(outer_i * inner_i, inner_i * right + behind))
        z_i = right - outer_i * h_i
        return i - 1, z + z_i[..., None] * here, h + h_i[..., None] * here

    zeros = tf.zeros_like(c)
    _, z, _ = tf.while_loop(
        lambda i, z, h: i >= 0, solve, (rank - 1, zeros, zeros), maximum_iterations=rank
    )
    return z
