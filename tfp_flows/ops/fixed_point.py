"""Fixed points of contractions, found in far fewer steps than by going there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

__all__ = ["fixed_point"]

_MEMORY = 6
_LIMIT = 2000


def fixed_point(function: Callable[[tf.Tensor], tf.Tensor], start: tf.Tensor) -> tf.Tensor:
    """The `x` with `function(x) = x`, row by row, to the accuracy of the dtype; not differentiated.

    Anderson's acceleration: with residuals `f(x) = function(x) - x`, the next point is
    `x + f - Σ γ_i (Δx_i + Δf_i)`, where `Σ γ_i Δf_i` comes closest to `f` and `Δ` are the
    differences to six earlier points. If the residual has not become smaller there, `function` of
    the best point is taken, which makes it smaller for certain: at worst, this costs two calls for
    each of the plain iteration. A row ends when its residual is a rounding error, or even
    `function` does not make it smaller; what rows do depends on no other row.

    Args:
      function: `(n, d) -> (n, d)`, contractive in the Euclidean norm, each row for itself.
      start: `(n, d)`. A row that is not finite stays as it is; one from which `function` leads to
        no finite point becomes NaN.

    Source: Homer F. Walker and Peng Ni, "Anderson Acceleration for Fixed-Point Iterations" (2011).

    Example:
      >>> fixed_point(tf.cos, tf.zeros([1, 1]))    # [[0.7390851]]
    """
    start = tf.stop_gradient(start)
    eps = np.finfo(start.dtype.as_numpy_dtype).eps
    tiny = np.finfo(start.dtype.as_numpy_dtype).tiny

    def step(
        x: tf.Tensor,
        best: tf.Tensor,
        residual: tf.Tensor,
        history: tf.Tensor,
        plain: tf.Tensor,
        done: tf.Tensor,
    ) -> tuple[tf.Tensor, ...]:
        f = tf.stop_gradient(function(x)) - x
        size = tf.norm(f, axis=-1)
        better = (size < tf.norm(residual, axis=-1)) & ~done
        small = size <= eps * (1 + tf.norm(x, axis=-1))
        done |= (better & small) | (plain & ~better)
        # Points and residuals that were better than all before, the last one first.
        last = tf.stack([best, residual])[:, None]
        new = tf.where(better[:, None], tf.concat([last, history[:, :-1]], 1), history)
        best = tf.where(better[:, None], x, best)
        residual = tf.where(better[:, None], f, residual)
        plain = ~better
        proposal = best + residual - tf.where(better[:, None], _correction(best, residual, new), 0)
        return tf.where(done[:, None], best, proposal), best, residual, new, plain, done

    def _correction(x: tf.Tensor, f: tf.Tensor, history: tf.Tensor) -> tf.Tensor:
        dx, df = tf.unstack(tf.stack([x, f])[:, None] - history)  # (memory, n, d)
        length = tf.sqrt(tf.reduce_sum(df * df, -1, keepdims=True))
        known = (length > 0) & tf.math.is_finite(length)
        length = tf.where(known, tf.maximum(length, tiny), 1)
        dx, df = (tf.where(known, d / length, 0) for d in (dx, df))
        gram = tf.einsum("ind,jnd->nij", df, df)
        gram += 10 * eps * tf.eye(_MEMORY, dtype=x.dtype)
        weights = tf.linalg.solve(gram, tf.einsum("ind,nd->ni", df, f)[..., None])[..., 0]
        return tf.einsum("ni,ind->nd", weights, dx + df)

    rows = tf.shape(start)[0]
    unknown = tf.fill(tf.shape(start), tf.constant(np.inf, start.dtype))
    history = tf.tile(tf.stack([start, unknown])[:, None], [1, _MEMORY, 1, 1])
    first = (tf.fill([rows], True), ~tf.reduce_all(tf.math.is_finite(start), -1))
    found = tf.while_loop(
        lambda *state: ~tf.reduce_all(state[-1]),
        step,
        (start, start, unknown, history, *first),
        maximum_iterations=_LIMIT,
    )
    best, residual = found[1], found[2]
    lost = tf.reduce_all(tf.math.is_finite(start) & ~tf.math.is_finite(residual), -1)
    return tf.where(lost[:, None], tf.constant(np.nan, start.dtype), best)
