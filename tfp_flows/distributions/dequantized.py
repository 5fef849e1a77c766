"""Dequantized: a continuous distribution as one of rounded values, with honest probabilities."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import distributions as tfd

from tfp_flows.distributions.cells import CellNoise, checked_steps, round_to
from tfp_flows.distributions.conditional import Conditional, context_shape_of
from tfp_flows.distributions.flow import Flow
from tfp_flows.ops.capabilities import context_size_of, needs_raw_data
from tfp_flows.ops.checks import positive_int
from tfp_flows.ops.seeds import stateless_seed

__all__ = ["Dequantized"]


class Dequantized(Conditional):
    """The distribution of rounded values: integers, or measurements to a tenth.

    A density of tied values has no upper bound: a flow may pile it up on the ties. Here a value `x`
    of a column with step `h` stands for its cell, `[x - h/2, x + h/2)`, and has as probability the
    integral of the continuous density `p` over it. With noise `u` from a density `q` on the cell,

    log_prob: `log mean_k p(x + u_k) / q(u_k | x) <= log P(x)`, in nats, on average
    sample: `p`'s draws, rounded to multiples of `h`

    Columns with step 0 stay continuous: `log_prob` is a probability of the stepped columns and a
    density of the others. Without `noise`, `q` is uniform, `1 / Π h`; with it, `q` is a conditional
    flow, trained together with `p`: variational dequantization, whose bound is tighter. So it is
    with more `samples`, each of which costs one density of `p`.

    `log_prob` is random: training sees new noise at every call. For figures that can be reproduced,
    set the attribute `seed` to an integer: equal batches then have equal noise. The attributes
    `seed` and `samples` are read when a graph is traced; after a change, call `compile` of a Keras
    model again.

    `distribution` is in the units of the data, as steps are. To standardize them, let its last
    bijector be a `Support`, which `adapt` sets.

    Shapes: events `(D,)`; context as for `distribution`.

    Args:
      distribution: what is dequantized, events `(D,)`; it may take context.
      steps: distance of neighbouring values, one for all columns or one per column; 0 for columns
        that are continuous.
      noise: hidden widths of the networks of a noise flow; a conditional `Flow` with one event
        column for every stepped column, whose context are all `D` columns and whose events go
        through a sigmoid to their cells; or `None` for uniform noise.
      samples: number of noise draws a value.
      align: `"center"`, for values rounded to the nearest; or `"left"`, the cell `[x, x + h)`, for
        values rounded down, as ages in years are, and for counts in a positive support.
      seed: integer for the same noise at every call on equal values, and for the initial weights
        of the noise flow; or `None`.
      name: name of the distribution.

    Raises:
      TypeError: `distribution` is no `tfd.Distribution`, or `noise` of another type.
      ValueError: events are not vectors, steps are negative, infinite, all 0 or of another number,
        the noise flow does not fit, or `samples` is not a positive integer.

    Source: Lucas Theis, Aäron van den Oord and Matthias Bethge, "A note on the evaluation of
    generative models" (2016); with learned noise, Jonathan Ho et al., "Flow++" (2019); with several
    samples, Yuri Burda, Roger Grosse and Ruslan Salakhutdinov, "Importance Weighted Autoencoders"
    (2016).

    Example:
      >>> flow = flows.neural_spline(2, layers=2, support="real")
      >>> model = FlowModel(distributions.Dequantized(flow, steps=[1.0, 0.1]))
      >>> model.adapt(np.round(x))
    """

    needs_raw_data = True

    def __init__(
        self,
        distribution: tfd.Distribution,
        steps: float | Sequence[float],
        *,
        noise: Sequence[int] | Flow | CellNoise | None = None,
        samples: int = 1,
        align: str = "center",
        seed: int | None = None,
        name: str = "Dequantized",
    ):
        parameters = dict(locals())
        if not isinstance(distribution, tfd.Distribution):
            raise TypeError(
                "`distribution` must be a tfd.Distribution. "
                f"Received: distribution={distribution!r}"
            )
        if distribution.event_shape.rank != 1 or not distribution.event_shape.is_fully_defined():
            raise ValueError(
                "`distribution` must have events of shape (D,). "
                f"Received: event_shape={distribution.event_shape}"
            )
        if align not in ("center", "left"):
            raise ValueError(f"`align` must be 'center' or 'left'. Received: align={align!r}")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, numbers.Integral)):
            raise ValueError(f"`seed` must be an integer or None. Received: seed={seed!r}")
        self.distribution = distribution
        self.steps = parameters["steps"] = checked_steps(steps, distribution.event_shape[0])
        self.samples = positive_int(samples, "samples")
        self.align = align
        self.seed = seed
        self.context_size = context_size_of(distribution)
        stepped = np.array(self.steps) > 0
        if noise is not None and not isinstance(noise, CellNoise):
            noise = CellNoise(noise, stepped, dtype=distribution.dtype, seed=seed)
        self.noise: CellNoise | None = noise
        self._noise_columns = np.where(stepped, np.cumsum(stepped) - 1, stepped.sum())
        self._log_cell = float(np.log(np.array(self.steps)[stepped]).sum())
        super().__init__(
            dtype=distribution.dtype,
            reparameterization_type=tfd.NOT_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=True,
            parameters=parameters,
            name=name,
        )

    @classmethod
    def _parameter_properties(
        cls, dtype: tf.DType | None, num_classes: int | None = None
    ) -> dict[str, Any]:
        return {"distribution": tfp.util.BatchedComponentProperties()}

    @property
    def parameters(self) -> dict[str, Any]:
        """Arguments of the constructor that make another one with the same noise, for copies."""
        state = {"noise": self.noise, "samples": self.samples, "seed": self.seed}
        return {**super().parameters, **state}

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor: what is needed to build it again, weights aside."""
        return super().parameters

    @property
    def context_shape(self) -> tuple[int, ...] | None:
        """Shape of one context as `distribution` takes it, or None."""
        return context_shape_of(self.distribution)

    def _event_shape(self) -> tf.TensorShape:
        return self.distribution.event_shape

    def _event_shape_tensor(self) -> tf.Tensor:
        return self.distribution.event_shape_tensor()

    def _default_event_space_bijector(self) -> None:
        return None  # Values are discrete: no smooth map leads to them.

    def _given(self, context: tf.Tensor) -> Dequantized:
        return self.copy(distribution=self.distribution.given(context))

    def _call_sample_n(self, sample_shape: Any, seed: Any) -> tf.Tensor:
        x = self.distribution.sample(sample_shape, seed=seed)
        return round_to(x, self.steps, self._lowest)

    def adapt(self, x: Any, context: Any | None = None, *, again: bool = True) -> None:
        """Call `distribution.adapt` with the data plus uniform noise; adapt the noise flow too.

        Raises:
          ValueError: `distribution` does not take data in their own units, as steps are; a value is
            no multiple of its column's step.
        """
        if again and not needs_raw_data(self.distribution):
            raise ValueError(
                "`distribution` must take data in their own units, as `steps` are: let its last "
                f"bijector be a Support. Received: distribution={self.distribution!r}"
            )
        x = x if hasattr(x, "columns") else np.asarray(x)  # Columns keep their names in errors.
        _check_grid(np.asarray(x), self.steps)
        u = np.random.RandomState(0).uniform(size=x.shape) + self._lowest
        self.distribution.adapt(x + u * np.array(self.steps), context, again=again)
        if self.noise is not None and again:
            self.noise.adapt(np.asarray(x))

    @property
    def _lowest(self) -> float:
        """Where cells begin, in steps from their value."""
        return -0.5 if self.align == "center" else 0.0

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        seed = None
        if self.seed is not None:
            # Other values, other noise: else errors of batches would not average out.
            bits = tf.bitcast(tf.cast(value, tf.float32), tf.int32)
            seed = tf.random.fold_in(stateless_seed(self.seed), tf.reduce_sum(bits))
        if self.noise is None:
            shape = tf.concat([[self.samples], tf.shape(value)], 0)
            seed = tfp.random.sanitize_seed(seed)
            u = tf.random.stateless_uniform(shape, seed, dtype=self.dtype)
            log_noise = tf.zeros([], self.dtype)
        else:
            u, log_noise = self.noise(value, self.samples, seed)
            u = tf.concat([u, tf.zeros_like(u[..., :1])], -1)
            u = tf.gather(u, self._noise_columns, axis=-1)
        x = value + (u + self._lowest) * tf.constant(self.steps, self.dtype)
        log_weights = self.distribution.log_prob(x) - log_noise
        log_mean = tf.reduce_logsumexp(log_weights, 0) - np.log(self.samples)
        return log_mean + self._log_cell


def _check_grid(x: np.ndarray, steps: Sequence[float]) -> None:
    """Raise a ValueError at the first value that is not a multiple of its column's step."""
    for column, step in enumerate(steps):
        if step:
            values = x[:, column].astype("float64") / step
            off = np.flatnonzero(np.abs(values - np.round(values)) > 1e-3 + 1e-6 * np.abs(values))
            if len(off):
                raise ValueError(
                    f"`x` must be multiples of `steps`, {step:g} in column {column}: subtract the "
                    f"offset of the grid. Received: {x[off[0], column]} in row {off[0]}"
                )
