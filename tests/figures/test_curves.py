"""Curves over epochs, over shots, over neighbours and over confidence."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
from drawn_figures import drawn, ends, record, texts
from matplotlib.figure import Figure

from tlcache.core.errors import DataError
from tlcache.evaluation.metrics import calibration_bins, evaluate
from tlcache.figures.curves import (
    calibration_figure,
    few_shot_figure,
    learning_curves,
    neighbours_figure,
)


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


def point(shots: int, accuracy: float = 0.9) -> dict[str, Any]:
    return {
        "shots": shots,
        "accuracy": accuracy,
        "accuracy_ci95": [accuracy - 0.05, min(1.0, accuracy + 0.04)],
        "episodes95": [accuracy - 0.1, min(1.0, accuracy + 0.1)],
    }


def test_a_curve_has_its_band_its_intervals_and_its_numbers() -> None:
    figure = few_shot_figure([point(1, 0.6), point(5, 0.8), point(20)], "50 images of val")
    assert drawn(figure).size[0] > 100
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    band = np.asarray(axes.collections[0].get_paths()[0].vertices)
    assert band[:, 1].min() == pytest.approx(0.5) and band[:, 1].max() == 1.0
    shown = texts(figure)
    assert {"0.600", "0.800", "0.900", "1", "5", "20"} <= set(shown)
    assert "Accuracy on 50 images of val" in shown


def test_one_point_has_a_band_that_can_be_seen() -> None:
    (axes,) = few_shot_figure([point(7, 0.8)], "val").axes
    assert ends(axes)[0, :, 1] == pytest.approx([0.7, 0.9])


def test_numbers_that_would_touch_are_left_out() -> None:
    shown = texts(few_shot_figure([point(shots, 0.8) for shots in range(1, 41)], "val"))
    assert "1" in shown and "40" not in shown
    assert "0.800" not in shown


def test_no_point_is_refused() -> None:
    with pytest.raises(DataError, match="points"):
        few_shot_figure([], "val")


def figure_of(**changes: Any) -> Any:
    values: dict[str, Any] = {
        "ks": [1, 5, 20],
        "accuracies": {"train, left out": [0.8, 0.9, 0.85], "val": [0.7, 0.8, 0.84]},
        "intervals": {
            "train, left out": [(0.7, 0.9), (0.8, 0.95), (0.8, 0.9)],
            "val": [(0.6, 0.8), (0.7, 0.9), (0.7, 0.9)],
        },
        "chosen": 5,
        "chosen_on": "train (leave-one-out)",
    }
    return neighbours_figure(**values | changes)


def test_accuracy_over_k_is_drawn_with_its_bands_and_the_choice() -> None:
    figure = figure_of()
    (axes,) = figure.axes
    lines = [line for line in axes.lines if len(line.get_xdata()) == 3]
    assert [list(line.get_ydata()) for line in lines] == [[0.8, 0.9, 0.85], [0.7, 0.8, 0.84]]
    assert len(axes.collections) == 2
    bottom, top = (axes.collections[1].get_paths()[0].get_extents().get_points()[:, 1]).tolist()
    assert (bottom, top) == pytest.approx((0.6, 0.9))
    said = texts(figure)
    assert {"train, left out", "val", "1", "5", "20"} <= set(said)
    assert "k = 5, chosen on train (leave-one-out)" in said
    drawn(figure)


def test_names_of_lines_that_end_together_do_not_overlap() -> None:
    ends = {name: [0.8, 0.8, 0.8] for name in ("train, left out", "val", "test")}
    bands = {name: [(0.7, 0.9)] * 3 for name in ends}
    figure = figure_of(accuracies=ends, intervals=bands)
    drawn(figure)
    boxes = [t.get_window_extent() for t in figure.axes[0].texts if t.get_text() in ends]
    boxes.sort(key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))


@pytest.mark.parametrize("name", ["$x$", "개미", "\u202ebad", "W" * 500])
def test_a_single_k_and_any_name_are_drawn(name: str) -> None:
    drawn(figure_of(ks=[3], accuracies={name: [0.5]}, intervals={name: [(0.1, 0.9)]}, chosen=3))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ks": []}, "expected at least one"),
        ({"ks": [1, 5]}, "expected 2, as many as ks, found 3"),
        ({"chosen": 7}, "one of 1, 5, 20, found 7"),
    ],
)
def test_values_that_do_not_fit_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        figure_of(**changes)


def diagram_of(logits: Any, labels: Any) -> Figure:
    return calibration_figure([dataclasses.asdict(b) for b in calibration_bins(logits, labels)])


def test_the_diagram_shows_each_bin_s_accuracy_interval_and_gap() -> None:
    # Confidences 0.9, 0.9 and 0.6; the first and the last are right.
    logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    above, below = diagram_of(logits, [0, 1, 1]).axes
    dots = [line for line in above.lines if line.get_marker() == "o"]
    assert [(d.get_xdata(), d.get_ydata()) for d in dots] == [  # type: ignore[comparison-overlap]
        ([pytest.approx(0.6)], [1.0]),
        ([pytest.approx(0.9)], [0.5]),
    ]
    lines = [list(map(float, line.get_ydata())) for line in above.lines]  # type: ignore[arg-type]
    assert [pytest.approx(0.9), 0.5] in lines  # the gap
    assert list(evaluate(logits[:2], [0, 1], "ab").accuracy_ci95) in lines
    assert [patch.get_height() for patch in below.patches] == [1, 1, 0, 1]  # type: ignore
    assert {"1", "2", "right", "wrong"} <= set(texts(below))


def test_the_title_has_the_error_of_the_evaluation() -> None:
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(5_000, 4)), random.integers(0, 4, 5_000)
    error = evaluate(logits, labels, "abcd").ece
    figure = diagram_of(logits, labels)
    assert f"Expected calibration error {error:.3f}, 5,000 images" in texts(figure.axes[0])
    low, high = figure.axes[0].get_xlim()
    assert low == pytest.approx(0.25, abs=0.07) and high > 1


@pytest.mark.parametrize("logits", [[[0.0]], [[0.0, 0.0]], [[900.0, 0.0]], [[0.0] * 1000]])
def test_one_image_is_drawn(logits: list[list[float]]) -> None:
    drawn(diagram_of(logits, [0]))


def test_no_bin_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        calibration_figure([])
    assert str(caught.value) == (
        "bins: expected at least one with images, found none; evaluate some images first"
    )
