"""Permutation: the columns in another order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.base import Bijector, check_event_size
from tfp_flows.ops.checks import permutation as order_of
from tfp_flows.ops.checks import positive_int

__all__ = ["Permutation"]


class Permutation(Bijector):
    """Put the columns in another, fixed order.

    Forward: `y_i = x_permutation[i]`
    Inverse: `x_permutation[i] = y_i`
    Log-det: `0`

    Both directions cost one gather. There are no variables; an order that was drawn is part of
    the config, so that a saved flow has it again, `seed=None` included.

    Shapes: events `(event_size,)`, of any dtype.

    Args:
      event_size: number of columns.
      permutation: `"random"`, `"reversed"`, or the integers `0 ... event_size - 1` in some order.
      seed: integer that fixes the random order, or `None`.
      validate_args: as in every `tfb.Bijector`.
      name: name of the bijector.

    Raises:
      ValueError: `event_size` is not a positive integer, `permutation` is not an order of the
        columns, or an event has another size.

    Source: Laurent Dinh, David Krueger and Yoshua Bengio, "NICE: Non-linear Independent Components
    Estimation" (2014), where columns change places between couplings.

    Example:
      >>> bijectors.Permutation(3, "reversed").forward([1.0, 2.0, 3.0])     # [3., 2., 1.]
      >>> bijectors.Permutation(3, [1, 2, 0]).forward([1.0, 2.0, 3.0])     # [2., 3., 1.]
    """

    closed_inverse = True
    is_monotone = True
    independent_over_batch = True

    def __init__(
        self,
        event_size: int,
        permutation: str | Sequence[int] | np.ndarray = "random",
        seed: int | None = None,
        *,
        validate_args: bool = False,
        name: str = "permutation",
    ):
        parameters = dict(locals())
        positive_int(event_size, "event_size")
        permutation = order_of(permutation, event_size, "permutation", seed)
        parameters["permutation"] = permutation
        self.event_size = event_size
        self.permutation = np.array(permutation)
        self._restore = np.argsort(permutation)
        super().__init__(is_constant_jacobian=True, parameters=parameters)

    @property
    def fixed_structure(self) -> dict[str, Any]:
        return {"permutation": self.permutation}

    def _forward_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self._reorder(x, self.permutation)

    def _inverse_and_log_det(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self._reorder(y, self._restore)

    def _reorder(self, x: tf.Tensor, order: np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
        x = check_event_size(self, x, self.event_size)
        return tf.gather(x, order, axis=-1), tf.zeros_like(x[..., 0])
