"""Flows of couplings: both directions cost one call of every network."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from tensorflow_probability import distributions as tfd

from tfp_flows.bijectors import Elementwise
from tfp_flows.bijectors.transformers import Additive, Affine, Inverse, MixtureOfLogistics
from tfp_flows.distributions.flow import Flow
from tfp_flows.flows.build import Frame

__all__ = ["flow_plus_plus", "nice", "real_nvp"]


def nice(
    event_size: int,
    *,
    layers: int = 8,
    hidden_units: Sequence[int] = (128, 128),
    activation: str = "relu",
    dropout: float = 0.0,
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
    """NICE: additive couplings, which preserve volume, then one trained scale a column.

    Both directions cost one conditioner call a layer. Arguments: see `flows`.

    Source: Laurent Dinh, David Krueger and Yoshua Bengio, "NICE: Non-linear Independent Components
    Estimation" (2014).

    Example:
      >>> flow = flows.nice(2, layers=4)
    """
    frame = Frame.of("nice", locals())
    scale = Elementwise(frame.size, Affine(), dtype=dtype, name="scale")
    shifts = frame.couplings(Additive(), hidden_units, activation=activation, dropout=dropout)
    return frame.flow([scale, *shifts])


def real_nvp(
    event_size: int,
    *,
    layers: int = 8,
    hidden_units: Sequence[int] = (128, 128),
    activation: str = "relu",
    dropout: float = 0.0,
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
    """RealNVP: affine couplings.

    Both directions cost one conditioner call a layer. Arguments: see `flows`. With
    `linear="lu"` and `actnorm=True` this is Glow for vectors.

    Source: Laurent Dinh, Jascha Sohl-Dickstein and Samy Bengio, "Density Estimation using Real
    NVP" (2017); Durk Kingma and Prafulla Dhariwal, "Glow: Generative Flow with Invertible 1×1
    Convolutions" (2018).

    Example:
      >>> flow = flows.real_nvp(2, hidden_units=(64, 64))
    """
    frame = Frame.of("real_nvp", locals())
    return frame.flow(
        frame.couplings(Affine(), hidden_units, activation=activation, dropout=dropout)
    )


def flow_plus_plus(
    event_size: int,
    *,
    layers: int = 4,
    hidden_units: Sequence[int] = (128, 128),
    components: int = 8,
    activation: str = "relu",
    dropout: float = 0.0,
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
    """Flow++: couplings whose maps are cumulative distributions of mixtures of logistics.

    `log_prob` costs one conditioner call a layer; `sample` also a numerical inverse of every
    mixture. `components` is that of `MixtureOfLogistics`; for the other arguments see `flows`.

    Source: Jonathan Ho, Xi Chen, Aravind Srinivas, Yan Duan and Pieter Abbeel, "Flow++: Improving
    Flow-Based Generative Models with Variational Dequantization and Architecture Design" (2019).

    Example:
      >>> flow = flows.flow_plus_plus(2, layers=2)
    """
    frame = Frame.of("flow_plus_plus", locals())
    mixture = Inverse(MixtureOfLogistics(components=components))
    return frame.flow(
        frame.couplings(mixture, hidden_units, activation=activation, dropout=dropout)
    )
