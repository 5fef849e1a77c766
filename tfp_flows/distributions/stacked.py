"""Stacked: a mixture of finished densities, whose weights are chosen on rows that none has seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import distributions as tfd

from tfp_flows.distributions.conditional import NotReparameterized, context_shape_of
from tfp_flows.ops.capabilities import context_size_of, needs_raw_data

__all__ = ["Stacked", "stacking_weights"]


class Stacked(NotReparameterized):
    """A mixture of densities of any classes: `p(x | c) = Σ_k w_k p_k(x | c)`.

    Stacking chooses the weights `w` by the likelihood of validation rows, which no member was
    trained on; see `stacking_weights`. Members that are no good there get no weight, so the mixture
    is, on these rows, no worse than the best of them. Start: equal weights.

    A density costs one of every member, a draw one of every member too. Draws are not
    reparametrized.

    Shapes: events as those of the members; `weights`, a variable that is saved and not trained,
    `(len(members),)`.

    Args:
      members: distributions with equal event shape and dtype, and `batch_shape == ()`; all take
        context of one shape, or none does.
      name: name of the distribution.

    Raises:
      TypeError: a member is no `tfd.Distribution`.
      ValueError: there is no member, or they differ in event shape, dtype or context.

    Source: Padhraic Smyth and David Wolpert, "Linearly Combining Density Estimators via Stacking"
    (1999).

    Example:
      >>> members = [flows.maf(2, layers=2, seed=seed) for seed in (0, 1)]
      >>> stacked = distributions.Stacked(members)
      >>> stacked.set_weights([0.7, 0.3])
    """

    def __init__(self, members: Sequence[tfd.Distribution], *, name: str = "Stacked"):
        parameters = dict(locals())
        self.members = list(members)
        _check_members(self.members)
        first = self.members[0]
        self.context_size = context_size_of(first)
        count = len(self.members)
        self.weights = tf.Variable(
            tf.fill([count], tf.constant(1 / count, first.dtype)), trainable=False, name="weights"
        )
        super().__init__(dtype=first.dtype, parameters=parameters, name=name)

    @classmethod
    def _parameter_properties(
        cls, dtype: tf.DType | None, num_classes: int | None = None
    ) -> dict[str, Any]:
        return {}

    @property
    def context_shape(self) -> tuple[int, ...] | None:
        """Shape of one context as the members take it, or None."""
        return context_shape_of(self.members[0])

    @property
    def needs_raw_data(self) -> bool:
        """Whether members take data in their own units, as flows do that end in a `Support`."""
        return any(map(needs_raw_data, self.members))

    @property
    def steps(self) -> Sequence[float] | None:
        """The steps of dequantized members, or None."""
        return getattr(self.members[0], "steps", None)

    def adapt(self, x: Any, context: Any | None = None, *, again: bool = True) -> None:
        """Call `adapt` of all members that have a data-dependent initialization.

        Raises:
          ValueError: some members take data in their own units, and others do not.
        """
        raw = [needs_raw_data(member) for member in self.members]
        if again and any(raw) and not all(raw):
            raise ValueError(
                "`members` must all take data in their own units, or none of them: adapt them as "
                f"models of their own, and call `stack`. Received: own units {raw}"
            )
        for member in self.members:
            if hasattr(member, "adapt"):
                member.adapt(x, context, again=again)

    def set_weights(self, weights: Any) -> None:
        """Take weights `(len(members),)`, not negative, with sum 1.

        Raises:
          ValueError: they are not.
        """
        array = np.asarray(weights, "float64")
        fits = array.shape == (len(self.members),) and (array >= 0).all()
        if not (fits and abs(array.sum() - 1) < 1e-6):
            raise ValueError(
                f"`weights` must be {len(self.members)} numbers, 0 or more, with sum 1. "
                f"Received: weights={weights!r}"
            )
        self.weights.assign(array / array.sum())

    def _given(self, context: tf.Tensor) -> tfd.Distribution:
        return _Given(self, context)

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        return _log_prob(self.members, self.weights, value)

    def _call_sample_n(self, sample_shape: Any, seed: Any) -> tf.Tensor:
        return _sample(self.members, self.weights, sample_shape, seed)

    def _mean(self) -> tf.Tensor:
        means = tf.stack([member.mean() for member in self.members], axis=-1)
        return tf.linalg.matvec(means, self.weights)

    def _event_shape(self) -> tf.TensorShape:
        return self.members[0].event_shape

    def _event_shape_tensor(self) -> tf.Tensor:
        return self.members[0].event_shape_tensor()

    def _default_event_space_bijector(self) -> None:
        return None  # Supports of members may differ.


class _Given(NotReparameterized):
    """A `Stacked` under a context."""

    def __init__(self, stacked: Stacked, context: tf.Tensor):
        parameters = dict(locals())
        self.stacked = stacked
        self.context_ndims = len(stacked.context_shape or ())
        self.members = [member.given(context) for member in stacked.members]
        super().__init__(dtype=stacked.dtype, parameters=parameters, name=stacked.name)

    @classmethod
    def _parameter_properties(
        cls, dtype: tf.DType | None, num_classes: int | None = None
    ) -> dict[str, Any]:
        return {
            "context": tfp.util.ParameterProperties(event_ndims=lambda self, *_: self.context_ndims)
        }

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        return _log_prob(self.members, self.stacked.weights, value)

    def _call_sample_n(self, sample_shape: Any, seed: Any) -> tf.Tensor:
        return _sample(self.members, self.stacked.weights, sample_shape, seed)

    def _batch_shape(self) -> tf.TensorShape:
        return self.members[0].batch_shape

    def _batch_shape_tensor(self) -> tf.Tensor:
        return self.members[0].batch_shape_tensor()

    def _event_shape(self) -> tf.TensorShape:
        return self.members[0].event_shape

    def _event_shape_tensor(self) -> tf.Tensor:
        return self.members[0].event_shape_tensor()


def stacking_weights(log_probs: Any, *, rounds: int = 1000) -> np.ndarray:
    """The weights of densities that maximize the likelihood of their mixture, by EM.

    Args:
      log_probs: log-densities of the same rows by each density, `(rows, densities)`; of rows that
        none was trained on. `-inf` is a density of 0.
      rounds: at most so many steps, each of which raises the likelihood; they end when it grows by
        less than 1e-9 nats a row.

    Returns:
      `(densities,)`, 0 or more, with sum 1.

    Raises:
      ValueError: `log_probs` is not a matrix, or holds NaN or inf, or a row has density 0 by all.

    Source: Padhraic Smyth and David Wolpert, "Linearly Combining Density Estimators via Stacking"
    (1999).

    Example:
      >>> distributions.stacking_weights([[-1.0, -3.0], [-3.0, -1.0]])     # [0.5, 0.5]
    """
    log_probs = np.asarray(log_probs, "float64")
    if log_probs.ndim != 2 or not log_probs.size:
        raise ValueError(
            f"`log_probs` must have shape (rows, densities). Received: shape={np.shape(log_probs)}"
        )
    largest = log_probs.max(axis=1, keepdims=True)
    if not np.isfinite(largest).all() or np.isnan(log_probs).any():
        row = int(np.argmax(~np.isfinite(largest[:, 0]) | np.isnan(log_probs).any(1)))
        raise ValueError(
            "`log_probs` must be less than inf, and in each row one more than -inf. "
            f"Received: {log_probs[row]} in row {row}"
        )
    densities = np.exp(log_probs - largest)
    weights = np.full(log_probs.shape[1], 1 / log_probs.shape[1])
    before = -np.inf
    for _ in range(rounds):
        joint = densities * weights
        total = joint.sum(axis=1, keepdims=True)
        mean = float(np.log(total).mean())
        if mean - before < 1e-9:
            break
        before, weights = mean, (joint / total).mean(axis=0)
    return weights


def _log_prob(
    members: Sequence[tfd.Distribution], weights: tf.Variable, value: tf.Tensor
) -> tf.Tensor:
    log_probs = [member.log_prob(tf.identity(value)) for member in members]
    shape = log_probs[0].shape
    log_probs = [tf.broadcast_to(log_prob, tf.shape(log_probs[0])) for log_prob in log_probs]
    joint = tf.stack(log_probs, axis=-1)
    nothing = tf.constant(-math.inf, joint.dtype)
    # A member without weight has no say, whatever its density is.
    joint = tf.where(weights > 0, joint + tf.math.log(weights), nothing)
    # Where all are -inf, the gradient of their sum is NaN, by which that of other rows would be.
    is_outside = tf.reduce_all(joint == nothing, axis=-1)
    joint = tf.where(is_outside[..., tf.newaxis], tf.zeros_like(joint), joint)
    found = tf.where(is_outside, nothing, tf.reduce_logsumexp(joint, axis=-1))
    return tf.ensure_shape(found, shape)


def _sample(
    members: Sequence[tfd.Distribution], weights: tf.Variable, sample_shape: Any, seed: Any
) -> tf.Tensor:
    index_seed, *seeds = tfp.random.split_seed(seed, n=len(members) + 1, salt="Stacked")
    draws = tf.stack([m.sample(sample_shape, seed=s) for m, s in zip(members, seeds, strict=True)])
    ndims = members[0].event_shape.rank
    shape = tf.shape(draws)[1 : tf.rank(draws) - ndims]
    choice = tfd.Categorical(probs=weights).sample(shape, seed=index_seed)
    chosen = tf.one_hot(choice, len(members), axis=0, dtype=tf.bool, on_value=True, off_value=False)
    for _ in range(ndims):
        chosen = chosen[..., tf.newaxis]
    return tf.reduce_sum(tf.where(chosen, draws, tf.zeros_like(draws)), axis=0)


def _check_members(members: Sequence[tfd.Distribution]) -> None:
    if not members:
        raise ValueError("`members` must hold one distribution or more. Received: none")
    for i, member in enumerate(members):
        if not isinstance(member, tfd.Distribution):
            raise TypeError(
                f"`members[{i}]` must be a tfd.Distribution. Received: {type(member).__name__}"
            )
        if member.batch_shape != ():
            raise ValueError(
                f"`members[{i}]` must have batch_shape (). Received: {member.batch_shape}"
            )
    for what, of in (
        ("event shape", lambda member: tuple(member.event_shape)),
        ("dtype", lambda member: member.dtype.name),
        ("context shape", context_shape_of),
    ):
        values = [of(member) for member in members]
        if len(set(values)) > 1:
            raise ValueError(f"`members` must have one {what}. Received: {values}")
