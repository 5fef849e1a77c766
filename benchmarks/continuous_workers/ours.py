"""Our continuous and residual flows."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from training import LogProb, Step, main

from tfp_flows import FlowModel, bijectors, flows

STEPS = 64  # Of densities that are reported.
OBJECTIVES = {"ours_matching": "flow_matching", "ours_ot_matching": "ot_flow_matching"}


def build(options: dict[str, Any]) -> tuple[int, Step, LogProb]:
    tf.config.threading.set_intra_op_parallelism_threads(options["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(options["threads"])
    keras.utils.set_random_seed(options["seed"])
    name, seed = options["model"], options["seed"]
    size, width = options["event_size"], options["width"]
    if name == "ours_ot_flow":
        flow = flows.ot_flow(size, hidden_units=(width // 2,) * 2, seed=seed)
    elif name == "ours_residual":
        flow = flows.residual(size, layers=8, hidden_units=(width,) * 2, seed=seed)
    else:
        layers = 3 if name in OBJECTIVES else 2
        flow = flows.ffjord(size, hidden_units=(width,) * layers, seed=seed)
    model = FlowModel(flow)
    objective = OBJECTIVES.get(name)
    averages = objective is not None and options["averages"]
    optimizer = keras.optimizers.Adam(beta_2=0.99, use_ema=averages, ema_momentum=0.999)
    model.compile(optimizer, loss=objective, jit_compile=objective != "ot_flow_matching")
    log_prob = tf.function(model.log_prob, reduce_retracing=True)
    fields = [part for part in flow.submodules if isinstance(part, bijectors.Continuous)]

    def exact(x: np.ndarray) -> np.ndarray:
        # By shorter steps than those of training, which may have learned from their errors.
        for field in fields:
            field.steps = STEPS
        if averages:
            optimizer.finalize_variable_values(model.trainable_variables)
        found: np.ndarray = log_prob(tf.constant(x)).numpy()
        return found

    def step(x: np.ndarray, rate: float) -> None:
        optimizer.learning_rate = rate
        model.train_on_batch(x)

    parameters = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    return parameters, step, exact


if __name__ == "__main__":
    main(build)
