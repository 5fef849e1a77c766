"""FlowCritic: the distribution of the return, given an observation and an action."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb

from tfp_flows.distributions import Flow
from tfp_flows.model import FlowModel
from tfp_flows.ops.checks import positive_int
from tfp_flows.ops.seeds import check_seed
from tfp_flows.rl.arguments import in_interval, rows_of
from tfp_flows.rl.layers import conditional_flow
from tfp_flows.rl.networks import Rate, adam, descend, follow
from tfp_flows.rl.policy import FlowPolicy

__all__ = ["FlowCritic"]

_MAX_GRADIENT = 10.0
_NODES = 256  # Quantiles of a mean.
_OUTERMOST = 1e-3  # Level of a quantile that is learned.
_NEEDED = ("observations", "actions", "rewards", "next_observations", "terminated")

Batch = dict[str, tf.Tensor]


class FlowCritic:
    """The distribution of the discounted return `G = Σ γᵗ rₜ` as a conditional flow of one column.

    Learned by the distributional Bellman equation `G(s, a) = r + γ G(s', a')`, `a' ~ π(s')`: with a
    copy Ḡ of the critic that follows it, `n` draws, and q(u) and q̄(u) the quantiles of both at
    probability u, an update of a batch goes down, in one `tf.function`,

    "quantile": `2/n² Σᵢⱼ ρᵢ(yⱼ - q(uᵢ | s, a))`, `ρᵢ(e) = e (uᵢ - [e < 0])`,
      `yⱼ = r + γ q̄((j - 1/2) / n | s', a')`, `uᵢ` uniform between `(i - 1) / n` and `i / n`
    "likelihood": `-1/n Σⱼ log p(yⱼ | s, a)`, `yⱼ = r + γ gⱼ`, `gⱼ ~ Ḡ(s', a')`

    with `y = r` where the episode terminated. The first has as its mean the continuous ranked
    probability score of the targets, whose excess over its minimum is the squared Cramér distance:
    a contraction under the Bellman equation, with a meaning for returns that are partly certain,
    and targets without the noise of draws. Quantiles of a flow never cross. The second is for flows
    without quantiles, and where log-densities are what is asked for.

    Data may come from any policy, from a memory that grows or a fixed data set: what is learned is
    the return of the policy that gives `a'`. The density is exact, so quantiles, means and risk
    measures are, too, of what was learned. Returns that are certain have none: the flow is as
    narrow as its family allows, and its log-densities say nothing.

    Shapes: observations `(n, observation_size)`, actions `(n, action_size)`; returns are in units
    of rewards.

    Args:
      observation_size: width of an observation.
      action_size: width of an action.
      flow: a name as in `flows.get`, behind a trained place and width; "gaussian", for these alone;
        or the `FlowModel` of another critic.
      discount: γ in `[0, 1)`.
      layers: how many bijectors are stacked, of a flow given by its name.
      hidden_units: widths of each network's hidden layers, of a flow given by its name.
      learning_rate: Adam's, a number, or a schedule of Keras' over updates.
      target_rate: how far the copy moves towards the critic in an update.
      loss: "quantile" or "likelihood".
      draws: targets of each row of a batch, and levels of its quantiles.
      dtype: "float32" or "float64".
      seed: integer for reproducible weights and training, or None.
      **options: of the family, as in `flows.get`, of a flow given by its name, as `bins`.

    Raises:
      ValueError: a number is out of its range, the flow is not one of one column, the loss is
        unknown, or is "quantile" and the flow has none, as one over a mixture.
      TypeError: there are options, and the flow is no family that takes them.

    Source: Marc Bellemare, Will Dabney and Rémi Munos, "A Distributional Perspective on
    Reinforcement Learning" (2017), whose categories a flow takes the place of here. The loss of
    quantiles: Will Dabney et al., "Distributional Reinforcement Learning with Quantile Regression"
    (2018), of a network's quantiles; Mark Rowland et al., "An Analysis of Categorical
    Distributional Reinforcement Learning" (2018), for the contraction.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> s, a, r = rng.normal(size=(3, 64, 1))
      >>> data = {"observations": s, "actions": a, "rewards": r[:, 0], "next_observations": s}
      >>> data |= {"terminated": np.ones(64), "next_actions": a}
      >>> critic = rl.FlowCritic(1, 1, flow="gaussian", seed=0)
      >>> losses = critic.fit(data, steps=10)
      >>> critic.quantile(s[:5], a[:5], [0.1, 0.5, 0.9])     # (5, 3)
      >>> critic.cvar(s[:5], a[:5], 0.1)     # (5,)
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        flow: str | FlowModel = "neural_spline",
        *,
        discount: float = 0.99,
        layers: int = 2,
        hidden_units: Sequence[int] = (64, 64),
        learning_rate: Rate = 1e-3,
        target_rate: float = 0.01,
        loss: str = "quantile",
        draws: int = 16,
        dtype: str = "float32",
        seed: int | None = None,
        **options: Any,
    ):
        context_size = positive_int(observation_size, "observation_size")
        context_size += positive_int(action_size, "action_size")
        self.discount = in_interval(discount, "discount", "[0, 1)")
        self.target_rate = in_interval(target_rate, "target_rate", "(0, 1]")
        if loss not in ("quantile", "likelihood"):
            raise ValueError(f"`loss` must be 'quantile' or 'likelihood'. Received: loss={loss!r}")
        if options and (isinstance(flow, FlowModel) or flow == "gaussian"):
            raise TypeError(
                f"`flow` must be the name of a family, to have {options}. Received: flow={flow!r}"
            )
        self.loss, self.draws = loss, positive_int(draws, "draws")
        self.observation_size, self.action_size = observation_size, action_size

        common = {"layers": layers, "dtype": dtype, "seed": seed}

        def made() -> FlowModel:
            if isinstance(flow, FlowModel):
                return FlowModel.from_config(flow.get_config())
            base, parts = conditional_flow(flow, 1, context_size, hidden_units, **common, **options)
            return FlowModel(Flow(base, tfb.Chain(parts)), name="critic")

        self.model, self._target = made(), made()
        if self.model.event_shape != (1,) or self.model.context_shape != (context_size,):
            raise ValueError(
                f"`flow` must be of one column, with a context of size {context_size}. Received: "
                f"event_shape={self.model.event_shape}, context_shape={self.model.context_shape}"
            )
        self._is_scaled = isinstance(flow, FlowModel)
        if isinstance(flow, FlowModel):
            for model in (self.model, self._target):
                model.set_weights(flow.get_weights())
        self.dtype = self.model.event_dtype
        self._levels = tf.constant((np.arange(draws)[:, np.newaxis] + 0.5) / draws, self.dtype)
        if loss == "quantile":
            try:
                _quantiles(self.model, np.zeros([1, context_size], self.dtype), self._levels)
            except NotImplementedError as error:
                raise ValueError(
                    "`flow` must have quantiles, for loss='quantile'; others learn by "
                    f"loss='likelihood'. Received: {self.model.distribution!r}"
                ) from error
        self._weights = self.model.trainable_variables
        self._optimizer = adam(learning_rate, self._weights)
        self._rng = np.random.default_rng(check_seed(seed))
        self._compiled: dict[int, tuple[Any, Callable[..., tf.Tensor]]] = {}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `model`; `FlowCritic(..., flow=FlowModel.load(path))` has the same densities."""
        self.model.save(path)

    def fit(
        self,
        data: Mapping[str, Any],
        policy: FlowPolicy | Callable[[np.ndarray], Any] | None = None,
        *,
        steps: int,
        batch_size: int = 256,
        verbose: int = 0,
    ) -> np.ndarray:
        """Learn from steps of an environment.

        The first call takes the unit of returns, and those of observations and actions, from the
        data; they stay, for targets are made in them.

        Args:
          data: arrays `observations`, `actions`, `rewards`, `next_observations` and `terminated`,
            a row a step; and, without a policy, `next_actions`. An episode that was only truncated
            is not `terminated`.
          policy: whose returns are learned: a `FlowPolicy`, of which `a'` is drawn at every update;
            or a function of NumPy arrays from observations to actions, called once; or None for
            `next_actions`, those that were taken, or any others.
          steps: updates.
          batch_size: rows of an update.
          verbose: 1 for a progress bar.

        Returns:
          the loss of each update, `(steps,)`, a mean over the batch: in units of rewards, at least
          0, of quantiles, and in nats, of likelihood.

        Raises:
          ValueError: an array is missing, has another shape or values that are not finite.
        """
        positive_int(steps, "steps")
        positive_int(batch_size, "batch_size")
        arrays = self._checked(data, policy)
        if not self._is_scaled:
            self._take_units(arrays)
        update, losses = self._updates_by(policy), np.zeros(steps)
        bar = keras.utils.Progbar(steps, unit_name="step") if verbose else None
        for i in range(steps):
            places = self._rng.integers(len(arrays["rewards"]), size=batch_size)
            batch = {name: tf.constant(array[places]) for name, array in arrays.items()}
            seed = tf.constant(self._rng.integers(2**31, size=2, dtype=np.int32))
            losses[i] = update(batch, seed)
            if bar is not None:
                bar.update(i + 1, [("loss", losses[i])])
        return losses

    def _checked(self, data: Mapping[str, Any], policy: Any) -> dict[str, np.ndarray]:
        given = dict(data)
        drawn = isinstance(policy, FlowPolicy)
        if policy is not None and not drawn:
            given["next_actions"] = policy(np.asarray(given.get("next_observations")))
        needed = _NEEDED if drawn else (*_NEEDED, "next_actions")
        missing = [name for name in needed if name not in given]
        if missing:
            raise ValueError(f"`data` must have {', '.join(needed)}. Missing: {', '.join(missing)}")
        widths = {"observations": self.observation_size, "actions": self.action_size}
        arrays, n = {}, len(given["rewards"])
        for name in needed:
            width = widths.get(name.removeprefix("next_"))
            shape = (n,) if width is None else (n, width)
            array = arrays[name] = np.asarray(given[name]).astype(self.dtype)
            if array.shape != shape or not np.isfinite(array).all():
                raise ValueError(
                    f"`data[{name!r}]` must have finite values of shape {shape}. "
                    f"Received: shape={array.shape}"
                )
        return arrays

    def _take_units(self, arrays: dict[str, np.ndarray]) -> None:
        """Standardize contexts, and put returns where those of these rewards may be."""
        rewards = arrays["rewards"].astype("float64")
        horizon = 1 / (1 - self.discount * (1 - arrays["terminated"].mean()))
        size = float(np.sqrt(np.mean(rewards**2))) or 1.0
        context = np.concatenate([arrays["observations"], arrays["actions"]], -1)
        for model in (self.model, self._target):
            model.event_standardizer.shift.assign([rewards.mean() * horizon])
            model.event_standardizer.scale.assign([size * horizon])
            standardizer: Any = model.context_standardizer
            standardizer.adapt(context, "data")
        self._is_scaled = True

    def _updates_by(self, policy: Any) -> Callable[..., tf.Tensor]:
        drawn = policy if isinstance(policy, FlowPolicy) else None
        if id(drawn) not in self._compiled:

            def update(batch: Batch, seed: tf.Tensor) -> tf.Tensor:
                return self._update(batch, seed, drawn)

            self._compiled[id(drawn)] = (drawn, tf.function(update, autograph=False))
        return self._compiled[id(drawn)][1]

    def _update(self, batch: Batch, seed: tf.Tensor, policy: FlowPolicy | None) -> tf.Tensor:
        seeds = tfp.random.split_seed(seed, 3)
        following = batch["next_observations"]
        if policy is None:
            actions = batch["next_actions"]
        else:
            actions = tf.cast(policy.sample(context=following, seed=seeds[0]), self.dtype)
        after = self._returns(tf.concat([following, actions], -1), seeds[1])
        after *= self.discount * (1 - batch["terminated"])
        wanted = tf.stop_gradient(batch["rewards"] + after)
        context = tf.concat([batch["observations"], batch["actions"]], -1)
        # In the unit of returns, which clipping of the gradient must not depend on.
        unit = self.model.event_standardizer.scale[0] if self.loss == "quantile" else 1.0

        def loss() -> tuple[tf.Tensor, None]:
            return self._loss(wanted, context, seeds[2]) / unit, None

        value, _ = descend(self._optimizer, loss, self._weights, clip=_MAX_GRADIENT)
        follow(self._target.trainable_variables, self._weights, self.target_rate)
        return value * unit

    def _returns(self, context: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """What the copy expects, as equally probable values `(draws, rows)`."""
        if self.loss == "quantile":
            return _quantiles(self._target, context, self._levels)
        return self._target.sample(self.draws, context, seed)[..., 0]

    def _loss(self, wanted: tf.Tensor, context: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """The loss, a number, of targets `(draws, rows)`."""
        if self.loss == "likelihood":
            return -tf.reduce_mean(self.model.log_prob(wanted[..., tf.newaxis], context))
        jitter = tf.random.stateless_uniform(tf.shape(wanted), seed, dtype=self.dtype) - 0.5
        levels = self._levels + jitter / self.draws
        # Far out, one value of a row would move a base's tail, and with it everything.
        levels = tf.clip_by_value(levels, _OUTERMOST, 1 - _OUTERMOST)
        excess = wanted - _quantiles(self.model, context, levels)[:, tf.newaxis]
        return 2 * tf.reduce_mean(levels[:, tf.newaxis] * excess - tf.minimum(excess, 0.0))

    def _context(self, observations: Any, actions: Any) -> tf.Tensor:
        observations = rows_of(observations, self.observation_size, "observations", self.dtype)
        actions = rows_of(actions, self.action_size, "actions", self.dtype)
        if len(observations) != len(actions):
            raise ValueError(
                "`observations` and `actions` must have equally many rows. "
                f"Received: {len(observations)} and {len(actions)}"
            )
        return tf.constant(np.concatenate([observations, actions], -1))

    def log_prob(self, returns: Any, observations: Any, actions: Any) -> tf.Tensor:
        """Log-density of returns `(n,)` in nats, `(n,)`."""
        returns = rows_of(returns, None, "returns", self.dtype)[:, np.newaxis]
        return self.model.log_prob(returns, self._context(observations, actions))

    def sample(self, n: int, observations: Any, actions: Any, seed: Any | None = None) -> tf.Tensor:
        """Draw `n` returns of each pair, `(n, rows)`."""
        return self.model.sample(n, self._context(observations, actions), seed)[..., 0]

    def quantile(
        self, observations: Any, actions: Any, levels: Sequence[float] | np.ndarray
    ) -> tf.Tensor:
        """Returns that are not exceeded with probabilities `levels`, `(rows, len(levels))`.

        Raises:
          ValueError: a level is not in (0, 1).
        """
        p = np.asarray(levels, self.dtype)
        if p.ndim != 1 or not ((p > 0) & (p < 1)).all():
            raise ValueError(f"`levels` must be numbers in (0, 1). Received: levels={levels}")
        context = self._context(observations, actions)
        return tf.transpose(_quantiles(self.model, context, p[:, np.newaxis]))

    def mean(self, observations: Any, actions: Any) -> tf.Tensor:
        """The expected return `Q(s, a)`, `(rows,)`, as a mean of 256 quantiles."""
        return self.cvar(observations, actions, 1.0)

    def cvar(self, observations: Any, actions: Any, level: float) -> tf.Tensor:
        """Conditional value at risk: the mean of the worst `level` of all returns, `(rows,)`.

        A mean of 256 quantiles, at equally spaced probabilities.

        Raises:
          ValueError: `level` is not in (0, 1].
        """
        level = in_interval(level, "level", "(0, 1]")
        levels = level * (np.arange(_NODES) + 0.5) / _NODES
        return tf.reduce_mean(self.quantile(observations, actions, levels), -1)


def _quantiles(model: FlowModel, context: Any, levels: Any) -> tf.Tensor:
    """Those of returns, in units of rewards, `(n, rows)`, at levels `(n, 1)` or `(n, rows)`."""
    flow = model.distribution.given(model.standardize_context(context))
    p = tf.broadcast_to(levels, [levels.shape[0], tf.shape(context)[0]])
    return model.event_standardizer.inverse(flow.quantile(p))[..., 0]
