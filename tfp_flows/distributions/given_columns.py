"""GivenColumns: the density of some columns of a joint density given the values of the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.distributions.angles import Angles
from tfp_flows.distributions.conditional import NotReparameterized
from tfp_flows.distributions.conditional_points import Array, Points, moments

__all__ = ["GivenColumns", "together"]


class GivenColumns(NotReparameterized):
    """`p(x_rest | x_columns = values)` of a joint density: what `Flow.conditional` returns.

    log_prob: `log p(x_rest, values) - log_normalizer`, in nats, with the joint density as it was
    sample: weighted points by their weights, and on a grid anywhere in their cell
    mean, covariance, stddev, variance: of the weighted points, on a grid spread over their cells

    Beyond 1e-7 of the mass at each end a grid has no points, and beyond two columns draws do not
    come to the ends of tails heavier than those of Student's t: of heavy tails moments are too
    small, and errors of draws, too. `error` and `ess` do not know what no point has seen.

    Shapes: with values `(*batch, k)` of k of D columns, events are `(D - k,)`, in the order of the
    joint density, and the batch shape is `batch`; a slice of it is the distribution of some values.

    Args:
      log_joint: log-density of `(..., D)`.
      columns: which ones are given.
      values: `(*batch, k)`.
      points: of all rows of values, one below another.
      angles: those among the columns that are left.
      dtype: of events.
      name: name of the distribution.

    Attributes:
      rest: the numbers of the columns that events have.
      log_normalizer: `log p(values)`, the log-density of the given columns alone, in nats,
        `(*batch,)`.
      error: of `log_normalizer`, in nats, `(*batch,)`: on a grid by coarser ones, by importance
        sampling a standard error.
      ess: how many independent draws the weighted points are worth, `(*batch,)`; None on a grid.

    Example:
      >>> flow = Flow(tfd.MultivariateNormalDiag([0.0, 0.0]), bijectors.Rotation2D(0.8))
      >>> given = flow.conditional([0], [1.5])
      >>> isinstance(given, distributions.GivenColumns)     # True
      >>> given.sample(100, seed=0)     # (100, 1)
    """

    def __init__(
        self,
        log_joint: Callable[[tf.Tensor], tf.Tensor],
        columns: Sequence[int],
        values: Array,
        points: Points,
        angles: Angles,
        *,
        dtype: tf.DType,
        name: str = "GivenColumns",
    ):
        parameters = dict(locals())
        points = dataclasses.replace(points, x=angles.wrapped(points.x))
        self._log_joint, self._points, self._angles = log_joint, points, angles
        size = points.x.shape[-1] + len(columns)
        self.columns = list(columns)
        self.rest = [i for i in range(size) if i not in columns]
        self._values = tf.constant(values, dtype)
        self._batch = values.shape[:-1]
        self.log_normalizer = points.log_normalizer.reshape(self._batch)
        self.error = points.error.reshape(self._batch)
        self.ess = None if points.ess is None else points.ess.reshape(self._batch)
        super().__init__(dtype=dtype, parameters=parameters, name=name)

    def __getitem__(self, slices: Any) -> GivenColumns:
        index = np.asarray(np.arange(len(self._points.x)).reshape(self._batch)[slices])
        points = self._points.at(index.reshape(-1))
        values = self._values.numpy().reshape(-1, len(self.columns))[index]
        return GivenColumns(
            self._log_joint,
            self.columns,
            values,
            points,
            self._angles,
            dtype=self.dtype,
            name=self.name,
        )

    @classmethod
    def _parameter_properties(cls, dtype: Any, num_classes: int | None = None) -> dict[str, Any]:
        return {}

    def _batch_shape(self) -> tf.TensorShape:
        return tf.TensorShape(self._batch)

    def _batch_shape_tensor(self) -> tf.Tensor:
        return tf.constant(self._batch, tf.int32)

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape([len(self.rest)])

    def _event_shape_tensor(self) -> tf.Tensor:
        return tf.constant([len(self.rest)])

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        if value.shape[-1] != len(self.rest):
            raise ValueError(
                f"`value` must hold columns {list(self.rest)}, those that are not given. "
                f"Received: shape={tuple(value.shape)}"
            )
        log_prob = self._log_joint(together(value, self._values, self.rest, self.columns))
        return log_prob - tf.constant(self.log_normalizer, log_prob.dtype)

    def _sample_n(self, n: int, seed: Any = None) -> tf.Tensor:
        seeds = tfp.random.split_seed(seed, 2)
        logits = tf.constant(self._points.log_weights, tf.float64)
        index = tf.random.stateless_categorical(logits, n, seeds[0])  # (B, n)
        x = tf.gather(tf.constant(self._points.x), index, batch_dims=1)
        sizes = tf.gather(tf.constant(self._points.sizes), index, batch_dims=1)[..., tf.newaxis]
        jitter = tf.random.stateless_uniform(tf.shape(x), seeds[1], -0.5, 0.5, tf.float64)
        moved = x + tf.einsum("bij,bnj->bni", tf.constant(self._points.cells), sizes * jitter)
        moved = self._angles.wrapped(moved)
        x, moved = (
            tf.reshape(
                tf.cast(tf.transpose(part, [1, 0, 2]), self.dtype),
                [n, *self._batch, len(self.rest)],
            )
            for part in (x, moved)
        )
        if self.ess is not None:
            return x
        # At an edge of the support a part of the cell may be outside.
        inside = self._log_joint(together(moved, self._values, self.rest, self.columns)) > -np.inf
        return tf.where(inside[..., tf.newaxis], moved, x)

    def _moments(self) -> tuple[Array, Array]:
        weights = np.exp(self._points.log_weights)
        mean, covariance = moments(self._points.x, weights)
        cells = self._points.cells
        within = (weights * self._points.sizes**2).sum(-1)[:, None, None]
        covariance = covariance + within * (cells @ np.swapaxes(cells, -1, -2)) / 12
        shape = (*self._batch, len(self.rest))
        return mean.reshape(shape), covariance.reshape(*shape, len(self.rest))

    def _mean(self) -> tf.Tensor:
        return tf.constant(self._moments()[0], self.dtype)

    def _covariance(self) -> tf.Tensor:
        return tf.constant(self._moments()[1], self.dtype)

    def _variance(self) -> tf.Tensor:
        return tf.linalg.diag_part(self._covariance())

    def _stddev(self) -> tf.Tensor:
        # In float64: squares of large and small units may have no place in float32.
        variances = np.diagonal(self._moments()[1], axis1=-2, axis2=-1)
        return tf.constant(np.sqrt(variances), self.dtype)


def together(rest: tf.Tensor, values: tf.Tensor, at: list[int], columns: list[int]) -> tf.Tensor:
    """Events `(..., D)` of some columns and the others, which broadcast."""
    shape = tf.broadcast_dynamic_shape(tf.shape(rest)[:-1], tf.shape(values)[:-1])
    both = [tf.broadcast_to(x, tf.concat([shape, x.shape[-1:]], 0)) for x in (rest, values)]
    return tf.gather(tf.concat(both, -1), np.argsort([*at, *columns]), axis=-1)
