"""Standardizer: shift and scale columns to mean 0 and deviation 1, as weights of a model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_flows.bijectors.support import Support
from tfp_flows.distributions.chain import flatten_chain
from tfp_flows.distributions.dequantized import Dequantized
from tfp_flows.distributions.flow import Flow
from tfp_flows.distributions.stacked import Stacked
from tfp_flows.distributions.with_categories import WithCategories
from tfp_flows.model.data import check_finite
from tfp_flows.ops.columns import (
    Outlier,
    check_unit,
    check_varies,
    column_name,
    constant_columns,
    find_outlier,
    moments,
    robust_moments,
)

__all__ = [
    "ConstantColumnWarning",
    "OutlierWarning",
    "Standardizer",
    "check_raw",
    "check_support",
    "warn_of_raw_outliers",
]

_CHECKED_ROWS = 256


class ConstantColumnWarning(UserWarning):
    """A column of the context is constant: it can tell no two events apart."""


class OutlierWarning(UserWarning):
    """A few values are so far out that the standard deviation says little about the others."""


class Standardizer(keras.layers.Layer):
    """`z = (x - shift) / scale`, the identity until `adapt`; its weights are saved, not trained.

    Keras' `Normalization` does the same to inputs; this one also goes back, and has the log-det
    that a density needs.

    Args:
      shape: shape of one event or context, of any rank.
      dtype: floating dtype of what is standardized.
      name: name of the layer.
      may_be_constant: whether `adapt` takes constant columns, as of a context; they are shifted,
        and keep scale 1.
    """

    def __init__(
        self, shape: Sequence[int], *, dtype: str, name: str, may_be_constant: bool = False
    ) -> None:
        super().__init__(dtype=dtype, autocast=False, trainable=False, name=name)
        self.shape = tuple(shape)
        self.may_be_constant = may_be_constant
        # No autocast: `log_det` runs within a model's call, in half under mixed precision.
        # Not trainable themselves: the flag of a layer follows that of the model around it.
        options = {"shape": self.shape, "autocast": False, "trainable": False}
        self.shift = self.add_weight(initializer="zeros", name="shift", **options)
        self.scale = self.add_weight(initializer="ones", name="scale", **options)
        self.built = True

    def adapt(self, data: Any, name: str, *, scale: str = "standard") -> None:
        """Take shift and scale of the columns of `data`, which `name` names in errors.

        Args:
          data: `(n, *shape)`.
          name: what messages call the data.
          scale: "standard" for mean and standard deviation, or "robust" for the median and the
            range between the quartiles, over 1.349 as of a normal distribution, which a quarter of
            outliers cannot move far.

        Raises:
          ValueError: a value is not finite, there is only one row, a column is constant and must
            not be, or its unit does not fit the dtype; with "robust", the quartiles of a column are
            equal.
        """
        check_finite(data, name)
        names = getattr(data, "columns", None)
        data = np.asarray(data, "float64")
        self.check_shape(data, name)
        if len(data) < 2:
            raise ValueError(f"`{name}` must have two rows or more. Received: {len(data)}")
        shift, deviation = moments(data)
        constant = constant_columns(data, self.dtype)
        if self.may_be_constant:
            equal = np.ptp(data, axis=0) == 0
            _warn_of_constants([column_name(index, names) for index in np.argwhere(equal)], name)
            constant, deviation = constant & ~equal, np.where(equal, 1.0, deviation)
        check_varies(constant, self.dtype, name, names)
        if scale == "robust":
            shift, deviation = self._robust(data, name, names, shift, deviation)
        elif outlier := find_outlier(data):
            _warn_of_outlier(outlier, name, names, ", or call `adapt(..., scale='robust')`")
        check_unit(data, deviation, self.dtype, name, names)
        self.shift.assign(shift)
        self.scale.assign(deviation)

    def check_shape(self, data: Any, name: str) -> None:
        """Raise a ValueError unless `data`, which `name` names, are `(n, *shape)`."""
        found = np.shape(data)
        if not found or found[1:] != self.shape:
            expected = ", ".join(map(str, ("n", *self.shape)))
            hint = ": use `x[:, np.newaxis]`" * (len(found) == 1 and self.shape == (1,))
            raise ValueError(
                f"`{name}` must have shape ({expected}). Received: shape={found}{hint}"
            )

    def _robust(
        self, data: np.ndarray, name: str, names: Any, mean: np.ndarray, deviation: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Median and spread; of a context whose quartiles are equal, as of a class, the others."""
        median, spread = robust_moments(data)
        # Beside the median, not beside the largest value: that may be an outlier.
        equal = spread <= 100 * np.finfo(self.dtype).eps * np.abs(median)
        if equal.any() and not self.may_be_constant:
            raise ValueError(
                f"`{name}` must have quartiles that differ, for scale='robust'. Received: column "
                f"{column_name(np.argwhere(equal)[0], names)}, half of whose values are equal"
            )
        if outlier := find_outlier(np.where(equal, data, 0.0)):
            _warn_of_outlier(outlier, name, names)
        return np.where(equal, mean, median), np.where(equal, deviation, spread)

    def call(self, x: Any) -> tf.Tensor:
        """From data units to standardized ones.

        Raises:
          ValueError: the last axes of `x` are not the shape of an event.
        """
        x = tf.cast(tf.convert_to_tensor(x), self.dtype)
        rank = x.shape.rank
        if rank is not None and (
            rank < len(self.shape)
            or not x.shape[rank - len(self.shape) :].is_compatible_with(self.shape)
        ):
            expected = ", ".join(map(str, ("...", *self.shape)))
            raise ValueError(f"Events must have shape ({expected}). Received: {tuple(x.shape)}")
        if not x.shape[-len(self.shape) :].is_fully_defined():
            # What comes without a shape, from Python functions in a dataset say, are batches.
            batch = [None] if rank is None else x.shape[: rank - len(self.shape)]
            x = tf.ensure_shape(x, [*batch, *self.shape])
        return (x - self.shift) / self.scale

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return tuple(input_shape)

    def inverse(self, z: tf.Tensor) -> tf.Tensor:
        """From standardized units to those of the data."""
        return z * self.scale + self.shift

    def log_det(self) -> tf.Tensor:
        """The log-determinant of `call`, the same everywhere: `-Σ log scale`."""
        return -tf.reduce_sum(tf.math.log(self.scale.value))


def _warn_of_constants(columns: list[str], name: str) -> None:
    if columns:
        warnings.warn(
            f"`{name}` is constant in column {', '.join(columns)}: its scale stays 1, and what the "
            "model makes of other values there is arbitrary.",
            ConstantColumnWarning,
            stacklevel=4,
        )


def check_raw(model: Any, events: Any, name: str, steps: Any | None) -> None:
    """Raise a ValueError if events that are not standardized are not finite, or do not vary.

    Rounded values, of columns with steps, need not: their cell has a probability.
    """
    check_finite(events, name, model.event_dtype, infinite=model.infinite_events)
    if not model.infinite_events:
        constant = constant_columns(np.asarray(events), model.event_dtype)
        if steps is not None:
            constant &= np.asarray(steps) == 0
        check_varies(constant, model.event_dtype, name, getattr(events, "columns", None))


def check_support(model: Any, context: Any, events: Any, name: str) -> None:
    """Raise a ValueError if standardizing has moved events out of the distribution's support.

    Args:
      model: a `FlowModel` with standardizers that were adapted.
      context: as given to `adapt`, or None.
      events: the same.
      name: what messages call the events.
    """
    some = slice(None, None, 1 + len(events) // _CHECKED_ROWS)
    x = tf.convert_to_tensor(np.asarray(events)[some].astype(model.event_dtype))
    given = {}
    if context is not None:
        given = {"context": model.standardize_context(np.asarray(context)[some])}

    def has_density(x: tf.Tensor) -> np.ndarray:
        return np.isfinite(model.distribution.log_prob(x, **given))

    lost = ~has_density(model.event_standardizer(x))
    if lost.any() and has_density(x)[lost].any():
        raise ValueError(
            f"`{name}` must not be standardized for this distribution: shifted and scaled to mean "
            f"0 and deviation 1 they have no density: {lost.sum()} of {len(lost)} rows lie outside "
            "of the support. End the flow with a `Support` (`support=` in `flows`), which takes "
            "data as they are, or train without `adapt`."
        )


def warn_of_raw_outliers(distribution: tfd.Distribution, events: Any, name: str) -> None:
    """Warn of outliers in events that the last bijector has standardized by its own `adapt`."""
    data = np.asarray(events, "float64")
    for last, first, columns in _units(distribution, 0, data):
        shown = data[:, first : first + columns.shape[1]]
        # Shift and scale, which the outlier itself has set, make no difference.
        squeezed = last.unconstrain(columns).numpy() if isinstance(last, Support) else columns
        if outlier := find_outlier(squeezed, shown=shown):
            outlier = outlier._replace(column=(first + outlier.column[0],))
            _warn_of_outlier(outlier, name, getattr(events, "columns", None))
            return


def _units(
    distribution: tfd.Distribution, first: int, data: np.ndarray
) -> Iterator[tuple[Any, int, np.ndarray]]:
    """The last bijectors of the flows within, the first of the columns that each has, and these."""
    if isinstance(distribution, Stacked):
        for member in distribution.members:
            yield from _units(member, first, data)
    elif isinstance(distribution, WithCategories):
        count = len(distribution.categories)
        yield from _units(distribution.distribution, first + count, data[:, count:])
    elif isinstance(distribution, Dequantized):
        yield from _units(distribution.distribution, first, data + distribution.middle)
    elif isinstance(distribution, Flow):
        yield flatten_chain(distribution.bijector)[0], first, data


def _warn_of_outlier(outlier: Outlier, name: str, names: Any, remedy: str = "") -> None:
    low, high = outlier.bulk
    warnings.warn(
        f"`{name}` has values far out in column {column_name(outlier.column, names)}: "
        f"{outlier.value:.6g} in row {outlier.row}, where 90 % of the values lie between {low:.6g} "
        f"and {high:.6g}. They make the standard deviation {outlier.deviation:.3g} and squeeze the "
        f"others: mend these rows, or take logarithms{remedy}.",
        OutlierWarning,
        stacklevel=4,
    )
