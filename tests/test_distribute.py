"""Under `tf.distribute`, two devices train as one does. Devices must be set up first: a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SETUP = """
import contextlib, sys, tempfile, warnings
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tensorflow_probability import bijectors as tfb, distributions as tfd
from tfp_flows import FlowModel, flows

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
data = (np.random.default_rng(0).normal(size=(65, 2)) * [1, 3] + [0, 1]).astype("float32")

def real_nvp():
    return flows.real_nvp(2, layers=1, hidden_units=(4,), actnorm=True, seed=0)

def made(scope, optimizer, flow=real_nvp, **options):
    with scope():
        model = FlowModel(flow())
        model.compile(optimizer(), **options)
    return model

def results(scope, optimizer, flow=real_nvp, options=None, **fit):
    model = made(scope, optimizer, flow, **(options or {}))
    model.adapt(data)
    # 65 rows are 4 batches and one row more, of which one device sees none.
    fit = {"epochs": 2, "batch_size": 16, "shuffle": False, "verbose": 0} | fit
    history = model.fit(data, **fit).history
    losses = np.concatenate([*history.values(), [model.evaluate(data, verbose=0)]])
    return [losses, model.predict(data, verbose=0, batch_size=16), *model.get_weights()]

def same(*arguments, **options):
    spread = results(strategy.scope, *arguments, **options)
    alone = results(contextlib.nullcontext, *arguments, **options)
    for a, b in zip(spread, alone, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-5)
"""

SCRIPTS = {
    "adam, weights, validation": """
same(
    lambda: keras.optimizers.Adam(1e-2),
    sample_weight=np.linspace(0, 2, 65).astype("float32"),
    validation_split=0.2,
)
""",
    "one device": """
both = strategy
one_device = tf.distribute.OneDeviceStrategy("CPU:0"), tf.distribute.MirroredStrategy(["CPU:0"])
for strategy in one_device:
    same(lambda: keras.optimizers.Adam(1e-2), validation_split=0.2)
strategy = both
""",
    "clipped gradients, eager, free variables": """
same(lambda: keras.optimizers.SGD(1e-2, momentum=0.9, clipnorm=0.1))
def free():
    mean, shift = tf.Variable([0.0, 1.0]), tfb.Shift(tf.Variable([1.0, 2.0]))
    return tfd.TransformedDistribution(tfd.MultivariateNormalDiag(mean), shift)
same(lambda: keras.optimizers.AdamW(1e-2), free, {"run_eagerly": True})
""",
    "scaled losses": """
same(lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-2)))
""",
    "the guard": """
class Poison(keras.optimizers.SGD):
    def update_step(self, gradient, variable, learning_rate):
        bad = tf.where(self.iterations >= 3, np.nan, 0.0) * tf.ones_like(variable)
        variable.assign_add(0.001 + bad)

kept = []
for scope in (strategy.scope, contextlib.nullcontext):
    model = made(scope, Poison)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(data, batch_size=32, epochs=4, verbose=0, shuffle=False)
    (message,) = [str(w.message) for w in caught if "Training stopped" in str(w.message)]
    assert "those of the end of epoch 1" in message, message
    assert np.isfinite(model.predict(data, verbose=0)).all()
    kept.append(model.get_weights())
for a, b in zip(*kept, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)
""",
    "continuous flows": """
for solver in ("rk4", "dopri5"):
    same(
        lambda: keras.optimizers.SGD(1e-2),
        lambda: flows.ffjord(2, layers=1, hidden_units=(4,), solver=solver, steps=2, seed=0),
    )
""",
    "autoencoders": """
from tfp_flows import vi

def autoencoder(scope, **options):
    with scope():
        encoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4)])
        encoder.set_weights([np.ones((2, 4)), np.zeros(4)])
        decoder = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
        decoder.set_weights([np.ones((1, 2)), np.zeros(2)])
        vae = vi.FlowVAE(encoder, decoder, 1, "mean_field", likelihood="normal", **options)
        vae.compile(keras.optimizers.SGD(5e-3, momentum=0.5))
    return vae

x = np.random.default_rng(1).normal(size=(2001, 2)) @ [[1, 1], [0, 1]]
for options in ({}, {"free_bits": 100.0}):  # Of which only the first trains the posterior.
    losses = []
    for scope in (strategy.scope, contextlib.nullcontext):
        vae = autoencoder(scope, **options)
        history = vae.fit(x, batch_size=100, epochs=10, verbose=0, shuffle=False).history
        losses.append([np.mean(history["loss"][-3:]), np.mean(history["kl"][-3:])])
        if scope is strategy.scope:
            for weight in vae.trainable_weights:
                one, two = (copy.numpy() for copy in weight.value.values)
                np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(*losses, rtol=0.05)

try:
    with strategy.scope():
        normal = tfd.JointDistributionSequential([tfd.Normal(0.0, 1.0)])
        vi.fit(lambda v: -v[0]**2, vi.surrogate(normal, seed=0), steps=2, verbose=0)
except ValueError as error:
    assert "on one device" in str(error), error
else:
    raise AssertionError("no error")
""",
    "files, batches, scopes": """
model = made(strategy.scope, lambda: "adam")
model.fit(data, verbose=0)
expected = model.predict(data, verbose=0)
assert model.predict_on_batch(data).shape == (65,)
np.testing.assert_allclose(model.log_prob(data), expected, atol=1e-5)
with tempfile.TemporaryDirectory() as folder:
    model.save(folder + "/flow.keras")
    model.save_weights(folder + "/flow.weights.h5")
    with strategy.scope():
        inside = FlowModel.load(folder + "/flow.keras")
    outside = FlowModel.load(folder + "/flow.keras")
    model.export(folder + "/saved")
    saved = tf.saved_model.load(folder + "/saved")
for loaded in (inside, outside):
    np.testing.assert_allclose(loaded.predict(data, verbose=0), expected, atol=1e-6)
    loaded.fit(data, verbose=0)
np.testing.assert_allclose(saved.log_prob(data), expected, atol=1e-5)

def refused(function, message="inside the scope of the same strategy"):
    try:
        function()
    except ValueError as error:
        assert message in str(error), error
    else:
        raise AssertionError("no error")

def made_inside(flow):
    with strategy.scope():
        FlowModel(flow)

def fitted_inside(model):
    with strategy.scope():
        model.fit(data, verbose=0)

refused(lambda: made_inside(real_nvp()))
refused(lambda: FlowModel(model.distribution))
refused(lambda: model.compile(keras.optimizers.Adam()))
refused(lambda: fitted_inside(outside))

def compiled_inside(optimizer=lambda: "adam", **options):
    with strategy.scope():
        model.compile(optimizer(), **options)

refused(lambda: compiled_inside(steps_per_execution=4), "`steps_per_execution` must be 1")
refused(lambda: compiled_inside(jit_compile=True), "`jit_compile` must be False")
averaging = lambda: keras.optimizers.Adam(use_ema=True, ema_overwrite_frequency=2)
refused(lambda: compiled_inside(averaging), "`ema_overwrite_frequency` must be None")
adding = lambda: keras.optimizers.Adam(gradient_accumulation_steps=2)
refused(lambda: compiled_inside(adding), "`gradient_accumulation_steps` must be None")
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("part", [0, 1])
def test_two_devices_are_as_one(part):
    scripts = dict(list(SCRIPTS.items())[part::2])
    root = Path(__file__).parents[1]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(root)}
    parts = [f"print({name!r}, flush=True)\n{script}" for name, script in scripts.items()]
    code = "\n".join([SETUP, *parts])
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=root
    )
    assert found.returncode == 0, found.stdout + found.stderr[-3000:]
    assert found.stdout.split("\n")[:-1] == list(scripts)
