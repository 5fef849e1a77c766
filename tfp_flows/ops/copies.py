"""Copies of distributions and bijectors: those that share variables, and independent ones.

TFP copies an object by calling its constructor again with the same arguments. Variables that are
arguments are then shared, but what an object makes for itself, networks above all, would be made
anew, with other weights. Here `copy()` shares all variables, and `copy.deepcopy` and `pickle` make
others with the same values.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.ops.internals import copy_attributes, deferred_transform

__all__ = ["Copyable", "own_variables"]

_NUMBERS = (int, float, np.ndarray, np.generic, tf.Tensor)
_HAS_PARAMETERS = (tfp.distributions.Distribution, tfp.bijectors.Bijector, tf.linalg.LinearOperator)


class Copyable:
    """`copy()`, slices, `copy.deepcopy` and `pickle` of a TFP object that makes variables itself.

    A base to be named before that of TFP, which has the arguments of the constructor in
    `parameters`.
    """

    parameters: Any

    def _arguments(self) -> dict[str, Any]:
        """The arguments of the constructor that make another one of the same architecture."""
        return dict(self.parameters)

    def copy(self, **overrides: Any) -> Any:
        """Another object that shares all variables with this one, as copies in TFP do.

        Args:
          **overrides: `name`, `validate_args`, or, where all variables are arguments of the
            constructor, any arguments that the copy is to be made with instead.

        Raises:
          ValueError: another argument is overridden, but there are variables that were made to the
            arguments as they are.
        """
        arguments = self._arguments()
        if overrides and not own_variables(self, arguments):
            return type(self)(**{**arguments, **overrides})
        others = overrides.keys() - {"name", "validate_args"}
        if others:
            given = ", ".join(f"{name}={overrides[name]!r}" for name in sorted(others))
            raise ValueError(
                "`copy` shares the variables, so only `name` and `validate_args` can change: to "
                f"build one from scratch, call {type(self).__name__}(...). Received: {given}"
            )
        return copy_attributes(self, overrides)

    def __getitem__(self, slices: Any) -> Any:
        """A part of the batch, which an object with variables of its own does not have."""
        if slices is Ellipsis:
            return self.copy()
        if not own_variables(self, self._arguments()):
            return super().__getitem__(slices)  # type: ignore[misc]
        raise ValueError(
            f"{type(self).__name__} has batch shape (), of which only [...] can be taken. "
            f"Received: [{slices!r}]"
        )

    def __copy__(self) -> Any:
        return self.copy()

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """How `copy.deepcopy` and `pickle` make an independent object: arguments, and values.

        What is shared among the arguments, variables and layers above all, is shared in the copy.
        """
        return _Recipe(self, self._arguments(), {}).__reduce__()


def own_variables(obj: tf.Module, arguments: Any) -> list[tf.Variable]:
    """The variables of an object that are not in the arguments of its constructor."""
    given = {id(variable) for variable in _variables_in(arguments)}
    return [variable for variable in obj.variables if id(variable) not in given]


def _is_same(first: Any, second: Any) -> bool:
    return type(first) is type(second) and np.array_equal(first, second)


def _variables_in(arguments: Any) -> Iterator[tf.Variable]:
    for value in tf.nest.flatten(arguments):
        if isinstance(value, tf.Variable):
            yield value
        elif isinstance(value, keras.layers.Layer):
            yield from (variable.value for variable in value.variables)
        elif isinstance(value, tf.Module):
            yield from value.variables


class _Recipe:
    """Stands for an object of TFP's, which cannot be pickled itself; unpickled, it is that object.

    `seen` has the recipes of all that one object is made of, so that what occurs twice is one.
    """

    def __init__(self, obj: Any, arguments: dict[str, Any], seen: dict[int, _Recipe]):
        self._obj, self._arguments, self._seen = obj, arguments, seen

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        obj, arguments = self._obj, self._arguments
        values, attributes = [], {}
        if isinstance(obj, tf.Module):
            values = [variable.numpy() for variable in own_variables(obj, arguments)]
            attributes = {
                name: value
                for name, value in vars(obj).items()
                if isinstance(value, _NUMBERS) and not isinstance(value, bool)  # Flags of TFP's.
                if not name.startswith("_self_")  # Counters of TensorFlow's.
            }
        arguments = tf.nest.map_structure(self._picklable, arguments)
        cls = tfp.util.DeferredTensor if isinstance(obj, tfp.util.DeferredTensor) else type(obj)
        return _build, (cls, arguments, values, attributes)

    def _picklable(self, value: Any) -> Any:
        if isinstance(value, types.FunctionType) and "<" in value.__qualname__:
            raise TypeError(
                f"{type(self._obj).__name__} holds a lambda, or a function that is defined inside "
                "another. It can be neither copied nor pickled, nor can variables that it uses: "
                "use a bijector class, or a function at the top of a module. "
                f"Received: {value.__qualname__}"
            )
        if isinstance(value, Copyable):
            return value
        if isinstance(value, tfp.util.DeferredTensor):
            source, transform = value.pretransformed_input, deferred_transform(value)
            return self._recipe(value, {"pretransformed_input": source, "transform_fn": transform})
        if isinstance(value, _HAS_PARAMETERS):
            return self._recipe(value, dict(value.parameters))
        return value

    def _recipe(self, obj: Any, arguments: dict[str, Any]) -> _Recipe:
        return self._seen.setdefault(id(obj), _Recipe(obj, arguments, self._seen))


def _build(
    cls: type, arguments: dict[str, Any], values: list[np.ndarray], attributes: dict[str, Any]
) -> Any:
    """Call a constructor, and give the variables and attributes that it makes these values."""
    obj = cls(**arguments)
    for name, value in attributes.items():  # A constructor may have drawn them.
        if not _is_same(getattr(obj, name, None), value):
            setattr(obj, name, value)
    if values:
        variables = own_variables(obj, arguments)
        if [v.shape for v in variables] != [value.shape for value in values]:
            raise ValueError(
                f"{cls.__name__} cannot be copied: called with its `parameters`, the constructor "
                f"makes other variables. Received: {[tuple(v.shape) for v in variables]} in place "
                f"of {[value.shape for value in values]}"
            )
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
    return obj
