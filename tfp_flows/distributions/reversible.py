"""Densities whose gradients need no stored activations: each layer's input is computed again.

Automatic differentiation keeps what every layer computed until the backward pass uses it, so memory
grows with the number of layers. But a layer of a flow has an inverse: what went into it can be
computed again from what came out. `log_prob` here runs from data to base as always and keeps only
what arrives at the base. The backward pass goes the same way back, and for every step

1. rebuilds the step's input `y = f(x)` from its output `x = f⁻¹(y)`,
2. runs `f⁻¹(y)` again, now recorded, and
3. multiplies the upstream gradient with its Jacobian, for the gradients by `y` and by the step's
   variables and context. Then it forgets the step, and goes on with `y`.

A coupling calls its network once for 1 and 2: what this reads is the same in `x` and `y`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows import bijectors
from tfp_flows.bijectors import transformers
from tfp_flows.bijectors.base import Bijector
from tfp_flows.distributions.chain import Given, flatten_chain
from tfp_flows.distributions.flow import Flow
from tfp_flows.networks.conditioner import Conditioner
from tfp_flows.ops.internals import (
    InvertBase,
    in_xla,
    layers_of,
    optimization_barrier,
    stop_recording,
)

__all__ = ["check_reversible", "log_prob"]

# Both directions of these are cheap and exact to rounding, at every point. `CircularSpline` is not
# among them, for it takes its input modulo 2π.
_CLOSED_TRANSFORMERS = (
    transformers.Additive,
    transformers.Affine,
    transformers.CubicSpline,
    transformers.LinearSpline,
    transformers.QuadraticSpline,
    transformers.RationalQuadraticSpline,
)
_CLOSED_BIJECTORS = (
    bijectors.ActNorm,
    bijectors.Householder,
    bijectors.LU,
    bijectors.Permutation,
    bijectors.QR,
    bijectors.Rotation,
    bijectors.Rotation2D,
    bijectors.ShiftAndCube,
    bijectors.Triangular,
)
_NO_FORWARD_MODE = "There is no forward-mode differentiation here: use `Flow.log_prob` for it"
_STATEFUL_LAYERS = (keras.layers.BatchNormalization, keras.layers.SpectralNormalization)


def log_prob(flow: tfd.Distribution, x: Any, context: Any | None = None) -> tf.Tensor:
    """`flow.log_prob(x, context)`, whose backward pass recomputes activations from the base's end.

    Value and gradients, by `x`, `context` and all variables, are the same up to rounding. Memory
    for activations is that of one layer, however many there are, if these are all reversible:
    `Coupling` and `Elementwise` with `Additive`, `Affine` or a spline that is not circular, `LU`,
    `QR`, `Triangular`, `Householder`, `Rotation`, `Permutation`, `ActNorm`, `Rotation2D` and
    `ShiftAndCube` with a scalar parameter; also in `tfb.Invert`. All other bijectors are
    differentiated the ordinary way, and what they need is kept, as is one event between them and
    their neighbours; so are fixed maps at the data's end, such as `Support`.

    Costs one forward and one inverse pass more than the ordinary gradient, which share one call of
    each coupling's network: about 1.6 times its time. Rounding errors of the recomputation add up
    along the layers, and where a layer stretches its input by a factor, so does it the errors so
    far: in float32, `LU` layers with scales far from 1 and many layers cost digits of the gradient.

    Args:
      flow: a `Flow` or another `tfd.TransformedDistribution`.
      x: events `(..., D)`.
      context: as in `Flow.log_prob`.

    Returns:
      log-densities in nats, of the batch shape of `x` and `context`.

    Raises:
      ValueError: as in `check_reversible`, and as in `Flow.log_prob`.

    Source: Aidan N. Gomez, Mengye Ren, Raquel Urtasun and Roger B. Grosse, "The Reversible
    Residual Network: Backpropagation Without Storing Activations" (2017).

    Example:
      >>> flow = flows.real_nvp(2, layers=64)
      >>> with tf.GradientTape() as tape:
      ...     loss = -tf.reduce_mean(reversible.log_prob(flow, x))
      >>> gradients = tape.gradient(loss, flow.trainable_variables)
    """
    check_reversible(flow)
    if isinstance(flow, Flow):
        flow = flow._conditioned(context)
    elif context is not None:
        raise ValueError(f"`context` was given, but only a Flow takes one. Received: flow={flow!r}")
    flow = flow.copy(bijector=tfb.Chain(_in_runs(flatten_chain(flow.bijector))))
    # Not `Flow.log_prob`, which may split `x`, but not the context that the steps hold.
    return tfd.Distribution.log_prob(flow, x)


def check_reversible(flow: tfd.Distribution) -> None:
    """Raise a ValueError if activations of `flow` cannot be recomputed.

    Raises:
      ValueError: `flow` has no bijector; or a reversible step has a conditioner with a layer that
        would not compute the same again, as `Dropout`, that changes state when called, as
        `BatchNormalization`, or that adds a loss of its activations.
    """
    if not hasattr(flow, "bijector"):
        raise ValueError(
            "Activations are recomputed through a bijector: `distribution` must be a Flow or "
            f"another tfd.TransformedDistribution. Received: distribution={flow!r}"
        )
    for step in map(_bare, flatten_chain(flow.bijector)):
        if not _is_reversible(step.bijector):
            continue
        networks = (part for part in step.bijector.submodules if isinstance(part, Conditioner))
        for layer in (layer for network in networks for layer in layers_of(network.layer)):
            reason = _why_not_again(layer)
            if reason:
                raise ValueError(
                    "Activations are recomputed in the backward pass, which needs conditioners "
                    f"that compute the same again, but a layer {reason}. "
                    f"Received: {type(layer).__name__} {layer.name!r} in {step.bijector.name!r}"
                )


def _why_not_again(layer: keras.layers.Layer) -> str | None:
    """Why a layer may not be called again in the backward pass, or None."""
    if isinstance(getattr(layer, "seed_generator", None), keras.random.SeedGenerator):
        return "draws random numbers"
    if isinstance(layer, _STATEFUL_LAYERS):
        return "changes its state"
    if getattr(layer, "activity_regularizer", None) is not None:
        return "adds a loss of its activations"
    return None


class _Step(NamedTuple):
    """A bijector without the `tfb.Invert`s and the context around it.

    Its methods are called without TFP's caches, which would keep what was computed.
    """

    bijector: tfb.Bijector
    inverted: bool
    context: tf.Tensor | None

    def forward(self, x: tf.Tensor, *context: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self.maps(context)[0](x)

    def inverse(self, y: tf.Tensor, *context: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self.maps(context)[1](y)

    def maps(
        self, context: Sequence[tf.Tensor], x: tf.Tensor | None = None
    ) -> Sequence[Callable[[tf.Tensor], tuple]]:
        """`forward` and `inverse`; a coupling calls its network once for `forward(x)` and back."""
        bijector = self.bijector
        own = () if bijector.context_size is None else context
        if x is not None and type(bijector) is bijectors.Coupling:  # No subclass: it may differ.
            maps = bijector._directions(x, *own)
        else:
            runs = bijector._forward_and_log_det, bijector._inverse_and_log_det
            maps = tuple(lambda value, run=run: run(value, *own) for run in runs)
        return maps[::-1] if self.inverted else maps


def _bare(bijector: tfb.Bijector) -> _Step:
    inverted, context = False, None
    while isinstance(bijector, InvertBase | Given):
        if isinstance(bijector, Given):
            bijector, context = bijector._bijector, bijector._context
        else:
            bijector, inverted = bijector.bijector, not inverted
    return _Step(bijector, inverted, context)


def _is_reversible(bijector: tfb.Bijector) -> bool:
    if isinstance(bijector, bijectors.Coupling | bijectors.Elementwise):
        transformer = bijector.transformer
        while isinstance(transformer, transformers.Inverse):
            transformer = transformer.transformer
        return isinstance(transformer, _CLOSED_TRANSFORMERS)
    # A batch of maps would broadcast events, which could not be rebuilt in their own shape.
    return isinstance(bijector, _CLOSED_BIJECTORS) and bijector.experimental_batch_shape() == ()


def _in_runs(steps: Sequence[tfb.Bijector]) -> list[tfb.Bijector]:
    """The steps of a chain, with neighbours that are reversible as one `_Run`.

    Fixed maps at the data's end stay as they are: `Flow` looks at them one by one for what lies
    outside of their range.
    """
    parts: list[tfb.Bijector] = []
    run: list[_Step] = []

    def end_run() -> None:
        if run:
            context = next((step.context for step in run if step.context is not None), None)
            whole = _Run(run)
            parts.append(whole if context is None else Given(whole, context))
            run.clear()

    fixed = True
    for step in steps:
        fixed = fixed and not step.variables
        bare = _bare(step)
        if fixed or not _is_reversible(bare.bijector):
            end_run()
            parts.append(step)
            continue
        contexts = [other.context for other in (*run, bare) if other.context is not None]
        if any(context is not contexts[0] for context in contexts):
            end_run()
        run.append(bare)
    end_run()
    return parts


class _Run(Bijector):
    """Reversible steps, the last applied first, whose inverse has a gradient that recomputes."""

    def __init__(self, steps: Sequence[_Step]):
        # Not the contexts: what they are is known when the run is called.
        self._steps = [step._replace(context=None) for step in steps]
        sizes = (step.bijector.context_size for step in steps if step.context is not None)
        self.context_size = next(sizes, None)
        dtypes = (step.bijector.dtype for step in steps)
        super().__init__(
            forward_min_event_ndims=1,
            dtype=next((dtype for dtype in dtypes if dtype is not None), None),
            parameters={"steps": steps},
            name="reversible",
        )

    def _forward_and_log_det(
        self, x: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        contexts, total = () if context is None else (context,), 0
        for step in reversed(self._steps):
            x, log_det = step.forward(x, *contexts)
            total += log_det
        return x, total

    def _inverse_and_log_det(
        self, y: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        kept: list[tf.Tensor] = []

        @tf.custom_gradient
        def inverse(y: tf.Tensor, *contexts: tf.Tensor):
            with stop_recording():
                total = 0
                for step in self._steps:
                    y, log_det = step.inverse(y, *contexts)
                    total += log_det

            def backward(*gradients: tf.Tensor, variables: Sequence[tf.Variable] = ()):
                if not kept:  # While it is being recorded.
                    raise NotImplementedError(_NO_FORWARD_MODE)
                return self._backward(kept[0], contexts, gradients, variables)

            return (y, total), backward

        x, log_det = inverse(y, *(() if context is None else (context,)))
        # The result, not the `y` inside: it depends on the variables, as second derivatives must.
        kept.append(x)
        return x, log_det

    def _backward(
        self,
        x: tf.Tensor,
        contexts: Sequence[tf.Tensor],
        gradients: Sequence[tf.Tensor],
        variables: Sequence[tf.Variable],
    ) -> Any:
        """Gradients by `y`, the contexts and the variables, as `tf.custom_gradient` wants them."""
        gradient, by_log_det = gradients
        by_context: list[tf.Tensor | None] = [None] * len(contexts)
        by_variable: dict[Any, tf.Tensor] = {}
        done = [gradient, by_log_det]
        for step in reversed(self._steps):
            # Else a graph would rebuild all steps first, and hold them all.
            x, *own_contexts = _after(done, x, *contexts)
            x, own_variables, done = _back(step, x, own_contexts, gradient, by_log_det)
            gradient, *found = done
            by_context = [
                _sum(*pair) for pair in zip(by_context, found[: len(contexts)], strict=True)
            ]
            for variable, value in zip(own_variables, found[len(contexts) :], strict=True):
                by_variable[variable.ref()] = _sum(by_variable.get(variable.ref()), value)
        by_input = [gradient, *by_context]
        if not variables:
            return by_input
        return by_input, [by_variable.get(variable.ref()) for variable in variables]


def _back(
    step: _Step,
    x: tf.Tensor,
    contexts: Sequence[tf.Tensor],
    gradient: tf.Tensor,
    by_log_det: tf.Tensor,
) -> tuple[tf.Tensor, Sequence[tf.Variable], list[tf.Tensor | None]]:
    """One step back: its input, its variables, and gradients by the input, contexts, variables."""
    with tf.GradientTape() as tape:
        tape.watch([x, *contexts])
        forward, inverse = step.maps(contexts, x)
        with tape.stop_recording():
            y = tf.identity(forward(x)[0])  # Never `x` itself, whose gradient is another one.
        tape.watch(y)
        outputs = inverse(y)
    variables = tape.watched_variables()
    sources = [x, y, *contexts, *variables]
    by_x, by_y, *others = tape.gradient(outputs, sources, [gradient, by_log_det])
    # A coupling's network read from `x` what it keeps, and its map takes the same from `y`.
    found = [_sum(by_x, by_y), *others]
    return y, variables, [None if g is None else tf.convert_to_tensor(g) for g in found]


def _after(done: Sequence[tf.Tensor | None], *tensors: tf.Tensor) -> Sequence[tf.Tensor]:
    """The tensors, with which nothing is computed before all of `done` are known."""
    done = [tensor for tensor in done if tensor is not None]
    if not in_xla():
        with tf.control_dependencies(done):
            return [tf.identity(tensor) for tensor in tensors]

    @tf.custom_gradient
    def barrier(*tensors: tf.Tensor):  # XLA ignores control dependencies.
        return optimization_barrier(*tensors, *done)[: len(tensors)], lambda *g: g

    return barrier(*tensors)


def _sum(first: tf.Tensor | None, second: tf.Tensor | None) -> tf.Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second
