"""Causal transformers: parameters for every token from those before it, and their solution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_flows.networks.conditioner import Conditioner, match_batch, network_policy
from tfp_flows.networks.layer_normalization import LayerNormalization
from tfp_flows.networks.made_solve import Transform, solve_by_passes
from tfp_flows.networks.mlp import without_trainable
from tfp_flows.ops.checks import positive_int
from tfp_flows.ops.grids import Size
from tfp_flows.ops.internals import prefer_static as ps
from tfp_flows.ops.limits import claim
from tfp_flows.ops.seeds import derived_seed

__all__ = ["CausalConditioner", "CausalTransformer"]

Cache = tuple[tf.Tensor, tf.Tensor]


@keras.saving.register_keras_serializable("tfp_flows")
class CausalTransformer(keras.layers.Layer):
    """Feature network of tokens: attention to those before, and at most `length` of them.

    In every layer, with layer normalization before each part, tokens attend to themselves and the
    tokens before them (`heads` heads), and go through an MLP of `4 width` units.

    Shapes: `(batch, T, inputs) -> (batch, T, width)`; the result at `i` depends on inputs
    `0 ... i`.

    Args:
      length: how many tokens there are at most; each place has an embedding of its own.
      width: of the layers and of the result, a multiple of `heads`.
      layers: how many.
      heads: of the attention.
      seed: integer for reproducible initial weights, or `None`.
      dtype: Keras dtype policy; the global one by default.
      name: name of the layer.

    Raises:
      ValueError: a size is not a positive integer, or `width` no multiple of `heads`; or there are
        more tokens than `length`.

    Source: Ashish Vaswani et al., "Attention Is All You Need" (2017).

    Example:
      >>> networks.CausalTransformer(16, width=8, heads=2)(np.zeros((3, 16, 4), "float32")).shape
      TensorShape([3, 16, 8])
    """

    independent_over_batch = True

    def __init__(
        self,
        length: int,
        *,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        seed: int | None = None,
        dtype: str | keras.DTypePolicy | None = None,
        name: str | None = None,
    ):
        super().__init__(dtype=dtype, name=name)
        self.length = positive_int(length, "length")
        self.width = positive_int(width, "width")
        self.layer_count = positive_int(layers, "layers")
        self.heads = positive_int(heads, "heads")
        if width % heads:
            raise ValueError(
                f"`width` must be a multiple of `heads`. Received: width={width}, heads={heads}"
            )
        claim(layers, 12, width, width)
        self.seed = seed
        seeds = iter(range(1, 2 + 4 * layers))
        self._first = self._dense(width, next(seeds))
        self._blocks = [
            {
                "norm": LayerNormalization(dtype=self.dtype_policy),
                "read": self._dense(3 * width, next(seeds)),
                "mix": self._dense(width, next(seeds)),
                "second_norm": LayerNormalization(dtype=self.dtype_policy),
                "widen": self._dense(4 * width, next(seeds), activation="gelu"),
                "narrow": self._dense(width, next(seeds)),
            }
            for _ in range(layers)
        ]
        self._last = LayerNormalization(dtype=self.dtype_policy)
        start = keras.initializers.RandomNormal(stddev=0.02, seed=derived_seed(seed, 0))
        self.places = self.add_weight(shape=(length, width), initializer=start, name="places")

    def _dense(self, units: int, index: int, **options: Any) -> keras.layers.Dense:
        start = keras.initializers.GlorotUniform(seed=derived_seed(self.seed, index))
        return keras.layers.Dense(
            units, kernel_initializer=start, dtype=self.dtype_policy, **options
        )

    def build(self, input_shape: Sequence[int | None]) -> None:
        hidden = (None, None, self.width)
        self._first.build(input_shape)
        for block in self._blocks:
            for name, layer in block.items():
                layer.build((None, None, 4 * self.width) if name == "narrow" else hidden)
        self._last.build(hidden)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        length = inputs.shape[1]
        if length is not None and length > self.length:
            raise ValueError(
                f"There may be {self.length} tokens at most. Received: shape={tuple(inputs.shape)}"
            )
        count = ps.shape(inputs)[1]
        hidden = self._first(inputs) + self.places[:count]
        sees = tf.linalg.band_part(tf.ones([count, count], tf.bool), -1, 0)
        for block in self._blocks:
            query, key, value = self._read(block, hidden)
            hidden = self._after(block, hidden, self._attend(query, key, value, sees))
        return self._last(hidden)

    def start(self, batch: Any, dtype: tf.DType) -> list[Cache]:
        """Empty keys and values of every layer, for `step`."""
        shape = ps.stack([batch, self.length, self.heads, self.width // self.heads])
        return [(tf.zeros(shape, dtype), tf.zeros(shape, dtype)) for _ in self._blocks]

    def step(
        self, token: tf.Tensor, caches: Sequence[Cache], i: tf.Tensor
    ) -> tuple[tf.Tensor, list[Cache]]:
        """The result at place `i` alone, `(batch, width)`, where the caches hold what came before.

        Args:
          token: input at place `i`, `(batch, inputs)`.
          caches: keys and values of every layer, from `start` or the step before.
          i: the place.
        """
        hidden = self._first(token)
        hidden = (hidden + tf.cast(tf.gather(self.places, i), hidden.dtype))[:, None]
        here = tf.reshape(tf.range(self.length) == i, [1, -1, 1, 1])
        sees = (tf.range(self.length) <= i)[None]
        found = []
        for block, (keys, values) in zip(self._blocks, caches, strict=True):
            query, key, value = self._read(block, hidden)
            keys, values = tf.where(here, key, keys), tf.where(here, value, values)
            found.append((keys, values))
            hidden = self._after(block, hidden, self._attend(query, keys, values, sees))
        return self._last(hidden)[:, 0], found

    def _read(self, block: dict[str, Any], hidden: tf.Tensor) -> list[tf.Tensor]:
        """Queries, keys and values, `(batch, T, heads, width / heads)`."""
        read = block["read"](block["norm"](hidden))
        size = self.width // self.heads
        shape = ps.concat([ps.shape(read)[:2], [3, self.heads, size]], 0)
        return tf.unstack(tf.reshape(read, shape), axis=2)

    def _attend(
        self, query: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, sees: tf.Tensor
    ) -> tf.Tensor:
        """Values by the softmax of products of queries and keys, `(batch, T, width)`."""
        scale = tf.constant((self.width // self.heads) ** -0.5, query.dtype)
        scores = tf.einsum("nihd,njhd->nhij", query * scale, keys)
        scores = tf.where(sees, scores, tf.constant(scores.dtype.min, scores.dtype))
        seen = tf.einsum("nhij,njhd->nihd", tf.nn.softmax(scores), values)
        return tf.reshape(seen, ps.concat([ps.shape(seen)[:2], [self.width]], 0))

    def _after(self, block: dict[str, Any], hidden: tf.Tensor, seen: tf.Tensor) -> tf.Tensor:
        hidden += block["mix"](seen)
        return hidden + block["narrow"](block["widen"](block["second_norm"](hidden)))

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """The shape of the result, by that of the inputs."""
        return (*input_shape[:-1], self.width)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "length": self.length,
            "width": self.width,
            "layers": self.layer_count,
            "heads": self.heads,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> CausalTransformer:
        return without_trainable(cls, config)


class CausalConditioner(Conditioner):
    """Parameters of every token, computed from the tokens before it and the context.

    The network reads tokens one place later, the first of them zeros: what is causal for it leaves
    every token out of its own parameters.

    Shapes: tokens `(..., T, C)` and context as in `Conditioner`, to `(..., T, parameter_count, C)`.

    Args:
      network: hidden widths, as many as layers and all the same, for which a `CausalTransformer` is
        made; or a Keras 3 layer `(batch, T, C + context channels) -> (batch, T, features)` whose
        result at `i` depends on inputs `0 ... i`.
      event_shape: `(T, C)`.
      parameter_count: how many parameters each number needs.
      context_size, dtype, seed: as in `Conditioner`.

    Raises:
      ValueError: as in `Conditioner`; widths differ; or a layer is not causal.
    """

    def __init__(
        self,
        network: Sequence[int] | keras.layers.Layer,
        *,
        event_shape: tuple[int, int],
        parameter_count: int,
        context_size: Size | None = None,
        dtype: str = "float32",
        seed: int | None = None,
    ):
        length, channels = event_shape
        if not isinstance(network, keras.layers.Layer):
            widths = list(network)
            if len(set(widths)) != 1:
                raise ValueError(
                    "`conditioner` must be the width of a transformer, once for every layer, or a "
                    f"Keras 3 layer. Received: conditioner={network!r}"
                )
            width, heads = positive_int(widths[0], "conditioner"), 4
            network = CausalTransformer(
                length,
                width=width,
                layers=len(widths),
                heads=heads if width % heads == 0 else 1,
                seed=seed,
                dtype=network_policy(dtype),
            )
        super().__init__(
            network,
            input_size=channels,
            output_shape=(parameter_count, channels),
            grid=(length,),
            context_size=context_size,
            dtype=dtype,
            seed=seed,
        )
        self._length = length
        if not isinstance(network, CausalTransformer):
            self._check_causal(network, dtype)

    def __call__(
        self,
        inputs: tf.Tensor,
        context: tf.Tensor | None = None,
        *,
        transposed: bool = False,
    ) -> tf.Tensor:
        """The parameters, `(..., T, parameter_count, C)`, of tokens `(..., T, C)`."""
        ends = [[0, 0]] * (inputs.shape.rank - 2) + [[1, 0], [0, 0]]
        later = tf.pad(inputs, ends)[..., :-1, :]
        return super().__call__(later, context, transposed=transposed)

    def solve(
        self, transform: Transform, x: tf.Tensor, context: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The `y` with `y = transform(x, parameters of y)`, token by token, and its log-slope.

        `x` is `(n, T, C)`, and context has one batch axis, too.

        A `CausalTransformer` computes every token once, beside keys and values of those before; any
        other layer computes all of them `T` times.
        """
        features = self.layer.features
        if isinstance(features, CausalTransformer):
            return self._solve_with_cache(features, transform, x, context)
        return solve_by_passes(lambda y: self(y, context), transform, x, self._length)

    def _solve_with_cache(
        self,
        features: CausalTransformer,
        transform: Transform,
        x: tf.Tensor,
        context: tf.Tensor | None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        batch, channels = ps.shape(x)[0], x.shape[-1]
        tokens = tf.transpose(x, [1, 0, 2])
        given = None
        if context is not None:
            given = tf.transpose(match_batch(self._on_grid(context), x), [1, 0, 2])

        def one_token(i: tf.Tensor, before: tf.Tensor, caches: Any, found: Any) -> Any:
            read = before if given is None else tf.concat([before, given[i]], -1)
            hidden, caches = features.step(tf.cast(read, features.compute_dtype), caches, i)
            parameters = self.layer.head(hidden)
            parameters = tf.reshape(parameters, ps.concat([[batch], self.output_shape], 0))
            y, log_slope = transform(tokens[i], parameters)
            here = tf.reshape(tf.range(self._length) == i, [-1, 1, 1])
            found = tuple(
                tf.where(here, new, old) for new, old in zip((y, log_slope), found, strict=True)
            )
            return i + 1, tf.ensure_shape(y, [None, channels]), caches, found

        zeros = tf.zeros_like(tokens)
        start = features.start(batch, tf.as_dtype(features.compute_dtype))
        _, _, _, found = tf.while_loop(
            lambda i, *_: i < self._length,
            one_token,
            (0, tf.zeros_like(x[:, 0]), start, (zeros, zeros)),
            maximum_iterations=self._length,
        )
        return tuple(tf.transpose(part, [1, 0, 2]) for part in found)

    def _check_causal(self, network: keras.layers.Layer, dtype: str) -> None:
        """Raise a ValueError if the result at a place depends on what comes later."""
        rng = np.random.default_rng(0)
        x = tf.constant(rng.normal(size=(1, self._length, self._width)), dtype)
        before = network(x)
        for i in range(1, self._length):
            later = tf.range(self._length)[:, None] >= i
            changed = network(tf.where(later, x + 1, x))
            if np.any(before[:, :i] != changed[:, :i]):
                raise ValueError(
                    "`conditioner` must be causal: its result at a place may depend on that place "
                    f"and those before it only. Received: a layer {network.name!r} whose result at "
                    f"place {i - 1} or before depends on place {i} or later"
                )
