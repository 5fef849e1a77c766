"""What is done when training breaks: stop, say why, and go back to the best finite weights."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_flows.model.data import joined
from tfp_flows.ops.internals import restart_averages

__all__ = ["StopOnNonFinite", "all_finite", "mean_loss"]

_SNAPSHOTS = 3
_JUMP = 1e3


@dataclasses.dataclass
class _Snapshot:
    """Weights of the model, and what was measured of them during training."""

    weights: list[np.ndarray]
    origin: str
    loss: float = math.inf
    validated: bool = False  # Whether `loss` is of validation, so measured with these very weights.

    def is_finite(self) -> bool:
        return all(np.isfinite(array).all() for array in self.weights)


class StopOnNonFinite(keras.callbacks.Callback):
    """End training when the loss is NaN or infinite: say why, and go back to the best weights.

    `FlowModel.fit` puts it into every training. Its training step changes nothing once a loss or a
    gradient is not finite. An optimizer can still make weights NaN, or finite and useless, in a
    step whose loss and gradients were finite, and the running loss of an epoch says nothing about
    the weights at its end. So the weights to go back to are judged when they are needed: those of
    the moment, those at the ends of the three epochs with the smallest loss, or validation loss,
    and those from before training. All must give finite losses on the training rows; the best is
    that with the smallest loss on the validation rows, if there are any.

    It costs one copy of the weights an epoch, and one more where the epoch is validated.

    Args:
      explain: called once the loss is bad, returns a sentence for the warning.
      judge: returns the mean loss of the training rows with the weights that the model has, NaN or
        infinite if that of one row is, or `None` if the rows cannot be read again.
      validate: the same of the validation rows, `None` if there are none, or they cannot be read
        again: then validation losses of ends of epochs decide.
    """

    def __init__(
        self,
        explain: Callable[[], str],
        judge: Callable[[], float | None],
        validate: Callable[[], float | None] = lambda: None,
    ):
        super().__init__()
        self._explain = explain
        self._judge = judge
        self._validate = validate
        self._best: list[_Snapshot] = []
        self._start: _Snapshot | None = None
        self._validated: list[np.ndarray] | None = None
        self._kept: list[np.ndarray] | None = None  # Once training was stopped.

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._start = None
        self._sizes = _sizes(self.model.get_weights())

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._start is None:  # Until now, other callbacks may have loaded weights.
            self._start = _Snapshot(self.model.get_weights(), "from before training")
            self._sizes = _sizes(self._start.weights)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        loss = (logs or {}).get("loss")
        if loss is None or self.model.stop_training or math.isfinite(loss):
            return
        steps = (self.params or {}).get("steps")  # Many run at a time, fewer at the end.
        last = batch if steps is None else min(batch, steps - 1)
        self._stop(f"at batch {last}: the loss is not finite.")

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        # Not those of the end of the epoch where a callback puts averages in their place meanwhile.
        self._validated = self.model.get_weights()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._kept is not None:
            return
        logs = logs or {}
        # Of rows without density no weights have a finite validation loss.
        validated = math.isfinite(logs.get("val_loss", math.inf))
        loss = logs.get("val_loss" if validated else "loss")
        if loss is None:  # A training step of one's own may log what it likes.
            loss = self._judge()
        loss = math.inf if loss is None else float(loss)
        origin = f"of the end of epoch {epoch + 1}"
        found = _Snapshot(self.model.get_weights(), origin, loss, validated)
        # After the last step of an epoch no loss tells what it did to the weights.
        if not found.is_finite():
            self._stop(f"at the end of epoch {epoch + 1}.")
            return
        sizes = _sizes(found.weights)
        if validated and self._validated is not None:
            found.weights = self._validated
        jumped = any(new > _JUMP * (1 + old) for new, old in zip(sizes, self._sizes, strict=True))
        self._sizes = sizes
        if jumped and not math.isfinite(self._judge() or 0.0):
            self._stop(f"at the end of epoch {epoch + 1}: the loss is not finite.")
            return
        if math.isfinite(loss):
            best = sorted([*self._best, found], key=lambda snapshot: snapshot.loss)
            # Not every epoch may be validated, and losses of both kinds do not compare.
            self._best = [
                *[one for one in best if one.validated][:_SNAPSHOTS],
                *[one for one in best if not one.validated][:_SNAPSHOTS],
            ]

    def _stop(self, when: str) -> None:
        reason = self._bad_weights() or self._explain()
        outcome = self._restore()
        restart_averages(self.model.optimizer)
        message = f"Training stopped {when} {reason} {outcome}{self._advice()}"
        warnings.warn(message, RuntimeWarning, stacklevel=3)
        self._kept = self.model.get_weights()
        self.model.stop_training = True

    def keep(self) -> None:
        """After all other callbacks, of which some restore weights too: those of the warning."""
        if self._kept is not None:
            self.model.set_weights(self._kept)

    def _bad_weights(self) -> str | None:
        """A sentence on weights that are not finite themselves, if there are any."""
        for variable in self.model.weights:
            if not np.isfinite(variable.numpy()).all():
                return (
                    f"The optimizer made the weights {variable.path!r} NaN or infinite: lower the "
                    "learning rate, clip gradients, or take another optimizer."
                )
        return None

    def _restore(self) -> str:
        """Give the model the best finite weights there are, and say in a sentence which."""
        current = _Snapshot(self.model.get_weights(), "of the last step")
        candidates = [
            found for found in (current, *self._best, self._start) if found and found.is_finite()
        ]
        judged, unread = [], False
        for found in candidates:
            self.model.set_weights(found.weights)
            loss = self._judge()
            unread = unread or loss is None
            if not math.isfinite(loss or 0.0):
                continue
            validation = self._validate()
            if validation is None and found.validated:
                validation = found.loss  # Of validation rows that cannot be read again.
            if validation is not None and not math.isfinite(validation):
                validation = None
            measured = loss if validation is None else validation
            if measured is not None and math.isfinite(measured):
                of = f"a loss of {measured:.6g} on the training rows"
                if validation is not None:
                    of = f"a validation loss of {measured:.6g}"
                judged.append((validation is None, measured, of, found))
        if judged:
            _, _, of, best = min(judged, key=lambda one: one[:2])
            outcome = f"The best finite weights are kept, those {best.origin}, with {of}."
        elif candidates:
            best = self._best[0] if unread and self._best else candidates[0]
            outcome = f"The last finite weights are kept, those {best.origin}"
            outcome += (
                "; the data cannot be read again to judge them."
                if unread
                else (", but no weights of this training give a finite loss on all training rows.")
            )
        else:
            return "No weights of this training are finite, not even those from before training."
        self.model.set_weights(best.weights)
        return outcome

    def _advice(self) -> str:
        """What else must be known before training goes on."""
        state = self.model.optimizer.variables
        if all(np.isfinite(variable.numpy()).all() for variable in state):
            return ""
        return " The state of the optimizer is not finite: compile again before the next training."


def all_finite(tensors: Iterable[Any]) -> tf.Tensor:
    """Whether all numbers in all tensors are finite, those left out that are None."""
    # Of finite numbers, a sum is finite, unless they are beyond use.
    sums = [tf.reduce_sum(tensor) for tensor in tensors if tensor is not None]
    return tf.math.is_finite(tf.add_n([tf.cast(part, tf.float64) for part in sums]))


def mean_loss(model: keras.Model, batches: Iterable[Any]) -> float | None:
    """The mean loss of batches as Keras hands them over, with the weights that the model has.

    Returns:
      NaN or infinity as soon as the loss of some rows is; `None` if there is no batch.
    """
    total, rows = 0.0, 0
    for inputs, weight in joined(batches):
        log_prob = model(inputs, training=False)
        loss = float(model.compute_loss(inputs, None, log_prob, weight, training=False))
        if not math.isfinite(loss):
            return loss
        total += loss * len(log_prob)
        rows += len(log_prob)
    return total / rows if rows else None


def _sizes(weights: list[np.ndarray]) -> list[float]:
    """The largest absolute value of each array of floating numbers, 0 of others."""
    return [
        float(np.abs(array).max(initial=0)) if array.dtype.kind == "f" else 0.0 for array in weights
    ]
