"""FlowPolicy: a conditional distribution over the actions in a box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tfp_flows.bijectors import Support
from tfp_flows.distributions import Flow
from tfp_flows.ops.checks import floating, positive_int
from tfp_flows.rl.layers import conditional_flow

__all__ = ["FlowPolicy"]


@keras.saving.register_keras_serializable("tfp_flows")
class FlowPolicy(Flow):
    """A policy π(a|s): a flow given the observation `s`, squashed onto a box of actions.

    With a flow `f` over unbounded `u`, base density `p`, and the middle `m` and half width `h` of
    the box, for every column of the action:

    sample: `a = m + h tanh(u)`, `u = f(z; s)`, `z ~ p`
    log_prob: `log p(z) - log |det ∂f/∂z| - Σ log |da/du|`,
      `log |da/du| = log h + 2 (log 2 - u - softplus(-2 u))`, in nats, with respect to the action's
      own unit

    `sample_and_log_prob` computes with the `u` that it drew: its log-densities are exact where
    `tanh` has rounded to ±1, too. `log_prob(a)` finds `u` by logarithms of the distances to the
    ends of the box, and is finite at every number of the dtype that is inside; at the ends, and
    beyond, it is `-inf`. All methods of a conditional flow take observations as `context=`.

    Cost: as the flow's, and one network more for its place and width. With "gaussian" there is
    nothing but this network, the usual policy of soft actor-critic; the others start there.

    Clone behaviour by `FlowModel(policy).fit(observations, actions)`. `FlowModel.adapt` before it
    standardizes observations in the model, which then is what to sample from.

    Shapes: observations `(*batch, observation_size)`, actions `(*batch, D)`, for as many columns
    `D` as the box has; a box of plain numbers has one.

    Args:
      observation_size: width of an observation.
      action_low: lowest action, a number or one a column.
      action_high: highest action.
      flow: a name as in `flows.get`, behind a trained place and width; "gaussian", for these alone;
        or a `Flow` over `D` unbounded columns with `context_size=observation_size`, as it is.
      layers: how many bijectors are stacked, of a flow given by its name.
      hidden_units: widths of each network's hidden layers, of a flow given by its name.
      dtype: "float32" or "float64".
      seed: integer for reproducible initial weights, or None.
      name: name of the distribution.

    Raises:
      ValueError: a size is not a positive integer; the box is empty, infinite or no vector; the
        flow has an unknown name, other columns, context or dtype, or ends in columns with a
        support.
      TypeError: `flow` is neither a name nor a `Flow`.

    Source: Tuomas Haarnoja et al., "Soft Actor-Critic" (2018), for the squashed Gaussian; Bogdan
    Mazoure et al., "Leveraging Exploration in Off-Policy Algorithms via Normalizing Flows" (2019),
    and Patrick Nadeem Ward et al., "Improving Exploration in Soft-Actor-Critic with Normalizing
    Flows Policies" (2019), for flows in its place.

    Example:
      >>> policy = rl.FlowPolicy(3, action_low=[-2.0, 0.0], action_high=[2.0, 1.0], seed=0)
      >>> observations = np.zeros((5, 3))
      >>> actions, log_prob = policy.sample_and_log_prob(context=observations, seed=1)
      >>> policy.log_prob(actions, context=observations)     # (5,)
      >>> policy.deterministic(observations)     # (5, 2)
    """

    default_names: ClassVar[set[str]] = {*Flow.default_names, "flow_policy"}

    def __init__(
        self,
        observation_size: int,
        action_low: float | Sequence[float] | np.ndarray,
        action_high: float | Sequence[float] | np.ndarray,
        flow: str | Flow = "neural_spline",
        *,
        layers: int = 2,
        hidden_units: Sequence[int] = (64, 64),
        dtype: str = "float32",
        seed: int | None = None,
        name: str = "flow_policy",
    ):
        positive_int(observation_size, "observation_size")
        dtype = floating(dtype).name
        low, high = _box(action_low, action_high)
        arguments = {
            "observation_size": observation_size,
            "action_low": low.tolist(),
            "action_high": high.tolist(),
            "flow": flow,
            "layers": layers,
            "hidden_units": tuple(hidden_units),
            "dtype": dtype,
            "seed": seed,
            "name": name,
        }
        if isinstance(flow, str):
            base, parts = conditional_flow(
                flow,
                low.size,
                observation_size,
                hidden_units,
                layers=layers,
                dtype=dtype,
                seed=seed,
            )
        elif isinstance(flow, Flow):
            _check_flow(flow, low.size, observation_size, dtype)
            base, parts = flow.distribution, [flow.bijector]
        else:
            raise TypeError(f"`flow` must be a name or a Flow. Received: flow={flow!r}")
        intervals = list(zip(low.tolist(), high.tolist(), strict=True))
        squash = Support(low.size, intervals, dtype=dtype, name="squash")
        squash.scale.assign(tf.fill([low.size], tf.constant(2, dtype)))  # tanh u = 2 σ(2 u) - 1
        super().__init__(base, tfb.Chain([squash, *parts]), name=name)
        self.observation_size = observation_size
        self.action_size = low.size
        self.action_low, self.action_high = low, high
        self.squash = squash
        self.unsquashed = Flow(base, tfb.Chain(parts), name="unsquashed")
        self._config = self._no_dependency(arguments)

    @classmethod
    def _parameter_properties(
        cls, dtype: tf.DType | None, num_classes: int | None = None
    ) -> dict[str, Any]:
        return super()._parameter_properties(dtype, num_classes)

    def get_config(self) -> dict[str, Any]:
        return dict(self._config)

    def deterministic(self, observations: Any) -> tf.Tensor:
        """The action that the base's mean is mapped to: `m + h tanh(f(0; s))` over a normal base.

        Of a Gaussian policy it is the squashed mean, which agents usually act by when they are
        judged. Of a policy with several modes, it may lie between them: act by `sample` there.
        """
        given = self.given(observations)
        center = given.distribution.mean()
        batch = given.batch_shape_tensor()
        return given.bijector.forward(tf.broadcast_to(center, tf.concat([batch, center.shape], 0)))

    def entropy_estimate(
        self, observations: Any, draws: int = 256, seed: Any | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Entropy in nats, `(*batch)`, as a mean over draws of `-log_prob`, and its standard error.

        Actions in another unit have another entropy: by `log h` for every column.
        """
        positive_int(draws, "draws")
        _, log_prob = self.sample_and_log_prob(draws, context=observations, seed=seed)
        error = tf.math.reduce_std(log_prob, 0) / np.sqrt(max(draws - 1, 1))
        return -tf.reduce_mean(log_prob, 0), error


def _box(low: Any, high: Any) -> tuple[np.ndarray, np.ndarray]:
    try:
        low, high = np.broadcast_arrays(np.atleast_1d(low), np.atleast_1d(high))
        low, high = low.astype("float64"), high.astype("float64")
        fits = low.ndim == 1 and low.size > 0 and np.isfinite([low, high]).all()
        fits = fits and bool((low < high).all())
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            "`action_low` must be below `action_high` in every column, both finite numbers or "
            f"vectors. Received: action_low={low!r}, action_high={high!r}"
        )
    return low, high


def _check_flow(flow: Flow, action_size: int, observation_size: int, dtype: str) -> None:
    fits = (
        flow.event_shape == (action_size,)
        and flow.context_size == observation_size
        and flow.context_shape == (observation_size,)
        and flow.dtype == dtype
        and not flow.needs_raw_data
    )
    if not fits:
        raise ValueError(
            f"`flow` must have {action_size} unbounded columns, without `support`, a context_size "
            f"of {observation_size} and dtype {dtype}. Received: event_shape={flow.event_shape}, "
            f"context_size={flow.context_size}, dtype={flow.dtype}, "
            f"needs_raw_data={flow.needs_raw_data}"
        )
