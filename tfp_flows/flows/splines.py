"""Flows of splines: couplings, single columns, and angles."""

from __future__ import annotations

from collections.abc import Callable

from typing_extensions import Unpack

from tfp_flows.bijectors import Elementwise
from tfp_flows.bijectors.transformers import (
    CircularSpline,
    CubicSpline,
    LinearSpline,
    QuadraticSpline,
    RationalQuadraticSpline,
    Transformer,
)
from tfp_flows.distributions.flow import Flow
from tfp_flows.flows.build import Builder
from tfp_flows.flows.couplings import coupling, coupling_layers
from tfp_flows.flows.options import CouplingOptions, family

__all__ = ["circular_spline", "elementwise_spline", "neural_spline"]

_SPLINES: dict[str, Callable[..., Transformer]] = {
    "cubic": CubicSpline,
    "linear": LinearSpline,
    "quadratic": QuadraticSpline,
    "rational_quadratic": RationalQuadraticSpline,
}


@family()
def neural_spline(
    event_size: int,
    *,
    bins: int = 8,
    bound: float = 5.0,
    spline: str = "rational_quadratic",
    **options: Unpack[CouplingOptions],
) -> Flow:
    """Neural spline flow: couplings with monotone splines.

    Both directions cost one network call a layer, and about `20 bins` elementwise operations; the
    inverse of the cubic spline is numerical. `bins` and `bound` are those of the spline, which is
    `"rational_quadratic"`, `"linear"`, `"quadratic"` or `"cubic"`. Splines act within `±bound` of
    0: standardize the data, as `FlowModel.adapt` does.

    Source: Conor Durkan, Artur Bekasov, Iain Murray and George Papamakarios, "Neural Spline Flows"
    (2019); for the others, Thomas Müller et al., "Neural Importance Sampling" (2019), and Durkan et
    al., "Cubic-Spline Flows" (2019).

    Example:
      >>> flow = flows.neural_spline(4, context_size=3)
      >>> flow.log_prob(np.zeros((5, 4)), context=np.zeros((5, 3)))     # (5,)
    """
    if spline not in _SPLINES:
        raise ValueError(f"`spline` must be one of {sorted(_SPLINES)}. Received: spline={spline!r}")
    return coupling(event_size, _SPLINES[spline](bins=bins, bound=bound), **options)


@family(layers=1)
def elementwise_spline(
    event_size: int, *, bins: int = 16, bound: float = 5.0, **options: Unpack[CouplingOptions]
) -> Flow:
    """A spline for every column by itself: learns all marginals and no dependence between columns.

    Without context, the parameters are free variables: both directions cost about `20 bins`
    elementwise operations a layer and no network, and `hidden_units` is not needed. With context,
    a network computes them from it, and columns are independent given the context. `bins` and
    `bound` are those of `RationalQuadraticSpline`.

    Source: the transformer of Conor Durkan et al., "Neural Spline Flows" (2019).

    Example:
      >>> flow = flows.elementwise_spline(2)
    """
    spline = RationalQuadraticSpline(bins=bins, bound=bound)
    build = Builder(event_size, options, spline)
    if build.context_size is None:
        return build.flow(
            [Elementwise(build.size, spline, dtype=build.dtype) for _ in range(build.layers)]
        )
    no_identity = [[False] * build.size] * build.layers
    return build.flow(coupling_layers(build, spline, options, masks=no_identity))


@family()
def circular_spline(
    event_size: int, *, bins: int = 8, harmonics: int = 3, **options: Unpack[CouplingOptions]
) -> Flow:
    """Circular spline flow: a periodic density of angles, on a torus.

    Columns are angles in radians; data are taken modulo 2π, and samples lie in [-π, π). The base
    is uniform on the torus. Networks read sines and cosines of `harmonics` multiples of the angles
    that pass through, so that the density is the same at -π and π. Both directions cost one network
    call a layer. `bins` is that of `CircularSpline`. `linear`, `actnorm` and `support` would break
    the circle and must be left out.

    Raises:
      ValueError: `linear`, `actnorm` or `support` is given.

    Source: Danilo Rezende et al., "Normalizing Flows on Tori and Spheres" (2020).

    Example:
      >>> flow = flows.circular_spline(2, layers=2)
      >>> log_prob = flow.log_prob([[3.1, 0.0], [3.1 - 2 * np.pi, 0.0]])
      >>> bool(np.ptp(log_prob) < 1e-5)     # True
    """
    spline = CircularSpline(bins=bins)
    build = Builder(event_size, options, spline)
    return build.flow(coupling_layers(build, spline, options, harmonics=harmonics))
