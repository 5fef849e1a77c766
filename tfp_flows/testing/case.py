"""What a law is checked on, and how it fails: by an AssertionError with the worst input."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from typing import Any, NoReturn
from unittest import mock

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tfp_flows import serialization
from tfp_flows.networks import (
    AutoregressiveConditioner,
    CausalConditioner,
    Conditioner,
    LipschitzConditioner,
)


@dataclasses.dataclass(frozen=True)
class Case:
    """What a law is checked on: a bijector or flow, events, and what `check_bijector` and
    `check_flow` were given."""

    subject: Any
    x: tf.Tensor
    kwargs: dict[str, tf.Tensor]
    tolerance: float
    y: tf.Tensor | None = None
    extremes: tuple[float, ...] = ()
    inverse_extremes: tuple[float, ...] = ()
    jacobian_zeros: np.ndarray | None = None
    extent: tuple[float, float] | None = None
    integral_tolerance: float = 1e-3

    @property
    def event_ndims(self) -> int:
        return int(self.x.shape.rank) - 1

    def map(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`forward` of a bijector, and its log-det."""
        x = tf.identity(x)  # Unknown to every cache.
        return (
            self.subject.forward(x, **self.kwargs),
            self.subject.forward_log_det_jacobian(x, self.event_ndims, **self.kwargs),
        )

    def unmap(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`inverse` of a bijector, and its log-det."""
        y = tf.identity(y)
        return (
            self.subject.inverse(y, **self.kwargs),
            self.subject.inverse_log_det_jacobian(y, self.event_ndims, **self.kwargs),
        )


def fail(case: Case, law: str, detail: str) -> NoReturn:
    raise AssertionError(f"{case.subject.name!r} breaks the law {law!r}: {detail}")


def check_close(
    case: Case, law: str, found: Any, expected: Any, inputs: Any, tolerance: float | None = None
) -> None:
    """Fail unless two arrays agree; show the row of `inputs` where they agree least."""
    tolerance = case.tolerance if tolerance is None else tolerance
    found, expected, inputs = np.asarray(found), np.asarray(expected), np.asarray(inputs)
    if found.shape != expected.shape:
        fail(case, law, f"shape {found.shape}, but expected {expected.shape}")
    with np.errstate(invalid="ignore"):
        error = np.abs(found - expected) / (1 + np.abs(expected))
    error = np.where(found == expected, 0.0, np.where(np.isnan(error), np.inf, error))
    if error.size and error.max() > tolerance:
        worst = np.unravel_index(error.argmax(), error.shape)
        row = inputs[worst[: inputs.ndim - case.event_ndims]]
        fail(
            case,
            law,
            f"found {found[worst]}, expected {expected[worst]} (relative error {error.max():.2g}, "
            f"tolerance {tolerance:.2g}) at the input {row}",
        )


def count_calls(run: Callable[[], Any]) -> dict[int, int]:
    """How often every conditioner is called, or solved, while `run()` is traced into a graph."""
    calls: dict[int, int] = {}

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Conditioner, *args: Any, **kwargs: Any) -> Any:
            calls[id(self)] = calls.get(id(self), 0) + 1
            return method(self, *args, **kwargs)

        return call

    with (
        mock.patch.object(Conditioner, "__call__", counted(Conditioner.__call__)),
        mock.patch.object(
            AutoregressiveConditioner, "solve", counted(AutoregressiveConditioner.solve)
        ),
        mock.patch.object(CausalConditioner, "solve", counted(CausalConditioner.solve)),
        mock.patch.object(LipschitzConditioner, "given", counted(LipschitzConditioner.given)),
    ):
        tf.function(run).get_concrete_function()
    return calls


def config(case: Case) -> None:
    """Saved as a config and built again, with the same weights, it is the same."""
    try:
        config = json.loads(json.dumps(serialization.serialize(case.subject)))
    except TypeError as error:
        hint = "a class of your own must be registered by keras.saving.register_keras_serializable"
        fail(case, "config", f"{error} For that, {hint}; `skip` leaves this law out.")
    copy = serialization.deserialize(config)
    for new, old in zip(copy.variables, case.subject.variables, strict=True):
        new.assign(old)
    twin = Case(subject=copy, x=case.x, kwargs=case.kwargs, tolerance=0.0)
    pairs: Iterable[tuple[Any, Any]]
    if isinstance(copy, tfb.Bijector):
        pairs = zip(twin.map(case.x), case.map(case.x), strict=True)
    else:
        log_prob = copy.log_prob(case.x, **case.kwargs)
        pairs = [(log_prob, case.subject.log_prob(tf.identity(case.x), **case.kwargs))]
    for found, expected in pairs:
        check_close(case, "config", found, expected, case.x)
