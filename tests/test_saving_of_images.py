"""Saving of flows on grids: in another process they are what they were."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers import normal, randomize, run_python

import tfp_flows
from tfp_flows import FlowModel, flows
from tfp_flows.distributions import Dequantized

SHAPE = (4, 4, 1)
GLOW = {"levels": 2, "steps": 1, "width": 4}
TARFLOW = {"patch": 2, "blocks": 2, "layers": 1, "width": 8}
# Without seeds of the flows: what is drawn at random has to be in the file. With one of the noise.
MODELS = {
    "glow": lambda: flows.glow(SHAPE, **GLOW),
    "tarflow given": lambda: flows.tarflow(SHAPE, context_size=2, **TARFLOW),
    "glow given, pixels": lambda: Dequantized(
        flows.glow(SHAPE, context_size=2, **GLOW), 1.0, seed=0
    ),
    "tarflow, pixels": lambda: Dequantized(
        flows.tarflow(SHAPE, **TARFLOW), 1.0, noise=(4,), align="left", seed=0
    ),
}
LOAD = """
import numpy as np
from tfp_flows import FlowModel

data, results = np.load("data.npz"), {}
for name in data["names"]:
    context = [data["context"]] if "given" in name else []
    model = FlowModel.load(f"{name}.keras")
    results[name] = model.log_prob(data["x"], *context)
    results[f"{name}/sample"] = model.sample(2, *context, seed=1)
np.savez("loaded.npz", **results)
"""
USE_EXPORT = """
import sys
for absent in ("tfp_flows", "tensorflow_probability"):
    sys.modules[absent] = None
import numpy as np
import tensorflow as tf

data, results = np.load("data.npz"), {}
for name in data["exported"]:
    context = [tf.constant(data["context"])] if "given" in name else []
    flow = tf.saved_model.load(str(name))
    results[name] = flow.log_prob(tf.constant(data["x"]), *context)
np.savez("exported.npz", **results)
"""


@pytest.mark.slow  # models of four kinds, and two processes
def test_a_loaded_or_exported_flow_of_images_is_the_saved_one(tmp_path):
    x = np.random.default_rng(0).integers(0, 9, (6, *SHAPE)).astype("float32")
    context, expected, in_graphs = normal(6, 2), {}, {}
    for name, make in MODELS.items():
        given = [context] if "given" in name else []
        model = FlowModel(randomize(make(), stddev=0.1))
        model.adapt(*given, x)
        model.save(tmp_path / f"{name}.keras")
        expected[name] = model.log_prob(x, *given)
        expected[f"{name}/sample"] = model.sample(2, *given, seed=1)
        if name.endswith("pixels"):
            model.export(tmp_path / name)
            arguments = [tf.constant(array) for array in (x, *given)]
            of_any_batch = [tf.TensorSpec([None, *a.shape[1:]], a.dtype) for a in arguments]
            in_graphs[name] = tf.function(model.log_prob, of_any_batch)(*arguments)
        assert np.isfinite(expected[name]).all()
    names = {"names": list(MODELS), "exported": list(in_graphs)}
    np.savez(tmp_path / "data.npz", x=x, context=context, **names)
    run_python(LOAD, tmp_path, PYTHONPATH=str(Path(tfp_flows.__file__).parents[1]))
    run_python(USE_EXPORT, tmp_path, PYTHONPATH="")
    loaded, exported = np.load(tmp_path / "loaded.npz"), np.load(tmp_path / "exported.npz")
    for name, values in expected.items():
        np.testing.assert_array_equal(loaded[name], values, err_msg=name)
    for name, values in in_graphs.items():
        np.testing.assert_array_equal(exported[name], values, err_msg=name)
