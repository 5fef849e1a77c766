"""Builder: what every flow has around its layers: linear layers, ActNorm, support, base, seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows.bijectors import LU, QR, ActNorm, Householder, Permutation, Rotation, Support
from tfp_flows.bijectors.elementwise import check_structure
from tfp_flows.bijectors.transformers import Transformer
from tfp_flows.distributions import bases
from tfp_flows.distributions.flow import Flow
from tfp_flows.flows.options import FlowOptions
from tfp_flows.ops.checks import positive_int
from tfp_flows.ops.seeds import check_seed

__all__ = ["Builder"]

_LINEAR: dict[str, Callable[[int, str, int | None], tfb.Bijector]] = {
    "householder": lambda size, dtype, seed: Householder(size, dtype=dtype, seed=seed),
    "lu": lambda size, dtype, seed: LU(size, dtype=dtype, seed=seed),
    "permutation": lambda size, dtype, seed: Permutation(size, "random", seed=seed),
    "qr": lambda size, dtype, seed: QR(size, dtype=dtype, seed=seed),
    "rotation": lambda size, dtype, seed: Rotation(size, dtype=dtype, seed=seed),
}


class Builder:
    """Checks the options of a flow, gives its layers their seeds, and puts them together.

    A family makes its layers for events of `size` columns, with `context_size`, `dtype` and a
    `next_seed()` each, and hands them to `flow`.

    Args:
      event_size: number of columns of the data.
      options: all of `FlowOptions`, as `family` completes them.
      transformer: that of the layers, if they have one. With one for angles, the base is uniform on
        the torus if none is given.

    Raises:
      ValueError: an option is not what it must be.
      TypeError: `transformer` is not a `Transformer`, or `embedding` no layer.
    """

    def __init__(
        self, event_size: int, options: FlowOptions, transformer: Transformer | None = None
    ):
        self.event_size = positive_int(event_size, "event_size")
        self.layers = positive_int(options["layers"], "layers")
        self.dtype = options["dtype"]
        self.seed = check_seed(options["seed"])
        self.options = options
        linear, support = options["linear"], options["support"]
        if self.seed is not None and not (isinstance(self.seed, Integral) and self.seed >= 0):
            raise ValueError(
                f"`seed` must be an integer, 0 or more, or None. Received: seed={self.seed!r}"
            )
        if linear is not None and linear not in list(_LINEAR):
            raise ValueError(
                f"`linear` must be None or one of {sorted(_LINEAR)}. Received: linear={linear!r}"
            )
        if support == "simplex" and event_size < 2:
            raise ValueError(
                "`event_size` must be 2 or more for proportions that sum to 1. "
                f"Received: event_size={event_size}"
            )
        # Inside there is one column less than the data have, where these sum to 1.
        self.size = event_size - (support == "simplex")
        if transformer is not None:
            check_structure(event_size, transformer, self.dtype)
        self.angles = transformer is not None and transformer.needs_raw_data
        if self.angles and (linear is not None or options["actnorm"] or support is not None):
            raise ValueError(
                "`linear`, `actnorm` and `support` must be left out for angles. Received: "
                f"linear={linear!r}, actnorm={options['actnorm']}, support={support!r}"
            )
        self.context_size = _context_size(options)
        self._rng = np.random.default_rng(self.seed)
        # What is drawn but not trained is the same for every None.
        self._fixed_rng = np.random.default_rng(self.seed or 0)

    def next_seed(self) -> int | None:
        """A seed for one more layer; None where the flow has none."""
        return None if self.seed is None else int(self._rng.integers(2**31))

    def flow(self, layers: Sequence[tfb.Bijector]) -> Flow:
        """The flow of these layers, the last applied first, in what surrounds them."""
        options, chain = self.options, []
        if options["support"] is not None:
            chain.append(Support(self.size, options["support"], dtype=self.dtype))
        for layer in layers:
            if options["actnorm"]:
                chain.append(ActNorm(self.size, dtype=self.dtype))
            if options["linear"]:
                fixed = int(self._fixed_rng.integers(2**31))
                seed = fixed if options["linear"] == "permutation" else self.next_seed()
                chain.append(_LINEAR[options["linear"]](self.size, self.dtype, seed))
            chain.append(layer)
        return Flow(
            self._base(),
            tfb.Chain(chain),
            embedding=options["embedding"],
            context_shape=options["context_shape"],
            name=options["name"],
        )

    def _base(self) -> tfd.Distribution:
        base, dtype = self.options["base"], tf.as_dtype(self.dtype)
        if base is None and self.angles:
            base = bases.torus(self.size, dtype=self.dtype)
        elif base is None:
            zeros = tf.zeros([self.size], dtype)
            base = tfd.MultivariateNormalDiag(zeros, tf.ones_like(zeros), name="base")
        if not isinstance(base, tfd.Distribution):
            raise TypeError(f"`base` must be a tfd.Distribution or None. Received: base={base!r}")
        if base.event_shape != (self.size,) or base.dtype != dtype:
            raise ValueError(
                f"`base` must have events of shape ({self.size},) and dtype {dtype.name}. "
                f"Received: event_shape={base.event_shape}, dtype={base.dtype}"
            )
        return base


def _context_size(options: FlowOptions) -> int | None:
    """Width of the context that layers see: behind the embedding, if there is one."""
    size, embedding, shape = (
        options["context_size"],
        options["embedding"],
        options["context_shape"],
    )
    if embedding is None:
        return size
    if not isinstance(embedding, keras.layers.Layer):
        raise TypeError(f"`embedding` must be a Keras 3 layer. Received: embedding={embedding!r}")
    if shape is None:
        raise ValueError(
            "`context_shape` is needed with `embedding`: the shape of one context. "
            "Received: context_shape=None"
        )
    width = int(embedding(tf.zeros([1, *shape], options["dtype"])).shape[-1])
    if size not in (None, width):
        raise ValueError(
            f"`context_size` must be {width}, as wide as `embedding` makes it, or be left out. "
            f"Received: context_size={size}"
        )
    return width
