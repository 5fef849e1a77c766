"""Ordinary differential equations of many rows, differentiated as computed, in constant memory.

Runge-Kutta methods for `dx/dt = f(t, x)` and, beside it, integrals of rates along the way, as of a
trace. What is differentiated is the sequence of steps that was made, not another equation solved
backwards: gradients are exact for the numbers that were returned. The events at the beginning of
steps are kept; what a network computes inside of a step is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfp_flows.ops.internals import count_accumulators, in_xla
from tfp_flows.ops.runge_kutta import SOLVERS, Dynamics, Tableau, combine, make_step

__all__ = ["SOLVERS", "Solution", "integrate"]

Tensors = tuple[tf.Tensor, ...]
Step = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, Sequence[tf.Tensor]], Tensors]

_SEGMENT = 16  # Steps of equal length whose beginnings are kept at once.
# The usual bounds of how much the length of a step may change, and its safety factor.
_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 10.0


class Solution(NamedTuple):
    """Where the rows are at the end, the integrals on the way, and how often `f` was called."""

    x: tf.Tensor
    integrals: tf.Tensor
    evaluations: tf.Tensor


class _Steps(NamedTuple):
    """The steps that were made: times, lengths and events at their beginnings, `(steps, ...)`."""

    t: tf.Tensor
    h: tf.Tensor
    x: tf.Tensor


def integrate(
    dynamics: Dynamics,
    x: tf.Tensor,
    start: float,
    end: float,
    *,
    parameters: Sequence[tf.Tensor] = (),
    solver: str = "rk4",
    steps: int = 16,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 1000,
    rates: int = 1,
) -> Solution:
    """Follow `dx/dt = f(t, x)` from `start` to `end`, and integrate rates on the way.

    "rk4" and "tsit5" make `steps` steps of equal length; the second needs 6 calls of `f` a step for
    4, and is of order 5. "dopri5" chooses the lengths for every row by itself, such that its error,
    relative to `atol + rtol |x|`, has a root mean square below 1; rows that have arrived wait for
    the others, but never change by them.

    Memory is that of a single step, and of a copy of `x` for each of 16 equal steps: longer ways
    are cut into segments, which are solved once more for their derivatives. "dopri5", and all
    methods where XLA compiles, keep a copy for every step. Derivatives of any order, by `x` and
    `parameters`, are those of the steps, whose lengths count as constants.

    Args:
      dynamics: from `t`, a scalar or `(n,)`, `x` and `parameters` to the velocity, of the shape of
        `x`, and the rates, `(n, rates)`. It must depend on nothing else that is differentiated.
      x: rows, `(n, D)`.
      start: time at which they are at `x`.
      end: time at which they are looked for, earlier or later.
      parameters: tensors.
      solver: "rk4", "tsit5" or "dopri5".
      steps: how many, of equal length.
      rtol: relative tolerance of "dopri5".
      atol: absolute tolerance of "dopri5".
      max_steps: how many "dopri5" may try.
      rates: how many there are.

    Raises:
      InvalidArgumentError: "dopri5" did not arrive in `max_steps`. Where XLA compiles, which cannot
        raise, the rows that did not are NaN.
    """
    tableau, dtype = SOLVERS[solver], x.dtype
    start, end = tf.constant(start, dtype), tf.constant(end, dtype)

    def step(t: tf.Tensor, h: tf.Tensor, x: tf.Tensor, parameters: Sequence[tf.Tensor]) -> Tensors:
        return make_step(tableau, dynamics, t, h, x, parameters)[:2]

    if not tableau.error:
        zeros = tf.zeros([tf.shape(x)[0], rates], dtype)
        y, total = _equal_steps(step, start, (end - start) / steps, x, zeros, parameters, steps)
        return Solution(y, total, tf.fill(tf.shape(x)[:1], steps * len(tableau.nodes)))

    def solve(x: tf.Tensor, parameters: Sequence[tf.Tensor]) -> tuple[Tensors, _Steps]:
        return _adaptive_steps(tableau, dynamics, x, start, end, parameters, rtol, atol, max_steps)

    return Solution(*_recomputed(solve, step, x, parameters))


def _recomputed(
    solve: Callable[[tf.Tensor, Sequence[tf.Tensor]], tuple[Tensors, _Steps]],
    step: Step,
    x: tf.Tensor,
    parameters: Sequence[tf.Tensor],
) -> Tensors:
    """What `solve` returns, events and integrals first, whose gradient repeats its steps."""
    if count_accumulators(x, *parameters):  # Forward mode does not follow custom gradients.
        return solve(x, parameters)[0]

    @tf.custom_gradient
    def solved(x: tf.Tensor, *parameters: tf.Tensor) -> tuple[Tensors, Callable[..., Tensors]]:
        solution, made = solve(x, parameters)

        def gradient(by_x: tf.Tensor, by_integrals: tf.Tensor, *_: Any) -> Tensors:
            return _backward(step, made, parameters, by_x, by_integrals)

        return solution, gradient

    found: Tensors = solved(x, *parameters)
    return found


def _equal_steps(
    step: Step,
    t: tf.Tensor,
    h: tf.Tensor,
    x: tf.Tensor,
    zeros: tf.Tensor,
    parameters: Sequence[tf.Tensor],
    count: int,
) -> Tensors:
    """Events and integrals after `count` steps of length `h`; many are made segment by segment."""
    # Loops in loops cannot be differentiated twice where XLA compiles: there, all steps are kept.
    if count > _SEGMENT and not in_xla():
        segments, rest = divmod(count, _SEGMENT)

        def segment(
            t: tf.Tensor, h: tf.Tensor, x: tf.Tensor, parameters: Sequence[tf.Tensor]
        ) -> Tensors:
            return _equal_steps(step, t, h / _SEGMENT, x, zeros, parameters, _SEGMENT)

        y, total = _equal_steps(segment, t, _SEGMENT * h, x, zeros, parameters, segments)
        if rest:
            t += (count - rest) * h
            y, more = _equal_steps(step, t, h, y, zeros, parameters, rest)
            total += more
        return y, total

    times, lengths = t + h * tf.range(count, dtype=x.dtype), tf.fill([count], h)

    def solve(x: tf.Tensor, parameters: Sequence[tf.Tensor]) -> tuple[Tensors, _Steps]:
        def body(i: tf.Tensor, x: tf.Tensor, total: tf.Tensor, kept: tf.TensorArray) -> Any:
            kept = kept.write(i, x)
            x, integrals = step(times[i], h, x, parameters)
            return i + 1, x, total + integrals, kept

        kept = tf.TensorArray(x.dtype, count, element_shape=x.shape)
        _, y, total, kept = tf.while_loop(
            lambda i, *_: i < count,
            body,
            (0, x, zeros, kept),
            parallel_iterations=1,
            maximum_iterations=count,
        )
        return (y, total), _Steps(times, lengths, kept.stack())

    return _recomputed(solve, step, x, parameters)


def _adaptive_steps(
    tableau: Tableau,
    dynamics: Dynamics,
    x: tf.Tensor,
    start: tf.Tensor,
    end: tf.Tensor,
    parameters: Sequence[tf.Tensor],
    rtol: float,
    atol: float,
    max_steps: int,
) -> tuple[Tensors, _Steps]:
    sign, rows = tf.sign(end - start), tf.shape(x)[:1]
    first = dynamics(start, x, parameters)
    zeros = tf.zeros_like(x[:, 0])

    def error_of(stages: list[Tensors], y: tf.Tensor, x: tf.Tensor, h: tf.Tensor) -> tf.Tensor:
        """Root mean square of a row's errors over what is tolerated, integrals included."""
        largest = tf.maximum(tf.abs(x), tf.abs(y))
        by_x, by_rates = (combine(tableau.error, parts) for parts in zip(*stages, strict=True))
        ratios = [by_x / (atol + rtol * largest), by_rates / (atol + rtol)]
        return tf.abs(h) * tf.sqrt(tf.reduce_mean(tf.concat(ratios, -1) ** 2, -1))

    def body(i: tf.Tensor, t: tf.Tensor, h: tf.Tensor, *state: Any) -> Any:
        x, total, velocity, rates, count, *kept = state
        active = sign * (end - t) > 0
        last = sign * (t + h - end) >= 0
        h = tf.where(active, tf.where(last, end - t, h), 0.0)
        y, integrals, stages = make_step(tableau, dynamics, t, h, x, parameters, (velocity, rates))
        stages.append(dynamics(t + h, y, parameters))
        error = error_of(stages, y, x, h)
        done = active & ~(error > 1)  # NaN goes on: it does not get better.
        safe = tf.maximum(tf.where(error > 0, error, 0.0), 1e-10)
        change = tf.clip_by_value(_SAFETY * safe**-0.2, _SHRINK, _GROW)
        here, moved = done[:, None], tf.where(done, h, 0.0)
        made = [array.write(i, value) for array, value in zip(kept, (t, moved, x), strict=True)]
        return (
            i + 1,
            tf.where(done, tf.where(last, end, t + h), t),
            h * change,
            tf.where(here, y, x),
            total + tf.where(here, integrals, 0.0),
            tf.where(here, stages[-1][0], velocity),
            tf.where(here, stages[-1][1], rates),
            count + tf.where(active, len(stages) - 1, 0),
            *made,
        )

    # The length of an Euler step that changes `x` by a hundredth, as Hairer, Nørsett and Wanner
    # begin: "Solving Ordinary Differential Equations I" (1993), II.4.
    scale = atol + rtol * tf.abs(x)
    sizes = [tf.sqrt(tf.reduce_mean((part / scale) ** 2, -1)) for part in (x, first[0])]
    guess = tf.where(sizes[1] > 1e-5, 0.01 * sizes[0] / tf.maximum(sizes[1], 1e-5), 0.1)
    h = sign * tf.clip_by_value(guess, 1e-4, 0.1) * tf.abs(end - start)
    arrays = [
        tf.TensorArray(x.dtype, max_steps, element_shape=shape)
        for shape in (zeros.shape, zeros.shape, x.shape)
    ]
    begin = tf.zeros_like(first[1])
    count, t, _, y, total, _, _, evaluations, *arrays = tf.while_loop(
        # Of no rows there is one step, too: nothing can be gathered from empty arrays.
        lambda i, t, *_: (i == 0) | tf.reduce_any(sign * (end - t) > 0),
        body,
        (0, zeros + start, h, x, begin, *first, tf.ones(rows, tf.int32), *arrays),
        parallel_iterations=1,
        maximum_iterations=max_steps,
    )
    arrived = ~(sign * (end - t) > 0)
    if in_xla():
        y = tf.where(arrived[:, None], y, tf.constant(float("nan"), y.dtype))
        made = _Steps(*(array.stack() for array in arrays))
    else:
        message = f"dopri5 did not arrive in {max_steps} steps: raise `atol` and `rtol`"
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(arrived), [message])]):
            y = tf.identity(y)
        made = _Steps(*(array.gather(tf.range(count)) for array in arrays))
    return (y, total, evaluations), made


def _backward(
    step: Callable[..., Tensors],
    made: _Steps,
    parameters: Sequence[tf.Tensor],
    by_x: tf.Tensor,
    by_integrals: tf.Tensor,
) -> Tensors:
    """Gradients by `x` and the parameters, from the last step to the first."""
    count = tf.shape(made.h)[0]

    def body(i: tf.Tensor, by_x: tf.Tensor, *sums: tf.Tensor) -> Any:
        x = made.x[i]
        copies = [tf.identity(parameter) for parameter in parameters]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([x, *copies])
            outputs = step(made.t[i], made.h[i], x, copies)
        found = tape.gradient(
            outputs,
            [x, *copies],
            [by_x, by_integrals],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return i - 1, found[0], *map(tf.add, sums, found[1:])

    _, *gradients = tf.while_loop(
        lambda i, *_: i >= 0,
        body,
        (count - 1, by_x, *map(tf.zeros_like, parameters)),
        parallel_iterations=1,
        maximum_iterations=made.h.shape[0],
    )
    return tuple(gradients)
