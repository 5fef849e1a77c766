"""Conditional: the base class of distributions that may take context."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_flows.ops.capabilities import ConditionalDistribution, context_size_of
from tfp_flows.ops.checks import as_events, check_context
from tfp_flows.ops.copies import Copyable
from tfp_flows.ops.grids import Size, check_shape
from tfp_flows.ops.seeds import is_stateless_seed, stateless_seed

__all__ = ["Conditional", "NotReparameterized", "context_shape_of"]


class Conditional(Copyable, tfd.Distribution):
    """A `tfd.Distribution` whose methods take `context=`, or none where `context_size` is `None`.

    A subclass sets `context_size` and gives `_given(context)`, which returns the distribution under
    a context that was checked and cast. Everything else it gives as every distribution does:
    `_log_prob(value)`, `_sample_n(n, seed)` and so on, for the case without context.

    Events may be of any real dtype: they are cast to that of the distribution. An integer `seed`
    gives the same draws at every call.

    Raises:
      ValueError: context is missing, is given to what takes none, or has another shape.
      TypeError: events or context are not real numbers.
    """

    context_size: Size | None = None

    @property
    def context_shape(self) -> tuple[int, ...] | None:
        """Shape of one context as `context=` takes it, or None."""
        size = self.context_size
        return None if size is None else check_shape(size, "context_size")

    def _with_temperature(self, temperature: float) -> tfd.Distribution:
        """The distribution whose base has other deviations, in one without context."""
        raise ValueError(
            f"`temperature` must be 1 for a {type(self).__name__}. "
            f"Received: temperature={temperature}"
        )

    def _given(self, context: tf.Tensor) -> tfd.Distribution:
        """The distribution under a context, `(*batch, *context_shape)`, of the right dtype."""
        raise NotImplementedError(f"{type(self).__name__} must define `_given`.")

    def given(self, context: Any | None) -> tfd.Distribution:
        """The conditional distribution, with the batch shape of the context.

        It can be used without `context=` from then on, wherever TFP takes a distribution.

        Args:
          context: `(*batch, *context_shape)`, cast to the dtype of the distribution; `None`, of
            what takes none, returns the distribution itself.

        Raises:
          ValueError: context is missing, has another shape, or is given to what takes none.
        """
        name = f"this {type(self).__name__}"
        context = check_context(context, self.context_shape, self.dtype, name)
        return self if context is None else self._given(context)

    def log_prob(self, value: Any, context: Any | None = None, name: str = "log_prob") -> tf.Tensor:
        """Log-density in nats at `value`, `(..., D)`, given `context`, `(..., C)`, if there is one.

        `-inf` outside the support.
        """
        value = as_events(value, self.event_shape, self.dtype)
        given = self.given(context)
        return super().log_prob(value, name=name) if given is self else given.log_prob(value)

    def prob(self, value: Any, context: Any | None = None, name: str = "prob") -> tf.Tensor:
        """Density at `value`: the exponential of `log_prob`."""
        value = as_events(value, self.event_shape, self.dtype)
        given = self.given(context)
        return super().prob(value, name=name) if given is self else given.prob(value)

    def cdf(self, value: Any, context: Any | None = None, name: str = "cdf") -> tf.Tensor:
        """Probability of events up to `value`, of a distribution of one column that has it."""
        given = self.given(context)
        return super().cdf(value, name=name) if given is self else given.cdf(value)

    def survival(self, value: Any, context: Any | None = None) -> tf.Tensor:
        """Probability of events above `value`: TFP's `survival_function`, given context."""
        return self.given(context).survival_function(value)

    def quantile(self, value: Any, context: Any | None = None, name: str = "quantile") -> tf.Tensor:
        """The events up to which others have the probability `value`; see `cdf`."""
        given = self.given(context)
        return super().quantile(value, name=name) if given is self else given.quantile(value)

    def unnormalized_log_prob(
        self, value: Any, context: Any | None = None, name: str = "unnormalized_log_prob"
    ) -> tf.Tensor:
        """The same as `log_prob`: all distributions here are normalized."""
        return self.log_prob(value, context, name=name)

    def sample(
        self,
        sample_shape: Any = (),
        context: Any | None = None,
        seed: Any | None = None,
        name: str = "sample",
        *,
        temperature: float = 1.0,
    ) -> tf.Tensor:
        """Draw events `(*sample_shape, D)`, or `(*sample_shape, *batch, D)` given context.

        What takes no context takes a seed of TFP's, a tensor of two integers, in its place: TFP's
        own distributions hand it to their parts there.

        `temperature` multiplies the deviations of a flow's base, which must be normal: below 1,
        draws come from where the base is dense, and are no draws of this density.

        Raises:
          ValueError: `sample_shape` is a tensor of unknown length; or `temperature` is not 1, and
            this is no flow over a base that is known to be normal; or it is negative or not finite.
        """
        if seed is None and self.context_shape is None and is_stateless_seed(context):
            context, seed = None, context
        _check_length(sample_shape)
        given, seed = self.given(context), stateless_seed(seed)
        if temperature != 1.0:
            given = _cooled(given, temperature)
        if given is self:
            return super().sample(sample_shape, seed=seed, name=name)
        return given.sample(sample_shape, seed=seed, name=name)

    def sample_and_log_prob(
        self,
        sample_shape: Any = (),
        context: Any | None = None,
        seed: Any | None = None,
        name: str = "sample_and_log_prob",
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draw events and return them with their log-densities, in one pass where that is less."""
        _check_length(sample_shape)
        given, seed = self.given(context), stateless_seed(seed)
        if given is self:
            return super().experimental_sample_and_log_prob(sample_shape, seed=seed, name=name)
        return given.experimental_sample_and_log_prob(sample_shape, seed=seed, name=name)

    def experimental_sample_and_log_prob(
        self,
        sample_shape: Any = (),
        seed: Any | None = None,
        name: str = "sample_and_log_prob",
        context: Any | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """`sample_and_log_prob` under TFP's name, with TFP's order of arguments."""
        return self.sample_and_log_prob(sample_shape, context, seed, name)


class NotReparameterized(Conditional):
    """A `Conditional` whose draws have no derivatives by its parameters.

    Args:
      dtype: of events.
      parameters: the arguments of the subclass's constructor.
      name: name of the distribution.
    """

    def __init__(self, *, dtype: tf.DType, parameters: dict[str, Any], name: str):
        super().__init__(
            dtype=dtype,
            reparameterization_type=tfd.NOT_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=True,
            parameters=parameters,
            name=name,
        )


def context_shape_of(distribution: tfd.Distribution) -> tuple[int, ...] | None:
    """Shape of one context as a distribution of any class takes it, or None."""
    if isinstance(distribution, Conditional):
        return distribution.context_shape
    size = context_size_of(distribution)
    if size is None or not isinstance(distribution, ConditionalDistribution):
        return None
    return check_shape(size, "context_size")


def _check_length(sample_shape: Any) -> None:
    if tf.is_tensor(sample_shape) and not sample_shape.shape.is_fully_defined():
        raise ValueError(
            "`sample_shape` must have a known length, so that draws have a known rank. "
            f"Received: a tensor of shape {sample_shape.shape}"
        )


def _cooled(distribution: tfd.Distribution, temperature: float) -> tfd.Distribution:
    if not isinstance(distribution, Conditional):
        raise ValueError(
            "`temperature` must be 1 but for flows over a normal base. "
            f"Received: temperature={temperature}, distribution={distribution!r}"
        )
    return distribution._with_temperature(temperature)
