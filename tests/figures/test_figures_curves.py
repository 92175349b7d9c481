from __future__ import annotations

import math

import numpy as np
import pytest
from drawn_figures import drawn, record, texts

from tlcache.figures.curves import learning_curves


def test_learning_curves_draw_both_parts_of_loss_and_accuracy() -> None:
    history = [record(epoch, 1 / epoch) for epoch in range(1, 26)]
    figure = learning_curves(history, best_epoch=20)
    loss, accuracy = figure.axes
    for axes, title in ((loss, "Loss, nats"), (accuracy, "Accuracy")):
        assert {title, "train", "val", "epoch"} <= set(texts(axes))
    assert loss.lines[0].get_ydata() == pytest.approx([1 / e for e in range(1, 26)])
    assert "best: epoch 20, val 0.050" in texts(loss)
    assert "best: epoch 20, val 0.800" in texts(accuracy)


@pytest.mark.parametrize("epochs", [1, 2, 3, 25, 1000])
def test_epochs_are_ticked_by_whole_numbers(epochs: int) -> None:
    figure = learning_curves([record(epoch) for epoch in range(1, epochs + 1)])
    drawn(figure)
    ticks = [tick for tick in figure.axes[0].get_xticks() if 1 <= tick <= epochs]
    assert 1 <= len(ticks) <= 12
    assert all(tick == int(tick) for tick in ticks)


def test_a_single_epoch_is_drawn_as_points() -> None:
    figure = learning_curves([record(1)], best_epoch=1)
    assert all(line.get_marker() == "o" for line in figure.axes[0].lines[:2])
    drawn(figure)


def test_the_names_of_curves_that_end_together_stay_apart() -> None:
    figure = learning_curves([record(1), record(2)])
    drawn(figure, dpi=150)
    names = [t for t in figure.axes[0].texts if t.get_text() in ("train", "val")]
    one, other = (name.get_window_extent() for name in names)
    assert not one.overlaps(other)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_run_that_diverged_is_drawn_as_far_as_it_went(bad: float) -> None:
    figure = learning_curves([record(1), record(2), record(3, bad)], best_epoch=3)
    drawn(figure)
    assert np.asarray(figure.axes[0].lines[0].get_xdata()).tolist() == [1, 2]
    drawn(learning_curves([record(1, bad)]))
