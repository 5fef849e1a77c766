"""FlowJAX: its ready-made flows, under `jax.jit`, with buffers of the parameters given back."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import paramax
from flowjax import flows
from flowjax.bijections import RationalQuadraticSpline
from flowjax.distributions import Normal
from protocol import Program, Setting

PACKAGES = ("jax", "flowjax", "equinox", "optax")


def build(setting: Setting) -> Program:
    """Mode: `jit`."""
    flow, note = make_flow(setting)
    parameters, static = eqx.partition(
        flow, eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable)
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(parameters))
    optimizer = optax.adam(setting.learning_rate)
    n = setting.batch_size
    x = jnp.asarray(np.random.default_rng(0).normal(size=(n, setting.event_size)), "float32")
    state = {"parameters": parameters, "optimizer": optimizer.init(parameters)}

    def distribution(parameters):
        return paramax.unwrap(eqx.combine(parameters, static))

    def loss(parameters, x):
        return -distribution(parameters).log_prob(x).mean()

    def step(parameters, optimizer_state, x):
        value, gradients = jax.value_and_grad(loss)(parameters, x)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, parameters)
        return eqx.apply_updates(parameters, updates), optimizer_state, value

    jitted_step = jax.jit(step, donate_argnums=(0, 1))

    def train() -> None:
        state["parameters"], state["optimizer"], value = jitted_step(
            state["parameters"], state["optimizer"], x
        )
        jax.block_until_ready((state, value))

    log_prob = jax.jit(lambda p, x: distribution(p).log_prob(x))
    sample = jax.jit(lambda p, key: distribution(p).sample(key, (n,)))
    both = jax.jit(lambda p, key: distribution(p).sample_and_log_prob(key, (n,)))
    key = jax.random.key(0)
    tasks = {
        "train": train,
        "log_prob": lambda: wait(log_prob(state["parameters"], x)),
        "sample": lambda: wait(sample(state["parameters"], key)),
        "sample_and_log_prob": lambda: wait(both(state["parameters"], key)),
    }
    return Program(count, tasks, note=note)


def make_flow(setting: Setting):
    """The flow, and how it differs from the others."""
    base = Normal(jnp.zeros(setting.event_size))
    sizes = {
        "base_dist": base,
        "flow_layers": setting.layers,
        "nn_width": setting.hidden_units[0],
        "nn_depth": len(setting.hidden_units),
    }
    key = jax.random.key(0)
    if setting.family == "maf":
        return flows.masked_autoregressive_flow(key, **sizes), "random permutations"
    note = "every coupling moves the larger half, random permutations"
    if setting.family == "affine":
        return flows.coupling_flow(key, **sizes), note
    spline = RationalQuadraticSpline(knots=setting.bins - 1, interval=setting.bound)
    return (
        flows.coupling_flow(key, transformer=spline, **sizes),
        f"{note}, {3 * setting.bins + 1} parameters a spline, trained slopes at its ends too",
    )


def wait(result: object) -> None:
    jax.block_until_ready(result)
