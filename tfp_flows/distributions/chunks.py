"""Two halves of a batch, side by side: what a graph can do on two cores at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.networks.conditioner import Conditioner
from tfp_flows.ops.internals import in_xla, layers_of

__all__ = ["is_batch_independent", "map_chunks"]

# Fewer rows than this are done at once: splitting them would cost more than it saves.
_MIN_ROWS = 128

# Layers that compute row by row and have no losses of what passes through them.
_ROW_BY_ROW = (
    keras.Sequential,
    keras.layers.Activation,
    keras.layers.Dense,
    keras.layers.Dropout,
    keras.layers.InputLayer,
    keras.layers.LayerNormalization,
)


def map_chunks(function: Callable, *batches: tf.Tensor) -> Any:
    """`function(*batches)`, tensors of as many rows, of both halves, one beside the other.

    The layers of a flow wait for each other, and the products in them are too small to share among
    cores well. Two halves do not wait for each other: on two cores, a flow of 10 layers of 2×128
    units takes three quarters of the time. Only in graphs on CPU; everywhere else, of less than 128
    rows, where the first tensor is no matrix, and on one core, this is `function(*batches)`.
    """
    if batches[0].shape.rank != 2 or not _pays():
        return function(*batches)
    rows = batches[0].shape[0]
    if rows is not None and rows < _MIN_ROWS:
        return function(*batches)
    total = tf.shape(batches[0])[0] if rows is None else rows
    sizes = [total // 2, total - total // 2]
    # A function of its own is traced once for both halves.
    half = tf.function(function, autograph=False)
    parts = zip(*(tf.split(batch, sizes) for batch in batches), strict=True)
    results = [half(*part) for part in parts]
    return tf.nest.map_structure(lambda *of_halves: tf.concat(of_halves, 0), *results)


def is_batch_independent(flow: tfp.distributions.TransformedDistribution) -> bool:
    """Whether each row, at both ends of the flow, is computed without the others.

    Not so with a batch of distributions, with events that are no vectors, with batch normalization,
    whose moments are of all rows, and with losses of layers. Layers and bijectors that we do not
    know are taken to be of that kind.
    """
    if flow.batch_shape != ():
        return False
    if not (flow.event_shape.rank == flow.distribution.event_shape.rank == 1):
        return False
    modules = flow.submodules
    bijectors = [module for module in modules if isinstance(module, tfp.bijectors.Bijector)]
    networks = [module.layer for module in modules if isinstance(module, Conditioner)]
    layers = [layer for network in networks for layer in layers_of(network)]
    return (
        all(
            type(bijector).__module__.startswith(("tfp_flows.", "tensorflow_probability."))
            and not isinstance(bijector, tfp.bijectors.BatchNormalization)
            for bijector in bijectors
        )
        and all(
            type(layer) in _ROW_BY_ROW or type(layer).__module__.startswith("tfp_flows.")
            for layer in layers
        )
        and all(layer.activity_regularizer is None for layer in layers)
    )


def _pays() -> bool:
    return (
        tf.inside_function()
        and not in_xla()
        and _cores() > 1
        and not tf.config.list_logical_devices("GPU")
    )


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
