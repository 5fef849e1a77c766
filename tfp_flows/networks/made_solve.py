"""The sequential direction of an autoregressive map, in the work of about one network pass.

A column's parameters depend on the columns before it. The plain way to solve for all of them is
`solve_by_passes`: start from any values and call the network D times, each of which sets one more
column right. But a hidden unit of degree `k` depends on the blocks of columns up to `k` only, and
is final once these are. So `solve` computes every unit once, degree by degree: the hidden units of
degree `k`, layer by layer, then the parameters of block `k + 1`, then its values.

Units are rows and events are columns here, and rows are sorted by degree: what belongs to one
degree is contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfp_flows.networks.made import MADE
from tfp_flows.ops.feature_major import permute_features, pick_rows
from tfp_flows.ops.internals import in_xla
from tfp_flows.ops.internals import prefer_static as ps
from tfp_flows.ops.xla import call_compiled

__all__ = ["Transform", "solve", "solve_by_passes"]

Transform = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

# Measured with D = 43, 10 layers of 2×128 units and 512 rows: 2 to 3 are best; 1 takes twice as
# long, for every iteration reads all hidden units.
_DEGREES_PER_ITERATION = 3


def solve(
    made: MADE,
    transform: Transform,
    x: tf.Tensor,
    context: tf.Tensor | None = None,
    *,
    compile_loop: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Find the `y` with `y_i = transform(x_i; parameters_i)`, `parameters = made(y)`.

    Args:
      made: the network.
      transform: elementwise, `x` and parameters to `y` and `log dy/dx`; shapes as those of a
        `Transformer`'s methods.
      x: events `(batch, event_size)`.
      context: `(batch, context_size)`, if the network has context.
      compile_loop: whether XLA shall compile the loop, in graphs: many products of little work.
        Layers of the same sizes share it if they have the same `transform`. For transforms of few
        operations.

    Returns:
      `y` and `log dy/dx`, both `(batch, event_size)`.
    """
    size, block, count = made.event_size, made.block_size, made.parameter_count
    batch = ps.shape(x)[0]
    values = permute_features(tf.transpose(x), made.order)
    values = tf.pad(values, [[0, made.blocks * block - size], [0, 0]])
    values = tf.reshape(values, [made.blocks, block, batch])
    *hidden, output = _sorted_layers(made)

    # Without context, the first block's parameters are biases alone.
    first = 1 + made.first_degree
    bias = tf.reshape(output.bias, [made.blocks, block, count, 1])
    y = log_det = values[:first]
    if first:  # Of products with nothing, TensorFlow's optimizer may end the process.
        y, log_det = transform(y, bias[:first])
    if made.degrees == 0:
        return _unsorted(made, y, log_det, batch)

    # What is known before the loop, the first block and the context, is added to a bias.
    known = tf.cast(tf.reshape(y, [first * block, batch]), made.compute_dtype)
    kernel, last_column = hidden[0].kernel, made.blocks * block
    start = tf.matmul(kernel[:, : first * block], known)
    if context is not None:
        start += tf.matmul(
            kernel[:, last_column:], tf.cast(context, made.compute_dtype), transpose_b=True
        )
    hidden[0] = _Dense(kernel[:, first * block : last_column], hidden[0].bias + start)
    output = _Dense(
        output.kernel[first * block * count :],
        tf.reshape(bias[first:], [made.degrees * block, count, 1]),
    )

    adds = tuple(map(made.adds, range(len(hidden))))
    sizes = _Sizes(made.degrees, block, count, made.compute_dtype, made.activation, adds)
    arguments = (sizes, transform), values[first:], *tf.nest.flatten([hidden, output])
    # XLA hands out nothing from inside of loops, as gradients would need: they run the loop again.
    if compile_loop or in_xla():
        rest, rest_log_det = call_compiled(_loop, *arguments, shapes=(0, 0))
    else:
        rest, rest_log_det = _loop(*arguments)
    y, log_det = tf.concat([y, rest], 0), tf.concat([log_det, rest_log_det], 0)
    return _unsorted(made, y, log_det, batch)


def solve_by_passes(
    network: Callable[[tf.Tensor], tf.Tensor],
    transform: Transform,
    x: tf.Tensor,
    size: int | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """What `solve` finds, for any autoregressive network, in `size` calls, one a column."""
    size = x.shape[-1] if size is None else size

    def one_pass(i: tf.Tensor, y: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return i + 1, *transform(x, network(y))

    zeros = tf.zeros_like(x)
    _, y, log_det = tf.while_loop(
        lambda i, *_: i < size, one_pass, (0, zeros, zeros), maximum_iterations=size
    )
    return y, log_det


class _Dense(NamedTuple):
    kernel: tf.Tensor  # (to, from)
    bias: tf.Tensor  # (to, 1), or (to, batch)


class _Sizes(NamedTuple):
    """What the loop needs to know of a MADE; the same for most layers of a flow."""

    degrees: int
    block: int
    parameter_count: int
    dtype: str
    activation: Callable[[tf.Tensor], tf.Tensor]
    adds: tuple[bool, ...]  # Of each hidden layer, whether the one two before is added.


def _loop(
    key: tuple[_Sizes, Transform], x: tf.Tensor, *weights: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Values and log-slopes of all blocks behind the first, `(degrees, block, batch)` as `x`.

    An iteration computes a group of degrees. It begins with one product for every layer, with all
    that earlier iterations computed; what its own degrees say to each other is added one by one.
    """
    sizes, transform = key
    if x.shape[-1] == 0:
        return x, x
    *hidden, output = map(_Dense, weights[::2], weights[1::2])
    batch, block = ps.shape(x)[-1], sizes.block
    per_group = min(_DEGREES_PER_ITERATION, sizes.degrees)
    groups = -(-sizes.degrees // per_group)
    kernels = [_grouped_kernel(layer.kernel, sizes.degrees, per_group) for layer in hidden]
    kernels.append(_grouped_kernel(output.kernel, sizes.degrees, per_group))
    biases = [_grouped(layer.bias, sizes.degrees, per_group) for layer in hidden]
    output_bias = _grouped(output.bias, sizes.degrees, per_group)
    x = _grouped(tf.reshape(x, [sizes.degrees * block, batch]), sizes.degrees, per_group)

    def iteration(i: tf.Tensor, *computed: tf.Tensor) -> tuple[tf.Tensor, ...]:
        y, _, *units = computed
        sums = [
            tf.matmul(earlier[i], tf.cast(tf.reshape(read, [-1, batch]), earlier.dtype))
            for (earlier, _), read in zip(kernels, [tf.cast(y, sizes.dtype), *units], strict=True)
        ]
        sums[:-1] = [total + bias[i] for total, bias in zip(sums, biases, strict=False)]
        within = [kernel[i] for _, kernel in kernels]
        # What this group computed so far: columns, then the units of every hidden layer.
        new: list[list[tf.Tensor]] = [[] for _ in kernels]
        log_dets = []

        def output_of(layer: int, degree: int) -> tf.Tensor:
            width = sums[layer].shape[0] // per_group
            rows = slice(degree * width, (degree + 1) * width)
            return _add_product(sums[layer][rows], within[layer][rows], new[layer])

        for degree in range(per_group):
            pre_activations: list[tf.Tensor] = []
            for layer in range(len(hidden)):
                value = output_of(layer, degree)
                if sizes.adds[layer]:
                    value += pre_activations[layer - 2]
                pre_activations.append(value)
                new[layer + 1].append(sizes.activation(value))
            columns = slice(degree * block, (degree + 1) * block)
            parameters = output_of(len(hidden), degree)
            parameters = tf.reshape(parameters, [block, sizes.parameter_count, batch])
            value, log_det = transform(x[i][columns], parameters + output_bias[i][columns])
            new[0].append(value)
            log_dets.append(log_det)
        values, *features = [tf.concat(parts, 0) for parts in new]
        results = (values, tf.concat(log_dets, 0), *features)
        return i + 1, *(
            _set_row(buffer, i, result) for buffer, result in zip(computed, results, strict=True)
        )

    columns = tf.zeros(ps.stack([groups, per_group * block, batch]), x.dtype)
    units = [tf.zeros(ps.stack([groups, bias.shape[1], batch]), sizes.dtype) for bias in biases]
    _, y, log_det, *_ = tf.while_loop(
        lambda i, *_: i < groups,
        iteration,
        (0, columns, columns, *units),
        maximum_iterations=groups,
    )
    shape = [groups * per_group, block, batch]
    return tf.reshape(y, shape)[: sizes.degrees], tf.reshape(log_det, shape)[: sizes.degrees]


def _grouped(rows: tf.Tensor, degrees: int, per_group: int) -> tf.Tensor:
    """Rows `(degrees * n, ...)` by group, `(groups, per_group * n, ...)`; zeros fill them."""
    n = rows.shape[0] // degrees
    groups = -(-degrees // per_group)
    more = (groups * per_group - degrees) * n
    rows = tf.pad(rows, [[0, more], *[[0, 0]] * (rows.shape.rank - 1)])
    return tf.reshape(rows, ps.concat([[groups, per_group * n], ps.shape(rows)[1:]], 0))


def _grouped_kernel(kernel: tf.Tensor, degrees: int, per_group: int) -> tuple[tf.Tensor, tf.Tensor]:
    """By what each group reads all columns, and by what it reads its own.

    Masks make both right: columns of later groups have weight 0.
    """
    by_column = _grouped(tf.transpose(kernel), degrees, per_group)
    groups, width = by_column.shape[:2]
    whole = tf.transpose(tf.reshape(by_column, [groups * width, -1]))
    whole = _grouped(whole, degrees, per_group)
    own = tf.reshape(whole, [groups, -1, groups, width])
    return whole, tf.gather(own, tf.range(groups), axis=2, batch_dims=1)


def _set_row(buffer: tf.Tensor, i: tf.Tensor, row: tf.Tensor) -> tf.Tensor:
    """The buffer with another row `i`.

    Derivatives are dense, unlike those of `tf.tensor_scatter_nd_update`, which TensorFlow cannot
    differentiate forward over reverse.
    """
    here = tf.reshape(tf.range(buffer.shape[0]) == i, [-1, 1, 1])
    return tf.where(here, row[None], buffer)


def _add_product(total: tf.Tensor, kernel: tf.Tensor, parts: list[tf.Tensor]) -> tf.Tensor:
    """`total`, and the product of the kernel's first columns with the parts that are known."""
    if not parts:
        return total
    known = tf.cast(tf.concat(parts, 0), kernel.dtype)
    return total + tf.matmul(kernel[:, : known.shape[0]], known)


def _sorted_layers(made: MADE) -> list[_Dense]:
    """All layers with rows sorted by degree, and equally many of every degree.

    Where degrees have different numbers of units, units of zeros fill up; columns and outputs are
    put in order and fill up the last block.
    """
    size, count = made.event_size, made.parameter_count
    *hidden, (output_kernel, output_bias) = made.masked_weights()
    columns = [*made.order, *[-1] * (made.blocks * made.block_size - size)]
    # From (P, D) outputs side by side to rows of blocks of (column, parameter).
    outputs = [
        -1 if column < 0 else parameter * size + column
        for column in columns
        for parameter in range(count)
    ]
    read = [*columns, *range(size, size + (made.context_size or 0))]
    layers = []
    for (kernel, bias), unit_degrees in zip(hidden, made.hidden_degrees, strict=True):
        units = _units_by_degree(unit_degrees - made.first_degree, made.degrees)
        layers.append(_sorted(kernel, bias, read, units))
        read = units
    return [*layers, _sorted(output_kernel, output_bias, read, outputs)]


def _units_by_degree(degree_of_unit: np.ndarray, degrees: int) -> list[int]:
    """The units of degree 0, then 1, ..., each filled up with -1 to the same number."""
    units = [np.flatnonzero(degree_of_unit == degree).tolist() for degree in range(degrees)]
    width = max(map(len, units))
    return [unit for some in units for unit in [*some, *[-1] * (width - len(some))]]


def _sorted(kernel: tf.Tensor, bias: tf.Tensor, read: list[int], units: list[int]) -> _Dense:
    """A layer of these units, which reads these; -1 stands for a unit of zeros."""
    kernel = pick_rows(tf.transpose(pick_rows(kernel, read)), units)
    return _Dense(kernel, pick_rows(bias[:, None], units))


def _unsorted(
    made: MADE, y: tf.Tensor, log_det: tf.Tensor, batch: int | tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """`(blocks, block, batch)` in order to `(batch, columns)` as they come."""
    places, shape = np.argsort(made.order), [made.blocks * made.block_size, batch]
    y, log_det = (
        tf.transpose(permute_features(tf.reshape(part, shape)[: made.event_size], places))
        for part in (y, log_det)
    )
    return y, log_det
