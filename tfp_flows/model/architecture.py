"""What weights mean: classes and arguments of a distribution and of all that is inside of it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.bijectors.transformers import Transformer
from tfp_flows.ops.internals import deferred_transform, layers_of

__all__ = ["describe"]

_PARTS = (tfp.distributions.Distribution, tfp.bijectors.Bijector, tf.linalg.LinearOperator)
# What has no part in the density that given weights make, or is in `fixed_structure`.
_WITHOUT_EFFECT = {
    "allow_nan_stats",
    "dtype",
    "graph_parents",
    "input_layers",
    "name",
    "output_layers",
    "rate",
    "seed",
    "trainable",
    "validate_args",
}
_ENDINGS_WITHOUT_EFFECT = ("constraint", "initializer", "regularizer")


def describe(obj: Any) -> Any:
    """Classes and arguments as JSON may hold them; equal for what gives equal densities.

    Of variables, which are weights, only the shape counts, and of functions nothing. Numbers have
    the digits of float32, and tuples, lists and arrays are the same.
    """
    return _describe(obj, {})


def _describe(obj: Any, seen: dict[int, int]) -> Any:
    if obj is None or isinstance(obj, str):
        return obj
    if isinstance(obj, tf.Variable):
        return ["Variable", obj.shape.as_list()]
    if isinstance(obj, bool | int | float | np.ndarray | np.generic | tf.Tensor):
        return _numbers(obj)
    if isinstance(obj, tf.TensorShape):
        return [float(size) for size in obj.as_list()]
    if isinstance(obj, list | tuple):
        return [_describe(item, seen) for item in obj]
    if isinstance(obj, dict):
        return {
            name: _describe(value, seen)
            for name, value in sorted(obj.items())
            if name not in _WITHOUT_EFFECT and not name.endswith(_ENDINGS_WITHOUT_EFFECT)
        }
    if id(obj) in seen:  # What is shared is described once.
        return ["seen", seen[id(obj)]]
    seen[id(obj)] = len(seen)
    # A `TransformedVariable` is one too, and is read as such from files.
    deferred = isinstance(obj, tfp.util.DeferredTensor)
    name = "DeferredTensor" if deferred else type(obj).__name__.lstrip("_")
    return [name, _describe(_arguments(obj), seen)]


def _arguments(obj: Any) -> Any:
    if isinstance(obj, tfp.util.DeferredTensor):
        return [obj.pretransformed_input, deferred_transform(obj)]
    if isinstance(obj, Transformer):
        return obj.get_config()
    if isinstance(obj, _PARTS):
        return obj.get_config() if hasattr(obj, "get_config") else dict(obj.parameters)
    if isinstance(obj, keras.layers.Layer):
        # One by one: how they are connected stands in configs by names, which Keras counts up.
        return [[type(layer).__name__, _plain(layer.get_config())] for layer in layers_of(obj)]
    return None


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """What of a layer's config is a number, a text, or a list of such."""
    known = (bool, int, float, str, type(None))
    return {
        name: value
        for name, value in config.items()
        if isinstance(value, known)
        or (isinstance(value, list | tuple) and all(isinstance(item, known) for item in value))
    }


def _numbers(obj: Any) -> Any:
    array = np.asarray(obj)
    if array.dtype.kind not in "biuf":
        return array.dtype.name
    return array.astype("float32").astype("float64").tolist()
