"""Models of all kinds to save, with classes of a user's own, registered as users write them."""

import functools

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal

from tfp_flows import Flow, FlowModel, bijectors, distributions, flows

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers


ROWS, EVENT, CONTEXT = 40, 5, 2
DATA = 2 * normal(ROWS, EVENT) + [0, 5, -3, 1, 10]
CONTEXTS = 3 * normal(ROWS, CONTEXT, seed=1) + 7
WAVES = np.round(100 * normal(ROWS, 32, 1, seed=2))
SPECTROGRAMS = normal(ROWS, 2, 3, seed=3) - 5


@keras.saving.register_keras_serializable("test_saving")
class Sinh(transformers.Transformer):
    """`y = x + t`, then a sinh of a fixed scale and back: a transformer with an option."""

    def __init__(self, scale=2.0):
        self.scale = scale

    @property
    def parameter_count(self):
        return 1

    def get_config(self):
        return {"scale": self.scale}

    def forward(self, x, parameters):
        y = x + parameters[..., 0, :] * self.scale
        return y, tf.zeros_like(y)

    def inverse(self, y, parameters):
        x = y - parameters[..., 0, :] * self.scale
        return x, tf.zeros_like(x)


@keras.saving.register_keras_serializable("test_saving")
class Double(bijectors.Bijector):
    """A bijector with a number and a variable of its own."""

    def __init__(self, factor=2.0, name="double"):
        parameters = dict(locals())
        self.factor = factor
        self.shift = tf.Variable(0.0, name="shift")
        super().__init__(forward_min_event_ndims=0, parameters=parameters, name=name)

    def _forward_and_log_det(self, x):
        return self.factor * x + self.shift, tf.math.log(self.factor) + tf.zeros_like(x)

    def _inverse_and_log_det(self, y):
        return (y - self.shift) / self.factor, -tf.math.log(self.factor) + tf.zeros_like(y)


@keras.saving.register_keras_serializable("test_saving")
class Wide(keras.layers.Layer):
    """A conditioner with a sublayer and an option."""

    def __init__(self, units=8, **options):
        super().__init__(**options)
        self.units = units
        self.dense = keras.layers.Dense(units, activation=squash)

    def call(self, inputs):
        return self.dense(inputs)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("test_saving")
def squash(x):
    return x / (1 + keras.ops.abs(x))


@keras.saving.register_keras_serializable("test_saving")
class SlowAdam(keras.optimizers.Adam):
    pass


def base(size=EVENT):
    return tfd.MultivariateNormalDiag(tf.zeros(size))


def sequential():
    regularizer = keras.regularizers.L2(1e-3)
    return keras.Sequential(
        [
            keras.layers.Dense(8, activation="relu", kernel_regularizer=regularizer),
            keras.layers.Dense(8, activation=squash),
            keras.layers.BatchNormalization(),
        ]
    )


def functional(width):
    inputs = keras.Input([width])
    hidden = keras.layers.Dense(8, activation="tanh")(inputs)
    outputs = keras.layers.Add()([hidden, keras.layers.Dense(8)(hidden)])
    return keras.Model(inputs, outputs)


def of_all_kinds():
    """Everything that can be in a chain, with a bijector, a layer and a variable used twice."""
    scale = tf.Variable([0.5, 1.0, 2.0, 1.0, 1.0], name="scale")
    coupling = functools.partial(bijectors.Coupling, EVENT)
    layer = Wide(6)
    twice = coupling(transformers.Additive(), functional(2))
    mask = np.array([True, False, True, True, False])
    return Flow(
        tfd.Independent(tfd.StudentT(tf.Variable(7.0), tf.zeros(EVENT), 1.0), 1),
        tfb.Chain(
            [
                Double(3.0),
                tfb.Permute([3, 1, 4, 0, 2]),
                tfb.Invert(coupling(transformers.RationalQuadraticSpline(bins=4), (8,), mask=mask)),
                coupling(transformers.Affine(1.5), sequential(), mask="alternate"),
                twice,
                tfb.Scale(tfp.util.TransformedVariable(tf.fill([EVENT], 0.7), tfb.Softplus())),
                twice,
                coupling(Sinh(0.3), layer),
                coupling(transformers.Affine(), layer),
                tfb.Scale(scale),
                tfb.Shift(scale),
                bijectors.Elementwise(EVENT, transformers.Affine()),
                tfb.Blockwise([bijectors.ShiftAndCube(tf.Variable(0.1)), tfb.Sinh()], [2, 3]),
            ]
        ),
    )


def mixture():
    parts = tfd.MultivariateNormalTriL(
        tf.Variable(normal(3, EVENT)),
        tfp.util.TransformedVariable(tf.eye(EVENT, batch_shape=[3]), tfb.FillScaleTriL()),
    )
    return tfd.MixtureSameFamily(tfd.Categorical(logits=tf.Variable(tf.zeros(3))), parts)


def picky():
    """A distribution that is invalid where its variables are 0."""
    matrix = tf.linalg.LinearOperatorFullMatrix(tf.Variable(tf.eye(EVENT) + 0.1))
    scale = tf.Variable(tf.ones(EVENT), name="scale")
    independent = tfd.Independent(tfd.Normal(tf.zeros(EVENT), scale, validate_args=True), 1)
    return tfd.TransformedDistribution(independent, tfb.ScaleMatvecLinearOperator(matrix))


def sound():
    flow = flows.waveglow(32, mels=3, hop=16, flows=2, width=8, layers=2)
    return distributions.Dequantized(flow, 1.0, seed=0)


MODELS = {
    # No seed: what is drawn at random for weights and masks has to be in the file.
    "masks": lambda: flows.real_nvp(EVENT, layers=4, hidden_units=(8,)),
    "context": lambda: flows.real_nvp(EVENT, layers=2, hidden_units=(8,), context_size=CONTEXT),
    "kinds": of_all_kinds,
    "mixture": mixture,
    "picky": picky,
    "double": lambda: flows.neural_spline(EVENT, layers=2, hidden_units=(8,), dtype="float64"),
    "sound": sound,
}
OPTIMIZERS = {  # of those that are trained
    "masks": lambda: keras.optimizers.AdamW(0.01, clipnorm=1.0, use_ema=True),
    "context": lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.02, 100)),
    "kinds": lambda: SlowAdam(0.005),
}
EXPORTED = ("masks", "context", "double", "sound")


def data_of(name):
    if name == "sound":
        return (SPECTROGRAMS, WAVES)
    return (CONTEXTS, DATA) if name == "context" else (DATA,)


def made(name):
    model = FlowModel(MODELS[name]())
    if name in OPTIMIZERS:
        model.compile(OPTIMIZERS[name]())
    return model


def train(model, name):
    options = {"epochs": 2, "batch_size": 16, "shuffle": False, "verbose": 0}
    return model.fit(*data_of(name), **options).history["loss"]


def values(model, name):
    """What has to be the same of a loaded model, numbers all."""
    *context, x = data_of(name)
    return {
        "log_prob": model.log_prob(x, *context).numpy(),
        "sample": model.sample(3, *context, seed=1).numpy(),
        "weights": np.concatenate([np.ravel(w) for w in model.get_weights()]),
        "iterations": int(model.optimizer.iterations) if model.compiled else 0,
    }


def resumed(model, name):
    """What comes of it when training goes on."""
    *context, x = data_of(name)
    return {
        "losses": np.array(train(model, name)),
        "trained": model.log_prob(x, *context).numpy(),
    }
