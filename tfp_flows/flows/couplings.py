"""Flows of couplings: both directions cost one call of every network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from typing_extensions import Unpack

from tfp_flows.bijectors import Coupling, Elementwise
from tfp_flows.bijectors.transformers import (
    Additive,
    Affine,
    Inverse,
    MixtureOfLogistics,
    Transformer,
)
from tfp_flows.distributions.flow import Flow
from tfp_flows.flows.build import Builder
from tfp_flows.flows.options import CouplingOptions, family
from tfp_flows.networks import MLP, PeriodicFeatures
from tfp_flows.networks.conditioner import network_policy

__all__ = ["coupling", "coupling_layers", "flow_plus_plus", "nice", "real_nvp"]


@family()
def coupling(event_size: int, transformer: Transformer, **options: Unpack[CouplingOptions]) -> Flow:
    """Couplings with any transformer: a part of the columns sets how the others are transformed.

    With `a` the columns that a layer's mask keeps and `b` the rest, in every layer
    `a -> a`, `b -> transformer(b; network(a, context))` from base to data.

    Both directions cost one network call a layer, and what the transformer costs: for a cheap
    density, give `transformers.Inverse` of one that has no closed inverse.

    Masks come in pairs, so that first one part of the columns is transformed, then the other. The
    first pair splits the columns in the middle, every later pair at random, drawn by `seed`; of
    three columns each is kept alone in its turn. What `linear` names mixes columns before every
    layer besides; `actnorm` standardizes them.

    With a transformer for angles (`CircularSpline`) columns are radians, networks read their sines
    and cosines, and the base is uniform on the torus; `linear`, `actnorm` and `support` would break
    the circle and must be left out.

    `transformer` is any `bijectors.transformers.Transformer`; the layers share it.

    Raises:
      ValueError: an option is not what it must be.
      TypeError: `transformer` is not a `Transformer`, or there is no such keyword.

    Source: Laurent Dinh, Jascha Sohl-Dickstein and Samy Bengio, "Density Estimation using Real
    NVP" (2017).

    Example:
      >>> spline = bijectors.transformers.QuadraticSpline(bins=6)
      >>> flow = flows.coupling(3, spline, layers=4, linear="lu", context_size=2)
      >>> flow.log_prob(np.zeros((5, 3)), context=np.zeros((5, 2)))     # (5,)
    """
    build = Builder(event_size, options, transformer)
    return build.flow(coupling_layers(build, transformer, options))


@family()
def nice(event_size: int, **options: Unpack[CouplingOptions]) -> Flow:
    """NICE: additive couplings, which preserve volume, then one trained scale a column.

    Both directions cost one network call a layer.

    Source: Laurent Dinh, David Krueger and Yoshua Bengio, "NICE: Non-linear Independent Components
    Estimation" (2014).

    Example:
      >>> flow = flows.nice(2, layers=4)
    """
    build = Builder(event_size, options)
    scale = Elementwise(build.size, Affine(), dtype=build.dtype, name="scale")
    return build.flow([scale, *coupling_layers(build, Additive(), options)])


@family()
def real_nvp(event_size: int, **options: Unpack[CouplingOptions]) -> Flow:
    """RealNVP: affine couplings; with `linear="lu"` and `actnorm=True`, Glow for vectors.

    Both directions cost one network call a layer.

    Source: Laurent Dinh, Jascha Sohl-Dickstein and Samy Bengio, "Density Estimation using Real
    NVP" (2017); Durk Kingma and Prafulla Dhariwal, "Glow: Generative Flow with Invertible 1×1
    Convolutions" (2018).

    Example:
      >>> flow = flows.real_nvp(2, hidden_units=(64, 64))
    """
    return coupling(event_size, Affine(), **options)


@family(layers=4)
def flow_plus_plus(
    event_size: int, *, components: int = 8, **options: Unpack[CouplingOptions]
) -> Flow:
    """Flow++: couplings whose maps are cumulative distributions of mixtures of logistics.

    `log_prob` costs one network call a layer; `sample` also a numerical inverse of every mixture.
    `components` is that of `MixtureOfLogistics`.

    Source: Jonathan Ho, Xi Chen, Aravind Srinivas, Yan Duan and Pieter Abbeel, "Flow++: Improving
    Flow-Based Generative Models with Variational Dequantization and Architecture Design" (2019).

    Example:
      >>> flow = flows.flow_plus_plus(2, layers=2)
    """
    return coupling(event_size, Inverse(MixtureOfLogistics(components=components)), **options)


def coupling_layers(
    build: Builder,
    transformer: Transformer,
    options: CouplingOptions,
    *,
    masks: Sequence[Sequence[bool]] | None = None,
    harmonics: int | None = None,
) -> list[Coupling]:
    """Couplings in pairs, of which the second transforms what the first one keeps.

    `masks` says otherwise which columns are kept, a layer each. With `harmonics`, networks read
    sines and cosines of so many multiples of the columns.
    """
    layers = []
    for mask in _masks(build) if masks is None else masks:
        seed = build.next_seed()
        conditioner = options["hidden_units"]
        if harmonics or options["dropout"] or options["activation"] != "relu":
            conditioner = MLP(
                options["hidden_units"],
                activation=options["activation"],
                dropout=options["dropout"],
                seed=seed,
                dtype=network_policy(tf.as_dtype(build.dtype).name),
            )
        if harmonics:
            conditioner = PeriodicFeatures(conditioner, angles=sum(mask), harmonics=harmonics)
        layers.append(
            Coupling(
                build.size,
                transformer,
                conditioner,
                mask=mask,
                context_size=build.context_size,
                dtype=build.dtype,
                seed=seed,
            )
        )
    return layers


def _masks(build: Builder) -> list[list[bool]]:
    """Which columns are kept, in pairs of layers, so that all come to act on all others."""
    size, rng = build.size, np.random.default_rng(build.seed or 0)
    masks, identity = [], np.arange(size) < size // 2
    for i in range(build.layers):
        if i % 2 == 0 and size == 3:
            identity = np.arange(3) == i // 2 % 3
        elif i >= 2 and i % 2 == 0 and size > 3:
            identity = rng.permutation(size) < size // 2
        flip = i % 2 == 1 and size > 1
        masks.append((~identity if flip else identity).tolist())
    return masks
