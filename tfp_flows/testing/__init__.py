"""Checks of the laws that bijectors and flows obey, public like `numpy.testing`.

`check_bijector` and `check_flow` raise an AssertionError that names the broken law and shows the
worst input. Every law is a function of its own, listed in `BIJECTOR_LAWS` and `FLOW_LAWS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows.testing.bijector_laws import BIJECTOR_LAWS
from tfp_flows.testing.case import Case
from tfp_flows.testing.flow_laws import FLOW_LAWS

__all__ = ["BIJECTOR_LAWS", "FLOW_LAWS", "check_bijector", "check_flow"]

_TOLERANCE = {tf.float32: 2e-4, tf.float64: 1e-9}


def check_bijector(
    bijector: tfb.Bijector,
    x: Any,
    context: Any | None = None,
    *,
    y: Any | None = None,
    tolerance: float | None = None,
    extremes: Sequence[float] = (0.0, 1e4, -1e4),
    inverse_extremes: Sequence[float] | None = None,
    jacobian_zeros: np.ndarray | None = None,
    skip: Iterable[str] = (),
) -> None:
    """Check that a bijector obeys `BIJECTOR_LAWS` on the events `x`.

    Untrained couplings are the identity and obey too easily: give the variables random values
    first, as the example does.

    Args:
      bijector: any `tfb.Bijector` between events of one shape.
      x: events `(n, ...)` in the domain, at least two.
      context: `(n, C)`, for a conditional bijector.
      y: events `(n, ...)` in the range, to begin from in the law "bijective"; the images of `x` by
        default.
      tolerance: largest error, relative to `1 + |value|`; by default 2e-4 in float32, 1e-9 in
        float64.
      extremes: entries at which values and gradients of `forward` must be finite.
      inverse_extremes: the same for `inverse`; `extremes` by default.
      jacobian_zeros: booleans `(D, D)`, true where `∂y_i/∂x_j` must be exactly 0.
      skip: names of laws to leave out, because they do not apply.

    Raises:
      AssertionError: a law is broken.

    Example:
      >>> layer = bijectors.Coupling(3, bijectors.transformers.Affine(), seed=0)
      >>> for v in layer.trainable_variables:
      ...     v.assign_add(tf.random.stateless_normal(v.shape, seed=(0, 1), stddev=0.1))
      >>> testing.check_bijector(layer, np.random.randn(5, 3).astype("float32"))
    """
    x = _events(x, bijector, tfb.Bijector)
    case = Case(
        subject=bijector,
        x=x,
        kwargs={} if context is None else {"context": tf.convert_to_tensor(context, x.dtype)},
        tolerance=_TOLERANCE[x.dtype] if tolerance is None else tolerance,
        y=None if y is None else tf.convert_to_tensor(np.asarray(y), x.dtype),
        extremes=tuple(extremes),
        inverse_extremes=tuple(extremes if inverse_extremes is None else inverse_extremes),
        jacobian_zeros=jacobian_zeros,
    )
    _check(BIJECTOR_LAWS, case, skip)


def check_flow(
    flow: tfd.Distribution,
    x: Any,
    context: Any | None = None,
    *,
    tolerance: float | None = None,
    extent: tuple[float, float] | None = None,
    integral_tolerance: float = 1e-3,
    skip: Iterable[str] = (),
) -> None:
    """Check that a flow obeys `FLOW_LAWS` on the events `x`.

    Args:
      flow: a `Flow`; an unconditional `tfd.Distribution` with vector events will do.
      x: events `(n, D)` in the support.
      context: `(n, C)`, for a conditional flow.
      tolerance: as in `check_bijector`.
      extent: interval that holds nearly all mass of each column, for the integral of the density
        in one and two dimensions; found from samples by default.
      integral_tolerance: how far from 1 the integral may be.
      skip: names of laws to leave out, as "config" for what `FlowModel` cannot save.

    Raises:
      AssertionError: a law is broken.

    Example:
      >>> flow = flows.neural_spline(2, layers=2, seed=0)
      >>> testing.check_flow(flow, flow.sample(10, seed=0))
    """
    x = _events(x, flow, tfd.Distribution)
    case = Case(
        subject=flow,
        x=x,
        kwargs={} if context is None else {"context": tf.convert_to_tensor(context, x.dtype)},
        tolerance=_TOLERANCE[x.dtype] if tolerance is None else tolerance,
        extent=extent,
        integral_tolerance=integral_tolerance,
    )
    _check(FLOW_LAWS, case, skip)


def _events(x: Any, subject: Any, kind: type[tf.Module]) -> tf.Tensor:
    """The events in the dtype of what is checked, or their own where it has none."""
    if not isinstance(subject, kind):
        raise TypeError(f"A {kind.__name__} is needed. Received: {subject!r}")
    own = np.asarray(x).dtype
    dtype = subject.dtype or (own if own.kind == "f" else "float32")
    x = tf.convert_to_tensor(np.asarray(x), dtype)
    if x.shape.rank < 1 or x.shape[0] < 2:
        raise ValueError(f"`x` must hold two events or more. Received: shape={x.shape}")
    return x


def _check(laws: dict[str, Callable[[Case], None]], case: Case, skip: Iterable[str]) -> None:
    unknown = set(skip) - set(laws)
    if unknown:
        raise ValueError(f"`skip` must name laws of {sorted(laws)}. Received: {sorted(unknown)}")
    for name, law in laws.items():
        if name not in skip:
            law(case)
