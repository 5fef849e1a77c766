"""Ready-made flows: one function a family, all with the same keywords.

A family is a transformer in a structure, repeated. Every function returns a `Flow` that starts
within 1e-3 of its base distribution, and takes

  event_size: number of columns D.
  layers: how many bijectors are stacked.
  hidden_units: widths of each conditioner's hidden layers.
  context_size: width of the context; None for an unconditional flow.
  base: base distribution with events (D,); a standard normal if None.
  dtype: "float32" or "float64".
  seed: integer for reproducible initial weights, or None. Masks that are drawn at random depend on
    it too, but are the same for every None: saved weights fit into a flow made by the same call.

and raises a ValueError that names an argument which is not what it must be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.bijectors import Coupling, Elementwise
from tfp_flows.bijectors.transformers import (
    Additive,
    Affine,
    RationalQuadraticSpline,
    Transformer,
)
from tfp_flows.distributions.flow import Flow
from tfp_flows.networks.sizes import positive_int

tfd, tfb = tfp.distributions, tfp.bijectors

__all__ = ["elementwise_spline", "get", "names", "neural_spline", "nice", "real_nvp"]


def nice(
    event_size: int,
    *,
    layers: int = 8,
    hidden_units: Sequence[int] = (128, 128),
    context_size: int | None = None,
    base: tfd.Distribution | None = None,
    dtype: str = "float32",
    seed: int | None = None,
) -> Flow:
    """NICE: additive couplings, which preserve volume, then one trained scale a column.

    Both directions cost one conditioner call a layer. Arguments: see the module.

    Source: Laurent Dinh, David Krueger and Yoshua Bengio, "NICE: Non-linear Independent Components
    Estimation" (2014).

    Example:
      >>> flow = flows.nice(2, layers=4)
    """
    masks = _alternating_masks(event_size, layers, seed)
    scale = Elementwise(event_size, Affine(), dtype=dtype, name="scale")
    shifts = _couplings(event_size, Additive(), masks, hidden_units, context_size, dtype, seed)
    return _flow("nice", event_size, [scale, *shifts], base, dtype)


def real_nvp(
    event_size: int,
    *,
    layers: int = 8,
    hidden_units: Sequence[int] = (128, 128),
    context_size: int | None = None,
    base: tfd.Distribution | None = None,
    dtype: str = "float32",
    seed: int | None = None,
) -> Flow:
    """RealNVP: affine couplings.

    Both directions cost one conditioner call a layer. Arguments: see the module.

    Source: Laurent Dinh, Jascha Sohl-Dickstein and Samy Bengio, "Density Estimation using Real
    NVP" (2017).

    Example:
      >>> flow = flows.real_nvp(2, hidden_units=(64, 64))
    """
    masks = _alternating_masks(event_size, layers, seed)
    bijectors = _couplings(event_size, Affine(), masks, hidden_units, context_size, dtype, seed)
    return _flow("real_nvp", event_size, bijectors, base, dtype)


def neural_spline(
    event_size: int,
    *,
    layers: int = 8,
    hidden_units: Sequence[int] = (128, 128),
    bins: int = 8,
    bound: float = 5.0,
    context_size: int | None = None,
    base: tfd.Distribution | None = None,
    dtype: str = "float32",
    seed: int | None = None,
) -> Flow:
    """Neural spline flow: couplings with monotone rational-quadratic splines.

    Both directions cost one conditioner call a layer, and about `20 bins` elementwise operations.
    `bins` and `bound` are those of `RationalQuadraticSpline`; for the other arguments see the
    module. Splines act within `±bound` of 0: standardize the data, as `FlowModel.adapt` does.

    Source: Conor Durkan, Artur Bekasov, Iain Murray and George Papamakarios, "Neural Spline Flows"
    (2019).

    Example:
      >>> flow = flows.neural_spline(4, context_size=3)
      >>> flow.log_prob(np.zeros((5, 4)), context=np.zeros((5, 3)))     # (5,)
    """
    spline = RationalQuadraticSpline(bins=bins, bound=bound)
    masks = _alternating_masks(event_size, layers, seed)
    bijectors = _couplings(event_size, spline, masks, hidden_units, context_size, dtype, seed)
    return _flow("neural_spline", event_size, bijectors, base, dtype)


def elementwise_spline(
    event_size: int,
    *,
    layers: int = 1,
    hidden_units: Sequence[int] = (128, 128),
    bins: int = 16,
    bound: float = 5.0,
    context_size: int | None = None,
    base: tfd.Distribution | None = None,
    dtype: str = "float32",
    seed: int | None = None,
) -> Flow:
    """A spline for every column by itself: learns all marginals and no dependence between columns.

    Without context, the parameters are free variables: both directions cost about `20 bins`
    elementwise operations a layer and no network, and `hidden_units` and `seed` are not needed.
    With context, a network computes them from it, and columns are independent given the context.
    Other arguments: see `neural_spline` and the module.

    Source: the transformer of Conor Durkan et al., "Neural Spline Flows" (2019).

    Example:
      >>> flow = flows.elementwise_spline(2)
    """
    positive_int(event_size, "event_size")
    positive_int(layers, "layers")
    spline = RationalQuadraticSpline(bins=bins, bound=bound)
    if context_size is None:
        bijectors = [Elementwise(event_size, spline, dtype=dtype) for _ in range(layers)]
    else:
        nothing_kept = [[False] * event_size] * layers
        bijectors = _couplings(
            event_size, spline, nothing_kept, hidden_units, context_size, dtype, seed
        )
    return _flow("elementwise_spline", event_size, bijectors, base, dtype)


_FAMILIES: dict[str, Callable[..., Flow]] = {
    "elementwise_spline": elementwise_spline,
    "neural_spline": neural_spline,
    "nice": nice,
    "real_nvp": real_nvp,
}


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


def _couplings(
    event_size: int,
    transformer: Transformer,
    masks: Sequence[Sequence[bool]],
    hidden_units: Sequence[int],
    context_size: int | None,
    dtype: str,
    seed: int | None,
) -> list[Coupling]:
    """A stack of couplings, one a mask."""
    rng = np.random.default_rng(seed)
    seeds = [None if seed is None else int(rng.integers(2**31)) for _ in masks]
    return [
        Coupling(
            event_size,
            transformer,
            hidden_units,
            mask=mask,
            context_size=context_size,
            dtype=dtype,
            seed=layer_seed,
        )
        for mask, layer_seed in zip(masks, seeds, strict=True)
    ]


def _alternating_masks(event_size: int, layers: int, seed: int | None) -> list[list[bool]]:
    """Masks in pairs, so that first one part of the columns is transformed, then the rest.

    The first pair splits the columns in halves; with more than three columns, every later pair
    splits them at random, so that all columns come to act on all others.
    """
    positive_int(event_size, "event_size")
    positive_int(layers, "layers")
    rng = np.random.default_rng(seed or 0)
    masks, kept = [], np.arange(event_size) < event_size // 2
    for i in range(layers):
        if i >= 2 and i % 2 == 0 and event_size > 3:
            kept = rng.permutation(event_size) < event_size // 2
        flip = i % 2 == 1 and event_size > 1
        masks.append((~kept if flip else kept).tolist())
    return masks


def _flow(
    name: str,
    event_size: int,
    bijectors: list[tfb.Bijector],
    base: tfd.Distribution | None,
    dtype: str,
) -> Flow:
    dtype = tf.as_dtype(dtype)
    if base is None:
        zeros = tf.zeros([event_size], dtype)
        base = tfd.MultivariateNormalDiag(zeros, tf.ones_like(zeros), name="base")
    if not isinstance(base, tfd.Distribution):
        raise TypeError(f"`base` must be a tfd.Distribution or None. Received: base={base!r}")
    if base.event_shape != (event_size,) or base.dtype != dtype:
        raise ValueError(
            f"`base` must have events of shape ({event_size},) and dtype {dtype.name}. "
            f"Received: event_shape={base.event_shape}, dtype={base.dtype}"
        )
    return Flow(base, tfb.Chain(bijectors), name=name)
