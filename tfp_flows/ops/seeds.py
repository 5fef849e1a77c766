"""Seeds: one reading of integers for draws, and seeds of parts made from the seed of the whole."""

from __future__ import annotations

import numbers
from typing import Any

import tensorflow as tf

from tfp_flows.ops.internals import in_vectorized_map

__all__ = ["derived_seed", "stateless_seed"]


def stateless_seed(seed: Any | None) -> Any | None:
    """An integer as a stateless seed; whatever else TFP takes as a seed is returned as it is.

    TFP starts a stream at an integer, so that each call continues the last one. Here equal integers
    give equal draws at every call. Only in `tf.vectorized_map` an integer is left to TFP, whose
    joint distributions count on other draws for every element there.
    """
    if isinstance(seed, numbers.Integral) and not in_vectorized_map():
        return tf.constant([0, int(seed) % 2**31], tf.int32)
    return seed


def derived_seed(seed: int | None, index: int) -> int | None:
    """The seed of part `index` of something with this seed: equal parts would start alike."""
    return None if seed is None else seed + index
