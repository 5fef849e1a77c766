"""What is around each of the values in blocks of `n ** r` cells, `(B, C, n ** r)`. NumPy alone."""

from __future__ import annotations

import numpy as np

__all__ = ["bends", "neighbours"]

Array = np.ndarray


def bends(mass: Array, n: int, r: int) -> tuple[Array, Array]:
    """Second differences of the masses of cells: the largest of all axes, and their sum.

    What is beyond the ends of a block is taken to be as at its ends, and does not count in the sum.
    """
    shaped = mass.reshape(*mass.shape[:2], *[n] * r)
    largest, total = np.zeros(shaped.shape), np.zeros(shaped.shape)
    for axis in range(2, 2 + r):
        ends = [(1, 1) if i == axis else (0, 0) for i in range(2 + r)]
        padded = np.pad(shaped, ends, mode="edge")
        second = np.diff(padded, 2, axis)
        largest = np.maximum(largest, np.abs(second))
        inner = tuple(slice(1, -1) if i == axis else slice(None) for i in range(2 + r))
        total[inner] += second[inner]
    return largest.reshape(mass.shape), total.reshape(mass.shape)


def neighbours(values: Array, n: int, r: int) -> Array:
    """Those of a cell and all around it in the same block, `(B, C, n ** r, 3 ** r)`."""
    shaped = values.reshape(*values.shape[:2], *[n] * r)
    padded = np.pad(shaped, [(0, 0), (0, 0), *[(1, 1)] * r], mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, [3] * r, tuple(range(2, 2 + r)))
    return windows.reshape(*values.shape, -1)
