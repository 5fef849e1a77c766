"""Flow: a `tfd.TransformedDistribution` with context, one-pass densities and no stale values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows.distributions.adapting import adapt
from tfp_flows.distributions.chain import Given, flatten_chain, shared_context_size
from tfp_flows.distributions.chunks import is_batch_independent, map_chunks
from tfp_flows.distributions.conditional import Conditional
from tfp_flows.distributions.cumulative import cumulative, quantile
from tfp_flows.distributions.edges import (
    is_below_fold,
    with_edges,
    without_density,
    without_infinite,
)
from tfp_flows.distributions.joint_density import JointDensity
from tfp_flows.distributions.moments import Moments
from tfp_flows.distributions.temperature import with_temperature
from tfp_flows.distributions.velocity import path
from tfp_flows.networks.conditioner import match_batch
from tfp_flows.networks.embedding import Embedding
from tfp_flows.ops.capabilities import context_size_of, needs_raw_data
from tfp_flows.ops.checks import as_events, as_real, check_context
from tfp_flows.ops.internals import TransformedDistributionBase, is_injective

__all__ = ["Flow"]


# A flow that were a composite tensor would hide its variables from what it is nested in.
class Flow(Conditional, JointDensity, Moments, TransformedDistributionBase):
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
        has another width, or is given to an unconditional flow; events are several tensors.

    Source: George Papamakarios et al., "Normalizing Flows for Probabilistic Modeling and Inference"
    (2021).

    Example:
      >>> base = tfd.MultivariateNormalDiag([0.0, 0.0])
      >>> flow = Flow(base, tfb.Chain([bijectors.Rotation2D(0.8), bijectors.ShiftAndCube(0.5)]))
      >>> flow.log_prob(flow.sample(5, seed=0))      # (5,)
    """

    # Names that are given without being asked for.
    default_names: ClassVar[set[str]] = {"Flow"}

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
        if any(map(tf.nest.is_nested, (distribution.dtype, bijector.inverse_min_event_ndims))):
            raise ValueError(
                "`distribution` and `bijector` must have events of one tensor: for parts, use "
                f"tfd.TransformedDistribution. Received: dtypes {distribution.dtype} of events, "
                f"mapped to ranks {bijector.inverse_min_event_ndims}"
            )
        needed, rank = bijector.forward_min_event_ndims, distribution.event_shape.rank
        if isinstance(needed, int) and rank is not None and rank < needed:
            raise ValueError(
                f"`distribution` must have events of rank {needed} or more for this bijector: wrap "
                "it in tfd.Independent or tfd.Sample, or use tfd.MultivariateNormalDiag. "
                f"Received: event_shape={distribution.event_shape}"
            )
        self.context_size = shared_context_size(bijector, distribution)
        self._embedding = None
        if embedding is not None:
            self._embedding = Embedding(
                embedding,
                context_shape=context_shape,
                context_size=self.context_size,
                dtype=distribution.dtype.name,
            )
        elif context_shape is not None and tuple(context_shape) != self.context_shape:
            raise ValueError(
                "`context_shape` goes with an `embedding`: without one, `context_size` says it. "
                f"Received: context_shape={context_shape!r}, context_size={self.context_size}"
            )
        super().__init__(
            distribution,
            bijector,
            validate_args=validate_args,
            parameters=parameters,
            name=name,
        )

    @classmethod
    def _parameter_properties(
        cls, dtype: tf.DType | None, num_classes: int | None = None
    ) -> dict[str, Any]:
        return super()._parameter_properties(dtype, num_classes)

    @property
    def parameters(self) -> dict[str, Any]:
        """The arguments of the constructor, but for a name that no user chose.

        TFP's joint distributions take a name in it for the name of a variable, which must be that
        of the argument by which others depend on it, and must not occur twice.
        """
        parameters = super().parameters
        if parameters["name"] in self.default_names:
            del parameters["name"]
        return parameters

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor: what is needed to build it again, weights aside."""
        return super().parameters

    def _arguments(self) -> dict[str, Any]:
        return self.get_config()

    def copy(self, **parameters: Any) -> Flow:
        """A flow over the same base and bijector, with other arguments where they are given."""
        return super().copy(**{"name": super().parameters["name"], **parameters})

    @property
    def context_shape(self) -> tuple[int, ...] | None:
        """Shape of one context as `context=` takes it, or None."""
        return super().context_shape if self._embedding is None else self._embedding.context_shape

    def embedded(self, context: tf.Tensor | None) -> tf.Tensor | None:
        """Context, `(*batch, *context_shape)`, as the bijectors read it: behind the embedding."""
        if self._embedding is None or context is None:
            return context
        return self._embedding(context)

    def _given(self, context: tf.Tensor) -> Flow:
        context = self.embedded(context)
        parts = [
            part if shared_context_size(part) is None else Given(part, context)
            for part in flatten_chain(self.bijector)
        ]
        base = self.distribution
        if context_size_of(base) is not None:
            base = base.given(context)
        return Flow(base, tfb.Chain(parts), name=self.name)

    def log_prob(self, value: Any, context: Any | None = None, name: str = "log_prob") -> tf.Tensor:
        """Log-density in nats at `value`, `(..., D)`, given `context`, `(..., C)`, if there is one.

        `-inf` where the bijector does not reach, at the edges of that, and at single points where
        its density would be infinite, as 0 is over `tfb.Power(3.0)`. At the edges of what the base
        has density on, the base answers, as `tfd.Uniform` and `tfd.Beta` do.
        """

        def of_chunk(value: tf.Tensor, context: Any | None = None) -> tf.Tensor:
            return super(Flow, self).log_prob(value, context, name)

        value = as_events(value, self.event_shape, self.dtype)
        if not is_batch_independent(self):
            return of_chunk(value, context)
        if context is None:
            return map_chunks(of_chunk, value)
        context = as_real(context, self.dtype, "context")
        if value.shape.rank != 2 or context.shape.rank != 2 or self._embedding is not None:
            return of_chunk(value, context)
        return map_chunks(of_chunk, match_batch(value, context), match_batch(context, value))

    def _with_temperature(self, temperature: float) -> Flow:
        return Flow(with_temperature(self.distribution, temperature), self.bijector)

    def _call_sample_n(self, sample_shape: Any, seed: Any) -> tf.Tensor:
        if not is_batch_independent(self):
            return super()._call_sample_n(sample_shape, seed)
        return map_chunks(self.bijector.forward, self.distribution.sample(sample_shape, seed=seed))

    def _sample_and_log_prob(self, sample_shape: Any, seed: Any) -> tuple[tf.Tensor, tf.Tensor]:
        if not is_injective(self.bijector):  # TFP has nothing for these.
            y = self.sample(sample_shape, seed=seed)
            return y, self.log_prob(y)
        if not is_batch_independent(self):
            return super()._sample_and_log_prob(sample_shape, seed)

        def of_chunk(x: tf.Tensor, log_prob: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            y = self.bijector.forward(x)
            return y, log_prob - self.bijector.forward_log_det_jacobian(x, event_ndims=1)

        base = self.distribution
        drawn = base.experimental_sample_and_log_prob(sample_shape, seed=seed)
        return map_chunks(of_chunk, *drawn)

    def _log_prob(self, y: tf.Tensor) -> tf.Tensor:
        if is_injective(self.bijector):
            return self.experimental_local_measure(y, backward_compat=True)[0]
        log_prob = super()._log_prob(tf.identity(y))
        below = is_below_fold(self.bijector, y, self.event_shape.rank)
        return tf.where(below, tf.constant(-math.inf, log_prob.dtype), log_prob)

    def _prob(self, y: tf.Tensor) -> tf.Tensor:
        return tf.exp(self._log_prob(y))

    def experimental_local_measure(
        self, y: tf.Tensor, backward_compat: bool = False
    ) -> tuple[tf.Tensor, Any]:
        """`log_prob` with the tangent space of the support, as TFP's distributions ask their base.

        Raises:
          NotImplementedError: the bijector is not injective.
        """
        # A new tensor, too, which TFP's caches do not know: they look inputs up by identity.
        y, infinite, far_out = without_infinite(y, self.event_shape.rank)
        bijector = with_edges(self.bijector, self.distribution)
        if bijector is self.bijector:
            measure = super().experimental_local_measure
        else:
            edged = tfd.TransformedDistribution(self.distribution, bijector)
            measure = edged.experimental_local_measure
        density, tangent_space = measure(y, backward_compat=backward_compat)
        return without_density(density, infinite, far_out), tangent_space

    # TFP's own would be wrong for maps that fall by turns, for vectors, and for networks whose
    # determinant is constant, but not their slope.

    def _log_cdf(self, y: tf.Tensor) -> tf.Tensor:
        return cumulative(self, y, "log_cdf")

    def _cdf(self, y: tf.Tensor) -> tf.Tensor:
        return cumulative(self, y, "cdf")

    def _log_survival_function(self, y: tf.Tensor) -> tf.Tensor:
        return cumulative(self, y, "log_survival_function")

    def _survival_function(self, y: tf.Tensor) -> tf.Tensor:
        return cumulative(self, y, "survival_function")

    def _quantile(self, value: tf.Tensor) -> tf.Tensor:
        return quantile(self, value)

    def stages(self, context: Any | None = None) -> list[tfd.Distribution]:
        """The distribution after 0, 1, ..., K bijectors: the base first, the flow itself last.

        Every stage after the base is a `Flow` whose bijector is a `tfb.Chain` of those applied so
        far, the last applied first.
        """
        flow = self.given(context)
        parts = flatten_chain(flow.bijector)
        return [flow.distribution] + [
            Flow(flow.distribution, tfb.Chain(parts[-k:]), name=f"stage_{k}")
            for k in range(1, len(parts) + 1)
        ]

    def score(self, value: Any, context: Any | None = None) -> tf.Tensor:
        """`∇ log p` at `value`, `(..., D)`, by automatic differentiation of `log_prob`.

        NaN where something on the way exceeds the dtype, which may be the case from some 1e13
        deviations on in float32, 1e100 in float64, although `log_prob` is finite there.
        """
        value = as_events(value, self.event_shape, self.dtype)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(value)
            log_prob = self.log_prob(value, context)
        return tape.gradient(log_prob, value)

    def path(self, x: Any, times: Sequence[float], context: Any | None = None) -> tf.Tensor:
        """Where events were at other times, of a flow with one `Continuous` bijector.

        Args:
          x: events `(..., D)` at time 1.
          times: in [0, 1], where 0 is the base.
          context: `(..., *context_shape)`, if the flow needs context.

        Returns:
          `(len(times), ..., D)`, in the units of the data: bijectors behind the velocity field are
          applied at all times.

        Raises:
          ValueError: the flow has no such bijector, or more than one; a time is outside of [0, 1].
        """
        x = as_events(x, self.event_shape, self.dtype)
        name = f"this {type(self).__name__}"
        return path(self, x, times, check_context(context, self.context_shape, self.dtype, name))

    @property
    def needs_raw_data(self) -> bool:
        """Whether data must come as they are: the map at their end has a unit or a support."""
        return needs_raw_data(flatten_chain(self.bijector)[0])

    def adapt(self, y: Any, context: Any | None = None, *, again: bool = True) -> None:
        """Data-dependent initialization of the bijectors that have one, from the data's end on.

        Each that has a method `adapt` gets the data as they reach it: `Support` and `ActNorm`
        standardize their columns, `LU` whitens. For before training: what was trained is replaced.

        Args:
          y: events `(n, D)`.
          context: `(n, *context_shape)`, if the flow needs context.
          again: whether those go again that were adapted before.
        """
        adapt(self, y, context, again=again)
