"""Autoregressive flows: one direction costs one call of every network."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows.bijectors.transformers import Affine, RationalQuadraticSpline
from tfp_flows.distributions.flow import Flow
from tfp_flows.flows.build import Frame

__all__ = ["autoregressive_spline", "iaf", "maf"]


def maf(
    event_size: int,
    *,
    layers: int = 8,
    hidden_units: Sequence[int] = (128, 128),
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
    """MAF: masked autoregressive flow, with affine layers.

    `log_prob` costs one network call a layer; `sample` goes through the columns one after another,
    with the arithmetic of about one call. Every other layer has the reversed order. `passes`
    and `residual` are those of `MaskedAutoregressive`; for the other arguments see `flows`.

    Source: George Papamakarios, Theo Pavlakou and Iain Murray, "Masked Autoregressive Flow for
    Density Estimation" (2017).

    Example:
      >>> flow = flows.maf(3, layers=2)
    """
    frame = Frame.of("maf", locals())
    transformer = Affine()
    return frame.flow(
        frame.autoregressive(
            transformer, hidden_units, activation=activation, passes=passes, residual=residual
        )
    )


def iaf(
    event_size: int,
    *,
    layers: int = 8,
    hidden_units: Sequence[int] = (128, 128),
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
    """IAF: inverse autoregressive flow, the mirror image of MAF.

    `sample` and `sample_and_log_prob` cost one network call a layer; `log_prob` goes through the
    columns one after another. For variational inference. Arguments: see `maf`.

    Source: Durk Kingma et al., "Improved Variational Inference with Inverse Autoregressive Flow"
    (2016).

    Example:
      >>> x, log_prob = flows.iaf(3, layers=2).sample_and_log_prob(5)
    """
    frame = Frame.of("iaf", locals())
    inverse = frame.autoregressive(
        Affine(), hidden_units, activation=activation, passes=passes, residual=residual
    )
    return frame.flow([tfb.Invert(layer) for layer in inverse])


def autoregressive_spline(
    event_size: int,
    *,
    layers: int = 4,
    hidden_units: Sequence[int] = (128, 128),
    bins: int = 8,
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
    """Autoregressive neural spline flow.

    `log_prob` costs one network call a layer; `sample` goes through the columns one after another,
    with the arithmetic of about one call. `bins` and `bound` are those of
    `RationalQuadraticSpline`; for the other arguments see `maf` and `flows`.

    Source: Conor Durkan, Artur Bekasov, Iain Murray and George Papamakarios, "Neural Spline Flows"
    (2019).

    Example:
      >>> flow = flows.autoregressive_spline(3, layers=2)
    """
    frame = Frame.of("autoregressive_spline", locals())
    transformer = RationalQuadraticSpline(bins=bins, bound=bound)
    return frame.flow(
        frame.autoregressive(
            transformer, hidden_units, activation=activation, passes=passes, residual=residual
        )
    )
