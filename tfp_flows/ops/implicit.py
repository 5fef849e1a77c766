"""Roots that have the derivatives of the function which their equation defines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from tfp_flows.ops.internals import count_accumulators

__all__ = ["implicit_root"]

Equation = Callable[..., tuple[tf.Tensor, tf.Tensor]]

# Newton steps in forward mode: 3 are right to order 7.
_STEPS = 3


def _divide(slope: tf.Tensor, v: tf.Tensor, adjoint: bool) -> tf.Tensor:
    del adjoint
    return v / slope


def implicit_root(
    equation: Equation,
    root: tf.Tensor,
    *sources: tf.Tensor,
    solve: Callable[[tf.Tensor, tf.Tensor, bool], tf.Tensor] = _divide,
) -> tf.Tensor:
    """Return `root`, with its derivatives by the `sources` of which it is a function.

    The root solves `F(x; s) = 0`. By the implicit function theorem `dx/ds = -(∂F/∂x)⁻¹ ∂F/∂s`. This
    expression is evaluated at the root that this function returns, not at a constant, so that it
    can be differentiated in turn: derivatives are exact to any order. How the root was found is not
    differentiated.

    A `tf.autodiff.ForwardAccumulator` does not follow custom gradients. Where one is at work, the
    root is the end of three Newton steps from the constant root, all of them differentiated. If
    derivatives are exact to order `n` before a step, they are to order `2 n + 1` after it: here to
    order 7, counting those of tapes inside.

    Args:
      equation: from `x` and the sources to `F` and its derivative by `x`. It must depend on nothing
        else that is differentiated: what it captures counts as constant.
      root: a solution, to the accuracy of its dtype.
      sources: tensors.
      solve: from the derivative `J`, `v` and `adjoint` to `u` with `J u = v`, or `Jᵀ u = v`. By
        default a division: the equation is elementwise.

    Raises:
      NotImplementedError: more than one `tf.autodiff.ForwardAccumulator` follows the sources.

    Example:
      >>> two = tf.constant(2.0)
      >>> x = implicit_root(lambda x, s: (x * x - s, 2 * x), tf.sqrt(two), two)
    """
    root = tf.stop_gradient(root)
    accumulators = count_accumulators(*sources)
    if accumulators > 1:
        raise NotImplementedError(
            "A root found by iteration has derivatives in one `tf.autodiff.ForwardAccumulator`, in "
            "which tapes may be nested: TensorFlow's nested accumulators lose terms of long "
            f"expressions. Received: {accumulators} accumulators that follow one tensor"
        )
    if accumulators:
        for _ in range(_STEPS):
            residual, slope = equation(root, *sources)
            root -= solve(slope, residual, False)
        return root

    results = [root]

    @tf.custom_gradient
    def of_sources(*_: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Sequence[tf.Tensor]]]:
        def gradient(upstream: tf.Tensor) -> Sequence[tf.Tensor]:
            # At the result, which depends on the sources, as second derivatives must.
            slope, pull_back = _equation_with_vjp(equation, results[0], sources)
            return pull_back(-solve(slope, upstream, True))

        return tf.identity(root), gradient

    results[0] = of_sources(*sources)
    return results[0]


def _equation_with_vjp(
    equation: Equation, x: tf.Tensor, sources: Sequence[tf.Tensor]
) -> tuple[tf.Tensor, Callable[[tf.Tensor], Sequence[tf.Tensor]]]:
    """The derivative by `x`, and the function from `v` to `(∂F/∂s)ᵀ v` for every source."""
    copies = [tf.identity(source) for source in sources]  # Of which `x` is no function.
    zero = tf.UnconnectedGradients.ZERO
    if not tf.executing_eagerly():
        # No tape: where TensorFlow transposes a gradient for forward mode, tapes record nothing.
        residual, slope = equation(x, *copies)
        return slope, lambda v: tf.gradients(residual, copies, v, unconnected_gradients=zero)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(copies)
        residual, slope = equation(x, *copies)
    return slope, lambda v: tape.gradient(residual, copies, v, unconnected_gradients=zero)
