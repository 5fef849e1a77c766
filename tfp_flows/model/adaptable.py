"""AdaptableModel: what a model learns of its data before training, units above all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_flows.model import variables
from tfp_flows.model.column_names import ColumnNames
from tfp_flows.model.data import check_finite, check_inputs, check_rows, collect
from tfp_flows.model.saving import SavableModel
from tfp_flows.model.standardizer import (
    Standardizer,
    check_raw,
    check_support,
    warn_of_raw_outliers,
)
from tfp_flows.model.ties import warn_of_ties
from tfp_flows.networks import Embedding
from tfp_flows.ops.capabilities import awaits_data

__all__ = ["AdaptableModel"]

_FAR_OUT = 10.0  # Robust deviations.


class AdaptableModel(SavableModel):
    """`adapt`: standardization, and data-dependent initialization of the parts that have one.

    A subclass has a `distribution`, and the standardizers and embeddings that it goes with.
    """

    distribution: tfd.Distribution
    context_size: Any
    event_standardizer: Standardizer
    context_standardizer: Standardizer | None
    _embeddings: list[Embedding]
    _has_started = False  # Whether no bijector awaits data any more.

    def standardize_context(self, context: Any) -> tf.Tensor:
        """Context in data units, checked, in the units that the distribution takes."""
        raise NotImplementedError

    def _check_context(self, context: Any | None) -> tf.Tensor | None:
        raise NotImplementedError

    def adapt(self, x: Any, y: Any | None = None, *, scale: str = "standard") -> None:
        """Standardize: set shift and scale to mean and standard deviation of the columns.

        Bijectors with a data-dependent initialization get theirs, `ActNorm` and `Support` for
        example. A flow whose last bijector has a unit of its own, `Support` or a circular spline,
        gets data as they are; and so does an embedding its contexts. Call this before training: a
        second call initializes those bijectors anew.

        Columns with many equal values are reported by a `TiedValuesWarning`, those that a few
        values far out have to themselves by an `OutlierWarning`, and constant columns of the
        context, which are shifted but not scaled, by a `ConstantColumnWarning`. Names of columns of
        tables are kept, also by `fit`: the same ones in another order are then an error everywhere.

        Args:
          x: events `(n, ...)`, a `tf.data.Dataset` as `fit` takes it, or, with `y`, the context.
          y: events, if `x` is the context.
          scale: "standard", or "robust" for the median and the range between the quartiles (over
            1.349, which makes it 1 of a standard normal): outliers then leave the scale of the
            others as it is. Densities are exact either way.

        Raises:
          ValueError: a value is not finite or no number, there is only one row, context and events
            have different numbers of rows, a column of the events is constant, or a column's unit
            does not fit the dtype; or "robust" does not fit the flow, or a column half of whose
            values are equal; or context is missing. The model is then as it was before.
        """
        before, self.columns = self.columns, ColumnNames()
        try:
            with variables.kept_on_error(self.variables):
                self._adapt(x, y, scale=scale)
        except BaseException:
            self.columns = before
            raise

    def _adapt(self, x: Any, y: Any | None, *, scale: str) -> None:
        if scale not in ("standard", "robust"):
            raise ValueError(f"`scale` must be 'standard' or 'robust'. Received: scale={scale!r}")
        context, events = collect(*check_inputs(x, y)[:2])
        raw = getattr(self.distribution, "needs_raw_data", False)
        if context is None or self.context_size is None:
            self._check_context(context)  # Which is missing, or unwanted, or rightly not there.
        if raw and scale == "robust":
            raise ValueError(
                "`scale` must be 'standard' for a flow whose last bijector, as a Support or an "
                "ActNorm, takes data in their own units. Received: scale='robust'"
            )
        name = "x" if context is None else "y"
        check_rows(context=context, events=events)
        check_finite(context, "x")
        self.event_standardizer.check_shape(events, name)
        steps = getattr(self.distribution, "steps", None)
        if not raw:
            self.event_standardizer.adapt(events, name, scale=scale)
        else:
            check_raw(self, events, name, steps)
        if context is not None and self.context_standardizer is not None:
            self.context_standardizer.adapt(context, "x", scale=scale)
        for embedding in self._embeddings:
            embedding.adapt(context)
        if not raw:
            check_support(self, context, events, name)
        if not self.infinite_events:  # Studies end for many at one time.
            warn_of_ties(events, steps=None if steps is None else np.ravel(steps))
        self._initialize_from_data(context, events, again=True, scale=scale)
        if raw and self.event_shape.rank == 1:  # A pixel that is rarely bright is no mistake.
            warn_of_raw_outliers(self.distribution, events, name)
        self.columns.keep(context, events)

    def _initialize_from_data(
        self, context: Any, events: Any, *, again: bool, scale: str = "standard"
    ) -> None:
        """Data-dependent initialization of the parts of the distribution that have one."""
        if not hasattr(self.distribution, "adapt"):
            return
        if not getattr(self.distribution, "needs_raw_data", False):
            events = self.event_standardizer(tf.convert_to_tensor(events))
        if scale == "robust":  # Else ActNorm and LU would bring the outliers' scale back.
            events = tf.clip_by_value(events, -_FAR_OUT, _FAR_OUT)
        if context is not None:
            context = self.standardize_context(context)
        self.distribution.adapt(events, context, again=again)

    @property
    def awaits_data(self) -> str | None:
        """The name of a bijector that starts from data and has seen none, or None."""
        if not self._has_started:  # Looking through all parts takes as long as a small step.
            with tf.init_scope():
                for part in self.distribution.submodules:
                    if awaits_data(part):
                        return str(part.name)
            self._has_started = True
        return None

    def initialize_from(self, pairs: Iterator[tuple[Any, Any]]) -> None:
        """Data-dependent initialization, from the first batch, of parts that have seen none."""
        self._initialize_from_data(*next(pairs), again=False)
