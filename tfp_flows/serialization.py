"""Distributions and bijectors to plain configs and back, by an allow-list: a file is never code.

`serialize` turns an object into dictionaries, lists, strings and numbers that JSON can hold;
`deserialize` builds it again. Known classes are the distributions of `tfp.distributions`, the
bijectors of `tfp.bijectors`, linear operators of `tf.linalg`, what this package exports, the layers
and initializers of `keras`, and classes registered with `keras.saving.register_keras_serializable`.
Everything else, functions above all, is refused, when saving as when loading.

A `tf.Variable` is written with its value, for a distribution may be invalid without: a scale of 0,
a singular matrix. Weights that layers and bijectors make for themselves are not in the config.
Objects that occur twice are written once, so that what was shared is shared again.

A config of a few bytes can ask for a network that fills the memory. What is built may allocate
`MAX_NUMBERS` numbers, or as many as `FlowModel.load` allows for the size of its file; trusted files
may have more, by `allocation_limit`.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors, distributions
from tfp_flows.bijectors import transformers
from tfp_flows.ops.internals import deferred_transform
from tfp_flows.ops.keras_configs import check_keras
from tfp_flows.ops.limits import allocation_limit, check_size, claim, has_limit

__all__ = [
    "MAX_NUMBERS",
    "allocation_limit",
    "check_keras",
    "deserialize",
    "limited",
    "serialize",
]

# How many numbers what is loaded may allocate where no `allocation_limit` says: 4 GB of float32.
MAX_NUMBERS = 2**30

_HAS_PARAMETERS = (tfp.distributions.Distribution, tfp.bijectors.Bijector, tf.linalg.LinearOperator)
_NAMESPACES = {
    "tfp_flows": distributions,
    "tfp_flows.bijectors": bijectors,
    "tfp_flows.transformers": transformers,
    "tfp.distributions": tfp.distributions,
    "tfp.bijectors": tfp.bijectors,
    "tf.linalg": tf.linalg,
}
_MAX_SHARED = 10_000
_NUMBERS_A_SIZE = 16  # An axis of some size comes with at least so many arrays, one may say.


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
      ValueError: the config names a class or kind that is not allowed, is damaged, or describes
        what would allocate more numbers than the `allocation_limit`.
    """
    try:
        with limited():
            return _Reader().read(config)
    except ValueError:
        raise
    # What a damaged config raises depends on where it is damaged.
    except (LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"This is not a config of tfp_flows, or is damaged: {error!r}") from error
    except (AssertionError, MemoryError, tf.errors.OpError) as error:
        raise ValueError(f"This config describes nothing that works: {error!r}") from error


def limited() -> contextlib.AbstractContextManager[None]:
    """The `allocation_limit` of `MAX_NUMBERS`, unless there is one."""
    return contextlib.nullcontext() if has_limit() else allocation_limit(MAX_NUMBERS)


class _Writer:
    def __init__(self) -> None:
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
            named = {str(key): self.write(value, f"{path}.{key}") for key, value in obj.items()}
            return {"kind": "dict", "items": named}
        if isinstance(obj, tf.TensorShape):
            return {"kind": "tuple", "items": obj.as_list()}
        if isinstance(obj, keras.DTypePolicy):
            return {"kind": "policy", "name": obj.name}
        if isinstance(obj, np.integer | np.bool_):
            return self.write(obj.item(), path)
        if id(obj) in self._seen:
            return {"kind": "seen", "id": self._seen[id(obj)]}
        number = self._seen[id(obj)] = len(self._seen)
        self._alive.append(obj)  # Else an id could come to stand for another object.
        return {"id": number, **self._write_object(obj, path)}

    def _write_object(self, obj: Any, path: str) -> dict[str, Any]:
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
    def __init__(self) -> None:
        self._seen: dict[int, Any] = {}
        self._parts: dict[int, int] = {}  # How many parts each object has, those of others' too.
        self._count = 0
        self._shared = 0

    def read(self, config: Any) -> Any:
        self._count += 1
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
            return self._read_shared(config["id"])
        before = self._count + self._shared
        obj = self._seen[config["id"]] = self._read_object(kind, config)
        self._parts[config["id"]] = self._count + self._shared - before
        return obj

    def _read_shared(self, number: int) -> Any:
        """An object that occurs again; chains of chains of it would soon be longer than memory."""
        self._shared += self._parts[number]
        if self._shared > _MAX_SHARED + 16 * self._count:
            raise ValueError(
                f"A config of {self._count} parts may share them {_MAX_SHARED:,} times. "
                f"Received: {self._shared:,}"
            )
        return self._seen[number]

    def _read_object(self, kind: str, config: dict[str, Any]) -> Any:
        if kind == "variable":
            _check_dtype(config["dtype"])
            value = tf.reshape(tf.constant(config["values"], config["dtype"]), config["shape"])
            return tf.Variable(value, trainable=config["trainable"], name=config["name"])
        if kind == "transformed_variable":
            variable, bijector = self.read(config["input"]), self.read(config["bijector"])
            return tfp.util.DeferredTensor(variable, bijector)
        if kind == "transformer":
            transformer: Any = _class(config["class"], transformers.Transformer)
            arguments = self.read(config["arguments"])
            for size in _sizes(arguments):  # Bins, degrees, components: loops and matrices.
                claim(size, size)
            return transformer.from_config(arguments)
        if kind == "object":
            cls = _class(config["class"], _HAS_PARAMETERS)
            arguments = {name: self.read(v) for name, v in config["arguments"].items()}
            for size in _sizes(arguments):
                check_size(_NUMBERS_A_SIZE * size)
            return cls(**arguments)
        if kind == "keras":
            check_keras(config["config"], ValueError, "keras")
            for size in _sizes(config["config"]):
                check_size(_NUMBERS_A_SIZE * size)
            return keras.saving.deserialize_keras_object(config["config"])
        if kind in ("tensor", "array"):
            _check_dtype(config["dtype"])
            array = np.array(config["values"], config["dtype"])
            return tf.constant(array) if kind == "tensor" else array
        raise ValueError(f"A config of tfp_flows has no kind {kind!r}.")


def _check_dtype(name: str) -> None:
    dtype = tf.as_dtype(name)
    if not (dtype.is_floating or dtype.is_integer or dtype.is_bool):
        raise ValueError(f"A config of tfp_flows holds numbers. Received: dtype={name!r}")


def _sizes(arguments: Any) -> Iterable[int]:
    """The integers of a config that may be sizes: of a list the largest, and no seeds."""
    if isinstance(arguments, dict):
        for name, value in arguments.items():
            if name not in ("seed", "shared_object_id"):  # The second is of Keras.
                yield from _sizes(value)
    elif isinstance(arguments, list | tuple):
        found = [size for item in arguments for size in _sizes(item)]
        yield from [max(found)] if found else []
    elif isinstance(arguments, int) and not isinstance(arguments, bool):
        yield abs(arguments)


def _class_name(obj: Any, path: str) -> str:
    """The allowed name of an object's class, "namespace>Class"; a TypeError if it has none."""
    cls = type(obj)
    registered = keras.saving.get_registered_name(cls)
    if registered != cls.__name__:
        return registered
    # TFP makes `_Chain`, say, of `Chain` where parts are not composite tensors.
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


def _is_numpy_type(obj: Any) -> bool:
    return isinstance(obj, type) and issubclass(obj, np.generic)


def _refusal(obj: Any, path: str) -> TypeError:
    return TypeError(
        f"{path} is a {type(obj).__module__}.{type(obj).__qualname__}, which cannot be saved as a "
        "config. Saving takes distributions, bijectors, variables, arrays and Keras layers, but no "
        "functions; `save_weights` works with everything."
    )
