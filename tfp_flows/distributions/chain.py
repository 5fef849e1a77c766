"""The bijectors of a flow, one after another, and context for those that need it."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows.bijectors.base import Bijector
from tfp_flows.networks.conditioner import match_batch
from tfp_flows.ops.capabilities import context_size_of, is_monotone
from tfp_flows.ops.grids import Size, as_size, context_rank
from tfp_flows.ops.internals import ChainBase, InvertBase

__all__ = ["Given", "flatten_chain", "shared_context_size"]


def flatten_chain(bijector: tfb.Bijector) -> list[tfb.Bijector]:
    """The bijectors of nested `tfb.Chain`s and `tfb.Invert`s, flat; the last applied is first.

    Of a bijector that is not a chain, the list has one entry.
    """
    if isinstance(bijector, ChainBase):
        return [inner for part in bijector.bijectors for inner in flatten_chain(part)]
    if isinstance(bijector, InvertBase):
        parts = flatten_chain(bijector.bijector)
        if len(parts) > 1:
            return [tfb.Invert(part) for part in reversed(parts)]
    return [bijector]


def shared_context_size(
    bijector: tfb.Bijector, base: tfd.Distribution | None = None
) -> Size | None:
    """Width, or shape, of the context of all conditional parts; None if there are none."""
    found = [context_size_of(base)]
    for part in flatten_chain(bijector):
        inside = () if isinstance(part, Given) else (part, *part.submodules)
        found += [inner.context_size for inner in inside if isinstance(inner, Bijector)]
    sizes = sorted({as_size(size) for size in found if size is not None}, key=str)
    if len(sizes) > 1:
        raise ValueError(
            "The base and the bijectors of one flow must share one `context_size`. "
            f"Received: context sizes {sizes}"
        )
    return sizes[0] if sizes else None


def _context_kwargs(bijector: tfb.Bijector, context: tf.Tensor) -> dict[str, Any]:
    """The keyword arguments by which `bijector` hands `context` to whatever is conditional in it.

    TFP's composite bijectors pass a dictionary keyed by the names of their parts.
    """
    if isinstance(bijector, InvertBase):
        return _context_kwargs(bijector.bijector, context)
    if isinstance(bijector, Bijector):
        return {} if bijector.context_size is None else {"context": context}
    kwargs: dict[str, Any] = {}
    for part in bijector.bijectors if isinstance(bijector, tfb.Composition) else ():
        inner = _context_kwargs(part, context)
        if kwargs.setdefault(part.name, inner).keys() != inner.keys():
            raise ValueError(
                f"Conditional and unconditional bijectors inside {bijector.name!r} share the name "
                f"{part.name!r}: give them different names."
            )
    return {name: inner for name, inner in kwargs.items() if inner}


class Given(Bijector):
    """A conditional bijector with its context filled in; the context's batch is its own."""

    independent_over_batch = True  # As much as what it holds, which is looked at by itself.

    def __init__(self, bijector: tfb.Bijector, context: tf.Tensor):
        parameters = dict(locals())
        self.bijector = bijector
        self.context = context
        self.context_ndims = context_rank(shared_context_size(bijector)) or 1
        self._kwargs = _context_kwargs(bijector, context)
        super().__init__(
            forward_min_event_ndims=bijector.forward_min_event_ndims,
            inverse_min_event_ndims=bijector.inverse_min_event_ndims,
            is_constant_jacobian=bijector.is_constant_jacobian,
            dtype=bijector.dtype,
            parameters=parameters,
            name=bijector.name,
        )

    @property
    def is_monotone(self) -> bool:
        """Whether the bijector is."""
        return is_monotone(self.bijector)

    @classmethod
    def _parameter_properties(cls, dtype: tf.DType | None) -> dict[str, Any]:
        return {
            "bijector": tfp.util.BatchedComponentProperties(),
            "context": tfp.util.ParameterProperties(
                event_ndims=lambda self, *_: self.context_ndims
            ),
        }

    def _forward_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Parts that take no context, in `tfb.Blockwise` say, have to get the batch shape too.
        x = self._matched(x, self.forward_min_event_ndims)
        y = self.bijector.forward(x, **self._kwargs)
        event_ndims = self.forward_min_event_ndims
        return y, self.bijector.forward_log_det_jacobian(x, event_ndims, **self._kwargs)

    def _inverse_and_log_det(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        y = self._matched(y, self.inverse_min_event_ndims)
        x = self.bijector.inverse(y, **self._kwargs)
        event_ndims = self.inverse_min_event_ndims
        return x, self.bijector.inverse_log_det_jacobian(y, event_ndims, **self._kwargs)

    def _matched(self, x: tf.Tensor, event_ndims: int) -> tf.Tensor:
        return match_batch(x, self.context, ndims=event_ndims, other_ndims=self.context_ndims)
