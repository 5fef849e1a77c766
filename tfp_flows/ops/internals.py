"""Every private or moved name of TensorFlow Probability, TensorFlow and Keras that we rely on.

One file to mend when one of them is upgraded: `tests/test_internals.py` has a test for each name,
which says what breaks without it. The versions that were tried are in `setup.cfg`.
"""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow.compiler.tf2xla.python import xla as _xla
from tensorflow.python.eager import record as _record
from tensorflow.python.ops import control_flow_util as _control_flow_util
from tensorflow.python.ops import control_flow_util_v2 as _control_flow_util_v2

# What `tfb.Chain(...)`, `tfb.Invert(...)` and `tfd.TransformedDistribution(...)` make of bijectors
# that are no composite tensors, as ours are not: the bases of the public classes.
from tensorflow_probability.python.bijectors.chain import _Chain as ChainBase
from tensorflow_probability.python.bijectors.invert import _Invert as InvertBase
from tensorflow_probability.python.distributions.transformed_distribution import (
    _TransformedDistribution as TransformedDistributionBase,
)
from tensorflow_probability.python.internal import prefer_static
from tensorflow_probability.python.internal.tensor_util import convert_nonref_to_tensor

__all__ = [
    "FUNCTIONAL_MODULE",
    "ChainBase",
    "InvertBase",
    "TransformedDistributionBase",
    "adam_slots",
    "convert_nonref_to_tensor",
    "deferred_transform",
    "in_while_loop",
    "in_xla",
    "is_injective",
    "layers_of",
    "loss_tracker",
    "optimization_barrier",
    "prefer_static",
    "remember_forward_log_det",
    "remember_inverse_log_det",
    "stop_recording",
]

# Where Keras says that functional models are defined, in the configs that it writes.
FUNCTIONAL_MODULE = "keras.src.models.functional"


def remember_forward_log_det(
    bijector: tfp.bijectors.Bijector, x: tf.Tensor, log_det: tf.Tensor, **kwargs: Any
) -> None:
    """Leave the log-det of `forward(x)` where `forward_log_det_jacobian(x)` looks first.

    TFP keeps, with every pair of tensors that a bijector mapped, a dictionary of attributes.
    """
    bijector._cache.forward_attributes(x, **kwargs)["ildj"] = -log_det


def remember_inverse_log_det(
    bijector: tfp.bijectors.Bijector, y: tf.Tensor, log_det: tf.Tensor, **kwargs: Any
) -> None:
    """Leave the log-det of `inverse(y)` where `inverse_log_det_jacobian(y)` looks first."""
    bijector._cache.inverse_attributes(y, **kwargs)["ildj"] = log_det


def is_injective(bijector: tfp.bijectors.Bijector) -> bool:
    """Whether the bijector maps no two points to one; `tfb.AbsoluteValue` does."""
    return bool(bijector._is_injective)


def deferred_transform(deferred: tfp.util.DeferredTensor) -> Any:
    """The function or bijector that a `DeferredTensor` applies to its variable."""
    return deferred._transform_fn


def in_xla() -> bool:
    """Whether a graph is being made that XLA will compile as a whole."""
    return bool(
        tf.inside_function()
        and _control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
    )


def in_while_loop() -> bool:
    """Whether the body of a `tf.while_loop` is being traced."""
    return bool(_control_flow_util_v2.in_while_loop_defun(tf.compat.v1.get_default_graph()))


def stop_recording() -> contextlib.AbstractContextManager[None]:
    """A block in which no tape and no forward-mode accumulator records."""
    return _record.stop_recording()


def optimization_barrier(*tensors: tf.Tensor) -> list[tf.Tensor]:
    """The tensors, none of which XLA hands on before it has all; only inside of XLA."""
    return _xla.optimization_barrier(*tensors)


def layers_of(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layer and all layers inside of it, outer ones before inner ones."""
    return list(layer._flatten_layers())


def adam_slots(optimizer: keras.optimizers.Adam, variable: Any) -> tuple[Any, Any]:
    """The moments that Keras' Adam keeps for a variable."""
    index = optimizer._get_variable_index(variable)
    return optimizer._momentums[index], optimizer._velocities[index]


def loss_tracker(model: keras.Model) -> keras.metrics.Metric:
    """The metric in which `keras.Model` averages the loss of an epoch."""
    return model._loss_tracker
