"""Flows on the sphere."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tensorflow_probability import bijectors as tfb

from tfp_flows.bijectors import Coupling, Rotation, Sphere
from tfp_flows.bijectors.transformers import (
    CircularSpline,
    RationalQuadraticSpline,
)
from tfp_flows.distributions import bases
from tfp_flows.distributions.flow import Flow
from tfp_flows.networks import MLP, PeriodicFeatures
from tfp_flows.ops.checks import floating, positive_int
from tfp_flows.ops.seeds import check_seed

__all__ = ["sphere"]


def sphere(
    *,
    layers: int = 4,
    hidden_units: Sequence[int] = (64, 64),
    bins: int = 8,
    context_size: int | None = None,
    dtype: str = "float32",
    seed: int | None = None,
    name: str = "sphere",
) -> Flow:
    """Flow on the unit sphere in three dimensions, of densities with respect to area.

    A layer is a coupling of a rational-quadratic spline that moves heights, given longitudes, and
    one of a circular spline that moves longitudes, given heights; between layers is a trainable
    rotation, so that each has its poles elsewhere. The base is uniform. Both directions cost two
    network calls a layer. Latitudes and longitudes are unit vectors
    `(cos lat cos lon, cos lat sin lon, sin lat)`.

    Args:
      layers: how many pairs of couplings.
      hidden_units: widths of each network's hidden layers.
      bins: of the splines.
      context_size: width of the context; None for an unconditional flow.
      dtype: "float32" or "float64".
      seed: integer for reproducible initial weights, or None.
      name: name of the flow.

    Returns:
      a `Flow` with events `(3,)`, uniform at first. Of vectors that are not of unit length, the
      density is 0.

    Raises:
      ValueError: an argument is not what it must be.

    Source: Danilo Jimenez Rezende et al., "Normalizing Flows on Tori and Spheres" (2020).

    Example:
      >>> flow = flows.sphere(layers=2, hidden_units=(16,), seed=0)
      >>> flow.sample(4, seed=0).shape
      TensorShape([4, 3])
    """
    floating(dtype)
    positive_int(layers, "layers")
    rng = np.random.default_rng(check_seed(seed))

    def next_seed() -> int | None:
        return None if seed is None else int(rng.integers(2**31))

    def coupling(
        transformer: CircularSpline | RationalQuadraticSpline, longitude: bool
    ) -> Coupling:
        network = PeriodicFeatures(MLP(hidden_units, seed=next_seed(), dtype=dtype), angles=1)
        return Coupling(
            2,
            transformer,
            network,
            mask=[not longitude, longitude],
            context_size=context_size,
            dtype=dtype,
            seed=next_seed(),
        )

    chain: list[tfb.Bijector] = []
    for i in range(layers):
        if i:
            rotation = Rotation(3, dtype=dtype, seed=next_seed())
            chain += [tfb.Invert(Sphere(dtype)), rotation]
        chain += [
            Sphere(dtype),
            coupling(RationalQuadraticSpline(bins, bound=math.pi), longitude=False),
            coupling(CircularSpline(bins), longitude=True),
        ]
    # Uniform on the rectangle, and so on the sphere.
    return Flow(bases.torus(2, dtype=dtype), tfb.Chain(chain), name=name)
