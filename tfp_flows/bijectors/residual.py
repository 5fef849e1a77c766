"""Residual: contractive residual layers, whose log-determinant is computed or estimated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.base import Bijector, check_context, check_events_on_grid, mark_missing
from tfp_flows.bijectors.transformers.base import Pair
from tfp_flows.networks.conditioner import match_batch
from tfp_flows.networks.lipschitz import adjoint_product, jacobian_product, value
from tfp_flows.networks.lipschitz_conditioner import LipschitzConditioner
from tfp_flows.ops.checks import floating, one_of
from tfp_flows.ops.fixed_point import fixed_point
from tfp_flows.ops.grids import Size, as_size, check_shape, context_rank, one_batch_axis
from tfp_flows.ops.implicit import implicit_root
from tfp_flows.ops.internals import count_accumulators
from tfp_flows.ops.internals import prefer_static as ps

__all__ = ["Residual"]

_LOG_DETS = ("auto", "exact", "roulette")
_EXACT_UP_TO = 8
_TERMS = 20  # Of the series, outside of training.
_CERTAIN_TERMS = 2  # In training.
_MIN_SURVIVAL = 0.5

Weights = Sequence[tf.Tensor]


class Residual(Bijector):
    """Add a network `g` that is Lipschitz with a constant below 1: a contractive residual layer.

    Inverse: `x = y + g(y)`
    Forward: `y`, the fixed point of `y = x - g(y)`, to rounding errors
    Log-det: `-log det(I + J)`, with the Jacobian matrix `J = ∂g/∂y`

    The inverse, which a density needs, costs one call of the network, and the log-det; the forward
    direction, which draws need, some 10 to 40 calls, as Anderson's acceleration of the fixed-point
    iteration takes, more where the Lipschitz constant comes closer to 1. Where draws must be cheap,
    as in variational inference, put it into `tfb.Invert`. Derivatives of the fixed point are those
    of the equation, to any order. Starts as the identity.

    Log-dets of small events are exact: `J` takes as many products as an event has numbers. Those of
    others are estimated by the series `log det(I + J) = Σ_k (-1)^(k + 1) tr(J^k) / k`, with
    `vᵀ J^k v` for the trace, where `v` are random signs:

    - In training, that is in `FlowModel.fit` and wherever Keras layers are called with
      `training=True`, `v` is drawn for every row, and the series ends at random after two terms or
      more ("Russian roulette"), later terms being divided by the probability that they are reached.
      The estimate is unbiased. A term is reached with a probability of `max(½, L²)` if the one
      before was, where `L` is a Lipschitz constant of the network as it is: its variance is finite.
    - Elsewhere there are 20 terms, and `v` is the same at all times and for all rows: densities can
      be repeated, and compared, and those of different rows do not depend on each other. But they
      have the error of one `v`.

    Either way the gradient is that of `vᵀ J Σ_k (-J)^k v` with the sum held constant: an estimate
    of its own, unbiased in training, whose value appears nowhere. Memory does not grow with the
    number of terms. Of higher derivatives there is no estimate.

    Shapes: events `(event_size,)`, or on a grid `(T, C)` or `(H, W, C)`; context
    `(..., context_size)`, with a grid of its own if that is a shape; the batch shapes of both
    broadcast.

    Args:
      event_size: number of columns, or the shape of events on a grid.
      hidden_units: widths of the hidden layers of `g`, a `networks.LipschitzNet`; on a grid it has
        convolutions.
      lipschitz: constant that `g` keeps below, in (0, 1).
      log_det: "exact"; "roulette", for the estimate; or "auto", which is exact for events of up to
        8 numbers.
      kernel_size: of convolutions: one for all, or one a layer, of which there is one more than
        hidden widths.
      context_size: width or shape of the context, or `None`. `g` need not be Lipschitz in it.
      dtype: floating dtype of events.
      seed: integer for reproducible initial weights and random signs, or `None`.
      validate_args: as in every `tfb.Bijector`.
      name: name of the bijector.

    Raises:
      ValueError: a size is not a positive integer, `lipschitz` is not in (0, 1), `log_det` is none
        of the three, `dtype` is neither float32 nor float64; an event or context does not fit;
        context is missing, or given to an unconditional bijector.
      NotImplementedError: by `forward` in forward mode, where the log-det is estimated.

    Source: Ricky T. Q. Chen, Jens Behrmann, David Duvenaud and Jörn-Henrik Jacobsen, "Residual
    Flows for Invertible Generative Modeling" (2019); Jens Behrmann, Will Grathwohl, Ricky T. Q.
    Chen, David Duvenaud and Jörn-Henrik Jacobsen, "Invertible Residual Networks" (2019).

    Example:
      >>> layers = [bijectors.Residual(2, (16, 16), seed=i) for i in range(4)]
      >>> flow = Flow(tfd.MultivariateNormalDiag([0.0, 0.0]), tfb.Chain(layers))
    """

    is_monotone = True
    independent_over_batch = True

    def __init__(
        self,
        event_size: Size,
        hidden_units: Sequence[int] = (64, 64),
        lipschitz: float = 0.97,
        log_det: str = "auto",
        *,
        kernel_size: int | Sequence[int] = 3,
        context_size: Size | None = None,
        dtype: str | tf.DType = "float32",
        seed: int | None = None,
        validate_args: bool = False,
        name: str = "residual",
    ):
        parameters = dict(locals())
        dtype = floating(dtype)
        shape = check_shape(event_size, "event_size")
        if None in shape or len(shape) > 3:
            raise ValueError(
                "`event_size` must be a number, or a shape (T, C) or (H, W, C) of known sizes. "
                f"Received: event_size={event_size!r}"
            )
        one_of(log_det, "log_det", _LOG_DETS)
        self.event_size = as_size(event_size)
        self.context_size = as_size(context_size)
        self._shape = shape
        self._context_ndims = context_rank(context_size)
        self._numbers = math.prod(shape)
        self._is_exact = log_det == "exact" or (log_det == "auto" and self._numbers <= _EXACT_UP_TO)
        self.conditioner = LipschitzConditioner(
            hidden_units,
            lipschitz=lipschitz,
            kernel_size=kernel_size,
            event_shape=shape,
            stochastic=not self._is_exact,
            context_size=context_size,
            dtype=dtype.name,
            seed=seed,
        )
        super().__init__(parameters=parameters, dtype=dtype, forward_min_event_ndims=len(shape))

    def _inverse_and_log_det(self, y: tf.Tensor, context: tf.Tensor | None = None) -> Pair:
        rows, given, shape = self._rows(y, context)
        weights, log_constant = self.conditioner.given(given)
        g, slopes = value(rows, weights)
        log_det = self._log_det(rows, weights, slopes, log_constant)
        return self._events(rows + g, log_det, given, shape)

    def _forward_and_log_det(self, x: tf.Tensor, context: tf.Tensor | None = None) -> Pair:
        rows, given, shape = self._rows(x, context)
        weights, log_constant = self.conditioner.given(given)
        y = self._fixed_point(rows, weights)
        log_det = -self._log_det(y, weights, value(y, weights)[1], log_constant)
        return self._events(y, log_det, given, shape)

    def _rows(
        self, x: tf.Tensor, context: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor | None, Any]:
        """Events and context, checked, with one batch axis; and the events' shape before."""
        ndims = len(self._shape)
        x = check_events_on_grid(self, x, self._shape)
        context = check_context(self, context, x.dtype)
        if context is not None:
            x = match_batch(x, context, ndims=ndims, other_ndims=self._context_ndims)
            context = match_batch(context, x, ndims=self._context_ndims, other_ndims=ndims)
            context = one_batch_axis(context, self._context_ndims)
        return one_batch_axis(x, ndims), context, ps.shape(x)

    def _events(
        self, y: tf.Tensor, log_det: tf.Tensor, context: tf.Tensor | None, shape: Any
    ) -> Pair:
        log_det = mark_missing(log_det, context, self._context_ndims)
        return tf.reshape(y, shape), tf.reshape(log_det, shape[: -len(self._shape)])

    def _flat(self, x: tf.Tensor) -> tf.Tensor:
        return tf.reshape(x, [-1, self._numbers])

    def _log_det(
        self, y: tf.Tensor, weights: Weights, slopes: Weights, log_constant: tf.Tensor
    ) -> tf.Tensor:
        """`log det(I + ∂g/∂y)`, exactly or as an estimate."""
        if self._is_exact:
            return _log_det_near_identity(self._jacobian(y, weights, slopes))
        signs, uniform = self.conditioner.draw(y)
        held = [tf.stop_gradient(tensor) for tensor in (*weights, *slopes)]
        held_weights, held_slopes = held[: len(weights)], held[len(weights) :]
        log_survival, terms = tf.zeros([], y.dtype), tf.constant(_TERMS)
        if uniform is not None:
            log_survival = tf.maximum(2 * tf.stop_gradient(log_constant), math.log(_MIN_SURVIVAL))
            uniform = tf.maximum(uniform, np.finfo(y.dtype.as_numpy_dtype).eps)
            terms = _CERTAIN_TERMS + tf.cast(tf.math.log(uniform) / log_survival, tf.int32)
        axes = list(range(1, y.shape.rank))

        def add_term(
            k: tf.Tensor, power: tf.Tensor, neumann: tf.Tensor, total: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            """Add the term `k`, given `(-J)^(k - 1) v`."""
            late = tf.cast(tf.maximum(k - _CERTAIN_TERMS, 0), y.dtype)
            weight = tf.exp(-late * log_survival)
            neumann += weight * power
            power = -jacobian_product(power, held_weights, held_slopes)
            term = tf.reduce_sum(signs * power, axes) / tf.cast(k, y.dtype)
            return k + 1, power, neumann, total - weight * term

        _, _, neumann, total = tf.while_loop(
            lambda k, *_: k <= terms,
            add_term,
            (tf.constant(1), signs, tf.zeros_like(y), tf.reduce_sum(tf.zeros_like(y), axes)),
        )
        neumann, total = tf.stop_gradient(neumann), tf.stop_gradient(total)
        surrogate = tf.reduce_sum(signs * jacobian_product(neumann, weights, slopes), axes)
        return total + (surrogate - tf.stop_gradient(surrogate))

    def _jacobian(self, y: tf.Tensor, weights: Weights, slopes: Weights) -> tf.Tensor:
        """`∂g_i/∂y_j` at `[j, n, i]`."""
        d = self._numbers
        units = tf.reshape(tf.eye(d, dtype=y.dtype), [d, 1, *self._shape])
        shape = ps.concat([[d], ps.shape(y)], 0)
        columns = jacobian_product(tf.broadcast_to(units, shape), weights, slopes)
        return tf.reshape(columns, [d, -1, d])

    def _fixed_point(self, x: tf.Tensor, weights: Weights) -> tf.Tensor:
        """The `y` with `y + g(y) = x`."""
        held = [tf.stop_gradient(weight) for weight in weights]
        event = ps.shape(x)
        found = fixed_point(
            lambda y: self._flat(x - value(tf.reshape(y, event), held)[0]), self._flat(x)
        )

        def equation(y: tf.Tensor, x: tf.Tensor, *weights: tf.Tensor) -> tuple[tf.Tensor, Any]:
            g, slopes = value(y, weights)
            if self._is_exact:
                return y + g - x, self._jacobian(y, weights, slopes)
            return y + g - x, (weights, slopes)

        return implicit_root(
            equation,
            tf.reshape(found, event),
            x,
            *weights,
            solve=self._solve_dense if self._is_exact else _solve,
        )

    def _solve_dense(self, jacobian: tf.Tensor, v: tf.Tensor, adjoint: bool) -> tf.Tensor:
        matrix = tf.transpose(jacobian, [1, 2, 0]) + tf.eye(self._numbers, dtype=v.dtype)
        flat = tf.linalg.solve(matrix, self._flat(v)[..., None], adjoint=adjoint)
        return tf.reshape(flat, ps.shape(v))


def _log_det_near_identity(jacobian: tf.Tensor) -> tf.Tensor:
    """`log det(I + J)` of `[j, n, i]`, by Gaussian elimination.

    No pivots are exchanged: where `J` is contractive, all leading minors are positive.
    `tf.linalg.slogdet` is slower for small matrices, and cannot be compiled by XLA.
    """
    size = jacobian.shape[-1]
    rest = jacobian + tf.eye(size, dtype=jacobian.dtype)[:, None]
    pivots = []
    for _ in range(size):
        pivots.append(rest[0, :, 0])
        rest = rest[1:, :, 1:] - rest[1:, :, :1] * (rest[:1, :, 1:] / pivots[-1][:, None])
    return tf.reduce_sum(tf.math.log(tf.stack(pivots)), 0)


def _solve(parts: tuple[Weights, Weights], v: tf.Tensor, adjoint: bool) -> tf.Tensor:
    """`u` with `u + J u = v`, or `u + Jᵀ u = v`: a fixed point, too."""
    if count_accumulators(v, *parts[0], *parts[1]):
        raise NotImplementedError(
            "The fixed point of a Residual has derivatives in forward mode only where its log-det "
            "is exact: use tapes, or `log_det='exact'`. Received: log_det='roulette'"
        )
    product = adjoint_product if adjoint else jacobian_product
    count = len(parts[0])
    held = [tf.stop_gradient(part) for part in (*parts[0], *parts[1])]
    event, flat = ps.shape(v), [-1, math.prod(v.shape[1:])]

    def step(u: tf.Tensor) -> tf.Tensor:
        u = product(tf.reshape(u, event), held[:count], held[count:])
        return tf.reshape(v - u, flat)

    def equation(u: tf.Tensor, v: tf.Tensor, *parts: tf.Tensor) -> tuple[tf.Tensor, Any]:
        weights, slopes = parts[:count], parts[count:]
        return u + product(u, weights, slopes) - v, (weights, slopes)

    return implicit_root(
        equation,
        tf.reshape(fixed_point(step, tf.reshape(v, flat)), event),
        v,
        *parts[0],
        *parts[1],
        solve=lambda parts, v, transposed: _solve(parts, v, adjoint != transposed),
    )
