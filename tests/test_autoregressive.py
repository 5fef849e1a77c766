"""MADE and masked autoregressive layers: masks, the sequential direction, layers of one's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import TRANSFORMERS, autoregressive

from tfp_flows import bijectors, networks, testing
from tfp_flows.networks.made_solve import solve, solve_by_passes

t = bijectors.transformers

MADES = {
    "plain": {"event_size": 5},
    "two columns": {"event_size": 2},
    "random order": {"event_size": 7, "order": "random"},
    "two passes": {"event_size": 5, "passes": 2},
    "three passes": {"event_size": 7, "passes": 3, "order": "reversed"},
    "residual": {"event_size": 6, "residual": True, "hidden_units": (9, 9, 9, 9, 9)},
    "context": {"event_size": 7, "context_size": 2, "hidden_units": (5, 20)},
    "context, few units": {"event_size": 12, "context_size": 1, "hidden_units": (4, 8)},
    "context, one column": {"event_size": 1, "context_size": 2},
    "long": {"event_size": 20, "hidden_units": (40, 64)},
}


def random_made(transformer, *, event_size, **options):
    made = networks.MADE(
        event_size,
        transformer.parameter_count,
        options.pop("hidden_units", (8, 12)),
        activation="tanh",
        dtype="float64",
        **options,
    )
    made.build()
    rng = np.random.default_rng(0)
    for variable in made.trainable_variables:
        variable.assign(rng.normal(0, 0.5, variable.shape))
    return made


def events(made, rows=6):
    rng = np.random.default_rng(1)
    context = None
    if made.context_size is not None:
        context = tf.constant(rng.normal(size=(rows, made.context_size)))
    return tf.constant(rng.normal(size=(rows, made.event_size))), context


@pytest.mark.parametrize("name", MADES)
def test_masks_give_exact_zeros(name):
    made = random_made(t.Affine(), **MADES[name])
    x, context = events(made)
    inputs = x if context is None else tf.concat([x, context], 1)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        parameters = made(inputs)
    jacobian = tape.batch_jacobian(parameters, inputs).numpy()
    block = np.argsort(made.order) // made.block_size
    may_see = block[:, None] > block
    events_part = jacobian[..., : made.event_size]
    assert (events_part[:, :, ~may_see] == 0).all()
    # And every parameter sees all that it may, the context above all.
    wide = min(made.hidden_units) >= made.event_size
    assert not wide or (events_part[:, :, may_see] != 0).any(0).all()
    assert (jacobian[..., made.event_size :] != 0).any(0).all()


@pytest.mark.parametrize("name", MADES)
def test_solve_gives_the_numbers_of_all_passes(name):
    """Values, log-slopes and gradients, to the rounding of float64, under XLA too."""
    transformer = t.Affine()
    made = random_made(transformer, **MADES[name])
    x, context = events(made)
    weights = [variable.value for variable in made.trainable_variables]

    def both(way):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y, log_det = way()
            total = tf.reduce_sum(tf.sin(y)) + tf.reduce_sum(log_det)
        return y, log_det, *tape.gradient(total, [x, *weights])

    def network(y):
        return made(y if context is None else tf.concat([y, context], 1))

    expected = both(lambda: solve_by_passes(network, transformer.forward, x))
    for jit in (False, True) if name in ("context", "residual") else (False,):
        found = tf.function(
            lambda: both(lambda: solve(made, transformer.forward, x, context)), jit_compile=jit
        )()
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-11)


@pytest.mark.parametrize("event_size", range(1, 9))
def test_solve_takes_any_number_of_columns(event_size):
    """Less than one iteration of its loop, one, two, and all remainders."""
    made = random_made(t.Affine(), event_size=event_size)
    x, _ = events(made)
    expected = solve_by_passes(made, t.Affine().forward, x)
    for found, one in zip(solve(made, t.Affine().forward, x), expected, strict=True):
        np.testing.assert_allclose(found, one, atol=1e-12)


def test_two_passes_are_a_coupling():
    layer = bijectors.MaskedAutoregressive(5, t.Affine(), (8,), passes=2, dtype="float64", seed=0)
    for variable in layer.trainable_variables:
        variable.assign_add(np.random.default_rng(0).normal(0, 0.3, variable.shape))
    x = tf.constant(np.random.default_rng(1).normal(size=(4, 5)))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer.forward(x)
    jacobian = tape.batch_jacobian(y, x).numpy()
    first, second = slice(0, 3), slice(3, 5)
    off_diagonal = ~np.eye(3, dtype=bool)
    assert (jacobian[:, first, first][:, off_diagonal] == 0).all()
    assert (jacobian[:, second, second][:, off_diagonal[:2, :2]] == 0).all()
    assert (jacobian[:, first, second] == 0).all()
    assert (jacobian[:, second, first] != 0).all()


@keras.saving.register_keras_serializable("tests")
class Previous(keras.layers.Layer):
    """A network of one's own: each column's parameters are multiples of the column before it."""

    def __init__(self, shift=1, **options):
        super().__init__(**options)
        self.shift = shift

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(2, 1), initializer="ones")

    def call(self, x):
        before = tf.roll(x, self.shift, axis=-1)
        first = tf.one_hot(0, x.shape[-1], dtype=x.dtype)
        return (before * (1 - first))[:, None, :] * self.scale

    def get_config(self):
        return {**super().get_config(), "shift": self.shift}


def test_a_layer_of_ones_own():
    layer = bijectors.MaskedAutoregressive(
        4, t.Affine(), Previous(dtype="float64"), dtype="float64"
    )
    assert len(layer.trainable_variables) == 1
    y = np.random.default_rng(0).normal(size=(3, 4))
    x = layer.inverse(y)
    # By hand: y_i = x_i exp(s) + t, with t = y_{i-1} and s = 3 tanh(y_{i-1} / 3).
    before = np.pad(y[:, :-1], [(0, 0), (1, 0)])
    np.testing.assert_allclose(x, (y - before) * np.exp(-3 * np.tanh(before / 3)), rtol=1e-12)
    np.testing.assert_allclose(layer.forward(tf.identity(x)), y, rtol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: networks.MADE(3, 1, order=[0, 1, 1]),
            "`order` must be .* a permutation of 0, ..., 2",
        ),
        (lambda: networks.MADE(3, 1, order="sorted"), "`order` must be 'reversed', 'random'"),
        (lambda: networks.MADE(3, 1, passes=4), "`passes` must be at most event_size=3"),
        (lambda: networks.MADE(3, 1, passes=0), "`passes` must be a positive integer"),
        (lambda: networks.MADE(3, 1, ()), "`hidden_units` must be a sequence"),
        (lambda: networks.MADE(3, 1, (8, 9, 8), residual=True), "`hidden_units` must be equal"),
        (lambda: networks.MADE(3, 1, (8, 8), residual=True), "`hidden_units` must be equal"),
        (
            lambda: bijectors.MaskedAutoregressive(3, t.Affine(), Previous(shift=-1)),
            "`conditioner` must be autoregressive.*column 1 depends on column 2",
        ),
        (
            lambda: bijectors.MaskedAutoregressive(3, t.Affine(), Previous(shift=0)),
            "`conditioner` must be autoregressive.*column 1 depends on column 1",
        ),
        (
            lambda: bijectors.MaskedAutoregressive(3, t.Additive(), Previous()),
            "`conditioner` must return .* values an event",
        ),
    ],
)
def test_bad_input_raises(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def zero_at_first():
    """A network that is not autoregressive, but shows it with other weights only."""
    return keras.Sequential(
        [
            keras.layers.Dense(8, "tanh"),
            keras.layers.Dense(6, kernel_initializer="zeros"),
            keras.layers.Reshape((2, 3)),
        ]
    )


def test_a_layer_that_starts_at_zero_is_looked_at_with_other_weights():
    layer = zero_at_first()
    with pytest.raises(ValueError, match="`conditioner` must be autoregressive"):
        bijectors.MaskedAutoregressive(3, t.Affine(), layer)
    assert not layer.layers[1].kernel.numpy().any()  # And they were put back.


@pytest.mark.parametrize("name", sorted(set(TRANSFORMERS) - {"Affine", "RationalQuadraticSpline"}))
def test_every_transformer_makes_an_autoregressive_layer(name):
    case = autoregressive(2, TRANSFORMERS[name])
    x, _ = case.inputs("float64")
    skip = ["modes", "finite", "event ndims"]  # Slow to compile, and no matter of the structure.
    if case.angles:
        skip.append("one pass")  # Of angles, the forward direction makes D passes.
    testing.check_bijector(case.build("float64"), x, extremes=case.extremes, skip=skip)


def test_fewer_units_than_columns_are_a_warning():
    with pytest.warns(UserWarning, match="`hidden_units` should be 5 or more for 6 columns"):
        networks.MADE(6, 1, (8, 4))


def test_a_random_order_is_drawn_by_the_seed_and_saved():
    first, again, other = (
        bijectors.MaskedAutoregressive(9, t.Affine(), order="random", seed=s).order
        for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    made = networks.MADE(9, 2, order="random", seed=1)
    np.testing.assert_array_equal(networks.MADE.from_config(made.get_config()).order, made.order)
