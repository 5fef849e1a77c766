"""Diagnostics, on densities that are known to be right, biased, too wide and too narrow."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from tfp_flows import diagnostics
from tfp_flows.diagnostics.uniformity import check_uniform

N, S = 800, 99
CHECKS = {
    "pit": diagnostics.pit,
    "coverage": diagnostics.coverage,
    "sbc": lambda draws, truth: diagnostics.sbc(draws, truth)[1],
    "tarp": diagnostics.tarp,
}


def conjugate(kind="calibrated", seed=0):
    """y ~ N(θ, 1), θ ~ N(0, 1) in two columns; posteriors N(y / 2, 1 / 2), or others."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(N, 2))
    y = truth + rng.normal(size=(N, 2))
    scale = {"wide": 1.5, "narrow": 0.6}.get(kind, 1.0) * 0.5**0.5
    draws = y / 2 + scale * rng.normal(size=(S, N, 2))
    return draws + 0.3 * (kind == "biased"), truth


@pytest.mark.parametrize("kind", ["calibrated", "biased", "wide", "narrow"])
@pytest.mark.parametrize("name", CHECKS)
def test_what_is_calibrated_passes_and_what_is_not_fails(name, kind):
    found = CHECKS[name](*conjugate(kind))
    assert found.is_calibrated == (kind == "calibrated")
    assert (found.p_values.min() > 0.02) == (kind == "calibrated")


def test_curves_say_what_is_wrong():
    middle = 49  # of the levels, 0.5
    narrow = diagnostics.coverage(*conjugate("narrow"))
    wide = diagnostics.coverage(*conjugate("wide"))
    assert (narrow.frequencies[middle] < 0.4).all() and (wide.frequencies[middle] > 0.6).all()
    # Exactly: the truth is within ± 0.6745 σ' of the mean, where σ' = 0.6 σ.
    np.testing.assert_allclose(narrow.frequencies[middle], 0.314, atol=0.05)
    biased = diagnostics.pit(*conjugate("biased"))
    assert (biased.frequencies[middle] > 0.6).all()  # The draws are too high.


def test_only_tarp_sees_a_wrong_dependence():
    rng = np.random.default_rng(0)
    mix = np.linalg.cholesky([[1.0, 0.9], [0.9, 1.0]])
    truth = rng.normal(size=(N, 2)) @ mix.T
    independent = rng.normal(size=(S, N, 2))
    assert diagnostics.pit(independent, truth).is_calibrated
    assert not diagnostics.tarp(independent, truth).is_calibrated
    assert diagnostics.tarp(independent @ mix.T, truth).is_calibrated


@pytest.mark.parametrize(("n", "columns"), [(50, 1), (200, 4)])
def test_bands_hold_as_often_as_they_say(n, columns):
    rng = np.random.default_rng(1)
    found = [
        check_uniform(rng.uniform(size=(n, columns)), title="", confidence=0.9, seed=i)
        for i in range(150)
    ]
    share = np.mean([one.is_calibrated for one in found])
    assert 0.83 < share < 0.97  # 0.9 within three standard errors, and Bonferroni's slack.


def test_ranks_are_exact_and_ties_are_broken_at_random():
    draws = np.array([[[0.0]], [[1.0]], [[2.0]]])
    ranks, _ = diagnostics.sbc(draws, [[1.5]])
    assert ranks.tolist() == [[2]]
    ranks, _ = diagnostics.sbc(np.zeros([3, 4000, 1]), np.zeros([4000, 1]))
    counts = np.bincount(ranks[:, 0], minlength=4)
    assert len(counts) == 4 and (np.abs(counts - 1000) < 120).all()


def test_scores_are_those_of_closed_forms_and_prefer_the_right_density():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(4000, 1, 1))
    exact = 2 * np.exp(-0.125) / np.sqrt(2 * np.pi) + 0.5 * 0.38292492 - 1 / np.sqrt(np.pi)
    np.testing.assert_allclose(diagnostics.crps(draws, [[0.5]]), [[exact]], atol=0.02)
    np.testing.assert_allclose(
        diagnostics.energy_score(draws[:500], [[0.5]]), diagnostics.crps(draws[:500], [[0.5]])[0]
    )
    for score in (diagnostics.crps, diagnostics.energy_score):
        right = score(*conjugate()).mean()
        assert all(score(*conjugate(kind)).mean() > right for kind in ("biased", "wide", "narrow"))


def test_crps_of_few_draws_has_no_bias():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(40_000, 1))
    few = diagnostics.crps(rng.normal(size=(2, 40_000, 1)), truth).mean()
    assert abs(few - 1 / np.sqrt(np.pi)) < 0.02  # 2 / √π - 1 / √π


def test_a_classifier_tells_samples_apart_only_where_they_differ():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1200, 2))
    equal = diagnostics.c2st(x[:600], x[600:])
    assert abs(equal.accuracy - 0.5) < 0.06 and 0 < equal.standard_error < 0.05
    # Of N(0, 1) and N(2, 1), the best classifier is right with probability Φ(1).
    apart = diagnostics.c2st(x[:600], x[600:] + np.array([2.0, 0.0]))
    assert abs(apart.accuracy - 0.841) < 0.04


def test_plots_show_the_band_and_every_column():
    axes = diagnostics.pit(*conjugate("narrow"), names=["a", "b"]).plot()
    assert [text.get_text() for text in axes.get_legend().get_texts()][1:] == ["a", "b"]
    assert [line.get_linestyle() for line in axes.lines[:2]] == ["--", "--"]
    assert axes.get_title() == "PIT"
    plt.close(axes.figure)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d, t: diagnostics.pit(d[:, :5], t), r"`draws` must have shape \(s, n, D\)"),
        (lambda d, t: diagnostics.pit(d, np.full_like(t, np.nan)), "`truth` must be finite"),
        (lambda d, t: diagnostics.coverage(d, t, names=["a"]), "`names` must be 2 names"),
        (lambda d, t: diagnostics.pit(d, t, confidence=95), "`confidence` must be between"),
        (lambda d, t: diagnostics.tarp(d, t, references=t[:3]), "`references` must have shape"),
        (
            lambda d, t: diagnostics.tarp(d, t, references=0 * t + np.nan),
            "`references` must be fin",
        ),
        (
            lambda d, t: diagnostics.pit(np.ma.masked_greater(d, 1), t),
            "`draws` must have no",
        ),
        (lambda d, t: diagnostics.pit(d, t, seed=-1), "`seed` must be an integer"),
        (lambda d, t: diagnostics.c2st(t, t, seed=1.5), "`seed` must be an integer"),
        (lambda d, t: diagnostics.c2st(t, t, folds=1), "`folds` must be from 2"),
        (lambda d, t: diagnostics.crps(d[:1], t), "must be 2 or more"),
        (lambda d, t: diagnostics.c2st(t, t[:10]), "must have one shape"),
    ],
)
def test_bad_arguments_are_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call(*conjugate())
