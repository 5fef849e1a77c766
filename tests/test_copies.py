"""Copies: `copy()` and slices share variables, `copy.deepcopy` and `pickle` make others."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from cases import CASES
from helpers import normal, randomize
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows import Flow, bijectors, distributions, flows
from tfp_flows.bijectors import transformers
from tfp_flows.distributions import bases

AFFINE = transformers.Affine()
BASE = tfd.MultivariateNormalDiag([0.0, 0.0])


def through_pickle(obj):
    return pickle.loads(pickle.dumps(obj))


SHARED = {
    "copy": lambda obj: obj.copy(),
    "renamed": lambda obj: obj.copy(name="another"),
    "slice": lambda obj: obj[...],
    "copy.copy": copy.copy,
}
INDEPENDENT = {"deepcopy": copy.deepcopy, "pickle": through_pickle}


def check_copies(obj, evaluate, shared=tuple(SHARED)):
    """Hold all copies of an object to the same values, and to its variables or to others."""
    values = evaluate(obj)
    own = {id(variable) for variable in obj.variables}
    for how in (*shared, *INDEPENDENT):
        copied = {**SHARED, **INDEPENDENT}[how](obj)
        assert type(copied) is type(obj)
        assert copied is not obj
        np.testing.assert_array_equal(evaluate(copied), values, err_msg=how)
        assert copied.name == ("another" if how == "renamed" else obj.name)
        assert len(copied.variables) == len(obj.variables)
        assert len(copied.trainable_variables) == len(obj.trainable_variables)
        if how in SHARED:
            assert {id(variable) for variable in copied.variables} == own, how
        else:
            assert not {id(variable) for variable in copied.variables} & own, how
            for variable in copied.trainable_variables:
                variable.assign_add(tf.ones_like(variable))
    np.testing.assert_array_equal(evaluate(obj), values, err_msg="trained one, changed another")


@pytest.mark.parametrize("name", CASES)
def test_copies_of_bijectors(name):
    bijector = CASES[name].build("float32")
    x, context = CASES[name].inputs("float32")
    kwargs = {} if context is None else {"context": context[:2]}

    def evaluate(bijector):
        return bijector.forward(tf.constant(x[:2]), **kwargs).numpy()

    check_copies(bijector, evaluate, shared=("copy", "slice"))
    assert bijector.copy(validate_args=True).validate_args
    assert not bijector.validate_args


SMALL = {"layers": 2, "hidden_units": (4,)}
# What is copied, and the widths of its events and, if any, the shape of its contexts.
DISTRIBUTIONS = {
    "flow": (lambda: flows.real_nvp(2, linear="lu", actnorm=True, **SMALL), None),
    "base of TFP": (lambda: flows.maf(2, base=tfd.Sample(tfd.Laplace(0.0, 1.0), 2), **SMALL), None),
    "trained base": (lambda: flows.iaf(2, base=bases.mixture(2, 3), **SMALL), None),
    "own base": (lambda: flows.real_nvp(2, base=bases.resampled(2, (4,), draws=8), **SMALL), None),
    "support": (lambda: flows.neural_spline(2, support=[(-9.0, 9.0), "real"], **SMALL), None),
    "context": (lambda: flows.maf(2, base=bases.conditional_mixture(2, 3), context_size=3), (3,)),
    "embedding": (
        lambda: flows.real_nvp(
            2, embedding=keras.layers.GRU(3), context_shape=(4, 2), base=bases.student_t(2), **SMALL
        ),
        (4, 2),
    ),
    "mixture": (lambda: distributions.ConditionalMixture(2, 3), (3,)),
    "resampled": (lambda: distributions.Resampled(2, (4,), draws=8), None),
    "noise": (
        lambda: distributions.Dequantized(
            flows.real_nvp(2, context_size=3, **SMALL), 0.1, noise=(4,), samples=2, seed=0
        ),
        (3,),
    ),
    "mixed": (
        lambda: Flow(BASE, tfb.Chain([tfb.Invert(tfb.Tanh()), bijectors.LU(2), tfb.Tanh()])),
        None,
    ),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_copies_of_distributions(name):
    make, context_shape = DISTRIBUTIONS[name]
    distribution = randomize(make())
    x = np.round(normal(5, 2, scale=0.5), 1)
    context = {} if context_shape is None else {"context": normal(5, *context_shape)}
    check_copies(distribution, lambda d: d.log_prob(x, **context).numpy())


def test_what_two_layers_share_is_shared_in_the_copy():
    variable, layer = tf.Variable(0.5), keras.layers.Dense(4)
    couplings = [bijectors.Coupling(2, AFFINE, layer, flip=flip) for flip in (False, True)]
    shears = [bijectors.ShiftAndCube(variable) for _ in range(2)]
    flow = Flow(BASE, tfb.Chain([*couplings, *shears, shears[0]]))
    for make in INDEPENDENT.values():
        copied = make(flow)
        first, second, *cubes = copied.bijector.bijectors
        assert first.conditioner.layer.features is second.conditioner.layer.features
        assert cubes[0].coefficient is cubes[1].coefficient
        assert cubes[0].coefficient is not variable
        assert cubes[0] is cubes[2]
        assert cubes[0] is not cubes[1]
        assert len(copied.variables) == len(flow.variables)
    bijector = bijectors.LU(2)
    one, other = copy.deepcopy([Flow(BASE, bijector), Flow(BASE, bijector)])
    assert one.bijector is other.bijector


@pytest.mark.parametrize("slices", [tf.newaxis, (..., tf.newaxis)], ids=str)
def test_slices_of_what_holds_bijectors_share_their_weights(slices):
    bijector = randomize(bijectors.LU(2))
    x = tf.constant(normal(5, 2))
    density = tfd.TransformedDistribution(BASE, bijector)
    for whole in (density, Flow(BASE, bijector)):
        assert whole[slices].batch_shape == (1,)
        expected = whole.log_prob(x)
        np.testing.assert_allclose(whole[slices].log_prob(x[:, None])[:, 0], expected, rtol=1e-6)
    for whole in (tfb.Chain([bijector]), tfb.Invert(bijector)):
        expected = whole.forward(x)
        np.testing.assert_allclose(whole[slices].forward(tf.identity(x)), expected, rtol=1e-6)
        np.testing.assert_allclose(whole.copy().forward(tf.identity(x)), expected, rtol=1e-6)
    np.testing.assert_array_equal(density.copy().log_prob(x), density.log_prob(tf.identity(x)))


def test_a_batch_of_contexts_is_sliced():
    layer = randomize(bijectors.Coupling(2, AFFINE, (4,), context_size=3))
    x, context = normal(5, 2), normal(5, 3)
    given = Flow(BASE, layer).given(context)
    found = given[1:3].log_prob(x[1:3])
    np.testing.assert_allclose(found, given.log_prob(x)[1:3], rtol=1e-6)


def test_a_batch_of_parameters_is_sliced_and_changed():
    batch = bijectors.ShiftAndCube(tf.constant([1.0, 2.0]))
    assert batch[1].coefficient == 2.0
    assert batch.copy(coefficient=3.0).coefficient == 3.0
    variable = tf.Variable(1.0)
    assert bijectors.ShiftAndCube(variable).copy(name="another").coefficient is variable


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (lambda: bijectors.Coupling(3, AFFINE, (4,)), {"event_size": 4}),
        (lambda: bijectors.LU(3), {"permutation": "reversed"}),
        (lambda: bijectors.ActNorm(3), {"dtype": "float64"}),
        (lambda: distributions.Resampled(2, (4,), draws=8), {"truncation": 5}),
        (lambda: distributions.ConditionalMixture(2, 3), {"components": 4}),
    ],
)
def test_weights_do_not_fit_another_architecture(make, change):
    with pytest.raises(ValueError, match=r"`copy` shares the variables.*Received"):
        make().copy(**change)


@pytest.mark.parametrize("make", [lambda: bijectors.LU(3), lambda: distributions.Resampled(2)])
@pytest.mark.parametrize("slices", [0, tf.newaxis, slice(1)], ids=str)
def test_what_is_no_batch_has_no_parts(make, slices):
    with pytest.raises(ValueError, match=r"batch shape \(\).*Received"):
        make()[slices]


def test_a_flow_over_another_bijector_or_base():
    flow = randomize(flows.real_nvp(2, base=bases.normal(2), **SMALL))
    bijector = bijectors.Rotation2D(0.5)
    assert flow.copy(bijector=bijector).bijector is bijector
    assert flow.copy(bijector=bijector).distribution is flow.distribution
    assert flow.copy(distribution=BASE).bijector is flow.bijector
    given = distributions.Dequantized(flow, 0.1, noise=(4,)).copy(samples=3)
    assert given.samples == 3
    assert given.distribution is flow


def test_a_base_of_ones_own_keeps_its_weights():
    flow = Flow(Shifted(), tfb.Exp())
    flow.distribution.loc.assign(3.0)
    for make in INDEPENDENT.values():
        assert make(flow).distribution.loc == 3.0


class Drawn(bijectors.Bijector):
    """Scales by numbers that the constructor draws, and that are no variables."""

    def __init__(self, name: str = "drawn"):
        parameters = dict(locals())
        self.scale = np.exp(np.random.default_rng().normal(size=2)).astype("float32")
        super().__init__(parameters=parameters)

    def _forward_and_log_det(self, x):
        return x * self.scale, tf.fill(tf.shape(x)[:-1], np.log(self.scale).sum())

    def _inverse_and_log_det(self, y):
        return y / self.scale, tf.fill(tf.shape(y)[:-1], -np.log(self.scale).sum())


class NoParameters(Drawn):
    """A bijector that does not say what it was made of."""

    def __init__(self):
        self.scale = tf.Variable([2.0, 3.0])
        bijectors.Bijector.__init__(self)


@pytest.mark.parametrize("make", [Drawn, NoParameters])
def test_what_a_constructor_draws_is_kept(make):
    bijector = make()
    x = normal(5, 2)
    for copies in (SHARED["copy"], SHARED["slice"], *INDEPENDENT.values()):
        copied = copies(bijector)
        np.testing.assert_array_equal(copied.forward(x), bijector.forward(x))
    chain = tfb.Chain([bijector])
    np.testing.assert_array_equal(chain[tf.newaxis].forward(x), bijector.forward(x))


class Shifted(tfd.Distribution):
    """A normal whose mean is a variable that the constructor makes."""

    def __init__(self, name: str = "shifted"):
        parameters = dict(locals())
        self.loc = tf.Variable(0.0)
        super().__init__(tf.float32, tfd.NOT_REPARAMETERIZED, False, True, parameters, name=name)

    def _log_prob(self, value):
        return tfd.Normal(self.loc, 1.0).log_prob(value)

    def _event_shape(self):
        return tf.TensorShape([])

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return {}


def test_functions_without_a_name_cannot_be_copied():
    inline = tfb.Inline(tf.exp, lambda y: tf.math.log(y), forward_min_event_ndims=0)
    flow = Flow(tfd.Normal(0.0, 1.0), inline)
    for make in INDEPENDENT.values():
        with pytest.raises(TypeError, match=r"lambda.*use a bijector class"):
            make(flow)


def test_a_copy_after_weights_changed_has_the_new_ones():
    flow = flows.real_nvp(2, **SMALL)
    x = normal(5, 2)
    first = copy.deepcopy(flow)
    randomize(flow)
    second = copy.deepcopy(first)
    assert np.abs(first.log_prob(x) - flow.log_prob(x)).max() > 1e-3
    np.testing.assert_array_equal(second.log_prob(x), first.log_prob(x))
    np.testing.assert_array_equal(through_pickle(flow).log_prob(x), flow.log_prob(x))


@pytest.mark.slow
def test_another_process_gets_the_flow():
    flow = randomize(flows.maf(2, base=bases.mixture(2, 3), **SMALL))
    x = normal(5, 2)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(log_prob, flow, x).result()
    np.testing.assert_allclose(found, flow.log_prob(x), rtol=1e-6)


def log_prob(flow, x):
    return flow.log_prob(x).numpy()


def test_dtypes_and_other_values_of_arguments_are_kept():
    scale = tf.linalg.LinearOperatorLowerTriangular(tf.Variable([[1.0, 0.0], [0.5, 2.0]]))
    base = tfd.MultivariateNormalLinearOperator(tf.Variable([1.0, 2.0]), scale)
    positive = tfp.util.TransformedVariable(2.0, tfb.Softplus(), name="sharpness")
    flow = Flow(base, bijectors.BimodalSoftsign(positive), validate_args=True)
    for make in INDEPENDENT.values():
        copied = make(flow)
        assert copied.validate_args
        assert len(copied.variables) == 3
        x = normal(5, 2, scale=0.2)
        np.testing.assert_array_equal(copied.log_prob(x), flow.log_prob(x))
    double = copy.deepcopy(bijectors.LU(2, dtype="float64"))
    assert double.dtype == tf.float64
