"""MaximumLikelihood: how a density is trained and evaluated with `keras.Model`'s methods."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_flows.batches import check_finite, pack, pairs, unpack
from tfp_flows.guard import StopOnNonFinite

__all__ = ["MaximumLikelihood"]


class MaximumLikelihood(keras.Model):
    """A Keras model whose loss is the mean negative log-likelihood of its data, in nats.

    A subclass has `event_dtype`, `event_shape`, `context_shape`, `log_prob(x, context)`,
    `start_from(pairs)`, which is called before training and may look at the first batch, and
    `explain_non_finite(pairs)`, which says in a sentence what made the loss not finite.
    """

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
        """One update, which is left out if the loss is not finite.

        A gradient that is not finite counts as 0, and the loss is reported as NaN.
        """
        inputs, weight = unpack(data)
        weights = self.trainable_weights
        with tf.GradientTape() as tape:
            log_prob = self(inputs, training=True)
            loss = self.compute_loss(inputs, None, log_prob, weight, training=True)
            scaled_loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled_loss, weights)
        finite = [tf.math.is_finite(loss)]
        if not isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            # That optimizer meets infinite gradients in its search for a scale, and skips them.
            gradients, finite_gradients = _finite_parts(gradients)
            finite += finite_gradients

        def update() -> None:
            self.optimizer.apply_gradients(zip(gradients, weights, strict=True))

        # Of the loss alone, which is known early: with a condition on all gradients, the first
        # update would wait for the last gradient.
        tf.cond(finite[0], update, lambda: None)
        loss = tf.where(tf.reduce_all(finite), loss, tf.constant(np.nan, loss.dtype))
        self._loss_tracker.update_state(loss, sample_weight=tf.size(log_prob))
        return self.compute_metrics(inputs, None, log_prob, weight)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """The loss of one batch, without the layers' losses."""
        inputs, weight = unpack(data)
        return super().test_step((inputs, None, weight))

    def predict_step(self, data: Any) -> tf.Tensor:
        """The log-densities of one batch."""
        inputs, _ = unpack(data)
        return super().predict_step((inputs,))

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

        Raises:
          ValueError: a value of the data is not finite; the message names row and column.
        """
        for part, name in (
            (x, "x"),
            (y, "y"),
            (sample_weight, "sample_weight"),
            (validation_data, "validation_data"),
        ):
            if not (part is x and isinstance(x, tf.data.Dataset) and steps_per_epoch):
                check_finite(part, name)  # A dataset that is not read to its end may be huge.
        self._check_shapes(x, y)
        guard = StopOnNonFinite(lambda: self.explain_non_finite(pairs(x, y)))
        self.start_from(pairs(*_training_rows(x, y, validation_split)))
        self.build_optimizer()
        if isinstance(validation_data, tuple | list):
            validation_data = pack(*validation_data)
        packed_x, packed_y, sample_weight = pack(x, y, sample_weight)
        callbacks = [callbacks] if isinstance(callbacks, keras.callbacks.Callback) else callbacks
        with self._floatx():
            return super().fit(
                packed_x,
                packed_y,
                batch_size=batch_size,
                epochs=epochs,
                verbose=verbose,
                callbacks=[guard, *(callbacks or ())],
                validation_split=validation_split,
                validation_data=validation_data,
                shuffle=shuffle and not isinstance(x, tf.data.Dataset),
                sample_weight=sample_weight,
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch,
                validation_steps=validation_steps,
                validation_batch_size=validation_batch_size,
                validation_freq=validation_freq,
            )

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
        self._check_shapes(x, y)
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
        self._check_shapes(x, None)
        with self._floatx():
            return super().predict(
                x, batch_size=batch_size, verbose=verbose, steps=steps, callbacks=callbacks
            )

    def build_optimizer(self) -> None:
        """Make the optimizer's variables now: in the training step, they have it traced twice."""
        if self.compiled and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)

    def _check_shapes(self, x: Any, y: Any) -> None:
        """Raise a ValueError unless arrays have the shapes of context and events."""
        pair = y is None and isinstance(x, tuple | list) and len(x) == 2
        context, events = x if pair else (x, y)
        if events is None:
            context, events = None, context
        shapes = [("events", events, tuple(self.event_shape))]
        if self.context_shape is not None and np.shape(context)[-1:] != (0,):
            shapes.append(("context", context, tuple(self.context_shape)))
        for what, array, shape in shapes:
            if hasattr(array, "__array__") and np.shape(array)[1:] != shape:
                need = ", ".join(map(str, ("n", *shape)))
                raise ValueError(
                    f"The {what} must have shape ({need}). Received: shape={np.shape(array)}"
                )

    @contextlib.contextmanager
    def _floatx(self) -> Iterator[None]:
        """Keras casts arrays to its `floatx`: let that be the event's dtype meanwhile."""
        before = keras.config.floatx()
        keras.config.set_floatx(self.event_dtype)
        try:
            yield
        finally:
            keras.config.set_floatx(before)


def _finite_parts(gradients: Sequence[Any]) -> tuple[list[Any], list[tf.Tensor]]:
    """Gradients, with zeros for those that are not finite, and whether each is."""
    found, finite = [], []
    for gradient in gradients:
        if gradient is not None:
            gradient = tf.convert_to_tensor(gradient)
            # Of finite numbers, a sum is finite, unless they are beyond use.
            finite.append(tf.math.is_finite(tf.reduce_sum(gradient)))
            gradient = tf.where(finite[-1], gradient, tf.zeros([], gradient.dtype))
        found.append(gradient)
    return found, finite


def _training_rows(x: Any, y: Any, validation_split: float) -> tuple[Any, Any]:
    """Arrays without the rows at their end that Keras will split off; anything else as it is."""
    if not validation_split:
        return x, y

    def training(part: Any) -> Any:
        return part[: int(len(part) * (1 - validation_split))] if hasattr(part, "shape") else part

    x = tuple(map(training, x)) if isinstance(x, tuple | list) else training(x)
    return x, training(y)
