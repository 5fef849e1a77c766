"""Parts of a graph that XLA compiles, while the rest of the graph stays as it is.

A spline is some 200 elementwise operations: alone, each writes its result to memory, and compiled
by XLA into one kernel they take a fifth of the time. The loop that samples an autoregressive layer
is hundreds of products of small matrices. Whole networks gain nothing from XLA on CPU, and compile
slowly. So only such functions are compiled, once for every shape.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfp_flows.ops.internals import (
    count_accumulators,
    in_while_loop,
    in_xla,
    stop_recording,
)

__all__ = ["call_compiled", "without_xla"]

Tensors = tuple[tf.Tensor, ...]
Function = Callable[..., Tensors]

_MULTIPLE = 128
_LARGE = 10_000_000  # Numbers; to compute with more takes as long as to compile.
_enabled = contextvars.ContextVar("xla", default=True)


def call_compiled(
    function: Function,
    key: Hashable,
    *tensors: tf.Tensor,
    shapes: Sequence[int],
    gradient: Function | None = None,
) -> Tensors:
    """`function(key, *tensors)`: compiled by XLA inside a `tf.function`, plain outside.

    Layers with equal keys and shapes share what is traced and compiled, in a thread beside the
    tracing of the rest. An axis of unknown size, along which the function must be elementwise, is
    padded with zeros to a multiple of 128: XLA compiles for every size anew, for a second or more,
    and batches at the end of the data come in all sizes.

    Derivatives of any order are those of the function. In graphs the first one computes what
    it needs of the function again, in a compiled function of its own, for XLA can neither hand out
    what it keeps inside of loops nor keep much outside of them cheaply. Higher ones are computed by
    plain operations.

    Args:
      function: returns a tuple of tensors.
      key: whatever else it needs.
      tensors: its arguments.
      shapes: for every result, the number of the tensor that has its shape.
      gradient: `gradient(key, *tensors, *upstream)` returns the gradients by all tensors, given
        one upstream gradient for every result; by default, that of automatic differentiation.
    """
    static_shapes = [tensor.shape for tensor in tensors]
    if count_accumulators(*tensors):  # Forward mode does not follow what is not recorded.
        return function(key, *tensors)
    if in_while_loop():  # Where a gradient of one's own has no second derivative.
        if gradient is None:  # And that of loops inside cannot leave what is compiled.
            return function(key, *tensors)
        return _call(function, key, tensors, static_shapes, shapes)
    if gradient is None:
        if not tf.inside_function():
            return function(key, *tensors)
        gradient = _gradient_of(function, len(tensors))
    return _call_with_gradient(function, key, tensors, static_shapes, shapes, gradient)


def _call_with_gradient(
    function: Function,
    key: Hashable,
    tensors: Tensors,
    static_shapes: Sequence[tf.TensorShape],
    shapes: Sequence[int],
    gradient: Function,
    *,
    first_order: bool = True,
) -> Tensors:
    @tf.custom_gradient
    def called(*tensors: tf.Tensor) -> tuple[Tensors, Function]:
        def backward(*upstream: tf.Tensor) -> Tensors:
            # In the graph of the gradient, which further gradients can see.
            arguments = tuple(map(tf.identity, (*tensors, *upstream)))
            if not first_order or not tf.inside_function():
                return gradient(key, *arguments)
            return _call_with_gradient(
                gradient,
                key,
                arguments,
                [*static_shapes, *(static_shapes[i] for i in shapes)],
                range(len(tensors)),
                _gradient_of(gradient, len(arguments)),
                first_order=False,
            )

        # A tape that records the call of a compiled function has this hand out all it computes.
        with stop_recording():
            return _call(function, key, tensors, static_shapes, shapes), backward

    results: Tensors = called(*tensors)
    return results


@functools.cache
def _gradient_of(function: Function, count: int) -> Function:
    """The function of a key, `count` tensors and upstream gradients that differentiates another."""

    def gradients(key: Hashable, *tensors: tf.Tensor) -> Tensors:
        sources, upstream = tensors[:count], tensors[count:]
        sources = tuple(map(tf.identity, sources))  # Equal tensors are two arguments.
        # Not a tape's: functions may be traced where no tape records.
        found = tf.gradients(
            function(key, *sources),
            sources,
            upstream,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return tuple(map(tf.convert_to_tensor, found))

    return gradients


def _call(
    function: Function,
    key: Hashable,
    tensors: Tensors,
    static_shapes: Sequence[tf.TensorShape],
    shapes: Sequence[int],
) -> Tensors:
    """`function(key, *tensors)`, compiled where that is possible.

    Of every tensor, what its static shape leaves open is padded: gradients that come from outside
    may know less of their shape, or more, than the tensors that they belong to.
    """
    compiles = tf.inside_function() and _enabled.get() and not in_xla()
    if not compiles or any(0 in tensor.shape for tensor in tensors):
        return function(key, *tensors)
    if all(shape.is_fully_defined() for shape in static_shapes):
        tensors = tuple(map(tf.ensure_shape, tensors, static_shapes))
        _compile_ahead(function, key, *(tf.TensorSpec(t.shape, t.dtype) for t in tensors))
        return _compiled(function, key)(*tensors)
    results = []
    padded = map(_pad, tensors, static_shapes)
    for result, i in zip(_compiled(function, key)(*padded), shapes, strict=True):
        result = tf.slice(result, tf.zeros_like(tf.shape(result)), tf.shape(tensors[i]))
        results.append(tf.ensure_shape(result, static_shapes[i]))
    return tuple(results)


def _pad(tensor: tf.Tensor, static_shape: tf.TensorShape) -> tf.Tensor:
    """The tensor, with zeros behind the axes that the static shape does not know."""
    sizes, unknown = tf.shape(tensor), [size is None for size in static_shape]
    full = tf.maximum(-(-sizes // _MULTIPLE), 1) * _MULTIPLE  # Some operations refuse a size of 0.
    more = (full - sizes) * tf.cast(unknown, sizes.dtype)
    return tf.ensure_shape(tf.pad(tensor, tf.stack([tf.zeros_like(more), more], -1)), static_shape)


@functools.cache
def _compiled(function: Function, key: Hashable) -> Any:
    return tf.function(functools.partial(function, key), jit_compile=True, autograph=False)


@functools.cache
def _compile_ahead(function: Function, key: Hashable, *specs: tf.TensorSpec) -> None:
    """Let another thread run the function once, of zeros: XLA compiles while the rest is traced."""
    if sum(spec.shape.num_elements() for spec in specs) > _LARGE:
        return
    # XLA takes what a graph calls for the same only if a graph called it before.
    graph = tf.function(_compiled(function, key), autograph=False)
    with tf.init_scope():
        traced = graph.get_concrete_function(*specs)

    def run() -> None:
        with contextlib.suppress(tf.errors.OpError):  # The same call in the graph will raise it.
            traced(*(tf.zeros(spec.shape, spec.dtype) for spec in specs))

    threading.Thread(target=run).start()


@contextlib.contextmanager
def without_xla() -> Iterator[None]:
    """Trace plain operations in this block, for runtimes that have no XLA."""
    token = _enabled.set(False)
    try:
        yield
    finally:
        _enabled.reset(token)
