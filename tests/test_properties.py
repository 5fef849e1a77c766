"""Properties of whatever `hypothesis` comes up with: batches, ties, and what is saved.

The examples are the same in every run.
"""

import json

import hypothesis
import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import randomize
from hypothesis import strategies as st

from tfp_flows import Flow, bijectors, flows, serialization
from tfp_flows.model.ties import tied_columns

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers

few = hypothesis.settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
EVENT, CONTEXT = 3, 2


def numbers(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# Shapes and batches.


@pytest.fixture(scope="module")
def conditional():
    options = {"layers": 1, "hidden_units": (4,), "dtype": "float64", "seed": 0}
    return randomize(flows.real_nvp(EVENT, context_size=CONTEXT, **options))


batches = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
pairs = arrays.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, min_side=0, max_side=3)


@few
@hypothesis.given(shapes=pairs)
def test_events_and_contexts_broadcast_as_arrays_do(conditional, shapes):
    (events, contexts), whole = shapes
    x, context = numbers((*events, EVENT)), numbers((*contexts, CONTEXT), seed=1)
    found = conditional.log_prob(x, context=context)
    assert found.shape == whole
    rows = np.broadcast_to(x, (*whole, EVENT)).reshape(-1, EVENT)
    row_contexts = np.broadcast_to(context, (*whole, CONTEXT)).reshape(-1, CONTEXT)
    each = conditional.log_prob(rows, context=row_contexts)
    np.testing.assert_allclose(np.ravel(found), each, rtol=1e-10)


@few
@hypothesis.given(sample=batches, batch=batches)
def test_samples_have_the_shapes_that_were_asked_for(conditional, sample, batch):
    context = numbers((*batch, CONTEXT))
    x, log_prob = conditional.sample_and_log_prob(sample, context=context, seed=0)
    assert x.shape == (*sample, *batch, EVENT) and log_prob.shape == (*sample, *batch)
    found = conditional.log_prob(tf.identity(x), context=context)
    np.testing.assert_allclose(found, log_prob, rtol=1e-8, atol=1e-8)


@few
@hypothesis.given(
    batch=batches,
    factor=st.integers(1, 3),
    grid=st.lists(st.integers(1, 3), min_size=1, max_size=2),
    channels=st.integers(1, 3),
)
def test_squeezing_moves_numbers_and_loses_none(batch, factor, grid, channels):
    shape = (*(factor * length for length in grid), channels)
    squeeze = bijectors.Squeeze(factor, event_ndims=len(shape))
    x = numbers((*batch, *shape))
    y = squeeze.forward(x)
    assert y.shape == (*batch, *grid, channels * factor ** len(grid))
    assert squeeze.forward_event_shape(shape) == y.shape[len(batch) :]
    assert squeeze.inverse_event_shape(y.shape[len(batch) :]) == shape
    np.testing.assert_array_equal(squeeze.inverse(tf.identity(y)), x)
    np.testing.assert_array_equal(np.sort(np.ravel(y)), np.sort(np.ravel(x)))
    assert squeeze.forward_log_det_jacobian(x, len(shape)).shape == batch


@hypothesis.settings(few, max_examples=10)
@hypothesis.given(
    batch=batches,
    grid=st.lists(st.integers(1, 3), min_size=1, max_size=2),
    channels=st.integers(2, 4),
    data=st.data(),
)
def test_channels_that_leave_come_back(batch, grid, channels, data):
    shape, kept = (*grid, channels), data.draw(st.integers(1, channels - 1))
    inner = [bijectors.ActNorm(kept, "float64")]
    options = {"kept": kept, "dtype": "float64", "seed": 0}
    scales = randomize(bijectors.MultiScale(shape, inner, (4,), **options))
    x = numbers((*batch, *shape))
    y = scales.forward(x)
    assert y.shape == x.shape
    np.testing.assert_allclose(scales.inverse(tf.identity(y)), x, rtol=1e-9, atol=1e-9)
    there = scales.forward_log_det_jacobian(x, len(shape))
    back = scales.inverse_log_det_jacobian(tf.identity(y), len(shape))
    assert there.shape == batch
    np.testing.assert_allclose(there, -back, rtol=1e-9, atol=1e-9)


@few
@hypothesis.given(batch=batches, extra=st.integers(0, 2))
def test_bijectors_map_batches_row_by_row(conditional, batch, extra):
    bijector = conditional.given(numbers(CONTEXT)).bijector
    y = numbers((*batch, EVENT))
    x = bijector.inverse(y)
    rows = bijector.inverse(y.reshape(-1, EVENT))
    np.testing.assert_allclose(np.reshape(x, (-1, EVENT)), rows, rtol=1e-10)
    extra = min(extra, len(batch))
    log_det = bijector.inverse_log_det_jacobian(tf.identity(y), 1 + extra)
    assert log_det.shape == batch[: len(batch) - extra]
    each = bijector.inverse_log_det_jacobian(tf.identity(y.reshape(-1, EVENT)), 1)
    summed = np.reshape(each, batch).sum(tuple(range(len(batch) - extra, len(batch))))
    np.testing.assert_allclose(log_det, summed, rtol=1e-10, atol=1e-10)


# Ties.


steps = st.sampled_from([0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 30.0])
multiples = st.lists(st.integers(-50, 50), min_size=2, max_size=8, unique=True)


@few
@hypothesis.given(step=steps, multiples=multiples, order=st.randoms(use_true_random=False))
def test_a_grid_is_found_with_its_step(step, multiples, order):
    values = [step * k for k in multiples for _ in range(10)]
    order.shuffle(values)
    (found,) = tied_columns(np.array(values)[:, None])
    column, share, found_step = found
    assert column == 0
    assert share == pytest.approx(len(multiples) / len(values))
    assert found_step == pytest.approx(step * np.gcd.reduce(np.diff(sorted(multiples))), rel=1e-6)


@few
@hypothesis.given(
    values=st.lists(
        st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=60, unique=True
    )
)
def test_distinct_values_are_no_ties(values):
    assert tied_columns(np.array(values)[:, None]) == []


@few
@hypothesis.given(
    tables=arrays.arrays(
        "float64", st.tuples(st.integers(1, 60), st.integers(1, 4)), elements=st.integers(0, 6)
    )
)
def test_columns_are_looked_at_one_by_one(tables):
    expected = []
    for i, values in enumerate(tables.T):
        counts = np.unique(values, return_counts=True)[1]
        few_distinct = len(counts) < 0.1 * len(values)
        if few_distinct or counts.max() >= max(10, 0.1 * len(values)):
            expected.append((i, *tied_columns(values[:, None])[0][1:]))
    assert tied_columns(tables) == expected


# What is saved.


def coupling(mask, transformer):
    return bijectors.Coupling(EVENT, transformer, (4,), mask=mask, seed=0)


floats = st.floats(-3, 3, width=32)
kinds = st.sampled_from(
    [
        transformers.Additive(),
        transformers.Affine(1.5),
        transformers.RationalQuadraticSpline(bins=3, bound=2.5),
        transformers.Inverse(transformers.Bernstein(degree=4)),
    ]
)
masks = st.lists(st.booleans(), min_size=EVENT, max_size=EVENT).filter(
    lambda mask: any(mask) and not all(mask)
)
# What to construct, and of what: classes with their arguments, nested.
leaves = st.one_of(
    st.tuples(st.just(tfb.Shift), st.lists(floats, min_size=EVENT, max_size=EVENT)),
    st.tuples(st.just(tfb.Scale), st.floats(0.25, 4, width=32)),
    st.tuples(st.just(tfb.Permute), st.permutations(range(EVENT))),
    st.tuples(st.just(bijectors.Permutation), st.just(EVENT), st.permutations(range(EVENT))),
    st.tuples(st.just(bijectors.BimodalSoftsign), st.floats(0.5, 4, width=32), st.just(9.0)),
    st.tuples(st.just(bijectors.LU), st.just(EVENT)),
    st.tuples(st.just(bijectors.Elementwise), st.just(EVENT), kinds),
    st.tuples(st.just(coupling), masks, kinds),
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(st.just(tfb.Invert), inner),
        st.tuples(st.just(tfb.Chain), st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=4,
)


def constructed(tree):
    if isinstance(tree, tuple):
        first, *arguments = tree
        return first(*map(constructed, arguments))
    return [constructed(part) for part in tree] if isinstance(tree, list) else tree


@few
@hypothesis.given(tree=trees)
def test_a_flow_of_any_bijectors_comes_back_from_its_config(tree):
    base = tfd.MultivariateNormalDiag(tf.zeros(EVENT))
    flow = randomize(Flow(base, constructed(tree)), stddev=0.1)
    text = json.dumps(serialization.serialize(flow))
    again = serialization.deserialize(json.loads(text))
    assert json.dumps(serialization.serialize(again)) == text
    for new, old in zip(again.variables, flow.variables, strict=True):
        assert new.shape == old.shape and new.dtype == old.dtype
        new.assign(old)
    x = flow.sample(3, seed=0)
    np.testing.assert_array_equal(again.sample(3, seed=0), x)
    np.testing.assert_array_equal(again.log_prob(tf.identity(x)), flow.log_prob(tf.identity(x)))
