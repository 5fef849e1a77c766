"""GivenColumns: the density of some columns of a joint density given the values of the others."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.distributions.conditional import NotReparameterized
from tfp_flows.distributions.conditional_points import (
    Frame,
    Points,
    grid_points,
    importance_points,
    moments,
    root,
)
from tfp_flows.ops.checks import as_real, positive_int
from tfp_flows.ops.seeds import check_seed

__all__ = ["GivenColumns", "JointDensity", "given_columns"]

_DEFAULT_POINTS = {1: 512, 2: 128}  # An axis.
_DRAWS = 4000
_FIRST_DRAWS = 4096
_FIRST_DEVIATIONS = 6.0
_NEAREST = 256
_ROWS_AT_A_TIME = 2**16
_WORST_ERROR = 0.05  # In nats.
_FEWEST, _FEW = 50, 400  # As ESS.

Array = np.ndarray


class GivenColumns(NotReparameterized):
    """`p(x_rest | x_columns = values)` of a joint density: what `Flow.conditional` returns.

    log_prob: `log p(x_rest, values) - log_normalizer`, in nats, with the joint density itself
    sample: weighted points by their weights, and on a grid anywhere in their cell
    mean, covariance, stddev, variance: of the weighted points

    Shapes: with values `(*batch, k)` of k of D columns, events are `(D - k,)`, in the order of the
    joint density, and the batch shape is `batch`.

    Args:
      log_joint: log-density of `(..., D)`.
      columns: which ones are given.
      values: `(*batch, k)`.
      points: of all rows of values, one below another.
      dtype: of events.
      name: name of the distribution.

    Attributes:
      rest: the numbers of the columns that events have.
      log_normalizer: `log p(values)`, the log-density of the given columns alone, in nats,
        `(*batch,)`.
      error: of `log_normalizer`, in nats, `(*batch,)`: on a grid a bound, by importance sampling a
        standard error.
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
        *,
        dtype: tf.DType,
        name: str = "GivenColumns",
    ):
        parameters = dict(locals())
        self._log_joint, self._points = log_joint, points
        size = points.x.shape[-1] + len(columns)
        self.columns = list(columns)
        self.rest = [i for i in range(size) if i not in columns]
        self._values = tf.constant(values, dtype)
        self._batch = values.shape[:-1]
        self._weights = np.exp(points.log_weights)
        self.log_normalizer = points.log_normalizer.reshape(self._batch)
        self.error = points.error.reshape(self._batch)
        self.ess = None if points.ess is None else points.ess.reshape(self._batch)
        super().__init__(dtype=dtype, parameters=parameters, name=name)

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
        log_prob = self._log_joint(together(value, self._values, self.rest, self.columns))
        return log_prob - tf.constant(self.log_normalizer, log_prob.dtype)

    def _sample_n(self, n: int, seed: Any = None) -> tf.Tensor:
        seeds = tf.random.split(seed, 2)
        logits = tf.constant(self._points.log_weights, tf.float64)
        index = tf.random.stateless_categorical(logits, n, seeds[0])  # (B, n)
        x = tf.gather(tf.constant(self._points.x), index, batch_dims=1)
        jitter = tf.random.stateless_uniform(tf.shape(x), seeds[1], -0.5, 0.5, tf.float64)
        x += tf.einsum("bij,bnj->bni", tf.constant(self._points.cells), jitter)
        x = tf.reshape(tf.transpose(x, [1, 0, 2]), [n, *self._batch, len(self.rest)])
        return tf.cast(x, self.dtype)

    def _moments(self) -> tuple[tf.Tensor, tf.Tensor]:
        mean, covariance = moments(self._points.x, self._weights)
        cells = self._points.cells
        covariance = covariance + cells @ np.swapaxes(cells, -1, -2) / 12
        shape = (*self._batch, len(self.rest))
        mean = tf.constant(mean.reshape(shape), self.dtype)
        return mean, tf.constant(covariance.reshape(*shape, len(self.rest)), self.dtype)

    def _mean(self) -> tf.Tensor:
        return self._moments()[0]

    def _covariance(self) -> tf.Tensor:
        return self._moments()[1]

    def _variance(self) -> tf.Tensor:
        return tf.linalg.diag_part(self._moments()[1])

    def _stddev(self) -> tf.Tensor:
        return tf.sqrt(self._variance())


class JointDensity:
    """What a density with `log_prob`, `sample` and `event_shape` can be asked of its columns."""

    def conditional(
        self,
        columns: Sequence[int],
        values: Any,
        *,
        context: Any | None = None,
        points: int | None = None,
        seed: int = 0,
    ) -> GivenColumns:
        """The density of the other columns given the values of these, after a joint fit.

        With one or two columns left, the joint density is computed on a grid, which is laid around
        all that is not negligible, and normalized by the midpoint rule. With more, draws of a
        mixture that adapts to the density are weighted by it: self-normalized importance sampling.
        It is computed once, as the parameters are now, and outside of graphs.

        Args:
          columns: numbers of the columns that are given.
          values: theirs, `(k,)`, or `(*batch, k)` for many conditional densities at once.
          context: `(*context_shape)`, one for all, if the density needs context.
          points: cells of the grid on every axis, 512 of one and 128 of two; beyond two columns,
            how many draws: 4000.
          seed: of draws.

        Returns:
          a distribution with `log_prob`, `sample`, `mean`, `stddev` and `covariance`, and with
          `log_normalizer`, the log-density of the values themselves, and its `error`.

        Warns:
          RuntimeWarning: weighted draws are worth fewer than 400.

        Raises:
          ValueError: columns are not different numbers of columns, or all of them; values have
            another shape, are not finite, or have no density; the grid is too coarse for the
            normalizer to be right within 0.05 nats, or weighted draws are worth fewer than 50.

        Sources: Mark Beaumont, Wenyang Zhang and David Balding, "Approximate Bayesian Computation
        in Population Genetics" (2002), for where draws begin; Mike West, "Approximating Posterior
        Distributions by Mixtures" (1993).

        Example:
          >>> flow = flows.neural_spline(3, layers=2)
          >>> given = flow.conditional([0, 2], [1.5, 0.0])
          >>> given.mean(), given.stddev()     # (1,) and (1,)
        """
        return given_columns(self, columns, values, context=context, points=points, seed=seed)


def given_columns(
    density: Any,
    columns: Sequence[int],
    values: Any,
    *,
    context: Any | None,
    points: int | None,
    seed: int,
) -> GivenColumns:
    """What `conditional` does."""
    columns, values = _check(density.event_shape, columns, values)
    seed = check_seed(seed) or 0
    given = {} if context is None else {"context": context}
    drawn = density.sample(_FIRST_DRAWS, seed=seed, **given)
    dtype = drawn.dtype
    rest = [i for i in range(drawn.shape[-1]) if i not in columns]
    if points is None:
        points = _DEFAULT_POINTS.get(len(rest), _DRAWS)
    positive_int(points, "points")

    def log_joint(x: tf.Tensor) -> tf.Tensor:
        return density.log_prob(x, **given)

    def log_density(x: Array, rows: Array) -> Array:
        """Of `(B, P, r)`, each B with its row of values: `(B, P)`."""
        full = together(tf.constant(x, dtype), tf.constant(rows[:, None], dtype), rest, columns)
        full = tf.reshape(full, [-1, full.shape[-1]])
        starts = range(0, len(full), _ROWS_AT_A_TIME)
        log_prob = tf.concat([log_joint(full[i : i + _ROWS_AT_A_TIME]) for i in starts], 0)
        log_prob = log_prob.numpy().astype("float64").reshape(x.shape[:2])
        if np.isnan(log_prob).any() or (log_prob == np.inf).any():
            raise ValueError("The joint density must be finite. Received: NaN, or infinity")
        return log_prob

    drawn = drawn.numpy().astype("float64").reshape(-1, drawn.shape[-1])
    rows = values.reshape(-1, len(columns))
    regression = _Regression(drawn[:, columns], drawn[:, rest])
    if len(rest) <= 2:
        frame, u = regression.frame(rows)
        found = grid_points(lambda x: log_density(x, rows), frame, u, points)
        if not found.error.max() <= _WORST_ERROR:
            raise ValueError(
                f"`points` must be more: the normalizer is known within {found.error.max():.2g} "
                f"nats, {_WORST_ERROR} are allowed. Received: points={points}"
            )
    else:
        rng = np.random.default_rng(seed)
        each = [
            importance_points(
                functools.partial(log_density, rows=row[None]), regression.nearest(row), points, rng
            )
            for row in rows
        ]
        found = Points.concatenate(each)
        _judge(found, points)
    return GivenColumns(log_joint, columns, values, found, dtype=dtype)


def together(rest: tf.Tensor, values: tf.Tensor, at: list[int], columns: list[int]) -> tf.Tensor:
    """Events `(..., D)` of some columns and the others, which broadcast."""
    shape = tf.concat([tf.shape(rest)[:-1], tf.shape(values)[-1:]], 0)
    both = tf.concat([rest, tf.broadcast_to(values, shape)], -1)
    return tf.gather(both, np.argsort([*at, *columns]), axis=-1)


class _Regression:
    """Some columns by the others, of draws: where conditional densities may be."""

    def __init__(self, given: Array, rest: Array):
        self._given, self._rest = given, rest
        self._center = given.mean(0)
        scale = given.std(0)
        self._scale = np.where(scale > 0, scale, 1.0)
        design = np.column_stack([np.ones(len(given)), self._standardized(given)])
        self._weights = np.linalg.lstsq(design, rest, rcond=None)[0]
        self._residuals = rest - design @ self._weights

    def _standardized(self, given: Array) -> Array:
        return (given - self._center) / self._scale

    def _means(self, given: Array) -> Array:
        return self._weights[0] + self._standardized(given) @ self._weights[1:]

    def frame(self, rows: Array) -> tuple[Frame, Array]:
        """Coordinates for all rows of values, and points in these around which to look first."""
        covariance = np.atleast_2d(np.cov(self._residuals.T))
        factor = np.broadcast_to(root(covariance), (len(rows), *covariance.shape))
        frame = Frame(self._means(rows), factor)
        around = np.broadcast_to(self._rest, (len(rows), *self._rest.shape))
        u = frame.coordinates(around)
        ends = np.full([len(rows), 1, u.shape[-1]], _FIRST_DEVIATIONS)
        return frame, np.concatenate([u, ends, -ends], 1)

    def nearest(self, row: Array) -> Array:
        """Draws whose given columns are nearest to `row`, moved by the regression to it."""
        far = np.linalg.norm(self._standardized(self._given) - self._standardized(row), axis=1)
        near = np.argsort(far)[:_NEAREST]
        return self._rest[near] + self._means(row) - self._means(self._given[near])


def _check(event_shape: Any, columns: Any, values: Any) -> tuple[list[int], Array]:
    if event_shape.rank != 1:
        raise ValueError(
            f"`conditional` needs vectors as events. Received: event_shape={event_shape}"
        )
    size, listed = int(event_shape[0]), np.asarray(columns)
    fits = listed.ndim == 1 and listed.dtype.kind in "iu" and 0 < len(listed) < size
    if not (fits and len({*listed.tolist()} & {*range(size)}) == len(listed)):
        raise ValueError(
            f"`columns` must be different numbers from 0 to {size - 1}, not all of them. "
            f"Received: columns={columns!r}"
        )
    values = as_real(values, tf.float64, "values").numpy()
    if values.shape[-1:] != (len(listed),) or not values.size or not np.isfinite(values).all():
        raise ValueError(
            f"`values` must be finite and have shape (..., {len(listed)}), a number for each of "
            f"the columns. Received: {np.array2string(values, threshold=8)}"
        )
    return listed.tolist(), values


def _judge(points: Points, draws: int) -> None:
    """Say where weighted draws are worth little."""
    worst = float(points.ess.min()) if points.ess is not None else math.inf
    text = f"the weighted draws are worth {worst:.0f} independent ones. Received: points={draws}"
    if worst < _FEWEST:
        raise ValueError(f"`points` must be more, or the values nearer to the data: {text}")
    if worst < _FEW:
        warnings.warn(f"Take more `points`: {text}", RuntimeWarning, stacklevel=4)
