"""The laws of flows, a function each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfp_flows.networks import Conditioner
from tfp_flows.testing.case import Case, check_close, config, count_calls, fail


def _sample_log_prob(case: Case) -> None:
    """The log-density that comes with a sample is `log_prob` of the sample."""
    draw = case.subject.experimental_sample_and_log_prob
    x, log_prob = draw(2, seed=(1, 2), **case.kwargs)
    found = case.subject.log_prob(tf.identity(x), **case.kwargs)
    inputs = tf.reshape(x, [-1, x.shape[-1]])
    check_close(case, "sample_and_log_prob", np.ravel(log_prob), np.ravel(found), inputs)


def _not_nan(case: Case) -> None:
    """`log_prob` is never NaN, nor `+inf`, however far out."""
    for extreme in (0.0, 1.0, -1.0, 1e4, -1e4):
        x = tf.fill(case.x.shape, tf.cast(extreme, case.x.dtype))
        log_prob = case.subject.log_prob(x, **case.kwargs).numpy()
        if np.isnan(log_prob).any() or (log_prob == np.inf).any():
            fail(case, "not NaN", f"log_prob is {log_prob} at the input {extreme!r}")


def _flow_tracking(case: Case) -> None:
    """The variables that `log_prob` reads are `trainable_variables`."""
    with tf.GradientTape() as tape:
        case.subject.log_prob(tf.identity(case.x), **case.kwargs)
    read = {v.ref() for v in tape.watched_variables()}
    held = {v.ref() for v in case.subject.trainable_variables}
    if read != held:
        fail(case, "flow tracking", f"{len(read)} variables are read, {len(held)} are known")


def _no_stale_value(case: Case) -> None:
    """One gradient step changes `log_prob` of the very same tensor; every variable takes part."""
    variables = case.subject.trainable_variables
    with tf.GradientTape() as tape:
        before = case.subject.log_prob(case.x, **case.kwargs)
        loss = -tf.reduce_mean(before)
    gradients = tape.gradient(loss, variables)
    for variable, gradient in zip(variables, gradients, strict=True):
        if gradient is None:
            fail(case, "no stale value", f"the variable {variable.name!r} has no gradient")
    if not variables:
        return
    kept = [v.numpy() for v in variables]
    for variable, gradient in zip(variables, gradients, strict=True):
        variable.assign_sub(0.1 * tf.convert_to_tensor(gradient))
    after = case.subject.log_prob(case.x, **case.kwargs)
    for variable, value in zip(variables, kept, strict=True):
        variable.assign(value)
    if np.array_equal(before, after):
        fail(case, "no stale value", "log_prob of the same tensor is what it was before a step")


def _flow_one_pass(case: Case) -> None:
    """`log_prob`, `sample` and `sample_and_log_prob` each call every conditioner once."""
    flow = case.subject
    conditioners = {id(m) for m in flow.submodules if isinstance(m, Conditioner)}
    methods = {
        "log_prob": lambda: flow.log_prob(case.x, **case.kwargs),
        "sample": lambda: flow.sample(3, **case.kwargs),
        "sample_and_log_prob": lambda: flow.experimental_sample_and_log_prob(3, **case.kwargs),
    }
    for name, method in methods.items():
        calls = count_calls(method)
        if any(calls.get(c, 0) != 1 for c in conditioners):
            fail(case, "flow one pass", f"conditioner calls in {name}: {list(calls.values())}")


def _flow_modes(case: Case) -> None:
    """`log_prob` is the same in eager mode, `tf.function` and XLA."""

    def log_prob(x: tf.Tensor) -> tf.Tensor:
        return case.subject.log_prob(x, **case.kwargs)

    expected = log_prob(case.x)
    for jit, mode in ((False, "tf.function"), (True, "XLA")):
        found = tf.function(log_prob, jit_compile=jit)(case.x)
        check_close(case, f"flow modes ({mode})", found, expected, case.x)


def _integral(case: Case) -> None:
    """In one and two dimensions, the density integrates to 1."""
    size = case.x.shape[-1]
    if size > 2 or case.event_ndims > 1:
        return
    flow = case.subject
    if case.kwargs:
        flow = flow.given(case.kwargs["context"][0])
    extent = case.extent
    if extent is None:
        draws = flow.sample(2000, seed=(0, 3)).numpy().reshape(-1, size)
        margin = 0.5 * (draws.max() - draws.min())
        extent = (float(draws.min() - margin), float(draws.max() + margin))
    edges = np.linspace(extent[0], extent[1], 20_001 if size == 1 else 801)
    centres = (edges[1:] + edges[:-1]) / 2
    grid = np.stack(np.meshgrid(*[centres] * size), -1).reshape(-1, size)
    log_prob = tf.function(flow.log_prob)
    parts = np.array_split(grid.astype(case.x.dtype.as_numpy_dtype), 1 + len(grid) // 100_000)
    mass = sum(np.exp(log_prob(part).numpy().astype("float64")).sum() for part in parts)
    total = mass * (edges[1] - edges[0]) ** size
    if not abs(total - 1) < case.integral_tolerance:
        fail(
            case,
            "integral",
            f"the density integrates to {total:.6f} over {extent}; ridges narrower than the grid "
            "need a larger `integral_tolerance`",
        )


FLOW_LAWS: dict[str, Callable[[Case], None]] = {
    "sample_and_log_prob": _sample_log_prob,
    "not NaN": _not_nan,
    "flow tracking": _flow_tracking,
    "no stale value": _no_stale_value,
    "flow one pass": _flow_one_pass,
    "flow modes": _flow_modes,
    "integral": _integral,
    "config": config,
}
