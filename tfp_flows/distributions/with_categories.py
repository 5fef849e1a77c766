"""WithCategories: categories and numbers of one row, jointly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows.distributions.conditional import NotReparameterized
from tfp_flows.networks import Parameters
from tfp_flows.ops.capabilities import context_size_of, needs_raw_data
from tfp_flows.ops.checks import positive_int
from tfp_flows.ops.columns import named
from tfp_flows.ops.seeds import derived_seed

__all__ = ["WithCategories"]


class WithCategories(NotReparameterized):
    """The joint distribution of categories `k` and numbers `x`: exact, without noise.

    log_prob: `Σ_j log P(k_j | k_1, ..., k_{j-1}, c) + log p(x | k, c)`
    sample: the categories one after another, then the numbers given all of them

    An event is `(k_1, ..., k_m, x_1, ..., x_D)`, where `k_j` is 0, 1, ... up to the number of
    categories less 1; any other value has density 0. Probabilities of the first category are free
    parameters, or a network's output given context; those of the others are the output of networks
    that read the categories before, one-hot. The numbers have a conditional density, whose context
    are all categories, one-hot, and the context `c` behind them, if there is one.

    `distribution` is in the units of the data: to standardize them, let its last bijector be a
    `Support`, which `adapt` sets.

    Shapes: events `(m + D,)`; context `(context_size,)`.

    Args:
      distribution: of the numbers, events `(D,)`, with a context as wide as the number of all
        categories of all columns, plus `context_size`.
      categories: number of categories of each column of categories.
      hidden_units: widths of the networks of probabilities.
      context_size: width of the context, or None.
      seed: integer for reproducible initial weights, or None.
      name: name of the distribution.

    Raises:
      TypeError: `distribution` is no `tfd.Distribution`.
      ValueError: a number of categories is less than 2, or the context of `distribution` has
        another width.

    Source: the factorization by the chain rule, with networks that read what comes before, is that
    of Benigno Uria, Iain Murray and Hugo Larochelle, "RNADE: The Real-valued Neural Autoregressive
    Density-estimator" (2013).

    Example:
      >>> numbers = flows.neural_spline(2, layers=2, context_size=3 + 2, support="real")
      >>> joint = distributions.WithCategories(numbers, categories=[3, 2])
      >>> joint.log_prob([2.0, 0.0, 0.1, -0.3])
    """

    needs_raw_data = True

    def __init__(
        self,
        distribution: tfd.Distribution,
        categories: Sequence[int],
        *,
        hidden_units: Sequence[int] = (32,),
        context_size: int | None = None,
        seed: int | None = None,
        name: str = "WithCategories",
    ):
        parameters = dict(locals())
        if not isinstance(distribution, tfd.Distribution):
            raise TypeError(
                "`distribution` must be a tfd.Distribution. "
                f"Received: distribution={distribution!r}"
            )
        self.categories = [positive_int(count, "categories") for count in categories]
        if not self.categories or min(self.categories) < 2:
            raise ValueError(
                "`categories` must be numbers of categories, 2 or more each. "
                f"Received: categories={categories!r}"
            )
        self.context_size = context_size
        width = sum(self.categories) + (context_size or 0)
        if context_size_of(distribution) != width or distribution.event_shape.rank != 1:
            raise ValueError(
                f"`distribution` must have events (D,) and context_size {width}, for all "
                "categories one-hot and the context. Received: event_shape="
                f"{distribution.event_shape}, context_size={context_size_of(distribution)}"
            )
        self.distribution = distribution
        before = np.cumsum([context_size or 0, *self.categories[:-1]]).tolist()
        self._logits = [
            Parameters(
                np.zeros(count),
                context_size=inputs or None,
                conditioner=hidden_units,
                dtype=distribution.dtype.name,
                seed=derived_seed(seed, i),
            )
            for i, (count, inputs) in enumerate(zip(self.categories, before, strict=True))
        ]
        super().__init__(dtype=distribution.dtype, parameters=parameters, name=name)

    @classmethod
    def _parameter_properties(
        cls, dtype: tf.DType | None, num_classes: int | None = None
    ) -> dict[str, Any]:
        return {}

    @property
    def steps(self) -> list[float]:
        """1 for columns of categories, and for numbers 0, or the steps of a `Dequantized`."""
        steps = getattr(self.distribution, "steps", None)
        numbers = [0.0] * self.distribution.event_shape[0] if steps is None else list(steps)
        return [1.0] * len(self.categories) + numbers

    def adapt(self, x: Any, context: Any | None = None, *, again: bool = True) -> None:
        """Start the probabilities at the shares in the data, and call `distribution.adapt`.

        Raises:
          ValueError: `distribution` does not take data in their own units, or a column of
            categories holds something else.
        """
        if again and not needs_raw_data(self.distribution):
            raise ValueError(
                "`distribution` must take data in their own units: let its last bijector be a "
                f"Support. Received: distribution={self.distribution!r}"
            )
        names, x = getattr(x, "columns", range(np.shape(x)[-1])), np.asarray(x)
        count = len(self.categories)
        codes, numbers = x[:, :count], named(x[:, count:], names[count:])
        for column, count in enumerate(self.categories):
            bad = ~np.isin(codes[:, column], np.arange(count))
            if bad.any():
                row = int(bad.argmax())
                raise ValueError(
                    f"`x` must hold categories 0, ..., {count - 1} in column {names[column]!r}. "
                    f"Received: {codes[row, column]} in row {row}"
                )
            if again:
                # Half a row more each, for what is absent here may be in other rows.
                shares = np.bincount(codes[:, column].astype(int), minlength=count) + 0.5
                self._logits[column].assign(np.log(shares / shares.sum()))
        given = self._contexts(tf.constant(codes, self.dtype), context)[-1]
        self.distribution.adapt(numbers, given, again=again)

    def _contexts(self, codes: tf.Tensor, context: Any | None) -> list[tf.Tensor]:
        """What each network of probabilities reads, and what the distribution of numbers reads."""
        hot = [
            tf.one_hot(tf.cast(codes[..., i], tf.int32), count, dtype=self.dtype)
            for i, count in enumerate(self.categories)
        ]
        if context is not None:
            context = tf.cast(context, self.dtype)
            rows = tf.broadcast_dynamic_shape(tf.shape(codes)[:-1], tf.shape(context)[:-1])
            hot = [tf.broadcast_to(h, tf.concat([rows, tf.shape(h)[-1:]], 0)) for h in hot]
            context = tf.broadcast_to(context, tf.concat([rows, tf.shape(context)[-1:]], 0))
        behind = [] if context is None else [context]
        return [
            tf.concat([*hot[:i], *behind], -1) if i or behind else codes[..., :0]
            for i in range(len(hot) + 1)
        ]

    def _given(self, context: tf.Tensor) -> tfd.Distribution:
        return _Given(self, context)

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        return self.log_prob_given(value, None)

    def _call_sample_n(self, sample_shape: Any, seed: Any) -> tf.Tensor:
        return self.sample_given(sample_shape, None, seed)

    def log_prob_given(self, value: tf.Tensor, context: tf.Tensor | None) -> tf.Tensor:
        """Log-density at events, of the right dtype, given a context that was checked."""
        codes, x = value[..., : len(self.categories)], value[..., len(self.categories) :]
        inside = tf.reduce_all(
            (codes >= 0) & (codes < self.categories) & (codes == tf.round(codes)), -1
        )
        unknown = tf.reduce_any(tf.math.is_nan(codes), -1)
        codes = tf.where(inside[..., tf.newaxis], codes, tf.zeros_like(codes))
        contexts = self._contexts(codes, context)
        log_prob = self.distribution.log_prob(x, context=contexts[-1])
        for i, parameters in enumerate(self._logits):
            given = contexts[i] if contexts[i].shape[-1] else None
            log_shares = tf.nn.log_softmax(parameters(given))
            hot = tf.one_hot(tf.cast(codes[..., i], tf.int32), self.categories[i], dtype=self.dtype)
            log_prob += tf.reduce_sum(hot * log_shares, -1)
        log_prob = tf.where(inside, log_prob, tf.constant(-math.inf, self.dtype))
        return tf.where(unknown, tf.constant(math.nan, self.dtype), log_prob)

    def sample_given(self, sample_shape: Any, context: tf.Tensor | None, seed: Any) -> tf.Tensor:
        """Draw events given a context that was checked, or None."""
        *seeds, last = tfp.random.split_seed(seed, n=len(self.categories) + 1, salt="categories")
        batch = tf.zeros([0], tf.int32) if context is None else tf.shape(context)[:-1]
        shape = tf.concat([tf.reshape(tf.cast(sample_shape, tf.int32), [-1]), batch], 0)
        codes = tf.zeros(tf.concat([shape, [len(self.categories)]], 0), self.dtype)
        for i, parameters in enumerate(self._logits):
            given = self._contexts(codes, context)[i]
            logits = parameters(given if given.shape[-1] else None)
            logits = tf.broadcast_to(logits, tf.concat([shape, [self.categories[i]]], 0))
            drawn = tfd.Categorical(logits=logits, dtype=self.dtype).sample(seed=seeds[i])
            column = tf.one_hot(i, len(self.categories), dtype=self.dtype)
            codes += drawn[..., tf.newaxis] * column
        x = self.distribution.sample((), context=self._contexts(codes, context)[-1], seed=last)
        return tf.concat([codes, x], -1)

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape([len(self.categories) + self.distribution.event_shape[0]])

    def _event_shape_tensor(self) -> tf.Tensor:
        return tf.constant(self._event_shape().as_list())

    def _default_event_space_bijector(self) -> tfb.Bijector | None:
        return None  # Categories are discrete: no smooth map leads to them.


class _Given(NotReparameterized):
    """A `WithCategories` under a context."""

    def __init__(self, joint: WithCategories, context: tf.Tensor):
        parameters = dict(locals())
        self.joint, self.context = joint, context
        super().__init__(dtype=joint.dtype, parameters=parameters, name=joint.name)

    @classmethod
    def _parameter_properties(
        cls, dtype: tf.DType | None, num_classes: int | None = None
    ) -> dict[str, Any]:
        return {"context": tfp.util.ParameterProperties(event_ndims=1)}

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        return self.joint.log_prob_given(value, self.context)

    def _call_sample_n(self, sample_shape: Any, seed: Any) -> tf.Tensor:
        return self.joint.sample_given(sample_shape, self.context, seed)

    def _batch_shape(self) -> tf.TensorShape:
        return self.context.shape[:-1]

    def _batch_shape_tensor(self) -> tf.Tensor:
        return tf.shape(self.context)[:-1]

    def _event_shape(self) -> tf.TensorShape:
        return self.joint.event_shape

    def _event_shape_tensor(self) -> tf.Tensor:
        return self.joint.event_shape_tensor()
