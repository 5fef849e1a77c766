"""The sequential direction of an autoregressive map, in the work of about one network pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfp_flows.networks.made import MADE
from tfp_flows.ops.internals import prefer_static as ps
from tfp_flows.ops.internals import tape_may_record
from tfp_flows.ops.xla import call_compiled, compiles_pieces, with_static_shape_of

__all__ = ["solve", "solve_by_passes"]

Transform = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

# Steps that one turn of the loop takes. Measured with D = 43, 10 layers of 2×128 units and 512
# rows: 2 to 3 are best; 1 takes twice as long, for every step then reads all hidden units.
_STEPS_A_TURN = 3


def solve(
    made: MADE,
    transform: Transform,
    x: tf.Tensor,
    context: tf.Tensor | None = None,
    *,
    fuse: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Find the `y` with `y_i = transform(x_i; parameters_i)`, `parameters = made(y)`.

    The plain way is to start from any `y` and to repeat `y = transform(x; made(y))` D times: every
    pass sets one more column right. But a unit of the network depends on the columns up to its
    degree only, so that it is final once those are: here, each unit is computed once, when its
    turn comes. In a loop over blocks of columns, step `i` computes the hidden units of degree
    `i - 1`, layer by layer, from units and columns that are known, then block `i`'s parameters and
    values.

    Args:
      made: the network.
      transform: elementwise, `x` and parameters to `y` and `log dy/dx`; shapes as those of a
        `Transformer`'s methods.
      x: events `(batch, event_size)`.
      context: `(batch, context_size)`, if the network has context.
      fuse: whether XLA shall compile the loop, in graphs: many steps of little work. Layers of the
        same sizes share it if they have the same `transform`. For transforms of few operations, and
        not under a `tf.GradientTape`.

    Returns:
      `y` and `log dy/dx`, both `(batch, event_size)`.
    """
    # Units are rows and events columns here: what one step computes is contiguous.
    size, block, slots = made.event_size, made.block_size, made.slots
    batch = ps.shape(x)[0]
    by_order = tf.gather(tf.transpose(x), made.order)
    by_order = tf.pad(by_order, [[0, made.blocks * block - size], [0, 0]])
    values = tf.reshape(by_order, [made.blocks, block, batch])
    *hidden, output = _layers(made)

    # Without context, the first block's parameters are biases alone.
    head = 1 + made.first_degree
    bias = tf.reshape(output.bias, [made.blocks, block, made.parameter_count, 1])
    done, done_log_det = transform(values[:head], bias[:head])
    if slots == 0:
        return _by_column(made, done, done_log_det, batch)
    known = tf.reshape(done, [head * block, batch])
    start = tf.matmul(hidden[0].kernel[:, : head * block], tf.cast(known, made.compute_dtype))
    if context is not None:
        columns = tf.cast(tf.transpose(context), made.compute_dtype)
        start += tf.matmul(hidden[0].kernel[:, made.blocks * block :], columns)
    kernel = hidden[0].kernel[:, head * block : made.blocks * block]
    hidden[0] = _Dense(kernel, hidden[0].bias + start)
    output = _Dense(
        output.kernel[head * block * made.parameter_count :],
        tf.reshape(bias[head:], [slots * block, made.parameter_count, 1]),
    )

    adds = tuple(map(made.adds, range(len(hidden))))
    sizes = _Sizes(slots, block, made.parameter_count, made.compute_dtype, made.activation, adds)
    # Where a tape records, second derivatives may be wanted, which the fused loop does not have.
    fuse = fuse and compiles_pieces() and not tape_may_record()
    run = _fused_loop if fuse else _loop
    tensors = tf.nest.flatten([hidden, output])
    later, later_log_det = run((sizes, transform), values[head:], *tensors)
    y = tf.concat([done, later], 0)
    return _by_column(made, y, tf.concat([done_log_det, later_log_det], 0), batch)


def solve_by_passes(
    network: Callable[[tf.Tensor], tf.Tensor], transform: Transform, x: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """What `solve` finds, for any autoregressive network, in as many calls as there are columns."""
    size = x.shape[-1]

    def one_pass(i: tf.Tensor, y: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return i + 1, *transform(x, network(y))

    zeros = tf.zeros_like(x)
    _, y, log_det = tf.while_loop(
        lambda i, *_: i < size, one_pass, (0, zeros, zeros), maximum_iterations=size
    )
    return y, log_det


class _Dense(NamedTuple):
    kernel: tf.Tensor
    bias: tf.Tensor


class _Sizes(NamedTuple):
    """What the loop needs to know of a MADE; the same for most layers of a flow."""

    slots: int
    block: int
    count: int
    dtype: str
    activation: Callable[[tf.Tensor], tf.Tensor]
    adds: tuple[bool, ...]  # Of each hidden layer, whether the one two before is added.


def _fused_loop(key: tuple[_Sizes, Transform], *tensors: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`_loop`, compiled by XLA; its gradient runs it again, for XLA keeps what is inside a loop."""

    @tf.custom_gradient
    def solved(*tensors: tf.Tensor) -> tuple:
        def gradient(*upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            upstream = [with_static_shape_of(g, tensors[0]) for g in upstream]
            shapes = range(len(tensors))
            return call_compiled(_loop_gradients, key, *tensors, *upstream, shapes=shapes)

        return call_compiled(_loop, key, *tensors, shapes=(0, 0)), gradient

    return solved(*tensors)


def _loop_gradients(key: tuple[_Sizes, Transform], *tensors: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Gradients by all tensors but the last two, which are upstream."""
    *sources, upstream, log_upstream = tensors
    # Not a tape's: functions may be traced where no tape records.
    gradients = tf.gradients(
        _loop(key, *sources),
        sources,
        [upstream, log_upstream],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return tuple(gradients)


def _loop(
    key: tuple[_Sizes, Transform], x: tf.Tensor, *weights: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """All steps, `_STEPS_A_TURN` in a turn, which computes in bulk what earlier turns say to it."""
    made, transform = key
    if x.shape[-1] == 0:
        return x, x
    *hidden, output = map(_Dense, weights[::2], weights[1::2])
    block, count, batch = made.block, made.count, ps.shape(x)[-1]
    x = tf.reshape(x, [made.slots * block, batch])
    steps = min(_STEPS_A_TURN, made.slots)
    turns = -(-made.slots // steps)
    dtype = made.dtype

    def by_turn(rows: tf.Tensor) -> tf.Tensor:
        """`(slots * n, ...)` padded and split: `(turns, steps * n, ...)`."""
        n = rows.shape[0] // made.slots
        paddings = [[0, (turns * steps - made.slots) * n], *[[0, 0]] * (rows.shape.rank - 1)]
        return tf.reshape(
            tf.pad(rows, paddings), ps.concat([[turns, steps * n], ps.shape(rows)[1:]], 0)
        )

    def split(kernel: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What a turn reads of all earlier ones, and of itself: `(turns, rows, columns)` both."""
        kernel = by_turn(kernel)
        n = kernel.shape[-1] // made.slots
        kernel = tf.pad(kernel, [[0, 0], [0, 0], [0, (turns * steps - made.slots) * n]])
        within = tf.reshape(kernel, [turns, kernel.shape[1], turns, steps * n])
        return kernel, tf.gather(within, tf.range(turns), axis=2, batch_dims=1)

    kernels = [split(layer.kernel) for layer in (*hidden, output)]
    biases = [by_turn(layer.bias) for layer in hidden]
    x, output_bias = by_turn(x), by_turn(output.bias)
    widths = [layer.kernel.shape[0] // made.slots for layer in hidden]

    def turn(i: tf.Tensor, *buffers: tf.Tensor) -> tuple[tf.Tensor, ...]:
        y, _, *units = buffers
        before = [tf.reshape(y, [turns * steps * block, batch])]
        before += [tf.reshape(unit, [-1, batch]) for unit in units]
        before[0] = tf.cast(before[0], dtype)
        sums = [
            tf.matmul(kernel[i], tf.cast(known, kernel.dtype))
            for (kernel, _), known in zip(kernels, before, strict=True)
        ]
        sums[:-1] = [total + bias[i] for total, bias in zip(sums, biases, strict=False)]
        within = [kernel[i] for _, kernel in kernels]
        new: list[list[tf.Tensor]] = [[] for _ in kernels]  # Columns, then units layer by layer.
        log_dets = []
        for step in range(steps):
            pre_activations = []
            for layer, width in enumerate(widths):
                rows = slice(step * width, (step + 1) * width)
                value = _add(sums[layer][rows], within[layer][rows], new[layer])
                if made.adds[layer]:
                    value += pre_activations[layer - 2]
                pre_activations.append(value)
                new[layer + 1].append(made.activation(value))
            rows = slice(step * block * count, (step + 1) * block * count)
            parameters = _add(sums[-1][rows], within[-1][rows], new[-1])
            parameters = tf.reshape(parameters, [block, count, batch])
            here = slice(step * block, (step + 1) * block)
            value, one_log_det = transform(x[i][here], parameters + output_bias[i][here])
            new[0].append(value)
            log_dets.append(one_log_det)
        columns, *features = [tf.concat(parts, 0) for parts in new]
        results = (columns, tf.concat(log_dets, 0), *features)
        return i + 1, *(
            tf.tensor_scatter_nd_update(buffer, [[i]], value[None])
            for buffer, value in zip(buffers, results, strict=True)
        )

    columns = tf.zeros(ps.concat([[turns, steps * block], [batch]], 0), x.dtype)
    units = [tf.zeros(ps.stack([turns, steps * width, batch]), dtype) for width in widths]
    _, y, log_det, *_ = tf.while_loop(
        lambda i, *_: i < turns,
        turn,
        (0, columns, columns, *units),
        maximum_iterations=turns,
    )
    shape = [turns * steps, block, batch]
    return tf.reshape(y, shape)[: made.slots], tf.reshape(log_det, shape)[: made.slots]


def _add(total: tf.Tensor, kernel: tf.Tensor, parts: list[tf.Tensor]) -> tf.Tensor:
    """`total`, and the product of the kernel's first columns with the parts that are known."""
    if not parts:
        return total
    known = tf.cast(tf.concat(parts, 0), kernel.dtype)
    return total + tf.matmul(kernel[:, : known.shape[0]], known)


def _layers(made: MADE) -> list[_Dense]:
    """Kernels `(to, from)` and biases `(to, 1)`, with equally many units of every degree.

    Where degrees have different numbers of units, units of zeros fill up; columns and outputs are
    put in order and fill up the last block.
    """
    size, count, slots = made.event_size, made.parameter_count, max(made.slots, 1)
    *hidden, (output_kernel, output_bias) = made.masked_weights()
    padded = made.blocks * made.block_size
    columns = [*made.order, *[-1] * (padded - size)]
    columns += range(size, size + (made.context_size or 0))
    layers, places = [], columns
    for (kernel, bias), degrees in zip(hidden, made.hidden_degrees, strict=True):
        units = _places(degrees - made.first_degree, slots)
        layers.append(
            _Dense(
                _pick(_pick(tf.transpose(kernel), places, 1), units, 0),
                _pick(bias[:, None], units, 0),
            )
        )
        places = units
    # From (P, D) outputs side by side to rows of blocks of (column, parameter).
    outputs = [
        -1 if column < 0 else parameter * size + column
        for column in columns[:padded]
        for parameter in range(count)
    ]
    kernel = _pick(_pick(tf.transpose(output_kernel), places, 1), outputs, 0)
    return [*layers, _Dense(kernel, _pick(output_bias[:, None], outputs, 0))]


def _places(slot_of_unit: np.ndarray, slots: int) -> list[int]:
    """The units of each slot in turn, all slots filled up with -1 to the same number."""
    members = [np.flatnonzero(slot_of_unit == slot).tolist() for slot in range(slots)]
    width = max(map(len, members))
    return [unit for units in members for unit in [*units, *[-1] * (width - len(units))]]


def _pick(x: tf.Tensor, places: list[int], axis: int) -> tf.Tensor:
    """The entries at `places` along an axis, zeros for -1."""
    if list(places) == list(range(x.shape[axis])):
        return x
    paddings = [[0, int(i == axis)] for i in range(2)]
    size = x.shape[axis]
    return tf.gather(tf.pad(x, paddings), [size if p < 0 else p for p in places], axis=axis)


def _by_column(
    made: MADE, y: tf.Tensor, log_det: tf.Tensor, batch: int | tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """`(blocks, block, batch)` in order to `(batch, columns)` as they come."""
    places = np.argsort(made.order)
    return tuple(
        tf.transpose(tf.gather(tf.reshape(part, [-1, batch]), places)) for part in (y, log_det)
    )
