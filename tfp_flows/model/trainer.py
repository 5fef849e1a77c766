"""MaximumLikelihood: how a density is trained and evaluated with `keras.Model`'s methods."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_flows.model.adam import one_operation_a_weight
from tfp_flows.model.arrays import is_array
from tfp_flows.model.data import (
    arrays_of,
    check_finite,
    check_inputs,
    check_rows,
    epoch_of_batches,
    pack,
    pairs,
    split_off,
    training_rows,
    unpack,
)
from tfp_flows.model.guard import StopOnNonFinite, all_finite
from tfp_flows.ops.internals import loss_tracker

__all__ = ["MaximumLikelihood"]

_CHEAP_STEP = 1e9  # Rows times parameters: on two cores, some 0.1 seconds.
_STEPS_AT_A_TIME = 32
_VALIDATION_NAMES = [f"validation_data[{i}]" for i in range(3)]


class MaximumLikelihood(keras.Model):
    """A Keras model whose loss is the mean negative log-likelihood of its data, in nats.

    A subclass has `event_dtype`, `event_shape`, `context_shape`, `log_prob(x, context)`,
    `initialize_from(pairs)`, which is called before training and may look at the first batch, and
    `explain_non_finite(pairs)`, which says in a sentence what made the loss not finite.
    """

    _chooses_steps = False

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """`log_prob` of `x`, or of `(context, x)`."""
        context, x = inputs if isinstance(inputs, tuple | list) else (None, inputs)
        return self.log_prob(x, context)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ) -> tf.Tensor:
        """Mean negative log-likelihood; with the layers' losses in training."""
        loss = -y_pred
        if sample_weight is not None:
            loss *= tf.reshape(tf.cast(sample_weight, loss.dtype), tf.shape(loss))
        loss = tf.reduce_mean(loss)
        if training:
            loss += sum(tf.cast(penalty, loss.dtype) for penalty in self.losses)
        return loss

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One update, which is left out, with a loss of NaN, if a number of it is not finite.

        It is left out, too, after a loss of this epoch that was not finite.
        """
        inputs, weight = unpack(data)
        weights = self.trainable_weights
        with tf.GradientTape() as tape:
            log_prob = self(inputs, training=True)
            loss = self.compute_loss(inputs, None, log_prob, weight, training=True)
            scaled_loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled_loss, weights)
        # Of many steps at a time, those after the first bad loss change nothing either.
        numbers = [loss, loss_tracker(self).total]
        if not isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            # That optimizer meets infinite gradients in its search for a scale, and skips them.
            numbers += gradients
        finite = all_finite(numbers)

        def update() -> None:
            with one_operation_a_weight(self.optimizer):
                self.optimizer.apply_gradients(zip(gradients, weights, strict=True))

        tf.cond(finite, update, lambda: None)
        loss = tf.where(finite, loss, tf.constant(np.nan, loss.dtype))
        loss_tracker(self).update_state(loss, sample_weight=tf.size(log_prob))
        return self.compute_metrics(inputs, None, log_prob, weight)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """The loss of one batch, without the layers' losses."""
        inputs, weight = unpack(data)
        return super().test_step((inputs, None, weight))

    def predict_step(self, data: Any) -> tf.Tensor:
        """The log-densities of one batch."""
        inputs, _ = unpack(data)
        return super().predict_step((inputs,))

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "rmsprop",
        loss: None = None,
        loss_weights: None = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int | str = "auto",
        jit_compile: bool | str = "auto",
        auto_scale_loss: bool = True,
    ) -> None:
        """Choose the optimizer and how steps are run; see `keras.Model.compile`.

        `jit_compile="auto"` is Keras' choice: XLA on GPU, plain graphs on CPU. There, the splines
        are compiled by XLA alone, and the networks around them are faster without it.
        `steps_per_execution="auto"` runs 32 steps at a time where a step takes little work (see
        `fit`), else one.
        """
        self._chooses_steps = steps_per_execution == "auto"
        self._traced: dict[int, list] = {}
        super().compile(
            optimizer,
            loss=loss,
            loss_weights=loss_weights,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
            run_eagerly=run_eagerly,
            steps_per_execution=1 if self._chooses_steps else steps_per_execution,
            jit_compile=jit_compile,
            auto_scale_loss=auto_scale_loss,
        )

    def get_compile_config(self) -> dict | None:
        config = super().get_compile_config()
        if config and self._chooses_steps:
            config["steps_per_execution"] = "auto"
        return config

    def compile_from_config(self, config: dict) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.build_optimizer()

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Sequence[keras.callbacks.Callback] | keras.callbacks.Callback | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int = 1,
    ) -> keras.callbacks.History:
        """Maximize the likelihood of `x`, or of `y` given the context `x`; see `keras.Model.fit`.

        If the loss turns NaN or infinite, training stops with a warning that names the first layer
        that made it, and the best weights of the epochs before are restored.

        Unless `compile` was told otherwise, 32 steps at a time are run without a word to Python, if
        they are of arrays, with less than 10⁹ products of rows and parameters a step, and no
        callback asks to be called at batches: in small flows these calls take as long as the step.

        Raises:
          ValueError: a value of the data is not finite; the message names row and column.
        """
        x, y, sample_weight = check_inputs(x, y, sample_weight)
        if isinstance(validation_data, tuple | list):
            validation_data = check_inputs(*validation_data, names=_VALIDATION_NAMES)
            self._check_shapes(*validation_data)
        given = {"x": x, "y": y, "sample_weight": sample_weight, "validation_data": validation_data}
        for name, part in given.items():
            # A dataset that is not read to its end may be huge.
            if not (part is x and isinstance(x, tf.data.Dataset) and steps_per_epoch):
                check_finite(part, name, self.event_dtype)
        self._check_shapes(x, y, sample_weight)
        guard = StopOnNonFinite(lambda: self.explain_non_finite(pairs(x, y)))
        self.initialize_from(pairs(*training_rows(x, y, validation_split)))
        self.build_optimizer()
        if isinstance(validation_data, tuple | list):
            validation_data = pack(*validation_data)
        packed_x, packed_y, sample_weight = pack(x, y, sample_weight)
        if isinstance(callbacks, keras.callbacks.Callback):
            callbacks = [callbacks]
        callbacks = [guard, *(callbacks or ())]
        arrays = arrays_of(packed_x, packed_y, sample_weight)
        if arrays is None or steps_per_epoch is not None:
            self._set_steps(1)
        else:
            arrays, held_out = split_off(
                arrays, validation_split if validation_data is None else 0.0
            )
            validation_data, validation_split = held_out or validation_data, 0.0
            batch_size = batch_size or 32
            validation_batch_size = validation_batch_size or batch_size
            self._choose_steps(batch_size, validation_steps, callbacks)
            packed_x = epoch_of_batches(
                arrays, batch_size, shuffle=bool(shuffle), dtype=self.event_dtype
            )
            packed_y = sample_weight = batch_size = None
        with self._floatx():
            history = super().fit(
                packed_x,
                packed_y,
                batch_size=batch_size,
                epochs=epochs,
                verbose=verbose,
                callbacks=callbacks,
                validation_split=validation_split,
                validation_data=validation_data,
                shuffle=shuffle and not isinstance(packed_x, tf.data.Dataset),
                sample_weight=sample_weight,
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch,
                validation_steps=validation_steps,
                validation_batch_size=validation_batch_size,
                validation_freq=validation_freq,
            )
        self._set_steps(1)  # Of evaluations, too, steps may be counted.
        return history

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        return_dict: bool = False,
        **keras_internal: Any,
    ) -> float | dict[str, float]:
        """Mean negative log-likelihood of `x`, or of `y` given the context `x`, in nats.

        As everywhere in Keras, weighted rows are summed and divided by their number.
        """
        x, y, sample_weight = check_inputs(x, y, sample_weight)
        self._check_shapes(x, y, sample_weight)
        x, y, sample_weight = pack(x, y, sample_weight)
        with self._floatx():
            return super().evaluate(
                x,
                y,
                batch_size=batch_size,
                verbose=verbose,
                sample_weight=sample_weight,
                steps=steps,
                callbacks=callbacks,
                return_dict=return_dict,
                **keras_internal,
            )

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        steps: int | None = None,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
    ) -> np.ndarray:
        """Log-density in nats of every row of `x`, an array or `(context, x)`."""
        if hasattr(batch_size, "shape"):
            raise ValueError("`x` must be one argument: call `predict((context, x))`.")
        x, _, _ = check_inputs(x)
        self._check_shapes(x)
        with self._floatx():
            return super().predict(
                x, batch_size=batch_size, verbose=verbose, steps=steps, callbacks=callbacks
            )

    def _choose_steps(
        self,
        batch_size: int,
        validation_steps: int | None,
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> None:
        """Run many steps at a time if they are light and nobody counts or watches them."""
        parameters = sum(math.prod(weight.shape) for weight in self.trainable_weights)
        watched = any(map(_watches_batches, callbacks[1:]))  # The first, our guard, can wait.
        counted = validation_steps is not None or self.run_eagerly
        heavy = batch_size * parameters > _CHEAP_STEP
        self._set_steps(1 if watched or counted or heavy else _STEPS_AT_A_TIME)

    def _set_steps(self, steps: int) -> None:
        """Set `steps_per_execution`, unless `compile` did."""
        if not self._chooses_steps or steps == self.steps_per_execution:
            return
        # They were traced for that number; back to it, they need not be traced again.
        traced = (self.train_function, self.test_function, self.predict_function)
        self._traced[self.steps_per_execution] = traced
        self.steps_per_execution = steps
        traced = self._traced.get(steps, (None, None, None))
        self.train_function, self.test_function, self.predict_function = traced

    def build_optimizer(self) -> None:
        """Make the optimizer's variables now: in the training step, they have it traced twice."""
        if self.compiled and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)

    def _check_shapes(self, x: Any, y: Any = None, sample_weight: Any = None) -> None:
        """Raise a ValueError unless arrays have the shapes of context and events."""
        pair = y is None and isinstance(x, tuple | list) and len(x) == 2
        context, events = x if pair else (x, y)
        if events is None:
            context, events = None, context
        shapes = [("events", events, tuple(self.event_shape))]
        if self.context_shape is not None and np.shape(context)[-1:] != (0,):
            shapes.append(("context", context, tuple(self.context_shape)))
        for what, array, shape in shapes:
            if is_array(array) and np.shape(array)[1:] != shape:
                need = ", ".join(map(str, ("n", *shape)))
                raise ValueError(
                    f"The {what} must have shape ({need}). Received: shape={np.shape(array)}"
                )
        check_rows(context=context, events=events, sample_weight=sample_weight)

    @contextlib.contextmanager
    def _floatx(self) -> Iterator[None]:
        """Keras casts arrays to its `floatx`: let that be the event's dtype meanwhile."""
        before = keras.config.floatx()
        keras.config.set_floatx(self.event_dtype)
        try:
            yield
        finally:
            keras.config.set_floatx(before)


def _watches_batches(callback: keras.callbacks.Callback) -> bool:
    """Whether it does something before or after a batch."""
    names = ["on_batch_begin", "on_batch_end"]
    names += [f"on_{what}_batch_{end}" for what in ("train", "test") for end in ("begin", "end")]
    return any(
        getattr(getattr(callback, name), "__func__", None)
        is not getattr(keras.callbacks.Callback, name)
        for name in names
    )
