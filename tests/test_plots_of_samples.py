"""Samples and marginals are drawn beside data, and neither hides the other."""

import matplotlib.pyplot as plt
import numpy as np
import tensorflow_probability as tfp

from tfp_flows import flows, plots

tfd, tfb = tfp.distributions, tfp.bijectors


def test_samples_beside_data_within_the_same_limits(faithful):
    model, x = faithful
    data, drawn = plots.samples(model, x, n=100).axes
    assert (data.get_title(), drawn.get_title()) == ("data", "samples")
    assert data.get_xlim() == drawn.get_xlim() and data.get_ylim() == drawn.get_ylim()
    np.testing.assert_allclose(
        drawn.collections[0].get_offsets(), model.sample(100, seed=0), rtol=1e-5
    )


def test_samples_are_as_many_as_data_unless_told(faithful):
    model, x = faithful
    counts = [
        [len(axis.collections[0].get_offsets()) for axis in plots.samples(model, x, n=n).axes]
        for n in (None, 100, 2000)
    ]
    assert counts[0] == [272, 272]
    assert counts[1][0] <= 100 and counts[1][1] == 100
    assert counts[2] == [272, 2000]


def test_samples_of_both_in_one_axes_and_the_legend_tells_them_apart(faithful):
    model, x = faithful
    figure, axis = plt.subplots()
    try:
        plots.samples(model, x, ax=axis)
        assert [t.get_text() for t in axis.get_legend().get_texts()] == ["data", "samples"]
        data, drawn = (points.get_facecolors()[0] for points in axis.collections)
        assert not np.allclose(data, drawn)
    finally:
        plt.close(figure)


def test_samples_of_many_columns_is_a_grid():
    flow = flows.real_nvp(6, layers=2, hidden_units=(4,))
    figure = plots.samples(flow, n=50)
    assert len([axis for axis in figure.axes if axis.get_visible()]) == 10  # 4 + 3 + 2 + 1
    assert len(plots.samples(flow, n=50, columns=[5, 0, 2]).axes) == 9


def test_samples_and_data_of_many_columns_do_not_hide_each_other():
    flow = flows.real_nvp(3, layers=2, hidden_units=(4,))
    data = np.random.default_rng(0).normal(100, 1, (40, 3))
    grid = np.reshape(plots.samples(flow, data).axes, (3, 3))
    for (i, j), axis in np.ndenumerate(grid):
        assert axis.get_visible()
        if i == j:
            edges = [np.unique(patch.get_xy()[:, 0]) for patch in axis.patches]
            np.testing.assert_allclose(*edges)  # The same bins.
            continue
        points = axis.collections[0].get_offsets()
        assert len(axis.collections) == 1 and len(points) == 40
        assert (points.mean() > 50) == (j > i)


def test_marginals_count_the_data(faithful):
    model, x = faithful
    figure = plots.marginals(model, x, columns=["eruption", "waiting"])
    assert [axis.get_title() for axis in figure.axes] == ["eruption", "waiting"]
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["data", "flow"]


def test_histograms_hold_the_share_of_data_within_the_limits(line):
    data = np.concatenate([np.linspace(-0.5, 0.5, 999), [1e6]])
    axis = plots.marginals(line, data).axes[0]
    assert axis.get_xlim()[1] < 10  # one outlier doesn't set the limits
    x, y = axis.patches[0].get_xy().T  # one polygon, whose area the shoelace formula gives
    area = 0.5 * abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))
    np.testing.assert_allclose(area, 0.999, rtol=1e-6)


def test_legends_lie_above_histograms(faithful):
    model, x = faithful
    axis = plots.marginals(model, x).axes[0]
    axis.figure.draw_without_rendering()
    legend = axis.get_legend().get_window_extent().transformed(axis.transData.inverted())
    assert legend.y0 > max(patch.get_xy()[:, 1].max() for patch in axis.patches)
