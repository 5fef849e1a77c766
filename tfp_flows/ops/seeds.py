"""Seeds: one reading of integers for draws, and seeds of parts made from the seed of the whole."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.ops.internals import in_vectorized_map

__all__ = ["check_seed", "derived_seed", "is_stateless_seed", "stateless_seed"]


def check_seed(seed: int | None) -> int | None:
    """Return a seed of initial values; raise a ValueError unless it is None, 0, 1, 2 ..."""
    if seed is not None and (
        isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or seed < 0
    ):
        raise ValueError(f"`seed` must be an integer from 0 on, or None. Received: seed={seed!r}")
    return seed


def stateless_seed(seed: Any | None) -> Any | None:
    """An integer as a stateless seed; whatever else TFP takes as a seed is returned as it is.

    TFP starts a stream at an integer, so that each call continues the last one. Here equal integers
    give equal draws at every call. Only in `tf.vectorized_map` an integer is left to TFP, whose
    joint distributions count on other draws for every element there.

    Raises:
      TypeError: a number that is not an integer, or text.
    """
    if isinstance(seed, float | str | bool):
        raise TypeError(
            "`seed` must be an integer, a seed of TFP's, a pair of integers, or None. "
            f"Received: seed={seed!r}"
        )
    if isinstance(seed, tf.Tensor) and seed.shape == () and seed.dtype.is_integer:
        return tf.cast(_two(tf.cast(seed, tf.int64)), tf.int32)
    if isinstance(seed, np.ndarray) and seed.shape == () and seed.dtype.kind in "iu":
        seed = int(seed)
    if isinstance(seed, numbers.Integral) and not in_vectorized_map():
        return tf.constant(_two(int(seed)), tf.int32)
    return seed


def _two(seed: Any) -> list[Any]:
    """Two numbers of 31 bits, of which the first is 0 for seeds of as many."""
    return [seed // 2**31 % 2**31, seed % 2**31]


def is_stateless_seed(seed: Any) -> bool:
    """Whether it is a tensor of two integers, as TFP makes of any seed."""
    return tf.is_tensor(seed) and seed.dtype == tf.int32 and seed.shape == (2,)


def derived_seed(seed: int | None, index: int) -> int | None:
    """The seed of part `index` of something with this seed: equal parts would start alike."""
    return None if seed is None else seed + index
