"""Ordinary differential equations of many rows, differentiated as computed, in constant memory.

Runge-Kutta methods for `dx/dt = f(t, x)` and, beside it, integrals of rates along the way, as of a
trace. What is differentiated is the sequence of steps that was made, not another equation solved
backwards: gradients are exact for the numbers that were returned. The events at the beginning of
every step are kept; what a network computes inside of a step is computed again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfp_flows.ops.internals import count_accumulators, in_xla

__all__ = ["SOLVERS", "Solution", "integrate"]

Dynamics = Callable[[tf.Tensor, tf.Tensor, Sequence[tf.Tensor]], tuple[tf.Tensor, tf.Tensor]]
Tensors = tuple[tf.Tensor, ...]


@dataclasses.dataclass(frozen=True)
class Tableau:
    """A Runge-Kutta method: at which times, of which combinations, and with which weights.

    `error` has the weights of the difference to a method of lower order, none if there is no such
    method. Its last stage is the first one of the next step.
    """

    nodes: tuple[float, ...]
    matrix: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    error: tuple[float, ...] = ()


# Kutta 1901.
RK4 = Tableau(
    nodes=(0, 1 / 2, 1 / 2, 1),
    matrix=((), (1 / 2,), (0, 1 / 2), (0, 0, 1)),
    weights=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
)
# Ch. Tsitouras, "Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying
# assumption" (2011), table 1.
TSIT5 = Tableau(
    nodes=(0, 0.161, 0.327, 0.9, 0.9800255409045097, 1),
    matrix=(
        (),
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (
            5.86145544294642,
            -12.92096931784711,
            8.159367898576159,
            -0.071584973281401,
            -0.028269050394068383,
        ),
    ),
    weights=(
        0.09646076681806523,
        0.01,
        0.4798896504144996,
        1.379008574103742,
        -3.290069515436081,
        2.324710524099774,
    ),
)
# J. R. Dormand and P. J. Prince, "A family of embedded Runge-Kutta formulae" (1980).
DOPRI5 = Tableau(
    nodes=(0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1),
    matrix=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    ),
    weights=(35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    error=(71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
)
SOLVERS = {"rk4": RK4, "tsit5": TSIT5, "dopri5": DOPRI5}

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
) -> Solution:
    """Follow `dx/dt = f(t, x)` from `start` to `end`, and integrate rates on the way.

    "rk4" and "tsit5" make `steps` steps of equal length; the second needs 6 calls of `f` a step for
    4, and is of order 5. "dopri5" chooses the lengths for every row by itself, such that its error,
    relative to `atol + rtol |x|`, has a root mean square below 1; rows that have arrived wait for
    the others, but never change by them.

    Memory grows by one copy of `x` a step, in which the work arrays of a single step are added.
    Derivatives of any order, by `x` and `parameters`, are those of the steps, whose lengths count
    as constants.

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

    Raises:
      InvalidArgumentError: "dopri5" did not arrive in `max_steps`. Where XLA compiles, which cannot
        raise, the rows that did not are NaN.
    """
    tableau, dtype = SOLVERS[solver], x.dtype
    start, end = tf.constant(start, dtype), tf.constant(end, dtype)

    def step(t: tf.Tensor, h: tf.Tensor, x: tf.Tensor, parameters: Sequence[tf.Tensor]) -> Tensors:
        return _step(tableau, dynamics, t, h, x, parameters)[:2]

    def solve(x: tf.Tensor, parameters: Sequence[tf.Tensor]) -> tuple[Solution, _Steps]:
        if not tableau.error:
            return _solve_fixed(step, x, start, end, parameters, steps, len(tableau.nodes))
        return _solve_adaptive(tableau, dynamics, x, start, end, parameters, rtol, atol, max_steps)

    if count_accumulators(x, *parameters):  # Forward mode does not follow custom gradients.
        return solve(x, parameters)[0]

    @tf.custom_gradient
    def solved(x: tf.Tensor, *parameters: tf.Tensor) -> tuple[Solution, Callable[..., Tensors]]:
        solution, made = solve(x, parameters)

        def gradient(by_x: tf.Tensor, by_integrals: tf.Tensor, _: Any) -> Tensors:
            return _backward(step, made, parameters, by_x, by_integrals)

        return solution, gradient

    return Solution(*solved(x, *parameters))


def _step(
    tableau: Tableau,
    dynamics: Dynamics,
    t: tf.Tensor,
    h: tf.Tensor,
    x: tf.Tensor,
    parameters: Sequence[tf.Tensor],
    first: Tensors | None = None,
) -> tuple[tf.Tensor, tf.Tensor, list[Tensors]]:
    """One step: where it leads, the integrals, and velocity and rates of all stages."""
    wide = h[..., None]
    stages = [dynamics(t, x, parameters) if first is None else first]
    for node, row in zip(tableau.nodes[1:], tableau.matrix[1:], strict=True):
        velocity = _combine(row, [stage[0] for stage in stages])
        stages.append(dynamics(t + node * h, x + wide * velocity, parameters))
    velocity, rates = (_combine(tableau.weights, parts) for parts in zip(*stages, strict=True))
    return x + wide * velocity, wide * rates, stages


def _combine(weights: Sequence[float], parts: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.add_n([w * part for w, part in zip(weights, parts, strict=True) if w])


def _solve_fixed(
    step: Callable[..., Tensors],
    x: tf.Tensor,
    start: tf.Tensor,
    end: tf.Tensor,
    parameters: Sequence[tf.Tensor],
    steps: int,
    stages: int,
) -> tuple[Solution, _Steps]:
    h = (end - start) / steps
    times = start + h * tf.range(steps, dtype=x.dtype)
    lengths = tf.fill([steps], h)

    def body(i: tf.Tensor, x: tf.Tensor, total: tf.Tensor, kept: tf.TensorArray) -> Any:
        kept = kept.write(i, x)
        x, integrals = step(times[i], h, x, parameters)
        return i + 1, x, total + integrals, kept

    kept = tf.TensorArray(x.dtype, steps, element_shape=x.shape)
    # The first step tells how many integrals there are.
    first, total = step(times[0], h, x, parameters)
    _, y, total, kept = tf.while_loop(
        lambda i, *_: i < steps,
        body,
        (1, first, total, kept.write(0, x)),
        parallel_iterations=1,
        maximum_iterations=steps - 1,
    )
    evaluations = tf.fill(tf.shape(x)[:1], steps * stages)
    return Solution(y, total, evaluations), _Steps(times, lengths, kept.stack())


def _solve_adaptive(
    tableau: Tableau,
    dynamics: Dynamics,
    x: tf.Tensor,
    start: tf.Tensor,
    end: tf.Tensor,
    parameters: Sequence[tf.Tensor],
    rtol: float,
    atol: float,
    max_steps: int,
) -> tuple[Solution, _Steps]:
    sign, rows = tf.sign(end - start), tf.shape(x)[:1]
    first = dynamics(start, x, parameters)
    zeros = tf.zeros_like(x[:, 0])

    def error_of(stages: list[Tensors], y: tf.Tensor, x: tf.Tensor, h: tf.Tensor) -> tf.Tensor:
        """Root mean square of a row's errors over what is tolerated, integrals included."""
        largest = tf.maximum(tf.abs(x), tf.abs(y))
        by_x, by_rates = (_combine(tableau.error, parts) for parts in zip(*stages, strict=True))
        ratios = [by_x / (atol + rtol * largest), by_rates / (atol + rtol)]
        return tf.abs(h) * tf.sqrt(tf.reduce_mean(tf.concat(ratios, -1) ** 2, -1))

    def body(i: tf.Tensor, t: tf.Tensor, h: tf.Tensor, *state: Any) -> Any:
        x, total, velocity, rates, count, *kept = state
        active = sign * (end - t) > 0
        last = sign * (t + h - end) >= 0
        h = tf.where(active, tf.where(last, end - t, h), 0.0)
        y, integrals, stages = _step(tableau, dynamics, t, h, x, parameters, (velocity, rates))
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
    return Solution(y, total, evaluations), made


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
