"""Joint distributions as densities of one unconstrained vector."""

from __future__ import annotations

import functools
import re
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows.bijectors import Support
from tfp_flows.ops.internals import joint_bijector, joint_parts

__all__ = ["Joint", "check_joint", "part_names", "unflatten"]

Joint: TypeAlias = tfd.JointDistribution | tfp.experimental.distributions.JointDistributionPinned

_SPHERES = (tfd.VonMisesFisher, tfd.PowerSpherical, tfd.SphericalUniform)


def check_joint(joint: Any) -> tf.DType:
    """Return the dtype of the parts of a joint distribution that are not pinned.

    Raises:
      TypeError: `joint` is no joint distribution.
      ValueError: a part is discrete, on a sphere, a joint distribution itself, or a mixture whose
        components have different supports, or has no fixed shape; parts have different dtypes or a
        batch shape; or nothing is left to infer.
    """
    if not isinstance(joint, Joint):
        raise TypeError(
            "`joint` must be a tfd.JointDistribution, with data pinned by `experimental_pin`. "
            f"Received: joint={joint!r}"
        )
    parts = joint_parts(joint)
    if not parts:
        raise ValueError(
            "`joint` must have a part that is not pinned: nothing is left to infer. "
            f"Received: joint={joint!r}"
        )
    for name, part in parts.items():
        if tf.nest.is_nested(part.dtype):
            raise ValueError(
                "`joint` must have tensors as parts: write a joint distribution inside of another "
                f"out. Received: {name!r} of {type(part).__name__.lstrip('_')}"
            )
        if isinstance(_unwrap(part), _SPHERES):
            raise ValueError(
                "`joint` must have no parts on spheres: TFP maps R^D to a part of a sphere alone. "
                f"Received: {name!r} of {type(part).__name__.lstrip('_')}"
            )
        if re.search("SI+S|IS+I", _nesting(part)):
            raise ValueError(
                "`joint` must have no tfd.Sample and tfd.Independent one within another more than "
                "once: TFP's bijector of these gives wrong densities. Make one shape of them, "
                f"tfd.Sample(d, [2, 3]) for example. Received: {name!r}"
            )
        if _is_mixture(part) and _shared_bijector(part) is None:
            raise ValueError(
                "`joint` must have mixtures of continuous components alone that share their "
                "support, and have no limits of their own. "
                f"Received: {name!r} of {type(part).__name__.lstrip('_')}"
            )
        if _is_discrete(part):
            raise ValueError(
                "`joint` must have continuous parts alone: a flow has no density of discrete ones. "
                f"Sum over {name!r}, with a tfd.MixtureSameFamily for example, or pin it. "
                f"Received: {name!r} of {type(part).__name__.lstrip('_')}"
            )
    dtypes = {part.dtype for part in parts.values()}
    if len(dtypes) > 1:
        raise ValueError(
            "`joint` must have parts of one dtype. "
            f"Received: {', '.join(sorted(dtype.name for dtype in dtypes))}"
        )
    for shape in tf.nest.flatten(joint.batch_shape):
        if shape != ():
            raise ValueError(
                "`joint` must have batch shape (): make batches events by tfd.Independent, or use "
                f"an AutoBatched joint distribution. Received: batch_shape={joint.batch_shape}"
            )
    for shape in tf.nest.flatten(joint.event_shape):
        if not shape.is_fully_defined():
            raise ValueError(
                "`joint` must have parts of fixed shapes. "
                f"Received: event_shape={joint.event_shape}"
            )
    (dtype,) = dtypes
    return dtype


def unflatten(joint: Joint, dtype: tf.DType) -> tuple[tfb.Bijector, list[int]]:
    """The bijector from unconstrained vectors to the parts, and how many columns each part has."""
    simplices: dict[int, Support] = {}  # They have variables, which are made once.
    for part in joint_parts(joint).values():
        size = _simplex_size(part)
        if size is not None:
            simplices[size] = Support(size - 1, "simplex", dtype=dtype)
    constrain = joint_bijector(joint, functools.partial(_bijector_of, simplices))
    shapes = constrain.inverse_event_shape(joint.event_shape)
    flat = tf.nest.flatten(shapes)
    sizes = [int(np.prod(shape.as_list())) for shape in flat]
    numbers = list(range(len(flat)))
    steps = [
        constrain,
        tfb.Restructure(tf.nest.pack_sequence_as(shapes, numbers), numbers),
        tfb.JointMap([tfb.Reshape(shape, [n]) for shape, n in zip(flat, sizes, strict=True)]),
        tfb.Split(sizes),
    ]
    return tfb.Chain(steps, name="unflatten"), sizes


def _bijector_of(simplices: dict[int, Support], part: tfd.Distribution) -> tfb.Bijector | None:
    size = _simplex_size(part)
    if size is not None:
        return simplices[size]
    if _is_mixture(part):
        return _shared_bijector(part)
    if "SI" in _nesting(part):  # TFP counts the log-det of these once for every sample.
        part = _unwrap(part)
    return part.experimental_default_event_space_bijector()


def _is_mixture(part: tfd.Distribution) -> bool:
    """Whether it is a mixture of anything but proportions, which TFP has no bijector for."""
    mixture = isinstance(_unwrap(part), tfd.Mixture | tfd.MixtureSameFamily)
    return mixture and _simplex_size(part) is None


def _shared_bijector(part: tfd.Distribution) -> tfb.Bijector | None:
    """The bijector of all components of a mixture, for which TFP has none; None if they differ."""
    found = [each.experimental_default_event_space_bijector() for each in _components(part)]
    # Limits that each component has of its own are a batch.
    same = all(each is not None and each == found[0] for each in found)
    return found[0] if same and found[0].experimental_batch_shape() == () else None


def part_names(joint: Joint) -> list[str]:
    """Names of the tensors that make up one draw, in the order of `tf.nest.flatten`."""
    names = list(joint_parts(joint))
    return sorted(names) if isinstance(joint.event_shape, dict) else names


def _is_discrete(part: tfd.Distribution) -> bool:
    if not part.dtype.is_floating:
        return True
    # Counts may be floating-point numbers: no bijector of TFP's leads to them.
    known = _simplex_size(part) is not None or _is_mixture(part)
    return not known and part.experimental_default_event_space_bijector() is None


def _simplex_size(part: tfd.Distribution) -> int | None:
    """Number of proportions that sum to 1, or None.

    With NumPy 2.4 TFP 0.25 cannot construct the bijector that it has for them.
    """
    known = all(isinstance(_unwrap(each), tfd.Dirichlet) for each in _components(part))
    return int(_unwrap(part).event_shape[-1]) if known else None


def _components(part: tfd.Distribution) -> list[tfd.Distribution]:
    """Of a mixture, as single ones or in batches; else the part itself."""
    part = _unwrap(part)
    if isinstance(part, tfd.MixtureSameFamily):
        return [part.components_distribution]
    return list(part.components) if isinstance(part, tfd.Mixture) else [part]


def _nesting(part: tfd.Distribution) -> str:
    """S for a Sample and I for an Independent, from the outside on."""
    found = ""
    while isinstance(part, tfd.Independent | tfd.Sample):
        found += "S" if isinstance(part, tfd.Sample) else "I"
        part = part.distribution
    return found


def _unwrap(part: tfd.Distribution) -> tfd.Distribution:
    while isinstance(part, tfd.Independent | tfd.Sample):
        part = part.distribution
    return part
