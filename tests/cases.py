"""Every exported bijector and transformer, constructed for the battery in test_bijectors.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfp_flows import bijectors

t = bijectors.transformers
BOUND = 3.0


def _neighbours(value: float) -> list[float]:
    """A number, and the next ones that float32 has on both sides, with both signs."""
    value = np.float32(value)
    around = [value, np.nextafter(value, np.float32(0)), np.nextafter(value, np.float32(np.inf))]
    return [float(sign * v) for v in around for sign in (1, -1)]


EXTREMES = [0.0, 1e4, -1e4, *_neighbours(BOUND)]


@dataclasses.dataclass(frozen=True)
class Case:
    make: Callable[[str], bijectors.Bijector]
    event_size: int
    context_size: int | None = None
    inverse_extremes: tuple[float, ...] | None = None

    def build(self, dtype: str, *, noise: float = 0.2) -> bijectors.Bijector:
        """The bijector with random values added to its variables."""
        bijector = self.make(dtype)
        rng = np.random.default_rng(1)
        for variable in bijector.trainable_variables:
            variable.assign_add(rng.normal(0, noise, variable.shape))
        return bijector

    def inputs(self, dtype: str) -> tuple[np.ndarray, np.ndarray | None]:
        rng = np.random.default_rng(2)
        x = rng.normal(0, 1.5, (8, self.event_size)).astype(dtype)
        context = None
        if self.context_size is not None:
            context = rng.normal(size=(8, self.context_size)).astype(dtype)
        return x, context


def variable(value: float | list[float]) -> Callable[[str], tf.Variable]:
    return lambda dtype: tf.Variable(tf.constant(value, dtype))


TRANSFORMERS = {
    "Additive": t.Additive(),
    "Affine": t.Affine(),
    "RationalQuadraticSpline": t.RationalQuadraticSpline(bins=6, bound=BOUND),
}


def coupling(size: int, transformer: t.Transformer, context: int | None = None, **options) -> Case:
    def make(dtype: str) -> bijectors.Coupling:
        return bijectors.Coupling(
            size, transformer, (8,), context_size=context, dtype=dtype, seed=0, **options
        )

    return Case(make, size, context)


CASES: dict[str, Case] = {
    "ShiftAndCube float": Case(lambda dtype: bijectors.ShiftAndCube(0.5), 2),
    "ShiftAndCube variable": Case(lambda d: bijectors.ShiftAndCube(variable(0.5)(d)), 2),
    "Rotation2D float": Case(lambda dtype: bijectors.Rotation2D(0.7), 2),
    "Rotation2D variable": Case(lambda dtype: bijectors.Rotation2D(variable(0.7)(dtype)), 2),
    "BimodalSoftsign float": Case(
        lambda dtype: bijectors.BimodalSoftsign(2.0, 3.0), 2, inverse_extremes=(0.0, 2.99, -2.99)
    ),
    "BimodalSoftsign variable": Case(
        lambda dtype: bijectors.BimodalSoftsign(variable(2.0)(dtype), variable(3.0)(dtype)),
        3,
        inverse_extremes=(0.0, 2.5, -2.5),
    ),
    **{
        f"Elementwise {name} {size}": Case(
            lambda dtype, size=size, transformer=transformer: bijectors.Elementwise(
                size, transformer, dtype=dtype
            ),
            size,
        )
        for name, transformer in TRANSFORMERS.items()
        for size in (1, 3)
    },
    **{
        f"Coupling {name} {size}": coupling(size, transformer)
        for name, transformer in TRANSFORMERS.items()
        for size in (1, 2, 3, 5)
    },
    "Coupling flip": coupling(5, t.Affine(), flip=True),
    "Coupling alternate": coupling(5, TRANSFORMERS["RationalQuadraticSpline"], mask="alternate"),
    "Coupling context only": coupling(3, t.Affine(), context=2, mask=[False] * 3),
    "Coupling mask": coupling(3, t.Affine(), mask=[True, False, True]),
    **{
        f"Coupling context {size}": coupling(size, transformer, context=2)
        for size, transformer in ((1, t.Affine()), (3, TRANSFORMERS["RationalQuadraticSpline"]))
    },
}
