"""Many small operations that XLA compiles to few, inside graphs whose others it leaves alone.

A spline is some 200 elementwise operations: alone, each writes its result to memory, and compiled,
they take a fifth of the time. The loop that samples an autoregressive layer is hundreds of products
of small matrices. Whole networks gain nothing from XLA on CPU, and compile slowly. So only such
pieces are compiled, once for every shape, and the flow around them stays a plain graph.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfp_flows.ops.internals import in_xla

__all__ = ["call_compiled", "compiles_pieces", "with_static_shape_of", "without_xla"]

_MULTIPLE = 128
_LARGE = 10_000_000  # Numbers; to compute with more takes as long as to compile.
_enabled = contextvars.ContextVar("fusion", default=True)


def compiles_pieces() -> bool:
    """Whether `call_compiled` compiles: in a `tf.function` that XLA does not compile as a whole."""
    return tf.inside_function() and _enabled.get() and not in_xla()


def call_compiled(
    function: Callable[..., Any], key: Hashable, *tensors: tf.Tensor, shapes: Sequence[int]
) -> tuple[tf.Tensor, ...]:
    """`function(key, *tensors)`: compiled by XLA inside a `tf.function`, plain outside.

    Layers with equal keys and shapes share what is traced and compiled, in a thread beside the
    tracing of the rest. An axis of unknown size, along which the function must be elementwise, is
    filled up with zeros to a multiple of 128: XLA compiles for every size anew, for a second or
    more, and batches at the end of the data come in all sizes.

    Args:
      function: returns a tuple of tensors.
      key: whatever else it needs.
      tensors: its arguments.
      shapes: for every result, the number of the tensor that has its shape.
    """
    if not compiles_pieces() or any(0 in tensor.shape for tensor in tensors):
        return function(key, *tensors)
    if all(tensor.shape.is_fully_defined() for tensor in tensors):
        _compile_ahead(function, key, *(tf.TensorSpec(t.shape, t.dtype) for t in tensors))
        return _compiled(function, key)(*tensors)
    results = []
    filled = _compiled(function, key)(*map(_filled_up, tensors))
    for result, like in zip(filled, (tensors[i] for i in shapes), strict=True):
        result = tf.slice(result, tf.zeros_like(tf.shape(result)), tf.shape(like))
        results.append(tf.ensure_shape(result, like.shape))
    return tuple(results)


def with_static_shape_of(tensor: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """The tensor, of the shape of `like`; the same is known of both before they have values.

    What `call_compiled` fills up must be filled up in both: what comes from outside, as gradients
    do, may know more, or less.
    """
    return tf.compat.v1.placeholder_with_default(tensor, like.shape)


def _filled_up(tensor: tf.Tensor) -> tf.Tensor:
    sizes, unknown = tf.shape(tensor), [size is None for size in tensor.shape]
    full = tf.maximum(-(-sizes // _MULTIPLE), 1) * _MULTIPLE  # Not 0, which some operations refuse.
    more = (full - sizes) * tf.cast(unknown, sizes.dtype)
    return tf.ensure_shape(tf.pad(tensor, tf.stack([tf.zeros_like(more), more], -1)), tensor.shape)


@functools.cache
def _compiled(function: Callable[..., Any], key: Hashable) -> Callable[..., Any]:
    return tf.function(functools.partial(function, key), jit_compile=True, autograph=False)


@functools.cache
def _compile_ahead(function: Callable[..., Any], key: Hashable, *specs: tf.TensorSpec) -> None:
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
