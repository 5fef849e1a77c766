"""Upper bounds of spectral norms: of matrices, and of convolutions as maps of images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

__all__ = ["log_spectral_bound", "log_spectral_bound_of_convolution"]

# Three after another: of entries up to 1, entries of 2048 rows do not overflow in float32.
_SQUARINGS = (3, 3)


def log_spectral_bound(matrix: tf.Tensor) -> tf.Tensor:
    """The logarithm of an upper bound of the largest singular value, `(..., m, n)` to `(...)`.

    With `M = WᵀW`, or `WWᵀ` where that is smaller, `σ^{2 p} <= ‖M^p‖` in Frobenius' norm, here for
    `p = 64`, which takes six squarings. The bound is at most a factor `rank^{1 / 256}` above `σ`:
    1.6% for rank 64 if all singular values are equal, and next to nothing if they are not. Power
    iteration would approach `σ` from below, so that a map that has to be contractive may not be,
    and needs vectors that training moves and evaluation must not.

    Differentiable, at 0, too.

    Source: Blaise Delattre, Quentin Barthélemy, Alexandre Araujo and Alexandre Allauzen, "Efficient
    Bound of Lipschitz Constant for Convolutional Layers by Gram Iteration" (2023).

    Example:
      >>> tf.exp(log_spectral_bound(tf.constant([[3.0, 0.0], [4.0, 0.0]])))    # 5.0
    """
    tiny = np.finfo(matrix.dtype.as_numpy_dtype).tiny
    wide = matrix.shape[-2] < matrix.shape[-1]
    gram = tf.matmul(matrix, matrix, transpose_a=not wide, transpose_b=wide)
    log_scale = tf.zeros_like(gram[..., 0, 0])
    for squarings in (0, *_SQUARINGS):
        for _ in range(squarings):
            gram = tf.matmul(gram, gram)
        # The largest entry is on the diagonal. The bound does not depend on it, nor its gradient.
        largest = tf.reduce_max(tf.linalg.diag_part(gram), -1)
        scale = tf.maximum(tf.stop_gradient(largest), tiny)
        gram /= scale[..., None, None]
        log_scale = 2.0**squarings * log_scale + tf.math.log(scale)
    log_norm = 0.5 * tf.math.log(tf.maximum(tf.reduce_sum(gram * gram, [-2, -1]), tiny))
    return (log_scale + log_norm) / 2 ** (1 + sum(_SQUARINGS))


def log_spectral_bound_of_convolution(kernel: tf.Tensor, grid: Sequence[int]) -> tf.Tensor:
    """The same of a convolution, with zeros around a grid of that size; a scalar.

    A convolution with zeros around is a part of one that is periodic along axes longer by the
    kernel's size less 1; and a periodic one is a matrix over channels at each frequency. So what
    is bounded is the map of images, not the kernel as a matrix, whose norm says little of it. The
    bound is close for grids much larger than the kernel: for a difference of neighbours, of norm
    `2 cos(π / (2 n + 2))`, it is 2.

    Args:
      kernel: `(*sizes, inputs, outputs)`.
      grid: how many positions there are along each axis.

    Source: Hanie Sedghi, Vineet Gupta and Philip M. Long, "The Singular Values of Convolutional
    Layers" (2019).
    """
    *sizes, inputs, outputs = kernel.shape
    lengths = [n + size - 1 if size > 1 else 1 for n, size in zip(grid, sizes, strict=True)]
    # Of a real kernel, half of the frequencies along one axis are those of the other half.
    counts = [*lengths[:-1], lengths[-1] // 2 + 1]
    frequencies = _grid(
        [2 * np.pi * np.arange(c) / n for c, n in zip(counts, lengths, strict=True)]
    )
    angles = frequencies @ _grid([np.arange(size) for size in sizes]).T
    kernel = tf.reshape(kernel, [math.prod(sizes), inputs * outputs])
    real, imaginary = (
        tf.reshape(tf.matmul(tf.constant(part, kernel.dtype), kernel), [-1, inputs, outputs])
        for part in (np.cos(angles), np.sin(angles))
    )
    rows = [tf.concat([real, -imaginary], -1), tf.concat([imaginary, real], -1)]
    return tf.reduce_max(log_spectral_bound(tf.concat(rows, -2)))


def _grid(axes: Sequence[np.ndarray]) -> np.ndarray:
    """All points of a grid, `(n, axes)`."""
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], -1)
