"""Laws that ask the maps alone, by points and their images, and never a gradient.

They are what TFP's own tests ask of its bijectors (`bijector_test_util`: bijective and finite,
scalar congruency), for events of any size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.testing.case import Case, check_close, fail

_POINTS = 513  # On a line through the events.
_SHARE = 1e-2  # Largest error of an integral over these points, relative to the whole.
# Largest relative error of central differences, where they divide by small slopes.
_DIFFERENCES = {tf.float32: 1e-2, tf.float64: 1e-6}


def bijective(case: Case) -> None:
    """From events of the range, too: `forward(inverse(y)) = y`, log-dets opposite, all finite."""
    y = case.map(case.x)[0] if case.y is None else case.y
    x, inverse_log_det = case.unmap(y)
    again, log_det = case.map(x)
    for name, value in (("inverse", x), ("inverse log-det", inverse_log_det), ("log-det", log_det)):
        bad = np.argwhere(~np.isfinite(value))
        if len(bad):
            found, event = np.asarray(value)[tuple(bad[0])], np.asarray(y)[tuple(bad[0][:1])]
            fail(case, "bijective", f"{name} has {found} at the event {event} of the range")
    check_close(case, "bijective", again, y, y)
    check_close(case, "bijective", log_det, -inverse_log_det, y)


def finite_differences(case: Case) -> None:
    """The log-det is that of the Jacobian by central differences, with no gradient involved.

    Of a range with more columns, proportions, the first ones count, as in `tfd.Dirichlet`.
    """
    x = case.x.numpy()
    n, size = x.shape[0], x[0].size
    # Where rounding and curvature weigh about the same.
    width = np.finfo(x.dtype).eps ** (1 / 3)
    steps = width * np.stack([np.eye(size), -np.eye(size)]).reshape(2, size, 1, *x.shape[1:])
    ends = x + steps.astype(x.dtype)  # (2, size, n, ...): an entry more, and less.
    images, _ = _images(case, ends, case.kwargs)
    widths = np.reshape(ends[0] - ends[1], [size, n, size]).sum(-1, dtype="float64")
    differences = np.reshape(images[0] - images[1], [size, n, -1])[..., :size]
    jacobian = np.moveaxis(differences / widths[..., None], 0, 1)
    expected = np.linalg.slogdet(jacobian)[1]
    found = case.map(case.x)[1]
    check_close(
        case, "finite differences", found, expected, x, tolerance=_DIFFERENCES[case.x.dtype]
    )


def scalar_congruency(case: Case) -> None:
    """Where an entry moves its own image only, it does so monotonically and preserves mass.

    On the line from the smallest to the largest value of the entry, the integral of `exp(log-det)`
    over a part, as a share of the whole, is the share of the interval that it is mapped to.
    """
    rows = np.reshape(case.x.numpy(), [case.x.shape[0], -1])
    size = rows.shape[1]
    lines = np.tile(rows[0], [size, _POINTS, 1])
    for i in range(size):
        lines[i, :, i] = np.linspace(rows[:, i].min(), rows[:, i].max(), _POINTS)
    events = np.reshape(lines, [size, _POINTS, *case.x.shape[1:]])
    first = {name: value[:1] for name, value in case.kwargs.items()}
    images, log_dets = _images(case, events, first)
    images = np.reshape(images, [size, _POINTS, -1])
    for i in range(size):
        others = np.delete(images[i], i, -1)
        if np.any(np.ptp(others, 0) > case.tolerance * (1 + np.abs(others[0]))):
            continue  # No scalar map.
        path = images[i, :, i]
        steps = np.diff(path)
        if not (np.all(steps > 0) or np.all(steps < 0)):
            where = events[i, 1:][np.argmin(steps * np.sign(path[-1] - path[0]))]
            fail(case, "scalar congruency", f"entry {i} is not strictly monotone at {where}")
        density = np.exp(log_dets[i] - log_dets[i].max())
        pieces = np.diff(lines[i, :, i]) * (density[1:] + density[:-1]) / 2
        found = np.cumsum(pieces) / pieces.sum()
        expected = (path[1:] - path[0]) / (path[-1] - path[0])
        check_close(case, "scalar congruency", found, expected, events[i, 1:], tolerance=_SHARE)


def _images(
    case: Case, x: np.ndarray, kwargs: dict[str, tf.Tensor]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Images of events with any batch shape, and log-dets, in double precision."""
    points = Case(subject=case.subject, x=case.x, kwargs=kwargs, tolerance=case.tolerance)
    y, log_det = points.map(tf.constant(x))
    return np.asarray(y, "float64"), np.asarray(log_det, "float64")
