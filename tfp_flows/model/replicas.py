"""One training step on the replicas of a `tf.distribute` strategy, equal to that of one device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfp_flows.model.adam import one_operation_a_weight
from tfp_flows.ops.internals import gradients_already_summed, supports_no_merge_call

__all__ = ["check_scope", "replica_count", "sum_over_replicas", "update_if"]


def replica_count() -> int:
    """How many replicas run this code side by side; 1 outside of `strategy.run`."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else int(context.num_replicas_in_sync)


def sum_over_replicas(tensors: Sequence[Any]) -> list[Any]:
    """The sum over the replicas of each tensor, the same on all; those that are None stay so."""
    if replica_count() == 1:
        return list(tensors)
    context = tf.distribute.get_replica_context()
    present = [tf.convert_to_tensor(tensor) for tensor in tensors if tensor is not None]
    sums = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, present))
    return [None if tensor is None else next(sums) for tensor in tensors]


def update_if(
    finite: tf.Tensor,
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[Any],
    weights: Sequence[keras.Variable],
) -> None:
    """Apply gradients that are summed over the replicas, where `finite` is true.

    Replicas update a weight together, in a call that must not stand in a branch of one of them:
    so the branch is taken for all at once. `finite` must be the same on all.
    """

    def apply(gradients: Sequence[Any]) -> None:
        optimizer.apply_gradients(zip(gradients, weights, strict=True))

    if not tf.distribute.has_strategy():

        def update() -> None:
            with one_operation_a_weight(optimizer):
                apply(gradients)

        tf.cond(finite, update, lambda: None)
        return

    def update_all(run: Callable[[], None]) -> None:
        with one_operation_a_weight(optimizer), gradients_already_summed(optimizer):
            run()

    if supports_no_merge_call():
        tf.cond(finite, lambda: update_all(lambda: apply(gradients)), lambda: None)
        return

    def of_all(strategy: tf.distribute.Strategy, finite: Any, gradients: Any) -> None:
        def run() -> None:
            strategy.extended.call_for_each_replica(apply, args=(gradients,))

        finite = strategy.experimental_local_results(finite)[0]
        tf.cond(finite, lambda: update_all(run), lambda: None)

    tf.distribute.get_replica_context().merge_call(of_all, args=(finite, list(gradients)))


def check_scope(variables: Iterable[tf.Variable], what: str) -> None:
    """Raise a ValueError unless all variables belong to the strategy whose scope this is."""
    extended = tf.distribute.get_strategy().extended
    for variable in variables:
        if tf.distribute.has_strategy():
            inside = extended.variable_created_in_scope(variable)
        else:
            inside = not isinstance(variable, tf.distribute.DistributedValues)
        if not inside:
            raise ValueError(
                f"{what} must be made inside the scope of the same strategy as everything else "
                "that has variables: distribution, FlowModel and optimizer all go into "
                f"`with strategy.scope():`. Received: {variable.name!r}, made elsewhere"
            )
