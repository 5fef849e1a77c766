"""Every exported bijector and transformer, constructed for the battery in test_bijectors.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tfp_flows import bijectors

t = bijectors.transformers
BOUND = 3.0


def _neighbours(value: float) -> list[float]:
    """A number, and the next ones that float32 has on both sides, with both signs."""
    value = np.float32(value)
    around = [value, np.nextafter(value, np.float32(0)), np.nextafter(value, np.float32(np.inf))]
    return [float(sign * v) for v in around for sign in (1, -1)]


EXTREMES = [0.0, 1e4, -1e4, *_neighbours(BOUND)]
# Circular splines, whose inputs are angles, have their own.
EDGES = [0.0, 1e4, -1e4, *_neighbours(np.pi)]


@dataclasses.dataclass(frozen=True)
class Case:
    make: Callable[[str], bijectors.Bijector]
    event_size: int | tuple[int, ...]
    context_size: int | tuple[int, ...] | None = None
    inverse_extremes: tuple[float, ...] | None = None
    extremes: tuple[float, ...] = tuple(EXTREMES)
    # Laws that cannot hold, with the reason.
    skip: tuple[str, ...] = ()
    angles: bool = False
    noise: float = 0.2

    def build(self, dtype: str, *, noise: float | None = None) -> bijectors.Bijector:
        """The bijector with random values added to its variables."""
        bijector = self.make(dtype)
        rng = np.random.default_rng(1)
        for variable in bijector.trainable_variables:
            variable.assign_add(rng.normal(0, noise or self.noise, variable.shape))
        return bijector

    def inputs(self, dtype: str) -> tuple[np.ndarray, np.ndarray | None]:
        rng = np.random.default_rng(2)
        x = rng.normal(0, 1.5, _rows(self.event_size))
        x = (np.pi * np.tanh(x / 2) if self.angles else x).astype(dtype)
        size = self.context_size
        context = None if size is None else rng.normal(size=_rows(size)).astype(dtype)
        return x, context


def _rows(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return (8, *size) if isinstance(size, tuple) else (8, size)


def variable(value: float | list[float]) -> Callable[[str], tf.Variable]:
    return lambda dtype: tf.Variable(tf.constant(value, dtype))


TRANSFORMERS = {
    "Additive": t.Additive(),
    "Affine": t.Affine(),
    "AffineBounded": t.Affine(max_log_scale=1.0, max_shift=0.5),
    "RationalQuadraticSpline": t.RationalQuadraticSpline(bins=6, bound=BOUND),
    "LinearSpline": t.LinearSpline(bins=4, bound=BOUND),
    "QuadraticSpline": t.QuadraticSpline(bins=4, bound=BOUND),
    "CubicSpline": t.CubicSpline(bins=4, bound=BOUND),
    "CircularSpline": t.CircularSpline(bins=4),
    "DeepSigmoidal": t.DeepSigmoidal(components=4),
    "DeepDenseSigmoidal": t.DeepDenseSigmoidal(components=3),
    "MixtureOfLogistics": t.MixtureOfLogistics(components=3),
    "Bernstein": t.Bernstein(degree=6, bound=BOUND),
    "SumOfSquares": t.SumOfSquares(bound=BOUND),
    "UnconstrainedMonotonic": t.UnconstrainedMonotonic(hidden_units=4, bound=BOUND),
    "Inverse": t.Inverse(t.DeepSigmoidal(components=4)),
}
# Those that need no other sizes than 3 to be seen in: what sizes do is a matter of the structure.
CLASSIC = ("Additive", "Affine", "RationalQuadraticSpline")


def coupling(
    size: int | tuple, transformer: t.Transformer, context: int | tuple | None = None, **options
) -> Case:
    def make(dtype: str) -> bijectors.Coupling:
        return bijectors.Coupling(
            size, transformer, (8,), context_size=context, dtype=dtype, seed=0, **options
        )

    return Case(make, size, context, **_angles(transformer))


def autoregressive(
    size: int, transformer: t.Transformer, context: int | None = None, **options
) -> Case:
    def make(dtype: str) -> bijectors.MaskedAutoregressive:
        return bijectors.MaskedAutoregressive(
            size, transformer, (8,), context_size=context, dtype=dtype, seed=0, **options
        )

    return Case(make, size, context, **_angles(transformer))


def _angles(transformer: t.Transformer) -> dict:
    if not isinstance(transformer, t.CircularSpline):
        return {}
    return {"angles": True, "extremes": tuple(EDGES)}


def vectors(cls: type, size: int, context: int | None = None, **options) -> Case:
    """A bijector of whole vectors, whose network, if there is one, reads context."""

    def make(dtype: str) -> bijectors.Bijector:
        return cls(size, dtype=dtype, context_size=context, conditioner=(8,), seed=0, **options)

    return Case(make, size, context)


def continuous(
    size: int, context: int | None = None, dynamics: tuple[int, ...] = (6, 6), **options
) -> Case:
    """Slow events: what the solver leaves is below the tolerances, in float64 by small steps."""

    def make(dtype: str) -> bijectors.Continuous:
        solving, double = {"steps": 12, **options}, dtype == "float64"
        if options.get("solver") == "dopri5":
            solving["rtol"] = solving["atol"] = 1e-10 if double else 1e-6
        elif double:
            solving.update(solver="tsit5", steps=32)
        return bijectors.Continuous(
            size, dynamics, context_size=context, dtype=dtype, seed=0, **solving
        )

    return Case(make, size, context, skip=("one pass",), noise=0.04)  # A call a step.


def whitening(size: int, dtype: str) -> bijectors.Whitening:
    """One that was adapted to correlated data in different units."""
    bijector = bijectors.Whitening(size, dtype)
    y = np.random.default_rng(3).normal(size=(20, size))
    bijector.adapt(y @ np.triu(np.ones([size, size])) * np.logspace(-1, 0, size) + 0.5)
    return bijector


def multi_scale(dtype: str, context: int | None = None) -> bijectors.MultiScale:
    """Half of two channels goes through a coupling of squeezed images."""
    options = {"context_size": context, "dtype": dtype}
    layers = [
        bijectors.ActNorm(1, dtype),
        tfb.Invert(bijectors.Squeeze(2)),
        bijectors.Coupling((2, 2, 4), t.Affine(), (4,), seed=0, **options),
        bijectors.LU(4, dtype, permutation="random", seed=0),
        bijectors.Squeeze(2),
    ]
    return bijectors.MultiScale((4, 4, 2), layers, (4,), seed=1, **options)


def tokens(
    size: tuple,
    context: int | tuple | None = None,
    transformer: t.Transformer = TRANSFORMERS["Affine"],
    **options,
) -> Case:
    def make(dtype: str) -> bijectors.TokenAutoregressive:
        return bijectors.TokenAutoregressive(
            size, transformer, (4, 4), context_size=context, dtype=dtype, seed=0, **options
        )

    return Case(make, size, context)


def residual(size: int | tuple, context: int | tuple | None = None, **options) -> Case:
    """Log-dets that are estimated are no log-determinants."""

    def make(dtype: str) -> bijectors.Residual:
        return bijectors.Residual(
            size, (8, 8), context_size=context, dtype=dtype, seed=0, **options
        )

    skip = ("log-det", "finite differences") if "log_det" in options else ()
    return Case(make, size, context, skip=skip)


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
            **_angles(transformer),
        )
        for name, transformer in TRANSFORMERS.items()
        for size in (1, 3)
        if name in CLASSIC or size == 1
    },
    **{
        f"Coupling {name} {size}": coupling(size, transformer)
        for name, transformer in TRANSFORMERS.items()
        for size in (1, 2, 3, 5)
        if name in CLASSIC
    },
    **{
        f"Coupling context {name}": coupling(3, transformer, context=2)
        for name, transformer in TRANSFORMERS.items()
        if name not in CLASSIC
    },
    **{
        f"MaskedAutoregressive {name} {size}": autoregressive(size, TRANSFORMERS[name])
        for name, size in (
            ("Affine", 1),
            ("Affine", 2),
            ("RationalQuadraticSpline", 3),
            ("Affine", 5),
        )
    },
    "MaskedAutoregressive Inverse 3": autoregressive(3, TRANSFORMERS["Inverse"]),
    "MaskedAutoregressive reversed": autoregressive(3, t.Affine(), order="reversed"),
    "MaskedAutoregressive passes 2": autoregressive(5, t.Affine(), passes=2, order="random"),
    "MaskedAutoregressive passes 3": autoregressive(5, t.Affine(), passes=3),
    "MaskedAutoregressive context 1": autoregressive(1, t.Affine(), context=2),
    "MaskedAutoregressive context 3": autoregressive(
        3, TRANSFORMERS["RationalQuadraticSpline"], context=2
    ),
    **{
        f"{cls.__name__} {size}{' context' * bool(context)}": vectors(cls, size, context)
        for cls in (
            bijectors.LU,
            bijectors.QR,
            bijectors.Triangular,
            bijectors.Householder,
            bijectors.Rotation,
            bijectors.Planar,
            bijectors.Radial,
            bijectors.Sylvester,
        )
        for size, context in ((2, None), (5, None), (3, 2))
    },
    "LU permutation": vectors(bijectors.LU, 5, permutation="random"),
    "Sylvester rank": vectors(bijectors.Sylvester, 5, rank=2),
    "ActNorm 3": Case(lambda dtype: bijectors.ActNorm(3, dtype=dtype), 3),
    "Whitening 2": Case(lambda dtype: whitening(2, dtype), 2),
    "Permutation 5": Case(lambda dtype: bijectors.Permutation(5, seed=0), 5),
    **{
        f"Support {name}": Case(
            lambda dtype, support=support: bijectors.Support(3, support, dtype=dtype),
            3,
            extremes=(0.0, 30.0, -30.0),
            inverse_extremes=(0.5, 0.01, 0.3),
        )
        for name, support in (("columns", ["real", "positive", (0.0, 1.0)]), ("angle", "angle"))
    },
    "Coupling flip": coupling(5, t.Affine(), flip=True),
    "Coupling alternate": coupling(5, TRANSFORMERS["RationalQuadraticSpline"], mask="alternate"),
    "Coupling context only": coupling(3, t.Affine(), context=2, mask=[False] * 3),
    "Coupling mask": coupling(3, t.Affine(), mask=[True, False, True]),
    **{
        f"Coupling context {size}": coupling(size, transformer, context=2)
        for size, transformer in ((1, t.Affine()), (3, TRANSFORMERS["RationalQuadraticSpline"]))
    },
    "Support simplex": Case(
        lambda dtype: bijectors.Support(2, "simplex", dtype=dtype),
        2,
        extremes=(0.0, 30.0, -30.0),
        inverse_extremes=(),
        # One column more comes out than goes in: no square Jacobian, no rows of one shape.
        skip=("log-det", "batch shapes"),
    ),
    **{
        f"{name} image": Case(make, (2, 2, 3), extremes=extremes, inverse_extremes=inverse)
        for name, make, extremes, inverse in (
            ("ActNorm", lambda dtype: bijectors.ActNorm(3, dtype=dtype), EXTREMES, None),
            ("LU", lambda dtype: bijectors.LU(3, dtype=dtype), EXTREMES, None),
            (
                "Support",
                lambda dtype: bijectors.Support(3, ["real", "positive", (0.0, 1.0)], dtype=dtype),
                (0.0, 30.0, -30.0),
                (0.5, 0.01, 0.3),
            ),
        )
    },
    "Squeeze image": Case(lambda dtype: bijectors.Squeeze(2), (2, 4, 1)),
    "Squeeze sound": Case(lambda dtype: bijectors.Squeeze(3, event_ndims=2), (6, 2)),
    "Coupling image Affine": coupling((2, 3, 2), t.Affine()),
    "Coupling image spline": coupling(
        (2, 2, 3), TRANSFORMERS["RationalQuadraticSpline"], mask="alternate", flip=True
    ),
    "Coupling image mixture": coupling((2, 2, 2), TRANSFORMERS["MixtureOfLogistics"]),
    "Coupling image context": coupling((2, 2, 2), t.Affine(), context=3),
    "Coupling image context image": coupling((2, 2, 2), t.Affine(), context=(4, 2, 3)),
    "Coupling image of any size": dataclasses.replace(
        coupling((None, None, 2), t.Affine()), event_size=(3, 2, 2)
    ),
    "Coupling checkerboard": coupling((2, 3, 1), t.Affine(), mask="checkerboard"),
    "Coupling checkerboard context": coupling(
        (2, 2, 2), t.Affine(), context=2, mask="checkerboard", flip=True
    ),
    "Coupling sound": coupling((4, 2), TRANSFORMERS["RationalQuadraticSpline"]),
    "Coupling sound context sound": coupling((4, 2), t.Affine(), context=(8, 3)),
    "MultiScale image": Case(lambda dtype: multi_scale(dtype), (4, 4, 2)),
    "MultiScale image context": Case(lambda dtype: multi_scale(dtype, 2), (4, 4, 2), 2),
    "Continuous 2": continuous(2),
    "Continuous context": continuous(1, 2, dynamics=(6,), solver="tsit5", steps=5),
    "Continuous dopri5": continuous(2, solver="dopri5", dynamics=(4, 4, 4)),
    "Tokens": tokens((4, 2)),
    "Tokens reverse": tokens((3, 2), reverse=True, transformer=TRANSFORMERS["QuadraticSpline"]),
    "Tokens context": tokens((3, 2), context=2),
    "Tokens context reverse of tokens": tokens((3, 2), context=(3, 1), reverse=True),
    "Tokens guidance": tokens((3, 2), context=2, guidance=0.5),
    "BlockAutoregressive context": Case(
        lambda dtype: bijectors.BlockAutoregressive(
            2, 4, order="reversed", context_size=2, conditioner=(8,), dtype=dtype, seed=0
        ),
        2,
        2,
    ),
    "Residual context": residual(2, context=2),
    "Residual image": residual((2, 3, 2), context=3, log_det="roulette"),
    "Sphere": Case(
        lambda dtype: bijectors.Sphere(dtype),
        2,
        angles=True,
        extremes=(0.0, float(np.pi), -float(np.pi)),
        inverse_extremes=(),
        # Three columns come out: no square Jacobian, no rows of one shape.
        skip=("log-det", "batch shapes", "finite differences"),
    ),
    "MultiScale sound": Case(
        lambda d: bijectors.MultiScale((4, 3), [bijectors.ActNorm(1, d)], (4,), dtype=d), (4, 3)
    ),
}
