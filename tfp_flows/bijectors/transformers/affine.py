"""Shifts and scales: the transformers of NICE and RealNVP."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfp_flows.bijectors.transformers.base import (
    Pair,
    Transformer,
    bounded,
    check_positive,
    match_shape,
)

__all__ = ["Additive", "Affine"]


@dataclasses.dataclass(frozen=True)
class Additive(Transformer):
    """Shift by one parameter.

    Forward: `y = x + t`
    Inverse: `x = y - t`
    Log-det: `0`

    Both directions cost one addition. One parameter a scalar, `t`, or, of a bounded shift, `r`.

    Args:
      max_shift: `n` for shifts within `±n`, `t = n tanh(r / n)`, or None for any.

    Raises:
      ValueError, TypeError: `max_shift` is neither None nor a positive finite number.

    Source: Laurent Dinh, David Krueger and Yoshua Bengio, "NICE: Non-linear Independent Components
    Estimation" (2014).

    Example:
      >>> bijectors.Coupling(4, bijectors.transformers.Additive())
    """

    closed_inverse = True

    is_affine = True

    compile_loop = True

    max_shift: float | None = None

    def __post_init__(self) -> None:
        if self.max_shift is not None:
            check_positive(self, "max_shift")

    @property
    def parameter_count(self) -> int:
        return 1

    def forward(self, x: tf.Tensor, parameters: tf.Tensor) -> Pair:
        y = x + _shift(parameters[..., 0, :], self.max_shift)
        return y, tf.zeros_like(y)

    def inverse(self, y: tf.Tensor, parameters: tf.Tensor) -> Pair:
        x = y - _shift(parameters[..., 0, :], self.max_shift)
        return x, tf.zeros_like(x)


@dataclasses.dataclass(frozen=True)
class Affine(Transformer):
    """Scale and shift, with a bounded log-scale `s = m tanh(r / m)`, `m = max_log_scale`.

    Forward: `y = x exp(s) + t`
    Inverse: `x = (y - t) exp(-s)`
    Log-det: `s`

    Both directions cost one `tanh` and one `exp`. Two parameters a scalar, `r` and `t`. The bound
    keeps scales within `exp(±m)`, so that a deep flow neither overflows nor collapses; near 0,
    where training starts, `s` is `r`.

    Args:
      max_log_scale: `m`, positive.
      max_shift: as in `Additive`.

    Raises:
      ValueError, TypeError: `max_log_scale` is not a positive finite number, or `max_shift`
        neither that nor None.

    Source: Laurent Dinh, Jascha Sohl-Dickstein and Samy Bengio, "Density Estimation using Real
    NVP" (2017).

    Example:
      >>> bijectors.Coupling(4, bijectors.transformers.Affine(max_log_scale=2.0))
    """

    closed_inverse = True

    is_affine = True

    compile_loop = True

    max_log_scale: float = 3.0
    max_shift: float | None = None

    def __post_init__(self) -> None:
        check_positive(self, "max_log_scale")
        if self.max_shift is not None:
            check_positive(self, "max_shift")

    @property
    def parameter_count(self) -> int:
        return 2

    def _log_scale_and_shift(self, parameters: tf.Tensor) -> Pair:
        raw, shift = tf.unstack(parameters, axis=-2)
        return bounded(raw, self.max_log_scale), _shift(shift, self.max_shift)

    def forward(self, x: tf.Tensor, parameters: tf.Tensor) -> Pair:
        log_scale, shift = self._log_scale_and_shift(parameters)
        y = x * tf.exp(log_scale) + shift
        return y, match_shape(log_scale, y)

    def inverse(self, y: tf.Tensor, parameters: tf.Tensor) -> Pair:
        log_scale, shift = self._log_scale_and_shift(parameters)
        log_det = -log_scale
        x = (y - shift) * tf.exp(log_det)
        return x, match_shape(log_det, x)


def _shift(raw: tf.Tensor, bound: float | None) -> tf.Tensor:
    return raw if bound is None else bounded(raw, bound)
