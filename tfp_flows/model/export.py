"""Write a trained model as a TensorFlow SavedModel that needs nothing but TensorFlow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfp_flows.model.saved_whole import check_folder
from tfp_flows.ops.files import atomic_write

__all__ = ["export"]


_PARTS = {"assets", "assets.extra", "fingerprint.pb", "saved_model.pb", "variables"}


def export(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Save a FlowModel's `log_prob` and `sample` as functions and signatures of a SavedModel."""
    check_folder(path, _PARTS)
    dtype = model.event_dtype
    x = tf.TensorSpec([None, *model.distribution.event_shape], dtype, name="x")
    n = tf.TensorSpec([], tf.int32, name="n")
    module = tf.Module(name="flow")
    module.weights = [variable.value for variable in model.variables]
    if model.context_shape is None:
        module.log_prob = tf.function(lambda x: model.log_prob(x), [x])
        module.sample = tf.function(lambda n: model.sample(n[tf.newaxis]), [n])
    else:
        context = tf.TensorSpec([None, *model.context_shape], dtype, name="context")
        module.log_prob = tf.function(lambda x, context: model.log_prob(x, context), [x, context])
        module.sample = tf.function(
            lambda n, context: model.sample(n[tf.newaxis], context), [n, context]
        )
    signatures = {
        "log_prob": _named(module.log_prob, "log_prob"),
        "sample": _named(module.sample, "x"),
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as folder:
        tf.saved_model.save(module, str(folder), signatures)


def _named(function: tf.types.experimental.GenericFunction, output: str) -> Any:
    """The function with a dictionary as its result, so that the signature's output has a name."""
    spec = function.input_signature
    return tf.function(lambda *inputs: {output: function(*inputs)}, spec)
