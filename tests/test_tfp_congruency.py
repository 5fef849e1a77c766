"""What TFP's own tests ask of a bijector, of every bijector here.

Those tests (`bijector_test_util`) are in TFP's repository and not in its package. The laws
"finite differences" and "scalar congruency" are part of the battery in test_bijectors.py; here all
begins from events of the range that no forward map made, as `assert_bijective_and_finite` does,
and TFP's bijectors stand beside ours.
"""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from cases import CASES

from tfp_flows import bijectors, testing

tfb = tfp.bijectors
TFP_LAWS = ("bijective", "finite differences", "scalar congruency")


def only(*laws: str) -> set[str]:
    return set(testing.BIJECTOR_LAWS) - set(laws)


def between(images: tf.Tensor) -> np.ndarray:
    """Events of a convex range: halfway from each image to the next."""
    images = images.numpy()
    return (images + np.roll(images, 1, axis=0)) / 2


def image(bijector: tfb.Bijector, x: np.ndarray, context: np.ndarray | None) -> tf.Tensor:
    return bijector.forward(tf.constant(x), **({} if context is None else {"context": context}))


def integral(density: np.ndarray, x: np.ndarray) -> float:
    return np.sum(np.diff(x) * (density[1:] + density[:-1]) / 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [n for n in CASES if n != "Sphere"])  # It is not convex.
def test_bijective_and_finite_from_any_event_of_the_range(name, dtype):
    case = CASES[name]
    bijector, (x, context) = case.build(dtype), case.inputs(dtype)
    y = between(image(bijector, x, context))
    testing.check_bijector(bijector, x, context, y=y, skip=only("bijective"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("extra", [1, 2])
@pytest.mark.parametrize("name", ["Coupling Affine 3", "ActNorm 3", "Rotation 3 context"])
def test_log_dets_of_both_directions_are_opposite_for_more_event_dimensions(name, extra, dtype):
    case = CASES[name]
    bijector, (x, context) = case.build(dtype), case.inputs(dtype)
    kwargs = {} if context is None else {"context": context.reshape(2, 4, -1)}
    x = tf.constant(x.reshape(2, 4, 3))
    y = bijector.forward(x, **kwargs)
    there = bijector.forward_log_det_jacobian(x, 1 + extra, **kwargs)
    back = bijector.inverse_log_det_jacobian(tf.identity(y), 1 + extra, **kwargs)
    assert there.shape == back.shape == (2, 4)[: 2 - extra]
    np.testing.assert_allclose(there, -back, rtol=1e-4 if dtype == "float32" else 1e-10)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.event_size == 1])
def test_mass_of_an_interval_is_that_of_its_image(name):
    """TFP's `assert_scalar_congruency`: both directions, each with its own integral."""
    case = CASES[name]
    bijector, (_, context) = case.build("float64"), case.inputs("float64")
    kwargs = {} if context is None else {"context": context[:1]}
    lower, upper = -2.0, 1.5
    x = np.linspace(lower, upper, 4001)[:, None]
    y = bijector.forward(x, **kwargs).numpy()
    rising = np.diff(y[:, 0])
    assert (rising > 0).all() or (rising < 0).all()
    mass = integral(np.exp(bijector.forward_log_det_jacobian(x, 1, **kwargs)), x[:, 0])
    assert np.isclose(mass, np.abs(y[-1, 0] - y[0, 0]), rtol=1e-3)
    images = np.linspace(y[0, 0], y[-1, 0], 4001)[:, None]
    mass = integral(np.exp(bijector.inverse_log_det_jacobian(images, 1, **kwargs)), images[:, 0])
    assert np.isclose(np.abs(mass), upper - lower, rtol=1e-3)


@pytest.mark.parametrize(
    "bijector", [tfb.Sinh(), tfb.SoftClip(-4.0, 3.0), tfb.Softplus(), tfb.GumbelCDF()]
)
def test_bijectors_of_tfp_obey_the_same_laws(bijector):
    x = np.random.default_rng(0).normal(size=(6, 2)).astype("float32")
    y = between(bijector.forward(tf.constant(x)))
    testing.check_bijector(bijector, x, y=y, skip=only(*TFP_LAWS))


def test_an_event_outside_of_the_range_is_not_finite():
    softsign = bijectors.BimodalSoftsign(tf.constant(2.0, "float64"), tf.constant(3.0, "float64"))
    x = np.random.default_rng(0).normal(size=(4, 2))
    with pytest.raises(AssertionError, match=r"'bijective': inverse.* has .* at the event \[4"):
        testing.check_bijector(softsign, x, y=np.full((4, 2), 4.0), skip=only("bijective"))


def test_the_log_det_of_proportions_is_that_of_the_first():
    simplex = CASES["Support simplex"].build("float64")
    x, _ = CASES["Support simplex"].inputs("float64")
    testing.check_bijector(simplex, x, skip=only("finite differences"))
    with pytest.raises(AssertionError, match="finite differences"):
        testing.check_bijector(OffByOne(simplex), x, skip=only("finite differences"))


class OffByOne(bijectors.Bijector):
    """A bijector with a log-det that is 1 too large."""

    def __init__(self, inner: tfb.Bijector):
        self.inner = inner
        super().__init__(forward_min_event_ndims=1, parameters={"inner": inner}, name="off")

    def _forward_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self.inner.forward(x), self.inner.forward_log_det_jacobian(x, 1) + 1
