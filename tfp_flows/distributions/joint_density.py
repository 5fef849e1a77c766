"""JointDensity: what a density can be asked of its columns, as that of some given the others."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import distributions as tfd

from tfp_flows.distributions.angles import Angles, find_angles
from tfp_flows.distributions.conditional import context_shape_of
from tfp_flows.distributions.conditional_grid import grid_points
from tfp_flows.distributions.conditional_points import (
    Array,
    Points,
    Regression,
    importance_points,
)
from tfp_flows.distributions.given_columns import GivenColumns, together
from tfp_flows.ops.checks import as_real, positive_int
from tfp_flows.ops.seeds import check_seed

__all__ = ["JointDensity"]

_DEFAULT_POINTS = {1: 1024, 2: 128}  # An axis.
_DRAWS = 4000
_FIRST_DRAWS = 2**14
_ROWS_AT_A_TIME = 2**16
_WORST_ERROR = 0.05  # In nats.
_FEWEST, _FEW = 50, 400  # As ESS.


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
        all that is not negligible, and normalized by the midpoint rule in cells that are smaller
        where it is steep. With more, draws of a mixture that adapts to the density are weighted by
        it: self-normalized importance sampling. What neither the grid nor 16,384 draws of the
        joint density show is missed, as a mode that is rare and narrow; `error` and `ess` do not
        know of it either. Of columns of angles, in which the density repeats, one turn of 2π is
        what is normalized and drawn. It is computed once, outside of graphs, and of a copy, unless
        bijectors hold lambdas: then it follows what is trained later.

        Args:
          columns: numbers of the columns that are given.
          values: theirs, `(k,)`, or `(*batch, k)` for many conditional densities at once.
          context: `(*context_shape)`, one for all, if the density needs context.
          points: cells of the grid on every axis, 1024 of one and 128 of two; beyond two columns,
            how many draws: 4000.
          seed: of draws.

        Returns:
          a distribution with `log_prob`, `sample`, `mean`, `stddev` and `covariance`, and with
          `log_normalizer`, the log-density of the values themselves, and its `error`.

        Warns:
          RuntimeWarning: weighted draws are worth fewer than 400.

        Raises:
          ValueError: columns are not different numbers of columns, or all of them; values have
            another shape, are not finite, or have no density; there is not one finite context; the
            joint density is one of a batch, of a surface, as of a sphere, of intervals, or of
            probabilities in a column that is left, or is random; the grid is too coarse for the
            normalizer to be right within 0.05 nats, or weighted draws are worth fewer than 50; or
            it is called in a graph.

        Sources: Mark Beaumont, Wenyang Zhang and David Balding, "Approximate Bayesian Computation
        in Population Genetics" (2002), for where draws begin; Mike West, "Approximating Posterior
        Distributions by Mixtures" (1993).

        Example:
          >>> flow = flows.neural_spline(3, layers=2)
          >>> given = flow.conditional([0, 2], [1.5, 0.0])
          >>> given.sample(10, seed=0)     # (10, 1)
        """
        return _given_columns(self, columns, values, context=context, points=points, seed=seed)


def _given_columns(
    density: Any,
    columns: Sequence[int],
    values: Any,
    *,
    context: Any | None,
    points: int | None,
    seed: int,
) -> GivenColumns:
    """What `conditional` does."""
    if not tf.executing_eagerly():
        raise ValueError("`conditional` must be called outside of a `tf.function`.")
    columns, values = _check(density.event_shape, columns, values)
    _check_density(density, columns)
    seed = check_seed(seed) or 0
    if context is not None and np.shape(context) != density.context_shape is not None:
        raise ValueError(
            f"`context` must be one, of shape {density.context_shape}. "
            f"Received: shape={np.shape(context)}"
        )
    if context is not None and not np.isfinite(context).all():
        raise ValueError(f"`context` must be finite. Received: context={context}")
    given = {} if context is None else {"context": context}
    with contextlib.suppress(TypeError):  # Of what holds lambdas, which cannot be copied.
        density = copy.deepcopy(density)  # What is returned stays, when training goes on.
    drawn = density.sample(_FIRST_DRAWS, seed=seed, **given)
    if not np.isfinite(drawn).all():
        raise ValueError("`conditional` needs finite draws of the joint density. Received: others")
    rest = [i for i in range(drawn.shape[-1]) if i not in columns]
    if points is None:
        points = _DEFAULT_POINTS.get(len(rest), _DRAWS)
    if positive_int(points, "points") < 2 and len(rest) <= 2:
        raise ValueError(f"`points` must be 2 or more. Received: points={points}")
    log_prob = functools.partial(density.log_prob, **given)
    angles = find_angles(log_prob, drawn)
    joint = _Joint(log_prob, columns, rest, angles.of(rest), drawn.dtype)
    if not np.array_equal(*(density.log_prob(drawn[:64], **given) for _ in range(2))):
        raise ValueError(
            "`conditional` needs a density that is the same at every call. "
            "Received: a random one, as that of rounded values is"
        )
    drawn = drawn.numpy().astype("float64")
    rows = angles.of(columns).wrapped(values.reshape(-1, len(columns)))
    regression = Regression(drawn[:, columns], drawn[:, rest])
    if len(rest) <= 2:
        frame, u = regression.frame(rows)
        found = grid_points(
            functools.partial(joint.log_density, rows=rows),
            functools.partial(joint.value_and_slope, rows=rows),
            frame,
            u,
            np.stack([regression.nearest(row) for row in rows]),
            points,
        )
        rounding = np.finfo(joint.dtype.as_numpy_dtype).eps * np.abs(found.log_normalizer)
        found = dataclasses.replace(found, error=found.error + rounding)
        if not found.error.max() <= _WORST_ERROR:
            raise ValueError(
                f"`points` must be more: the normalizer is known within {found.error.max():.2g} "
                f"nats, {_WORST_ERROR} are allowed. Received: points={points}"
            )
    else:
        rng = np.random.default_rng(seed)
        found = Points.concatenate(
            [
                importance_points(
                    functools.partial(joint.log_density, rows=row[None]),
                    regression.nearest(row),
                    points,
                    rng,
                )
                for row in rows
            ]
        )
        _judge(found, points)
    return GivenColumns(log_prob, columns, values, found, angles.of(rest), dtype=joint.dtype)


class _Joint:
    """A joint log-density in compiled form, of the columns that are left and rows of the others."""

    def __init__(
        self,
        log_prob: Callable[[tf.Tensor], tf.Tensor],
        columns: list[int],
        rest: list[int],
        angles: Angles,
        dtype: tf.DType,
    ):
        self._columns, self._rest, self._angles, self.dtype = columns, rest, angles, dtype
        event = tf.TensorSpec([None, len(columns) + len(rest)], dtype)

        def with_slope(x: tf.Tensor) -> list[tf.Tensor]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x)
                value = log_prob(x)
            return [value, tape.gradient(value, x)]

        # Concrete: of other functions made in a loop TensorFlow warns that they are traced again.
        self._value, self._with_slope = (
            tf.function(function, autograph=False).get_concrete_function(event)
            for function in (lambda x: [log_prob(x)], with_slope)
        )

    def log_density(self, x: Array, rows: Array) -> Array:
        """Of `(B, P, r)`, each B with its row of values: `(B, P)`; of angles, in the window."""
        return self._at(self._value, x, rows)[0] + self._angles.log_window(x)[0]

    def value_and_slope(self, x: Array, rows: Array) -> tuple[Array, Array]:
        """The same and its derivatives by `x`; `-inf` and 0 where these are not finite."""
        log_prob, slope = self._at(self._with_slope, x, rows)
        log_window, window_slope = self._angles.log_window(x)
        log_prob, slope = log_prob + log_window, slope[..., self._rest] + window_slope
        fine = np.isfinite(slope).all(-1)
        return np.where(fine, log_prob, -np.inf), np.where(fine[..., None], slope, 0.0)

    def _at(
        self, function: Callable[[tf.Tensor], list[tf.Tensor]], x: Array, rows: Array
    ) -> list[Array]:
        parts = tf.constant(x, self.dtype), tf.constant(rows[:, None], self.dtype)
        full = together(*parts, self._rest, self._columns)
        full = tf.reshape(full, [-1, full.shape[-1]])
        starts = range(0, len(full), _ROWS_AT_A_TIME)
        chunks = [function(full[i : i + _ROWS_AT_A_TIME]) for i in starts]
        found = [np.concatenate(part).astype("float64") for part in zip(*chunks, strict=True)]
        if np.isnan(found[0]).any() or (found[0] == np.inf).any():
            raise ValueError("The joint density must be finite. Received: NaN, or infinity")
        return [part.reshape(*x.shape[:2], *part.shape[1:]) for part in found]


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


def _check_density(density: Any, columns: list[int]) -> None:
    """Raise a ValueError unless it is one by the volume of the columns that are left."""
    whole: Any = density if isinstance(density, tfd.Distribution) else density.distribution
    if whole.batch_shape != ():
        raise ValueError(
            "`conditional` needs one density. Received: a batch of them, "
            f"batch_shape={whole.batch_shape}"
        )
    if getattr(whole, "infinite_events", False):
        raise ValueError(
            "`conditional` needs events that are columns of numbers. Received: intervals of a "
            f"{type(whole).__name__}"
        )
    steps = getattr(whole, "steps", None)
    if steps is not None and any(step > 0 for i, step in enumerate(steps) if i not in columns):
        raise ValueError(
            "`columns` must be all that are not continuous: the others need a density. "
            f"Received: columns={columns}, steps={steps}"
        )
    shape = context_shape_of(whole)
    given = whole if shape is None else whole.given(tf.zeros(shape, whole.dtype))
    full = tfp.experimental.tangent_spaces.FullSpace
    with contextlib.suppress(NotImplementedError):  # By maps that are not injective.
        x = given.sample(seed=0)
        if isinstance(given.experimental_local_measure(x, backward_compat=True)[1], full) and (
            not hasattr(given, "bijector")
            or given.distribution.event_shape.num_elements() == given.event_shape.num_elements()
        ):
            return
        raise ValueError(
            "`conditional` needs a density by the volume of all columns, and not one of a surface. "
            f"Received: {whole!r}"
        )


def _judge(points: Points, draws: int) -> None:
    """Say where weighted draws are worth little."""
    worst = float(points.ess.min()) if points.ess is not None else math.inf
    text = f"the weighted draws are worth {worst:.0f} independent ones. Received: points={draws}"
    if worst < _FEWEST:
        raise ValueError(f"`points` must be more, or the values nearer to the data: {text}")
    if worst < _FEW:
        warnings.warn(f"Take more `points`: {text}", RuntimeWarning, stacklevel=4)
