"""Continuous flows: events follow a velocity field from base to data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.base import Bijector, check_context, check_event_size, mark_missing
from tfp_flows.networks.conditioner import Conditioner, match_batch
from tfp_flows.networks.dynamics import Dynamics, LayerDynamics, VelocityMLP
from tfp_flows.ops.checks import floating, one_of, positive_int
from tfp_flows.ops.feature_major import flatten_batch
from tfp_flows.ops.internals import prefer_static as ps
from tfp_flows.ops.ode import SOLVERS, Solution, integrate
from tfp_flows.ops.seeds import check_seed

__all__ = ["Continuous"]

_TRACES = ("auto", "exact", "hutchinson")
_EXACT_UP_TO = 64  # Columns: beyond, networks without a formula are trained by estimates.


class Continuous(Bijector):
    """Follow `dx/dt = f(t, x; context)` from the base at time 0 to the data at time 1.

    Forward: `y = x(1)`, where `x(0) = x`
    Inverse: `x = x(0)`, where `x(1) = y`
    Log-det: `∫₀¹ tr ∂f/∂x dt`

    Both directions cost as many calls of the network as the solver makes: 64 by default. Starts as
    the identity.

    What a solver returns is as near to the flow as its steps are short. "rk4" (fourth order) and
    "tsit5" (fifth) make `steps` steps of equal length; "dopri5" chooses lengths, for every row by
    itself. Compare `log_prob` with that of twice as many `steps`, or a tenth of the tolerances: on
    trained densities of a few columns, 16 steps of "rk4" are right to some 1e-4 nats, unless
    training, by a high learning rate, found what the solver does not see: `FlowModel.fit` compares
    at its end, and warns where twice as many steps differ by 0.02 nats. Round trips are as exact as
    the steps. Derivatives, to any order, are those of the steps. Memory of training
    hardly grows with the steps: the events of up to 16 are kept, more are computed again; "dopri5",
    and XLA, keep the events of all steps.

    The trace is exact by a formula for up to two hidden layers. Of deeper networks, and layers of
    your own, it is exact at the cost of `event_size` products with the Jacobian. Beyond 64 columns
    training estimates it with random signs (Hutchinson), drawn anew for every path: the gradient is
    right in the mean. Outside of training it is exact, unless `trace` is "hutchinson": then the
    same signs serve for all rows and calls, and the log-density is an estimate.

    With `kinetic` or `jacobian`, means over the batch of `∫ |f|² dt` and `∫ |εᵀ ∂f/∂x|² dt`, times
    these numbers, are added to the loss of a Keras model in training: paths become straight, and
    need fewer steps. They are never part of a density.

    Shapes: events `(event_size,)`, context `(..., context_size)`.

    Args:
      event_size: number of columns.
      dynamics: widths of the hidden layers of a `networks.VelocityMLP`, one with other options, or
        a Keras 3 layer `(batch, event_size + 1 + context_size) -> (batch, event_size)`, which reads
        event, time and context side by side. Its activations should be smooth; by mean and
        variance it must not normalize, of which TensorFlow has wrong second derivatives.
      solver: "rk4", "tsit5" or "dopri5".
      steps: of "rk4" and "tsit5".
      rtol: relative tolerance of "dopri5".
      atol: absolute tolerance of "dopri5".
      trace: "auto", as above; "exact", also in training; or "hutchinson".
      context_size: width of the context, or `None`.
      dtype: floating dtype of events.
      seed: integer for reproducible initial weights and signs, or `None`.
      kinetic: weight of the penalty of speed, in nats.
      jacobian: weight of the penalty of the Jacobian, in nats.
      validate_args: as in every `tfb.Bijector`.
      name: name of the bijector.

    Raises:
      ValueError: a number is not positive, a name is not among those above, `dynamics` is neither
        widths nor a layer that fits, or normalizes; an event or context does not fit; context is
        missing, or given to an unconditional bijector.
      InvalidArgumentError: "dopri5" needs more than 1,000 steps.

    Source: Will Grathwohl, Ricky T. Q. Chen, Jesse Bettencourt, Ilya Sutskever and David Duvenaud,
    "FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models" (2019); the
    penalties from Chris Finlay, Jörn-Henrik Jacobsen, Levon Nurbekyan and Adam Oberman, "How to
    Train Your Neural ODE: the World of Jacobian and Kinetic Regularization" (2020).

    Example:
      >>> flow = Flow(tfd.MultivariateNormalDiag(tf.zeros([2])), bijectors.Continuous(2, (32, 32)))
      >>> flow.log_prob(flow.sample(5)).shape
      TensorShape([5])
    """

    is_monotone = True

    def __init__(
        self,
        event_size: int,
        dynamics: Sequence[int] | keras.layers.Layer = (64, 64),
        *,
        solver: str = "rk4",
        steps: int = 16,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        trace: str = "auto",
        context_size: int | None = None,
        dtype: str | tf.DType = "float32",
        seed: int | None = None,
        kinetic: float = 0.0,
        jacobian: float = 0.0,
        validate_args: bool = False,
        name: str = "continuous",
    ):
        parameters = dict(locals())
        dtype = floating(dtype)
        self.event_size = positive_int(event_size, "event_size")
        self.context_size: int | None = context_size
        self.solver = one_of(solver, "solver", sorted(SOLVERS))
        self.trace = one_of(trace, "trace", _TRACES)
        self.steps = positive_int(steps, "steps")
        for what, value in (("rtol", rtol), ("atol", atol)):
            if not (value > 0 and np.isfinite(value)):
                raise ValueError(f"`{what}` must be positive. Received: {what}={value!r}")
        for what, value in (("kinetic", kinetic), ("jacobian", jacobian)):
            if not (value >= 0 and np.isfinite(value)):
                raise ValueError(f"`{what}` must be 0 or more. Received: {what}={value!r}")
        self.rtol, self.atol, self.kinetic, self.jacobian = rtol, atol, kinetic, jacobian
        self._network = Conditioner(
            self._dynamics(dynamics, dtype.name, check_seed(seed)),
            input_size=event_size + 1,
            output_shape=(event_size,),
            context_size=context_size,
            dtype=dtype.name,
            head=False,
        )
        super().__init__(parameters=parameters, dtype=dtype)

    def _dynamics(self, given: Any, dtype: str, seed: int | None) -> Dynamics:
        size, context_size = self.event_size, self.context_size
        if isinstance(given, Dynamics):
            found = (given.event_size, given.context_size, given.variable_dtype)
            if found != (size, context_size, dtype):
                raise ValueError(
                    "`dynamics` must have the event size, context size and dtype of the bijector, "
                    f"{(size, context_size, dtype)}. Received: {found}"
                )
            return given
        if isinstance(given, keras.layers.Layer):
            return LayerDynamics(given, size, context_size=context_size, seed=seed, dtype=dtype)
        if not isinstance(given, Sequence) or isinstance(given, str):
            raise ValueError(
                "`dynamics` must be a sequence of hidden widths or a Keras 3 layer. "
                f"Received: dynamics={given!r}"
            )
        return VelocityMLP(size, given, context_size=context_size, seed=seed, dtype=dtype)

    @property
    def dynamics(self) -> Dynamics:
        """The network: its `velocity`, and what belongs to it."""
        layer: Dynamics = self._network.layer
        return layer

    @property
    def independent_over_batch(self) -> bool:
        """Whether no penalties are added to the loss on the way."""
        return not (self.kinetic or self.jacobian)

    def _forward_and_log_det(
        self, x: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        return self._follow(x, context, 0.0, 1.0)

    def _inverse_and_log_det(
        self, y: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        return self._follow(y, context, 1.0, 0.0)

    def _follow(
        self, x: tf.Tensor, context: tf.Tensor | None, start: float, end: float
    ) -> tuple[tf.Tensor, tf.Tensor]:
        x, context = self._checked(x, context)
        signs, training = self._signs(x)
        solution = self._solve(x, context, start, end, signs=signs, training=training)
        if training and not self.independent_over_batch:
            means = tf.abs(tf.reduce_mean(solution.integrals[:, 1:], 0))  # Time may run backwards.
            weights = tf.constant([w for w in (self.kinetic, self.jacobian) if w], x.dtype)
            self.dynamics.add_loss(tf.reduce_sum(weights * means))
        log_det = tf.reshape(solution.integrals[:, 0], ps.shape(x)[:-1])
        return tf.reshape(solution.x, ps.shape(x)), mark_missing(log_det, context)

    def _checked(
        self, x: tf.Tensor, context: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        x = check_event_size(self, x, self.event_size)
        context = check_context(self, context, x.dtype)
        if context is None:
            return x, None
        return match_batch(x, context), match_batch(context, x)

    def _solve(
        self,
        x: tf.Tensor,
        context: tf.Tensor | None,
        start: float,
        end: float,
        *,
        signs: tf.Tensor | None = None,
        training: bool = False,
    ) -> Solution:
        x = flatten_batch(x)
        network = self.dynamics
        exact = signs is None or self._is_exact(training)
        kinetic, jacobian = (training and bool(w) for w in (self.kinetic, self.jacobian))
        parameters = network.parameters(None if context is None else flatten_batch(context))

        def moves(t: tf.Tensor, x: tf.Tensor, parameters: Sequence[tf.Tensor]) -> Any:
            rates = []
            if exact:
                velocity, trace = network.with_trace(t, x, parameters)
                rates.append(trace)
            if jacobian or not exact:
                velocity, product = network.with_product(t, x, parameters, signs)
                if not exact:
                    rates.append(tf.reduce_sum(signs * product, -1))
            if kinetic:
                rates.append(tf.reduce_sum(velocity * velocity, -1))
            if jacobian:
                rates.append(tf.reduce_sum(product * product, -1))
            return velocity, tf.stack(rates, -1)

        return self._integrate(moves, x, start, end, parameters, rates=1 + kinetic + jacobian)

    def _integrate(
        self,
        moves: Any,
        x: tf.Tensor,
        start: float,
        end: float,
        parameters: Sequence[tf.Tensor],
        *,
        rates: int,
    ) -> Solution:
        return integrate(
            moves,
            x,
            start,
            end,
            parameters=parameters,
            solver=self.solver,
            steps=max(1, round(self.steps * abs(end - start))),
            rtol=self.rtol,
            atol=self.atol,
            rates=rates,
        )

    def _signs(self, x: tf.Tensor) -> tuple[tf.Tensor | None, bool]:
        """Random signs, if they may be needed, and whether this is training, if it matters."""
        if self._is_exact(training=True) and self.independent_over_batch:
            return None, False
        signs, uniform = self.dynamics.signs(flatten_batch(x))
        return signs, uniform is not None

    def _is_exact(self, training: bool) -> bool:
        if self.trace == "auto":
            few = self.event_size <= _EXACT_UP_TO
            return not training or self.dynamics.exact_is_cheap or few
        return self.trace == "exact"

    def velocity(self, t: tf.Tensor, x: tf.Tensor, context: tf.Tensor | None = None) -> tf.Tensor:
        """`f(t, x; context)` of events `(n, event_size)` at times in [0, 1], a scalar or `(n,)`."""
        x, context = self._checked(x, context)
        t = tf.convert_to_tensor(t, x.dtype)
        return self.dynamics.velocity(t, x, self.dynamics.parameters(context))

    def path(self, x: tf.Tensor, times: Sequence[float], context: Any = None) -> tf.Tensor:
        """Where events that are at `x` at time 1 are at other times: `(len(times), ..., D)`.

        Args:
          x: events at the data's end.
          times: in [0, 1], in any order.
          context: `(..., context_size)`, if there is context.

        Raises:
          ValueError: a time is outside of [0, 1].
        """
        asked = np.asarray(times, "float64").ravel().tolist()
        if not asked or not all(0 <= time <= 1 for time in asked):
            raise ValueError(f"`times` must be in [0, 1]. Received: times={times!r}")
        x, context = self._checked(tf.convert_to_tensor(x, self.dtype), context)
        parameters = self.dynamics.parameters(None if context is None else flatten_batch(context))

        def moves(t: tf.Tensor, x: tf.Tensor, parameters: Sequence[tf.Tensor]) -> Any:
            return self.dynamics.velocity(t, x, parameters), x[:, :0]

        found, now, here = {}, 1.0, flatten_batch(x)
        for time in sorted(set(asked), reverse=True):
            if time < now:
                here = self._integrate(moves, here, now, time, parameters, rates=0).x
                now = time
            found[time] = tf.reshape(here, ps.shape(x))
        return tf.stack([found[time] for time in asked])

    def evaluations(self, y: tf.Tensor, context: Any = None) -> tf.Tensor:
        """How often the network is called for the inverse of events, a number for each."""
        y, context = self._checked(tf.convert_to_tensor(y, self.dtype), context)
        count = self._solve(y, context, 1.0, 0.0).evaluations
        return tf.reshape(count, ps.shape(y)[:-1])
