"""What is refused when saving, and configs that name what they must not."""

import keras
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import Flow, FlowModel, bijectors, serialization

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers


def plain_coupling(transformer=None, conditioner=(4,)):
    return bijectors.Coupling(2, transformer or transformers.Affine(), conditioner)


def flow_of(*steps):
    return Flow(tfd.MultivariateNormalDiag(tf.zeros(2)), tfb.Chain([plain_coupling(), *steps]))


class Unregistered(transformers.Additive):
    pass


class UnregisteredBijector(bijectors.ShiftAndCube):
    pass


class UnregisteredDense(keras.layers.Dense):
    pass


class UnregisteredNormal(tfd.Normal):
    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return super()._parameter_properties(dtype, num_classes)


class UnregisteredAdam(keras.optimizers.Adam):
    pass


def unregistered(x):
    return x


def dense(**options):
    return plain_coupling(conditioner=keras.layers.Dense(4, **options))


REFUSED = {
    "transformer": (
        lambda: flow_of(plain_coupling(Unregistered())),
        r"Flow\.bijector\.bijectors\[1\]\.transformer is a .*Unregistered",
    ),
    "bijector": (
        lambda: flow_of(tfb.Invert(UnregisteredBijector(0.1))),
        r"Flow\.bijector\.bijectors\[1\]\.bijector is a .*UnregisteredBijector",
    ),
    "layer": (
        lambda: flow_of(plain_coupling(conditioner=UnregisteredDense(4))),
        r"Flow\.bijector\.bijectors\[1\]\.conditioner holds .*UnregisteredDense",
    ),
    "layer in a layer": (
        lambda: flow_of(plain_coupling(conditioner=keras.Sequential([UnregisteredDense(4)]))),
        r"bijectors\[1\]\.conditioner\.config\.layers.* holds .*UnregisteredDense",
    ),
    "distribution": (
        lambda: tfd.Independent(UnregisteredNormal(tf.Variable([0.0]), 1.0), 1),
        r"Independent\.distribution is a .*UnregisteredNormal",
    ),
    "lambda in a bijector": (
        lambda: flow_of(
            tfb.Inline(tf.identity, lambda y: y, tf.zeros_like, forward_min_event_ndims=0)
        ),
        r"bijectors\[1\]\.forward_fn is a builtins\.function",
    ),
    "closure": (
        lambda: flow_of(tfb.RealNVP(1, shift_and_log_scale_fn=tfb.real_nvp_default_template([4]))),
        r"bijectors\[1\]\.shift_and_log_scale_fn is a .*function",
    ),
    "network of TFP": (
        lambda: flow_of(
            tfb.MaskedAutoregressiveFlow(
                tfb.AutoregressiveNetwork(2, hidden_units=[4], event_shape=[2])
            )
        ),
        r"bijectors\[1\]\.shift_and_log_scale_fn is a .*AutoregressiveNetwork",
    ),
    "deferred function": (
        lambda: flow_of(tfb.Scale(tfp.util.DeferredTensor(tf.Variable(1.0), tf.exp))),
        r"bijectors\[1\]\.scale is a .*function",
    ),
    "constraint": (
        lambda: flow_of(tfb.Scale(tf.Variable(1.0, constraint=tf.abs))),
        r"bijectors\[1\]\.scale\.constraint is a .*function",
    ),
    "lambda as activation": (
        lambda: flow_of(dense(activation=lambda x: x)),
        r"bijectors\[1\]\.conditioner\.config\.activation holds a lambda",
    ),
    "function as activation": (
        lambda: flow_of(dense(activation=unregistered)),
        r"bijectors\[1\]\.conditioner\.config\.activation holds unregistered",
    ),
    "function as initializer": (
        lambda: flow_of(dense(kernel_initializer=lambda shape, dtype: tf.zeros(shape, dtype))),
        r"bijectors\[1\]\.conditioner\.config\.kernel_initializer",
    ),
    "Lambda layer": (
        lambda: flow_of(
            plain_coupling(
                conditioner=keras.Sequential(
                    [keras.layers.Lambda(lambda x: x, output_shape=(1,)), keras.layers.Dense(4)]
                )
            )
        ),
        r"bijectors\[1\]\.conditioner.* holds keras\.layers\.Lambda",
    ),
}


@pytest.mark.filterwarnings("ignore:.*lambda:UserWarning", "ignore:.*tf.layers.dense:UserWarning")
@pytest.mark.filterwarnings("ignore:.*layer.updates:UserWarning")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_could_not_be_loaded_is_refused_when_saving(kind, tmp_path):
    make, message = REFUSED[kind]
    model = FlowModel(make())
    path = tmp_path / "f.keras"
    path.write_bytes(b"older")
    with pytest.raises(TypeError, match=message):
        model.save(path)
    assert path.read_bytes() == b"older"
    model.save_weights(tmp_path / "f.weights.h5")


def test_an_optimizer_that_could_not_be_loaded_is_refused_when_saving(tmp_path):
    model = FlowModel(flow_of())
    model.compile(UnregisteredAdam())
    with pytest.raises(TypeError, match=r"compile config\.optimizer holds .*UnregisteredAdam"):
        model.save(tmp_path / "f.keras")
    assert not (tmp_path / "f.keras").exists()


@pytest.mark.parametrize(
    "name",
    [
        "tfp_flows>MLP",  # registered, but no part of a distribution
        "tfp.bijectors>real_nvp_default_template",  # functions of the same modules
        "tfp.distributions>kl_divergence",
        "tf.linalg>eye",
        "tfp.bijectors>Bijector.__init__",
        "tfp_flows.bijectors>transformers",
        "os>system",
        "Flow",
        "",
    ],
)
def test_a_config_names_classes_of_distributions_and_bijectors_only(name):
    for kind in ("object", "transformer"):
        config = {"kind": kind, "class": name, "id": 0, "arguments": {"kind": "dict", "items": {}}}
        with pytest.raises(ValueError, match=f"The class '{name}' is not one that tfp_flows loads"):
            serialization.deserialize(config)


def test_a_damaged_config_is_an_error():
    for config in ({}, {"kind": "object"}, {"kind": "seen", "id": 7}, [1], {"kind": []}):
        with pytest.raises(ValueError, match=r"config of tfp_flows|no kind"):
            serialization.deserialize(config)
    with pytest.raises(TypeError, match=r"^object is a builtins\.object, which cannot be saved"):
        serialization.serialize(object())


@keras.saving.register_keras_serializable("test_serialization")
class NoDataclass(bijectors.transformers.Transformer):
    parameter_count = 1

    def forward(self, x, parameters):
        return x + parameters[..., 0, :], tf.zeros_like(x)

    def inverse(self, y, parameters):
        return y - parameters[..., 0, :], tf.zeros_like(y)


def test_a_transformer_without_fields_says_what_saving_needs():
    layer = bijectors.Elementwise(2, NoDataclass())
    with pytest.raises(TypeError, match=r"must be a dataclass.*NoDataclass"):
        serialization.serialize(layer)


@keras.saving.register_keras_serializable("test_serialization")
class NoParameters(bijectors.Bijector):
    def __init__(self, size):
        self.shift = tf.Variable(tf.zeros([size]))
        super().__init__()


def test_a_bijector_that_hides_its_arguments_says_what_saving_needs():
    with pytest.raises(TypeError, match=r"NoParameters needs size.*dict\(locals"):
        serialization.serialize(NoParameters(3))
