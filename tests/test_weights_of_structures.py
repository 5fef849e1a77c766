"""Weights are loaded only into the fixed structure that they belong to."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal, randomize
from small_flows import masked_model

from tfp_flows import Flow, FlowModel, bijectors, flows, networks

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers

X = normal(20, 4)


def base(size=4):
    return tfd.MultivariateNormalDiag(tf.zeros(size))


def chain(*steps):
    return FlowModel(randomize(Flow(base(), tfb.Chain(list(steps)))))


AFFINE = transformers.Affine()
STRUCTURES = {
    "mask": lambda seed: masked_model(
        [[True, True, False, False], [False, True, False, True]][seed]
    ),
    "random masks": lambda seed: FlowModel(
        flows.neural_spline(4, layers=4, hidden_units=(4,), seed=seed)
    ),
    "permutation": lambda seed: chain(
        bijectors.Permutation(4, seed=seed), bijectors.Coupling(4, AFFINE, (4,))
    ),
    "LU": lambda seed: chain(bijectors.LU(4, permutation="random", seed=seed)),
    "order": lambda seed: chain(
        bijectors.MaskedAutoregressive(4, AFFINE, (4,), order="random", seed=seed)
    ),
    "passes": lambda seed: chain(
        bijectors.MaskedAutoregressive(4, AFFINE, (4,), passes=[2, 4][seed])
    ),
    "within Invert": lambda seed: chain(
        tfb.Invert(bijectors.MaskedAutoregressive(4, AFFINE, (4,), order="random", seed=seed))
    ),
    "TFP's permutation": lambda seed: chain(
        tfb.Permute([[1, 0, 3, 2], [3, 2, 1, 0]][seed]), bijectors.Coupling(4, AFFINE, (4,))
    ),
}


def spline(bound=3.0, activation="relu", base=base, invert=False, scale=2.0, family="maf"):
    network = networks.MLP((4,), activation=activation)
    layer = bijectors.Coupling(4, transformers.RationalQuadraticSpline(4, bound=bound), network)
    other = getattr(flows, family)(4, layers=1, hidden_units=(4,), seed=0).bijector
    parts = [tfb.Scale(scale), tfb.Invert(layer) if invert else layer, other]
    return FlowModel(Flow(base(), tfb.Chain(parts)))


def student():
    return tfd.Sample(tfd.StudentT(3.0, 0.0, 1.0), 4)


@pytest.mark.parametrize(
    "other",
    [
        {"bound": 4.0},
        {"activation": "tanh"},
        {"base": student},
        {"invert": True},
        {"scale": 5.0},
        {"family": "iaf"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_weights_that_fit_but_mean_something_else_are_refused(other, tmp_path):
    path = tmp_path / "f.weights.h5"
    one = randomize(spline())
    one.save_weights(path)
    same = spline(scale=np.float32(2.0))
    same.load_weights(path)
    np.testing.assert_array_equal(same.log_prob(X), one.log_prob(X))
    with pytest.raises(ValueError, match=r"the same classes and arguments in 'Flow'. Received"):
        spline(**other).load_weights(path)
    with pytest.raises(ValueError, match="the same classes and arguments"):
        FlowModel.from_config(spline(**other).get_config()).load_weights(path)


def test_damaged_weights_are_one_clear_error(tmp_path):
    path = tmp_path / "f.weights.h5"
    one = randomize(spline())
    one.save_weights(path)
    whole, before = path.read_bytes(), one.get_weights()
    for damaged in (whole[: len(whole) // 2], b"", b"text" * 100):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is no file of weights, or it is damaged"):
            one.load_weights(path)
    for weight, old in zip(one.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    with pytest.raises(FileNotFoundError):
        one.load_weights(tmp_path / "none.weights.h5")


def test_weights_of_layers_and_variables_of_ones_own_come_back(tmp_path):
    """Keras counts up the names of layers, and a file makes another class of such variables."""

    def made():
        inputs = keras.Input((2,))
        functional = keras.Model(inputs, keras.layers.Dense(5, "tanh")(inputs))
        scale = tfp.util.TransformedVariable([1.0, 2.0, 3.0, 4.0], tfb.Softplus())
        return chain(bijectors.Coupling(4, AFFINE, functional), tfb.Scale(scale))

    one, other = made(), made()
    one.adapt(X)
    one.save_weights(tmp_path / "f.weights.h5")
    one.save(tmp_path / "f.keras")
    other.load_weights(tmp_path / "f.weights.h5")
    np.testing.assert_array_equal(other.log_prob(X), one.log_prob(X))
    np.testing.assert_array_equal(FlowModel.load(tmp_path / "f.keras").log_prob(X), one.log_prob(X))


@pytest.mark.parametrize("kind", STRUCTURES)
def test_weights_of_another_structure_are_refused(kind, tmp_path):
    one, other, same = (STRUCTURES[kind](seed) for seed in (0, 1, 0))
    paths = [tmp_path / "f.keras", tmp_path / "f.weights.h5"]
    one.save(paths[0])
    one.save_weights(paths[1])
    tf.train.Checkpoint(model=one).write(str(tmp_path / "checkpoint"))
    before = other.get_weights()
    message = r"must be of a model with the same (mask|order|permutation|classes)"
    for path in paths:
        with pytest.raises(ValueError, match=message):
            other.load_weights(path)
        for a, b in zip(before, other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        same.load_weights(path)
    np.testing.assert_array_equal(same.log_prob(X), one.log_prob(X))
    with pytest.raises(ValueError, match=message):
        tf.train.Checkpoint(model=other).restore(str(tmp_path / "checkpoint"))
    same = STRUCTURES[kind](0)
    tf.train.Checkpoint(model=same).restore(str(tmp_path / "checkpoint")).expect_partial()
    np.testing.assert_array_equal(same.log_prob(X), one.log_prob(X))
    np.testing.assert_array_equal(FlowModel.load(paths[0]).log_prob(X), one.log_prob(X))


def test_the_number_of_parts_is_compared_and_older_files_load(tmp_path):
    one = masked_model()
    path = tmp_path / "f.weights.h5"
    one.save_weights(path)
    with pytest.raises(ValueError, match=r"masks, orders or permutations. Received: weights of o"):
        chain(
            bijectors.Coupling(4, AFFINE, (4,)), bijectors.Permutation(4, "reversed")
        ).load_weights(path)
    with h5py.File(path, "a") as file:
        found = []
        file.visit(lambda name: found.append(name) if name.endswith("structure") else None)
        assert len(found) == 1
        versions = np.array(file[found[0]])
        versions[:, -1] = 99  # Of another version, hashes say nothing.
        file[found[0]][...] = versions
    masked_model(mask="alternate").load_weights(path)
    with h5py.File(path, "a") as file:
        del file[found[0]]
    again = masked_model()
    again.load_weights(path)
    np.testing.assert_array_equal(again.log_prob(X), one.log_prob(X))


def test_closures_have_weights_files_too(tmp_path):
    """What cannot be saved as a config: of functions, nothing is compared."""
    made = FlowModel(
        tfd.TransformedDistribution(
            base(), tfb.RealNVP(2, shift_and_log_scale_fn=tfb.real_nvp_default_template([4]))
        )
    )
    made.save_weights(tmp_path / "f.weights.h5")
    before = made.log_prob(X)
    randomize(made, seed=5)
    assert np.abs(made.log_prob(X) - before).max() > 1e-3
    made.load_weights(tmp_path / "f.weights.h5")
    np.testing.assert_array_equal(made.log_prob(X), before)
