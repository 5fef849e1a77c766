"""What the linear maps and Sylvester flows share: products and solves, reflections, diagonals.

A matrix `(..., m, n)` without a batch shape belongs to all events, and then one product or solve
does for all of them; with one, every event has its own, or the batch shapes broadcast.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.transformers.base import bounded
from tfp_flows.ops.checks import positive_int
from tfp_flows.ops.columns import constant_columns
from tfp_flows.ops.internals import prefer_static as ps
from tfp_flows.ops.limits import claim
from tfp_flows.ops.seeds import check_seed

__all__ = [
    "gaussian_of",
    "log_diagonal",
    "multiply",
    "one_for_many",
    "raw_log_diagonal",
    "reflect",
    "reflection_count",
    "reflection_vectors",
    "solve_triangular",
]


def one_for_many(matrix: tf.Tensor, x: tf.Tensor) -> bool:
    """Whether all events share the matrix, and lie on a grid, where they outnumber its columns.

    There the product of its factors is made once, and takes a third of the time for all events.
    """
    return matrix.shape.rank == 2 and x.shape.rank > 2


def multiply(matrix: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """`matrix x` for every event: `(..., m, n)` and `(..., n)` to `(..., m)`."""
    if matrix.shape.rank > 2:
        return tf.linalg.matvec(matrix, x)
    rows, columns = matrix.shape
    product = tf.matmul(tf.reshape(x, [-1, columns]), matrix, transpose_b=True)
    return tf.reshape(product, ps.concat([ps.shape(x)[:-1], [rows]], 0))


def solve_triangular(
    matrix: tf.Tensor, y: tf.Tensor, *, lower: bool, adjoint: bool = False
) -> tf.Tensor:
    """`x` in `matrix x = y`, or in `matrixᵀ x = y`, for every event."""
    if matrix.shape.rank > 2:
        x = tf.linalg.triangular_solve(matrix, y[..., None], lower=lower, adjoint=adjoint)
        return x[..., 0]
    columns = tf.transpose(tf.reshape(y, [-1, matrix.shape[-1]]))
    x = tf.linalg.triangular_solve(matrix, columns, lower=lower, adjoint=adjoint)
    return tf.reshape(tf.transpose(x), ps.shape(y))


def reflect(vectors: tf.Tensor, x: tf.Tensor, *, adjoint: bool = False) -> tf.Tensor:
    """`H_1 H_2 ... H_k x`, or `H_k ... H_1 x`, where `H_i` reflects at the plane normal to `v_i`.

    With unit rows `v_i` in `V`, the product is `I - Vᵀ S⁻¹ V`, where `S` is the part of `V Vᵀ`
    above the diagonal with 1/2 on the diagonal: three products, whatever the number of
    reflections.

    Shapes: vectors `(..., k, n)`, of any length but 0; `x` `(..., n)`.

    Source: Thierry Joffrain et al., "Accumulating Householder Transformations, Revisited" (2006).
    """
    if vectors.shape[-2] == 0:
        return x
    tiny = np.finfo(vectors.dtype.as_numpy_dtype).tiny
    unit = tf.math.l2_normalize(vectors, -1, epsilon=tiny)
    products = tf.linalg.band_part(tf.matmul(unit, unit, transpose_b=True), 0, -1)
    half = tf.fill(ps.shape(products)[:-1], tf.constant(0.5, products.dtype))
    system = tf.linalg.set_diag(products, half)
    weights = solve_triangular(system, multiply(unit, x), lower=False, adjoint=adjoint)
    return x - multiply(tf.linalg.matrix_transpose(unit), weights)


def reflection_count(reflections: int | None, event_size: int, *, even: bool) -> int:
    """Check how many reflections are wanted; by default enough for every rotation."""
    if reflections is None:
        return event_size // 2 * 2
    positive_int(reflections, "reflections")
    if even and reflections % 2:
        raise ValueError(
            "`reflections` must be even: they start as pairs that undo each other. "
            f"Received: reflections={reflections}"
        )
    return reflections


def reflection_vectors(count: int, event_size: int, seed: int | None) -> np.ndarray:
    """Unit vectors in random directions, `(count, event_size)`, to start from."""
    claim(count, event_size)
    vectors = np.random.default_rng(check_seed(seed)).normal(size=(count, event_size))
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def log_diagonal(raw: tf.Tensor, bound: float) -> tf.Tensor:
    """The bounded logarithm of a diagonal, `bound tanh(raw / bound)`."""
    return bounded(raw, bound)


def raw_log_diagonal(log_scale: np.ndarray, bound: float) -> np.ndarray:
    """The parameters of `log_diagonal`; beyond 95 % of the bound, where it is flat, those there."""
    return bound * np.arctanh(np.clip(log_scale / bound, -0.95, 0.95))


def gaussian_of(
    y: np.ndarray | tf.Tensor, size: int, permutation: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the columns, and the Cholesky factor of their covariance before the permutation."""
    y = np.asarray(y, "float64")
    if y.ndim < 2 or y.shape[-1] != size or y.size < 2 * size:
        raise ValueError(
            f"`y` must have shape (n, {size}), with two rows or more. Received: shape={y.shape}"
        )
    y = y.reshape(-1, size)
    if not np.isfinite(y).all():
        raise ValueError("`y` must be finite. Received: an infinite value or a NaN")
    covariance = np.cov(y.T).reshape(size, size)
    # Columns that depend on each other, or few rows, leave the matrix singular.
    variance = np.where(constant_columns(y, "float64"), 1.0, np.diag(covariance))
    covariance = covariance + np.diag(1e-8 * variance)
    if permutation is not None:
        before = np.argsort(permutation)
        covariance = covariance[np.ix_(before, before)]
    return y.mean(0), np.linalg.cholesky(covariance)
