"""Events as rows of features, `(D, n)`: features are picked and put back as whole rows.

In `(n, D)`, `tf.gather(x, ..., axis=-1)` would do it, which copies numbers one by one, and whose
gradient adds up segments: in a coupling of 43 features the two took longer than the networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tfp_flows.ops.internals import prefer_static as ps

__all__ = [
    "flatten_batch",
    "from_feature_major",
    "permute_features",
    "pick_rows",
    "select_features",
    "to_feature_major",
]


def flatten_batch(x: tf.Tensor) -> tf.Tensor:
    """`(..., D)` as a matrix `(n, D)`, `n` the size of the batch."""
    return x if x.shape.rank == 2 else tf.reshape(x, [-1, x.shape[-1]])


def to_feature_major(x: tf.Tensor) -> tf.Tensor:
    """`(..., D)` as `(D, n)`: each feature is contiguous, and elementwise maps run along it."""
    return tf.transpose(flatten_batch(x))


def from_feature_major(features: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """`(D, n)` as `(..., D)`, the shape of `like`."""
    events = tf.transpose(features)
    return events if like.shape.rank == 2 else tf.reshape(events, ps.shape(like))


def select_features(features: tf.Tensor, indices: np.ndarray) -> tf.Tensor:
    """Of `(D, n)`, the features with these indices, as `(n, len(indices))` for a network.

    Infinite values become the largest finite ones, for networks make NaN of the others. The
    gradient is a product with zeros and ones, which takes less time than a transposition and a
    scatter: in gradients, a NaN in one feature of an event reaches all features of this event.
    """
    matrix = tf.constant(np.eye(features.shape[0])[:, indices], features.dtype)

    @tf.custom_gradient
    def selected(features: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        chosen = tf.gather(features, indices)
        events = tf.transpose(tf.clip_by_value(chosen, chosen.dtype.min, chosen.dtype.max))
        # Linear in `g`, and of constants only: so are all derivatives.
        return events, lambda g: tf.matmul(matrix, g, transpose_b=True)

    return selected(features)


def permute_features(features: tf.Tensor, order: np.ndarray) -> tf.Tensor:
    """The features of `(D, n)` in another order: feature `order[i]` comes i-th."""
    return pick_rows(features, order)


def pick_rows(x: tf.Tensor, indices: Sequence[int] | np.ndarray) -> tf.Tensor:
    """The rows of a matrix with these indices, no two of which are equal; zeros for an index of -1.

    The gradient is dense and of the same kind, unlike that of `tf.gather`, through which TensorFlow
    has no derivatives forward over reverse.
    """
    size, indices = x.shape[0], np.asarray(indices, int)
    if np.array_equal(indices, np.arange(size)):
        return x
    picked = np.flatnonzero(indices >= 0)
    places = np.full(size, -1)  # Where each row goes.
    places[indices[picked]] = picked

    @tf.custom_gradient
    def rows(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        if len(picked) < len(indices):
            x = tf.pad(x, [[0, 1], [0, 0]])
        chosen = tf.gather(x, np.where(indices < 0, size, indices))
        return chosen, lambda g: pick_rows(tf.ensure_shape(g, chosen.shape), places)

    return rows(x)
