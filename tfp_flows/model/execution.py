"""How many training steps run without a word to Python between them."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfp_flows.ops.internals import BuiltModel, loss_tracker

__all__ = ["StepsAtATime", "with_data"]

_CHEAP_STEP = 1e9  # Rows times parameters: on two cores, some 0.1 seconds.
_STEPS_AT_A_TIME = 32


class StepsAtATime(BuiltModel):
    """A Keras model that sets its own `steps_per_execution`, unless `compile` was told it."""

    # Set by Keras.
    steps_per_execution: int
    train_function: Any
    test_function: Any
    predict_function: Any

    _chooses_steps = False
    _fits = False  # Whether `fit` is running.
    _traced: dict[int, tuple[Any, Any, Any]]

    def _choose_steps(
        self,
        batch_size: int,
        validation_steps: int | None,
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> None:
        """Run many steps at a time if they are cheap and nobody counts or watches them."""
        parameters = sum(math.prod(weight.shape) for weight in self.trainable_weights)
        watched = any(map(_watches_batches, callbacks[1:]))  # The first, our guard, can wait.
        counted = validation_steps is not None or self.run_eagerly
        heavy = batch_size * parameters > _CHEAP_STEP
        # Keras 3.15 cannot run several steps at a time of several replicas.
        spread = self.distribute_strategy.num_replicas_in_sync > 1
        one = watched or counted or heavy or spread
        self._set_steps(1 if one else _STEPS_AT_A_TIME)

    @contextlib.contextmanager
    def _single_steps(self) -> Iterator[None]:
        """Room for a callback's own calls: steps one by one, and the training loss left alone."""
        before = self.steps_per_execution
        tracker = loss_tracker(self).variables if self._fits else []
        loss = [variable.numpy() for variable in tracker]
        self._set_steps(1)
        try:
            yield
        finally:
            self._set_steps(before)
            for variable, value in zip(tracker, loss, strict=True):
                variable.assign(value)

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


def _watches_batches(callback: keras.callbacks.Callback) -> bool:
    """Whether it does something before or after a batch."""
    names = ["on_batch_begin", "on_batch_end"]
    names += [f"on_{what}_batch_{end}" for what in ("train", "test") for end in ("begin", "end")]
    return any(
        getattr(getattr(callback, name), "__func__", None)
        is not getattr(keras.callbacks.Callback, name)
        for name in names
    )


def with_data(step: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A model's `train_step` or `test_step`, of which nothing runs before there are data.

    A dataset that does not know its length ends in one step more, in which Keras asks for data in
    vain. What needs none would run even so, as the count of rows does if the size of batches is
    fixed: the mean loss of 3 batches would be their sum, divided by 4.
    """

    @functools.wraps(step)
    def waiting(self: Any, data: Any) -> Any:
        with tf.control_dependencies([x for x in tf.nest.flatten(data) if tf.is_tensor(x)]):
            return step(self, data)

    return waiting
