"""What TFP computes of two distributions, for flows: divergences and ratios of densities."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_flows.distributions.flow import Flow
from tfp_flows.ops.internals import (
    RegisterLogProbRatio,
    TransformedDistributionBase,
    is_injective,
)

__all__: list[str] = []  # TFP finds them by the classes.


@tfd.RegisterKL(Flow, Flow)
@tfd.RegisterKL(Flow, TransformedDistributionBase)
@tfd.RegisterKL(TransformedDistributionBase, Flow)
def _kl(
    a: TransformedDistributionBase, b: TransformedDistributionBase, name: str | None = None
) -> tf.Tensor:
    """That of the bases: through one injective map, which all contexts enter alike, it stays."""
    embeddings = [flow._embedding if isinstance(flow, Flow) else None for flow in (a, b)]
    if not (a.bijector == b.bijector and is_injective(a.bijector)) or len({*embeddings}) > 1:
        raise NotImplementedError(
            "`kl_divergence` is known of flows over one injective bijector only: estimate it from "
            f"samples. Received: {a!r} and {b!r}"
        )
    return tfd.kl_divergence(a.distribution, b.distribution, name=name)


@RegisterLogProbRatio(Flow)
def _log_prob_ratio(p: Flow, x: Any, q: Flow, y: Any, name: str | None = None) -> tf.Tensor:
    """TFP's own, of the bases and the maps, would be NaN where an event is outside the support."""
    with tf.name_scope(name or "log_prob_ratio"):
        return p.log_prob(x) - q.log_prob(y)
