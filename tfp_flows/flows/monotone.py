"""Autoregressive flows of smooth monotone maps, inverted numerically.

In all of them `log_prob` costs one network call a layer; `sample` goes through the columns one
after another, with the arithmetic of about one call and a numerical inverse at every column.
"""

from __future__ import annotations

from typing_extensions import Unpack

from tfp_flows.bijectors import BlockAutoregressive
from tfp_flows.bijectors.transformers import (
    Bernstein,
    DeepDenseSigmoidal,
    DeepSigmoidal,
    Inverse,
    SumOfSquares,
    UnconstrainedMonotonic,
)
from tfp_flows.distributions.flow import Flow
from tfp_flows.flows.build import Builder
from tfp_flows.flows.masked_autoregressive import autoregressive
from tfp_flows.flows.options import AutoregressiveOptions, FlowOptions, family

__all__ = ["bernstein", "bnaf", "naf", "sum_of_squares", "umnn"]


@family(layers=2)
def naf(
    event_size: int,
    *,
    components: int = 16,
    dense: bool = False,
    **options: Unpack[AutoregressiveOptions],
) -> Flow:
    """NAF: neural autoregressive flow, whose maps are small monotone networks of sigmoids.

    `log_prob` costs one network call a layer; `sample` goes through the columns one after another,
    with the arithmetic of about one call and a numerical inverse at every column.
    `components` is the width of the monotone networks, `dense` makes them deep and dense.

    Source: Chin-Wei Huang, David Krueger, Alexandre Lacoste and Aaron Courville, "Neural
    Autoregressive Flows" (2018).

    Example:
      >>> flow = flows.naf(3, layers=1)
    """
    sigmoids = DeepDenseSigmoidal(components) if dense else DeepSigmoidal(components)
    return autoregressive(event_size, Inverse(sigmoids), **options)


@family(layers=1)
def bnaf(
    event_size: int,
    *,
    hidden_factor: int = 8,
    hidden_layers: int = 2,
    **options: Unpack[FlowOptions],
) -> Flow:
    """BNAF: block neural autoregressive flow, layers of one monotone network each.

    `log_prob` costs one network call a layer, of `hidden_factor` units a column in each of
    `hidden_layers` hidden layers; `sample` goes through the columns one after another, with 5 to 20
    calls for each. The order of the columns is reversed in every second layer. `hidden_units` are
    those of a network that reads the context, if there is one.

    Source: Nicola De Cao, Ivan Titov and Wilker Aziz, "Block Neural Autoregressive Flow" (2019).

    Example:
      >>> flow = flows.bnaf(3, hidden_factor=4)
    """
    build = Builder(event_size, options)
    return build.flow(
        [
            BlockAutoregressive(
                build.size,
                hidden_factor,
                hidden_layers,
                order="reversed" if i % 2 else None,
                context_size=build.context_size,
                conditioner=options["hidden_units"],
                dtype=build.dtype,
                seed=build.next_seed(),
            )
            for i in range(build.layers)
        ]
    )


@family(layers=2)
def umnn(
    event_size: int, *, integrand_units: int = 8, **options: Unpack[AutoregressiveOptions]
) -> Flow:
    """UMNN-MAF: autoregressive, with integrals of positive networks as maps.

    `log_prob` costs one network call a layer; `sample` goes through the columns one after another,
    with the arithmetic of about one call and a numerical inverse at every column.
    `integrand_units` is the width of the integrand's hidden layer.

    Source: Antoine Wehenkel and Gilles Louppe, "Unconstrained Monotonic Neural Networks" (2019).

    Example:
      >>> flow = flows.umnn(3, layers=1)
    """
    return autoregressive(event_size, Inverse(UnconstrainedMonotonic(integrand_units)), **options)


@family(layers=2)
def bernstein(
    event_size: int,
    *,
    degree: int = 16,
    bound: float = 5.0,
    **options: Unpack[AutoregressiveOptions],
) -> Flow:
    """Autoregressive flow of Bernstein polynomials.

    `log_prob` costs one network call a layer; `sample` goes through the columns one after another,
    with the arithmetic of about one call and a numerical inverse at every column.
    `degree` and `bound` are those of `Bernstein`.

    Source: Sameera Ramasinghe, Kasun Fernando, Salman Khan and Nick Barnes, "Robust Normalizing
    Flows using Bernstein-type Polynomials" (2022).

    Example:
      >>> flow = flows.bernstein(3, layers=1)
    """
    return autoregressive(event_size, Inverse(Bernstein(degree, bound)), **options)


@family(layers=4)
def sum_of_squares(
    event_size: int,
    *,
    polynomials: int = 2,
    degree: int = 3,
    **options: Unpack[AutoregressiveOptions],
) -> Flow:
    """Sum-of-squares polynomial flow, autoregressive.

    `log_prob` costs one network call a layer; `sample` goes through the columns one after another,
    with the arithmetic of about one call and a numerical inverse at every column.
    `polynomials` and `degree` are those of `SumOfSquares`.

    Source: Priyank Jaini, Kira Selby and Yaoliang Yu, "Sum-of-Squares Polynomial Flow" (2019).

    Example:
      >>> flow = flows.sum_of_squares(3, layers=1)
    """
    return autoregressive(event_size, Inverse(SumOfSquares(polynomials, degree)), **options)
