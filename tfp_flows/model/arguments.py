"""Arguments of Keras' methods that mean nothing for a density: one clear error each."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_flows.model.arrays import is_array
from tfp_flows.ops.checks import positive_int

__all__ = [
    "check_batch_size",
    "check_callbacks",
    "check_compile",
    "check_distribution",
    "check_fit",
    "check_replicas",
    "check_validation_data",
    "check_weight_shape",
    "has_no_rows",
    "is_parts",
    "require_compiled",
    "require_rows",
]


def check_compile(
    loss: Any,
    loss_weights: Any,
    metrics: Any,
    weighted_metrics: Any,
    steps_per_execution: Any,
    jit_compile: Any,
) -> None:
    """Raise a ValueError for what would compare predictions with targets, and for odd choices."""
    if steps_per_execution != "auto":
        positive_int(steps_per_execution, "steps_per_execution")
    if jit_compile not in (True, False, "auto"):
        raise ValueError(
            f"`jit_compile` must be True, False or 'auto'. Received: jit_compile={jit_compile!r}"
        )
    if loss is not None and not isinstance(loss, str):
        raise ValueError(
            "`loss` must be None, for the mean negative log-likelihood in nats, or for a "
            "continuous flow 'flow_matching' or 'ot_flow_matching'. For another, override "
            f"`compute_loss`. Received: loss={loss!r}"
        )
    if loss_weights is not None:
        raise ValueError(
            "`loss_weights` must be None: there is one loss. To weigh rows, give `fit` a "
            f"`sample_weight`. Received: loss_weights={loss_weights!r}"
        )
    for name, value in (("metrics", metrics), ("weighted_metrics", weighted_metrics)):
        if value:
            raise ValueError(
                f"`{name}` must be None: a metric of Keras compares predictions with targets, and "
                "a density has no targets. Compute what you need of `predict`, in a callback for "
                f"example. Received: {name}={value!r}"
            )


def check_replicas(
    optimizer: keras.optimizers.Optimizer, steps_per_execution: Any, jit_compile: Any
) -> None:
    """Raise a ValueError for options with which Keras cannot train several replicas."""
    emas, accumulates = optimizer.use_ema, optimizer.gradient_accumulation_steps
    asked = {
        "steps_per_execution": (steps_per_execution not in (1, "auto"), "1 or 'auto'"),
        "jit_compile": (jit_compile is True, "False or 'auto'"),
        "ema_overwrite_frequency": (emas and bool(optimizer.ema_overwrite_frequency), "None"),
        "gradient_accumulation_steps": (bool(accumulates), "None"),
    }
    for name, (is_asked, need) in asked.items():
        if is_asked:
            raise ValueError(
                f"`{name}` must be {need} in a `tf.distribute` strategy of several replicas: Keras "
                "can do nothing else there."
            )


def check_distribution(distribution: tfd.Distribution) -> None:
    """Raise an error unless it is a distribution of events that a model can be made of."""
    if not isinstance(distribution, tfd.Distribution):
        raise TypeError(
            "`distribution` must be a Flow or another tfd.Distribution. "
            f"Received: distribution={distribution!r}"
        )
    dtype = distribution.dtype
    if not (isinstance(dtype, tf.DType) and dtype.is_floating):
        raise ValueError(f"`distribution` must have one floating dtype. Received: dtype={dtype}")
    if distribution.batch_shape != ():
        raise ValueError(
            "`distribution` must have batch_shape (): make batches events by tfd.Independent. "
            f"Received: batch_shape={distribution.batch_shape}"
        )
    if not distribution.event_shape.is_fully_defined():
        raise ValueError(
            "`distribution` must have a known event shape. "
            f"Received: event_shape={distribution.event_shape}"
        )


def check_fit(
    epochs: int = 1,
    validation_split: float = 0.0,
    class_weight: Any = None,
    validation_freq: Any = 1,
) -> None:
    """Raise a ValueError for numbers out of range, and for weights of classes."""
    if class_weight is not None:
        raise ValueError(
            "`class_weight` must be None: there are no classes. Weigh rows by `sample_weight`. "
            f"Received: class_weight={class_weight!r}"
        )
    if not isinstance(epochs, numbers.Integral) or epochs < 0:
        raise ValueError(f"`epochs` must be a whole number, 0 or more. Received: epochs={epochs!r}")
    if isinstance(validation_freq, int) and validation_freq < 1:
        raise ValueError(
            "`validation_freq` must be a number of epochs, 1 or more, or a list of epochs. "
            f"Received: validation_freq={validation_freq!r}"
        )
    if not 0 <= validation_split < 1:
        raise ValueError(
            "`validation_split` must be a share of the rows, at least 0 and below 1. "
            f"Received: validation_split={validation_split!r}"
        )


def check_validation_data(data: Sequence[Any]) -> None:
    """Raise a ValueError unless a tuple of validation data has one to three parts."""
    if not 1 <= len(data) <= 3:
        raise ValueError(
            "`validation_data` must be events, (context, events) or (context, events, "
            f"sample_weight). Received: {len(data)} arrays"
        )


def is_parts(data: Any) -> bool:
    """Whether validation data are a tuple, or a list, of arrays; lists of rows are data."""
    return isinstance(data, tuple) or (isinstance(data, list) and all(map(is_array, data)))


def check_callbacks(callbacks: Any) -> list[keras.callbacks.Callback]:
    """One callback, or any nest of them, as a list; raise a TypeError for anything else."""
    found = [] if callbacks is None else keras.tree.flatten(callbacks)
    for callback in found:
        if not isinstance(callback, keras.callbacks.Callback):
            raise TypeError(
                f"`callbacks` must be keras.callbacks.Callback objects. Received: {callback!r}"
            )
    return found


def require_compiled(model: keras.Model, method: str) -> None:
    """Raise a ValueError where there is no optimizer."""
    if not model.compiled:
        raise ValueError(f"You must call `compile()` before `{method}`.")
    if model.optimizer is None:
        raise ValueError(f"`compile` must be given an `optimizer` for `{method}`. Received: None")


def check_batch_size(batch_size: Any, name: str = "batch_size") -> None:
    """Raise a ValueError unless it is None or a positive integer."""
    if batch_size is not None and (
        isinstance(batch_size, bool)
        or not isinstance(batch_size, numbers.Integral)
        or batch_size < 1
    ):
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={batch_size!r}")


def check_weight_shape(shape: Sequence[int] | tf.TensorShape) -> None:
    """Raise a ValueError unless it is that of one number a row, or unknown."""
    shape = tf.TensorShape(shape)
    if shape.rank not in (None, 1) and shape[1:] != (1,):
        raise ValueError(
            "`sample_weight` must have shape (n,), one number a row. "
            f"Received: shape={tuple(shape)}"
        )


def has_no_rows(x: Any) -> bool:
    """Whether an array, arrays side by side or a dataset are known to be empty."""
    if isinstance(x, tf.data.Dataset):
        return bool(x.cardinality() == 0)
    parts = x if isinstance(x, tuple | list) else [x]
    return any(hasattr(part, "__array__") and np.shape(part)[:1] == (0,) for part in parts)


def require_rows(x: Any, name: str = "x") -> None:
    """Raise a ValueError where there is no row."""
    if has_no_rows(x):
        raise ValueError(f"`{name}` must have one row or more. Received: data without rows")
