"""Reversible layers as one bijector that keeps no activations: its gradient computes them again.

The backward pass starts with what arrived at the base, and for every layer `f` on the way back

1. rebuilds the layer's input `y = f(x)` from its output `x = f⁻¹(y)`,
2. runs `f⁻¹(y)` again, now recorded, and
3. multiplies the upstream gradient with its Jacobian, for the gradients by `y` and by the layer's
   variables and context. Then it forgets the layer, and goes on with `y`.

A coupling calls its network once for 1 and 2: what this reads is the same in `x` and `y`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfp_flows.bijectors.base import Bijector, Direction
from tfp_flows.ops.internals import in_xla, optimization_barrier, stop_recording

__all__ = ["Layer", "Reversible"]

Pair = tuple[tf.Tensor, tf.Tensor]


class Layer(NamedTuple):
    """A bijector without the `tfb.Invert`s and the context around it.

    Its methods are called without TFP's caches, which would keep what was computed.
    """

    bijector: Bijector
    inverted: bool
    context: tf.Tensor | None

    def forward(self, x: tf.Tensor, *context: tf.Tensor) -> Pair:
        """Value and log-det on the way from base to data."""
        bijector, own = self.bijector, self._own(context)
        if self.inverted:
            return bijector._inverse_and_log_det(x, *own)
        return bijector._forward_and_log_det(x, *own)

    def inverse(self, y: tf.Tensor, *context: tf.Tensor) -> Pair:
        """Value and log-det on the way from data to base."""
        return self._replace(inverted=not self.inverted).forward(y, *context)

    def directions(self, x: tf.Tensor, *context: tf.Tensor) -> tuple[Direction, Direction]:
        """`forward`, to be called with `x`, and `inverse`, of the result: see `Bijector`."""
        forward, inverse = self.bijector.directions(x, *self._own(context))
        return (inverse, forward) if self.inverted else (forward, inverse)

    def _own(self, context: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        return () if self.bijector.context_size is None else context


class Reversible(Bijector):
    """Reversible layers as one bijector, whose inverse has a gradient that recomputes.

    Args:
      layers: the last applied first.
    """

    def __init__(self, layers: Sequence[Layer]):
        # Not the contexts: what they are is known when the bijector is called.
        self._layers = [layer._replace(context=None) for layer in layers]
        sizes = (layer.bijector.context_size for layer in layers if layer.context is not None)
        self.context_size = next(sizes, None)
        dtypes = (layer.bijector.dtype for layer in layers)
        # Of maps of vectors among maps of images, log-dets are summed over positions.
        self._ndims = max(layer.bijector.forward_min_event_ndims for layer in layers)
        super().__init__(
            forward_min_event_ndims=self._ndims,
            dtype=next((dtype for dtype in dtypes if dtype is not None), None),
            parameters={"layers": layers},
            name="reversible",
        )

    def _forward_and_log_det(self, x: tf.Tensor, context: tf.Tensor | None = None) -> Pair:
        contexts, total = () if context is None else (context,), 0
        for layer in reversed(self._layers):
            x, log_det = layer.forward(x, *contexts)
            total += self._summed(log_det, layer)
        return x, total

    def _summed(self, log_det: tf.Tensor, layer: Layer) -> tf.Tensor:
        extra = self._ndims - layer.bijector.forward_min_event_ndims
        return tf.reduce_sum(log_det, list(range(-extra, 0))) if extra else log_det

    def _forward_event_shape(self, shape: tf.TensorShape) -> tf.TensorShape:
        for layer in reversed(self._layers):
            own = layer.bijector
            by = own.inverse_event_shape if layer.inverted else own.forward_event_shape
            shape = by(shape)
        return shape

    def _inverse_event_shape(self, shape: tf.TensorShape) -> tf.TensorShape:
        for layer in self._layers:
            own = layer.bijector
            by = own.forward_event_shape if layer.inverted else own.inverse_event_shape
            shape = by(shape)
        return shape

    def _inverse_and_log_det(self, y: tf.Tensor, context: tf.Tensor | None = None) -> Pair:
        arrived: list[tf.Tensor] = []

        @tf.custom_gradient
        def inverse(y: tf.Tensor, *contexts: tf.Tensor) -> tuple[Pair, Callable[..., Any]]:
            with stop_recording():
                total = 0
                for layer in self._layers:
                    y, log_det = layer.inverse(y, *contexts)
                    total += self._summed(log_det, layer)

            def backward(*gradients: tf.Tensor, variables: Sequence[tf.Variable] = ()) -> Any:
                if not arrived:  # Asked for while the inverse is still being recorded.
                    raise NotImplementedError(
                        "Where activations are recomputed there is no forward-mode "
                        "differentiation of `log_prob`: use `Flow.log_prob`."
                    )
                return self._backward(arrived[0], contexts, gradients, variables)

            return (y, total), backward

        x, log_det = inverse(y, *(() if context is None else (context,)))
        # The result, not the `y` inside: it depends on the variables, as second derivatives must.
        arrived.append(x)
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
        for layer in reversed(self._layers):
            # Else a graph would rebuild all layers first, and hold them all.
            x, *own_contexts = _after(done, x, *contexts)
            by_own = by_log_det
            for _ in range(self._ndims - layer.bijector.forward_min_event_ndims):
                by_own = by_own[..., None]  # Each position counts; shapes broadcast below.
            x, own_variables, done = _back(layer, x, own_contexts, gradient, by_own)
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
    layer: Layer,
    x: tf.Tensor,
    contexts: Sequence[tf.Tensor],
    gradient: tf.Tensor,
    by_log_det: tf.Tensor,
) -> tuple[tf.Tensor, Sequence[tf.Variable], list[tf.Tensor | None]]:
    """One layer back: its input, its variables, and gradients by the input, contexts, variables."""
    with tf.GradientTape() as tape:
        tape.watch([x, *contexts])
        forward, inverse = layer.directions(x, *contexts)
        with tape.stop_recording():
            y = tf.identity(forward(x)[0])  # Never `x` itself, whose gradient is another one.
        tape.watch(y)
        outputs = inverse(y)
        by_log_det = tf.broadcast_to(by_log_det, tf.shape(outputs[1]))
    variables = tape.watched_variables()
    sources = [x, y, *contexts, *variables]
    by_x, by_y, *others = tape.gradient(outputs, sources, [gradient, by_log_det])
    # A coupling's network read its features off `x`, and its map takes the same off `y`.
    found = [_sum(by_x, by_y), *others]
    return y, variables, [None if g is None else tf.convert_to_tensor(g) for g in found]


def _after(done: Sequence[tf.Tensor | None], *tensors: tf.Tensor) -> Sequence[tf.Tensor]:
    """The tensors, with which nothing is computed before all of `done` are known."""
    done = [tensor for tensor in done if tensor is not None]
    if not in_xla():
        with tf.control_dependencies(done):
            return [tf.identity(tensor) for tensor in tensors]

    @tf.custom_gradient
    def barrier(*tensors: tf.Tensor) -> Any:  # XLA ignores control dependencies.
        return optimization_barrier(*tensors, *done)[: len(tensors)], lambda *g: g

    return barrier(*tensors)


def _sum(first: tf.Tensor | None, second: tf.Tensor | None) -> tf.Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second
