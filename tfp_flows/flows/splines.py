"""Flows of splines: couplings, single columns, and angles."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from tensorflow_probability import distributions as tfd

from tfp_flows.bijectors import Elementwise
from tfp_flows.bijectors.transformers import (
    CircularSpline,
    CubicSpline,
    LinearSpline,
    QuadraticSpline,
    RationalQuadraticSpline,
    Transformer,
)
from tfp_flows.distributions import bases
from tfp_flows.distributions.flow import Flow
from tfp_flows.flows.build import Frame
from tfp_flows.networks import PeriodicFeatures

__all__ = ["circular_spline", "elementwise_spline", "neural_spline"]


def neural_spline(
    event_size: int,
    *,
    layers: int = 8,
    hidden_units: Sequence[int] = (128, 128),
    bins: int = 8,
    bound: float = 5.0,
    spline: str = "rational_quadratic",
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
    """Neural spline flow: couplings with monotone splines.

    Both directions cost one conditioner call a layer, and about `20 bins` elementwise
    operations; the inverse of the cubic spline is numerical. `bins` and `bound` are those of the
    spline, which is `"rational_quadratic"`, `"linear"`, `"quadratic"` or `"cubic"`; for the other
    arguments see `flows`. Splines act within `±bound` of 0: standardize the data, as
    `FlowModel.adapt` does.

    Source: Conor Durkan, Artur Bekasov, Iain Murray and George Papamakarios, "Neural Spline Flows"
    (2019); for the others, Thomas Müller et al., "Neural Importance Sampling" (2019), and Durkan et
    al., "Cubic-Spline Flows" (2019).

    Example:
      >>> flow = flows.neural_spline(4, context_size=3)
      >>> flow.log_prob(np.zeros((5, 4)), context=np.zeros((5, 3)))     # (5,)
    """
    frame = Frame.of("neural_spline", locals())
    transformer = _spline(spline, bins, bound)
    return frame.flow(
        frame.couplings(transformer, hidden_units, activation=activation, dropout=dropout)
    )


def elementwise_spline(
    event_size: int,
    *,
    layers: int = 1,
    hidden_units: Sequence[int] = (128, 128),
    bins: int = 16,
    bound: float = 5.0,
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
    """A spline for every column by itself: learns all marginals and no dependence between columns.

    Without context, the parameters are free variables: both directions cost about `20 bins`
    elementwise operations a layer and no network, and `hidden_units` is not needed. With context,
    a network computes them from it, and columns are independent given the context. Other
    arguments: see `neural_spline` and `flows`.

    Source: the transformer of Conor Durkan et al., "Neural Spline Flows" (2019).

    Example:
      >>> flow = flows.elementwise_spline(2)
    """
    frame = Frame.of("elementwise_spline", locals())
    spline = RationalQuadraticSpline(bins=bins, bound=bound)
    if frame.context_size is None:
        return frame.flow([Elementwise(frame.size, spline, dtype=dtype) for _ in range(layers)])
    nothing_kept = [[False] * frame.size] * layers
    return frame.flow(
        frame.couplings(
            spline, hidden_units, activation=activation, dropout=dropout, masks=nothing_kept
        )
    )


def circular_spline(
    event_size: int,
    *,
    layers: int = 8,
    hidden_units: Sequence[int] = (128, 128),
    bins: int = 8,
    harmonics: int = 3,
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
    """Circular spline flow: a periodic density of angles, on a torus.

    Columns are angles in radians; data are taken modulo 2π, and samples lie in [-π, π). The base
    is uniform on the torus. Networks read sines and cosines of `harmonics` multiples of the angles
    that pass through, so that the density is the same at -π and π. Both directions cost one
    conditioner call a layer. Other arguments: see `flows`; `linear`, `actnorm` and `support` would
    break the circle and must be left out.

    Raises:
      ValueError: `linear`, `actnorm` or `support` is given.

    Source: Danilo Rezende et al., "Normalizing Flows on Tori and Spheres" (2020).

    Example:
      >>> flow = flows.circular_spline(2, layers=2)
      >>> log_prob = flow.log_prob([[3.1, 0.0], [3.1 - 2 * np.pi, 0.0]])
      >>> bool(np.ptp(log_prob) < 1e-5)     # True
    """
    frame = Frame.of("circular_spline", locals())
    if linear is not None or actnorm or support is not None:
        raise ValueError(
            "`linear`, `actnorm` and `support` must be left out for angles. "
            f"Received: linear={linear!r}, actnorm={actnorm}, support={support!r}"
        )
    if base is None:
        frame.base = bases.torus(event_size, dtype=dtype)
    layers_of_flow = frame.couplings(
        CircularSpline(bins=bins),
        hidden_units,
        activation=activation,
        dropout=dropout,
        features=lambda kept, network: PeriodicFeatures(network, angles=kept, harmonics=harmonics),
    )
    return frame.flow(layers_of_flow)


def _spline(name: str, bins: int, bound: float) -> Transformer:
    splines = {
        "cubic": CubicSpline,
        "linear": LinearSpline,
        "quadratic": QuadraticSpline,
        "rational_quadratic": RationalQuadraticSpline,
    }
    if name not in splines:
        raise ValueError(f"`spline` must be one of {sorted(splines)}. Received: spline={name!r}")
    return splines[name](bins=bins, bound=bound)
