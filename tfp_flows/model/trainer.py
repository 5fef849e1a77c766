"""MaximumLikelihood: the methods of `keras.Model` by which a density is trained and evaluated."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_flows.distributions.dequantized import bits_per_dim
from tfp_flows.model import arguments
from tfp_flows.model.arrays import is_array
from tfp_flows.model.column_names import ColumnNames
from tfp_flows.model.data import (
    arrays_of,
    check_finite,
    check_inputs,
    check_rows,
    first_batch,
    pack,
    pairs,
    some_batches,
    split_off,
    training_rows,
)
from tfp_flows.model.epochs import Epochs
from tfp_flows.model.guard import StopOnNonFinite, mean_loss
from tfp_flows.model.likelihood import Likelihood
from tfp_flows.model.solver_check import warn_of_steps
from tfp_flows.ops.internals import DefaultStrategy

__all__ = ["MaximumLikelihood"]

_VALIDATION_NAMES = [f"validation_data[{i}]" for i in range(3)]


class MaximumLikelihood(Likelihood):
    """`fit`, `evaluate` and `predict` of a density, and the same on one batch."""

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
        class_weight: None = None,
    ) -> keras.callbacks.History:
        """Maximize the likelihood of `x`, or of `y` given the context `x`; see `keras.Model.fit`.

        If the loss turns NaN or infinite, or an update makes weights so, training stops with a
        warning that names the first layer that made it, and the best finite weights that there were
        at the ends of epochs, or before training, are restored.

        Unless `compile` was told otherwise, 32 steps at a time are run without a word to Python, if
        they are of arrays, with less than 10⁹ products of rows and parameters a step, and no
        callback asks to be called at batches: in small flows these calls take as long as the step.

        Raises:
          ValueError: a value of the data is not finite; the message names row and column. Or there
            are no data, or nothing to train, or an argument is out of range.
        """
        x, y, sample_weight = check_inputs(x, y, sample_weight)
        arguments.check_fit(epochs, validation_split, class_weight, validation_freq)
        arguments.check_batch_size(batch_size)
        arguments.check_batch_size(validation_batch_size, "validation_batch_size")
        arguments.require_rows(x)
        if validation_data is not None:
            validation_data = self._check_validation_data(validation_data)
        given = {"x": x, "y": y, "sample_weight": sample_weight, "validation_data": validation_data}
        for name, part in given.items():
            # A dataset that is not read to its end may be huge.
            if not (part is x and isinstance(x, tf.data.Dataset) and steps_per_epoch):
                check_finite(part, name, self.event_dtype, infinite=self.infinite_events)
        self._check_shapes(x, y, sample_weight)
        self.check_trainable()
        arguments.require_compiled(self, "fit")
        columns = ColumnNames(self.columns.known)
        columns.keep(*_context_and_events(x, y))
        if isinstance(validation_data, tuple):
            columns.check(*_context_and_events(*validation_data[:2]))
        self.columns = columns
        x = self._initialize(x, y, validation_split)
        if isinstance(validation_data, tuple):
            validation_data = pack(*validation_data)
        packed_x, packed_y, sample_weight = pack(x, y, sample_weight)
        callbacks = arguments.check_callbacks(callbacks)
        arrays = arrays_of(packed_x, packed_y, sample_weight)
        training: Any = x if arrays is None else arrays
        validation: Any = None
        once = isinstance(x, Iterator)  # What Keras reads cannot be read by others, too.
        guard = StopOnNonFinite(
            explain=lambda: self.explain_non_finite(iter(()) if once else pairs(x, y)),
            judge=lambda: mean_loss(self, some_batches(training, steps_per_epoch)),
            validate=lambda: mean_loss(self, some_batches(validation, validation_steps)),
        )
        callbacks = [guard, *callbacks]
        if arrays is None or steps_per_epoch is not None:
            self._set_steps(1)
        else:
            share = validation_split if validation_data is None else 0.0
            training, held_out = split_off(arrays, share)
            validation_data, validation_split = held_out or validation_data, 0.0
            batch_size = batch_size or 32
            validation_batch_size = validation_batch_size or batch_size
            self._choose_steps(batch_size, validation_steps, callbacks)
            packed_x = self._epochs(training, batch_size, shuffle=bool(shuffle))
            packed_y = sample_weight = batch_size = None
        if validation_data is not None:
            parts = arrays_of(*keras.utils.unpack_x_y_sample_weight(validation_data))
            validation = validation_data if parts is None else parts
            if parts is not None and validation_steps is None:
                size = validation_batch_size or batch_size or 32
                validation_data = self._epochs(parts, size, shuffle=False)
        with self._floatx():
            self._fits = True
            try:
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
            finally:
                self._fits = False
                self._set_steps(1)  # Of evaluations, too, steps may be counted.
        guard.keep()
        warn_of_steps(self, some_batches(training, steps_per_epoch))
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

        As everywhere in Keras, weighted rows are summed and divided by their number. With
        `return_dict=True`, of a distribution of rounded values, there is `bits_per_dim`, too.
        """
        x, y, sample_weight = check_inputs(x, y, sample_weight)
        arguments.check_batch_size(batch_size)
        arguments.require_rows(x)
        self._check_shapes(x, y, sample_weight)
        x, y, sample_weight = pack(x, y, sample_weight)
        # Validation by `fit` goes on as training does.
        single = contextlib.nullcontext() if keras_internal else self._single_steps()
        with self._floatx(), single:
            result = super().evaluate(
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
        if return_dict and self.has_probabilities:
            result["bits_per_dim"] = bits_per_dim(result["loss"], self.event_shape)
        return result

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
        arguments.check_batch_size(batch_size)
        self._check_shapes(x)
        if arguments.has_no_rows(x):
            return np.zeros(0, self.event_dtype)
        with self._floatx(), self._single_steps():
            return super().predict(
                x, batch_size=batch_size, verbose=verbose, steps=steps, callbacks=callbacks
            )

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: None = None,
        return_dict: bool = False,
    ) -> Any:
        """One step on the events `x`, or on `y` given the context `x`."""
        arguments.check_fit(class_weight=class_weight)
        x, y, sample_weight = self._batch(x, y, sample_weight)
        self.check_trainable()
        arguments.require_compiled(self, "train_on_batch")
        self._initialize(x, y)
        with self._single_steps():
            return super().train_on_batch(x, y, sample_weight, return_dict=return_dict)

    def test_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """Mean negative log-likelihood of the events `x`, or of `y` given `x`, in nats."""
        x, y, sample_weight = self._batch(x, y, sample_weight)
        with self._single_steps():
            return super().test_on_batch(x, y, sample_weight, return_dict=return_dict)

    def predict_on_batch(self, x: Any) -> np.ndarray:
        """Log-density in nats of every row of `x`, an array or `(context, x)`."""
        x, _, _ = self._batch(x, None, None)
        if self.distribute_strategy.num_replicas_in_sync > 1:  # Each would return all rows.
            rows = len(x[0] if isinstance(x, tuple | list) else x)
            return self.predict(x, batch_size=rows, verbose=0)
        with self._single_steps():
            return super().predict_on_batch(x)

    def _batch(self, x: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        x, y, sample_weight = check_inputs(x, y, sample_weight)
        arguments.require_rows(x)
        self._check_shapes(x, y, sample_weight)
        return x, y, sample_weight

    def _initialize(self, x: Any, y: Any, validation_split: float = 0.0) -> Any:
        """Initialize from the first batch what awaits data. Returns `x`, of which none is lost."""
        if self.awaits_data:
            rows = training_rows(x, y, validation_split)
            if isinstance(x, Iterator):
                first, x = first_batch(x)
                rows = iter([first]), None
            self.initialize_from(pairs(*rows))
        self.build_optimizer()
        return x

    def _check_validation_data(self, data: Any) -> Any:
        """Checked events, context and weights; datasets and the like as they are."""
        names = _VALIDATION_NAMES
        if not arguments.is_parts(data):
            data, names = (data,), ["validation_data", "", ""]
        arguments.check_validation_data(data)
        x, y, weight = (*data, None, None)[:3]
        x, y, weight = check_inputs(x, y, weight, names)
        arguments.require_rows(x, "validation_data")
        self._check_shapes(x, y, weight)
        reader = not (is_array(x) or isinstance(x, tuple))
        if reader and (y is not None or weight is not None):
            raise ValueError(
                "`validation_data` must be arrays, or a dataset alone, whose elements have context "
                f"and weights. Received: {type(x).__name__} beside others"
            )
        if self.context_shape is not None and is_array(x) and y is None:
            raise ValueError(
                "`validation_data` must have context and events, (context, events). "
                "Received: events alone"
            )
        return x if reader else (x, y, weight)

    def _check_shapes(self, x: Any, y: Any = None, sample_weight: Any = None) -> None:
        """Raise a ValueError unless arrays have the shapes of context and events."""
        if isinstance(x, tf.data.Dataset):
            self._check_elements(x)
        context, events = _context_and_events(x, y)
        self.columns.check(context, events)
        shapes = [("events", events, tuple(self.event_shape))]
        if self.context_shape is not None and np.shape(context)[-1:] != (0,):
            shapes.append(("context", context, tuple(self.context_shape)))
        for what, array, shape in shapes:
            if is_array(array) and np.shape(array)[1:] != shape:
                need = ", ".join(map(str, ("n", *shape)))
                raise ValueError(
                    f"The {what} must have shape ({need}). Received: shape={np.shape(array)}"
                )
        if is_array(sample_weight) or np.isscalar(sample_weight):
            arguments.check_weight_shape(np.shape(sample_weight))
        check_rows(context=context, events=events, sample_weight=sample_weight)

    def _check_elements(self, data: tf.data.Dataset) -> None:
        """Raise a ValueError for a dataset whose elements are known not to be batches of events."""
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data.element_spec)
        events = y if isinstance(y, tf.TensorSpec) else x
        need = tf.TensorShape([None, *self.event_shape])
        if isinstance(events, tf.TensorSpec) and not events.shape.is_compatible_with(need):
            raise ValueError(
                f"A dataset must have batches of events of shape {tuple(need)}, made by `batch`. "
                f"Received: shape={tuple(events.shape)}"
            )

    def _epochs(
        self, parts: Sequence[Any], batch_size: int, *, shuffle: bool
    ) -> Epochs | tf.data.Dataset:
        epochs = Epochs(parts, batch_size, shuffle=shuffle, dtype=self.event_dtype)
        alone = isinstance(self.distribute_strategy, DefaultStrategy)
        return epochs if alone else epochs.as_dataset()

    @contextlib.contextmanager
    def _floatx(self) -> Iterator[None]:
        """Keras casts arrays to its `floatx`: let that be the event's dtype meanwhile."""
        before = keras.config.floatx()
        keras.config.set_floatx(self.event_dtype)
        try:
            yield
        finally:
            keras.config.set_floatx(before)


def _context_and_events(x: Any, y: Any) -> tuple[Any, Any]:
    """What is which of the data that Keras' methods take."""
    if y is None:
        return tuple(x) if isinstance(x, tuple | list) and len(x) == 2 else (None, x)
    return x, y
