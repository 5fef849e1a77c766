"""Flows for variational inference: cheap to sample with their density."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from tensorflow_probability import distributions as tfd

from tfp_flows.bijectors import Planar, Radial, Sylvester
from tfp_flows.distributions.flow import Flow
from tfp_flows.flows.build import Frame

__all__ = ["planar", "radial", "sylvester"]


def planar(
    event_size: int,
    *,
    layers: int = 16,
    hidden_units: Sequence[int] = (128, 128),
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
    """Planar flow: layers that push along one direction each.

    `sample` costs a few operations a layer, `log_prob` a numerical inverse too: for variational
    inference with `sample_and_log_prob`.

    Without context, parameters are free variables and `hidden_units` is not needed; with context, a
    network makes them from it.
    Arguments: see `flows`.

    Source: Danilo Rezende and Shakir Mohamed, "Variational Inference with Normalizing Flows"
    (2015).

    Example:
      >>> x, log_prob = flows.planar(2).sample_and_log_prob(5)
    """
    frame = Frame.of("planar", locals())
    return frame.flow(
        [
            Planar(
                frame.size,
                context_size=frame.context_size,
                conditioner=hidden_units,
                dtype=dtype,
                seed=frame.next_seed(),
            )
            for _ in range(layers)
        ]
    )


def radial(
    event_size: int,
    *,
    layers: int = 16,
    hidden_units: Sequence[int] = (128, 128),
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
    """Radial flow: layers that pull towards a point each, or push away from it.

    Both directions cost a few operations a layer.

    Without context, parameters are free variables and `hidden_units` is not needed; with context, a
    network makes them from it.
    Arguments: see `flows`.

    Source: Danilo Rezende and Shakir Mohamed, "Variational Inference with Normalizing Flows"
    (2015).

    Example:
      >>> flow = flows.radial(2)
    """
    frame = Frame.of("radial", locals())
    return frame.flow(
        [
            Radial(
                frame.size,
                context_size=frame.context_size,
                conditioner=hidden_units,
                dtype=dtype,
                seed=frame.next_seed(),
            )
            for _ in range(layers)
        ]
    )


def sylvester(
    event_size: int,
    *,
    layers: int = 8,
    hidden_units: Sequence[int] = (128, 128),
    rank: int | None = None,
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
    """Sylvester flow: layers that push along `rank` orthogonal directions each; all, by default.

    `sample` costs a few products of matrices a layer, `log_prob` a numerical inverse too.

    Without context, parameters are free variables and `hidden_units` is not needed; with context, a
    network makes them from it.
    Arguments: see `flows`.

    Source: Rianne van den Berg, Leonard Hasenclever, Jakub Tomczak and Max Welling, "Sylvester
    Normalizing Flows for Variational Inference" (2018).

    Example:
      >>> x, log_prob = flows.sylvester(3, layers=4).sample_and_log_prob(5)
    """
    frame = Frame.of("sylvester", locals())
    return frame.flow(
        [
            Sylvester(
                frame.size,
                rank,
                context_size=frame.context_size,
                conditioner=hidden_units,
                dtype=dtype,
                seed=frame.next_seed(),
            )
            for _ in range(layers)
        ]
    )
