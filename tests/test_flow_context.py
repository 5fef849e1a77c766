"""Context of a Flow: it reaches any depth, makes batches, and is checked."""

import functools

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


@pytest.mark.parametrize("batch", [(), (4,), (2, 4)])
def test_given_has_the_batch_shape_of_the_context(batch):
    flow = randomize(small_flow("real_nvp", CONTEXT))
    context, x = normal(*batch, CONTEXT), normal(*batch, EVENT, seed=1)
    given = flow.given(context)
    assert isinstance(given, tfd.Distribution)
    assert given.batch_shape == batch
    assert given.event_shape == (EVENT,)
    assert given.context_size is None
    assert given.sample(6).shape == (6, *batch, EVENT)
    assert given.log_prob(x).shape == batch
    # One event under every context, and many events under each.
    assert given.log_prob(np.zeros(EVENT, "float32")).shape == batch
    many = normal(6, *([1] * len(batch)), EVENT)
    assert given.log_prob(many).shape == (6, *batch)
    np.testing.assert_allclose(given.log_prob(x), flow.log_prob(x, context=context), atol=1e-6)
    rows = zip(x.reshape(-1, EVENT), context.reshape(-1, CONTEXT), strict=True)
    single = [flow.log_prob(row, context=c) for row, c in rows]
    np.testing.assert_allclose(np.ravel(given.log_prob(x)), single, atol=1e-5)


def test_context_changes_the_density_and_may_be_any_array_of_numbers():
    flow = randomize(small_flow("neural_spline", CONTEXT))
    x = normal(3, EVENT)
    zero = flow.log_prob(x, context=np.zeros((3, CONTEXT)))  # float64, cast
    one = flow.log_prob(x, context=[[1, 1]] * 3)
    assert np.abs(zero - one).max() > 0.01
    np.testing.assert_allclose(one, flow.log_prob(x, context=tf.ones([3, CONTEXT])), atol=1e-6)


def test_noise_is_independent_for_equal_rows_of_context():
    flow = randomize(small_flow("real_nvp", CONTEXT))
    x = flow.sample(500, context=np.ones((2, CONTEXT)), seed=0).numpy()
    first, second = x[:, 0], x[:, 1]
    assert np.abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 0.15
    np.testing.assert_allclose(first.mean(0), second.mean(0), atol=0.5)


def nested_bijector(kind):
    """Conditional bijectors buried among unconditional ones, for events of four columns."""
    if kind == "chain":
        parts = [tfb.Chain([conditional(4)]), tfb.Shift(1.0), conditional(4, flip=True)]
        return tfb.Chain(parts)
    if kind == "invert":
        return tfb.Invert(tfb.Chain([conditional(4), tfb.Scale(3.0)]))
    if kind == "blockwise":
        free = bijectors.Elementwise(2, transformers.Affine(), name="free")
        inner = tfb.Chain([conditional(2), tfb.Invert(conditional(2, flip=True)), free])
        return tfb.Blockwise([inner, tfb.Scale(2.0)], [2, 2])
    parts = [nested_bijector("blockwise"), conditional(4)]
    return tfb.Chain([tfb.Invert(tfb.Chain(parts)), tfb.Permute([3, 1, 0, 2])])


@pytest.mark.parametrize("kind", ["chain", "invert", "blockwise", "all"])
def test_context_reaches_any_depth(kind):
    flow = randomize(Flow(base(4), nested_bijector(kind)))
    assert flow.context_size == CONTEXT
    context = normal(2, CONTEXT)
    x = normal(2, 4, seed=1)
    log_prob = flow.log_prob(x, context=context)
    rows = [flow.log_prob(a, context=c) for a, c in zip(x, context, strict=True)]
    np.testing.assert_allclose(log_prob, rows, atol=1e-5)
    # The event alone, with the batch all in the context.
    one = flow.log_prob(x[0], context=context)
    np.testing.assert_allclose(one[0], log_prob[0], atol=1e-5)
    assert np.ptp(one) > 1e-3
    sample, sampled = flow.sample_and_log_prob(3, context=context, seed=0)
    np.testing.assert_allclose(flow.log_prob(sample, context=context), sampled, atol=1e-4)
    z = flow.given(context).bijector.inverse(tf.identity(sample))
    np.testing.assert_allclose(flow.given(context).bijector.forward(z), sample, atol=1e-4)


@pytest.mark.parametrize("method", ["log_prob", "prob", "sample", "sample_and_log_prob"])
def test_bad_context_is_an_error(method):
    value = 2 if method.startswith("sample") else np.zeros([2, EVENT], "float32")
    ask, unconditional = getattr(small_flow("nice", CONTEXT), method), getattr(small_flow(), method)
    with pytest.raises(ValueError, match=r"`context` is missing.*\(\.\.\., 2\)"):
        ask(value)
    with pytest.raises(ValueError, match=r"`context` must have shape \(\.\.\., 2\).*\(2, 5\)"):
        ask(value, context=np.zeros([2, 5]))
    with pytest.raises(ValueError, match=r"`context` must have shape"):
        ask(value, context=1.0)
    with pytest.raises(ValueError, match=r"`context` was given.*`context_size`"):
        unconditional(value, context=np.zeros([2, CONTEXT]))


def test_stages_of_a_conditional_flow_need_its_context():
    flow = randomize(small_flow("real_nvp", CONTEXT))
    context, x = normal(CONTEXT), normal(5, EVENT)
    with pytest.raises(ValueError, match="`context` is missing"):
        flow.stages()
    stages = flow.given(context).stages()
    assert len(stages) == 3
    np.testing.assert_allclose(stages[-1].log_prob(x), flow.log_prob(x, context=context), atol=1e-6)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("name", ["neural_spline", "iaf", "sylvester"])
def test_a_missing_context_gives_no_density_and_no_draws(name, mode):
    flow = randomize(small_flow(name, CONTEXT))
    context = normal(4, CONTEXT)
    context[1] = np.nan
    log_prob, sample = flow.log_prob, functools.partial(flow.sample, 3, seed=0)
    if mode != "eager":
        log_prob, sample = (tf.function(f, jit_compile=mode == "xla") for f in (log_prob, sample))
    found = log_prob(normal(4, EVENT), context)
    np.testing.assert_array_equal(np.isnan(found), [False, True, False, False])
    draws = sample(context=tf.constant(context))
    np.testing.assert_array_equal(np.isnan(draws).any((0, 2)), [False, True, False, False])
    assert np.isnan(draws[:, 1]).all()


def test_events_that_share_a_context_share_a_network_call_where_nothing_is_kept():
    seen = []

    class Watched(keras.layers.Dense):
        def call(self, inputs):
            seen.append(tuple(inputs.shape))
            return super().call(inputs)

    affine = bijectors.transformers.Affine()
    layer = bijectors.Coupling(1, affine, Watched(8, "tanh"), context_size=CONTEXT)
    flow = randomize(Flow(tfd.MultivariateNormalDiag([0.0]), layer))
    context, x = normal(3, 1, CONTEXT), normal(5, 3, 2, 1, seed=1)
    seen.clear()
    found = flow.log_prob(x, context=context)
    assert seen == [(3, CONTEXT)]
    for i in range(3):
        alone = np.broadcast_to(context[i, 0], (5, 2, CONTEXT))
        np.testing.assert_allclose(found[:, i], flow.log_prob(x[:, i], context=alone), atol=1e-6)
    assert flow.sample(4, context=context).shape == (4, 3, 1, 1)


@pytest.mark.parametrize(
    "family", [flows.real_nvp, flows.maf, flows.ffjord, flows.residual, flows.bnaf]
)
def test_numbers_of_rows_that_do_not_fit_are_told(family):
    flow = family(2, hidden_units=(4,), context_size=3, seed=0)
    with pytest.raises(ValueError, match=r"events and context must be equal or broadcast.*120.*7"):
        flow.log_prob(np.zeros([120, 2]), np.zeros([7, 3]))
    assert flow.log_prob(np.zeros([5, 1, 2]), np.zeros([7, 3])).shape == (5, 7)
