"""The base class of all bijectors here: value and log-det in one pass, and the context check."""

from __future__ import annotations

import abc
import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tfp_flows.ops import checks
from tfp_flows.ops.copies import Copyable
from tfp_flows.ops.grids import Size, check_shape
from tfp_flows.ops.internals import remember_forward_log_det, remember_inverse_log_det

__all__ = ["Bijector"]

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

Direction = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


class _Construction(abc.ABCMeta):
    """How bijectors are made: in a name scope of their own, and copies with the same variables.

    When TFP slices a chain or a distribution, it makes the bijectors inside again, by
    `type(bijector)(**bijector.parameters)`. New variables must not come of that: `parameters` have
    an entry `copy_of`, which no constructor gets to see.
    """

    def __call__(cls, *args: Any, copy_of: Bijector | None = None, **arguments: Any) -> Any:
        if copy_of is not None:
            same = copy_of.parameters
            return copy_of.copy(**{k: v for k, v in arguments.items() if v is not same.get(k)})
        name = arguments.get("name") or cls._default_name
        with tf.name_scope(name) if name else contextlib.nullcontext():
            return super().__call__(*args, **arguments)

    @property
    def _default_name(cls) -> str | None:
        parameter = cls.__signature__.parameters.get("name")
        return parameter.default if parameter and isinstance(parameter.default, str) else None

    @property
    def __signature__(cls) -> inspect.Signature:
        """The signature of the constructor, for `help`, which would show that of `__call__`."""
        signature = inspect.signature(cls.__init__)  # type: ignore[misc]
        return signature.replace(parameters=list(signature.parameters.values())[1:])


class Bijector(Copyable, tfb.Bijector, metaclass=_Construction):
    """A `tfb.Bijector` whose value and log-determinant come out of the same computation.

    A subclass gives `_forward_and_log_det(x)` and `_inverse_and_log_det(y)`, each returning the
    value and the log-determinant of the *same* direction. TFP asks for the two separately; the
    log-determinant found on the way is left in TFP's own cache, where `forward_log_det_jacobian`
    and `inverse_log_det_jacobian` look first. So a conditioner runs once per `log_prob`, `sample`
    and `sample_and_log_prob`, in a plain `tfb.Chain` and `tfd.TransformedDistribution` too.

    What else it can do a class states in its own body, by attributes that `ops.capabilities`
    describes: `closed_inverse`, `is_monotone`, `independent_over_batch`. All are optional.

    A bijector that can be conditioned has an attribute `context_size` and takes `context=` in both
    methods: a tensor `(..., context_size)` or, where it is a shape, `(..., *context_size)`.

    A bijector equals itself only: to TFP, others of the same class and arguments are equal, which
    says nothing of weights. `copy()` shares all variables; `copy.deepcopy` and `pickle` make an
    independent one, with the arguments of the constructor and the values of the variables.

    Args:
      parameters: the arguments of the subclass's constructor, `dict(locals())` at its start.
        `name` and `validate_args` are read from there.
      **options: as in `tfb.Bijector`: `dtype`, `is_constant_jacobian` and the like, and
        `forward_min_event_ndims`, the rank of an event: 1 here, unless it is given, as 0 for maps
        of scalars.

    Example:
      >>> class Double(Bijector):
      ...     def __init__(self, name="double"):
      ...         parameters = dict(locals())
      ...         super().__init__(parameters=parameters, forward_min_event_ndims=0)
      ...     def _forward_and_log_det(self, x):
      ...         return 2 * x, tf.fill(tf.shape(x), tf.math.log(tf.constant(2, x.dtype)))
      ...     def _inverse_and_log_det(self, y):
      ...         return y / 2, tf.fill(tf.shape(y), -tf.math.log(tf.constant(2, y.dtype)))
    """

    context_size: Size | None = None
    needs_raw_data = False  # True where data must come in their own units, not standardized before.

    def __init__(self, *, parameters: dict[str, Any] | None = None, **options: Any):
        given = parameters or {}
        name = options.pop("name", given.get("name"))
        scope = tf.get_current_name_scope()  # Unique in its graph, as `name` need not be.
        if name and scope.split("/")[-1].startswith(name):
            name = f"{scope}/"
        options.setdefault("validate_args", given.get("validate_args", False))
        if options.get("dtype") is not None:
            options["dtype"] = tf.as_dtype(options["dtype"])  # TFP compares it with others.
        if "inverse_min_event_ndims" not in options:
            options.setdefault("forward_min_event_ndims", 1)
        super().__init__(parameters=parameters, name=name, **options)

    @property
    def is_initialized(self) -> bool:
        """False where `adapt` has to see the first batch of training."""
        return True

    # As of all objects: TFP compares arguments, and so do its caches and those of `tf.function`.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def parameters(self) -> dict[str, Any]:
        """The arguments of the constructor, for TFP, which makes copies of them."""
        return {**(self._parameters or {}), "copy_of": self}

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor: what is needed to build it again, weights aside.

        Raises:
          TypeError: the constructor needs arguments, but did not say which it was given.
        """
        arguments = self._arguments()
        needed = inspect.signature(type(self)).parameters.values()
        missing = [
            parameter.name
            for parameter in needed
            if parameter.default is parameter.empty and parameter.kind not in _VARIADIC
            if parameter.name not in arguments
        ]
        if missing:
            raise TypeError(
                f"The constructor of {type(self).__name__} needs {', '.join(missing)}, which it "
                "must hand on: `super().__init__(parameters=parameters, ...)`, with "
                f"`parameters = dict(locals())` at its start. Received: parameters={arguments}"
            )
        return arguments

    def _arguments(self) -> dict[str, Any]:
        return dict(self._parameters or {})

    @property
    def fixed_structure(self) -> dict[str, Any]:
        """What was chosen or drawn at random once and is no weight: masks, orders, permutations.

        Values are arrays, numbers or None. Weights are only loaded into a model that has the same.
        """
        return {}

    @classmethod
    def _parameter_properties(cls, dtype: tf.DType | None) -> dict[str, Any]:
        return {}

    def directions(self, x: tf.Tensor, *context: tf.Tensor) -> tuple[Direction, Direction]:
        """Forward and inverse map, each with its log-det, of two events that belong together.

        Reversible training calls the first with `x` and the second with what the first returns. A
        bijector that reads the same off both, as a coupling reads its parameters, reads it once.
        """
        return (
            lambda value: self._forward_and_log_det(value, *context),
            lambda value: self._inverse_and_log_det(value, *context),
        )

    def _forward(self, x: tf.Tensor, **kwargs: tf.Tensor) -> tf.Tensor:
        y, log_det = self._forward_and_log_det(x, **kwargs)
        remember_forward_log_det(self, x, log_det, **kwargs)
        return self._without_missing(y, self.forward_min_event_ndims, **kwargs)

    def _inverse(self, y: tf.Tensor, **kwargs: tf.Tensor) -> tf.Tensor:
        x, log_det = self._inverse_and_log_det(y, **kwargs)
        remember_inverse_log_det(self, y, log_det, **kwargs)
        return self._without_missing(x, self.inverse_min_event_ndims, **kwargs)

    def _without_missing(self, value: tf.Tensor, ndims: int, context: Any = None) -> tf.Tensor:
        """NaN for values given a context that has a NaN: these are no draws."""
        if context is None or self.context_size is None:
            return value
        context = tf.convert_to_tensor(context)
        if not context.dtype.is_floating:
            return value
        context_ndims = len(check_shape(self.context_size, "context_size"))
        zero = mark_missing(tf.zeros([], value.dtype), context, context_ndims)
        index = (..., *[tf.newaxis] * ndims)
        return value + zero[index]

    def _forward_log_det_jacobian(self, x: tf.Tensor, **kwargs: tf.Tensor) -> tf.Tensor:
        return self._forward_and_log_det(x, **kwargs)[1]

    def _inverse_log_det_jacobian(self, y: tf.Tensor, **kwargs: tf.Tensor) -> tf.Tensor:
        return self._inverse_and_log_det(y, **kwargs)[1]


def mark_missing(
    log_det: tf.Tensor, context: tf.Tensor | None, context_ndims: int = 1
) -> tf.Tensor:
    """NaN where a value of the context is NaN: a missing context must not give a density.

    Networks can lose a NaN on the way, in a relu say.
    """
    if context is None:
        return log_det
    missing = tf.reduce_any(tf.math.is_nan(context), list(range(-context_ndims, 0)))
    return tf.where(missing, tf.constant(np.nan, log_det.dtype), log_det)


def check_event_size(bijector: tfb.Bijector, x: tf.Tensor, event_size: int) -> tf.Tensor:
    """Return events whose last axis is known to have `event_size` entries.

    Raises:
      ValueError: it has another number, or even how many axes there are is not known. Of an axis
        that is not known before a graph runs, TensorFlow raises an InvalidArgumentError then.
    """
    rank = x.shape.rank
    if rank == 0 or (rank and x.shape[-1] not in (None, event_size)):
        raise ValueError(
            f"{type(bijector).__name__} needs events of size {event_size} on the last axis. "
            f"Received: shape={tuple(x.shape)}"
        )
    return check_events_on_grid(bijector, x, (event_size,))


def check_events_on_grid(
    bijector: tfb.Bijector, x: tf.Tensor, shape: tuple[int | None, ...]
) -> tf.Tensor:
    """Return events whose last axes are known to be `shape`; raise as `check_event_size` does."""
    rank = x.shape.rank
    if rank is None:
        raise ValueError(
            f"{type(bijector).__name__} needs events whose number of axes is known before a graph "
            "runs: call `tf.ensure_shape` on them. Received: a tensor of unknown shape"
        )
    batch = x.shape[: max(rank - len(shape), 0)]
    event = x.shape[len(batch) :]
    if not event.is_compatible_with(shape):
        raise ValueError(
            f"{type(bijector).__name__} needs events of shape {shape}. "
            f"Received: shape={tuple(x.shape)}"
        )
    known = event.merge_with(shape)
    return x if known == event else tf.ensure_shape(x, [*batch, *known])


def check_context(
    bijector: Bijector, context: tf.Tensor | None, dtype: tf.DType
) -> tf.Tensor | None:
    """Return `context` as a tensor of `dtype`; raise a ValueError where it does not fit."""
    size = bijector.context_size
    shape = None if size is None else check_shape(size, "context_size")
    return checks.check_context(context, shape, dtype, f"this {type(bijector).__name__}")
