"""How the command trains: noise, averages of weights, the best epoch on disk, the time."""

import keras
import numpy as np
import pandas as pd
import pytest
from helpers import normal

from tfp_flows import FlowModel, flows
from tfp_flows_cli import training
from tfp_flows_cli.recipe import Rows
from tfp_flows_cli.training import progress, train


def rows_of(y):
    return Rows(y, None, np.arange(1, len(y) + 1))


ROWS = rows_of(normal(100, 2) @ [[1.0, 0.9], [0.0, 0.2]])
HELD_OUT = rows_of(normal(40, 2, seed=1))
OPTIONS = {"patience": 50, "batch_size": 20, "noise": 0.1, "categories": 0, "seed": 0}


def made():
    model = FlowModel(flows.real_nvp(2, layers=2, hidden_units=(4,), seed=0))
    model.adapt(ROWS.y)
    model.compile(keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.9))
    return model


def trained(tmp_path, model, **options):
    paths = tmp_path / "flow.keras", tmp_path / "history.csv"
    given = {"epochs": 6, "seconds": 600.0, **OPTIONS, **options}
    train(model, ROWS, HELD_OUT, *paths, **given)
    return FlowModel.load(paths[0]), pd.read_csv(paths[1])


def test_the_best_epoch_with_averaged_weights_is_kept(tmp_path):
    model = made()
    kept, history = trained(tmp_path, model)
    assert len(history) == 6
    best = history["val_loss"].min()
    for each in (model, kept):
        assert each.evaluate(HELD_OUT.y, verbose=0) == pytest.approx(best, rel=1e-5)
    done = progress(tmp_path / "history.csv")
    assert done.epochs == 6 and done.best == pytest.approx(best)
    assert done.best_epoch == history["val_loss"].argmin() + 1


def test_weights_go_on_between_epochs_and_averages_are_judged(tmp_path, monkeypatch):
    """The second epoch starts from the weights of the first, and not from their averages."""
    seen = []

    class Spy(training._Averages):
        def on_epoch_begin(self, epoch, logs=None):
            super().on_epoch_begin(epoch, logs)
            seen.append(("begin", self.model.get_weights()[0]))

        def on_train_batch_end(self, batch, logs=None):
            seen.append(("trained", self.model.get_weights()[0]))

        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            seen.append(("judged", self.model.get_weights()[0]))

    monkeypatch.setattr(training, "_Averages", Spy)
    trained(tmp_path, made(), epochs=2)
    second = [name for name, _ in seen].index("begin", 1)
    last = [weights for name, weights in seen[:second] if name == "trained"][-1]
    judged = next(weights for name, weights in seen if name == "judged")
    np.testing.assert_array_equal(seen[second][1], last)
    assert np.abs(judged - last).max() > 1e-4


def test_a_training_that_goes_on_keeps_what_was_better(tmp_path):
    model = made()
    _, history = trained(tmp_path, model, epochs=3)
    model.optimizer.learning_rate = 10.0  # Whatever comes is worse.
    kept, history = trained(tmp_path, model, epochs=5)
    assert history["epoch"].tolist() == [0, 1, 2, 3, 4]
    best = history["val_loss"].min()
    assert best == history["val_loss"][:3].min()
    for each in (model, kept):
        assert each.evaluate(HELD_OUT.y, verbose=0) == pytest.approx(best, rel=1e-5)


def test_time_is_over_at_the_end_of_an_epoch(tmp_path, capsys):
    _, history = trained(tmp_path, made(), seconds=0.0)
    assert len(history) == 1
    assert "the time is over (--minutes)" in capsys.readouterr().out


def test_an_interruption_leaves_the_best_epoch_on_disk(tmp_path, monkeypatch):
    def interrupt(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(training._Clock, "on_epoch_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, made())
    best = pd.read_csv(tmp_path / "history.csv")["val_loss"].min()
    kept = FlowModel.load(tmp_path / "flow.keras")
    assert kept.evaluate(HELD_OUT.y, verbose=0) == pytest.approx(best, rel=1e-5)


def test_noise_follows_correlations_and_spares_categories():
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(4000, 2)) @ [[1.0, 1.0], [0.0, 0.1]]
    rows = rows_of(np.column_stack([rng.integers(0, 3, 4000), numbers]))
    batches = training._batches(rows, 4000, 0.5, 1, "float64")
    (noisy,) = [batch.numpy() for batch in batches]
    order = np.argsort(noisy[:, 0], kind="stable")
    assert set(noisy[:, 0]) == {0.0, 1.0, 2.0} and len(order) == 4000
    # The sum of independent parts: each has its own covariance, and a quarter of it more.
    expected = 1.25 * np.cov(numbers.T)
    np.testing.assert_allclose(np.cov(noisy[:, 1:].T), expected, rtol=0.1)
