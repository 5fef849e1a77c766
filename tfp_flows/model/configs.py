"""What of a FlowModel is no weight: from model to config, and back."""

from __future__ import annotations

from typing import Any, TypeVar

import keras

from tfp_flows import serialization
from tfp_flows.model.column_names import ColumnNames
from tfp_flows.ops.internals import kernel_under_lora, layers_of

__all__ = ["build", "of_model"]

Model = TypeVar("Model", bound=keras.Model)


def of_model(model: Any) -> dict[str, Any]:
    """The config of a FlowModel."""
    config = {
        "distribution": serialization.serialize(model.distribution),
        "memory": model.memory,
        "name": model.name,
        "policy": model.dtype_policy.name,
        "trainable_layers": [layer.trainable for layer in layers_of(model)],
    }
    if model.columns.known:
        config["columns"] = model.columns.known
    if lora := _lora(model):
        config["lora"] = lora
    return config


def build(cls: type[Model], config: dict[str, Any]) -> Model:
    """A model of the class `cls` from the config, without its weights."""
    arguments = dict(config)  # Of a subclass too, whose `get_config` may add some.
    distribution = arguments.pop("distribution")
    trainable_layers, lora = arguments.pop("trainable_layers"), arguments.pop("lora", [])
    columns = ColumnNames(arguments.pop("columns", None))  # Older files have none.
    # Conditioners follow the global policy: for a while, let it be the one they were made by.
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(arguments.pop("policy"))
        with serialization.limited():
            model: Any = cls(serialization.deserialize(distribution), **arguments)
            layers = layers_of(model)
            for index, rank, alpha in lora:
                layers[index].enable_lora(rank, lora_alpha=alpha)
    finally:
        keras.config.set_dtype_policy(before)
    frozen = [kernel for kernel in map(kernel_under_lora, layers) if kernel is not None]
    # Layers come before their sublayers, whose flags they overwrite.
    for layer, trainable in zip(layers, trainable_layers, strict=True):
        layer.trainable = trainable
    for kernel in frozen:
        kernel.trainable = False
    model.columns = columns
    model._is_from_config = True
    return model


def _lora(model: Any) -> list[list[Any]]:
    """Index, rank and alpha of the layers of the model in which Keras' LoRA is on."""
    return [
        [index, layer.lora_rank, layer.lora_alpha]
        for index, layer in enumerate(layers_of(model))
        if kernel_under_lora(layer) is not None
    ]
