"""Ready-made flows: one function a family, all with the same keywords.

A family is a transformer in a structure, repeated. Every function returns a `Flow` that starts
within 1e-3 of its base distribution, and takes

  event_size: number of columns D.
  layers: how many bijectors are stacked.
  hidden_units: widths of each network's hidden layers.
  activation: any Keras activation, for the families with networks.
  dropout: rate in [0, 1) in the networks of couplings, active in training only.
  linear: what mixes columns before every layer: "lu", "qr", "householder", "rotation",
    "permutation" (fixed), or None.
  actnorm: whether an `ActNorm` stands before every layer; it starts from `FlowModel.adapt`, or
    from the first batch of training.
  context_size: width of the context; None for an unconditional flow.
  embedding: a Keras 3 layer that makes vectors of contexts that are sequences or images, trained
    with the flow; it sets `context_size`. Then
  context_shape: is the shape of one context.
  base: base distribution with events (D,), see `bases`; a standard normal if None.
  support: where the data live, as in `bijectors.Support`: "positive", "angle", an interval
    (low, high), a list of these, one a column, or "simplex" for D proportions; all reals if None.
  dtype: "float32" or "float64".
  seed: integer for reproducible initial weights, or None. Masks and permutations that are drawn at
    random depend on it too, but are the same for every None: saved weights fit into a flow made by
    the same call.

and raises a ValueError that names an argument which is not what it must be.
"""

from __future__ import annotations

from collections.abc import Callable

from tfp_flows.distributions.flow import Flow
from tfp_flows.flows.autoregressive import (
    autoregressive_spline,
    iaf,
    maf,
)
from tfp_flows.flows.couplings import (
    flow_plus_plus,
    nice,
    real_nvp,
)
from tfp_flows.flows.monotone import (
    bernstein,
    naf,
    sum_of_squares,
    umnn,
)
from tfp_flows.flows.planar import (
    planar,
    radial,
    sylvester,
)
from tfp_flows.flows.splines import (
    circular_spline,
    elementwise_spline,
    neural_spline,
)

__all__ = [
    "autoregressive_spline",
    "bernstein",
    "circular_spline",
    "elementwise_spline",
    "flow_plus_plus",
    "get",
    "iaf",
    "maf",
    "naf",
    "names",
    "neural_spline",
    "nice",
    "planar",
    "radial",
    "real_nvp",
    "sum_of_squares",
    "sylvester",
    "umnn",
]

_FAMILIES: dict[str, Callable[..., Flow]] = {
    family.__name__: family
    for family in (
        autoregressive_spline,
        bernstein,
        circular_spline,
        elementwise_spline,
        flow_plus_plus,
        iaf,
        maf,
        naf,
        neural_spline,
        nice,
        planar,
        radial,
        real_nvp,
        sum_of_squares,
        sylvester,
        umnn,
    )
}
Flow.default_names.update(_FAMILIES)


def names() -> list[str]:
    """The names that `get` knows, sorted."""
    return sorted(_FAMILIES)


def get(name: str, event_size: int, **options) -> Flow:
    """Make a flow by the name of its family; `options` are those of the function of that name.

    Raises:
      ValueError: no family has this name.

    Example:
      >>> flow = flows.get("real_nvp", 2, layers=4)
    """
    if name not in _FAMILIES:
        raise ValueError(f"`name` must be one of {names()}. Received: name={name!r}")
    return _FAMILIES[name](event_size, **options)
