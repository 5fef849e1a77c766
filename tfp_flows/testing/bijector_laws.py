"""The laws of bijectors, a function each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows.networks import Conditioner
from tfp_flows.testing.case import Case, check_close, config, count_calls, fail
from tfp_flows.testing.congruency import bijective, finite_differences, scalar_congruency


def _round_trip(case: Case) -> None:
    """`inverse(forward(x)) = x` and `forward(inverse(y)) = y`, with every cache broken."""
    y, _ = case.map(case.x)
    back, _ = case.unmap(y)
    check_close(case, "round trip", back, case.x, case.x)
    again, _ = case.map(back)
    check_close(case, "round trip", again, y, y)


def _jacobian(case: Case) -> np.ndarray:
    """`∂y_i/∂x_j` by automatic differentiation, `(n, D, D)`."""
    rows, size = case.x.shape[0], int(np.prod(case.x.shape[1:]))
    with tf.GradientTape(persistent=True) as tape:
        x = tf.identity(case.x)
        tape.watch(x)
        y = tf.reshape(case.subject.forward(x, **case.kwargs), [rows, size])
        outputs = tf.unstack(y, axis=1)
    gradients = [tape.gradient(output, x, unconnected_gradients="zero") for output in outputs]
    return np.stack([np.reshape(g, [rows, size]) for g in gradients], axis=1)


def _log_det(case: Case) -> None:
    """`forward_log_det_jacobian` is the log-determinant of the Jacobian by autodiff."""
    expected = np.linalg.slogdet(_jacobian(case))[1]
    check_close(case, "log-det", case.map(case.x)[1], expected, case.x)


def _inverse_log_det(case: Case) -> None:
    """`inverse_log_det_jacobian(y) = -forward_log_det_jacobian(x)`."""
    y, log_det = case.map(case.x)
    check_close(case, "inverse log-det", case.unmap(y)[1], -log_det, case.x)


def _batch_shapes(case: Case) -> None:
    """Every batch shape gives, row by row, what a matrix of events gives."""
    event, n = case.x.shape[1:], case.x.shape[0] // 2 * 2
    y, log_det = case.map(case.x)
    image = y.shape[1:]
    for batch in ((), (1,), (n // 2, 2), (1, n, 1)):
        count = int(np.prod(batch))
        kwargs = {
            name: tf.reshape(value[:count], [*batch, *value.shape[1:]])
            for name, value in case.kwargs.items()
        }
        part = Case(subject=case.subject, x=case.x, kwargs=kwargs, tolerance=case.tolerance)
        x = tf.reshape(case.x[:count], [*batch, *event])
        found, found_log_det = part.map(x)
        expected = np.reshape(y[:count], [*batch, *image])
        check_close(case, "batch shapes", found, expected, x)
        check_close(case, "batch shapes", found_log_det, np.reshape(log_det[:count], batch), x)


def _event_ndims(case: Case) -> None:
    """Further event dimensions, beyond those the bijector needs, are summed over."""
    _, log_det = case.map(case.x)
    for extra in (1, 2):
        shape = [1] * (extra - 1)
        x = tf.reshape(case.x, [*shape, *case.x.shape])
        total = case.subject.forward_log_det_jacobian(x, case.event_ndims + extra, **case.kwargs)
        check_close(case, "event ndims", total, np.sum(log_det), case.x)


def _modes(case: Case) -> None:
    """Eager mode, `tf.function` and XLA agree."""

    def both_ways(x: tf.Tensor) -> tuple[tf.Tensor, ...]:
        y, log_det = case.map(x)
        return y, log_det, *case.unmap(y)

    expected = both_ways(case.x)
    for jit, mode in ((False, "tf.function"), (True, "XLA")):
        found = tf.function(both_ways, jit_compile=jit)(case.x)
        for one, other in zip(found, expected, strict=True):
            check_close(case, f"modes ({mode})", one, other, case.x)


def _dtype(case: Case) -> None:
    """The dtype of the input is that of all results."""
    y, log_det = case.map(case.x)
    for value in (y, log_det, *case.unmap(y)):
        if value.dtype != case.x.dtype:
            fail(case, "dtype", f"{case.x.dtype.name} in, {value.dtype.name} out")


def _finite(case: Case) -> None:
    """Values, log-dets and their gradients are finite at extreme inputs."""
    options = {"extremes": case.extremes, "inverse_extremes": case.inverse_extremes}
    for direction, (option, extremes) in zip(("forward", "inverse"), options.items(), strict=True):
        if not extremes or _not_finite(case, direction, extremes) is None:
            continue
        # All at once something is not finite: which, and where, is seen one by one.
        for where in (*([extreme] for extreme in extremes), extremes):
            found = _not_finite(case, direction, where)
            if found is not None:
                what, bad = found
                inputs = ", ".join(map(repr, where))
                fail(
                    case,
                    "finite",
                    f"{what} of {direction} has {bad} at the input {inputs}; for a bijector of a "
                    f"bounded domain or range choose `{option}`",
                )


def _not_finite(case: Case, direction: str, extremes: Sequence[float]) -> tuple[str, Any] | None:
    """The first of value, log-det and gradients that is not finite, and what it holds instead."""
    count = len(extremes)
    shape = case.x.shape if direction == "forward" else case.map(case.x)[0].shape
    events = [tf.fill(shape, tf.cast(extreme, case.x.dtype)) for extreme in extremes]
    x = tf.concat(events, axis=0)
    kwargs = {name: tf.concat([value] * count, axis=0) for name, value in case.kwargs.items()}
    repeated = Case(subject=case.subject, x=x, kwargs=kwargs, tolerance=case.tolerance)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value, log_det = (repeated.map if direction == "forward" else repeated.unmap)(x)
        total = tf.reduce_sum(value) + tf.reduce_sum(log_det)
    gradients = tape.gradient(total, [x, *case.subject.trainable_variables])
    known = [("gradient", tf.convert_to_tensor(g)) for g in gradients if g is not None]
    for what, result in (("value", value), ("log-det", log_det), *known):
        if not np.isfinite(result).all():
            return what, np.ravel(result)[~np.isfinite(np.ravel(result))][0]
    return None


def _gradients(case: Case) -> None:
    """Every trainable variable has a gradient."""
    with tf.GradientTape() as tape:
        value, log_det = case.unmap(case.map(case.x)[0])
        total = tf.reduce_sum(value**2) + tf.reduce_sum(log_det)
        y, log_det = case.map(case.x)
        total += tf.reduce_sum(y**2) + tf.reduce_sum(log_det)
    variables = case.subject.trainable_variables
    for variable, gradient in zip(variables, tape.gradient(total, variables), strict=True):
        if gradient is None:
            fail(case, "gradients", f"the variable {variable.name!r} has none")


def _tracking(case: Case) -> None:
    """The variables that are read are `trainable_variables`, alone and inside of TFP objects."""
    with tf.GradientTape() as tape:
        case.map(case.x)
    read = {v.ref() for v in tape.watched_variables()}
    base = tfd.Sample(tfd.Normal(tf.zeros([], case.x.dtype), 1), case.x.shape[1:])
    holders = {
        "the bijector itself": case.subject,
        "tfb.Chain": tfb.Chain([case.subject]),
        "tfb.Invert": tfb.Invert(case.subject),
        "tfd.TransformedDistribution": tfd.TransformedDistribution(base, case.subject),
    }
    for holder, obj in holders.items():
        held = {v.ref() for v in obj.trainable_variables}
        if held != read:
            fail(case, "tracking", f"{len(read)} variables are read, {holder} has {len(held)}")


def _chain(case: Case) -> None:
    """In a `tfb.Chain`, before or behind another bijector, it gives the same."""
    one = tfb.Scale(tf.ones([], case.x.dtype))
    kwargs = {case.subject.name: case.kwargs} if case.kwargs else {}
    y, log_det = case.map(case.x)
    expected = (y, log_det, *case.unmap(y))
    for parts in ([one, case.subject], [case.subject, one]):
        try:
            chain = tfb.Chain(parts)
            chained = Case(subject=chain, x=case.x, kwargs=kwargs, tolerance=case.tolerance)
            found = (*chained.map(case.x), *chained.unmap(y))
        except TypeError as error:
            fail(case, "chain", f"beside a tfb.Scale of dtype {case.x.dtype.name}: {error}")
        for value, wanted in zip(found, expected, strict=True):
            check_close(case, "chain", value, wanted, case.x)


def _one_pass(case: Case) -> None:
    """Value and log-det of one direction call every conditioner once, in a plain TFP flow too."""
    conditioners = {id(m) for m in case.subject.submodules if isinstance(m, Conditioner)}
    if not conditioners:
        return
    for name, direction in (("forward", case.map), ("inverse", case.unmap)):
        calls = count_calls(functools.partial(direction, case.x))
        if any(calls.get(c, 0) != 1 for c in conditioners):
            fail(case, "one pass", f"conditioner calls in {name}: {list(calls.values())}")


def _jacobian_zeros(case: Case) -> None:
    """The Jacobian is exactly 0 where the structure says so."""
    zeros = case.jacobian_zeros
    if zeros is None:
        return
    jacobian = _jacobian(case)
    wrong = np.argwhere((jacobian != 0) & np.asarray(zeros))
    if len(wrong):
        row, i, j = wrong[0]
        fail(
            case,
            "Jacobian zeros",
            f"∂y_{i}/∂x_{j} is {jacobian[row, i, j]}, not 0, at the input {case.x[row].numpy()}",
        )


BIJECTOR_LAWS: dict[str, Callable[[Case], None]] = {
    "round trip": _round_trip,
    "log-det": _log_det,
    "inverse log-det": _inverse_log_det,
    "bijective": bijective,
    "finite differences": finite_differences,
    "scalar congruency": scalar_congruency,
    "batch shapes": _batch_shapes,
    "event ndims": _event_ndims,
    "modes": _modes,
    "dtype": _dtype,
    "finite": _finite,
    "gradients": _gradients,
    "tracking": _tracking,
    "chain": _chain,
    "one pass": _one_pass,
    "Jacobian zeros": _jacobian_zeros,
    "config": config,  # Last, for it breaks where a class is not registered.
}
