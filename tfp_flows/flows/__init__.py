"""Ready-made flows: a transformer in a structure, repeated; one function a family.

`coupling` and `autoregressive` take any transformer; the other functions are families from the
literature, and `get` makes these by name. All take `event_size`, the number of columns D, and the
same keywords, which the help of every function explains: `layers`, `hidden_units`, `linear`,
`actnorm`, `context_size`, `embedding`, `context_shape`, `base`, `support`, `dtype`, `seed`, `name`.

Every function returns a `Flow` that starts within 1e-3 of its base distribution. It raises a
ValueError that names an argument which is not what it must be, and a TypeError for a keyword that
it does not take.

To add a family, write a function as those of `couplings.py` or `masked_autoregressive.py` are and
export it here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfp_flows.distributions.flow import Flow
from tfp_flows.flows.continuous import ffjord, ot_flow
from tfp_flows.flows.couplings import (
    coupling,
    flow_plus_plus,
    nice,
    real_nvp,
)
from tfp_flows.flows.images import glow
from tfp_flows.flows.masked_autoregressive import (
    autoregressive,
    autoregressive_spline,
    iaf,
    maf,
)
from tfp_flows.flows.monotone import (
    bernstein,
    bnaf,
    naf,
    sum_of_squares,
    umnn,
)
from tfp_flows.flows.parametric import (
    planar,
    radial,
    sylvester,
)
from tfp_flows.flows.residual import residual
from tfp_flows.flows.sounds import waveglow
from tfp_flows.flows.sphere import sphere
from tfp_flows.flows.splines import (
    circular_spline,
    elementwise_spline,
    neural_spline,
)
from tfp_flows.flows.tokens import denoised, guided, tarflow

__all__ = [
    "autoregressive",
    "autoregressive_spline",
    "bernstein",
    "bnaf",
    "circular_spline",
    "coupling",
    "denoised",
    "elementwise_spline",
    "ffjord",
    "flow_plus_plus",
    "get",
    "glow",
    "guided",
    "iaf",
    "maf",
    "naf",
    "names",
    "neural_spline",
    "nice",
    "ot_flow",
    "planar",
    "radial",
    "real_nvp",
    "residual",
    "sphere",
    "sum_of_squares",
    "sylvester",
    "tarflow",
    "umnn",
    "waveglow",
]

_OF_OTHERS = ("glow", "sphere", "tarflow", "waveglow")
# Of vectors: all but those that take a transformer, a shape or a flow, and the two functions below.
_FAMILIES: dict[str, Callable[..., Flow]] = {
    name: globals()[name]
    for name in __all__
    if name not in ("autoregressive", "coupling", "denoised", "get", "guided", "names", *_OF_OTHERS)
}
Flow.default_names.update(_FAMILIES, _OF_OTHERS)


def names() -> list[str]:
    """The names that `get` knows, sorted."""
    return sorted(_FAMILIES)


def get(name: str, event_size: int, **options: Any) -> Flow:
    """Make a flow by the name of its family; `options` are those of the function of that name.

    The flow has the family's name; to give it one of your own, call the function.

    Raises:
      ValueError: no family has this name.
      TypeError: the family does not take one of the options.

    Example:
      >>> flow = flows.get("real_nvp", 2, layers=4)
    """
    if name not in _FAMILIES:
        raise ValueError(f"`name` must be one of {names()}. Received: name={name!r}")
    return _FAMILIES[name](event_size, **options)
