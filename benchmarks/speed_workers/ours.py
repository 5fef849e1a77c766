"""tfp_flows: ready-made flows, trained by `FlowModel.train_step` with its guard against NaN."""

from __future__ import annotations

import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from protocol import Program, Setting

from tfp_flows import Flow, FlowModel, flows

PACKAGES = ("tensorflow", "keras")
FIT_STEPS = 100


def build(setting: Setting) -> Program:
    """Modes: `graph` and `xla`."""
    flow = make_flow(setting)
    model, chosen = compiled(flow, setting)
    model.build_optimizer()
    function = {"jit_compile": model.jit_compile, "reduce_retracing": True}
    x = tf.constant(batches(setting, 1)[0])
    n = setting.batch_size
    seed = tf.constant([0, 1])  # An argument: a constant's noise could be folded into the graph.
    train_step = tf.function(model.train_step, autograph=False, **function)  # As Keras does.
    log_prob = tf.function(flow.log_prob, **function)
    sample = tf.function(lambda seed: flow.sample(n, seed=seed), **function)
    both = tf.function(lambda seed: flow.sample_and_log_prob(n, seed=seed), **function)
    tasks = {
        "train": lambda: wait(train_step(x)["loss"]),
        "log_prob": lambda: wait(log_prob(x)),
        "sample": lambda: wait(sample(seed)),
        "sample_and_log_prob": lambda: wait(both(seed)[1]),
        "fit": fit_task(setting),
        "bare": bare_task(setting),
    }
    parameters = sum(int(np.prod(v.shape)) for v in flow.trainable_variables)
    return Program(parameters, tasks, chosen=chosen)


def make_flow(setting: Setting) -> Flow:
    sizes = {"layers": setting.layers, "hidden_units": setting.hidden_units, "seed": 0}
    if setting.family == "spline":
        return flows.neural_spline(
            setting.event_size, bins=setting.bins, bound=setting.bound, **sizes
        )
    if setting.family == "ffjord":
        return flows.ffjord(setting.event_size, steps=setting.steps, **sizes)
    factory = {"affine": flows.real_nvp, "maf": flows.maf}[setting.family]
    return factory(setting.event_size, **sizes)


def compiled(flow: Flow, setting: Setting) -> tuple[FlowModel, bool]:
    """The model in the mode of the setting, and whether that is what it chooses by itself."""
    model = FlowModel(flow)
    model.compile(keras.optimizers.Adam(setting.learning_rate))
    jit = setting.mode == "xla"
    chosen = bool(model.jit_compile) == jit
    model.jit_compile = jit
    return model, chosen


def batches(setting: Setting, steps: int) -> np.ndarray:
    shape = (steps, setting.batch_size, setting.event_size)
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def wait(result: tf.Tensor) -> None:
    result.numpy()


def fit_task(setting: Setting) -> Callable[[], float]:
    """`model.fit` on an array: seconds a step of one epoch, without what is done once a call."""
    state = {}

    def run() -> float:
        if not state:  # Made by the first run, which warms up.
            state["model"] = compiled(make_flow(setting), setting)[0]
            state["x"] = batches(setting, FIT_STEPS).reshape(-1, setting.event_size)
        clock = Clock()
        state["model"].fit(state["x"], batch_size=setting.batch_size, verbose=0, callbacks=[clock])
        return clock.seconds / FIT_STEPS

    return run


class Clock(keras.callbacks.Callback):
    """Seconds that an epoch takes."""

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.seconds = time.perf_counter() - self.start


def bare_task(setting: Setting) -> Callable[[], float]:
    """The same steps as a loop of one's own over one compiled function, without any guard."""
    state = {}

    def make_step() -> Callable[[tf.Tensor], tf.Tensor]:
        flow = make_flow(setting)
        variables = flow.trainable_variables
        optimizer = keras.optimizers.Adam(setting.learning_rate)
        optimizer.build(variables)

        @tf.function(jit_compile=setting.mode == "xla")
        def step(x: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                loss = -tf.reduce_mean(flow.log_prob(x))
            optimizer.apply(tape.gradient(loss, variables), variables)
            return loss

        return step

    def run() -> float:
        if not state:
            state["x"] = [tf.constant(x) for x in batches(setting, FIT_STEPS)]
            state["step"] = make_step()
        start = time.perf_counter()
        for x in state["x"]:
            loss = state["step"](x)
        wait(loss)
        return (time.perf_counter() - start) / FIT_STEPS

    return run
