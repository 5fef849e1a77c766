"""Inverses of increasing maps that have none in closed form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.transformers.base import Pair
from tfp_flows.ops.implicit import implicit_root

__all__ = ["bracketed_root", "numerical_inverse"]

Direction = Callable[[tf.Tensor, tf.Tensor], Pair]
Equation = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Pair]
_DOUBLINGS = 50
_ITERATIONS = 100


def numerical_inverse(forward: Direction, y: tf.Tensor, parameters: tf.Tensor) -> Pair:
    """Return `x` with `forward(x) = y`, and `log dx/dy`, elementwise, to the accuracy of the dtype.

    The bracket `[y - 1, y + 1]` is moved to the side where the root is, growing threefold each
    time, until it holds the root, or for 50 times. Newton's method, safeguarded by bisection of the
    bracket, then finds the root `x` (about 5 to 20 evaluations of `forward`, never more than 100).
    Neither is differentiated: derivatives are those of the inverse, `dx/dy = 1 / f'` and
    `dx/dp = -(∂f/∂p) / f'`, and exact to any order (`implicit_root`). The log-det is that of
    `forward` at `x`, so that its gradient flows through `x` and `p` alike.

    With a NaN no comparison holds, which ends the search at once: NaN comes out for a NaN in `y` or
    in the parameters.

    Args:
      forward: a transformer's `forward`, increasing in `x`; it depends on nothing else that is
        differentiated.
      y: `(..., units)`.
      parameters: `(..., parameter_count, units)`.

    Source: William Press, Saul Teukolsky, William Vetterling and Brian Flannery, "Numerical
    Recipes" (1986), section 9.4, for the safeguard.
    """

    def equation(x: tf.Tensor, y: tf.Tensor, parameters: tf.Tensor) -> Pair:
        """How far `forward` is above `y`, and the slope."""
        value, log_slope = forward(x, parameters)
        return value - y, tf.exp(log_slope)

    root = bracketed_root(equation, tf.stop_gradient(y), tf.stop_gradient(parameters))
    x = implicit_root(equation, root, y, parameters)
    return x, -forward(x, parameters)[1]


def bracketed_root(equation: Equation, y: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
    """The `x` at which an increasing `equation(x, y, parameters)` is 0; see `numerical_inverse`.

    It returns its value and slope, for `x` with axes in front of those of `y`, too.
    """
    # Newton's method rather than `tfp.math.find_root_chandrupatla`: `forward` gives the slope
    # anyway, and compiled code holds `forward` once for the search, not three times.
    eps = np.finfo(y.dtype.as_numpy_dtype).eps
    y += tf.zeros_like(parameters[..., 0, :])  # The shape of the result.

    def widen(ends: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        low, high = tf.unstack(ends)
        at_low, at_high = tf.unstack(equation(ends, y, parameters[None])[0])
        left, right, width = at_low > 0, at_high < 0, high - low
        low, high = (
            tf.where(left, low - 3 * width, tf.where(right, high, low)),
            tf.where(right, high + 3 * width, tf.where(left, low, high)),
        )
        return tf.stack([low, high]), left | right

    def bounded(low: tf.Tensor, high: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """The bracket that `x` makes, and how far `x` is above and a Newton step would go."""
        above, slope = equation(x, y, parameters)
        low, high = tf.where(above < 0, x, low), tf.where(above > 0, x, high)
        return low, high, above, tf.where(above == 0, tf.zeros_like(x), -above / slope)

    def narrow(
        low: tf.Tensor, high: tf.Tensor, x: tf.Tensor, step: tf.Tensor, _: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        low, high, above, move = bounded(low, high, x)
        newton = x + move
        # A Newton step that leaves the bracket, or is not much shorter than the last, is not taken.
        good = (newton > low) & (newton < high) & (tf.abs(move) < 0.5 * tf.abs(step))
        # The error left by a step is about its square, and one step more is taken in the end. What
        # is no more than the rounding of `forward` would not shrink further.
        short = tf.abs(move) <= eps ** (2 / 3) * (1 + tf.abs(x))
        found = short | (tf.abs(above) <= 4 * eps * (1 + tf.abs(y)))
        middle = tf.where(found, x, 0.5 * (low + high))
        new = tf.where(good | short, tf.clip_by_value(newton, low, high), middle)
        return low, high, new, new - x, ~found & (tf.abs(new - x) > 0)

    everywhere = tf.ones_like(y, tf.bool)
    reach = 1 + 8 * eps * tf.abs(y)  # Beyond 1 / eps, y - 1 would be y.
    ends, _ = tf.while_loop(
        lambda ends, searching: tf.reduce_any(searching),
        widen,
        (tf.stack([y - reach, y + reach]), everywhere),
        maximum_iterations=_DOUBLINGS,
    )
    low, high = tf.unstack(ends)
    state = (low, high, tf.clip_by_value(y, low, high), high - low, everywhere)
    low, high, x, step, _ = tf.while_loop(
        lambda *state: tf.reduce_any(state[-1]), narrow, state, maximum_iterations=_ITERATIONS
    )
    low, high, _, move = bounded(low, high, x)
    # Where `forward` is flat, its rounding would be a long step. That of NaN is taken.
    newton = tf.clip_by_value(x + move, low, high)
    return tf.where(tf.abs(move) > tf.abs(step), x, newton)
