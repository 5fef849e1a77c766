"""Names of the networks of a distribution that tell where they stand."""

from __future__ import annotations

import re

import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows.distributions.chain import flatten_chain
from tfp_flows.networks import Conditioner

__all__ = ["name_layers"]


def name_layers(distribution: tfd.Distribution) -> None:
    """Name the network of the k-th bijector from the data "coupling_k_conditioner", for a coupling.

    Those outside of bijectors are named after their distribution, and several in one are numbered.
    Names of variables, which were made before, and files of weights stay what they are.
    """
    taken: set[str] = set()
    bijector = getattr(distribution, "bijector", None)
    steps = flatten_chain(bijector) if isinstance(bijector, tfb.Bijector) else []
    base = getattr(distribution, "distribution", distribution)
    owners = [(f"{step.name}_{k}", step) for k, step in enumerate(steps, start=1)]
    for prefix, owner in (*owners, (base.name, base), (distribution.name, distribution)):
        _name_within(owner, re.sub(r"[^\w.-]", "_", prefix), taken)


def _name_within(owner: tf.Module, prefix: str, taken: set[str]) -> None:
    for part in owner.submodules:
        if not isinstance(part, Conditioner) or part.layer.name in taken:
            continue
        name, count = f"{prefix}_conditioner", 1
        while name in taken:
            count += 1
            name = f"{prefix}_conditioner_{count}"
        part.layer.name = name
        taken.add(name)
