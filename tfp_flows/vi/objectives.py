"""Objectives of variational inference, and their gradients by reparameterization.

With draws `x_i` of the posterior `q`, weights `w_i = p(x_i) / q(x_i)`, and normalized weights
`v_i ∝ w_i^α`, all path gradients are

    -Σ_i c_i ∂(log p - log q)/∂x · ∂x_i/∂θ

with `c_i = 1 / K` for KL(q ‖ p), `v_i²` at α = 1 for IWAE's bound, and `v_i` for the others: α = 1
is KL(p ‖ q), α = 2 the variance of the weights. What is left out is the derivative of `log q` at a
fixed point, whose mean is 0, or has been reparameterized again. So every one of them is 0, for
every draw, where q = p.

Sources: Geoffrey Roeder, Yuhuai Wu and David Duvenaud, "Sticking the Landing" (2017); George Tucker
et al., "Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives" (2018); Lorenz Vaitl
et al., "Gradients Should Stay on Path: Better Estimators of the Reverse- and Forward KL Divergence
for Normalizing Flows" (2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tfp_flows.distributions.flow import Flow

__all__ = ["GRADIENTS", "OBJECTIVES", "Estimate", "estimate", "loss_of"]

OBJECTIVES = ("reverse_kl", "iwae", "alpha", "forward_kl")
GRADIENTS = ("path", "total")
LogDensity = Callable[[tf.Tensor], tf.Tensor]


class Estimate(NamedTuple):
    """What one batch of draws says.

    gradient_loss: a scalar whose gradient is that of the objective, and whose value is not.
    loss: the objective, in nats, `(*batch,)`.
    log_weights: `log p - log q`, `(K, *batch)`.
    """

    gradient_loss: tf.Tensor
    loss: tf.Tensor
    log_weights: tf.Tensor


def estimate(
    flow: Flow,
    target: LogDensity,
    sample_size: int,
    seed: tf.Tensor,
    *,
    objective: str = "reverse_kl",
    alpha: float = 2.0,
    gradient: str = "path",
) -> Estimate:
    """Estimate an objective and its gradient by `sample_size` draws.

    Args:
      flow: without context, or with it filled in, of batch shape `batch`.
      target: log-density, up to a constant, of `(K, *batch, D)`.
      sample_size: K.
      seed: two integers.
      objective: one of `OBJECTIVES`.
      alpha: of "alpha", not 0 or 1.
      gradient: "path", or "total" for that of the estimate as it is computed.
    """
    if gradient == "path":
        z = flow.sample(sample_size, seed=seed)
        at = tf.stop_gradient(z)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(at)
            log_weights = target(at) - flow.log_prob(at)
        slope = tape.gradient(log_weights, at)
        log_weights = tf.stop_gradient(log_weights)
        along = tf.reduce_sum(tf.stop_gradient(slope) * z, -1)
        towards = -tf.reduce_sum(_coefficients(log_weights, objective, alpha) * along, 0)
        loss = loss_of(log_weights, objective, alpha)
        return Estimate(tf.reduce_mean(towards), loss, log_weights)
    if objective == "forward_kl":  # The derivative of its estimate would be that of another.
        z = tf.stop_gradient(flow.sample(sample_size, seed=seed))
        log_prob = flow.log_prob(z)
        log_weights = tf.stop_gradient(target(z) - log_prob)
        towards = -tf.reduce_sum(tf.nn.softmax(log_weights, 0) * log_prob, 0)
        return Estimate(
            tf.reduce_mean(towards), loss_of(log_weights, objective, alpha), log_weights
        )
    z, log_prob = flow.sample_and_log_prob(sample_size, seed=seed)
    log_weights = target(z) - log_prob
    loss = loss_of(log_weights, objective, alpha)
    return Estimate(tf.reduce_mean(loss), loss, log_weights)


def loss_of(log_weights: tf.Tensor, objective: str, alpha: float = 2.0) -> tf.Tensor:
    """The objective in nats, of log-weights `(K, *batch)`.

    "reverse_kl": `-mean log w`, KL(q ‖ p) less the log evidence
    "iwae": `-log mean w`
    "alpha": `log mean w^α / (α (α - 1))`
    "forward_kl": `Σ v log w`, KL(p ‖ q) plus the log evidence
    """
    if objective == "reverse_kl":
        return -tf.reduce_mean(log_weights, 0)
    if objective == "forward_kl":
        return tf.reduce_sum(tf.nn.softmax(log_weights, 0) * log_weights, 0)
    power, scale = (1.0, -1.0) if objective == "iwae" else (alpha, 1 / (alpha * (alpha - 1)))
    count = math.log(log_weights.shape[0])
    return scale * (tf.reduce_logsumexp(power * log_weights, 0) - count)


def _coefficients(log_weights: tf.Tensor, objective: str, alpha: float) -> tf.Tensor:
    if objective == "reverse_kl":
        return tf.ones_like(log_weights) / log_weights.shape[0]
    if objective == "iwae":
        return tf.square(tf.nn.softmax(log_weights, 0))
    return tf.nn.softmax((alpha if objective == "alpha" else 1.0) * log_weights, 0)
