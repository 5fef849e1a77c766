"""Normal bases with other deviations: draws at a temperature."""

from __future__ import annotations

import math

from tensorflow_probability import distributions as tfd

__all__ = ["with_temperature"]


def with_temperature(base: tfd.Distribution, temperature: float) -> tfd.Distribution:
    """A normal distribution with `temperature` times the deviations.

    Raises:
      ValueError: the distribution is not known to be normal, or `temperature` is negative or not
        finite.
    """
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(
            f"`temperature` must be 0 or more and finite. Received: temperature={temperature!r}"
        )
    cooled = _cooled(base, temperature)
    if cooled is None:
        raise ValueError(
            "`temperature` must be 1 unless the base of the flow is normal. "
            f"Received: temperature={temperature}, distribution={base!r}"
        )
    return cooled


def _cooled(base: tfd.Distribution, temperature: float) -> tfd.Distribution | None:
    if isinstance(base, tfd.Independent | tfd.Sample):
        inner = _cooled(base.distribution, temperature)
        return None if inner is None else base.copy(distribution=inner)
    if isinstance(base, tfd.Normal):
        return tfd.Normal(base.loc, base.scale * temperature)
    if isinstance(base, tfd.MultivariateNormalDiag):
        return tfd.MultivariateNormalDiag(base.loc, base.stddev() * temperature)
    return None
