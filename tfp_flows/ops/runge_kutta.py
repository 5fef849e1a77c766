"""Methods of Runge and Kutta: their coefficients, and a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

__all__ = ["SOLVERS", "Dynamics", "Tableau", "combine", "make_step"]

Tensors = tuple[tf.Tensor, ...]
# From time, events and parameters to velocities and rates.
Dynamics = Callable[[tf.Tensor, tf.Tensor, Sequence[tf.Tensor]], tuple[tf.Tensor, tf.Tensor]]


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


def make_step(
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
        velocity = combine(row, [stage[0] for stage in stages])
        stages.append(dynamics(t + node * h, x + wide * velocity, parameters))
    velocity, rates = (combine(tableau.weights, parts) for parts in zip(*stages, strict=True))
    return x + wide * velocity, wide * rates, stages


def combine(weights: Sequence[float], parts: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.add_n([w * part for w, part in zip(weights, parts, strict=True) if w])
