"""FlowModel: any TFP distribution as a Keras 3 model; the only bridge between their variables."""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import export, serialization, training, variables
from tfp_flows.distributions.flow import Flow, stateless_seed
from tfp_flows.networks import Conditioner
from tfp_flows.standardize import Standardizer

tfd = tfp.distributions

__all__ = ["FlowModel"]


@keras.saving.register_keras_serializable("tfp_flows")
class FlowModel(keras.Model):
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
    and `BatchNormalization` work as everywhere.

    Save with `save("f.keras")`, `save_weights("f.weights.h5")`, `tf.train.Checkpoint(model=model)`
    or `export("folder")`; load the first with `keras.saving.load_model` or `FlowModel.load`.

    Args:
      distribution: a `Flow` or any `tfd.Distribution` that holds trainable variables, with
        `batch_shape == ()` and one floating dtype.
      name: name of the model.

    Raises:
      TypeError: `distribution` is no `tfd.Distribution`.
      ValueError: it has no trainable variables, a batch shape, an event of unknown shape, or a
        dtype that is not floating.

    Example:
      >>> model = FlowModel(flows.neural_spline(2, layers=4))
      >>> model.adapt(x)
      >>> model.compile(keras.optimizers.Adam(1e-3))
      >>> history = model.fit(x, epochs=50, batch_size=256, validation_split=0.1)
      >>> model.predict(x)            # log-densities in nats, one a row
      >>> model.save("flow.keras")
    """

    def __init__(self, distribution: tfd.Distribution, *, name: str = "flow_model"):
        _check_distribution(distribution)
        conditioners = [m.layer for m in distribution.submodules if isinstance(m, Conditioner)]
        dtype = tf.as_dtype(distribution.dtype).name
        mixed = any(
            layer.dtype_policy.name == "mixed_float16"
            for conditioner in conditioners
            for layer in conditioner._flatten_layers()
        )
        # The policy tells `compile` to scale the loss; events themselves are never cast to half.
        super().__init__(name=name, dtype="mixed_float16" if mixed else dtype, autocast=False)
        self.distribution = distribution
        self.conditioners = list({id(layer): layer for layer in conditioners}.values())
        self.event_dtype = dtype
        self.context_size = getattr(distribution, "context_size", None)
        owned = {v.value.ref() for layer in self.conditioners for v in layer.variables}
        given = distribution
        if self.context_size is not None:
            given = distribution.given(tf.zeros([self.context_size]))
        free = [v for v in variables.find(given) if v.ref() not in owned]
        for variable in variables.adopt(free):
            self._track_variable(variable)
        if not self.trainable_variables:
            raise ValueError(
                "`distribution` must have trainable variables: construct it with tf.Variable "
                f"parameters. Received: distribution={distribution!r}"
            )
        self.event_standardizer = Standardizer(
            distribution.event_shape, dtype=dtype, name="event_standardizer"
        )
        self.context_standardizer = None
        if self.context_size is not None:
            self.context_standardizer = Standardizer(
                [self.context_size], dtype=dtype, name="context_standardizer"
            )
        self.built = True

    # The density, in data units.

    def adapt(self, x: Any, y: Any | None = None) -> None:
        """Standardize: set shift and scale to mean and standard deviation of the columns.

        Args:
          x: events `(n, ...)`, a `tf.data.Dataset` as `fit` takes it, or, with `y`, the context.
          y: events, if `x` is the context.

        Raises:
          ValueError: a value is not finite, there is only one row, or a column is constant.
        """
        context, events = training.collect(x, y)
        if context is not None and self.context_standardizer is None:
            raise ValueError("`adapt` was given context, but the distribution takes none.")
        self.event_standardizer.adapt(events, "x" if context is None else "y")
        if context is not None:
            self.context_standardizer.adapt(context, "x")

    def log_prob(self, x: Any, context: Any | None = None) -> tf.Tensor:
        """Log-density in nats at events `x` in data units, given `context`, in data units too."""
        z = self.event_standardizer(tf.convert_to_tensor(x, dtype_hint=self.event_dtype))
        if context is None:
            log_prob = self.distribution.log_prob(z)
        else:
            log_prob = self.distribution.log_prob(z, context=self._standardize_context(context))
        return log_prob + self.event_standardizer.log_det()

    def sample(
        self, n: int | Sequence[int] = (), context: Any | None = None, seed: Any | None = None
    ) -> tf.Tensor:
        """Draw events in data units: `(n, D)`, or `(n, *batch, D)` with context `(*batch, C)`."""
        seed = stateless_seed(seed)
        if context is None:
            z = self.distribution.sample(n, seed=seed)
        else:
            context = self._standardize_context(context)
            z = self.distribution.sample(n, context=context, seed=seed)
        return self.event_standardizer.inverse(z)

    def stages(self, context: Any | None = None) -> list[tfd.Distribution]:
        """`Flow.stages` of the distribution, in standardized units; `context` in data units.

        Raises:
          TypeError: the distribution is no `tfd.TransformedDistribution`.
        """
        flow = self.distribution
        if not hasattr(flow, "bijector"):
            raise TypeError(f"`stages` needs a distribution with a bijector. Received: {flow!r}")
        flow = Flow(flow.distribution, flow.bijector)
        return flow.stages(None if context is None else self._standardize_context(context))

    def _standardize_context(self, context: Any) -> tf.Tensor:
        context = tf.convert_to_tensor(context)
        if self.context_size is None or context.shape[-1:] != [self.context_size]:
            need = f"shape (..., {self.context_size})" if self.context_size else "none"
            raise ValueError(
                f"`context`: this distribution needs {need}. Received: shape={tuple(context.shape)}"
            )
        return self.context_standardizer(context)

    # Keras.

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """`log_prob` of `x`, or of `(context, x)`."""
        context, x = inputs if isinstance(inputs, tuple | list) else (None, inputs)
        return self.log_prob(x, context)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ) -> tf.Tensor:
        """Mean negative log-likelihood; with the layers' losses in training."""
        loss = -y_pred
        if sample_weight is not None:
            loss *= tf.reshape(tf.cast(sample_weight, loss.dtype), tf.shape(loss))
        loss = tf.reduce_mean(loss)
        if training:
            loss += sum(tf.cast(penalty, loss.dtype) for penalty in self.losses)
        return loss

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One update, which is left out if loss or gradients are not finite."""
        inputs, weight = training.unpack(data)
        weights = self.trainable_weights
        with tf.GradientTape() as tape:
            log_prob = self(inputs, training=True)
            loss = self.compute_loss(inputs, None, log_prob, weight, training=True)
            scaled_loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled_loss, weights)
        finite = tf.math.is_finite(loss)
        if not isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            # That optimizer meets infinite gradients in its search for a scale, and skips them.
            finite &= tf.reduce_all(
                [tf.reduce_all(tf.math.is_finite(g)) for g in gradients if g is not None]
            )

        def update() -> None:
            self.optimizer.apply_gradients(zip(gradients, weights, strict=True))

        tf.cond(finite, update, lambda: None)
        loss = tf.where(finite, loss, tf.constant(np.nan, loss.dtype))
        self._loss_tracker.update_state(loss, sample_weight=tf.size(log_prob))
        return self.compute_metrics(inputs, None, log_prob, weight)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """The loss of one batch, without the layers' losses."""
        inputs, weight = training.unpack(data)
        return super().test_step((inputs, None, weight))

    def predict_step(self, data: Any) -> tf.Tensor:
        """The log-densities of one batch."""
        inputs, _ = training.unpack(data)
        return super().predict_step((inputs,))

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Sequence[keras.callbacks.Callback] | keras.callbacks.Callback | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int = 1,
    ) -> keras.callbacks.History:
        """Maximize the likelihood of `x`, or of `y` given the context `x`; see `keras.Model.fit`.

        If the loss turns NaN or infinite, training stops with a warning that names the first layer
        that made it, and the best weights of the epochs before are restored.

        Raises:
          ValueError: a value of the data is not finite; the message names row and column.
        """
        for part, name in (
            (x, "x"),
            (y, "y"),
            (sample_weight, "sample_weight"),
            (validation_data, "validation_data"),
        ):
            training.check_finite(part, name)
        guard = training.StopOnNonFinite(lambda: self._explain(x, y))
        if self.compiled and not self.optimizer.built:
            # Inside the training step, its new variables would have the step traced twice.
            self.optimizer.build(self.trainable_variables)
        if isinstance(validation_data, tuple | list):
            validation_data = training.pack(*validation_data)
        packed_x, packed_y, sample_weight = training.pack(x, y, sample_weight)
        callbacks = [callbacks] if isinstance(callbacks, keras.callbacks.Callback) else callbacks
        with self._floatx():
            return super().fit(
                packed_x,
                packed_y,
                batch_size=batch_size,
                epochs=epochs,
                verbose=verbose,
                callbacks=[guard, *(callbacks or ())],
                validation_split=validation_split,
                validation_data=validation_data,
                shuffle=shuffle and not isinstance(x, tf.data.Dataset),
                sample_weight=sample_weight,
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch,
                validation_steps=validation_steps,
                validation_batch_size=validation_batch_size,
                validation_freq=validation_freq,
            )

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        return_dict: bool = False,
        **keras_internal: Any,
    ) -> float | dict[str, float]:
        """Mean negative log-likelihood of `x`, or of `y` given the context `x`, in nats."""
        x, y, sample_weight = training.pack(x, y, sample_weight)
        with self._floatx():
            return super().evaluate(
                x,
                y,
                batch_size=batch_size,
                verbose=verbose,
                sample_weight=sample_weight,
                steps=steps,
                callbacks=callbacks,
                return_dict=return_dict,
                **keras_internal,
            )

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        steps: int | None = None,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
    ) -> np.ndarray:
        """Log-density in nats of every row of `x`, an array or `(context, x)`."""
        with self._floatx():
            return super().predict(
                x, batch_size=batch_size, verbose=verbose, steps=steps, callbacks=callbacks
            )

    @contextlib.contextmanager
    def _floatx(self) -> Iterator[None]:
        """Keras casts arrays to its `floatx`: let that be the event's dtype meanwhile."""
        before = keras.config.floatx()
        keras.config.set_floatx(self.event_dtype)
        try:
            yield
        finally:
            keras.config.set_floatx(before)

    def _explain(self, x: Any, y: Any) -> str:
        batches = (
            (
                self.event_standardizer(events),
                None if context is None else self._standardize_context(context),
            )
            for context, events in training.batches(x, y)
        )
        return training.explain_non_finite(self.distribution, batches)

    # Saving.

    def get_config(self) -> dict:
        return {"distribution": serialization.serialize(self.distribution), "name": self.name}

    @classmethod
    def from_config(cls, config: dict) -> FlowModel:
        return cls(serialization.deserialize(config["distribution"]), name=config["name"])

    def get_compile_config(self) -> dict | None:
        config = super().get_compile_config()
        serialization.check_keras(config, TypeError, "The compile config")
        return config

    def compile_from_config(self, config: dict) -> None:
        serialization.check_keras(config, ValueError, "The compile config")
        super().compile_from_config(config)

    @classmethod
    def load(cls, path: str | Path) -> FlowModel:
        """Load what `save` wrote; like `keras.saving.load_model`, with plainer errors.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: the file is truncated, damaged, or holds something else than a FlowModel.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {str(path)!r}.")
        try:
            with zipfile.ZipFile(path) as archive:
                config = json.loads(archive.read("config.json"))
            name = config["registered_name"] or config["class_name"]
            saved = keras.saving.get_registered_object(name)
            if not (isinstance(saved, type) and issubclass(saved, cls)):
                raise ValueError(f"it holds a {name}.")  # Keras would build whatever it is.
            return keras.saving.load_model(path)
        except Exception as error:  # What a damaged file raises depends on where it is damaged.
            raise ValueError(f"{str(path)!r} is no saved FlowModel: {error}") from error

    def export(self, filepath: str | Path) -> None:
        """Write a SavedModel that works where this package is not installed.

        It has the functions and signatures `log_prob` and `sample`, in data units:
        `log_prob(x)`, `log_prob(x, context)`, `sample(n)` and `sample(n, context)`, with `n` an
        int32 scalar; see `tf.saved_model.load`.
        """
        export.export(self, str(filepath))


def _check_distribution(distribution: tfd.Distribution) -> None:
    if not isinstance(distribution, tfd.Distribution):
        raise TypeError(
            "`distribution` must be a Flow or another tfd.Distribution. "
            f"Received: distribution={distribution!r}"
        )
    dtype = distribution.dtype
    if not (isinstance(dtype, tf.DType) and dtype.is_floating):
        raise ValueError(f"`distribution` must have one floating dtype. Received: dtype={dtype}")
    if distribution.batch_shape != ():
        raise ValueError(
            "`distribution` must have batch_shape (): make batches events by tfd.Independent. "
            f"Received: batch_shape={distribution.batch_shape}"
        )
    if not distribution.event_shape.is_fully_defined():
        raise ValueError(
            "`distribution` must have a known event shape. "
            f"Received: event_shape={distribution.event_shape}"
        )
