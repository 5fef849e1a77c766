"""What may surround the layers of a flow: linear layers, supports, embeddings."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal, randomize

from tfp_flows import Flow, bases, bijectors, flows

tfd, tfb = tfp.distributions, tfp.bijectors


def small_flow(name, event_size=3, **options):
    return flows.get(name, event_size, **{"layers": 2, "hidden_units": (8,), **options})


def masks(flow):
    return [step.mask.tolist() for step in flow.bijector.bijectors if hasattr(step, "mask")]


# What may surround the layers.


@pytest.mark.parametrize("linear", ["householder", "lu", "permutation", "qr", "rotation"])
def test_linear_layers_and_actnorm_stand_before_every_layer(linear):
    flow = small_flow("real_nvp", 4, linear=linear, actnorm=True, seed=0)
    kinds = [type(step).__name__.lower() for step in flow.bijector.bijectors]
    assert kinds == ["actnorm", linear, "coupling"] * 2
    x = normal(5, 4)
    z = flow.bijector.inverse(x)
    assert np.allclose(np.sort(z), np.sort(x), atol=1e-5)  # Fresh: the identity, or permuted.


def test_three_columns_stand_alone_in_turn():
    alone = [mask.index(True) for mask in masks(small_flow("real_nvp", 3, layers=6))[::2]]
    assert alone == [0, 1, 2]


def test_permutations_without_a_seed_are_the_same_at_every_call():
    first, second = (
        [
            step.permutation.tolist()
            for step in small_flow("maf", 6, linear="permutation").bijector.bijectors
            if isinstance(step, bijectors.Permutation)
        ]
        for _ in range(2)
    )
    assert first == second and first[0] != first[1]


def test_an_unknown_linear_layer_is_an_error():
    with pytest.raises(ValueError, match=r"`linear` must be None or one of .*linear='svd'"):
        small_flow("maf", linear="svd")


def test_support_is_the_last_step():
    flow = small_flow("real_nvp", 3, support=["real", "positive", (0.0, 2.0)])
    x = flow.sample(200, seed=0).numpy()
    assert (x[:, 0] < 0).any() and (x[:, 1:] > 0).all() and (x[:, 2] < 2).all()
    outside = np.array([[0.0, -1.0, 1.0], [0.0, 1.0, 3.0]], "float32")
    assert np.isneginf(flow.log_prob(outside)).all()


def test_proportions_sum_to_one():
    flow = small_flow("neural_spline", 3, support="simplex")
    assert flow.event_shape == (3,) and flow.distribution.event_shape == (2,)
    np.testing.assert_allclose(flow.sample(50, seed=0).numpy().sum(-1), 1, atol=1e-5)
    with pytest.raises(ValueError, match="`event_size` must be 2 or more"):
        small_flow("neural_spline", 1, support="simplex")


def test_couplings_take_activation_and_dropout():
    flow = small_flow("real_nvp", 4, activation="silu", dropout=0.5, seed=0)
    network = flow.bijector.bijectors[0].conditioner.layer.features
    assert (network.activation.__name__, network.dropout) == ("silu", 0.5)
    made = small_flow("maf", 4, activation="silu").bijector.bijectors[0].conditioner.layer
    assert made.activation.__name__ == "silu"


def test_angles_have_a_periodic_density():
    flow = randomize(small_flow("circular_spline", 3, layers=4, dtype="float64"))
    x = np.pi * np.tanh(normal(20, 3, dtype="float64"))
    turns = 2 * np.pi * np.random.default_rng(0).integers(-2, 3, x.shape)
    np.testing.assert_allclose(flow.log_prob(x + turns), flow.log_prob(x), atol=1e-9)
    # Continuous from just below π to just above -π, in kept and in transformed columns.
    for column in range(3):
        left, right = x.copy(), x.copy()
        left[:, column], right[:, column] = np.pi - 1e-9, 1e-9 - np.pi
        np.testing.assert_allclose(flow.log_prob(left), flow.log_prob(right), atol=1e-5)
    one = small_flow("circular_spline", 2, layers=1)  # One column is only passed through.
    assert np.isfinite(one.log_prob(np.float32([[50.0, -70.0]])))
    draws = flow.sample(500, seed=0).numpy()
    assert (draws >= -np.pi).all() and (draws < np.pi).all()
    with pytest.raises(ValueError, match="`linear`, `actnorm` and `support` must be left out"):
        small_flow("circular_spline", linear="lu")


@pytest.mark.parametrize("name", ["neural_spline", "maf"])
def test_an_embedding_reads_contexts_of_any_shape(name):
    gru = keras.layers.GRU(4)
    flow = small_flow(name, 2, embedding=gru, context_shape=(5, 3))
    randomize(flow)
    assert (flow.context_size, flow.context_shape) == (4, (5, 3))
    assert {v.ref() for v in (w.value for w in gru.trainable_variables)} <= {
        v.ref() for v in flow.trainable_variables
    }
    x, context = normal(6, 2), normal(6, 5, 3, seed=1)
    log_prob = flow.log_prob(x, context=context)
    each = [flow.log_prob(x[i], context=context[i]) for i in range(6)]
    np.testing.assert_allclose(log_prob, each, atol=1e-5)
    assert np.ptp(flow.log_prob(x[:1], context=context)) > 1e-3  # The context matters.
    assert flow.sample(7, context=context, seed=0).shape == (7, 6, 2)
    with pytest.raises(ValueError, match=r"`context` must have shape \(\.\.\., 5, 3\)"):
        flow.log_prob(x, context=context[..., :2])
    with pytest.raises(ValueError, match=r"`context` is missing.*\(\.\.\., 5, 3\)"):
        flow.log_prob(x)


def test_an_embedding_that_does_not_fit_is_an_error():
    for size in (None, 2):
        with pytest.raises(ValueError, match=f"`context_shape` goes with.*context_size={size}"):
            small_flow("maf", context_shape=(3,), context_size=size)
    assert small_flow("maf", context_shape=(3,), context_size=3).context_shape == (3,)
    with pytest.raises(ValueError, match="`context_shape` is needed"):
        small_flow("maf", embedding=keras.layers.GRU(4))
    with pytest.raises(TypeError, match="`embedding` must be a Keras 3 layer"):
        small_flow("maf", embedding="gru", context_shape=(2, 3))
    with pytest.raises(ValueError, match="`context_size` must be 4"):
        small_flow("maf", embedding=keras.layers.GRU(4), context_shape=(2, 3), context_size=3)
    with pytest.raises(ValueError, match=r"must return shape \(batch, 2\)"):
        base = tfd.MultivariateNormalDiag(tf.zeros(3))
        bijector = small_flow("maf", context_size=2).bijector
        Flow(base, bijector, embedding=keras.layers.GRU(4), context_shape=(2, 3))


def test_equal_contexts_get_independent_noise():
    flow = small_flow("maf", 2, context_size=1)
    draws = flow.sample(3, context=np.zeros((4, 1), "float32"), seed=0).numpy()
    assert len(np.unique(draws.reshape(-1, 2), axis=0)) == 12


@pytest.mark.parametrize("structure", [bijectors.Coupling, bijectors.MaskedAutoregressive])
def test_structures_of_circular_splines_are_periodic(structure):
    circular = bijectors.transformers.CircularSpline(bins=4)
    layer = randomize(structure(3, circular, (8,), dtype="float64", seed=0))
    flow = Flow(bases.torus(3, dtype="float64"), layer)
    x = np.pi * np.tanh(normal(20, 3, dtype="float64"))
    turns = 2 * np.pi * np.random.default_rng(0).integers(-2, 3, x.shape)
    np.testing.assert_allclose(flow.log_prob(x + turns), flow.log_prob(x), atol=1e-9)
