"""AutoregressiveConditioner: a MADE, or a layer of one's own, as a part of a bijector."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tfp_flows.networks.conditioner import Conditioner, match_batch, network_policy
from tfp_flows.networks.made import MADE
from tfp_flows.networks.made_solve import Transform, solve, solve_by_passes
from tfp_flows.ops.checks import permutation
from tfp_flows.ops.internals import prefer_static as ps

__all__ = ["AutoregressiveConditioner"]


class AutoregressiveConditioner(Conditioner):
    """Parameters for every column, computed from the columns before it and the context.

    Shapes: events `(..., event_size)` and context `(..., context_size)`, whose batch shapes
    broadcast, to `(..., parameter_count, event_size)`.

    Args:
      network: hidden widths, for which a `MADE` is made with the other arguments, or a Keras 3
        layer `(batch, event_size + context_size) -> (batch, parameter_count, event_size)`.
      event_size: number of columns.
      parameter_count: how many parameters each column needs.
      order, passes, harmonics, residual, activation, context_size, dtype, seed: as in `MADE`.

    Raises:
      ValueError: as in `MADE`; a layer has another output shape, or one that is not
        autoregressive in `order`.
    """

    def __init__(
        self,
        network: Sequence[int] | keras.layers.Layer,
        *,
        event_size: int,
        parameter_count: int,
        order: str | Sequence[int] | None = None,
        passes: int | None = None,
        harmonics: int = 0,
        residual: bool = False,
        activation: str = "relu",
        context_size: int | None = None,
        dtype: str = "float32",
        seed: int | None = None,
    ):
        if not isinstance(network, keras.layers.Layer):
            network = MADE(
                event_size,
                parameter_count,
                network,
                order=order,
                passes=passes,
                harmonics=harmonics,
                residual=residual,
                activation=activation,
                context_size=context_size,
                seed=seed,
                dtype=network_policy(dtype),
            )
            self.order = network.order
        else:
            columns = range(event_size) if order is None else order
            self.order = np.array(permutation(columns, event_size, "order", seed))
        super().__init__(
            network,
            input_size=event_size,
            output_shape=(parameter_count, event_size),
            context_size=context_size,
            dtype=dtype,
            head=False,
        )
        if not isinstance(network, MADE):
            self._check_zeros(dtype)

    def solve(
        self,
        transform: Transform,
        x: tf.Tensor,
        context: tf.Tensor | None = None,
        *,
        compile_loop: bool = False,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The `y` with `y = transform(x, parameters of y)`, and its elementwise log-slope.

        `x` is `(..., event_size)`; see `made_solve.solve`.
        """
        shape, size = ps.shape(x), x.shape[-1]
        if context is not None:
            context = match_batch(context, x)
            context = tf.reshape(context, [-1, context.shape[-1]])
        x = tf.reshape(x, [-1, size])
        if context is not None:  # Both know of the rows what one of them knows.
            x = tf.ensure_shape(x, [context.shape[0], size])
            context = tf.ensure_shape(context, [x.shape[0], context.shape[-1]])
        if isinstance(self.layer, MADE) and not self.layer.harmonics:
            y, log_det = solve(self.layer, transform, x, context, compile_loop=compile_loop)
        else:
            y, log_det = solve_by_passes(
                lambda y: Conditioner.__call__(self, y, context), transform, x
            )
        return tf.reshape(y, shape), tf.reshape(log_det, shape)

    def _check_zeros(self, dtype: str) -> None:
        """Raise a ValueError if an output depends on a column that comes later, or on its own."""
        size = self.output_shape[-1]
        x = tf.constant(np.random.default_rng(0).normal(size=(4, size)), dtype)
        context = None if self.context_size is None else tf.ones([4, self.context_size], dtype)
        # A layer that starts at 0, as ours do, shows what it depends on with other weights only.
        rng, weights = np.random.default_rng(1), self.layer.get_weights()
        self.layer.set_weights([w + rng.normal(0, 0.3, w.shape).astype(w.dtype) for w in weights])
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            parameters = self(x, context)
        # No pfor, which takes `tf.roll` along the wrong axis.
        jacobian = tape.batch_jacobian(
            parameters, x, unconnected_gradients="zero", experimental_use_pfor=False
        )
        self.layer.set_weights(weights)
        sees = np.any(jacobian != 0, axis=(0, 1))
        place = np.argsort(self.order)
        wrong = np.argwhere(sees & (place[:, None] <= place))
        if len(wrong):
            column, seen = wrong[0]
            raise ValueError(
                "`conditioner` must be autoregressive: its output for a column may depend on the "
                f"columns before it only. Received: a layer {self.layer.name!r} whose output for "
                f"column {column} depends on column {seen}"
            )
