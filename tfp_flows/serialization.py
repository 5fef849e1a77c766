"""Distributions and bijectors to plain configs and back, by an allow-list: a file is never code.

`serialize` turns an object into dictionaries, lists, strings and numbers that JSON can hold;
`deserialize` builds it again. Known classes are the distributions of `tfp.distributions`, the
bijectors of `tfp.bijectors`, linear operators of `tf.linalg`, what this package exports, the layers
and initializers of `keras`, and classes registered with `keras.saving.register_keras_serializable`.
Everything else, functions above all, is refused, when saving as when loading.

A `tf.Variable` is written with its value, for a distribution may be invalid without: a scale of 0,
a singular matrix. Weights that layers and bijectors make for themselves are not in the config.
Objects that occur twice are written once, so that what was shared is shared again.
"""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors, distributions
from tfp_flows.bijectors import transformers
from tfp_flows.ops.internals import FUNCTIONAL_MODULE, deferred_transform

__all__ = ["deserialize", "serialize"]

_HAS_PARAMETERS = (tfp.distributions.Distribution, tfp.bijectors.Bijector, tf.linalg.LinearOperator)
_NAMESPACES = {
    "tfp_flows": distributions,
    "tfp_flows.bijectors": bijectors,
    "tfp_flows.transformers": transformers,
    "tfp.distributions": tfp.distributions,
    "tfp.bijectors": tfp.bijectors,
    "tf.linalg": tf.linalg,
}
_KERAS_MODULES = (
    "keras",
    "keras.activations",
    "keras.constraints",
    "keras.initializers",
    "keras.layers",
    "keras.models",
    "keras.optimizers",
    "keras.optimizers.schedules",
    "keras.regularizers",
    FUNCTIONAL_MODULE,
)
# Layers of Keras that run code or read files named in their config.
_KERAS_REFUSED = (
    "FlaxLayer",
    "IntegerLookup",
    "JaxLayer",
    "Lambda",
    "StringLookup",
    "TFSMLayer",
    "TextVectorization",
    "TorchModuleWrapper",
)
_KERAS_VALUES = ("__keras_tensor__", "__numpy__", "__tensor__", "__tuple__")


def serialize(obj: Any) -> Any:
    """Return the config of a distribution or bijector, made of what JSON can hold.

    Raises:
      TypeError: something inside is of a class that `deserialize` would not know; the message says
        where it stands.

    Example:
      >>> config = serialization.serialize(flows.neural_spline(2))
      >>> flow = serialization.deserialize(config)     # fresh weights, same architecture
    """
    return _Writer().write(obj, type(obj).__name__)


def deserialize(config: Any) -> Any:
    """Build the object that `serialize` described; its variables have their initial values.

    Raises:
      ValueError: the config names a class or kind that is not allowed, or is damaged.
    """
    try:
        return _Reader().read(config)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"This is no config of tfp_flows, or it is damaged: {error!r}") from error


class _Writer:
    def __init__(self):
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []

    def write(self, obj: Any, path: str) -> Any:
        if obj is None or isinstance(obj, bool | int | float | str):
            return obj
        if isinstance(obj, tf.DType | np.dtype) or _is_numpy_type(obj):
            return {"kind": "dtype", "name": tf.as_dtype(obj).name}
        if isinstance(obj, list | tuple):
            kind = "list" if isinstance(obj, list) else "tuple"
            items = [self.write(item, f"{path}[{i}]") for i, item in enumerate(obj)]
            return {"kind": kind, "items": items}
        if isinstance(obj, dict):
            items = {str(key): self.write(value, f"{path}.{key}") for key, value in obj.items()}
            return {"kind": "dict", "items": items}
        if isinstance(obj, tf.TensorShape):
            return {"kind": "tuple", "items": obj.as_list()}
        if isinstance(obj, keras.DTypePolicy):
            return {"kind": "policy", "name": obj.name}
        if id(obj) in self._seen:
            return {"kind": "seen", "id": self._seen[id(obj)]}
        number = self._seen[id(obj)] = len(self._seen)
        self._alive.append(obj)  # Else an id could come to stand for another object.
        return {"id": number, **self._write_object(obj, path)}

    def _write_object(self, obj: Any, path: str) -> dict:
        if isinstance(obj, tf.Variable):
            if obj.constraint is not None:
                raise _refusal(obj.constraint, f"{path}.constraint")
            return {
                "kind": "variable",
                "values": obj.numpy().tolist(),
                "shape": obj.shape.as_list(),
                "dtype": obj.dtype.name,
                "trainable": obj.trainable,
                "name": obj.name.split(":")[0],
            }
        if isinstance(obj, tfp.util.DeferredTensor):
            transform = deferred_transform(obj)
            if not isinstance(transform, tfp.bijectors.Bijector):
                raise _refusal(transform, path)
            return {
                "kind": "transformed_variable",
                "input": self.write(obj.pretransformed_input, f"{path}.pretransformed_input"),
                "bijector": self.write(transform, f"{path}.bijector"),
            }
        if isinstance(obj, transformers.Transformer):
            arguments = self.write(obj.get_config(), path)
            return {"kind": "transformer", "class": _class_name(obj, path), "arguments": arguments}
        if isinstance(obj, _HAS_PARAMETERS):
            parameters = obj.get_config() if hasattr(obj, "get_config") else obj.parameters
            signature = inspect.signature(type(obj).__init__).parameters
            arguments = {
                name: self.write(value, f"{path}.{name}")
                for name, value in parameters.items()
                if name in signature and value is not signature[name].default
            }
            return {"kind": "object", "class": _class_name(obj, path), "arguments": arguments}
        if isinstance(obj, keras.layers.Layer):
            config = keras.saving.serialize_keras_object(obj)
            check_keras(config, TypeError, path)
            return {"kind": "keras", "config": config}
        if tf.is_tensor(obj) or isinstance(obj, np.ndarray | np.generic):
            array = np.asarray(obj)
            if array.dtype.kind not in "biuf":
                raise _refusal(obj, path)
            kind = "tensor" if tf.is_tensor(obj) else "array"
            return {"kind": kind, "values": array.tolist(), "dtype": array.dtype.name}
        raise _refusal(obj, path)


class _Reader:
    def __init__(self):
        self._seen: dict[int, Any] = {}

    def read(self, config: Any) -> Any:
        if config is None or isinstance(config, bool | int | float | str):
            return config
        kind = config["kind"]
        if kind in ("list", "tuple"):
            items = [self.read(item) for item in config["items"]]
            return items if kind == "list" else tuple(items)
        if kind == "dict":
            return {key: self.read(value) for key, value in config["items"].items()}
        if kind == "dtype":
            return tf.as_dtype(config["name"])
        if kind == "policy":
            return keras.DTypePolicy(config["name"])
        if kind == "seen":
            return self._seen[config["id"]]
        obj = self._seen[config["id"]] = self._read_object(kind, config)
        return obj

    def _read_object(self, kind: str, config: dict) -> Any:
        if kind == "variable":
            value = tf.reshape(tf.constant(config["values"], config["dtype"]), config["shape"])
            return tf.Variable(value, trainable=config["trainable"], name=config["name"])
        if kind == "transformed_variable":
            variable, bijector = self.read(config["input"]), self.read(config["bijector"])
            return tfp.util.DeferredTensor(variable, bijector)
        if kind == "transformer":
            cls = _class(config["class"], transformers.Transformer)
            return cls.from_config(self.read(config["arguments"]))
        if kind == "object":
            cls = _class(config["class"], _HAS_PARAMETERS)
            return cls(**{name: self.read(v) for name, v in config["arguments"].items()})
        if kind == "keras":
            check_keras(config["config"], ValueError, "keras")
            return keras.saving.deserialize_keras_object(config["config"])
        if kind in ("tensor", "array"):
            array = np.array(config["values"], config["dtype"])
            return tf.constant(array) if kind == "tensor" else array
        raise ValueError(f"A config of tfp_flows has no kind {kind!r}.")


def _class_name(obj: Any, path: str) -> str:
    """The allowed name of an object's class, "namespace>Class"; a TypeError if it has none."""
    cls = type(obj)
    registered = keras.saving.get_registered_name(cls)
    if registered != cls.__name__:
        return registered
    # TFP makes `_Chain`, say, of `Chain` where parts are no composite tensors.
    name = cls.__name__.removeprefix("_")
    for namespace, module in _NAMESPACES.items():
        public = getattr(module, name, None)
        if inspect.isclass(public) and issubclass(public, cls):
            return f"{namespace}>{name}"
    raise _refusal(obj, path)


def _class(name: str, base: type | tuple[type, ...]) -> type:
    """The class that `_class_name` named, if it is allowed and a subclass of `base`."""
    cls = keras.saving.get_registered_object(name)
    if cls is None:
        namespace, _, attribute = name.partition(">")
        module = _NAMESPACES.get(namespace)
        cls = None if attribute.startswith("_") else getattr(module, attribute, None)
    if not (inspect.isclass(cls) and issubclass(cls, base)):
        raise ValueError(
            f"The class {name!r} is not one that tfp_flows loads. A class of your own must be "
            "registered by `keras.saving.register_keras_serializable` before."
        )
    return cls


def check_keras(config: Any, error: type[Exception], path: str) -> None:
    """Raise `error` unless every class named in a Keras config is Keras' own or registered."""
    if isinstance(config, dict):
        # Keras writes the code of a lambda into a dictionary with this one key.
        is_lambda = config.keys() == {"value"} and isinstance(config["value"], list | tuple)
        if is_lambda or ("class_name" in config and not _keras_knows(config)):
            name = "a lambda" if is_lambda else f"{config.get('module')}.{config['class_name']}"
            name = config["config"] if name.endswith(".function") else name
            raise error(
                f"{path} holds {name}, which tfp_flows neither saves nor loads: use layers and "
                "functions of Keras, or register your own by "
                "`keras.saving.register_keras_serializable`."
            )
        for key, value in config.items():
            check_keras(value, error, f"{path}.{key}")
    elif isinstance(config, list | tuple):
        for item in config:
            check_keras(item, error, path)


def _keras_knows(config: dict) -> bool:
    """Whether what a Keras config names is Keras' own and runs no code, or is registered."""
    name, module = config["class_name"], config.get("module")
    if name == "function":  # Keras finds a function by its name, not by `registered_name`.
        name, modules = config["config"], ("builtins", "keras.activations")
        if keras.saving.get_registered_object(name) is not None:
            return True
        return module in modules and hasattr(keras.activations, name)
    if name.startswith("__"):
        return name in _KERAS_VALUES
    if keras.saving.get_registered_object(config.get("registered_name")) is not None:
        return name not in _KERAS_REFUSED
    return module in _KERAS_MODULES and name not in _KERAS_REFUSED


def _is_numpy_type(obj: Any) -> bool:
    return isinstance(obj, type) and issubclass(obj, np.generic)


def _refusal(obj: Any, path: str) -> TypeError:
    return TypeError(
        f"{path} is a {type(obj).__module__}.{type(obj).__qualname__}, which cannot be saved as a "
        "config. Saving takes distributions, bijectors, variables, arrays and Keras layers, but no "
        "functions; `save_weights` works with everything."
    )
