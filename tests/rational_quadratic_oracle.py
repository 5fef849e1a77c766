"""The rational-quadratic spline as its papers write it: slow and plain, the kernel's reference.

Automatic differentiation of this gives derivatives of any order.
"""

from __future__ import annotations

import math

import tensorflow as tf


def interval(spline, value, parameters, *, inverse=False):
    """What a `RationalQuadraticSpline` computes: the identity outside of its interval."""
    bins, bound = spline.bins, spline.bound
    inner = _slopes(parameters[..., 2 * bins :, :], spline.min_slope)
    ones = tf.ones_like(parameters[..., :1, :])
    slopes = tf.concat([ones, inner, ones], -2)
    inside = tf.abs(value) < bound
    clipped = tf.clip_by_value(value, -bound, bound)
    result, log_slope = _map(clipped, parameters, slopes, bound, spline.min_bin, inverse)
    return tf.where(inside, result, value), tf.where(inside, log_slope, tf.zeros_like(log_slope))


def circle(spline, angle, parameters, *, inverse=False):
    """What a `CircularSpline` computes: equal slopes at both ends, and a phase."""
    bins = spline.bins
    slopes = _slopes(parameters[..., 2 * bins : 3 * bins, :], spline.min_slope)
    slopes = tf.concat([slopes, slopes[..., :1, :]], -2)
    phase = parameters[..., -1, :]
    angle = _wrap(angle - phase if inverse else angle)
    result, log_slope = _map(angle, parameters, slopes, math.pi, spline.min_bin, inverse)
    return _wrap(result if inverse else result + phase), log_slope


def _wrap(angle):
    return angle - 2 * math.pi * tf.floor((angle + math.pi) / (2 * math.pi))


def _slopes(raw, min_slope):
    return tf.nn.softplus(raw + math.log(math.expm1(1 - min_slope))) + min_slope


def _map(value, parameters, slopes, bound, min_bin, inverse):
    bins = slopes.shape[-2] - 1
    widths, heights = (
        2 * bound * (min_bin + (1 - bins * min_bin) * tf.nn.softmax(logits, axis=-2))
        for logits in (parameters[..., :bins, :], parameters[..., bins : 2 * bins, :])
    )
    x_k, y_k = (-bound + tf.cumsum(sizes, axis=-2, exclusive=True) for sizes in (widths, heights))
    knots = y_k if inverse else x_k
    number = tf.reduce_sum(tf.cast(value[..., None, :] >= knots[..., 1:, :], tf.int32), -2)
    chosen = tf.linalg.matrix_transpose(tf.one_hot(number, bins, dtype=value.dtype))
    x_k, y_k, w, h, d0, d1 = (
        tf.reduce_sum(chosen * part, -2)
        for part in (x_k, y_k, widths, heights, slopes[..., :-1, :], slopes[..., 1:, :])
    )
    s = h / w
    if inverse:
        e = (value - y_k) * (d0 + d1 - 2 * s)
        a, b, c = h * (s - d0) + e, h * d0 - e, -s * (value - y_k)
        t = 2 * c / (-b - tf.sqrt(b * b - 4 * a * c))
    else:
        t = (value - x_k) / w
    q = s + (d0 + d1 - 2 * s) * t * (1 - t)
    slope = s * s * (d1 * t * t + 2 * s * t * (1 - t) + d0 * (1 - t) * (1 - t)) / (q * q)
    if inverse:
        return x_k + w * t, -tf.math.log(slope)
    return y_k + h * (s * t * t + d0 * t * (1 - t)) / q, tf.math.log(slope)
