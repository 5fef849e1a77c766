"""Dequantized: a continuous distribution as one of rounded values, with honest probabilities."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import distributions as tfd

from tfp_flows.distributions.cells import CellNoise, checked_steps, round_to
from tfp_flows.distributions.conditional import NotReparameterized, context_shape_of
from tfp_flows.distributions.flow import Flow
from tfp_flows.ops.capabilities import context_size_of, needs_raw_data
from tfp_flows.ops.checks import positive_int
from tfp_flows.ops.columns import column_name, named
from tfp_flows.ops.seeds import stateless_seed

__all__ = ["Dequantized", "bits_per_dim"]


def bits_per_dim(nats: Any, event_shape: Sequence[int]) -> Any:
    """Bits a dimension, `nats / (D log 2)`, of negative log-probabilities in nats an event.

    They mean something of rounded values, as pixels are, whose cells have the width 1: divide
    pixels by 256, and the density has 8 bits more. By which bound the nats were found belongs to
    them: uniform noise, learned noise, or several samples of either.

    Args:
      nats: negative log-probability of an event, or its mean, a number or an array.
      event_shape: shape of one event, `D` numbers in all.

    Raises:
      ValueError: `event_shape` is not made of positive integers.

    Example:
      >>> float(distributions.bits_per_dim(784 * np.log(256), (28, 28, 1)))
      8.0
    """
    sizes = [positive_int(size, "event_shape") for size in event_shape]
    return nats / (math.prod(sizes) * math.log(2))


class Dequantized(NotReparameterized):
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

    Shapes: events `(D,)`, or those on a grid, `(T, C)` or `(H, W, C)`, whose columns are all
    entries. Context as for `distribution`.

    Args:
      distribution: what is dequantized, with events of a known shape; it may take context.
      steps: distance of neighbouring values, one for all columns or one per column, 1 of pixels
        that are integers; 0 for columns that are continuous.
      noise: hidden widths of the networks of a noise flow; a conditional `Flow` with one event
        column for every stepped column, whose context are all `D` columns and whose events go
        through a sigmoid to their cells; or `None` for uniform noise. On a grid widths are those of
        convolutions.
      samples: number of noise draws a value.
      align: `"center"`, for values rounded to the nearest; or `"left"`, the cell `[x, x + h)`, for
        values rounded down, as ages in years are, and for counts in a positive support.
      seed: integer for the same noise at every call on equal values, and for the initial weights
        of the noise flow; or `None`. With an integer, `log_prob` cannot be in
        `tf.vectorized_map`, where TensorFlow takes no seeds that depend on what is mapped.
      name: name of the distribution.

    Raises:
      TypeError: `distribution` is no `tfd.Distribution`, or `noise` of another type.
      ValueError: the shape of events is not known, steps are negative, infinite, all 0 or of
        another number, the noise flow does not fit, or `samples` is not a positive integer.

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
        shape = distribution.event_shape
        if not shape.rank or not shape.is_fully_defined():
            raise ValueError(
                "`distribution` must have events of shape (D,), or of another that is known. "
                f"Received: event_shape={shape}"
            )
        if align not in ("center", "left"):
            raise ValueError(f"`align` must be 'center' or 'left'. Received: align={align!r}")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, numbers.Integral)):
            raise ValueError(f"`seed` must be an integer or None. Received: seed={seed!r}")
        self.distribution = distribution
        self._steps = checked_steps(steps, tuple(shape))
        equal = shape.rank > 1 and self._steps.min() == self._steps.max()
        listed: Any = float(self._steps.flat[0]) if equal else self._steps.tolist()
        self.steps = parameters["steps"] = tuple(listed) if shape.rank == 1 else listed
        self.samples = positive_int(samples, "samples")
        self.align = align
        self.seed = seed
        self.context_size = context_size_of(distribution)
        stepped = self._steps > 0
        if noise is not None and not isinstance(noise, CellNoise):
            noise = CellNoise(noise, stepped, dtype=distribution.dtype, seed=seed)
        self.noise: CellNoise | None = noise
        self._noise_columns = None
        if not stepped.all():
            self._noise_columns = np.where(stepped, np.cumsum(stepped) - 1, stepped.sum())
        self._log_cell = float(np.log(self._steps[stepped]).sum())
        super().__init__(dtype=distribution.dtype, parameters=parameters, name=name)

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

    def _with_temperature(self, temperature: float) -> Dequantized:
        return self.copy(distribution=self.distribution._with_temperature(temperature))

    def _call_sample_n(self, sample_shape: Any, seed: Any) -> tf.Tensor:
        x = self.distribution.sample(sample_shape, seed=seed)
        return round_to(x, self._steps, self._lowest)

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
        names, x = getattr(x, "columns", None), np.asarray(x)
        _check_grid(x, self._steps, names)
        u = np.random.RandomState(0).uniform(size=x.shape) + self._lowest
        noisy = x + u * self._steps
        noisy = noisy if names is None else named(noisy, names)
        self.distribution.adapt(noisy, context, again=again)
        if self.noise is not None and again:
            self.noise.adapt(x)

    @property
    def middle(self) -> np.ndarray:
        """The middle of a cell, less the value that it stands for, in the shape of an event."""
        return (self._lowest + 0.5) * self._steps

    @property
    def _lowest(self) -> float:
        """Where cells begin, in steps from their value."""
        return -0.5 if self.align == "center" else 0.0

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        value = self._in_batch(value)
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
            finite = tf.where(tf.math.is_finite(value), value, tf.zeros_like(value))
            u, log_noise = self.noise(finite, self.samples, seed)
            if self._noise_columns is not None:
                u = tf.concat([u, tf.zeros_like(u[..., :1])], -1)
                u = tf.gather(u, self._noise_columns, axis=-1)
        x = value + (u + self._lowest) * tf.constant(self._steps, self.dtype)
        log_weights = self.distribution.log_prob(x) - log_noise
        log_mean = tf.reduce_logsumexp(log_weights, 0) - np.log(self.samples)
        return log_mean + self._log_cell

    def _in_batch(self, value: tf.Tensor) -> tf.Tensor:
        """Events with all axes of the batch, in front of which the axis of noise draws goes."""
        batch = self.distribution.batch_shape
        if batch.rank == 0:
            return value
        rows, event = tf.split(tf.shape(value), [-1, self.event_shape.rank])
        shape = tf.broadcast_dynamic_shape(rows, self.distribution.batch_shape_tensor())
        static = tf.broadcast_static_shape(value.shape[: -self.event_shape.rank], batch)
        value = tf.broadcast_to(value, tf.concat([shape, event], 0))
        return tf.ensure_shape(value, static.concatenate(self.event_shape))


def _check_grid(x: np.ndarray, steps: np.ndarray, names: Any | None) -> None:
    """Raise a ValueError at the first value that is not a multiple of its column's step."""
    columns = x.reshape(len(x), steps.size).T
    for index, step, column in zip(np.ndindex(steps.shape), steps.flat, columns, strict=True):
        if step:
            values = column.astype("float64") / step
            off = np.flatnonzero(np.abs(values - np.round(values)) > 1e-3 + 1e-6 * np.abs(values))
            if len(off):
                raise ValueError(
                    f"`x` must be multiples of `steps`, {step:g} in column "
                    f"{column_name(index, names)}: subtract the offset of the grid. "
                    f"Received: {column[off[0]]} in row {off[0]}"
                )
