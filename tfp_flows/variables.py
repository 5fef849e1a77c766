"""The bridge between the variables of TFP objects, of functions they call, and of Keras models."""

from __future__ import annotations

import keras
import tensorflow as tf
import tensorflow_probability as tfp

__all__ = ["adopt", "find"]


def find(distribution: tfp.distributions.Distribution) -> list[tf.Variable]:
    """All variables of a distribution that takes no context, those that closures hide included.

    The order is fixed by how the distribution was made, so that weights saved in one process fit
    in another.
    """
    x = distribution.sample(1, seed=(0, 0))
    with tf.GradientTape() as tape:
        distribution.log_prob(tf.identity(x))  # Makes networks that are built lazily build now.
    found = [*distribution.variables, *tape.watched_variables()]
    return [reference.deref() for reference in dict.fromkeys(v.ref() for v in found)]


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
