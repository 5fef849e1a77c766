"""Linear maps by triangular factors: LU, QR and a single triangle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.bijectors.matrices import (
    gaussian_of,
    log_diagonal,
    multiply,
    one_for_many,
    raw_log_diagonal,
    reflect,
    reflection_count,
    reflection_vectors,
    solve_triangular,
)
from tfp_flows.bijectors.parametric import Parametric
from tfp_flows.bijectors.transformers.base import Pair, check_positive
from tfp_flows.ops.checks import permutation as order_of
from tfp_flows.ops.checks import positive_int
from tfp_flows.ops.limits import claim

__all__ = ["LU", "QR", "Triangular"]


class LU(Parametric):
    """Any invertible matrix, by its factors: mix all columns.

    Forward: `y = P L U x + b`
    Inverse: `x = U⁻¹ L⁻¹ Pᵀ (y - b)`
    Log-det: `Σ_i s_i`, where `exp(s_i)` is the diagonal of `U`

    `L` is lower triangular with ones on its diagonal, `U` upper triangular, `P` a fixed
    permutation, `(P z)_i = z_permutation[i]`. The log-diagonal `s = m tanh(r / m)`, with
    `m = max_log_scale`, is bounded. The forward direction costs two products with triangles, the
    inverse two solves with them, each `event_size²` operations an event. Starts as `P`.

    Shapes: events `(event_size,)`, context `(..., context_size)`; the batch shapes of both
    broadcast. `event_size² + event_size` parameters.

    Args:
      event_size: number of columns.
      dtype: floating dtype of events.
      permutation: `"random"`, `"reversed"`, or the integers `0 ... event_size - 1` in some order;
        the identity if `None`. What is drawn is part of the config.
      max_log_scale: `m`, positive.
      context_size: width of the context, or `None`.
      conditioner: hidden widths of an MLP that reads the context, or a Keras 3 layer
        `(batch, context_size) -> (batch, features)`.
      seed: integer for a reproducible permutation and reproducible initial weights, or `None`.
      validate_args: as in every `tfb.Bijector`.
      name: name of the bijector.

    Raises:
      ValueError, TypeError: a size is not a positive integer, `permutation` is not an order of the
        columns, `max_log_scale` is not a positive finite number, `dtype` is not a floating dtype;
        an event or context does not fit; context is missing, or given to an unconditional bijector.

    Source: Diederik P. Kingma and Prafulla Dhariwal, "Glow: Generative Flow with Invertible 1×1
    Convolutions" (2018).

    Example:
      >>> mix = bijectors.LU(4, permutation="random", seed=0)
      >>> mix.forward(np.zeros((10, 4), "float32")).shape     # (10, 4)
    """

    closed_inverse = True
    is_monotone = True
    independent_over_batch = True

    def __init__(
        self,
        event_size: int,
        dtype: str | tf.DType = "float32",
        *,
        permutation: str | Sequence[int] | np.ndarray | None = None,
        max_log_scale: float = 3.0,
        context_size: int | None = None,
        conditioner: Sequence[int] | keras.layers.Layer = (64, 64),
        seed: int | None = None,
        validate_args: bool = False,
        name: str = "lu",
    ):
        parameters = dict(locals())
        size = positive_int(event_size, "event_size")
        self.max_log_scale = max_log_scale
        check_positive(self, "max_log_scale")
        if permutation is not None:
            permutation = parameters["permutation"] = order_of(
                permutation, size, "permutation", seed
            )
        self.permutation = None if permutation is None else np.array(permutation)
        claim(size, size)
        super().__init__(
            event_size,
            [np.zeros([size, size]), np.zeros(size)],
            context_size=context_size,
            conditioner=conditioner,
            dtype=dtype,
            seed=seed,
            parameters=parameters,
            is_affine=True,
        )

    def _map(self, x: tf.Tensor, packed: tf.Tensor, shift: tf.Tensor) -> Pair:
        lower, upper, log_det = self._factors(packed)
        if one_for_many(lower, x):
            matrix = self._reordered(tf.matmul(lower, upper), axis=0)
            return multiply(matrix, x) + shift, log_det
        y = self._reordered(multiply(lower, multiply(upper, x)), axis=-1)
        return y + shift, log_det

    def _unmap(self, y: tf.Tensor, packed: tf.Tensor, shift: tf.Tensor) -> Pair:
        lower, upper, log_det = self._factors(packed)
        if one_for_many(lower, y):
            unit = tf.eye(self.event_size, dtype=y.dtype)
            inverse = tf.linalg.triangular_solve(lower, self._reordered(unit, axis=1), lower=True)
            inverse = tf.linalg.triangular_solve(upper, inverse, lower=False)
            return multiply(inverse, y - shift), -log_det
        y = self._reordered(y - shift, axis=-1, back=True)
        y = solve_triangular(lower, y, lower=True)
        return solve_triangular(upper, y, lower=False), -log_det

    def _reordered(self, x: tf.Tensor, *, axis: int, back: bool = False) -> tf.Tensor:
        """`P` along an axis, or its inverse."""
        if self.permutation is None:
            return x
        order = np.argsort(self.permutation) if back else self.permutation
        return tf.gather(x, order, axis=axis)

    @property
    def fixed_structure(self) -> dict[str, Any]:
        return {"permutation": self.permutation}

    def adapt(self, y: np.ndarray | tf.Tensor) -> None:
        """Whiten: `inverse(y)` gets mean 0 and covariance 1, as far as the diagonal's bound allows.

        Args:
          y: data `(..., event_size)`, finite, two events or more.

        Raises:
          ValueError: `y` has another shape, or a value that is not finite.
        """
        mean, triangle = gaussian_of(y, self.event_size, self.permutation)
        log_scale = np.log(np.diag(triangle))
        packed = triangle / np.diag(triangle)
        np.fill_diagonal(packed, raw_log_diagonal(log_scale, self.max_log_scale))
        self._values.assign(np.concatenate([packed.ravel(), mean]))

    def _factors(self, packed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """`L`, `U` and the log-det, of a matrix that holds the free entries of both."""
        log_scale = log_diagonal(tf.linalg.diag_part(packed), self.max_log_scale)
        lower = tf.linalg.set_diag(tf.linalg.band_part(packed, -1, 0), tf.ones_like(log_scale))
        upper = tf.linalg.set_diag(tf.linalg.band_part(packed, 0, -1), tf.exp(log_scale))
        return lower, upper, tf.reduce_sum(log_scale, -1)


class Triangular(Parametric):
    """A triangular matrix: every column mixes in those before it, or those behind it.

    Forward: `y = T x + b`
    Inverse: `x = T⁻¹ (y - b)`
    Log-det: `Σ_i s_i`, where `exp(s_i)` is the diagonal of `T`

    The log-diagonal `s = m tanh(r / m)`, `m = max_log_scale`, is bounded. The forward direction
    costs a product with the triangle, the inverse a solve. Lower triangular, it makes any Gaussian
    of a standard one, as a Cholesky factor does. Starts as the identity.

    Shapes: as in `LU`; `event_size (event_size + 1) / 2 + event_size` parameters.

    Args:
      event_size: number of columns.
      lower: whether column `i` of the result depends on columns `j <= i`, else on `j >= i`.
      dtype: floating dtype of events.
      max_log_scale: `m`, positive.
      context_size, conditioner, seed, validate_args, name: as in `LU`.

    Raises:
      ValueError, TypeError: as in `LU`.

    Source: George Papamakarios et al., "Normalizing Flows for Probabilistic Modeling and
    Inference" (2021).

    Example:
      >>> gaussian = Flow(tfd.MultivariateNormalDiag([0.0, 0.0]), bijectors.Triangular(2))
    """

    closed_inverse = True
    is_monotone = True
    independent_over_batch = True

    def __init__(
        self,
        event_size: int,
        lower: bool = True,
        dtype: str | tf.DType = "float32",
        *,
        max_log_scale: float = 3.0,
        context_size: int | None = None,
        conditioner: Sequence[int] | keras.layers.Layer = (64, 64),
        seed: int | None = None,
        validate_args: bool = False,
        name: str = "triangular",
    ):
        parameters = dict(locals())
        size = positive_int(event_size, "event_size")
        if not isinstance(lower, bool):
            raise TypeError(f"`lower` must be True or False. Received: lower={lower!r}")
        self.lower = lower
        claim(size, size)
        self.max_log_scale = max_log_scale
        check_positive(self, "max_log_scale")
        super().__init__(
            event_size,
            [np.zeros(size * (size + 1) // 2), np.zeros(size)],
            context_size=context_size,
            conditioner=conditioner,
            dtype=dtype,
            seed=seed,
            parameters=parameters,
            is_affine=True,
        )

    def _map(self, x: tf.Tensor, entries: tf.Tensor, shift: tf.Tensor) -> Pair:
        matrix, log_det = _triangle(entries, self.max_log_scale, lower=self.lower)
        return multiply(matrix, x) + shift, log_det

    def _unmap(self, y: tf.Tensor, entries: tf.Tensor, shift: tf.Tensor) -> Pair:
        matrix, log_det = _triangle(entries, self.max_log_scale, lower=self.lower)
        return solve_triangular(matrix, y - shift, lower=self.lower), -log_det


class QR(Parametric):
    """A matrix by a rotation and a triangle: mix all columns, with a log-det that is free.

    Forward: `y = Q R x + b`
    Inverse: `x = R⁻¹ Qᵀ (y - b)`
    Log-det: `Σ_i s_i`, where `exp(s_i)` is the diagonal of `R`

    `Q` is a product of an even number of reflections, as in `Householder`, `R` upper triangular
    with the bounded log-diagonal `s = m tanh(r / m)`, `m = max_log_scale`. Better conditioned than
    `LU`, and more expensive: both directions cost two products with `reflections` vectors besides
    the triangle. Starts as the identity.

    Shapes: as in `LU`; `event_size (event_size + 1) / 2 + (reflections + 1) event_size`
    parameters.

    Args:
      event_size: number of columns.
      reflections: how many, an even number; by default `event_size` or one less, which are enough
        for every rotation.
      dtype: floating dtype of events.
      max_log_scale: `m`, positive.
      context_size, conditioner, validate_args, name: as in `LU`.
      seed: integer for reproducible first reflections and initial weights, or `None`.

    Raises:
      ValueError, TypeError: as in `LU`, or `reflections` is not an even positive integer.

    Source: Emiel Hoogeboom, Rianne van den Berg and Max Welling, "Emerging Convolutions for
    Generative Normalizing Flows" (2019).

    Example:
      >>> mix = bijectors.QR(8, reflections=4)
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
        max_log_scale: float = 3.0,
        context_size: int | None = None,
        conditioner: Sequence[int] | keras.layers.Layer = (64, 64),
        seed: int | None = None,
        validate_args: bool = False,
        name: str = "qr",
    ):
        parameters = dict(locals())
        size = positive_int(event_size, "event_size")
        self.max_log_scale = max_log_scale
        check_positive(self, "max_log_scale")
        pairs = reflection_count(reflections, size, even=True) // 2
        claim(size, size)
        vectors = np.repeat(reflection_vectors(pairs, size, seed), 2, axis=0)
        super().__init__(
            event_size,
            [vectors, np.zeros(size * (size + 1) // 2), np.zeros(size)],
            context_size=context_size,
            conditioner=conditioner,
            dtype=dtype,
            seed=seed,
            parameters=parameters,
            is_affine=True,
        )

    def _map(self, x: tf.Tensor, vectors: tf.Tensor, entries: tf.Tensor, shift: tf.Tensor) -> Pair:
        matrix, log_det = _triangle(entries, self.max_log_scale, lower=False)
        return reflect(vectors, multiply(matrix, x)) + shift, log_det

    def _unmap(
        self, y: tf.Tensor, vectors: tf.Tensor, entries: tf.Tensor, shift: tf.Tensor
    ) -> Pair:
        matrix, log_det = _triangle(entries, self.max_log_scale, lower=False)
        y = reflect(vectors, y - shift, adjoint=True)
        return solve_triangular(matrix, y, lower=False), -log_det


def _triangle(
    entries: tf.Tensor, max_log_scale: float, *, lower: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """A triangular matrix with positive diagonal, and its log-det."""
    matrix = tfp.math.fill_triangular(entries, upper=not lower)
    log_scale = log_diagonal(tf.linalg.diag_part(matrix), max_log_scale)
    return tf.linalg.set_diag(matrix, tf.exp(log_scale)), tf.reduce_sum(log_scale, -1)
