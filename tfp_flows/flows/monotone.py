"""Autoregressive flows of smooth monotone maps, inverted numerically."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from tensorflow_probability import distributions as tfd

from tfp_flows.bijectors.transformers import (
    Bernstein,
    DeepDenseSigmoidal,
    DeepSigmoidal,
    Inverse,
    SumOfSquares,
    UnconstrainedMonotonic,
)
from tfp_flows.distributions.flow import Flow
from tfp_flows.flows.build import Frame

__all__ = ["bernstein", "naf", "sum_of_squares", "umnn"]


def naf(
    event_size: int,
    *,
    layers: int = 2,
    hidden_units: Sequence[int] = (128, 128),
    components: int = 16,
    dense: bool = False,
    activation: str = "relu",
    passes: int | None = None,
    residual: bool = False,
    linear: str | None = None,
    actnorm: bool = False,
    context_size: int | None = None,
    embedding: keras.layers.Layer | None = None,
    context_shape: Sequence[int] | None = None,
    base: tfd.Distribution | None = None,
    support: str | Sequence | None = None,
    dtype: str = "float32",
    seed: int | None = None,
) -> Flow:
    """NAF: neural autoregressive flow, whose maps are small monotone networks of sigmoids.

    `log_prob` costs one network call a layer; `sample` goes through the columns one after another,
    with the arithmetic of about one call and a numerical inverse at every column.

    `components` is the width of the monotone networks, `dense` makes them deep and dense; for the
    other arguments see `maf` and `flows`.

    Source: Chin-Wei Huang, David Krueger, Alexandre Lacoste and Aaron Courville, "Neural
    Autoregressive Flows" (2018).

    Example:
      >>> flow = flows.naf(3, layers=1)
    """
    frame = Frame.of("naf", locals())
    transformer = Inverse(DeepDenseSigmoidal(components) if dense else DeepSigmoidal(components))
    return frame.flow(
        frame.autoregressive(
            transformer, hidden_units, activation=activation, passes=passes, residual=residual
        )
    )


def umnn(
    event_size: int,
    *,
    layers: int = 2,
    hidden_units: Sequence[int] = (128, 128),
    integrand_units: int = 8,
    activation: str = "relu",
    passes: int | None = None,
    residual: bool = False,
    linear: str | None = None,
    actnorm: bool = False,
    context_size: int | None = None,
    embedding: keras.layers.Layer | None = None,
    context_shape: Sequence[int] | None = None,
    base: tfd.Distribution | None = None,
    support: str | Sequence | None = None,
    dtype: str = "float32",
    seed: int | None = None,
) -> Flow:
    """UMNN-MAF: autoregressive, with integrals of positive networks as maps.

    `log_prob` costs one network call a layer; `sample` goes through the columns one after another,
    with the arithmetic of about one call and a numerical inverse at every column.

    `integrand_units` is the width of the integrand's hidden layer; for the other arguments see
    `maf` and `flows`.

    Source: Antoine Wehenkel and Gilles Louppe, "Unconstrained Monotonic Neural Networks" (2019).

    Example:
      >>> flow = flows.umnn(3, layers=1)
    """
    frame = Frame.of("umnn", locals())
    transformer = Inverse(UnconstrainedMonotonic(integrand_units))
    return frame.flow(
        frame.autoregressive(
            transformer, hidden_units, activation=activation, passes=passes, residual=residual
        )
    )


def bernstein(
    event_size: int,
    *,
    layers: int = 2,
    hidden_units: Sequence[int] = (128, 128),
    degree: int = 16,
    bound: float = 5.0,
    activation: str = "relu",
    passes: int | None = None,
    residual: bool = False,
    linear: str | None = None,
    actnorm: bool = False,
    context_size: int | None = None,
    embedding: keras.layers.Layer | None = None,
    context_shape: Sequence[int] | None = None,
    base: tfd.Distribution | None = None,
    support: str | Sequence | None = None,
    dtype: str = "float32",
    seed: int | None = None,
) -> Flow:
    """Autoregressive flow of Bernstein polynomials.

    `log_prob` costs one network call a layer; `sample` goes through the columns one after another,
    with the arithmetic of about one call and a numerical inverse at every column.

    `degree` and `bound` are those of `Bernstein`; for the other arguments see `maf` and `flows`.

    Source: Sameera Ramasinghe, Kasun Fernando, Salman Khan and Nick Barnes, "Robust Normalizing
    Flows using Bernstein-type Polynomials" (2022).

    Example:
      >>> flow = flows.bernstein(3, layers=1)
    """
    frame = Frame.of("bernstein", locals())
    transformer = Inverse(Bernstein(degree, bound))
    return frame.flow(
        frame.autoregressive(
            transformer, hidden_units, activation=activation, passes=passes, residual=residual
        )
    )


def sum_of_squares(
    event_size: int,
    *,
    layers: int = 4,
    hidden_units: Sequence[int] = (128, 128),
    polynomials: int = 2,
    degree: int = 3,
    activation: str = "relu",
    passes: int | None = None,
    residual: bool = False,
    linear: str | None = None,
    actnorm: bool = False,
    context_size: int | None = None,
    embedding: keras.layers.Layer | None = None,
    context_shape: Sequence[int] | None = None,
    base: tfd.Distribution | None = None,
    support: str | Sequence | None = None,
    dtype: str = "float32",
    seed: int | None = None,
) -> Flow:
    """Sum-of-squares polynomial flow, autoregressive.

    `log_prob` costs one network call a layer; `sample` goes through the columns one after another,
    with the arithmetic of about one call and a numerical inverse at every column.

    `polynomials` and `degree` are those of `SumOfSquares`; for the other arguments see `maf` and
    `flows`.

    Source: Priyank Jaini, Kira Selby and Yaoliang Yu, "Sum-of-Squares Polynomial Flow" (2019).

    Example:
      >>> flow = flows.sum_of_squares(3, layers=1)
    """
    frame = Frame.of("sum_of_squares", locals())
    transformer = Inverse(SumOfSquares(polynomials, degree))
    return frame.flow(
        frame.autoregressive(
            transformer, hidden_units, activation=activation, passes=passes, residual=residual
        )
    )
