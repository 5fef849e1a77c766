"""Random signs, of which products with a matrix estimate its trace."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

__all__ = ["RandomSigns"]


class RandomSigns(keras.layers.Layer):
    """Signs `v` of the shape of events: `E[vᵀ J v] = tr J` (Hutchinson).

    In training, which Keras layers, and models, tell those that they call, they are others for
    every row and call; else always the same, also for all rows, so that no row depends on others.

    Shapes: events `(n, ...)` to `(n, ...)`.

    Args:
      seed: integer for reproducible draws, or `None`.
      dtype: Keras dtype policy of the events.
    """

    independent_over_batch = True

    def __init__(self, seed: int | None, dtype: str | keras.DTypePolicy):
        super().__init__(dtype=dtype, name="signs")
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.seed = seed

    def call(
        self, x: tf.Tensor, training: bool | None = None
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The signs, and in training, and only there, a uniform number from (0, 1)."""
        if not training:
            rng = np.random.default_rng(self.seed or 0)
            signs = tf.constant(rng.choice([-1.0, 1.0], x.shape[1:]), x.dtype)
            return signs + tf.zeros_like(x), None
        seed = self.seed_generator
        signs = keras.random.randint(tf.shape(x), 0, 2, "int32", seed)
        uniform = keras.random.uniform((), 0.0, 1.0, x.dtype.name, seed)
        return 2 * tf.cast(signs, x.dtype) - 1, uniform

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}
