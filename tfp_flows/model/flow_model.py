"""FlowModel: any TFP distribution as a Keras 3 model; the only bridge between their variables."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_flows.distributions import reversible
from tfp_flows.distributions.conditional import context_shape_of
from tfp_flows.distributions.flow import Flow
from tfp_flows.distributions.joint_density import JointDensity
from tfp_flows.model import configs, export, flow_matching, variables
from tfp_flows.model.adaptable import AdaptableModel
from tfp_flows.model.arguments import check_distribution
from tfp_flows.model.arrays import check_numbers
from tfp_flows.model.column_names import ColumnNames
from tfp_flows.model.diagnosis import explain_non_finite
from tfp_flows.model.naming import name_layers
from tfp_flows.model.replicas import check_scope
from tfp_flows.model.standardizer import Standardizer
from tfp_flows.networks import Conditioner, Embedding
from tfp_flows.ops.capabilities import context_size_of
from tfp_flows.ops.checks import check_context
from tfp_flows.ops.internals import layers_of
from tfp_flows.ops.limits import claim
from tfp_flows.ops.seeds import stateless_seed
from tfp_flows.ops.xla import without_xla

__all__ = ["FlowModel"]


@keras.saving.register_keras_serializable("tfp_flows")
class FlowModel(AdaptableModel, JointDensity):
    """Train, evaluate and save a distribution with `keras.Model`'s methods, by maximum likelihood.

    The loss is the mean negative log-likelihood in nats, plus the regularization losses of the
    conditioners while training. Data are events `x`, or `context, x` for a conditional flow:

    - `fit(x, ...)`, `fit(context, x, ...)`, or `fit(dataset)` with elements `x`, `(context, x)`
      or `(context, x, sample_weight)`; all options and callbacks of Keras work.
    - `evaluate(x)` or `evaluate(context, x)`: the mean negative log-likelihood, in nats.
    - `predict(x)` or `predict((context, x))`: the log-density of every row, in nats.

    `adapt(x)` standardizes events, and `adapt(context, x)` the context too. From then on the
    distribution lives in standardized units, while everything the model takes and returns is in
    the units of the data, densities included: the Jacobian is exact.

    Variables of the distribution, wherever TFP objects hold them, are the model's weights and
    share storage with it; those that a function hides in a closure are found by running `log_prob`
    once. Keras layers in conditioners are ordinary sublayers: freezing, regularizers, `Dropout`
    and `BatchNormalization` work as everywhere. So does Keras' LoRA; quantization is refused.

    A model or layer of your own must hold a flow as a `FlowModel`: its weights are then among
    yours. Those of a bare `Flow`, which is not a Keras layer, Keras cannot see as an attribute, and
    trains none of them.

    Save with `save("f.keras")`, `save_weights("f.weights.h5")`, `tf.train.Checkpoint(model=model)`
    or `export("folder")`; load the first with `keras.saving.load_model` or `FlowModel.load`.

    Args:
      distribution: a `Flow` or any `tfd.Distribution` that holds trainable variables, with
        `batch_shape == ()` and one floating dtype.
      memory: `"ordinary"` keeps what every layer computes for the backward pass; `"reversible"`
        computes it again through the inverses of the layers, so that memory for activations does
        not grow with their number, for about 1.6 times the time. The gradients are the same up to
        rounding; see `distributions.reversible.log_prob` for the bijectors that gain.
      name: name of the model.

    Raises:
      TypeError: `distribution` is no `tfd.Distribution`.
      ValueError: it has no trainable variables, a batch shape, an event of unknown shape, or a
        dtype that is not floating; `memory` is neither of the two, or `"reversible"` with a
        distribution that has no bijector, or with `Dropout`, `BatchNormalization` or an activity
        regularizer in a conditioner that would run twice.

    Example:
      >>> model = FlowModel(flows.neural_spline(2, layers=4))
      >>> model.adapt(x)
      >>> model.compile(keras.optimizers.Adam(1e-3))
      >>> history = model.fit(x, epochs=50, batch_size=256, validation_split=0.1)
      >>> model.predict(x)            # log-densities in nats, one per row
      >>> model.save("flow.keras")
    """

    def __init__(
        self,
        distribution: tfd.Distribution,
        *,
        memory: str = "ordinary",
        name: str = "flow_model",
    ):
        check_distribution(distribution)
        check_scope(distribution.variables, "`distribution`")
        if memory not in ("ordinary", "reversible"):
            raise ValueError(
                f"`memory` must be 'ordinary' or 'reversible'. Received: memory={memory!r}"
            )
        if memory == "reversible":
            reversible.check_reversible(distribution)
        networks = (Conditioner, Embedding)
        conditioners = [m.layer for m in distribution.submodules if isinstance(m, networks)]
        dtype = tf.as_dtype(distribution.dtype).name
        policies = {
            layer.dtype_policy.name
            for conditioner in conditioners
            for layer in layers_of(conditioner)
        }
        mixed = next((name for name in sorted(policies) if name.startswith("mixed_")), None)
        # The policy tells `compile` to scale the loss; events themselves are never cast to half.
        super().__init__(name=name, dtype=mixed or dtype, autocast=False)
        self.distribution = distribution
        self.memory = memory
        self.conditioners = list({id(layer): layer for layer in conditioners}.values())
        self.event_dtype = dtype
        self.event_shape = distribution.event_shape
        self.context_size = context_size_of(distribution)
        self.context_shape = context_shape_of(distribution)
        self.columns = ColumnNames()
        self.infinite_events = bool(getattr(distribution, "infinite_events", False))
        self.has_probabilities = bool(np.all(getattr(distribution, "steps", 0)))
        owned = {v.value.ref() for layer in self.conditioners for v in layer.variables}
        claim(16, *self.event_shape)
        given = distribution
        if self.context_size is not None:
            given = distribution.given(tf.zeros(self.context_shape))
        free = [v for v in variables.find(given) if v.ref() not in owned]
        for variable in variables.adopt(free):
            self._track_variable(variable)
        if not self.trainable_variables:
            raise ValueError(
                "`distribution` must have trainable variables: construct it with tf.Variable "
                f"parameters. Received: distribution={distribution!r}"
            )
        name_layers(distribution)
        self.event_standardizer = Standardizer(
            distribution.event_shape, dtype=dtype, name="event_standardizer"
        )
        self.event_standardizer.build((None, *self.event_shape))  # For `summary` to know shapes.
        self.context_standardizer = None
        self._embeddings = [m for m in distribution.submodules if isinstance(m, Embedding)]
        if self.context_shape is not None and not self._embeddings:
            self.context_standardizer = Standardizer(
                self.context_shape,
                dtype=dtype,
                name="context_standardizer",
                may_be_constant=True,
            )
            self.context_standardizer.build((None, *self.context_shape))
        self._has_started = False  # Whether no bijector awaits data any more.
        self.built = True

    # The density, in data units.

    def log_prob(self, x: Any, context: Any | None = None) -> tf.Tensor:
        """Log-density in nats at events `x` in data units, given `context`, in data units too."""
        z, context = self._standardized(x, context)
        given = {} if context is None else {"context": context}
        if self.memory == "reversible":
            log_prob = reversible.log_prob(self.distribution, z, **given)
        else:
            log_prob = self.distribution.log_prob(z, **given)
        return log_prob + self.event_standardizer.log_det()

    def _standardized(self, x: Any, context: Any | None) -> tuple[tf.Tensor, tf.Tensor | None]:
        self.columns.check(context, x)
        x = tf.convert_to_tensor(check_numbers(x, "x"), dtype_hint=self.event_dtype)
        context = None if context is None else self.standardize_context(context)
        return self.event_standardizer(x), context

    def check_objective(self, loss: str, jit_compile: bool | str) -> bool | str:
        return flow_matching.check(self.distribution, loss, jit_compile)

    def matching_loss(self, x: Any, context: Any | None) -> tf.Tensor:
        """The loss of flow matching, in standardized units, of every row."""
        optimal = flow_matching.LOSSES[str(self.objective)]
        z, context = self._standardized(x, context)
        return flow_matching.matching_loss(self.distribution, z, context, optimal=optimal)

    def sample(
        self,
        n: int | Sequence[int] = (),
        context: Any | None = None,
        seed: Any | None = None,
        *,
        temperature: float = 1.0,
    ) -> tf.Tensor:
        """Draw events in data units: `(n, D)`, or `(n, *batch, D)` with context `(*batch, C)`."""
        given = {} if context is None else {"context": self.standardize_context(context)}
        if temperature != 1.0:  # As in `Flow.sample`.
            given["temperature"] = temperature
        z = self.distribution.sample(n, seed=stateless_seed(seed), **given)
        return self.event_standardizer.inverse(z)

    def score(self, x: Any, context: Any | None = None) -> tf.Tensor:
        """`∇ log p` at events `x` in data units, by automatic differentiation of `log_prob`."""
        self.columns.check(context, x)
        x = tf.convert_to_tensor(check_numbers(x, "x"), dtype_hint=self.event_dtype)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            log_prob = self.log_prob(x, context)
        return tape.gradient(log_prob, x)

    def mode(self, context: Any | None = None, *, starts: int = 32, seed: int = 0) -> tf.Tensor:
        """`Flow.mode` in data units."""
        if not isinstance(self.distribution, Flow):
            raise TypeError(f"`mode` needs a Flow. Received: {self.distribution!r}")
        context = None if context is None else self.standardize_context(context)
        z = self.distribution.mode(context, starts=starts, seed=seed)
        return self.event_standardizer.inverse(z)

    def path(self, x: Any, times: Sequence[float], context: Any | None = None) -> tf.Tensor:
        """`Flow.path` of events `x` in data units, in data units."""
        if not isinstance(self.distribution, Flow):
            raise TypeError(f"`path` needs a Flow. Received: {self.distribution!r}")
        z, context = self._standardized(x, context)
        return self.event_standardizer.inverse(self.distribution.path(z, times, context))

    def stages(self, context: Any | None = None) -> list[tfd.Distribution]:
        """`Flow.stages` of the distribution, in standardized units; `context` in data units.

        Raises:
          TypeError: the distribution is no `tfd.TransformedDistribution`.
        """
        flow = self.distribution
        if not hasattr(flow, "bijector"):
            raise TypeError(f"`stages` needs a distribution with a bijector. Received: {flow!r}")
        if not isinstance(flow, Flow):
            flow = Flow(flow.distribution, flow.bijector)
        return flow.stages(None if context is None else self.standardize_context(context))

    def standardize_context(self, context: Any) -> tf.Tensor:
        """Context in data units, checked, in the units that the distribution takes."""
        self.columns.check(context, None)
        context = self._check_context(check_numbers(context, "context"))
        if self.context_standardizer is None:
            return context
        return self.context_standardizer(context)

    def _check_context(self, context: Any | None) -> tf.Tensor | None:
        name = f"this {type(self).__name__}"
        return check_context(context, self.context_shape, self.event_dtype, name)

    def explain_non_finite(self, pairs: Iterator[tuple[Any, Any]]) -> str:
        """Say which layer makes the first value that is not finite, of `(context, x)` pairs."""
        standardized = (
            (
                None if context is None else self.standardize_context(context),
                self.event_standardizer(x),
            )
            for context, x in pairs
        )
        return explain_non_finite(self.distribution, standardized)

    # Saving.

    def get_config(self) -> dict[str, Any]:
        return configs.of_model(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FlowModel:
        return configs.build(cls, config)

    def export(self, filepath: str | os.PathLike[str], format: str = "tf_saved_model") -> None:
        """Write a SavedModel that works where this package is not installed.

        It has the functions and signatures `log_prob` and `sample`, in data units:
        `log_prob(x)`, `log_prob(x, context)`, `sample(n)` and `sample(n, context)`, with `n` an
        int32 scalar; see `tf.saved_model.load`. An older export in that folder is replaced as a
        whole.

        Raises:
          ValueError: `format` is another one of Keras' formats, or `filepath` is a folder that has
            something else in it.
        """
        if format != "tf_saved_model":
            raise ValueError(
                f"`format` must be 'tf_saved_model'. Received: format={format!r}, which has no "
                "place for two functions"
            )
        with without_xla():  # TensorFlow Serving, for one, has no XLA.
            export.export(self, filepath)
