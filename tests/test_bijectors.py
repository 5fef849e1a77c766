"""One battery over every bijector, and what is particular to each."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from cases import BOUND, CASES, TRANSFORMERS

from tfp_flows import Flow, bases, bijectors, testing

tfd, tfb = tfp.distributions, tfp.bijectors
t = bijectors.transformers


def zeros_of(bijector: tfb.Bijector) -> np.ndarray | None:
    """Where the Jacobian of a coupling or an autoregressive layer must be 0."""
    if isinstance(bijector, bijectors.Coupling):
        may_see = ~bijector.mask[:, None] & bijector.mask
    elif isinstance(bijector, bijectors.MaskedAutoregressive):
        block = np.argsort(bijector.order) // bijector.conditioner.layer.block_size
        may_see = block[:, None] > block
    else:
        return None
    return ~may_see & ~np.eye(bijector.event_size, dtype=bool)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_bijector_obeys_all_laws(name, dtype):
    case = CASES[name]
    bijector = case.build(dtype)
    testing.check_bijector(
        bijector,
        *case.inputs(dtype),
        extremes=case.extremes,
        inverse_extremes=case.inverse_extremes,
        jacobian_zeros=zeros_of(bijector),
        skip=case.skip,
    )


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, case in CASES.items()
        if case.event_size <= 2 and not case.skip and "float" not in name
    ],
)
def test_bijector_in_a_flow_obeys_all_laws(name):
    case = CASES[name]
    size = case.event_size
    scales = tf.constant([0.8, 1.2][:size], "float64")
    base, extent = tfd.MultivariateNormalDiag(0 * scales, scales), None
    if case.angles:
        base, extent = bases.torus(size, dtype="float64"), (-np.pi, np.pi)
    x, context = case.inputs("float64")
    flow = Flow(base, case.build("float64", noise=0.1))
    testing.check_flow(flow, x, context, extent=extent)


def test_every_exported_bijector_and_transformer_has_a_case():
    built = {type(case.make("float32")).__name__ for case in CASES.values()}
    assert built == set(bijectors.__all__) - {"Bijector", "transformers"}
    used = {type(transformer).__name__ for transformer in TRANSFORMERS.values()}
    assert used == set(t.__all__) - {"Transformer"}


def test_jacobian_zeros_hold_after_training():
    layer = CASES["Coupling RationalQuadraticSpline 5"].build("float64")
    flow = Flow(tfd.MultivariateNormalDiag(tf.zeros([5], "float64")), layer)
    x, _ = CASES["Coupling RationalQuadraticSpline 5"].inputs("float64")
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(flow.trainable_variables)
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(flow.log_prob(x))
        gradients = tape.gradient(loss, flow.trainable_variables)
        optimizer.apply(gradients, flow.trainable_variables)
    others = set(testing.BIJECTOR_LAWS) - {"Jacobian zeros"}
    testing.check_bijector(layer, x, jacobian_zeros=zeros_of(layer), skip=others)


# The analytic bijectors, against figures worked out by hand.


def test_shift_and_cube_by_hand():
    cube = bijectors.ShiftAndCube(0.5)
    np.testing.assert_allclose(cube.forward([2.0, 1.0]), [2.0, 5.0])
    np.testing.assert_allclose(cube.inverse([2.0, 5.0]), [2.0, 1.0])
    # A published tutorial has a log-det of 1 here: the Jacobian's diagonal is 1, its log is 0.
    assert cube.forward_log_det_jacobian([2.0, 1.0], 1) == 0.0


def test_rotation_by_hand():
    quarter = bijectors.Rotation2D(np.pi / 2)
    np.testing.assert_allclose(quarter.forward([1.0, 0.0]), [0.0, 1.0], atol=1e-7)
    # A published tutorial has `sin·x0 - cos·x1` here, which would give (0, -1) for this point.
    np.testing.assert_allclose(quarter.forward([0.0, 1.0]), [-1.0, 0.0], atol=1e-7)
    sixth = bijectors.Rotation2D(np.pi / 3)
    np.testing.assert_allclose(sixth.forward([0.0, 1.0]), [-np.sqrt(0.75), 0.5], rtol=1e-6)
    assert sixth.forward_log_det_jacobian([1.0, 2.0], 1) == 0.0


def test_softsign_by_hand():
    softsign = bijectors.BimodalSoftsign(2.0, 3.0)
    np.testing.assert_allclose(softsign.forward([1.0, -0.5]), [2.0, -1.5])
    np.testing.assert_allclose(softsign.inverse([2.0, -1.5]), [1.0, -0.5], rtol=1e-6)
    # Slope at x = 1: 3 * 2 / (1 + 2)².
    log_det = softsign.forward_log_det_jacobian(1.0, 0)
    np.testing.assert_allclose(log_det, np.log(6 / 9), rtol=1e-6)


def test_softsign_makes_a_normal_bimodal():
    two_modes = tfd.TransformedDistribution(tfd.Normal(0.0, 1.0), bijectors.BimodalSoftsign())
    y = np.linspace(-0.99, 0.99, 397, dtype="float32")
    density = two_modes.prob(y).numpy()
    peaks = y[1:-1][(density[1:-1] > density[:-2]) & (density[1:-1] > density[2:])]
    assert len(peaks) == 2
    # The log-density of |x| = a peaks where 2 log(1 + a) - a²/2 does: at a(1 + a) = 2, a = 1.
    np.testing.assert_allclose(peaks, [-0.5, 0.5], atol=0.01)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softsign_has_no_density_outside_its_support(dtype):
    base = tfd.MultivariateNormalDiag(tf.zeros([2], dtype), tf.ones([2], dtype))
    chain = tfb.Chain([bijectors.Rotation2D(0.3), bijectors.BimodalSoftsign(2.0, 3.0)])
    y = tf.constant([[9.0, 9.0], [0.0, 4.0], [1e4, 0.0], [0.5, -0.5]], dtype)
    with tf.GradientTape() as tape:
        tape.watch(y)
        log_prob = Flow(base, chain).log_prob(y)
    np.testing.assert_array_equal(np.isneginf(log_prob), [True, True, True, False])
    assert np.isfinite(log_prob[3]) and np.isfinite(tape.gradient(log_prob, y)).all()


def test_flow_has_no_density_outside_the_range_of_tfp_bijectors():
    flow = Flow(tfd.MultivariateNormalDiag([0.0, 0.0]), tfb.Sigmoid())
    y = tf.constant([[0.5, 2.0], [-1.0, 0.5], [0.5, 0.5], [np.nan, 0.5]])
    log_prob = flow.log_prob(y).numpy()
    np.testing.assert_array_equal(np.isneginf(log_prob), [True, True, False, False])
    assert np.isfinite(log_prob[2]) and np.isnan(log_prob[3])  # A missing value stays one.


@pytest.mark.parametrize(
    "make",
    [bijectors.ShiftAndCube, bijectors.Rotation2D, bijectors.BimodalSoftsign],
)
def test_scalar_arguments(make):
    """Floats follow the input's dtype; tensors, variables and transformed variables work."""
    x = np.random.default_rng(0).normal(size=(4, 2))
    expected = make(0.7).forward(x)
    assert expected.dtype == tf.float64
    assert make(0.7).forward(x.astype("float32")).dtype == tf.float32
    positive = tfp.util.TransformedVariable(tf.constant(0.7, "float64"), tfb.Exp())
    for value in (np.float64(0.7), tf.constant(0.7, "float64"), tf.Variable(0.7, dtype="float64")):
        np.testing.assert_allclose(make(value).forward(x), expected, rtol=1e-12)
    bijector = make(positive)
    np.testing.assert_allclose(bijector.forward(x), expected, rtol=1e-12)
    assert len(bijector.trainable_variables) == 1


def test_parameters_make_batches():
    angles = tf.constant([0.1, 0.2, 0.3])
    base = tfd.MultivariateNormalDiag([0.0, 1.0])
    rotated = tfd.TransformedDistribution(base, bijectors.Rotation2D(angles))
    assert rotated.batch_shape == (3,) and rotated.sample(5).shape == (5, 3, 2)
    each = [
        tfd.TransformedDistribution(base, bijectors.Rotation2D(angle)).log_prob([1.0, 2.0])
        for angle in (0.1, 0.2, 0.3)
    ]
    np.testing.assert_allclose(rotated.log_prob([1.0, 2.0]), each, rtol=1e-6)


# Splines.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_spline_at_knots_and_bound(dtype):
    """A fresh spline has even knots: values, slopes and gradients are those of the identity."""
    spline = t.RationalQuadraticSpline(bins=8, bound=4.0)
    knots = np.arange(-4.0, 4.5)
    number = np.dtype(dtype).type
    points = np.concatenate([f(knots.astype(dtype)) for f in (lambda k: k, *_steps(number))])[
        :, None
    ]
    parameters = tf.zeros([1, spline.parameter_count, 1], dtype)
    for direction in (spline.forward, spline.inverse):
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            y, log_det = direction(tf.constant(points), parameters)
        tolerance = 10 * np.finfo(dtype).eps
        np.testing.assert_allclose(y, points, atol=4 * tolerance)
        np.testing.assert_allclose(log_det, np.zeros_like(points), atol=tolerance)
        assert np.isfinite(tape.gradient(y, parameters)).all()


def _steps(number: type):
    return (
        lambda k: np.nextafter(k, number(np.inf), dtype=number),
        lambda k: np.nextafter(k, number(-np.inf), dtype=number),
    )


def test_spline_is_monotone_and_the_identity_outside():
    spline = t.RationalQuadraticSpline(bins=6, bound=BOUND)
    rng = np.random.default_rng(0)
    parameters = tf.constant(rng.normal(0, 3, (1, spline.parameter_count, 1)))
    x = np.linspace(-2 * BOUND, 2 * BOUND, 2001)[:, None]
    y, log_det = (np.asarray(v) for v in spline.forward(tf.constant(x), parameters))
    assert (np.diff(y[:, 0]) > 0).all()
    outside = np.abs(x) >= BOUND
    np.testing.assert_array_equal(y[outside], x[outside])
    np.testing.assert_array_equal(log_det[outside], 0.0)
    assert (np.abs(y[~outside]) < BOUND).all() and np.abs(y - x)[~outside].max() > 0.1
    # The slope goes to 1 at the bound, where the identity takes over.
    edge = tf.constant([[BOUND - 1e-9], [1e-9 - BOUND]], tf.float64)
    np.testing.assert_allclose(spline.forward(edge, parameters)[1], 0.0, atol=1e-6)


@pytest.mark.parametrize("transformer", TRANSFORMERS.values(), ids=TRANSFORMERS)
def test_zero_parameters_are_the_identity(transformer):
    x = np.random.default_rng(0).uniform(-3, 3, size=(50, 3))
    zeros = tf.zeros([1, transformer.parameter_count, 3], "float64")
    y, log_det = transformer.forward(tf.constant(x), zeros)
    np.testing.assert_allclose(y, x, atol=1e-12)
    np.testing.assert_allclose(log_det, 0.0 * x, atol=1e-12)


# Couplings.


@pytest.mark.parametrize("size", [2, 3, 4, 5, 7])
@pytest.mark.parametrize("mask", ["half", "alternate"])
def test_flip_moves_what_was_kept(size, mask):
    """Between a coupling and its flipped twin, every column is transformed exactly once."""
    one, other = (
        bijectors.Coupling(size, t.Additive(), (4,), mask=mask, flip=flip) for flip in (False, True)
    )
    np.testing.assert_array_equal(one.mask, ~other.mask)
    assert abs(one.mask.sum() - other.mask.sum()) <= 1


def test_coupling_with_a_layer_of_ones_own():
    layer = keras.Sequential([keras.layers.Dense(7, "tanh"), keras.layers.LayerNormalization()])
    coupling = bijectors.Coupling(4, t.Affine(), layer)
    assert len(coupling.trainable_variables) == 6
    x = tf.random.stateless_normal([3, 4], seed=(0, 1))
    np.testing.assert_array_equal(coupling.forward(x), x)


def test_seed_fixes_the_weights():
    def kernel(seed):
        return bijectors.Coupling(4, t.Affine(), (5,), seed=seed).trainable_variables[0].numpy()

    np.testing.assert_array_equal(kernel(3), kernel(3))
    assert not np.array_equal(kernel(3), kernel(4))


def test_context_broadcasts_with_events():
    coupling = CASES["Coupling context 3"].build("float64")
    x, context = CASES["Coupling context 3"].inputs("float64")
    rows = [coupling.forward(x[:1], context=context[i : i + 1])[0] for i in range(4)]
    np.testing.assert_allclose(coupling.forward(x[0], context=context[:4]), rows, rtol=1e-12)
    tall = coupling.forward(np.stack([x, x]), context=context)
    np.testing.assert_allclose(tall[1], coupling.forward(x, context=context), rtol=1e-12)


BAD_INPUT = {
    "cube string": (lambda: bijectors.ShiftAndCube("a"), TypeError, "`coefficient` must be a"),
    "cube none": (lambda: bijectors.ShiftAndCube(None), TypeError, "coefficient=None"),
    "cube nan": (lambda: bijectors.ShiftAndCube(np.nan), ValueError, "finite. Received"),
    "cube size": (lambda: bijectors.ShiftAndCube(1.0).forward(tf.zeros(3)), ValueError, "size 2"),
    "rotation bool": (lambda: bijectors.Rotation2D(True), TypeError, "`angle`"),
    "rotation size": (lambda: bijectors.Rotation2D(1.0).inverse(tf.zeros(1)), ValueError, "size 2"),
    "softsign zero": (lambda: bijectors.BimodalSoftsign(0.0), ValueError, "positive and finite"),
    "softsign scale": (lambda: bijectors.BimodalSoftsign(1.0, -1.0), ValueError, "`scale`"),
    "affine bound": (lambda: t.Affine(max_log_scale=0), ValueError, "`max_log_scale`"),
    "affine type": (lambda: t.Affine(max_log_scale="x"), TypeError, "`max_log_scale`"),
    "spline bins": (lambda: t.RationalQuadraticSpline(bins=0), ValueError, "`bins`"),
    "spline bins type": (lambda: t.RationalQuadraticSpline(bins=2.5), TypeError, "`bins`"),
    "spline bound": (lambda: t.RationalQuadraticSpline(bound=-1.0), ValueError, "`bound`"),
    "spline min_bin": (lambda: t.RationalQuadraticSpline(min_bin=0.2), ValueError, "`min_bin`"),
    "spline slope": (lambda: t.RationalQuadraticSpline(min_slope=1.0), ValueError, "`min_slope`"),
    "size zero": (lambda: bijectors.Elementwise(0, t.Affine()), ValueError, "`event_size`"),
    "size float": (lambda: bijectors.Coupling(2.0, t.Affine()), ValueError, "`event_size`"),
    "transformer": (lambda: bijectors.Coupling(2, "affine"), TypeError, "`transformer`"),
    "dtype": (lambda: bijectors.Elementwise(2, t.Affine(), dtype="int32"), ValueError, "`dtype`"),
    "event": (
        lambda: bijectors.Elementwise(2, t.Affine()).forward(tf.zeros([4, 3])),
        ValueError,
        re.escape("size 2 on the last axis. Received: shape=(4, 3)"),
    ),
    "mask name": (
        lambda: bijectors.Coupling(2, t.Affine(), mask="odd"),
        ValueError,
        "`mask` must be 'half', 'alternate'",
    ),
    "mask length": (
        lambda: bijectors.Coupling(2, t.Affine(), mask=[True]),
        ValueError,
        "`mask` must be 2 booleans",
    ),
    "mask all": (
        lambda: bijectors.Coupling(2, t.Affine(), mask=[True, True]),
        ValueError,
        "`mask` must leave at least one column",
    ),
    "mask none": (
        lambda: bijectors.Coupling(2, t.Affine(), mask=[True, True], flip=True),
        ValueError,
        "`mask` must leave at least one column",
    ),
    "widths": (lambda: bijectors.Coupling(2, t.Affine(), (8, 0)), ValueError, "`hidden_units`"),
    "no widths": (lambda: bijectors.Coupling(2, t.Affine(), ()), ValueError, "`hidden_units`"),
    "conditioner": (lambda: bijectors.Coupling(2, t.Affine(), "mlp"), ValueError, "`conditioner`"),
    "context size": (
        lambda: bijectors.Coupling(2, t.Affine(), context_size=0),
        ValueError,
        "`context_size`",
    ),
    "context missing": (
        lambda: bijectors.Coupling(2, t.Affine(), context_size=3).forward(tf.zeros([4, 2])),
        ValueError,
        "`context` is missing",
    ),
    "context unwanted": (
        lambda: bijectors.Coupling(2, t.Affine()).forward(tf.zeros([4, 2]), context=tf.zeros(3)),
        ValueError,
        "unconditional",
    ),
    "context width": (
        lambda: bijectors.Coupling(2, t.Affine(), context_size=3).forward(
            tf.zeros([4, 2]), context=tf.zeros([4, 2])
        ),
        ValueError,
        re.escape("`context` must have shape (..., 3)"),
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_raises(name):
    make, error, message = BAD_INPUT[name]
    with pytest.raises(error, match=message):
        make()
