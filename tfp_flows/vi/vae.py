"""FlowVAE: a variational autoencoder whose posterior, and prior, may be flows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_flows import serialization
from tfp_flows.distributions.flow import Flow
from tfp_flows.model import FlowModel
from tfp_flows.model.arguments import check_compile
from tfp_flows.model.execution import with_data
from tfp_flows.model.guard import all_finite
from tfp_flows.model.replicas import replica_count, sum_over_replicas, update_if
from tfp_flows.model.saved_whole import SavedWhole
from tfp_flows.ops.checks import positive_int
from tfp_flows.ops.internals import loss_tracker
from tfp_flows.ops.seeds import check_seed, stateless_seed
from tfp_flows.vi.surrogate import SurrogateOptions, check_flow, posterior_flow

__all__ = ["FlowVAE"]

Likelihood = Callable[[tf.Tensor], tfd.Distribution]
_OF_KERAS = ("encoder", "decoder", "likelihood")  # Arguments that Keras saves.
_ROUNDING = 1e-3  # How far beyond 0 and 1 a share may be, as resized images are.
_WEIGHTED_ROWS = 1024  # Times draws: how many events at once.


@keras.saving.register_keras_serializable("tfp_flows")
class FlowVAE(SavedWhole):
    """Latent variables `z` of data `x`, with `p(x, z) = p(z) p(x | z)` and a flow `q(z | x)`.

    ELBO: `E_q[log p(x | z) + log p(z) - log q(z | x)] ≤ log p(x)`, in nats
    loss of training: `-E_q[log p(x | z)] + β max(KL, free_bits)`, with `KL = E_q[log q / p]`, the
      mean over a batch, and `β` rising from 0 to 1 over the first `annealing_steps` steps

    `fit(x)` and all callbacks are those of Keras; `keras.callbacks.TerminateOnNaN` ends a training
    that broke, with the last finite weights. `evaluate(x)` is the mean of -ELBO, without free
    bits and annealing; with `return_dict=True` its two parts, `reconstruction` and `kl`, too.

    Args:
      encoder: Keras layer from `x` to features `(batch, C)`, the context of the posterior.
      decoder: Keras layer from `z` `(batch, latent_size)` to the parameters of `p(x | z)`.
      latent_size: number of latent variables.
      posterior: as `flow` in `vi.surrogate`, by default inverse autoregressive flow with the
        features as context; or a `Flow` with `context_size=C`.
      prior: a `Flow` with events `(latent_size,)`, trained with the rest, "maf" for example in
        `flows.maf(latent_size)`; a standard normal if None.
      likelihood: "bernoulli", of which the decoder gives logits in the shape of `x`, which holds
        shares from 0 to 1, or an InvalidArgumentError is raised when it is read; "normal", of
        which it gives means, with one deviation that is learned; or a function from what the
        decoder gives, `(draws, batch, ...)`, to a distribution of `x` with batch
        `(draws, batch)`, registered with Keras to be saved.
      free_bits: how much of the KL divergence, in nats, costs nothing in training.
      annealing_steps: steps over which the KL divergence comes to cost all it does; 0 for none.
      seed: of initial weights and draws.
      name: name of the model.

    Raises:
      ValueError: an argument is out of range, or encoder, posterior and prior do not fit together.
      TypeError: `encoder` or `decoder` is no Keras layer, or `prior` no `Flow`.

    Source: Durk Kingma et al., "Improved Variational Inference with Inverse Autoregressive Flow"
    (2016); Xi Chen et al., "Variational Lossy Autoencoder" (2017), for flows as priors.

    Example:
      >>> encoder = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8)])
      >>> decoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(6)])
      >>> vae = vi.FlowVAE(encoder, decoder, 2)
      >>> vae.compile("adam")
      >>> history = vae.fit(np.eye(6, dtype="float32"), verbose=0)
      >>> vae.sample(4, seed=0)     # (4, 6)
    """

    def __init__(
        self,
        encoder: keras.layers.Layer,
        decoder: keras.layers.Layer,
        latent_size: int,
        posterior: str | Flow = "iaf",
        prior: Flow | None = None,
        *,
        likelihood: str | Likelihood = "bernoulli",
        free_bits: float = 0.0,
        annealing_steps: int = 0,
        seed: int = 0,
        name: str = "flow_vae",
    ):
        super().__init__(name=name)
        for part, what in ((encoder, "encoder"), (decoder, "decoder")):
            if not isinstance(part, keras.layers.Layer):
                raise TypeError(f"`{what}` must be a Keras 3 layer. Received: {what}={part!r}")
            if not part.built:
                raise ValueError(f"`{what}` must be built: begin it with keras.Input.")
        if likelihood not in ("bernoulli", "normal") and not callable(likelihood):
            raise ValueError(
                "`likelihood` must be 'bernoulli', 'normal' or a function. "
                f"Received: likelihood={likelihood!r}"
            )
        if not (math.isfinite(free_bits) and free_bits >= 0):
            raise ValueError(f"`free_bits` must be 0 or more. Received: free_bits={free_bits!r}")
        self.encoder, self.decoder = encoder, decoder
        self.latent_size = positive_int(latent_size, "latent_size")
        self.likelihood = likelihood
        self.free_bits = free_bits
        self.annealing_steps = annealing_steps and positive_int(annealing_steps, "annealing_steps")
        self.seed = check_seed(seed) or 0
        features = int(encoder.output_shape[-1])
        if not isinstance(posterior, Flow):
            options: SurrogateOptions = {"context_size": features, "seed": self.seed}
            dtype = tf.float64 if encoder.variable_dtype == "float64" else tf.float32
            posterior = posterior_flow(posterior, latent_size, dtype, options)
        check_flow(posterior, "posterior", latent_size, features)
        self.posterior_model = FlowModel(posterior, name="posterior")
        self.prior_model = None
        if prior is not None:
            check_flow(prior, "prior", latent_size, None)
            self.prior_model = FlowModel(prior, name="prior")
        self.log_deviation = None
        if likelihood == "normal":
            self.log_deviation = self.add_weight(name="log_deviation", initializer="zeros")
        self._draws = self.add_weight(
            name="draws", initializer="zeros", dtype="int32", trainable=False
        )
        self._reconstruction = keras.metrics.Mean(name="reconstruction")
        self._kl = keras.metrics.Mean(name="kl")
        self.built = True

    @property
    def prior(self) -> tfd.Distribution:
        """`p(z)`."""
        if self.prior_model is not None:
            return self.prior_model.distribution
        ones = tf.ones([self.latent_size], self.posterior_model.distribution.dtype)
        return tfd.MultivariateNormalDiag(scale_diag=ones)

    def posterior(self, x: Any, training: bool = False) -> tfd.Distribution:
        """`q(z | x)`, with a batch of as many as there are rows in `x`."""
        return self.posterior_model.distribution.given(self.encoder(x, training=training))

    def given_latent(self, z: tf.Tensor, training: bool = False) -> tfd.Distribution:
        """`p(x | z)`, with events of the shape of `x`."""
        z = tf.convert_to_tensor(z)
        rows = tf.reshape(z, [-1, self.latent_size])
        output = self.decoder(rows, training=training)
        output = tf.reshape(output, tf.concat([tf.shape(z)[:-1], tf.shape(output)[1:]], 0))
        if callable(self.likelihood):
            return self.likelihood(output)
        if self.likelihood == "bernoulli":
            entries = tfd.Bernoulli(logits=output, dtype=output.dtype)
        else:
            deviation = tf.exp(tf.convert_to_tensor(self.log_deviation))
            entries = tfd.Normal(output, tf.cast(deviation, output.dtype))
        return tfd.Independent(entries, output.shape.rank - z.shape.rank + 1)

    def _parts(
        self, x: tf.Tensor, draws: int, seed: Any, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """`log p(x | z)` and `log q(z | x) - log p(z)`, `(draws, rows)`."""
        z, log_q = self.posterior(x, training).sample_and_log_prob(draws, seed=seed)
        likelihood = self.given_latent(z, training)
        # Zeros and ones may be integers; what a function of the user's own takes, it says itself.
        x = x if callable(self.likelihood) else tf.cast(x, likelihood.dtype)
        if self.likelihood == "bernoulli":  # Beyond 1 its logarithm has no bound.
            need = "`x` must hold shares from 0 to 1 for likelihood='bernoulli': divide it."
            most = tf.constant(1 + _ROUNDING, x.dtype)
            tf.debugging.assert_less_equal(tf.abs(2 * x - 1), most, need)
        log_likelihood = tf.cast(likelihood.log_prob(x), z.dtype)
        if log_likelihood.shape.rank != 2:
            raise ValueError(
                "`likelihood` must give one log-density for every draw and row of x, of what the "
                "decoder gives with the shape (draws, rows, ...): wrap it in tfd.Independent over "
                f"the axes after these. Received: shape {tuple(log_likelihood.shape)}"
            )
        return log_likelihood, log_q - self.prior.log_prob(z)

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """The mean of `p(x | z)` at a draw of the posterior."""
        seed = stateless_seed(self.seed)
        return self.given_latent(self.posterior(x).sample(seed=seed), bool(training)).mean()

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "rmsprop",
        loss: None = None,
        loss_weights: None = None,
        metrics: None = None,
        weighted_metrics: None = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool | str = "auto",
        auto_scale_loss: bool = True,
    ) -> None:
        """Choose the optimizer and how steps are run; the loss is -ELBO.

        Raises:
          ValueError: a loss, weights of losses or metrics are given; `steps_per_execution` or
            `jit_compile` is another choice.
        """
        if loss is not None:
            raise ValueError(f"`loss` must be None: it is -ELBO. Received: loss={loss!r}")
        check_compile(
            None, loss_weights, metrics, weighted_metrics, steps_per_execution, jit_compile
        )
        super().compile(
            optimizer,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            jit_compile=jit_compile,
            auto_scale_loss=auto_scale_loss,
        )

    def fit(self, *args: Any, sample_weight: None = None, **options: Any) -> Any:
        """As `keras.Model.fit`, of `x` alone: Keras would forget weights of rows."""
        _refuse_targets(None, sample_weight)
        return super().fit(*args, **options)

    def evaluate(self, *args: Any, sample_weight: None = None, **options: Any) -> Any:
        """As `keras.Model.evaluate`, of `x` alone."""
        _refuse_targets(None, sample_weight)
        return super().evaluate(*args, **options)

    @with_data
    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One update by one draw a row, left out, with a loss of NaN, if a number is not finite."""
        replicas = replica_count()
        with tf.GradientTape() as tape:
            reconstruction, kl, rows = self._shares(data, True)
            (whole,) = sum_over_replicas([kl])
            free = tf.cast(self.free_bits / replicas, kl.dtype)
            costs = tf.where(whole < self.free_bits, free, kl)
            penalty = sum(tf.cast(loss, kl.dtype) for loss in self.losses) / replicas
            loss = reconstruction + self._kl_weight() * costs + penalty
            scaled = self.optimizer.scale_loss(loss)
        weights = self.trainable_weights
        loss, reconstruction, *gradients = sum_over_replicas(
            [loss, reconstruction, *tape.gradient(scaled, weights)]
        )
        finite = all_finite([loss, *gradients])
        update_if(finite, self.optimizer, gradients, weights)
        loss = tf.where(finite, loss, tf.constant(np.nan, loss.dtype))
        return self._update(loss, reconstruction, whole, rows)

    @with_data
    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """-ELBO by one draw a row."""
        reconstruction, kl, rows = self._shares(data, False)
        reconstruction, kl = sum_over_replicas([reconstruction, kl])
        return self._update(reconstruction + kl, reconstruction, kl, rows)

    def _shares(self, data: Any, training: bool) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """What this replica's rows, so many, have of the means of both parts of -ELBO."""
        log_likelihood, kl = self._parts(_events(data), 1, self._next_seed(), training)
        count = tf.size(log_likelihood)
        (rows,) = sum_over_replicas([tf.cast(count, kl.dtype)])
        return -tf.reduce_sum(log_likelihood) / rows, tf.reduce_sum(kl) / rows, count

    def _update(
        self, loss: tf.Tensor, reconstruction: tf.Tensor, kl: tf.Tensor, rows: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        loss_tracker(self).update_state(loss, sample_weight=rows)
        self._reconstruction.update_state(reconstruction, sample_weight=rows)
        self._kl.update_state(kl, sample_weight=rows)
        return self.compute_metrics(None, None, None)

    def _next_seed(self) -> tf.Tensor:
        """Another one for every batch and replica; the count is saved with the weights."""
        self._draws.assign_add(1)
        seed = tf.stack([tf.constant(self.seed % 2**31, tf.int32), self._draws.value])
        if replica_count() == 1:
            return seed
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return tf.random.fold_in(seed, replica)

    def _kl_weight(self) -> tf.Tensor:
        step = tf.cast(self.optimizer.iterations, self.posterior_model.distribution.dtype)
        return tf.minimum(tf.ones_like(step), (step + 1) / max(self.annealing_steps, 1))

    def log_prob(self, x: Any, *, draws: int = 100, seed: int = 0) -> np.ndarray:
        """Importance-weighted estimates of `log p(x)` in nats, `(n,)`, of `draws` draws a row.

        Their mean is at most `log p(x)`, and rises to it with the number of draws.

        Source: Yuri Burda, Roger Grosse and Ruslan Salakhutdinov, "Importance Weighted
        Autoencoders" (2016).
        """
        positive_int(draws, "draws")
        x = tf.convert_to_tensor(x)
        size = max(1, _WEIGHTED_ROWS // draws)

        @tf.function(reduce_retracing=True, autograph=False)
        def of_rows(x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
            log_likelihood, kl = self._parts(x, draws, seed, False)
            return tf.reduce_logsumexp(log_likelihood - kl, 0) - math.log(draws)

        first = stateless_seed(check_seed(seed) or 0)
        starts = range(0, max(len(x), 1), size)  # Of no rows, one part that is empty.
        return np.concatenate(
            [of_rows(x[i : i + size], tf.random.fold_in(first, i)) for i in starts]
        )

    def sample(self, n: int, seed: int | None = None, *, mean: bool = False) -> tf.Tensor:
        """Draw `n` events of `p(x)`; with `mean` those of `p(x | z)`, without noise."""
        seeds = [None, None] if seed is None else tf.random.split(stateless_seed(seed), 2)
        x = self.given_latent(self.prior.sample(n, seed=seeds[0]))
        return x.mean() if mean else x.sample(seed=seeds[1])

    def get_config(self) -> dict[str, Any]:
        prior = self.prior_model
        config = {
            "latent_size": self.latent_size,
            "posterior": serialization.serialize(self.posterior_model.distribution),
            "prior": None if prior is None else serialization.serialize(prior.distribution),
            "free_bits": self.free_bits,
            "annealing_steps": self.annealing_steps,
            "seed": self.seed,
            "name": self.name,
        }
        for name in _OF_KERAS:
            config[name] = keras.saving.serialize_keras_object(getattr(self, name))
            serialization.check_keras(config[name], TypeError, f"`{name}`")
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FlowVAE:
        arguments = dict(config)
        for name in ("posterior", "prior"):
            arguments[name] = serialization.deserialize(arguments[name])
        for name in _OF_KERAS:
            serialization.check_keras(arguments[name], ValueError, f"`{name}`")
            arguments[name] = keras.saving.deserialize_keras_object(arguments[name])
        return cls(**arguments)


def _events(data: Any) -> tf.Tensor:
    x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
    _refuse_targets(y, weight)
    return x


def _refuse_targets(y: Any, sample_weight: Any) -> None:
    if y is not None or sample_weight is not None:
        raise ValueError("A FlowVAE takes data `x` alone, without targets and weights.")
