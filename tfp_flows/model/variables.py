"""The bridge between the variables of TFP objects, of functions they call, and of Keras models."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf
import tensorflow_probability as tfp

__all__ = ["adopt", "find", "kept_on_error"]


def find(distribution: tfp.distributions.Distribution) -> list[tf.Variable]:
    """All variables of a distribution that takes no context, those that closures hide included.

    The order is fixed by how the distribution was made, so that weights saved in one process fit
    in another.
    """
    with tf.GradientTape() as tape:
        # Makes networks that are built lazily build now.
        distribution.log_prob(tf.identity(_any_event(distribution)))
    # On the devices of a strategy a variable is several, of which the tape watches the first.
    container_of = tf.distribute.get_strategy().extended.value_container
    found = [*distribution.variables, *map(container_of, tape.watched_variables())]
    return [reference.deref() for reference in dict.fromkeys(v.ref() for v in found)]


def _any_event(distribution: tfp.distributions.Distribution) -> tf.Tensor:
    """One event; in the support only where that is checked, for samples may take long to draw."""
    checked = any(getattr(part, "validate_args", False) for part in distribution.submodules)
    shape = distribution.event_shape
    if checked or not shape.is_fully_defined() or getattr(distribution, "validate_args", False):
        return distribution.sample(1, seed=(0, 0))
    return tf.zeros([1, *distribution.batch_shape, *shape], distribution.dtype)


def adopt(variables: list[tf.Variable]) -> list[keras.Variable]:
    """Keras variables that share storage with TensorFlow's, name, dtype and constraint included."""
    adopted = []
    for i, variable in enumerate(variables):
        name = variable.name.split(":")[0].replace("/", ".")
        twin = keras.Variable(
            variable,
            dtype=variable.dtype.name,
            trainable=variable.trainable,
            autocast=False,
            name=f"{i}_{name}",
        )
        if twin.value is not variable:
            raise RuntimeError("This version of Keras copies tf.Variables: use keras >= 3.10.")
        if variable.constraint is not None:
            # Networks of TFP keep their masks in constraints, which take tensors.
            twin.constraint = lambda v, constraint=variable.constraint: constraint(
                tf.convert_to_tensor(v)
            )
        adopted.append(twin)
    return adopted


@contextlib.contextmanager
def kept_on_error(variables: Sequence[keras.Variable]) -> Iterator[None]:
    """If this block raises, give the variables the values back that they had before."""
    before = [variable.numpy() for variable in variables]
    try:
        yield
    except BaseException:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        raise
