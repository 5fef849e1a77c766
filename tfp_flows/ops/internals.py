"""Every private or moved name of TensorFlow Probability, TensorFlow and Keras that we rely on.

One file to mend when one of them is upgraded: `tests/test_internals.py` has a test for each name,
which says what breaks without it. The versions that were tried are in `setup.cfg`.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp
from keras.src.backend.common import global_state as _global_state
from keras.src.saving import saving_lib as _saving
from keras.src.trainers.data_adapters.data_adapter import DataAdapter
from tensorflow.compiler.tf2xla.python import xla as _xla
from tensorflow.python.distribute.distribute_lib import (
    _DefaultDistributionStrategy as DefaultStrategy,
)
from tensorflow.python.eager import forwardprop_util as _forwardprop_util
from tensorflow.python.eager import record as _record
from tensorflow.python.ops import control_flow_util as _control_flow_util
from tensorflow.python.ops import control_flow_util_v2 as _control_flow_util_v2

# What `tfb.Chain(...)`, `tfb.Invert(...)` and `tfd.TransformedDistribution(...)` make of bijectors
# that are not composite tensors, as ours are not: the bases of the public classes.
from tensorflow_probability.python.bijectors.chain import _Chain as ChainBase
from tensorflow_probability.python.bijectors.invert import _Invert as InvertBase
from tensorflow_probability.python.distributions import joint_distribution as _joint
from tensorflow_probability.python.distributions.log_prob_ratio import RegisterLogProbRatio
from tensorflow_probability.python.distributions.transformed_distribution import (
    _TransformedDistribution as TransformedDistributionBase,
)
from tensorflow_probability.python.experimental.distributions import (
    joint_distribution_pinned as _pinned,
)
from tensorflow_probability.python.internal import prefer_static
from tensorflow_probability.python.internal.tensor_util import convert_nonref_to_tensor, is_ref

__all__ = [
    "FUNCTIONAL_MODULE",
    "BuiltModel",
    "ChainBase",
    "DataAdapter",
    "DefaultStrategy",
    "InvertBase",
    "RegisterLogProbRatio",
    "TransformedDistributionBase",
    "adam_slots",
    "convert_nonref_to_tensor",
    "copy_attributes",
    "count_accumulators",
    "deferred_transform",
    "gradients_already_summed",
    "in_vectorized_map",
    "in_while_loop",
    "in_xla",
    "is_injective",
    "is_ref",
    "joint_bijector",
    "joint_parts",
    "keep_uninitialized_variables",
    "kernel_under_lora",
    "knows_whether_increasing",
    "layers_of",
    "loss_tracker",
    "optimization_barrier",
    "pinned_distributions",
    "prefer_static",
    "remember_forward_log_det",
    "remember_inverse_log_det",
    "restart_averages",
    "stop_recording",
    "supports_no_merge_call",
    "weights_and_averages",
    "weights_file",
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


def knows_whether_increasing(bijector: tfp.bijectors.Bijector) -> bool:
    """Whether the bijector says that it rises, or falls, as a map of scalars."""
    try:
        bijector._internal_is_increasing()
    except NotImplementedError:
        return False
    return True


def joint_parts(joint: Any) -> dict[str, tfp.distributions.Distribution]:
    """The distributions of the unpinned parts of a joint distribution by name, at one draw."""
    names = joint._flat_resolve_names()
    return dict(zip(names, joint._get_single_sample_distributions(), strict=True))


def pinned_distributions(pinned: Any, value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The distributions of the pinned parts, given a draw of the others; and the pins."""
    names = pinned._flat_resolve_names()
    parts = dict(zip(names, pinned._model_flatten(value), strict=True))
    distributions, _ = pinned.distribution.sample_distributions(**parts, **pinned.pins)
    flat = pinned.distribution._model_flatten(distributions)
    found = dict(zip(pinned.distribution._flat_resolve_names(), flat, strict=True))
    return {name: found[name] for name in pinned.pins}, dict(pinned.pins)


def joint_bijector(
    joint: Any, bijector_of: Callable[[tfp.distributions.Distribution], tfp.bijectors.Bijector]
) -> tfp.bijectors.Bijector:
    """What `experimental_default_event_space_bijector` gives, with other bijectors of the parts."""
    if not joint.use_vectorized_map:
        return _joint._DefaultJointBijector(joint, bijector_fn=bijector_of)
    is_pinned = isinstance(joint, _pinned.JointDistributionPinned)
    cls = _joint._DefaultJointBijectorAutoBatched
    if is_pinned:
        cls = _pinned._DefaultJointBijectorAutoBatchedWithPins
    return cls(joint, bijector_fn=bijector_of)


def deferred_transform(deferred: tfp.util.DeferredTensor) -> Any:
    """The function or bijector that a `DeferredTensor` applies to its variable."""
    return deferred._transform_fn


def copy_attributes(obj: tf.Module, changed: dict[str, Any]) -> Any:
    """Another object of TFP's with the same attributes, but for constructor arguments `changed`.

    Of these, `name` and `validate_args` can be. TensorFlow tracks attributes in some whose names
    begin with `_self_`: those are made anew.
    """
    copied = object.__new__(type(obj))
    for name, value in vars(obj).items():
        if not name.startswith("_self_"):
            setattr(copied, name, value)
    if copied._parameters is not None:
        copied._parameters = copied._no_dependency({**copied._parameters, **changed})
    for name, value in changed.items():
        setattr(copied, f"_{name}", value)
    return copied


def in_xla() -> bool:
    """Whether a graph is being made that XLA will compile as a whole."""
    return bool(
        tf.inside_function()
        and _control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
    )


def in_vectorized_map() -> bool:
    """Whether the body of a `tf.vectorized_map` is being traced, outside of functions in it."""
    return tf.inside_function() and any(
        scope.startswith("loop_body") for scope in tf.get_current_name_scope().split("/")
    )


def in_while_loop() -> bool:
    """Whether the body of a `tf.while_loop` is being traced."""
    return bool(_control_flow_util_v2.in_while_loop_defun(tf.compat.v1.get_default_graph()))


def count_accumulators(*tensors: tf.Tensor) -> int:
    """How many `tf.autodiff.ForwardAccumulator`s follow how any of the tensors changes."""
    levels = _forwardprop_util.pack_tangents(list(tensors)).indices
    return sum(len(level) > 0 for level in levels)


def stop_recording() -> contextlib.AbstractContextManager[None]:
    """A block in which no tape and no forward-mode accumulator records."""
    return _record.stop_recording()


def optimization_barrier(*tensors: tf.Tensor) -> list[tf.Tensor]:
    """The tensors, none of which XLA hands on before it has all; only inside of XLA."""
    return _xla.optimization_barrier(*tensors)


class BuiltModel(keras.Model):
    """A model that has all its variables when it is constructed.

    Of others, on a `tf.distribute` strategy, Keras takes the mean over the replicas of a batch to
    build them, and fails where the rows of the batch do not divide evenly.
    """

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Make what is left, the optimizer's variables, which replicas cannot in their step."""
        if self.distribute_strategy.num_replicas_in_sync > 1:
            self.build_optimizer()

    def build_optimizer(self) -> None:
        """Make the optimizer's variables now: in the training step, they have it traced twice."""
        if self.compiled and self.optimizer is not None and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)


def layers_of(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layer and all layers inside of it, outer ones before inner ones."""
    return list(layer._flatten_layers())


@contextlib.contextmanager
def keep_uninitialized_variables() -> Iterator[None]:
    """If this block raises, drop the variables that Keras would have initialized later.

    It keeps a list of those that layers made in a symbolic call, for whoever builds the next layer.
    One that cannot be initialized would stay in it, and no layer could be built any more.
    """
    name = "uninitialized_variables"
    before = list(_global_state.get_global_attribute(name) or [])
    try:
        yield
    except BaseException:
        _global_state.set_global_attribute(name, before)
        raise


def adam_slots(optimizer: keras.optimizers.Adam, variable: Any) -> tuple[Any, Any]:
    """The moments that Keras' Adam keeps for a variable."""
    index = optimizer._get_variable_index(variable)
    return optimizer._momentums[index], optimizer._velocities[index]


def restart_averages(optimizer: keras.optimizers.Optimizer) -> None:
    """Let averages of weights, which `use_ema=True` keeps, begin again at the weights as they are.

    When training ends, Keras puts the averages in the place of the weights.
    """
    if getattr(optimizer, "inner_optimizer", optimizer).use_ema:
        for weight, average in weights_and_averages(optimizer):
            average.assign(weight.numpy())


def weights_and_averages(optimizer: keras.optimizers.Optimizer) -> list[tuple[Any, Any]]:
    """The weights that an optimizer with `use_ema=True` trains, each with its running average."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # Of one that scales the loss.
    averages = optimizer._model_variables_moving_average
    return list(zip(optimizer._trainable_variables, averages, strict=True))


def kernel_under_lora(layer: keras.layers.Layer) -> keras.Variable | None:
    """What LoRA keeps from training, of a layer in which it is on; else None."""
    if not getattr(layer, "lora_enabled", False):
        return None
    return layer._embeddings if isinstance(layer, keras.layers.Embedding) else layer._kernel


def weights_file(model: keras.Model) -> bytes:
    """What `keras.Model.save_weights` writes; on a full disk, HDF5 would end the process."""
    memory = io.BytesIO()
    store = _saving.H5IOStore(memory, mode="w")
    _saving._save_state(
        model, weights_store=store, assets_store=None, inner_path="", visited_saveables=set()
    )
    store.close()
    return memory.getvalue()


def loss_tracker(model: keras.Model) -> keras.metrics.Metric:
    """The metric in which `keras.Model` averages the loss of an epoch."""
    return model._loss_tracker


@contextlib.contextmanager
def gradients_already_summed(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """In this block, the optimizer takes gradients to be summed over all replicas before.

    Keras sums them itself, but clips each replica's own first, and looks for infinite values in
    them when it scales the loss: that is not what one device does.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    optimizer._all_reduce_sum_gradients = list
    try:
        yield
    finally:
        del optimizer._all_reduce_sum_gradients  # That of the class comes back.


def supports_no_merge_call() -> bool:
    """Whether replicas may update variables in branches: they need not meet in `merge_call`."""
    return bool(tf.__internal__.distribute.strategy_supports_no_merge_call())
