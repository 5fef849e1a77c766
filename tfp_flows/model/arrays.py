"""What `FlowModel` takes for numbers: arrays, tensors, tables and lists; all else is an error."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

__all__ = ["check_numbers", "is_array", "real_numbers"]


def is_array(data: Any) -> bool:
    """Whether the data are an array, tensor or table, with its rows on the first axis."""
    return hasattr(data, "__array__") and not isinstance(data, keras.KerasTensor)


def check_numbers(data: Any, name: str) -> Any:
    """The data, in a form that NumPy and TensorFlow read alike.

    Tensors and arrays come back as they are, lists as arrays, pandas' nullable columns as float64.
    Datasets, generators and the like come back unread.

    Args:
      data: what a user gave.
      name: what the message calls it.

    Raises:
      ValueError: the data are missing, hold a value that is missing or masked, or something else
        than real numbers: text, dates, complex numbers, objects, rows of different lengths; or
        they are sparse or symbolic.
    """
    if isinstance(data, tf.RaggedTensor | tf.SparseTensor) or hasattr(data, "toarray"):
        raise _refusal(name, f"a {type(data).__name__}, which is not dense")
    if isinstance(data, keras.Variable):
        data = data.value
    if isinstance(data, keras.KerasTensor):
        raise ValueError(
            f"`{name}` must be an array of numbers; only the call of the model itself, `model(x)`, "
            "takes symbolic ones. Received: a KerasTensor"
        )
    if tf.is_tensor(data) or isinstance(data, tf.Variable):
        if not _is_real(tf.as_dtype(data.dtype)):
            raise _refusal(name, f"a tensor of {tf.as_dtype(data.dtype).name}")
        return tf.convert_to_tensor(data) if isinstance(data, tf.Variable) else data
    if isinstance(data, tf.data.Dataset):
        for spec in tf.nest.flatten(data.element_spec):
            if isinstance(spec, tf.RaggedTensorSpec | tf.SparseTensorSpec):
                raise _refusal(name, f"a dataset of {spec.value_type.__name__}")
            if isinstance(spec, tf.TensorSpec) and not _is_real(spec.dtype):
                raise _refusal(name, f"a dataset of {spec.dtype.name}")
        return data
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(data, pandas.DataFrame | pandas.Series):
        return _plain_table(data, name)
    if isinstance(data, np.ma.MaskedArray) and np.ma.is_masked(data):
        raise _refusal(name, f"a masked value at {_place(np.ma.getmaskarray(data))}")
    if is_array(data):
        array = real_numbers(data, name)
        # Of tables that are not arrays themselves, the names of columns are to be kept.
        return array if isinstance(data, np.ndarray) else data
    if isinstance(data, list | tuple):
        return _array_of(data, name)
    if data is None or isinstance(data, str | bytes | Mapping | set | complex):
        raise _refusal(name, "None" if data is None else f"a {type(data).__name__}")
    return data  # Generators, `keras.utils.PyDataset`, loaders: Keras reads them.


def _is_real(dtype: tf.DType) -> bool:
    return bool(dtype.is_floating or dtype.is_integer or dtype.is_bool)


def real_numbers(data: Any, name: str) -> np.ndarray:
    """The data as an array, if it is one of real numbers; else a ValueError."""
    array = np.asarray(data)
    if array.dtype == tf.bfloat16.as_numpy_dtype:  # Of no kind to NumPy.
        array = array.astype("float32")
    elif array.dtype == np.longdouble or not array.dtype.isnative:  # TensorFlow has none of these.
        array = array.astype("float64") if array.dtype.kind in "iuf" else array
    if array.dtype == object and not array.ndim:
        raise _refusal(name, f"a {type(data).__name__}")
    if array.dtype.kind not in "biuf":
        raise _refusal(name, f"dtype={array.dtype}")
    return array


def _array_of(data: Any, name: str) -> np.ndarray:
    for i, part in enumerate(data):
        if np.ma.is_masked(part):  # NumPy would take what is behind the mask.
            raise _refusal(name, f"a masked value in row {i}")
    try:
        return real_numbers(np.array(data), name)
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        raise _refusal(name, f"a {type(data).__name__} of rows of different lengths") from error


def _plain_table(data: Any, name: str) -> Any:
    """A pandas table of plain numbers, its names kept; nullable ones only if no value is absent."""
    plain, kinds = True, set()
    for label, column in [(data.name, data)] if data.ndim == 1 else data.items():
        dtype = column.dtype
        if isinstance(dtype, np.dtype):
            if dtype.kind not in "biuf":
                raise _refusal(name, f"{dtype} in column {label!r}")
            kinds.add(dtype.kind)
            continue
        if dtype.kind not in "biuf":  # Categories, text, dates with a zone.
            raise _refusal(name, f"{dtype} in column {label!r}")
        missing = column.isna().to_numpy()
        if missing.any():
            raise _refusal(name, f"no value at row {missing.argmax()}, column {label!r}")
        plain = False
    # Truth values beside numbers would make an array of objects.
    plain = plain and not ("b" in kinds and len(kinds) > 1)
    return data if plain else data.astype("float64")


def _place(bad: np.ndarray) -> str:
    first = np.argwhere(bad)[0]
    return "row " + ", column ".join(str(i) for i in first) if len(first) else "the only entry"


def _refusal(name: str, received: str) -> ValueError:
    return ValueError(
        f"`{name}` must hold numbers, real and none of them absent. Received: {received}"
    )
