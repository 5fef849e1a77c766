"""Flow: a `tfd.TransformedDistribution` with context, one-pass densities and no stale values."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows.distributions.chain import Given, context_size_of, flatten_chain
from tfp_flows.distributions.chunks import is_batch_independent, map_chunks
from tfp_flows.networks.conditioner import match_batch
from tfp_flows.networks.embedding import Embedding
from tfp_flows.ops.copies import Copyable
from tfp_flows.ops.internals import TransformedDistributionBase, is_injective

__all__ = ["Flow"]

_ADAPT_ROWS = 65_536


# A flow that were a composite tensor would hide its variables from what it is nested in.
class Flow(Copyable, TransformedDistributionBase):
    """A base distribution pushed through a bijector: what every factory in `flows` returns.

    With base density `p` and bijector `f` from base to data:

    log_prob: `log p(f⁻¹(x; context)) + log |det ∂f⁻¹/∂x|`, in nats
    sample: `f(z; context)` with `z ~ p`

    It is what `tfd.TransformedDistribution(...)` makes of bijectors like ours, a class of TFP's own
    without a public name, so everything of TFP that takes a distribution takes a flow. On top,

    - `context=` reaches every conditional bijector, however deep in `tfb.Chain` and `tfb.Invert`,
      and a conditional base; sequences and images go through an `embedding` first, once a call;
    - `log_prob` always computes: TFP's cache, which would answer with values from before a
      parameter changed, is never asked about an input that was seen before;
    - every conditioner runs once in `log_prob`, `sample` and `sample_and_log_prob`.

    An integer `seed` gives the same draws at every call; other seeds are as in TFP.

    Shapes: events `(D,)`. With context `(*batch, C)`, `log_prob` takes `(..., *batch, D)` and
    returns `(..., *batch)`, and `sample(n)` returns `(n, *batch, D)`, with independent noise for
    every row of the context, equal rows included. Costs: `log_prob` is one inverse pass, `sample`
    one forward pass of the bijector; see there for which is cheap.

    Args:
      distribution: base distribution, `tfd.Distribution`. One with attributes `context_size` and
        `given(context)`, as those of `bases` and flows themselves have, is conditioned, too.
      bijector: a `tfb.Bijector`, of this package or of TFP's.
      embedding: Keras 3 layer `(batch, *context_shape) -> (batch, context_size)`, trained with the
        flow, or `None` for a context that is a vector already.
      context_shape: shape of one context, with an embedding.
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
        embedding: keras.layers.Layer | None = None,
        context_shape: Sequence[int] | None = None,
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
        needed, rank = bijector.forward_min_event_ndims, distribution.event_shape.rank
        if isinstance(needed, int) and rank is not None and rank < needed:
            raise ValueError(
                f"`distribution` must have events of rank {needed} or more for this bijector: wrap "
                "it in tfd.Independent or tfd.Sample, or use tfd.MultivariateNormalDiag. "
                f"Received: event_shape={distribution.event_shape}"
            )
        self._context_size = context_size_of(bijector, distribution)
        self._embedding = None
        if embedding is not None:
            self._embedding = Embedding(
                embedding,
                context_shape=context_shape,
                context_size=self._context_size,
                dtype=distribution.dtype.name,
            )
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
        """Width of the context that the bijectors of this flow need, or None."""
        return self._context_size

    @property
    def context_shape(self) -> tuple[int, ...] | None:
        """Shape of one context as `context=` takes it, or None."""
        if self._embedding is not None:
            return self._embedding.context_shape
        return None if self.context_size is None else (self.context_size,)

    def given(self, context: Any) -> Flow:
        """The conditional distribution, with the batch shape of the context.

        It can be used without `context=` from then on, wherever TFP takes a distribution.

        Args:
          context: `(*batch, *context_shape)`, cast to the flow's dtype.

        Raises:
          ValueError: the flow takes no context, or one of another width.
        """
        if self.context_size is None:
            raise ValueError(
                "`context` was given, but no bijector of this flow is conditional: construct it "
                f"with `context_size`. Received: context of shape {np.shape(context)}"
            )
        context = tf.cast(tf.convert_to_tensor(context, dtype_hint=self.dtype), self.dtype)
        shape, rank = self.context_shape, len(self.context_shape)
        if context.shape.rank is not None and not (
            context.shape.rank >= rank and context.shape[-rank:].is_compatible_with(shape)
        ):
            raise ValueError(
                f"`context` must have shape ({_listed(shape)}). "
                f"Received: shape={tuple(context.shape)}"
            )
        if self._embedding is not None:
            context = self._embedding(context)
        steps = [
            step if context_size_of(step) is None else Given(step, context)
            for step in flatten_chain(self.bijector)
        ]
        base = self.distribution
        if getattr(base, "context_size", None) is not None:
            base = base.given(context)
        return Flow(base, tfb.Chain(steps), name=self.name)

    def _conditioned(self, context: Any | None) -> Flow:
        """The flow itself, or given the context; an error where context is missing."""
        if context is not None:
            return self.given(context)
        if self.context_size is not None:
            raise ValueError(
                "`context` is missing: this flow needs one of shape "
                f"({_listed(self.context_shape)}). "
                "Received: context=None"
            )
        return self

    def log_prob(self, value: Any, context: Any | None = None, name: str = "log_prob") -> tf.Tensor:
        """Log-density in nats at `value`, `(..., D)`, given `context`, `(..., C)`, if there is one.

        `-inf` outside the support.
        """

        def of_rows(value: tf.Tensor, context: tf.Tensor | None = None) -> tf.Tensor:
            return super(Flow, self._conditioned(context)).log_prob(value, name=name)

        value = tf.convert_to_tensor(value, dtype_hint=self.dtype)
        if context is not None:
            context = tf.convert_to_tensor(context, dtype_hint=self.dtype)
        if not is_batch_independent(self):
            return of_rows(value, context)
        if context is None:
            return map_chunks(of_rows, value)
        if value.shape.rank != 2 or context.shape.rank != 2 or self._embedding is not None:
            return of_rows(value, context)
        return map_chunks(of_rows, match_batch(value, context), match_batch(context, value))

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

    def experimental_sample_and_log_prob(
        self,
        sample_shape: Any = (),
        seed: Any | None = None,
        name: str = "sample_and_log_prob",
        context: Any | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """`sample_and_log_prob` under TFP's name, with TFP's order of arguments."""
        return self.sample_and_log_prob(sample_shape, context, seed, name)

    def _call_sample_n(self, sample_shape: Any, seed: Any) -> tf.Tensor:
        if not is_batch_independent(self):
            return super()._call_sample_n(sample_shape, seed)
        return map_chunks(self.bijector.forward, self.distribution.sample(sample_shape, seed=seed))

    def _sample_and_log_prob(self, sample_shape: Any, seed: Any) -> tuple[tf.Tensor, tf.Tensor]:
        if not (is_injective(self.bijector) and is_batch_independent(self)):
            return super()._sample_and_log_prob(sample_shape, seed)

        def of_rows(x: tf.Tensor, log_prob: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            y = self.bijector.forward(x)
            return y, log_prob - self.bijector.forward_log_det_jacobian(x, event_ndims=1)

        base = self.distribution
        return map_chunks(of_rows, *base.experimental_sample_and_log_prob(sample_shape, seed=seed))

    def _log_prob(self, y: tf.Tensor) -> tf.Tensor:
        # A new tensor is unknown to TFP's caches, which look inputs up by identity.
        y = tf.identity(y)
        log_prob = super()._log_prob(y)
        # TFP's bijectors give NaN outside their range, as tfb.Sigmoid does. Such maps stand at the
        # data's end, or behind other fixed maps; a NaN from further inside, where parameters are
        # learned, must stay one.
        outside, event_ndims = None, self.event_shape.rank
        for step in flatten_chain(self.bijector):
            if step.variables:
                break
            x, x_ndims = step.inverse(y), step.inverse_event_ndims(event_ndims)
            left_range = _any_nan(x, x_ndims) & ~_any_nan(y, event_ndims)
            outside = left_range if outside is None else outside | left_range
            y, event_ndims = x, x_ndims
        if outside is None:
            return log_prob
        return tf.where(outside, tf.constant(-math.inf, log_prob.dtype), log_prob)

    def stages(self, context: Any | None = None) -> list[tfd.Distribution]:
        """The distribution after 0, 1, ..., K bijectors: the base first, the flow itself last.

        Every stage after the base is a `Flow` whose bijector is a `tfb.Chain` of those applied so
        far, the last applied first.
        """
        flow = self._conditioned(context)
        steps = flatten_chain(flow.bijector)
        return [flow.distribution] + [
            Flow(flow.distribution, tfb.Chain(steps[-k:]), name=f"stage_{k}")
            for k in range(1, len(steps) + 1)
        ]

    @property
    def needs_raw_data(self) -> bool:
        """Whether data must come as they are: the step at their end has a unit or a support."""
        return getattr(flatten_chain(self.bijector)[0], "needs_raw_data", False)

    def adapt(self, y: Any, context: Any | None = None, *, again: bool = True) -> None:
        """Let the bijectors that can start from data do so, from the data's end to the base.

        Each that has a method `adapt` gets the data as they reach it: `Support` and `ActNorm`
        standardize their columns, `LU` whitens. For before training: what was trained is replaced.

        Args:
          y: events `(n, D)`.
          context: `(n, *context_shape)`, if the flow needs context.
          again: whether those go again that were adapted before.
        """
        steps = flatten_chain(self.bijector)
        able = [
            hasattr(step, "adapt") and (again or not getattr(step, "is_initialized", True))
            for step in steps
        ]
        if able[0]:
            steps[0].adapt(y)  # All rows, for a support must hold them all.
        # Means and covariances need no more rows than these, and layers would need the memory.
        thin = slice(None, None, 1 + len(y) // _ADAPT_ROWS)
        y = tf.cast(tf.convert_to_tensor(y), self.dtype)[thin]
        context = None if context is None else tf.convert_to_tensor(context)[thin]
        given = flatten_chain(self._conditioned(context).bijector)
        for i in range(1, 1 + max((i for i, can in enumerate(able) if can), default=0)):
            y = given[i - 1].inverse(tf.identity(y))
            if able[i]:
                steps[i].adapt(y)


def _listed(shape: Sequence[int]) -> str:
    return ", ".join(map(str, ("...", *shape)))


def _any_nan(x: tf.Tensor, event_ndims: int) -> tf.Tensor:
    return tf.reduce_any(tf.math.is_nan(x), axis=list(range(-event_ndims, 0)))


def stateless_seed(seed: Any | None) -> Any | None:
    """An integer as a stateless seed: the same draws at every call, unlike TFP's own reading."""
    if isinstance(seed, numbers.Integral):
        return tf.constant([0, int(seed) % 2**31], tf.int32)
    return seed
