"""Every plot returns its Figure, draws on the Axes it is given, and shows what it says."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from matplotlib.figure import Figure
from nbclient import NotebookClient
from nbformat import v4

from tfp_flows import Flow, FlowModel, bijectors, datasets, flows, plots

tfd, tfb = tfp.distributions, tfp.bijectors


@pytest.fixture(scope="module")
def banana() -> Flow:
    base = tfd.MultivariateNormalDiag([0.0, 0.0])
    steps = [bijectors.ShiftAndCube(0.3), tfb.Invert(bijectors.Rotation2D(0.5)), tfb.Scale(0.5)]
    return Flow(base, tfb.Chain(steps))


@pytest.fixture(scope="module")
def conditional() -> Flow:
    return flows.real_nvp(2, layers=2, hidden_units=(8,), context_size=1, seed=0)


def test_no_figure_stays_open(banana, faithful, line):
    model, x = faithful
    figures = [
        plots.stages(banana),
        plots.density(banana),
        plots.samples(model, x),
        plots.marginals(model, x),
        plots.history({"loss": [2.0, 1.0]}),
        plots.density(line),
    ]
    assert all(isinstance(figure, Figure) for figure in figures)
    assert plt.get_fignums() == []


def test_a_notebook_shows_every_figure_once(monkeypatch):
    monkeypatch.delenv("MPLBACKEND")  # to the kernel's own, which shows figures in the notebook
    cells = [
        "from tfp_flows import plots",
        "plots.history({'loss': [2.0, 1.0]})",
        "figure = plots.history({'loss': [2.0, 1.0]})",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2]);",
    ]
    notebook = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells])
    resources = {"metadata": {"path": str(Path(__file__).parents[1])}}
    NotebookClient(notebook, kernel_name="python3", timeout=120, resources=resources).execute()
    pictures = [sum("image/png" in o.get("data", {}) for o in c.outputs) for c in notebook.cells]
    assert pictures == [0, 1, 0, 1]


def test_stages_draws_every_stage_under_its_name(banana):
    figure = plots.stages(banana)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["0: base", "1: Scale", "2: inverse of Rotation2D", "3: ShiftAndCube"]
    assert all(axis.get_aspect() == 1 for axis in figure.axes)
    for axis, stage in zip(figure.axes, banana.stages(), strict=True):
        image = axis.images[0]
        left, right, bottom, top = image.get_extent()
        rows, columns = image.get_array().shape
        x = left + (right - left) * 0.5 / columns
        y = bottom + (top - bottom) * (rows // 2 + 0.5) / rows
        expected = stage.prob(np.array([x, y], "float32"))
        np.testing.assert_allclose(image.get_array()[rows // 2, 0], expected, rtol=1e-4, atol=1e-7)


def test_stages_of_plain_tfp_distributions_and_models(banana, faithful):
    plain = tfd.TransformedDistribution(banana.distribution, banana.bijector)
    assert len(plots.stages(plain).axes) == 4
    assert [a.get_title() for a in plots.stages(faithful[0]).axes] == [
        "0: base",
        "1: Coupling",
        "2: Coupling",
    ]


def test_stages_thins_many_layers_and_keeps_first_and_last():
    base = tfd.MultivariateNormalDiag([0.0, 0.0])
    flow = Flow(base, tfb.Chain([bijectors.Rotation2D(0.1) for _ in range(16)]))
    titles = [a.get_title() for a in plots.stages(flow, max_stages=5, resolution=20).axes]
    assert titles[0] == "0: base" and titles[-1] == "16: Rotation2D" and len(titles) == 5


def test_stages_in_one_and_five_dimensions(line):
    figure = plots.stages(line)
    curve = figure.axes[1].lines[0]
    x, y = curve.get_data()
    np.testing.assert_allclose(y, line.prob(x[:, None].astype("float32")), rtol=1e-4, atol=1e-6)
    five = flows.real_nvp(5, layers=2, hidden_units=(4,))
    axis = plots.stages(five, columns=(3, 1), n=50).axes[0]
    assert axis.collections[0].get_offsets().shape == (50, 2)


def test_stages_share_limits_and_name_their_axes(banana):
    axes = plots.stages(banana, resolution=10).axes
    assert len({(*axis.get_xlim(), *axis.get_ylim()) for axis in axes}) == 1
    assert [(axis.get_xlabel(), axis.get_ylabel()) for axis in axes] == [("x0", "x1")] * len(axes)
    five = flows.real_nvp(5, layers=1, hidden_units=(4,))
    axis = plots.stages(five, columns=(3, 1), n=50).axes[0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("x3", "x1")


def test_stages_follows_points_with_colours(banana):
    first, *_, last = plots.stages(banana, kind="samples", n=100).axes
    colours = [axis.collections[0].get_facecolors() for axis in (first, last)]
    np.testing.assert_array_equal(*colours)
    start, end = [axis.collections[0].get_offsets() for axis in (first, last)]
    pushed = banana.bijector.forward(np.array(start, "float32"))
    np.testing.assert_allclose(end, pushed, rtol=1e-4, atol=1e-5)
    assert len(np.unique(colours[0], axis=0)) == 4


def test_stages_given_context_in_data_units():
    model = FlowModel(flows.real_nvp(2, layers=1, hidden_units=(4,), context_size=1, seed=0))
    rng = np.random.default_rng(0)
    context = rng.normal(100, 10, (50, 1)).astype("float32")
    model.adapt(context, rng.normal(size=(50, 2)).astype("float32"))
    for variable in model.distribution.trainable_variables:
        variable.assign_add(0.3 * rng.normal(size=variable.shape))
    drawn = plots.stages(model, context=context[0], resolution=10).axes[1].images[0]
    z = (context[0] - context.mean()) / context.std()
    expected = plots.stages(model.distribution.given(z), resolution=10).axes[1].images[0]
    np.testing.assert_allclose(drawn.get_array(), expected.get_array(), rtol=1e-3)


def test_density_is_the_density_with_data_over_it(faithful):
    model, x = faithful
    figure = plots.density(model, data=x, columns=["eruption", "waiting"])
    (axis,) = figure.axes
    (bar,) = axis.child_axes
    image = axis.images[0]
    left, right, bottom, top = image.get_extent()
    pixel = (right - left) * (top - bottom) / image.get_array().size
    np.testing.assert_allclose(image.get_array().sum() * pixel, 1.0, atol=0.03)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("eruption", "waiting")
    assert bar.get_ylabel() == "density"
    np.testing.assert_allclose(axis.collections[0].get_offsets(), x)
    # Minutes of 1 to 6 against minutes of 40 to 100: equal axes would be a needle.
    assert axis.get_aspect() == "auto"


def test_density_scale_is_not_set_by_a_sharp_peak():
    broad, peak = tfd.Normal(0.0, 1.0), tfd.Normal(0.3, 1e-2)
    spiked = tfd.Mixture(
        tfd.Categorical(probs=[0.995, 0.005]), [tfd.Sample(broad, 2), tfd.Sample(peak, 2)]
    )
    (axis,) = plots.density(spiked).axes
    image = axis.images[0]
    assert image.get_array().max() > 3 / (2 * np.pi)
    assert image.norm.vmax <= 1.1 / (2 * np.pi)
    (bar,) = axis.child_axes
    assert image.colorbar.extend == "max" and bar.get_ylim()[1] == image.norm.vmax


def test_density_outside_of_the_range_of_a_bijector_of_tfp_is_none():
    base = tfd.MultivariateNormalDiag([0.0, 0.0])
    flow = tfd.TransformedDistribution(base, tfb.Sigmoid())  # NaN outside of (0, 1)²
    (axis,) = plots.density(flow, extent=(-1, 2, -1, 2), resolution=30).axes
    image = axis.images[0]
    np.testing.assert_allclose(axis.get_facecolor(), image.cmap(0.0), atol=0.01)
    assert np.ma.count(image.get_array()) <= 100  # of 900 pixels, those within (0, 1)²


def test_density_of_plain_numbers_is_a_curve_over_the_histogram():
    normal = tfd.Normal(tf.constant(3.0, tf.float64), 2.0)
    axis = plots.density(normal, data=[1.0, 2.0, 5.0], columns=["height (m)"]).axes[0]
    x, y = axis.lines[0].get_data()
    np.testing.assert_allclose(y, normal.prob(x), rtol=1e-12)
    assert axis.get_xlabel() == "height (m)" and axis.get_ylim()[0] == 0
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["data", "flow"]


def test_equal_axes_where_ranges_are_alike(banana):
    moons = datasets.two_moons()
    for figure in (plots.density(moons), plots.samples(moons, moons.sample(50, seed=0))):
        for axis in figure.axes:
            assert axis.get_aspect() == 1
            np.testing.assert_allclose(np.ptp(axis.get_xlim()), np.ptp(axis.get_ylim()))
    extent = (-3.0, 3.0, -1.0, 2.0)
    axis = plots.density(banana, extent=extent, resolution=10).axes[0]
    assert (*axis.get_xlim(), *axis.get_ylim()) == extent


def test_names_come_from_a_data_frame(faithful):
    frame = pytest.importorskip("pandas").DataFrame(faithful[1], columns=["length", "wait"])
    axis = plots.density(faithful[0], data=frame, resolution=10).axes[0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("length", "wait")


def test_infinite_samples_are_left_out_of_the_limits():
    wild = tfd.TransformedDistribution(tfd.Normal(0.0, 60.0), tfb.Exp())  # overflows at times
    assert not np.isfinite(wild.sample(2000, seed=tf.constant([0, 0]))).all()
    for figure in (plots.samples(wild, n=2000), plots.marginals(wild, n=2000)):
        assert np.isfinite(figure.axes[0].get_xlim()).all()


def test_the_same_seed_draws_the_same_points(banana):
    points = [plots.samples(banana, n=9, seed=s).axes[0].collections[0] for s in (1, 1, 2)]
    first, again, other = (p.get_offsets() for p in points)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_conditional_flows_need_their_context(conditional):
    with pytest.raises(ValueError, match="`context` is missing"):
        plots.density(conditional)
    assert plots.density(conditional, context=[0.5], resolution=10).axes
    rows = np.zeros((7, 1))
    assert plots.samples(conditional, np.zeros((7, 2)), context=rows, n=20).axes


def test_history_marks_the_best_epoch(tmp_path):
    logs = {"loss": [90.0, 3.0, 2.0, 1.5, 1.2], "val_loss": [80.0, 3.1, 2.2, 2.0, 2.4]}
    axis = plots.history(logs).axes[0]
    assert "best: 2 in epoch 4" in [text.get_text() for text in axis.get_legend().get_texts()]
    path = tmp_path / "history.csv"
    path.write_text("epoch,loss,val_loss\n0,3.0,3.5\n1,2.0,2.5\n")
    np.testing.assert_allclose(plots.history(path).axes[0].lines[1].get_ydata(), [3.5, 2.5])


def test_history_of_epochs_without_validation_and_of_a_bad_start():
    logs = {"loss": [1e6, *np.linspace(3.0, 1.0, 19)], "val_loss": np.linspace(3.0, 2.0, 10)}
    axis = plots.history(logs).axes[0]
    np.testing.assert_array_equal(axis.lines[1].get_xdata(), np.arange(2, 21, 2))
    assert axis.get_ylim()[1] < 5
    axis = plots.history({"loss": [2.0, np.nan, 1.0], "val_loss": [np.nan] * 3}).axes[0]
    assert all(tick == int(tick) for tick in axis.get_xticks())
    assert "best: 1 in epoch 3" in [text.get_text() for text in axis.get_legend().get_texts()]


def test_words_of_the_user_stay(banana):
    figure, axis = plt.subplots()
    try:
        axis.set_title("mine")
        plots.density(banana, ax=axis, resolution=10, colorbar=False)
        assert axis.get_title() == "mine" and not axis.child_axes
        assert plt.gcf() is figure
    finally:
        plt.close(figure)


def test_axes_of_the_user(banana, faithful):
    model, x = faithful
    figure, axes = plt.subplots(2, 2)
    try:
        assert plots.stages(banana, ax=axes, resolution=10) is figure
        assert plots.density(model, ax=axes[0, 0], resolution=10) is figure
        assert plots.marginals(model, x, ax=axes[0]) is figure
        assert plots.history({"loss": [1.0, 0.5]}, ax=axes[1, 1]) is figure
    finally:
        plt.close(figure)


BAD = {
    "no flow": (lambda f: plots.density(3), "`flow` must have `log_prob`"),
    "3-D density": (lambda f: plots.density(flows.real_nvp(3, layers=1)), "one or two dimensions"),
    "kind": (lambda f: plots.stages(f, kind="contour"), "`kind` must be"),
    "max_stages": (lambda f: plots.stages(f, max_stages=1), "`max_stages`"),
    "column": (lambda f: plots.samples(f, columns=[2]), "`columns` must be"),
    "width": (lambda f: plots.samples(f, np.zeros((4, 3))), r"`data` must have shape \(N, 2\)"),
    "nan": (lambda f: plots.density(f, data=np.full((4, 2), np.nan)), "`data` must be finite"),
    "extent": (lambda f: plots.density(f, extent=(1, 0, 0, 1)), "`extent` must be"),
    "extent of a line": (lambda f: plots.density(f, extent=(0, 1, 2)), "`extent` must be"),
    "n": (lambda f: plots.samples(f, n=0), "`n` must be at least 1"),
    "no data": (lambda f: plots.samples(f, np.zeros((0, 2))), "`data` must have shape"),
    "text": (lambda f: plots.samples(f, [["a", "b"]]), "`data` must be numbers"),
    "place": (lambda f: plots.samples(f, [[0, 1], [np.inf, 0]]), "inf in row 1, column 0"),
    "kind in 3-D": (
        lambda f: plots.stages(flows.real_nvp(3, layers=1), kind="density"),
        "`kind` must be",
    ),
    "three columns": (
        lambda f: plots.stages(flows.real_nvp(3, layers=1), columns=(0, 1, 2)),
        "two indices",
    ),
    "swapped columns": (lambda f: plots.density(f, columns=[1, 0]), "`columns` must be names"),
    "context": (lambda f: plots.density(f, context=[1.0]), "`context`"),
    "context of plain TFP": (
        lambda f: plots.density(f.distribution, context=[1.0]),
        "`context` must be None",
    ),
    "axes": (lambda f: plots.stages(f, ax=[None]), "`ax` must hold"),
    "history": (lambda f: plots.history({"val_loss": [1.0]}), "`history` must hold"),
    "no bijector": (lambda f: plots.stages(tfd.Normal(0.0, 1.0)), "with a bijector"),
    "batch": (
        lambda f: plots.density(tfd.Normal(tf.zeros(2), 1.0)),
        "`flow` must have no batch shape",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_raise(name, banana):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call(banana)
