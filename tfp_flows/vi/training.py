"""fit: a posterior is trained by Keras, with its callbacks, schedules and progress bar."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_flows.bijectors import Whitening
from tfp_flows.model import FlowModel, arguments
from tfp_flows.model.execution import StepsAtATime
from tfp_flows.model.guard import all_finite
from tfp_flows.model.replicas import update_if
from tfp_flows.ops.checks import check_context, one_of, positive_int
from tfp_flows.ops.internals import loss_tracker
from tfp_flows.ops.seeds import check_seed
from tfp_flows.vi.objectives import GRADIENTS, OBJECTIVES, estimate
from tfp_flows.vi.start import closest_gaussian, independent, points_of
from tfp_flows.vi.targets import Posterior, Target

__all__ = ["fit"]

_STEPS_AN_EPOCH = 100
_LEARNING_RATE = 2e-3
_CHECKED_ROWS = 3
_FIRST_POINTS = 64


def fit(
    target: Any,
    posterior: Posterior,
    *,
    steps: int = 2000,
    sample_size: int = 256,
    objective: str = "reverse_kl",
    alpha: float = 2.0,
    gradient: str = "path",
    context: Any | None = None,
    batch_size: int = 16,
    start: bool = True,
    anneal: float = 0.0,
    optimizer: keras.optimizers.Optimizer | str | None = None,
    callbacks: Sequence[keras.callbacks.Callback] | keras.callbacks.Callback | None = None,
    steps_per_epoch: int | None = None,
    jit_compile: bool | str = "auto",
    verbose: str | int = "auto",
    seed: int = 0,
) -> keras.callbacks.History:
    """Fit a posterior to a target, of which the log-density is known up to a constant.

    Objectives, with the posterior `q`, the target `p`, and their ratio `w = p / q` at draws of `q`:

    "reverse_kl": minimize KL(q ‖ p), so maximize the evidence lower bound, ELBO, `E log w`
    "iwae": maximize `E log mean w`, a tighter bound
    "alpha": minimize `E w^α / (α (α - 1))`; from α = 1 on, what `q` misses costs much
    "forward_kl": minimize KL(p ‖ q), by importance sampling

    The path gradient leaves out what has mean 0 in the derivative of all of them: where `q = p` it
    has no variance. It needs `log_prob` besides `sample`; "total" is the plain gradient.

    Before the first training of a surrogate, Newton's method looks for a Gaussian near the target
    (see `start`), from which the flow starts.

    Args:
      target: a joint distribution with data pinned by `experimental_pin`, any `tfd.Distribution`,
        or a function from a value, with `n` rows in all of its parts, to log-densities `(n,)` in
        nats. With `context`, a function of value and context.
      posterior: made by `vi.surrogate`, or a `Flow` with events (D,).
      steps: number of updates, rounded up to whole epochs.
      sample_size: draws for each update.
      objective: one of the four.
      alpha: α of "alpha"; neither 0 nor 1, which are the reverse and the forward KL.
      gradient: "path" or "total".
      context: contexts `(N, *context_shape)` of an amortized posterior, from which every update
        takes `batch_size`.
      batch_size: contexts for each update.
      start: whether a fresh surrogate starts from a Gaussian near the target; with modes that are
        far apart, it would be at one of them.
      anneal: share of the steps, below 1, over which the target is a bridge `q₀^(1-β) p^β`, with β
        rising from 0 to 1 as the cube of the steps: from the posterior as it is before training,
        which should be wide, to the target. For modes that are far apart, best with "alpha"; there
        is no `start` then. Set the width of a surrogate made by a family's name by
        `posterior.flow.adapt(points)`.
      optimizer: of Keras; Adam, whose learning rate falls from 0.002 to 0 along a cosine, if None.
      callbacks: of Keras, which see the metrics "loss" and "elbo", in nats, of every epoch. With
        `BackupAndRestore`, a training that was killed goes on when it is called again, with the
        draws that would have come. `ModelCheckpoint` saves a `FlowModel` of the flow.
      steps_per_epoch: updates that make an epoch; about 100 if None.
      jit_compile: as in `keras.Model.compile`.
      verbose: as in `keras.Model.fit`.
      seed: of all draws: equal seeds give equal results, of steps that XLA compiles other ones.

    Returns:
      the history of Keras: `history.history["elbo"]` has the mean ELBO of every epoch.

    Raises:
      TypeError: `target` or `posterior` is of another type, or `callbacks` are.
      ValueError: an argument is out of range, or a strategy of several replicas in scope; `target`
        gives other shapes, or rows densities that depend on other rows; or a density, or its
        gradient, is not finite during training: the message names the parameter that makes it so.
        The posterior stays as the last step left it.

    Sources: Lorenz Vaitl et al., "Gradients Should Stay on Path" (2022); Abhinav Agrawal and Justin
    Domke, "Disentangling Impact of Capacity, Objective, Batchsize, Estimators, and Step-size on
    Flow VI" (2024).

    Example:
      >>> posterior = vi.surrogate(tfd.JointDistributionSequential([tfd.Gamma(2.0, 1.0)]))
      >>> target = lambda value: tfd.Gamma(2.0, 1.0).log_prob(value[0])
      >>> history = vi.fit(target, posterior, steps=20, sample_size=16, verbose=0)
    """
    if (replicas := tf.distribute.get_strategy().num_replicas_in_sync) > 1:
        raise ValueError(
            "`vi.fit` trains on one device: call it outside of `strategy.scope()`. "
            f"Received: a strategy of {replicas} replicas"
        )
    density = Target(target, posterior)
    positive_int(steps, "steps")
    seed = check_seed(seed) or 0
    model = Variational(
        density,
        sample_size=positive_int(sample_size, "sample_size"),
        objective=one_of(objective, "objective", OBJECTIVES),
        alpha=_check_alpha(alpha),
        gradient=one_of(gradient, "gradient", GRADIENTS),
        context=context,
        batch_size=positive_int(batch_size, "batch_size"),
        bridge=math.ceil(_share(anneal) * steps),
        seed=seed,
    )
    if steps_per_epoch is not None:
        positive_int(steps_per_epoch, "steps_per_epoch")
    epochs = math.ceil(steps / (steps_per_epoch or _STEPS_AN_EPOCH))
    count = steps_per_epoch or math.ceil(steps / epochs)
    density.check(*model.draw(_CHECKED_ROWS))
    if start and not anneal and context is None:
        _start(density, model, seed)
    if optimizer is None:
        schedule = keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, epochs * count)
        optimizer = keras.optimizers.Adam(schedule)
    model.compile(optimizer, jit_compile=jit_compile)
    return model.train(
        epochs, count, callbacks=arguments.check_callbacks(callbacks), verbose=verbose
    )


class Variational(StepsAtATime):
    """A posterior's flow as a Keras model, whose data are its own draws."""

    def __init__(
        self,
        target: Target,
        *,
        sample_size: int,
        objective: str = "reverse_kl",
        alpha: float = 2.0,
        gradient: str = "path",
        context: Any | None = None,
        batch_size: int = 1,
        bridge: int = 0,
        seed: int = 0,
    ):
        super().__init__(name="variational", dtype=target.flow.dtype.name, autocast=False)
        self.flow_model = FlowModel(target.flow)
        self.sample_size = sample_size
        self._target = target
        self._options: dict[str, Any] = {
            "objective": objective,
            "alpha": alpha,
            "gradient": gradient,
        }
        self._seed = tf.constant([seed % 2**31, 0], tf.int32)
        flow = target.flow
        self._batch_size = batch_size
        self._contexts = check_context(context, flow.context_shape, flow.dtype, "this posterior")
        self._bridge = bridge
        self.first_model = None
        if bridge:  # A part of the model, so that a backup has it.
            self.first_model = FlowModel(copy.deepcopy(flow))
            self.first_model.trainable = False
        self._elbo = keras.metrics.Mean(name="elbo")
        self.built = True

    def _context_of(self, seed: tf.Tensor) -> tf.Tensor | None:
        if self._contexts is None:
            return None
        rows = tf.random.stateless_uniform(
            [self._batch_size], seed, 0, len(self._contexts), tf.int32
        )
        return tf.gather(self._contexts, rows)

    def _seeds(self, step: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Seeds of draws and of contexts, which the number of the step gives, after a break too."""
        seed = tf.random.fold_in(self._seed, tf.cast(step, tf.int32))
        return tf.random.fold_in(seed, 0), tf.random.fold_in(seed, 1)

    def draw(self, n: int, step: int = 0) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Rows of the flow `(n, D)`, or `(n * batch_size, D)`, as a step has them; and contexts."""
        seed, context_seed = self._seeds(step)
        context = self._context_of(context_seed)
        z = self._target.flow.given(context).sample(n, seed=seed)
        return _rows(z), _repeat(context, n)

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One update, which is left out if a number of it is not finite."""
        seed, context_seed = self._seeds(self.optimizer.iterations)
        context = self._context_of(context_seed)

        def log_density(z: tf.Tensor) -> tf.Tensor:
            log_prob = self._target(_rows(z), _repeat(context, self.sample_size))
            log_prob = tf.reshape(log_prob, tf.shape(z)[:-1])
            if self.first_model is None:
                return log_prob
            step = tf.cast(self.optimizer.iterations, z.dtype)
            # Modes part where the target has a share of some percent: slowly, by the cube.
            share = tf.minimum(step / self._bridge, tf.ones([], z.dtype)) ** 3
            first = self.first_model.distribution.given(context)
            return share * log_prob + (1 - share) * first.log_prob(z)

        weights = self.trainable_weights
        with tf.GradientTape() as tape:
            flow = self._target.flow.given(context)
            found = estimate(flow, log_density, self.sample_size, seed, **self._options)
            # Of the flow that is trained: the bridge's first one has some of its own.
            losses = self.flow_model.losses
            penalties = [tf.cast(penalty, found.loss.dtype) for penalty in losses]
            gradient_loss = self.optimizer.scale_loss(found.gradient_loss + sum(penalties))
        gradients = tape.gradient(gradient_loss, weights)
        loss, elbo = tf.reduce_mean(found.loss), tf.reduce_mean(found.log_weights)
        finite = all_finite([loss, *gradients])
        update_if(finite, self.optimizer, gradients, weights)
        loss_tracker(self).update_state(tf.where(finite, loss, tf.constant(np.nan, loss.dtype)))
        self._elbo.update_state(elbo)
        return self.compute_metrics(None, None, None)

    def compile(self, optimizer: Any, jit_compile: bool | str = "auto") -> None:
        """Choose the optimizer; see `keras.Model.compile`."""
        self._chooses_steps, self._traced = True, {}
        super().compile(optimizer, jit_compile=jit_compile)
        self.optimizer.build(self.trainable_variables)  # So that weights can be restored.

    def train(
        self,
        epochs: int,
        steps: int,
        *,
        callbacks: list[keras.callbacks.Callback],
        verbose: str | int,
    ) -> keras.callbacks.History:
        """`epochs` times `steps` updates."""
        callbacks = [_StopOnNonFinite(), *callbacks]
        self._choose_steps(self.sample_size, None, callbacks)
        # Keras warns of datasets that it is to shuffle.
        return super().fit(
            tf.data.Dataset.range(steps),
            epochs=epochs,
            callbacks=callbacks,
            shuffle=False,
            verbose=verbose,
        )

    def save(self, filepath: str | os.PathLike[str], **options: Any) -> None:
        """Save the flow, as a `FlowModel`."""
        self.flow_model.save(filepath, **options)

    def explain(self) -> str:
        """What was not finite in the last step."""
        return self._target.explain(*self.draw(self.sample_size, int(self.optimizer.iterations)))


class _StopOnNonFinite(keras.callbacks.Callback):
    """Ends training by an error that says what made the loss NaN or infinite."""

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            raise ValueError(self.model.explain())


def _start(target: Target, model: Variational, seed: int) -> None:
    """Adapt a fresh flow to a Gaussian near the target."""
    if not model.flow_model.awaits_data:
        return
    drawn, _ = model.draw(_FIRST_POINTS)
    first = np.concatenate([np.zeros_like(drawn[:1]), drawn])
    gaussian = closest_gaussian(target, first, seed)
    if gaussian is not None:
        if any(isinstance(b, Whitening) and b.diagonal for b in target.flow.submodules):
            gaussian = independent(gaussian)
        target.flow.adapt(points_of(gaussian), again=False)


def _rows(z: tf.Tensor) -> tf.Tensor:
    """All events one below another, `(n, D)`."""
    return tf.reshape(z, [-1, z.shape[-1]])


def _repeat(context: tf.Tensor | None, n: int) -> tf.Tensor | None:
    """The contexts of `_rows` of `(n, batch, D)`."""
    return None if context is None else tf.concat([context] * n, 0)


def _share(anneal: float) -> float:
    if not 0 <= anneal < 1:
        raise ValueError(f"`anneal` must be 0 or more, and below 1. Received: anneal={anneal!r}")
    return float(anneal)


def _check_alpha(alpha: float) -> float:
    if not math.isfinite(alpha) or alpha in (0, 1):
        raise ValueError(
            "`alpha` must be a finite number, not 0 or 1: these are the objectives 'reverse_kl' "
            f"and 'forward_kl'. Received: alpha={alpha!r}"
        )
    return float(alpha)
