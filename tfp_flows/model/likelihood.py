"""The loss and the steps of a density: a Keras model that maximizes a likelihood."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_flows.model import arguments
from tfp_flows.model.column_names import ColumnNames
from tfp_flows.model.data import unpack
from tfp_flows.model.execution import StepsAtATime, with_data
from tfp_flows.model.guard import all_finite
from tfp_flows.model.replicas import check_scope, replica_count, sum_over_replicas, update_if
from tfp_flows.ops.internals import loss_tracker

__all__ = ["Likelihood"]

_FROZEN = (
    "There is nothing to train: all weights are frozen. Set `trainable = True` on the model or on "
    "a layer."
)


class Likelihood(StepsAtATime):
    """A Keras model whose loss is the mean negative log-likelihood of its data, in nats.

    A subclass has `event_dtype`, `event_shape`, `context_shape` and `columns`, and the methods
    `log_prob`, `initialize_from` and `explain_non_finite`.
    """

    event_dtype: str
    event_shape: tf.TensorShape
    context_shape: tuple[int, ...] | None
    columns: ColumnNames  # Of tables that it has been trained on.
    objective: str | None = None  # A loss of training by its name, or the likelihood.
    infinite_events = False  # Whether events may have infinite entries, as ends of intervals.
    has_probabilities = False  # Whether all columns are rounded: the loss is of a probability.

    def log_prob(self, x: Any, context: Any | None = None) -> tf.Tensor:
        """Log-density in nats at events `x`, given `context`."""
        raise NotImplementedError

    @property
    def awaits_data(self) -> str | None:
        """What `initialize_from` has to see data for, before training, or None."""
        return None

    def initialize_from(self, pairs: Iterator[tuple[Any, Any]]) -> None:
        """Called before training if something awaits data, with pairs of context and events."""
        raise NotImplementedError

    def check_objective(self, loss: str, jit_compile: bool | str) -> bool | str:
        """Raise an error unless `loss` can be trained; what to do about `jit_compile` then."""
        raise NotImplementedError

    def matching_loss(self, x: Any, context: Any | None) -> tf.Tensor:
        """What training minimizes in place of `-log_prob`, for every row."""
        raise NotImplementedError

    def explain_non_finite(self, pairs: Iterator[tuple[Any, Any]]) -> str:
        """A sentence that says what made the loss not finite."""
        raise NotImplementedError

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """`log_prob` of `x`, or of `(context, x)`."""
        if training and (waiting := self.awaits_data):  # Before our own training nothing does.
            warnings.warn(
                f"{waiting!r} in {self.name!r} has seen no data: call `adapt` before training in a "
                "model or loop of your own.",
                stacklevel=2,
            )
        context, x = inputs if isinstance(inputs, tuple | list) else (None, inputs)
        if training and self.objective is not None:
            return -self.matching_loss(x, context)
        return self.log_prob(x, context)

    def compute_output_shape(self, input_shape: Sequence[Any]) -> tuple[int | None, ...]:
        """The batch shape of events, or of `(context, events)`, by their shapes."""
        pair = len(input_shape) > 0 and isinstance(input_shape[0], tuple | list | tf.TensorShape)
        events = tuple(input_shape[1] if pair else input_shape)
        return events[: len(events) - len(self.event_shape)]

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        """Mean negative log-likelihood; with the layers' losses in training.

        On the replicas of a `tf.distribute` strategy it is this one's share: their sum is the mean
        over the rows of all.
        """
        loss, replicas = -y_pred, replica_count()
        if sample_weight is not None:
            arguments.check_weight_shape(sample_weight.shape)
            loss *= tf.reshape(tf.cast(sample_weight, loss.dtype), tf.shape(loss))
        if replicas == 1:
            loss = tf.reduce_mean(loss)
        else:  # Of the last rows of an epoch, one replica may have fewer, or none.
            (rows,) = sum_over_replicas([tf.cast(tf.size(loss), loss.dtype)])
            loss = tf.reduce_sum(loss) / rows
        if training:
            loss += sum(tf.cast(penalty, loss.dtype) for penalty in self.losses) / replicas
        return loss

    @with_data
    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One update, which is left out, with a loss of NaN, if a number of it is not finite.

        It is left out, too, after a loss of this epoch that was not finite.
        """
        inputs, weight = unpack(data)
        weights = self.trainable_weights
        if not weights:
            raise ValueError(_FROZEN)
        with tf.GradientTape() as tape:
            log_prob = self(inputs, training=True)
            loss = self.compute_loss(inputs, None, log_prob, weight, training=True)
            scaled_loss = self.optimizer.scale_loss(loss)
        # Of many steps at a time, those after the first bad loss change nothing either.
        loss, before, *gradients = sum_over_replicas(
            [loss, loss_tracker(self).total, *tape.gradient(scaled_loss, weights)]
        )
        numbers = [loss, before]
        if not isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            # That optimizer meets infinite gradients in its search for a scale, and skips them.
            numbers += gradients
        finite = all_finite(numbers)
        update_if(finite, self.optimizer, gradients, weights)
        loss = tf.where(finite, loss, tf.constant(np.nan, loss.dtype))
        loss_tracker(self).update_state(loss, sample_weight=tf.size(log_prob))
        return self.compute_metrics(inputs, None, log_prob, weight)

    @with_data
    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """The loss of one batch, without the layers' losses."""
        inputs, weight = unpack(data)
        log_prob = self(inputs, training=False)
        loss = self.compute_loss(inputs, None, log_prob, weight, training=False)
        (loss,) = sum_over_replicas([loss])
        loss_tracker(self).update_state(loss, sample_weight=tf.size(log_prob))
        return self.compute_metrics(inputs, None, log_prob, weight)

    def predict_step(self, data: Any) -> tf.Tensor:
        """The log-densities of one batch."""
        inputs, _ = unpack(data)
        return super().predict_step((inputs,))

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "rmsprop",
        loss: str | None = None,
        loss_weights: None = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int | str = "auto",
        jit_compile: bool | str = "auto",
        auto_scale_loss: bool = True,
    ) -> None:
        """Choose the loss, the optimizer and how steps are run; see `keras.Model.compile`.

        The loss is the negative log-likelihood. A flow with one `Continuous` bijector, as
        `flows.ffjord` is, can also be trained by `loss="flow_matching"`, a regression of its
        velocity that solves no equation, or "ot_flow_matching", which pairs the draws and events of
        a batch such that paths are short. Only the `loss` of training is another one then, a
        squared speed in the flow's units: `evaluate`, `val_loss`, `log_prob` and `sample` are those
        of the density. Averages of weights pay, `keras.optimizers.Adam(use_ema=True)`.

        `jit_compile="auto"` is Keras' choice: XLA on GPU, plain graphs on CPU. There, the splines
        are compiled by XLA alone, and the networks around them are faster without it.
        `steps_per_execution="auto"` runs 32 steps at a time where a step takes little work (see
        `fit`), else one.

        Raises:
          ValueError: the loss is another one, or does not fit the distribution;
            `steps_per_execution` or `jit_compile` is another choice; weights of losses or metrics
            are given, which compare with targets, and a density has none; or the model was made in
            the scope of a `tf.distribute` strategy, and the optimizer was not, or has several
            replicas and options that Keras cannot follow there.
        """
        arguments.check_compile(
            loss, loss_weights, metrics, weighted_metrics, steps_per_execution, jit_compile
        )
        if loss is not None:
            jit_compile = self.check_objective(loss, jit_compile)
        self.objective = loss
        self._chooses_steps = steps_per_execution == "auto"
        self._traced = {}
        with self.distribute_strategy.scope():
            super().compile(
                optimizer,
                run_eagerly=run_eagerly,
                steps_per_execution=1 if self._chooses_steps else steps_per_execution,
                jit_compile=jit_compile,
                auto_scale_loss=auto_scale_loss,
            )
            if self.optimizer is not None:
                check_scope([v.value for v in self.optimizer.variables], "`optimizer`")
        if self.optimizer is not None and self.distribute_strategy.num_replicas_in_sync > 1:
            arguments.check_replicas(self.optimizer, steps_per_execution, jit_compile)

    def get_compile_config(self) -> dict[str, Any] | None:
        config = super().get_compile_config()
        if config and self._chooses_steps:
            config["steps_per_execution"] = "auto"
        if config:
            config["loss"] = self.objective
        return config

    def check_trainable(self) -> None:
        """Raise a ValueError unless there are weights to train, on all replicas."""
        if not self.trainable_weights:
            raise ValueError(_FROZEN)
        with self.distribute_strategy.scope():
            check_scope([weight.value for weight in self.weights], "The model")

    def quantize(self, mode: Any, config: Any = None, **kwargs: Any) -> None:
        """Refuse: rounded weights are another density, whose log-density would be off by nats."""
        raise ValueError(
            "A density cannot be quantized: its networks need their full precision. For less "
            f"memory use mixed precision. Received: mode={mode!r}"
        )
