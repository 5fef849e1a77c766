"""Data sets: two-dimensional toys with an exact density, and a small real table.

The toys, by `names()`, are `tfd.Distribution`s with events of shape (2,), most of whose mass lies
in [-4, 4]^2. A learned flow can be compared with them by more than its looks:

```python
import tensorflow as tf
from tfp_flows import datasets, flows

target = datasets.two_moons()
x = target.sample(1000, seed=0)                                 # (1000, 2), float32
flow = flows.neural_spline(2)
kl = tf.reduce_mean(target.log_prob(x) - flow.log_prob(x))      # in nats
```

Their options are plain Python numbers, lengths are in the units of x, `dtype` is float32 or
float64, and a value out of range is a ValueError. An integer `seed` gives the same sample at every
call. `tfp_flows.distributions.toys` has the formulas.
"""

from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from tfp_flows.distributions import toys

__all__ = [
    "Images",
    "Table",
    "checkerboard",
    "circles",
    "digits",
    "eight_gaussians",
    "faithful",
    "names",
    "pinwheel",
    "rings",
    "two_moons",
    "two_spirals",
]

DType: TypeAlias = tf.DType | str


class Table(NamedTuple):
    """Rows of numbers and the names of the columns: `x, columns = table`."""

    x: np.ndarray
    columns: tuple[str, ...]


class Images(NamedTuple):
    """Images, their channels last, and what is on them: `x, labels = images`."""

    x: np.ndarray
    labels: np.ndarray


def checkerboard(*, dtype: DType = "float32") -> toys.Checkerboard:
    """The dark squares of a 4 x 4 board on [-4, 4]^2, uniform: -log 32 on them, -inf elsewhere."""
    return toys.Checkerboard(dtype=dtype)


def circles(
    *, radii: Sequence[float] = (1.5, 3.0), noise: float = 0.2, dtype: DType = "float32"
) -> toys.Circles:
    """Two concentric circles with these `radii`, equally likely, blurred by `noise`."""
    return toys.Circles(radii=radii, noise=noise, dtype=dtype)


def eight_gaussians(
    *, radius: float = 3.0, noise: float = 0.3, dtype: DType = "float32"
) -> toys.EightGaussians:
    """Eight equal Gaussians of standard deviation `noise`, evenly spaced on a circle."""
    return toys.EightGaussians(radius=radius, noise=noise, dtype=dtype)


def pinwheel(
    *,
    arms: int = 5,
    radial: float = 0.6,
    tangential: float = 0.2,
    twist: float = 0.1,
    dtype: DType = "float32",
) -> toys.Pinwheel:
    """Gaussians, `radial` long and `tangential` wide, as the twisted arms of a pinwheel.

    `twist` is in radians per squared distance from the origin.
    """
    return toys.Pinwheel(arms=arms, radial=radial, tangential=tangential, twist=twist, dtype=dtype)


def rings(
    *,
    radii: Sequence[float] = (0.8, 1.6, 2.4, 3.2),
    noise: float = 0.1,
    dtype: DType = "float32",
) -> toys.Circles:
    """Four concentric circles with these `radii`, equally likely, blurred by `noise`."""
    return toys.Circles(radii=radii, noise=noise, dtype=dtype)


def two_moons(*, noise: float = 0.2, dtype: DType = "float32") -> toys.TwoMoons:
    """Two interleaved half circles of radius 2, blurred by `noise`."""
    return toys.TwoMoons(noise=noise, dtype=dtype)


def two_spirals(*, noise: float = 0.1, dtype: DType = "float32") -> toys.TwoSpirals:
    """Two entwined spirals of one and a quarter turns, blurred by `noise`."""
    return toys.TwoSpirals(noise=noise, dtype=dtype)


def names() -> tuple[str, ...]:
    """The names of the toys: `getattr(datasets, name)()` makes each with its usual options."""
    return (
        "checkerboard",
        "circles",
        "eight_gaussians",
        "pinwheel",
        "rings",
        "two_moons",
        "two_spirals",
    )


def faithful() -> Table:
    """272 eruptions of the geyser Old Faithful, Yellowstone National Park, in August 1985.

    Real, small, and bimodal: a long eruption is followed by a long wait.

    ```python
    from tfp_flows import datasets

    x, columns = datasets.faithful()
    x.shape     # (272, 2), float64
    columns     # ("eruptions", "waiting")
    ```

    Returns:
      A `Table` with the columns `eruptions`, the duration of an eruption, from 1.6 to 5.1 minutes,
      and `waiting`, the time until the next one, from 43 to 96 minutes.

    Source: Azzalini and Bowman, "A look at some data on the Old Faithful geyser" (1990); in this
    form in Härdle, "Smoothing Techniques with Implementation in S" (1991), and as `faithful` in
    R's package `datasets`.
    """
    with (resources.files("tfp_flows") / "data/faithful.csv").open(encoding="utf-8") as file:
        columns = tuple(file.readline().strip().split(","))
        return Table(np.loadtxt(file, delimiter=","), columns)


def digits() -> Images:
    """1,797 handwritten digits, 8×8 pixels, as scikit-learn ships them.

    ```python
    from tfp_flows import datasets

    x, labels = datasets.digits()
    x.shape     # (1797, 8, 8, 1), uint8, from 0 to 16
    ```

    Returns:
      `Images` with the digits 0 to 9 as labels, by 43 people.

    Raises:
      ImportError: scikit-learn is not installed.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits" (1998), UCI Machine
    Learning Repository, CC BY 4.0.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("The digits are in scikit-learn: pip install 'tfp_flows[cli]'") from error
    loaded = load_digits()
    return Images(loaded.images[..., np.newaxis].astype("uint8"), loaded.target)
