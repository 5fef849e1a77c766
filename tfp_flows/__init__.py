"""Normalizing flows for TensorFlow Probability and Keras 3."""

import os as _os

if _os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true", "yes"):
    raise ImportError("tfp_flows needs Keras 3: unset the variable TF_USE_LEGACY_KERAS.")
if _os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    raise ImportError(
        "tfp_flows needs Keras on TensorFlow: unset the variable KERAS_BACKEND. "
        f"Received: KERAS_BACKEND={_os.environ['KERAS_BACKEND']}"
    )

import keras as _keras

if _keras.config.backend() != "tensorflow":
    raise ImportError(
        "tfp_flows needs Keras on TensorFlow: set KERAS_BACKEND=tensorflow, or "
        f'"backend": "tensorflow" in keras.json. Received: {_keras.config.backend()}'
    )

from tfp_flows import (
    audio,
    bijectors,
    datasets,
    diagnostics,
    flows,
    networks,
    plots,
    rl,
    serialization,
    testing,
    vi,
)
from tfp_flows._version import __version__
from tfp_flows.distributions import Flow, bases
from tfp_flows.model import FlowModel

__all__ = [
    "Flow",
    "FlowModel",
    "__version__",
    "audio",
    "bases",
    "bijectors",
    "datasets",
    "diagnostics",
    "flows",
    "networks",
    "plots",
    "rl",
    "serialization",
    "testing",
    "vi",
]
