"""One battery over every bijector, and what is particular to each."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from cases import CASES, TRANSFORMERS

from tfp_flows import Flow, bases, bijectors, testing

tfd, tfb = tfp.distributions, tfp.bijectors
t = bijectors.transformers
DTYPES = ("float32", "float64")


def zeros_of(bijector: tfb.Bijector, x: np.ndarray) -> np.ndarray | None:
    """Where the Jacobian of a coupling or an autoregressive layer must be 0."""
    if isinstance(bijector, bijectors.Coupling):
        grid = [length or x.shape[i + 1] for i, length in enumerate(bijector.grid)]
        mask = np.broadcast_to(bijector.mask, [*grid, bijector.event_size]).ravel()
        may_see = ~mask[:, None] & mask
    elif isinstance(bijector, bijectors.MaskedAutoregressive):
        block = np.argsort(bijector.order) // bijector.conditioner.layer.block_size
        may_see = block[:, None] > block
    elif isinstance(bijector, bijectors.BlockAutoregressive):
        place = np.argsort(bijector.order)
        may_see = place[:, None] > place
    elif isinstance(bijector, bijectors.TokenAutoregressive):
        place = np.arange(x[0].size) // x.shape[-1] * (-1 if bijector.reverse else 1)
        may_see = place[:, None] > place
    else:
        return None
    return ~may_see & ~np.eye(len(may_see), dtype=bool)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_bijector_obeys_all_laws(name, dtype):
    case = CASES[name]
    bijector = case.build(dtype)
    x, context = case.inputs(dtype)
    testing.check_bijector(
        bijector,
        x,
        context,
        extremes=case.extremes,
        inverse_extremes=case.inverse_extremes,
        jacobian_zeros=zeros_of(bijector, x),
        skip=case.skip,
    )


IN_A_FLOW = [
    name
    for name, case in CASES.items()
    if case.event_size in (1, 2) and not case.skip and "float" not in name
]


@pytest.mark.parametrize("name", IN_A_FLOW)
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
    testing.check_bijector(layer, x, jacobian_zeros=zeros_of(layer, x), skip=others)


@pytest.mark.parametrize("transformer", TRANSFORMERS.values(), ids=TRANSFORMERS)
def test_zero_parameters_are_the_identity(transformer):
    x = np.random.default_rng(0).uniform(-3, 3, size=(50, 3))
    zeros = tf.zeros([1, transformer.parameter_count, 3], "float64")
    y, log_det = transformer.forward(tf.constant(x), zeros)
    np.testing.assert_allclose(y, x, atol=1e-12)
    np.testing.assert_allclose(log_det, 0.0 * x, atol=1e-12)


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
    "affine shift": (lambda: t.Affine(max_shift=-1.0), ValueError, "`max_shift` must be positive"),
    "shift bound": (lambda: t.Additive(max_shift=0.0), ValueError, "`max_shift` must be positive"),
    "shift type": (lambda: t.Additive(max_shift="x"), TypeError, "`max_shift`"),
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


if __name__ == "__main__":  # `python tests/test_bijectors.py`: how much the battery checks.
    laws = sum(len(set(testing.BIJECTOR_LAWS) - set(case.skip)) for case in CASES.values())
    print(f"{laws * len(DTYPES)} checks of laws × {len(CASES)} bijectors × {len(DTYPES)} dtypes,")
    print(f"{len(IN_A_FLOW) * len(testing.FLOW_LAWS)} of laws × {len(IN_A_FLOW)} flows")
