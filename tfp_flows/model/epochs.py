"""Arrays in batches, epoch by epoch, as `fit` hands them to Keras."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.ops.internals import DataAdapter

__all__ = ["Epochs"]

Change = Callable[[list[tf.Tensor], tf.Tensor], list[tf.Tensor]]


class Epochs(DataAdapter):
    """Arrays of equally many rows, in batches, in a new order at every epoch.

    All rows change places at once, when the epoch begins, and batches are slices of the result, of
    a dataset without functions. Keras picks rows batch by batch, in threads of its own, and begins
    two passes over a dataset an epoch, which take 20 ms each: of small tables and flows, that is
    longer than the steps of an epoch. It costs one copy of the data.

    Args:
      parts: the arrays; batches are tuples of as many, or of one array, the array itself.
      batch_size: rows of a batch.
      shuffle: whether rows change places.
      dtype: of the parts that are floating-point numbers.
      drop_remainder: whether the rows left over at the end of an epoch are left out. Fewer rows
        than `batch_size` are one batch.
      change: what is done to the rows of an epoch, after they changed places: from these and a seed
        of two integers to the rows that are used.
    """

    def __init__(
        self,
        parts: Sequence[Any],
        batch_size: int,
        *,
        shuffle: bool,
        dtype: str,
        drop_remainder: bool = False,
        change: Change | None = None,
    ) -> None:
        self._parts = []
        with tf.device("CPU"):
            for part in map(np.asarray, parts):
                self._parts.append(tf.constant(part, dtype if part.dtype.kind == "f" else None))
        self._rows = len(parts[0])
        self._size = min(batch_size, self._rows)
        self._shuffle, self._change = shuffle, change
        self._drops = drop_remainder
        # Other numbers in every epoch, and the same again after `keras.utils.set_random_seed`.
        self._seed = tf.random.uniform([2], 0, 2**31 - 1, tf.int32)
        self._passes = 0

    @property
    def num_batches(self) -> int:
        """Batches of an epoch."""
        count = self._rows / self._size
        return math.floor(count) if self._drops else math.ceil(count)

    def get_tf_dataset(self) -> Epochs:
        """What Keras makes iterators of."""
        return self

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Any]:
        self._passes += 1
        with tf.device("CPU"):
            return iter(self._batches(tf.random.fold_in(self._seed, self._passes)))

    def as_dataset(self) -> tf.data.Dataset:
        """The same as a dataset, for the strategies of `tf.distribute`, which take nothing else."""
        seeds = tf.data.Dataset.random(rerandomize_each_iteration=True).batch(2).take(1)
        batches = seeds.flat_map(lambda seed: self._batches(tf.cast(seed // 2, tf.int32)))
        return batches.apply(tf.data.experimental.assert_cardinality(self.num_batches))

    def _batches(self, seed: tf.Tensor) -> tf.data.Dataset:
        rows = self._parts
        if self._shuffle:
            order = tf.random.experimental.stateless_shuffle(tf.range(self._rows), seed)
            rows = [tf.gather(part, order) for part in rows]
        if self._change is not None:
            rows = self._change(rows, tf.random.fold_in(seed, 1))
        full = self._rows // self._size * self._size

        def one_or_all(parts: list[tf.Tensor]) -> Any:
            return tuple(parts) if len(parts) > 1 else parts[0]

        batches = tf.data.Dataset.from_tensor_slices(
            one_or_all([tf.reshape(p[:full], [-1, self._size, *p.shape[1:]]) for p in rows])
        )
        if full < self._rows and not self._drops:
            rest = tf.data.Dataset.from_tensors(one_or_all([part[full:] for part in rows]))
            batches = batches.concatenate(rest)
        return batches
