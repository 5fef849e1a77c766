"""Keras' Adam, with one operation a weight where Keras has a dozen."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tfp_flows.ops.internals import adam_slots

__all__ = ["one_operation_a_weight"]


@contextlib.contextmanager
def one_operation_a_weight(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """In this block, let Keras' `Adam` and `AdamW` update weights by TensorFlow's own Adam.

    With the gradient `g` and the step's number `n`, both compute

    `m += (1 - β₁)(g - m)`, `v += (1 - β₂)(g² - v)`,
    `weight -= rate √(1 - β₂ⁿ) / (1 - β₁ⁿ) m / (√v + ε)`.

    Everything else, as clipping, decay, averages and schedules, is Keras'. The weights of a flow
    are many and small, and a third of the time of tracing its training step went to Keras'
    operations. Other optimizers, subclasses and the AMSGrad variant are left as they are.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # Of one that scales the loss.
    if type(optimizer) not in (keras.optimizers.Adam, keras.optimizers.AdamW) or optimizer.amsgrad:
        yield
        return
    optimizer.update_step = functools.partial(_update, optimizer, _powers(optimizer))
    try:
        yield
    finally:
        del optimizer.update_step  # That of the class comes back.


def _powers(optimizer: keras.optimizers.Adam) -> tuple[tf.Tensor, tf.Tensor]:
    """`β₁ⁿ` and `β₂ⁿ`, once for all weights, and before they are cast to the dtype of each."""
    # With gradients accumulated, Keras computes this number from another.
    step = tf.cast(tf.convert_to_tensor(optimizer.iterations), tf.float64) + 1
    return tuple(
        tf.constant(beta, tf.float64) ** step for beta in (optimizer.beta_1, optimizer.beta_2)
    )


def _update(
    optimizer: keras.optimizers.Adam,
    powers: tuple[tf.Tensor, tf.Tensor],
    gradient: tf.Tensor | tf.IndexedSlices,
    variable: tf.Variable,
    learning_rate: Any,
) -> None:
    if isinstance(gradient, tf.IndexedSlices):
        gradient = tf.convert_to_tensor(gradient)
    moments = adam_slots(optimizer, variable)
    beta1_power, beta2_power = (tf.cast(power, variable.dtype) for power in powers)
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=moments[0].value.handle,
        v=moments[1].value.handle,
        beta1_power=beta1_power,
        beta2_power=beta2_power,
        lr=tf.cast(learning_rate, variable.dtype),
        beta1=tf.constant(optimizer.beta_1, variable.dtype),
        beta2=tf.constant(optimizer.beta_2, variable.dtype),
        epsilon=tf.constant(optimizer.epsilon, variable.dtype),
        grad=tf.cast(gradient, variable.dtype),
    )
