"""Resampled: a standard normal whose draws are accepted or rejected by a trained network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb

from tfp_flows.distributions.conditional import NotReparameterized
from tfp_flows.networks import Conditioner
from tfp_flows.ops.checks import positive_int

__all__ = ["Resampled"]


class Resampled(NotReparameterized):
    """LARS, a density by learned accept/reject sampling: flows with it learn separate modes.

    Draws `z` of the standard normal `π` are accepted with probability `a(z)`, a network's output
    in (0, 1), and the `T`-th is taken in any case. With `Z = E_π[a(z)]` and `α = (1 - Z)^(T - 1)`,
    the probability that all before the last are rejected,

    `p(z) = π(z) [(1 - α) a(z) / Z + α]`

    A smooth bijector cannot tear one mode into two, which a base with holes and several modes need
    not ask of it. Fresh, `a` is constant, and `p` is `π` exactly.

    `Z` is an average over `draws` fixed draws from `π`, so that `log_prob` is the same at every
    call; its gradient is that of an average over as many new draws. The relative error of `Z`, by
    which all densities are off together, is `s / √draws`, with `s` the standard deviation of `a`
    over its mean: `√(1/Z - 1)` at most, so that at Z = 1/4 and 4096 draws its standard deviation
    is below 0.03 nats. Build the distribution with more to report likelihoods.

    Costs: `log_prob` calls the network once, on the events and both sets of draws; `sample` makes
    proposals until all of a batch are accepted, `T` at most, with one such call each. Gradients do
    not pass through samples.

    Args:
      event_size: number of columns.
      conditioner: hidden widths of an MLP, or a Keras 3 layer `(batch, event_size) -> (batch,
        features)`, from which the logit of `a` is read.
      truncation: `T`, at least 2.
      draws: number of draws that `Z` is estimated from.
      dtype: floating dtype of events.
      seed: integer for reproducible initial weights, or `None`.
      name: name of the distribution.

    Raises:
      ValueError: a size is not a positive integer, or `truncation` is 1.

    Source: Matthias Bauer and Andriy Mnih, "Resampled Priors for Variational Autoencoders" (2019);
    as base of flows, Vincent Stimper, Bernhard Schölkopf and José Miguel Hernández-Lobato,
    "Resampling Base Distributions of Normalizing Flows" (2022).

    Example:
      >>> base = distributions.Resampled(2)
      >>> flow = flows.real_nvp(2, base=base)
    """

    def __init__(
        self,
        event_size: int,
        conditioner: Sequence[int] | keras.layers.Layer = (64, 64),
        truncation: int = 100,
        *,
        draws: int = 4096,
        dtype: str | tf.DType = "float32",
        seed: int | None = None,
        name: str = "Resampled",
    ):
        parameters = dict(locals())
        positive_int(draws, "draws")
        if positive_int(truncation, "truncation") == 1:
            raise ValueError("`truncation` must be 2 or more. Received: truncation=1")
        self.event_size = positive_int(event_size, "event_size")
        self.truncation = truncation
        dtype = tf.as_dtype(dtype)
        self.conditioner = Conditioner(
            conditioner, input_size=event_size, output_shape=(), dtype=dtype.name, seed=seed
        )
        # NumPy's legacy generator: its stream is the same in every version, on every machine.
        fixed = np.random.RandomState(0).standard_normal((draws, event_size))
        self._draws = fixed.astype(dtype.as_numpy_dtype)
        super().__init__(dtype=dtype, parameters=parameters, name=name)

    @classmethod
    def _parameter_properties(
        cls, dtype: tf.DType | None, num_classes: int | None = None
    ) -> dict[str, Any]:
        return {}

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape([self.event_size])

    def _event_shape_tensor(self) -> tf.Tensor:
        return tf.constant([self.event_size])

    def _default_event_space_bijector(self) -> tfb.Bijector:
        return tfb.Identity()

    def _log_acceptance(self, z: tf.Tensor, *, learn: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """`log a(z)` and `log p(z) / π(z)` of `z`, `(n, D)`, by one call of the network."""
        count, draws = tf.shape(z)[0], len(self._draws)
        rows = [z, self._draws]
        if learn:
            rows.append(tf.random.normal([draws, self.event_size], dtype=self.dtype))
        logits = self.conditioner(tf.concat(rows, 0))
        log_means = _log_means(logits[count : count + draws])
        if learn:
            # Gradients come from new draws: the network would learn to reject the fixed ones.
            fresh = _log_means(logits[count + draws :])
            log_means = tf.stop_gradient(log_means) + (fresh - tf.stop_gradient(fresh))
        log_accept = tf.math.log_sigmoid(logits[:count])
        # At 0, where nothing was ever accepted, the logarithm of 1 - α would be infinite.
        log_last = (self.truncation - 1) * log_means[1]
        log_last = tf.minimum(log_last, -np.finfo(self._draws.dtype).eps)
        log_ratio = tfp.math.log1mexp(log_last) + log_accept - log_means[0]
        return log_accept, tfp.math.log_add_exp(log_ratio, log_last)

    def _log_normal(self, z: tf.Tensor) -> tf.Tensor:
        return -0.5 * (tf.reduce_sum(z**2, -1) + self.event_size * np.log(2 * np.pi))

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        log_normal = self._log_normal(value)
        # The network could make NaN of what is too far out for the normal density.
        near = tf.where((log_normal > -np.inf)[..., None], value, tf.zeros_like(value))
        _, log_ratio = self._log_acceptance(tf.reshape(near, [-1, self.event_size]), learn=True)
        return log_normal + tf.reshape(log_ratio, tf.shape(value)[:-1])

    def _draw(self, n: tf.Tensor, seed: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """`n` draws and their log-densities."""
        seed = tfp.random.sanitize_seed(seed)

        def propose(
            t: tf.Tensor, z: tf.Tensor, log_ratio: tf.Tensor, done: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            normal_seed, uniform_seed = tfp.random.split_seed(tf.random.fold_in(seed, t))
            proposal = tf.random.stateless_normal(tf.shape(z), normal_seed, dtype=self.dtype)
            u = tf.random.stateless_uniform(tf.shape(done), uniform_seed, dtype=self.dtype)
            log_accept, ratio = self._log_acceptance(proposal)
            z = tf.where(done[:, None], z, proposal)
            log_ratio = tf.where(done, log_ratio, ratio)
            return t + 1, z, log_ratio, done | (u < tf.exp(log_accept))

        n = tf.convert_to_tensor(n)
        start = (
            tf.constant(0),
            tf.zeros([n, self.event_size], self.dtype),
            tf.zeros([n], self.dtype),
            tf.zeros([n], tf.bool),
        )
        _, z, log_ratio, _ = tf.while_loop(
            lambda t, z, log_ratio, done: ~tf.reduce_all(done),
            propose,
            start,
            maximum_iterations=self.truncation,
        )
        return tf.stop_gradient(z), self._log_normal(z) + log_ratio

    def _sample_n(self, n: tf.Tensor, seed: Any = None) -> tf.Tensor:
        return self._draw(n, seed)[0]

    def _sample_and_log_prob(
        self, sample_shape: tf.Tensor, seed: Any
    ) -> tuple[tf.Tensor, tf.Tensor]:
        z, log_prob = self._draw(tf.reduce_prod(sample_shape), seed)
        event = tf.concat([sample_shape, [self.event_size]], 0)
        return tf.reshape(z, event), tf.reshape(log_prob, sample_shape)


def _log_means(logits: tf.Tensor) -> tf.Tensor:
    """The logarithms of the mean probabilities of acceptance and of rejection."""
    both = tf.math.log_sigmoid(tf.stack([logits, -logits]))
    return tf.reduce_logsumexp(both, -1) - tf.math.log(tf.cast(tf.shape(logits)[0], logits.dtype))
