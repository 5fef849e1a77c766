"""KernelDensity: a normal around every row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb

from tfp_flows.distributions.conditional import NotReparameterized
from tfp_flows.distributions.edges import without_density, without_infinite
from tfp_flows.ops.checks import check_events, floating, positive_int
from tfp_flows.ops.limits import claim

__all__ = ["KernelDensity"]

_PAIRS = 2**22  # Of events and rows at a time: bounds the memory.


class KernelDensity(NotReparameterized):
    """A kernel density estimate: equal normals, with one covariance, around the rows of a table.

    `p(x) = 1/n Σ_i N(x; x_i, h² C)`, with the covariance `C` of the rows, and a millionth of its
    diagonal more. `set_rows` takes rows and bandwidth `h`; before, all rows are 0, and `C` and `h`
    are 1. A density costs one distance to each row.

    Shapes: events `(event_size,)`; of the weights, the rows `(rows, event_size)` and a triangle of
    `C` are not trained, and the logarithm of `h` may be, on other rows than these.

    Args:
      event_size: number of columns.
      rows: how many rows it holds.
      dtype: floating dtype of events.
      name: name of the distribution.

    Raises:
      ValueError: a size is not a positive integer, or `dtype` neither float32 nor float64.

    Source: David W. Scott, "Multivariate Density Estimation" (1992).

    Example:
      >>> estimate = distributions.KernelDensity(2, rows=100)
      >>> estimate.set_rows(np.random.default_rng(0).normal(size=(100, 2)), bandwidth=0.4)
      >>> estimate.log_prob([0.0, 0.0])
    """

    def __init__(
        self,
        event_size: int,
        rows: int,
        *,
        dtype: str | tf.DType = "float32",
        name: str = "KernelDensity",
    ):
        parameters = dict(locals())
        self.event_size = positive_int(event_size, "event_size")
        self.rows = positive_int(rows, "rows")
        dtype = floating(dtype)
        claim(rows, event_size)
        claim(event_size, event_size)
        # In units in which their covariance is 1.
        self._whitened = tf.Variable(
            tf.zeros([rows, event_size], dtype), trainable=False, name="whitened"
        )
        self._triangle = tf.Variable(
            tf.eye(event_size, dtype=dtype), trainable=False, name="triangle"
        )
        self._log_bandwidth = tf.Variable(tf.zeros([], dtype), name="log_bandwidth")
        super().__init__(dtype=dtype, parameters=parameters, name=name)

    @classmethod
    def _parameter_properties(
        cls, dtype: tf.DType | None, num_classes: int | None = None
    ) -> dict[str, Any]:
        return {}

    def set_rows(self, x: Any, bandwidth: float) -> None:
        """Take the rows `(rows, event_size)`, and kernels of `bandwidth` times their deviations.

        Raises:
          ValueError: `x` has another shape, is not finite, or has a constant column; or `bandwidth`
            is not positive.
        """
        x = np.asarray(x, "float64")
        if x.shape != (self.rows, self.event_size) or not np.isfinite(x).all():
            raise ValueError(
                f"`x` must be finite and have shape ({self.rows}, {self.event_size}). "
                f"Received: shape={x.shape}"
            )
        if not 0 < bandwidth < math.inf:
            raise ValueError(f"`bandwidth` must be positive. Received: bandwidth={bandwidth!r}")
        constant = np.flatnonzero(np.ptp(x, axis=0) == 0)
        if len(constant):
            raise ValueError(
                f"`x` must vary in every column. Received: column {constant[0]} is constant"
            )
        covariance = np.cov(x.T).reshape(self.event_size, self.event_size)
        # A column that depends on the others still has a kernel of some width.
        floor = 1e-6 * np.diag(np.diag(covariance))
        triangle = np.linalg.cholesky(covariance + floor)
        self._log_bandwidth.assign(math.log(bandwidth))
        self._triangle.assign(triangle)
        self._whitened.assign(np.linalg.solve(triangle, x.T).T)

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        check_events(self, value)
        value, infinite, far_out = without_infinite(value, 1)
        flat = tf.reshape(value, [-1, self.event_size])
        points = tf.transpose(tf.linalg.triangular_solve(self._triangle, tf.transpose(flat)))
        count = tf.shape(points)[0]
        size = max(_PAIRS // self.rows, 1)
        blocks = (count + size - 1) // size
        padded = tf.pad(points, [[0, blocks * size - count], [0, 0]])
        sums = tf.map_fn(self._log_sum, tf.reshape(padded, [blocks, size, self.event_size]))
        log_volume = tf.reduce_sum(tf.math.log(tf.linalg.diag_part(self._triangle)))
        log_volume += self.event_size * (self._log_bandwidth + 0.5 * math.log(2 * math.pi))
        log_prob = tf.reshape(sums, [-1])[:count] - log_volume - math.log(self.rows)
        return without_density(tf.reshape(log_prob, tf.shape(value)[:-1]), infinite, far_out)

    def _log_sum(self, points: tf.Tensor) -> tf.Tensor:
        # As differences, column by column: a product of matrices loses what is close.
        squares = tf.zeros([tf.shape(points)[0], self.rows], self.dtype)
        for i in range(self.event_size):
            squares += tf.square(points[:, i, tf.newaxis] - self._whitened[:, i])
        return tf.reduce_logsumexp(-0.5 * tf.exp(-2 * self._log_bandwidth) * squares, axis=1)

    def _sample_n(self, n: int, seed: Any = None) -> tf.Tensor:
        row_seed, noise_seed = tfp.random.split_seed(seed, n=2, salt="KernelDensity")
        index = tf.random.stateless_uniform([n], row_seed, 0, self.rows, tf.int32)
        noise = tf.random.stateless_normal([n, self.event_size], noise_seed, dtype=self.dtype)
        whitened = tf.gather(self._whitened, index) + tf.exp(self._log_bandwidth) * noise
        return whitened @ tf.transpose(self._triangle)

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape([self.event_size])

    def _event_shape_tensor(self) -> tf.Tensor:
        return tf.constant([self.event_size])

    def _default_event_space_bijector(self) -> tfb.Bijector:
        return tfb.Identity()
