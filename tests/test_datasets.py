"""The toys' samples follow their densities, and the shipped table is what it says."""

import functools
import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import special

from tfp_flows import datasets
from tfp_flows.distributions import toys

TOYS = {name: getattr(datasets, name) for name in datasets.names()}
CASES = TOYS | {
    "two_moons, sharp": functools.partial(datasets.two_moons, noise=0.1),
    "two_spirals, broad": functools.partial(datasets.two_spirals, noise=0.3),
    "circle and point": functools.partial(datasets.circles, radii=(0.0, 2.5)),
    "pinwheel, left": functools.partial(datasets.pinwheel, arms=3, twist=-0.2, radial=0.4),
}
SMOOTH = sorted(TOYS.keys() - {"checkerboard"})
GRID, EDGE = 300, 6.0  # points along an axis of the grid, which covers [-6, 6]^2


@pytest.fixture(scope="module")
def log_density():
    """Log-densities, float64, at the middles of a grid whose lines meet the checkerboard's."""
    step = 2 * EDGE / GRID
    middles = np.arange(-EDGE, EDGE, step) + step / 2
    x = np.stack(np.meshgrid(middles, middles, indexing="ij"), axis=-1)
    return functools.cache(lambda case: CASES[case](dtype="float64").log_prob(x).numpy()), step**2


@pytest.mark.parametrize("case", CASES)
def test_density_integrates_to_one(case, log_density):
    at, area = log_density
    np.testing.assert_allclose(np.exp(at(case)).sum() * area, 1, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_samples_fall_into_cells_as_often_as_the_density_says(case, log_density):
    at, area = log_density
    sample = CASES[case]().sample(200_000, seed=1).numpy()
    for cells in (12, 60):  # coarse cells show a drift along a curve, fine ones a wrong width
        split = GRID // cells
        mass = np.exp(at(case)).reshape(cells, split, cells, split).sum(axis=(1, 3)) * area
        expected = len(sample) * mass
        edges = np.linspace(-EDGE, EDGE, cells + 1)
        observed, _, _ = np.histogram2d(*sample.T, bins=(edges, edges))
        many = expected >= 5
        chi2 = ((observed - expected)[many] ** 2 / expected[many]).sum()
        assert chi2 < many.sum() + 5 * math.sqrt(2 * many.sum())
        rare, expected_rare = (len(sample) - count[many].sum() for count in (observed, expected))
        assert abs(rare - expected_rare) < 5 * math.sqrt(expected_rare + 1)


@pytest.mark.parametrize("case", CASES)
def test_mean_log_prob_of_samples_is_minus_the_entropy(case, log_density):
    at, area = log_density
    inside = np.isfinite(at(case))
    entropy = -np.sum(np.exp(at(case)[inside]) * at(case)[inside]) * area
    d = CASES[case](dtype="float64")
    values = d.log_prob(d.sample(20_000, seed=2)).numpy()
    assert abs(values.mean() + entropy) < 5 * values.std() / math.sqrt(values.size) + 1e-9


def test_sharp_curves_are_where_the_documentation_says():
    """There the density is the mass per length of the curve, times a normal's height."""
    t = np.linspace(0.3, 0.9, 7)
    angle = {"two_moons": math.pi * t, "circles": 2 * math.pi * t, "two_spirals": 3 * math.pi * t}
    radius = {"two_moons": 2, "circles": 3, "two_spirals": math.pi * t}
    shift = {"two_moons": (-1, -0.5), "circles": (0, 0), "two_spirals": (0, 0)}
    s = angle["two_spirals"]
    spread = 2 * s / ((3 * math.pi) ** 2 - (math.pi / 2) ** 2)  # density of the spiral's angle
    mass_per_length = {
        "two_moons": 1 / (2 * math.pi),
        "circles": 1 / (6 * math.pi),
        "two_spirals": spread / (np.sqrt(1 + s**2) / 3),
    }
    for name, a in angle.items():
        d = TOYS[name](noise=0.01, dtype="float64")
        x = np.stack([np.cos(a), np.sin(a)], axis=-1) * np.reshape(radius[name], (-1, 1))
        x += shift[name]
        expected = np.log(mass_per_length[name] / 2 / (0.01 * math.sqrt(2 * math.pi)))
        for copy in (x, -x):
            np.testing.assert_allclose(d.log_prob(copy) - expected, 0, atol=1e-3)


def moon(m):
    return np.stack([2 * np.cos(np.pi * m) - 1, 2 * np.sin(np.pi * m) - 0.5], -1)


def spiral(m):
    t = np.sqrt((np.pi / 2) ** 2 + m * ((3 * np.pi) ** 2 - (np.pi / 2) ** 2))
    return np.stack([t / 3 * np.cos(t), t / 3 * np.sin(t)], -1)


CURVES = {"two_moons": moon, "two_spirals": spiral}


@functools.cache
def fine_quadrature():
    """Nodes less than one deviation of the least noise apart on the longer curve."""
    return np.polynomial.legendre.leggauss(1200)


@pytest.mark.parametrize("noise", [0.03, 0.2, 1.0, 5.0])
@pytest.mark.parametrize("name", ["two_moons", "two_spirals"])
def test_quadrature_has_converged(name, noise):
    d = TOYS[name](noise=noise, dtype="float64")
    # Also 5 deviations off the curve, where the integrand is at its narrowest.
    x = d.sample(500, seed=3)
    x = tf.concat([x, x + 5 * noise * tf.math.l2_normalize(x, axis=-1)], axis=0)
    nodes, weights = fine_quadrature()
    curve = CURVES[name]((nodes + 1) / 2)
    gap = np.stack([x.numpy()[:, None] - sign * curve for sign in (1, -1)])  # The arm, and turned.
    parts = -np.sum(gap**2, -1) / (2 * noise**2) - np.log(2 * np.pi * noise**2)
    expected = special.logsumexp(parts, axis=(0, 2), b=weights / 4)
    np.testing.assert_allclose(d.log_prob(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", TOYS)
def test_seeds_reproduce(name):
    d = TOYS[name]()
    x = d.sample(100, seed=0).numpy()
    np.testing.assert_array_equal(d.sample(100, seed=0), x)
    np.testing.assert_array_equal(TOYS[name]().sample(100, seed=0), x)
    np.testing.assert_array_equal(d.sample(100, seed=(0, 0)), x)
    graph = tf.function(lambda: d.sample(100, seed=0))()
    np.testing.assert_allclose(graph, x, rtol=0, atol=1e-5)
    for other in (d.sample(100, seed=1), d.sample(100)):
        assert not np.isclose(other, x).all(axis=-1).any()


@pytest.mark.parametrize("name", TOYS)
def test_dtype_is_kept(name):
    double = TOYS[name](dtype=tf.float64)
    for dtype in ("float32", "float64"):
        d = TOYS[name](dtype=dtype)
        x = d.sample(1000, seed=4)
        assert d.dtype == x.dtype == d.log_prob(x).dtype == dtype
        np.testing.assert_allclose(
            d.log_prob(x), double.log_prob(tf.cast(x, tf.float64)), rtol=1e-5, atol=1e-4
        )


@pytest.mark.parametrize("name", TOYS)
def test_shapes(name):
    d = TOYS[name]()
    assert d.event_shape == [2] and d.batch_shape == []
    assert d.event_shape_tensor().numpy() == [2] and d.batch_shape_tensor().shape == [0]
    for sample_shape, full in (((), ()), (5, (5,)), ((2, 3), (2, 3))):
        x = d.sample(sample_shape, seed=5)
        assert x.shape == (*full, 2)
        log_prob = d.log_prob(x)
        assert log_prob.shape == full
        flat = d.log_prob(tf.reshape(x, (-1, 2)))
        np.testing.assert_allclose(tf.reshape(log_prob, (-1,)), flat, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", TOYS)
def test_graphs_agree_with_eager(name, jit_compile):
    d = TOYS[name](dtype="float64")
    x = d.sample(100, seed=6)
    spec = [tf.TensorSpec((100 if jit_compile else None, 2), tf.float64)]
    log_prob = tf.function(d.log_prob, input_signature=spec, jit_compile=jit_compile)
    np.testing.assert_allclose(log_prob(x), d.log_prob(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SMOOTH)
def test_far_away_values_and_gradients_are_finite(name, dtype):
    d = TOYS[name](dtype=dtype)
    for direction in ([1.0, 0.0], [0.0, -1.0], [-1.0, 1.0]):
        x = tf.constant([0.0, 10.0, 100.0, 1e4], dtype)[:, tf.newaxis] * direction
        with tf.GradientTape() as tape:
            tape.watch(x)
            log_prob = d.log_prob(x)
        assert np.isfinite(log_prob).all()
        assert np.isfinite(tape.gradient(log_prob, x)).all()
        assert (np.diff(log_prob) < 0).all()  # farther is rarer


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", TOYS)
def test_nothing_is_infinitely_far_out_and_missing_values_stay_so(name, dtype):
    d = TOYS[name](dtype=dtype)
    largest = np.finfo(dtype).max
    far = [[math.inf, 0], [-math.inf, math.inf], [1, -math.inf], [largest, 0], [-largest, largest]]
    np.testing.assert_array_equal(d.log_prob(tf.constant(far, dtype)), -math.inf)
    assert np.isnan(d.log_prob(tf.constant([[math.nan, 0], [0, math.nan]], dtype))).all()
    assert (d.log_prob(tf.constant([[1e6, 0.0]], dtype)).numpy() < -1e9).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_checkerboard_has_eight_squares_and_nothing_else(dtype):
    d = datasets.checkerboard(dtype=dtype)
    inside = tf.constant([[-4, -4], [-3, -3], [-1, 3], [0, 0], [1, 1], [3, -1]], dtype)
    outside = tf.constant(
        [[1, -1], [-3, -1], [4, 4], [2, 0], [5, 5], [-5, -5], [5, 3], [1e4, 1e4], [-1e4, 0]], dtype
    )
    np.testing.assert_allclose(d.log_prob(inside), -math.log(32), rtol=1e-6)
    np.testing.assert_array_equal(d.log_prob(outside), -math.inf)
    sample = d.sample(200_000, seed=7)
    np.testing.assert_allclose(d.log_prob(sample), -math.log(32), rtol=1e-6)


def test_toys_work_inside_tfp():
    tfd, tfb = tfp.distributions, tfp.bijectors
    d = datasets.two_moons(dtype="float64")
    x = d.sample(10, seed=8)
    doubled = tfd.TransformedDistribution(d, tfb.Scale(tf.constant(2.0, tf.float64)))
    np.testing.assert_allclose(doubled.log_prob(2 * x), d.log_prob(x) - 2 * math.log(2))
    assert tfd.Sample(d, 3).sample(4, seed=8).shape == (4, 3, 2)
    sharp = datasets.two_moons(noise=0.1, dtype="float64")
    np.testing.assert_array_equal(d.copy(noise=0.1).log_prob(x), sharp.log_prob(x))


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("two_moons", "noise", 0.0),
        ("two_moons", "noise", -1),
        ("two_spirals", "noise", math.nan),
        ("two_moons", "noise", "much"),
        ("circles", "noise", math.inf),
        ("circles", "radii", ()),
        ("circles", "radii", 2.0),
        ("rings", "radii", (1.0, -1.0)),
        ("eight_gaussians", "radius", -1.0),
        ("eight_gaussians", "noise", None),
        ("pinwheel", "arms", 0),
        ("pinwheel", "arms", 2.5),
        ("pinwheel", "radial", 0),
        ("pinwheel", "tangential", 0),
        ("pinwheel", "twist", math.nan),
        ("checkerboard", "dtype", "int32"),
        ("two_moons", "dtype", "number"),
    ],
)
def test_bad_options_are_named(name, option, value):
    with pytest.raises(ValueError, match=rf"`{option}` must be .* Received: {option}="):
        TOYS[name](**{option: value})


@pytest.mark.parametrize("name", TOYS)
def test_bad_points_are_named(name):
    d = TOYS[name]()
    for shape in ((), (1,), (5, 3)):
        with pytest.raises(ValueError, match=r"`value` must have shape \(\.\.\., 2\)\. Received"):
            d.log_prob(tf.zeros(shape))
    with pytest.raises(TypeError, match=r"`value` must be float32\. Received: dtype=float64"):
        d.log_prob(tf.zeros((5, 2), tf.float64))


def test_names_are_the_public_toys():
    others = ("Images", "Table", "digits", "faithful", "names")
    public = [name for name in datasets.__all__ if name not in others]
    assert list(datasets.names()) == public
    assert datasets.__all__ == sorted(datasets.__all__)
    assert toys.__all__ == sorted(toys.__all__)
    made = {type(make()).__name__ for make in TOYS.values()}
    assert made == set(toys.__all__)


def test_faithful():
    table = datasets.faithful()
    x, columns = table
    assert columns == table.columns == ("eruptions", "waiting")
    assert x.shape == (272, 2) and x.dtype == np.float64
    # What R prints for `summary(faithful)` and `cor(faithful)`.
    np.testing.assert_array_equal(x.min(axis=0), [1.6, 43])
    np.testing.assert_array_equal(x.max(axis=0), [5.1, 96])
    np.testing.assert_allclose(np.median(x, axis=0), [4, 76])
    np.testing.assert_allclose(x.mean(axis=0), [3.487783, 70.897059], atol=1e-6)
    np.testing.assert_allclose(np.corrcoef(x.T)[0, 1], 0.9008112, atol=1e-7)
    np.testing.assert_array_equal(x[[0, -1]], [[3.6, 79], [4.467, 74]])
