"""Flow: a `tfd.TransformedDistribution` with context, one-pass densities and no stale values."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

# `tfb.Chain([...])`, `tfb.Invert(...)` and `tfd.TransformedDistribution(...)` of bijectors that are
# no composite tensors, as ours are not, make instances of these classes, the bases of the public
# ones. A flow that were a composite tensor would hide its variables from what it is nested in.
from tensorflow_probability.python.bijectors.chain import _Chain
from tensorflow_probability.python.bijectors.invert import _Invert
from tensorflow_probability.python.distributions.transformed_distribution import (
    _TransformedDistribution,
)

from tfp_flows.bijectors.base import Bijector
from tfp_flows.networks.conditioner import match_batch

tfd, tfb = tfp.distributions, tfp.bijectors

__all__ = ["Flow"]


class Flow(_TransformedDistribution):
    """A base distribution pushed through a bijector: what every factory in `flows` returns.

    With base density `p` and bijector `f` from base to data:

    log_prob: `log p(f⁻¹(x; context)) + log |det ∂f⁻¹/∂x|`, in nats
    sample: `f(z; context)` with `z ~ p`

    It is what `tfd.TransformedDistribution(...)` makes of bijectors like ours, a class of TFP's own
    without a public name, so everything of TFP that takes a distribution takes a flow. On top,

    - `context=` reaches every conditional bijector, however deep in `tfb.Chain` and `tfb.Invert`;
    - `log_prob` always computes: TFP's cache, which would answer with values from before a
      parameter changed, is never asked about an input that was seen before;
    - every conditioner runs once in `log_prob`, `sample` and `sample_and_log_prob`.

    An integer `seed` gives the same draws at every call; other seeds are as in TFP.

    Shapes: events `(D,)`. With context `(*batch, C)`, `log_prob` takes `(..., *batch, D)` and
    returns `(..., *batch)`, and `sample(n)` returns `(n, *batch, D)`, with independent noise for
    every row of the context, equal rows included. Costs: `log_prob` is one inverse pass, `sample`
    one forward pass of the bijector; see there for which is cheap.

    Args:
      distribution: base distribution, `tfd.Distribution`.
      bijector: a `tfb.Bijector`, of this package or of TFP's.
      validate_args: as in every `tfd.Distribution`.
      name: name of the distribution.

    Raises:
      TypeError: `distribution` or `bijector` is of another type.
      ValueError: conditional bijectors inside have different context sizes; context is missing,
        has another width, or is given to an unconditional flow.

    Source: George Papamakarios et al., "Normalizing Flows for Probabilistic Modeling and Inference"
    (2021).

    Example:
      >>> base = tfd.MultivariateNormalDiag([0.0, 0.0])
      >>> flow = Flow(base, tfb.Chain([bijectors.Rotation2D(0.8), bijectors.ShiftAndCube(0.5)]))
      >>> flow.log_prob(flow.sample(5, seed=0))      # (5,)
    """

    def __init__(
        self,
        distribution: tfd.Distribution,
        bijector: tfb.Bijector,
        *,
        validate_args: bool = False,
        name: str = "Flow",
    ):
        parameters = dict(locals())
        if not isinstance(distribution, tfd.Distribution):
            raise TypeError(
                "`distribution` must be a tfd.Distribution, the base of the flow. "
                f"Received: distribution={distribution!r}"
            )
        if not isinstance(bijector, tfb.Bijector):
            raise TypeError(f"`bijector` must be a tfb.Bijector. Received: bijector={bijector!r}")
        if getattr(distribution, "context_size", None) is not None:
            raise ValueError(
                "`distribution` must not need context itself: put its bijectors into `bijector`. "
                f"Received: distribution={distribution!r}"
            )
        needed, rank = bijector.forward_min_event_ndims, distribution.event_shape.rank
        if isinstance(needed, int) and rank is not None and rank < needed:
            raise ValueError(
                f"`distribution` must have events of rank {needed} or more for this bijector: wrap "
                "it in tfd.Independent or tfd.Sample, or use tfd.MultivariateNormalDiag. "
                f"Received: event_shape={distribution.event_shape}"
            )
        self._context_size = _context_size(bijector)
        super().__init__(
            distribution,
            bijector,
            validate_args=validate_args,
            parameters=parameters,
            name=name,
        )

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None) -> dict:
        return super()._parameter_properties(dtype, num_classes)

    @property
    def context_size(self) -> int | None:
        """Width of the context that this flow needs, or None."""
        return self._context_size

    def given(self, context: Any) -> Flow:
        """The conditional distribution, with batch shape `context.shape[:-1]`.

        It can be used without `context=` from then on, wherever TFP takes a distribution.

        Args:
          context: `(*batch, context_size)`, cast to the flow's dtype.

        Raises:
          ValueError: the flow takes no context, or one of another width.
        """
        if self.context_size is None:
            raise ValueError(
                "`context` was given, but no bijector of this flow is conditional: construct it "
                f"with `context_size`. Received: context of shape {np.shape(context)}"
            )
        context = tf.cast(tf.convert_to_tensor(context), self.dtype)
        if context.shape.rank == 0 or context.shape[-1] not in (None, self.context_size):
            raise ValueError(
                f"`context` must have shape (..., {self.context_size}). "
                f"Received: shape={tuple(context.shape)}"
            )
        steps = [
            step if _context_size(step) is None else _Given(step, context)
            for step in chain_steps(self.bijector)
        ]
        return Flow(self.distribution, tfb.Chain(steps), name=self.name)

    def _conditioned(self, context: Any | None) -> Flow:
        """The flow itself, or given the context; an error where context is missing."""
        if context is not None:
            return self.given(context)
        if self.context_size is not None:
            raise ValueError(
                f"`context` is missing: this flow needs one of shape (..., {self.context_size}). "
                "Received: context=None"
            )
        return self

    def log_prob(self, value: Any, context: Any | None = None, name: str = "log_prob") -> tf.Tensor:
        """Log-density in nats at `value`, `(..., D)`, given `context`, `(..., C)`, if there is one.

        `-inf` outside the support.
        """
        return super(Flow, self._conditioned(context)).log_prob(value, name=name)

    def prob(self, value: Any, context: Any | None = None, name: str = "prob") -> tf.Tensor:
        """Density at `value`: the exponential of `log_prob`."""
        return super(Flow, self._conditioned(context)).prob(value, name=name)

    def unnormalized_log_prob(
        self, value: Any, context: Any | None = None, name: str = "unnormalized_log_prob"
    ) -> tf.Tensor:
        """The same as `log_prob`: flows are normalized."""
        return self.log_prob(value, context, name=name)

    def sample(
        self,
        sample_shape: Any = (),
        context: Any | None = None,
        seed: Any | None = None,
        name: str = "sample",
    ) -> tf.Tensor:
        """Draw events `(*sample_shape, D)`, or `(*sample_shape, *batch, D)` given context."""
        flow = super(Flow, self._conditioned(context))
        return flow.sample(sample_shape, seed=stateless_seed(seed), name=name)

    def sample_and_log_prob(
        self,
        sample_shape: Any = (),
        context: Any | None = None,
        seed: Any | None = None,
        name: str = "sample_and_log_prob",
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draw events and return them with their log-densities, in one pass."""
        flow = super(Flow, self._conditioned(context))
        return flow.experimental_sample_and_log_prob(
            sample_shape, seed=stateless_seed(seed), name=name
        )

    experimental_sample_and_log_prob = sample_and_log_prob

    def _log_prob(self, y: tf.Tensor) -> tf.Tensor:
        # A new tensor is unknown to TFP's caches, which look inputs up by identity.
        y = tf.identity(y)
        log_prob = super()._log_prob(y)
        # TFP's bijectors give NaN outside their range, as tfb.Sigmoid does. Such maps stand at the
        # data's end; a NaN from further inside, where parameters are learned, must stay one.
        outside, event_ndims = None, self.event_shape.rank
        for step in chain_steps(self.bijector):
            if isinstance(step, Bijector) or step.variables:
                break
            x = step.inverse(y)
            left_range = _any_nan(x, event_ndims) & ~_any_nan(y, event_ndims)
            outside = left_range if outside is None else outside | left_range
            y = x
        if outside is None:
            return log_prob
        return tf.where(outside, tf.constant(-math.inf, log_prob.dtype), log_prob)

    def stages(self, context: Any | None = None) -> list[tfd.Distribution]:
        """The distribution after 0, 1, ..., K bijectors: the base first, the flow itself last.

        Every stage after the base is a `Flow` whose bijector is a `tfb.Chain` of those applied so
        far, the last applied first.
        """
        steps = chain_steps(self._conditioned(context).bijector)
        return [self.distribution] + [
            Flow(self.distribution, tfb.Chain(steps[-k:]), name=f"stage_{k}")
            for k in range(1, len(steps) + 1)
        ]


def _any_nan(x: tf.Tensor, event_ndims: int) -> tf.Tensor:
    return tf.reduce_any(tf.math.is_nan(x), axis=list(range(-event_ndims, 0)))


def stateless_seed(seed: Any | None) -> Any | None:
    """An integer as a stateless seed: the same draws at every call, unlike TFP's own reading."""
    if isinstance(seed, numbers.Integral):
        return tf.constant([0, int(seed) % 2**31], tf.int32)
    return seed


def chain_steps(bijector: tfb.Bijector) -> list[tfb.Bijector]:
    """The bijectors of nested `tfb.Chain`s and `tfb.Invert`s, flat; the last applied is first.

    A bijector that is no chain is its own only step.
    """
    if isinstance(bijector, _Chain):
        return [step for part in bijector.bijectors for step in chain_steps(part)]
    if isinstance(bijector, _Invert):
        inner = chain_steps(bijector.bijector)
        if len(inner) > 1:
            return [tfb.Invert(step) for step in reversed(inner)]
    return [bijector]


def _context_size(bijector: tfb.Bijector) -> int | None:
    """Width of the context of all conditional bijectors inside; None if there are none."""
    found = set()
    for step in chain_steps(bijector):
        inside = () if isinstance(step, _Given) else (step, *step.submodules)
        found |= {b.context_size for b in inside if isinstance(b, Bijector)} - {None}
    if len(found) > 1:
        raise ValueError(
            "The bijectors of one flow must share one `context_size`. "
            f"Received: context sizes {sorted(found)}"
        )
    return found.pop() if found else None


def _context_kwargs(bijector: tfb.Bijector, context: tf.Tensor) -> dict:
    """The keyword arguments by which `bijector` hands `context` to whatever is conditional in it.

    TFP's composite bijectors pass a dictionary keyed by the names of their parts.
    """
    if isinstance(bijector, _Invert):
        return _context_kwargs(bijector.bijector, context)
    if isinstance(bijector, Bijector):
        return {} if bijector.context_size is None else {"context": context}
    kwargs: dict = {}
    for part in getattr(bijector, "bijectors", ()):
        inner = _context_kwargs(part, context)
        if kwargs.setdefault(part.name, inner).keys() != inner.keys():
            raise ValueError(
                f"Conditional and unconditional bijectors inside {bijector.name!r} share the name "
                f"{part.name!r}: give them different names."
            )
    return {name: inner for name, inner in kwargs.items() if inner}


class _Given(Bijector):
    """A conditional bijector with its context filled in; the context's batch is its own."""

    def __init__(self, bijector: tfb.Bijector, context: tf.Tensor):
        parameters = dict(locals())
        self._bijector = bijector
        self._context = context
        self._kwargs = _context_kwargs(bijector, context)
        super().__init__(
            forward_min_event_ndims=bijector.forward_min_event_ndims,
            inverse_min_event_ndims=bijector.inverse_min_event_ndims,
            dtype=bijector.dtype,
            parameters=parameters,
            name=bijector.name,
        )

    @classmethod
    def _parameter_properties(cls, dtype):
        return {
            "bijector": tfp.util.BatchedComponentProperties(),
            "context": tfp.util.ParameterProperties(event_ndims=1),
        }

    def _forward_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Parts that take no context, in `tfb.Blockwise` say, have to get the batch shape too.
        x = match_batch(x, self._context)
        y = self._bijector.forward(x, **self._kwargs)
        event_ndims = self.forward_min_event_ndims
        return y, self._bijector.forward_log_det_jacobian(x, event_ndims, **self._kwargs)

    def _inverse_and_log_det(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        y = match_batch(y, self._context)
        x = self._bijector.inverse(y, **self._kwargs)
        event_ndims = self.inverse_min_event_ndims
        return x, self._bijector.inverse_log_det_jacobian(y, event_ndims, **self._kwargs)
