"""Flow: densities in one pass, nothing stale, variables all found."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal, randomize
from small_flows import CONTEXT, EVENT, base, conditional, small_flow

from tfp_flows import Flow, bijectors, flows

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers


CASES = [(name, context_size) for name in flows.names() for context_size in (None, CONTEXT)]


def refs(variables):
    return {variable.ref() for variable in variables}


@keras.saving.register_keras_serializable("test_flow")
class CountedDense(keras.layers.Layer):
    """A feature network that counts how often Python runs its call: in a graph, when traced."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(8, activation="tanh")
        self.calls = 0

    def call(self, inputs):
        self.calls += 1
        return self.dense(inputs)


def counted_couplings(count, context_size=None, event_size=EVENT, invert=False):
    networks = [CountedDense() for _ in range(count)]
    couplings = [
        bijectors.Coupling(
            event_size, transformers.Affine(), network, flip=bool(i % 2), context_size=context_size
        )
        for i, network in enumerate(networks)
    ]
    for coupling in couplings:
        randomize(coupling)
    return [tfb.Invert(c) for c in couplings] if invert else couplings, networks


@pytest.mark.parametrize(("name", "context_size"), CASES)
def test_every_variable_is_found_right_after_construction(name, context_size):
    flow = small_flow(name, context_size)
    other = small_flow(name, context_size)
    context = None if context_size is None else normal(4, CONTEXT)
    given = flow if context is None else flow.given(context)
    other_given = other if context is None else other.given(context)
    own = refs(flow.trainable_variables)
    both = own | refs(other.trainable_variables)
    blockwise = tfb.Blockwise([flow.bijector, other.bijector], [EVENT, EVENT])
    nested = {
        "bare": (flow, own, EVENT),
        "chain": (Flow(base(), tfb.Chain([flow.bijector, other.bijector])), both, EVENT),
        "invert": (Flow(base(), tfb.Invert(flow.bijector)), own, EVENT),
        "blockwise": (Flow(base(2 * EVENT), blockwise), both, 2 * EVENT),
        "given": (given, own, EVENT),
        "independent": (tfd.Independent(given, int(context is not None)), own, EVENT),
        "plain": (
            tfd.TransformedDistribution(given, tfb.Chain([other_given.bijector, tfb.Shift(1.0)])),
            both,
            EVENT,
        ),
        "sample": (tfd.Sample(given, 5), own, EVENT),
    }
    for kind, (distribution, expected, size) in nested.items():
        x = normal(
            *((4,) if context is not None else ()), *((5,) if kind == "sample" else ()), size
        )
        kwargs = {}
        if context is not None and isinstance(distribution, Flow) and distribution.context_size:
            kwargs["context"] = context
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(distribution.log_prob(x, **kwargs))
        assert expected, kind
        assert refs(tape.watched_variables()) == expected, kind
        assert refs(distribution.trainable_variables) == expected, kind
        gradients = tape.gradient(value, distribution.trainable_variables)
        assert all(gradient is not None for gradient in gradients), kind


@pytest.mark.parametrize(
    ("nesting", "context_size"),
    [
        ("chain", None),
        ("chain", CONTEXT),
        ("invert", None),
        ("inverted_parts", CONTEXT),
        ("nested", CONTEXT),
        ("blockwise", CONTEXT),
    ],
)
def test_flow_calls_every_conditioner_once(nesting, context_size):
    couplings, networks = counted_couplings(2, context_size, invert=nesting == "inverted_parts")
    bijector = {
        "chain": lambda: tfb.Chain([couplings[0], tfb.Shift([1.0] * EVENT), couplings[1]]),
        "inverted_parts": lambda: tfb.Chain(couplings),
        "invert": lambda: tfb.Invert(tfb.Chain(couplings)),
        "nested": lambda: tfb.Chain(
            [
                tfb.Chain([couplings[0]]),
                tfb.Invert(tfb.Chain([tfb.Tanh(), tfb.Invert(couplings[1])])),
            ]
        ),
        "blockwise": lambda: tfb.Blockwise(couplings, [EVENT, EVENT]),
    }[nesting]()
    size = EVENT * (2 if nesting == "blockwise" else 1)
    flow = Flow(base(size), bijector)
    x = np.tanh(normal(5, size)) / 2
    context = None if context_size is None else normal(5, CONTEXT)
    calls = {
        "log_prob": lambda: flow.log_prob(x, context=context),
        "sample": lambda: flow.sample(3, context=context),
        "sample_and_log_prob": lambda: flow.sample_and_log_prob(3, context=context),
    }
    for name, call in calls.items():
        for mode in (call, tf.function(call)):
            for network in networks:
                network.calls = 0
            mode()
            assert [network.calls for network in networks] == [1, 1], name


def test_plain_tfp_classes_call_every_conditioner_once():
    couplings, networks = counted_couplings(3)
    plain = tfd.TransformedDistribution(base(), tfb.Chain(couplings))
    x = normal(5, EVENT)
    calls = {
        "log_prob": lambda x: plain.log_prob(x),
        "sample": lambda x: plain.sample(3),
        "sample_and_log_prob": lambda x: plain.experimental_sample_and_log_prob(3),
    }
    for name, call in calls.items():
        for network in networks:
            network.calls = 0
        tf.function(call)(x)
        assert [network.calls for network in networks] == [1, 1, 1], name


def test_log_prob_is_that_of_plain_tfp_and_of_the_change_of_variables():
    couplings, _ = counted_couplings(2)
    chain = tfb.Chain([tfb.Scale([2.0, 0.5, 1.0]), *couplings, tfb.Permute([2, 0, 1])])
    flow, plain = Flow(base(), chain), tfd.TransformedDistribution(base(), chain)
    x = flow.sample(6, seed=1)
    np.testing.assert_allclose(flow.log_prob(x), plain.log_prob(tf.identity(x)), atol=1e-5)
    x = tf.identity(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = chain.inverse(x)
    log_det = np.linalg.slogdet(tape.batch_jacobian(z, x))[1]
    np.testing.assert_allclose(flow.log_prob(x), base().log_prob(z) + log_det, atol=1e-4)
    np.testing.assert_allclose(flow.prob(x), np.exp(flow.log_prob(x)), rtol=1e-5)


@pytest.mark.parametrize("conditional", [False, True])
def test_no_value_is_stale_after_an_update(conditional):
    flow = randomize(small_flow("neural_spline", CONTEXT if conditional else None))
    flow = flow.given(normal(6, CONTEXT)) if conditional else flow
    # TFP's caches answer for tensors whose image is still alive: for samples, and for `kept`.
    x = flow.sample(*(() if conditional else (6,)), seed=0)
    kept = flow.bijector.inverse(x)
    asked = {
        "log_prob": flow.log_prob,
        "prob": flow.prob,
        "unnormalized_log_prob": flow.unnormalized_log_prob,
        "stage": lambda x: flow.stages()[-1].log_prob(x),
        "graph": tf.function(flow.log_prob),
    }
    before = {name: ask(x).numpy() for name, ask in asked.items()}
    repeated = {name: ask(x).numpy() for name, ask in asked.items()}
    randomize(flow, seed=1, stddev=0.1)
    fresh = flow.log_prob(tf.identity(x))
    for name, ask in asked.items():
        after = ask(x).numpy()
        np.testing.assert_array_equal(repeated[name], before[name], err_msg=name)
        assert np.abs(after - before[name]).max() > 1e-3, name
        np.testing.assert_allclose(after, tf.exp(fresh) if name == "prob" else fresh, rtol=1e-4)
    assert kept.shape == x.shape


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-9)])
def test_round_trip_of_eight_spline_layers_on_data_from_the_model(dtype, tolerance):
    flow = flows.neural_spline(EVENT, layers=8, hidden_units=(32, 32), dtype=dtype, seed=0)
    randomize(flow, stddev=0.03)
    x = flow.sample(1000, seed=0)
    z = flow.bijector.inverse(tf.identity(x))
    again = flow.bijector.forward(tf.identity(z))
    assert x.dtype == dtype
    assert np.abs(x - z).max() > 1.0  # far from the identity
    assert np.abs(again - x).max() < tolerance


@pytest.mark.parametrize("context_size", [None, CONTEXT])
def test_sample_and_log_prob_agrees_with_log_prob(context_size):
    flow = randomize(small_flow("neural_spline", context_size, dtype="float64"), stddev=0.2)
    context = None if context_size is None else normal(4, CONTEXT)
    x, log_prob = flow.sample_and_log_prob(7, context=context, seed=3)
    assert x.shape == ((7, EVENT) if context is None else (7, 4, EVENT))
    assert log_prob.shape == x.shape[:-1]
    again = flow.log_prob(tf.identity(x), context=context)
    np.testing.assert_allclose(log_prob, again, atol=1e-9)
    np.testing.assert_array_equal(x, flow.sample(7, context=context, seed=3))


def test_samples_follow_the_density():
    flow = Flow(
        base(2), tfb.Chain([tfb.Shift([1.0, -2.0]), tfb.ScaleMatvecTriL([[2.0, 0], [1, 1]])])
    )
    x = flow.sample(20_000, seed=0).numpy()
    np.testing.assert_allclose(x.mean(0), [1.0, -2.0], atol=0.06)
    np.testing.assert_allclose(np.cov(x.T), [[4.0, 2.0], [2.0, 2.0]], atol=0.15)


def test_an_integer_seed_gives_the_same_sample_at_every_call():
    flow = small_flow()
    np.testing.assert_array_equal(flow.sample(5, seed=1), flow.sample(5, seed=1))
    assert np.abs(flow.sample(5, seed=1) - flow.sample(5, seed=2)).max() > 0.1
    assert np.abs(flow.sample(5) - flow.sample(5)).max() > 0.1


@pytest.mark.parametrize("jit_compile", [False, True])
def test_graphs_agree_with_eager(jit_compile):
    flow = randomize(small_flow("neural_spline", CONTEXT, dtype="float64"))
    x, context = normal(5, EVENT, dtype="float64"), normal(5, CONTEXT, dtype="float64")
    spec = [tf.TensorSpec([None, size], "float64") for size in (EVENT, CONTEXT)]
    graph = tf.function(flow.log_prob, input_signature=spec, jit_compile=jit_compile)
    np.testing.assert_allclose(graph(x, context), flow.log_prob(x, context), atol=1e-9)


def test_bad_composition_is_an_error():
    with pytest.raises(TypeError, match="`distribution` must be a tfd"):
        Flow(tfb.Identity(), base())
    with pytest.raises(TypeError, match="`bijector` must be a tfb"):
        Flow(base(), base())
    three = bijectors.Coupling(EVENT, transformers.Affine(), (8,), context_size=3)
    with pytest.raises(ValueError, match=r"share one `context_size`.*\[2, 3\]"):
        Flow(base(), tfb.Chain([conditional(EVENT), three]))
    same = tfb.Blockwise(
        [conditional(2, name="same"), bijectors.Elementwise(2, transformers.Affine(), name="same")],
        [2, 2],
    )
    with pytest.raises(ValueError, match="share the name 'same'"):
        Flow(base(4), same).log_prob(np.zeros(4, "float32"), context=np.zeros(CONTEXT))


def test_stages_lead_from_the_base_to_the_flow():
    flow = randomize(flows.real_nvp(EVENT, layers=3, hidden_units=(8,), seed=0))
    stages = flow.stages()
    x = normal(5, EVENT)
    assert len(stages) == 4
    assert stages[0] is flow.distribution
    np.testing.assert_allclose(stages[-1].log_prob(x), flow.log_prob(x), atol=1e-6)
    values = [stage.log_prob(x).numpy() for stage in stages]
    assert all(np.abs(a - b).max() > 1e-3 for a, b in itertools.pairwise(values))
    # Of a chain, the last bijector is applied first.
    first = tfd.TransformedDistribution(flow.distribution, flow.bijector.bijectors[-1])
    np.testing.assert_allclose(values[1], first.log_prob(x), atol=1e-6)


def test_stages_see_into_nested_chains_and_inverses():
    shift, scale, cube = tfb.Shift([1.0, 2.0]), tfb.Scale(2.0), bijectors.ShiftAndCube(0.5)
    flow = Flow(base(2), tfb.Chain([tfb.Chain([shift]), tfb.Invert(tfb.Chain([scale, cube]))]))
    stages, x = flow.stages(), normal(5, 2)
    assert len(stages) == 4
    # Invert(Chain([scale, cube])) applies the inverse of scale first.
    halved = tfd.MultivariateNormalDiag(tf.zeros(2), [0.5, 0.5])
    np.testing.assert_allclose(stages[1].log_prob(x), halved.log_prob(x), atol=1e-5)
    np.testing.assert_allclose(stages[-1].log_prob(x), flow.log_prob(x), atol=1e-6)


def test_a_broken_network_is_not_taken_for_the_end_of_the_support():
    flow = randomize(small_flow("real_nvp"))
    for variable in flow.trainable_variables:
        variable.assign(variable * np.nan)
    assert np.isnan(flow.log_prob(normal(4, EVENT))).all()


@pytest.mark.parametrize("seed", [np.int64(3), 2**40 + 3, -5])
def test_any_integer_is_a_seed(seed):
    flow = small_flow()
    np.testing.assert_array_equal(flow.sample(2, seed=seed), flow.sample(2, seed=seed))


def test_a_base_that_does_not_fit_is_an_error():
    parts = tfb.Chain([tfb.JointMap([tfb.Scale(2.0), tfb.Exp()]), tfb.Split([2, 1])])
    joint = tfd.JointDistributionSequential([tfd.Normal(0.0, 1.0)])
    for arguments in ((tfd.MultivariateNormalDiag(tf.zeros(3)), parts), (joint, tfb.Exp())):
        with pytest.raises(ValueError, match=r"events of one tensor.*TransformedDistribution"):
            Flow(*arguments)
    with pytest.raises(ValueError, match=r"events of rank 1 or more.*Received: event_shape"):
        Flow(tfd.Normal([0.0, 0.0], 1.0), bijectors.Rotation2D(0.1))
    with pytest.raises(ValueError, match=r"base and the bijectors.*sizes \[2, 3\]"):
        Flow(small_flow("real_nvp", 2), small_flow("real_nvp", 3).bijector)


def test_outside_the_range_of_a_fixed_map_behind_others_there_is_no_density():
    steps = [bijectors.Rotation2D(0.3), tfb.Sigmoid(), bijectors.ShiftAndCube(0.5)]
    flow = Flow(base(2), tfb.Chain(steps))
    log_prob = flow.log_prob(np.float32([[-3.0, 0.5], [0.3, 0.5], [np.nan, 0.5]])).numpy()
    assert np.isneginf(log_prob[0]) and np.isfinite(log_prob[1]) and np.isnan(log_prob[2])
