"""BlockAutoregressive: one monotone, autoregressive network as a map of vectors."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.base import Bijector, check_context, check_event_size, mark_missing
from tfp_flows.bijectors.matrices import solve_triangular
from tfp_flows.bijectors.transformers.base import Pair
from tfp_flows.bijectors.transformers.numerical import bracketed_root
from tfp_flows.networks.conditioner import match_batch
from tfp_flows.networks.parameters import Parameters
from tfp_flows.ops.checks import floating, permutation, positive_int
from tfp_flows.ops.implicit import implicit_root
from tfp_flows.ops.internals import prefer_static as ps
from tfp_flows.ops.limits import claim
from tfp_flows.ops.seeds import check_seed

__all__ = ["BlockAutoregressive"]

_GATE = 0.002
Weights = Sequence[tf.Tensor]


class BlockAutoregressive(Bijector):
    """A network in which every column has hidden units of its own, monotone in the column.

    With `n` the network, and `a` and `γ` of a column:

    Inverse: `x_i = exp(a_i) (y_i + γ_i² n_i(y_i; y_<i))`
    Forward: `y`, column by column, each a root in a bracket
    Log-det: `-Σ_i (a_i + log(1 + γ_i² ∂n_i/∂y_i))`

    `n` has `hidden_layers` layers of `hidden_factor` units of tanh for every column. Weights from
    a column's units to its own are exponentials, those from earlier columns are free and those from
    later columns 0; of biases, a network makes them from context. Rows are normalized and have
    trainable lengths. The gated sum makes of the bounded `n` a map onto all numbers, with slopes of
    at least `exp(a_i)`: slopes need no logarithms on their way through the layers, as they do where
    the network's own slope, which may underflow, is all there is.

    The inverse costs one call of the network. The forward direction takes 5 to 20 of them a
    column, one after another; its derivatives, to any order, are those of the roots, by the
    triangular Jacobian matrix. Starts within 1e-3 of the identity.

    Shapes: events `(event_size,)`, context `(..., context_size)`; the batch shapes of both
    broadcast.

    Args:
      event_size: number of columns.
      hidden_factor: hidden units of each column in each layer.
      hidden_layers: how many layers of these there are.
      order: `None` for the columns as they come, `"reversed"`, `"random"` (drawn by `seed`), or a
        permutation: `order[i]` is the column that comes i-th.
      context_size: width of the context, or `None`.
      conditioner: hidden widths of an MLP that reads the context, or a Keras 3 layer
        `(batch, context_size) -> (batch, features)`.
      dtype: floating dtype of events.
      seed: integer for reproducible initial weights and order, or `None`.
      validate_args: as in every `tfb.Bijector`.
      name: name of the bijector.

    Raises:
      ValueError: a size is not a positive integer, `order` is no permutation, `dtype` is neither
        float32 nor float64; an event or context does not fit; context is missing, or given to an
        unconditional bijector.

    Source: Nicola De Cao, Ivan Titov and Wilker Aziz, "Block Neural Autoregressive Flow" (2019).

    Example:
      >>> layer = bijectors.BlockAutoregressive(3, hidden_factor=8)
      >>> flow = Flow(tfd.MultivariateNormalDiag(tf.zeros([3])), layer)
    """

    is_monotone = True
    independent_over_batch = True

    def __init__(
        self,
        event_size: int,
        hidden_factor: int = 8,
        hidden_layers: int = 2,
        order: str | Sequence[int] | None = None,
        *,
        context_size: int | None = None,
        conditioner: Sequence[int] | keras.layers.Layer = (64, 64),
        dtype: str | tf.DType = "float32",
        seed: int | None = None,
        validate_args: bool = False,
        name: str = "block_autoregressive",
    ):
        parameters = dict(locals())
        dtype = floating(dtype)
        size = self.event_size = positive_int(event_size, "event_size")
        factor = positive_int(hidden_factor, "hidden_factor")
        self._widths = [1, *[factor] * positive_int(hidden_layers, "hidden_layers"), 1]
        self.context_size = context_size
        columns = range(size) if order is None else order
        self.order = np.array(permutation(columns, size, "order", seed))
        rng = np.random.default_rng(check_seed(seed))

        def variable(name: str, value: np.ndarray) -> tf.Variable:
            return tf.Variable(tf.constant(value, dtype), name=name)

        self._gate = variable("gate", np.full(size, _GATE))
        self._log_scale = variable("log_scale", np.zeros(size))
        self._layers, biases = [], []
        for i, (inputs, outputs) in enumerate(itertools.pairwise(self._widths)):
            claim(size, inputs, size, outputs)
            layer = {
                "own": rng.normal(0, 0.5, (size, inputs, outputs)),
                "earlier": rng.normal(0, (inputs * size) ** -0.5, (size, inputs, size, outputs)),
                # Units of one input that differ in nothing else would be all the same.
                "log_length": rng.normal(0, 0.5, (size, outputs)),
            }
            biases.append(rng.normal(0, 1.0, size * outputs) * (i == 0))
            self._layers.append(
                {name: variable(f"{name}_{i}", value) for name, value in layer.items()}
            )
        self._biases = Parameters(
            np.concatenate(biases),
            context_size=context_size,
            conditioner=conditioner,
            dtype=dtype.name,
            seed=seed,
        )
        super().__init__(parameters=parameters, dtype=dtype)

    @property
    def fixed_structure(self) -> dict[str, Any]:
        return {"order": self.order}

    def _inverse_and_log_det(self, y: tf.Tensor, context: tf.Tensor | None = None) -> Pair:
        y, weights, context = self._check(y, context)
        x, log_slope, _ = self._map(y, weights)
        return self._unsorted(x), mark_missing(tf.reduce_sum(log_slope, -1), context)

    def _forward_and_log_det(self, x: tf.Tensor, context: tf.Tensor | None = None) -> Pair:
        x, weights, context = self._check(x, context)
        held = [tf.stop_gradient(weight) for weight in weights]
        root = self._solve_columns(tf.stop_gradient(x), held)
        y = implicit_root(self._equation, root, x, *weights, solve=_solve)
        log_det = -tf.reduce_sum(self._map(y, weights)[1], -1)
        return self._unsorted(y), mark_missing(log_det, context)

    def _check(
        self, x: tf.Tensor, context: tf.Tensor | None
    ) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor | None]:
        """Events in their order, and what `_map` takes."""
        x = check_event_size(self, x, self.event_size)
        context = check_context(self, context, x.dtype)
        x = x if context is None else match_batch(x, context)
        weights = [tf.convert_to_tensor(self._log_scale), tf.square(self._gate)]
        size = self.event_size
        earlier = np.triu(np.ones([size, size]), 1)[:, None, :, None]
        biases = self._biases(context)
        batch = ps.shape(biases)[:-1]
        pieces = tf.split(biases, [size * outputs for outputs in self._widths[1:]], axis=-1)
        for layer, piece in zip(self._layers, pieces, strict=True):
            own, free = tf.exp(layer["own"]), layer["earlier"] * tf.constant(earlier, x.dtype)
            square = tf.reduce_sum(own * own, 1) + tf.reduce_sum(free * free, [0, 1])
            factor = tf.exp(layer["log_length"]) / tf.sqrt(square)
            bias = tf.reshape(piece, ps.concat([batch, [size, -1]], 0))
            weights += [own * factor[:, None], free * factor, bias]
        return tf.gather(x, self.order, axis=-1), weights, context

    def _unsorted(self, x: tf.Tensor) -> tf.Tensor:
        return tf.gather(x, np.argsort(self.order), axis=-1)

    def _map(self, y: tf.Tensor, weights: Weights) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """`x`, its log-slopes by the same columns, and the slopes of all hidden units."""
        log_scale, gate, *rest = weights
        h, slope, slopes = y[..., None], tf.ones_like(y)[..., None], []
        for i in range(0, len(rest), 3):
            own, free, bias = rest[i : i + 3]
            h = _multiply(own, free, h) + bias
            slope = tf.einsum("...ia,iab->...ib", slope, own)
            if i + 3 < len(rest):
                h = tf.tanh(h)
                slopes.append(1 - h * h)
                slope *= slopes[-1]
        x = tf.exp(log_scale) * (y + gate * h[..., 0])
        return x, log_scale + tf.math.log1p(gate * slope[..., 0]), slopes

    def _equation(
        self, y: tf.Tensor, x: tf.Tensor, *weights: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """How far the image of `y` is from `x`, and the lower triangular Jacobian matrix."""
        found, _, slopes = self._map(y, weights)
        log_scale, gate, *rest = weights
        size = self.event_size
        eye = tf.eye(size, dtype=y.dtype)
        shape = ps.concat([[size], ps.ones_like(ps.shape(y)[:-1]), [size]], 0)
        units = tf.reshape(eye, shape) + tf.zeros_like(y)  # (by column, ..., column)
        tangents = units[..., None]
        for i, slope in zip(range(0, len(rest), 3), [*slopes, 1], strict=True):
            tangents = _multiply(rest[i], rest[i + 1], tangents) * slope
        columns = tf.exp(log_scale) * (units + gate * tangents[..., 0])
        axes = [*range(1, columns.shape.rank), 0]
        return found - x, tf.transpose(columns, axes)

    def _solve_columns(self, x: tf.Tensor, weights: Weights) -> tf.Tensor:
        """`y`, column by column."""

        def solve(i: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            here = tf.one_hot(i, self.event_size, dtype=tf.bool, on_value=True, off_value=False)

            def equation(column: tf.Tensor, target: tf.Tensor, _: tf.Tensor) -> Pair:
                found, log_slope, _ = self._map(tf.where(here, column, y), weights)
                value = tf.gather(found, [i], axis=-1) - target
                return value, tf.exp(tf.gather(log_slope, [i], axis=-1))

            no_parameters = tf.zeros([1, 1], x.dtype)
            column = bracketed_root(equation, tf.gather(x, [i], axis=-1), no_parameters)
            return i + 1, tf.where(here, column, y)

        start = (tf.constant(0), x)
        return tf.while_loop(
            lambda i, _: i < self.event_size, solve, start, maximum_iterations=self.event_size
        )[1]


def _multiply(own: tf.Tensor, free: tf.Tensor, h: tf.Tensor) -> tf.Tensor:
    """One layer's product, of units `(..., columns, inputs)`."""
    return tf.einsum("...ia,iab->...ib", h, own) + tf.tensordot(h, free, 2)


def _solve(jacobian: tf.Tensor, v: tf.Tensor, adjoint: bool) -> tf.Tensor:
    return solve_triangular(jacobian, v, lower=True, adjoint=adjoint)
