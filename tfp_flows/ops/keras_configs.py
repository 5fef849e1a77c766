"""What configs of Keras may name: classes and functions of Keras' own, and registered ones."""

from __future__ import annotations

from typing import Any

import keras

from tfp_flows.ops.internals import FUNCTIONAL_MODULE

__all__ = ["check_keras"]

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


def _keras_knows(config: dict[str, Any]) -> bool:
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
