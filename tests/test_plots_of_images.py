"""Pictures of flows of images, and the images that come with the package."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import normal, randomize

from tfp_flows import FlowModel, datasets, distributions, flows, plots

SMALL = {"levels": 2, "steps": 2, "width": 8, "seed": 0}


def pixels(n):
    return np.random.default_rng(0).integers(0, 16, (n, 4, 4, 1))


@pytest.fixture(scope="module")
def model():
    flow = randomize(flows.glow((4, 4, 1), context_size=2, **SMALL), stddev=0.1)
    return FlowModel(distributions.Dequantized(flow, 1.0))


def test_samples_are_drawn_as_a_grid(model):
    contexts = normal(3, 2)
    figure = plots.samples(model, pixels(20), n=6, context=contexts)
    data, drawn = (axis.images[0].get_array() for axis in figure.axes)
    assert [axis.get_title() for axis in figure.axes] == ["data", "samples"]
    assert data.shape == drawn.shape == (3 * 5 - 1, 2 * 5 - 1)
    first = model.sample(2, contexts, seed=tf.constant([0, 0])).numpy()[1, 0, ..., 0]
    low, high = np.quantile(pixels(20)[:6], [0.005, 0.995])
    np.testing.assert_allclose(
        drawn[:4, 5:9], np.clip((first - low) / (high - low), 0, 1), atol=1e-6
    )
    with pytest.raises(ValueError, match=r"`data` must have shape \(N, 4, 4, 1\)"):
        plots.samples(model, normal(5, 4), context=contexts)
    cool = plots.samples(model, n=4, context=contexts[0], temperature=0.5)
    assert len(cool.axes) == 1


def test_stages_are_drawn_as_strips(model):
    figure = plots.stages(model, context=[0.0, 1.0], n=3, max_stages=20)
    flow = model.distribution.distribution
    assert len(figure.axes) == len(flow.stages([0.0, 1.0]))
    assert figure.axes[0].get_title() == "0: base"
    for axis in figure.axes:
        assert axis.images[0].get_array().shape == (4, 3 * 5 - 1)
    with pytest.raises(ValueError, match="that of one image"):
        plots.stages(model, context=normal(2, 2))


def test_colours_are_those_of_three_channels():
    flow = flows.glow((4, 4, 3), **SMALL)
    (axis,) = plots.samples(flow, n=4).axes
    assert axis.images[0].get_array().shape == (9, 9, 3)


def test_digits_are_what_scikit_learn_ships():
    pytest.importorskip("sklearn")
    x, labels = datasets.digits()
    assert (x.shape, x.dtype, x.max()) == ((1797, 8, 8, 1), np.uint8, 16)
    assert labels[:10].tolist() == list(range(10))
