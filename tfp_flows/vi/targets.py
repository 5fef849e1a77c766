"""Targets: unnormalized log-densities, moved to the space in which a flow draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import distributions as tfd

from tfp_flows.distributions.flow import Flow
from tfp_flows.vi.surrogate import Surrogate

__all__ = ["Posterior", "Target"]

Posterior = Surrogate | Flow
LogDensity = Callable[..., Any]
_PINNED = tfp.experimental.distributions.JointDistributionPinned


class Target:
    """The log-density of a target, up to a constant, on the R^D of a posterior's flow.

    Of a surrogate with the bijector `b`, it is `log p(b(z)) + log |det ∂b/∂z|`; of a plain flow,
    `log p(z)`.

    Shapes: `z` `(n, D)`, context `(n, *context_shape)`, to `(n,)`.

    Args:
      target: a pinned joint distribution, any `tfd.Distribution`, or a function from a value, with
        `n` rows in every part, to `(n,)` log-densities; given context, from a value and the
        context.
      posterior: a `Surrogate`, or a `Flow` with events (D,).

    Raises:
      TypeError: the target is nothing of these, or the posterior is neither.
      ValueError: the flow's events are no vectors; by a call, `target` returns another shape.
    """

    def __init__(self, target: Any, posterior: Posterior):
        if not isinstance(posterior, Surrogate | Flow):
            raise TypeError(
                "`posterior` must be made by `vi.surrogate`, or be a Flow. "
                f"Received: posterior={posterior!r}"
            )
        if not (isinstance(target, tfd.Distribution | _PINNED) or callable(target)):
            raise TypeError(
                "`target` must be a pinned joint distribution, a tfd.Distribution, or a function "
                f"that returns log-densities. Received: target={target!r}"
            )
        self.flow: Flow = posterior.flow if isinstance(posterior, Surrogate) else posterior
        if self.flow.event_shape.rank != 1:
            raise ValueError(
                "`posterior` must have vectors as events, or be made by `vi.surrogate`. "
                f"Received: event_shape={self.flow.event_shape}"
            )
        self.posterior = posterior
        self.target = target
        self.log_density: LogDensity = target  # Of values, in their own space.
        if isinstance(target, tfd.Distribution | _PINNED):
            self.log_density = target.unnormalized_log_prob
        if isinstance(posterior, Surrogate):
            self.names, self.sizes = posterior.names, posterior.sizes
        else:
            self.names, self.sizes = ["x"], [int(self.flow.event_shape[0])]

    def value(self, z: tf.Tensor) -> Any:
        """Rows of the flow as values of the target."""
        return self._constrained(z)[0]

    def _constrained(self, z: tf.Tensor) -> tuple[Any, tf.Tensor | float]:
        z = tf.identity(z)  # One that no cache knows.
        if not isinstance(self.posterior, Surrogate):
            return z, 0.0
        bijector = self.posterior.bijector
        return bijector.forward(z), bijector.forward_log_det_jacobian(z, 1)

    def __call__(self, z: tf.Tensor, context: tf.Tensor | None = None) -> tf.Tensor:
        """Log-density in nats of every row."""
        value, log_det = self._constrained(z)
        given = () if context is None else (context,)
        log_prob = tf.convert_to_tensor(self.log_density(value, *given))
        if not log_prob.shape.is_compatible_with(z.shape[:-1]):
            raise ValueError(
                "`target` must return one log-density for every row: make the batches of a joint "
                "distribution events, use an AutoBatched one, or sum over the right axes. "
                f"Received: shape {tuple(log_prob.shape)} of {z.shape[0]} rows"
            )
        return tf.cast(log_prob, z.dtype) + log_det

    def check(self, z: tf.Tensor, context: tf.Tensor | None = None) -> None:
        """Raise a ValueError unless each row has the density that it has alone.

        A sum over the wrong axis can have the right shape, and then be a wrong number.
        """
        together = self(z, context).numpy()
        for i in range(len(z)):
            row = slice(i, i + 1)
            alone = self(z[row], None if context is None else context[row]).numpy()[0]
            if np.isfinite(alone) and not np.isclose(alone, together[i], rtol=1e-3, atol=1e-2):
                raise ValueError(
                    "`target` must give every row a density that does not depend on other rows. "
                    f"Received: {together[i]:.6g} beside others, {alone:.6g} alone"
                )

    def explain(self, z: tf.Tensor, context: tf.Tensor | None = None) -> str:
        """Say which parameter makes a density, or its gradient, not finite in some row."""
        log_prob = self(z, context).numpy()
        bad = ~np.isfinite(log_prob)
        if bad.any():
            row = int(np.argmax(bad))
            good = None if bad.all() else int(np.argmin(bad))
            return self._explain_value(z, context, row, good, log_prob[row])
        with tf.GradientTape() as tape:
            tape.watch(z)
            log_prob = self(z, context)
        gradient = tape.gradient(log_prob, z)
        if gradient is None:
            return "`target` must have a gradient: compute it by TensorFlow. Received: none"
        found = np.argwhere(~np.isfinite(gradient.numpy()))
        if not len(found):
            return (
                "The loss is not finite, though the target is: lower the learning rate, or take "
                "another flow."
            )
        row, column = found[0]
        name = self.names[int(np.searchsorted(np.cumsum(self.sizes), column, "right"))]
        return (
            "`target` must have a finite gradient where the posterior draws. Received: one with "
            f"respect to {name!r} that is not, at {self._describe(z[row], [name])}"
        )

    def _explain_value(
        self, z: tf.Tensor, context: Any, row: int, good: int | None, found: float
    ) -> str:
        culprits: list[str] = []
        if good is not None:
            # The bad row with one parameter of a good one, for each parameter.
            swapped = np.repeat(z.numpy()[row][None], len(self.names), 0)
            ends = np.cumsum(self.sizes)
            for i, (end, size) in enumerate(zip(ends, self.sizes, strict=True)):
                swapped[i, end - size : end] = z.numpy()[good, end - size : end]
            given = None if context is None else tf.repeat(context[row][None], len(swapped), 0)
            mended = np.isfinite(self(tf.constant(swapped), given).numpy())
            culprits = [
                name for name, is_mended in zip(self.names, mended, strict=True) if is_mended
            ]
        terms = self._bad_terms(z[row])
        text = "`target` must be finite where the posterior draws. Received: "
        text += f"{found} at {self._describe(z[row], culprits or self.names)}"
        if terms:
            text += f", in the log-density of {' and '.join(map(repr, terms))}"
        if culprits:
            named = " or ".join(map(repr, culprits))
            text += f"; it is finite with the {named} of another draw"
        return text

    def _bad_terms(self, z: tf.Tensor) -> list[str]:
        """The parts of a joint distribution whose log-density is not finite."""
        if not isinstance(self.target, _PINNED):
            return []
        parts = self.target.unnormalized_log_prob_parts(self.value(z[None]))
        found = []
        for part in parts:
            named = part._asdict() if hasattr(part, "_asdict") else part
            if isinstance(named, dict):
                found += [key for key, x in named.items() if not np.all(np.isfinite(x))]
        return found

    def _describe(self, z: tf.Tensor, names: list[str]) -> str:
        values = dict(zip(self.names, tf.nest.flatten(self.value(z[None])), strict=True))
        # What is not finite says most.
        first = sorted(names, key=lambda name: bool(np.all(np.isfinite(values[name]))))[:4]
        texts = [
            f"{name} = {np.array2string(values[name].numpy()[0], precision=4, threshold=8)}"
            for name in first
        ]
        return ", ".join(texts)
