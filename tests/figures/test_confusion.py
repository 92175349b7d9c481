"""The confusion matrix, and the reliability diagram."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from drawn_figures import drawn, texts
from matplotlib.figure import Figure
from matplotlib.text import Text

from tlcache.core.errors import DataError
from tlcache.evaluation.metrics import calibration_bins, evaluate
from tlcache.figures.confusion import calibration_figure, confusion_figure


def test_confusion_of_few_classes_shows_counts_and_shares() -> None:
    figure = confusion_figure([[67, 3], [4, 79]], ["ants", "bees"])
    assert {"67\n95.7%", "3\n4.3%", "4\n4.8%", "79\n95.2%"} <= set(texts(figure))
    assert {"ants", "bees", "true", "predicted", "146 of 153 right"} <= set(texts(figure))
    shares = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shares, [[67 / 70, 3 / 70], [4 / 83, 79 / 83]])  # type: ignore


def test_rows_of_the_confusion_are_truths() -> None:
    (axes,) = confusion_figure([[0, 9], [0, 1]], ["a", "b"]).axes
    (nine,) = (text for text in axes.texts if text.get_text().startswith("9\n"))
    assert nine.get_position() == (1, 0)  # column b, row a
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]


def test_a_class_without_images_has_an_empty_row_without_a_share() -> None:
    figure = confusion_figure([[2, 0], [0, 0]], ["a", "b"])
    assert texts(figure).count("0") == 2
    drawn(figure)


def test_confusion_of_many_classes_shows_colours_without_numbers() -> None:
    names = [f"class {i}" for i in range(100)]
    figure = confusion_figure(np.eye(100, dtype=int) * 7, names)
    assert set(names) <= set(texts(figure))
    assert not figure.axes[0].texts
    assert "share of the true class" in texts(figure)
    assert max(drawn(figure).size) < 20 * 50


def test_confusion_of_very_many_classes_names_some() -> None:
    names = [f"class {i}" for i in range(300)]
    axes = confusion_figure(np.eye(300, dtype=int), names).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[:2] == ["class 0", "class 3"]
    assert list(axes.get_yticks()[:2]) == [0, 3]


@pytest.mark.parametrize("classes", [1, 2, 5, 20, 21])
def test_no_writing_of_a_confusion_is_cut_off(classes: int) -> None:
    names = [f"a rather long name of class {i}" for i in range(classes)]
    figure = confusion_figure(np.full((classes, classes), 1234), names)
    drawn(figure, dpi=150)
    canvas = figure.bbox
    for text in figure.findobj(Text):
        if text.get_text() and text.get_visible():
            box = text.get_window_extent()
            assert canvas.x0 <= box.x0 and box.x1 <= canvas.x1, text
            assert canvas.y0 <= box.y0 and box.y1 <= canvas.y1, text


def figure_of(logits: Any, labels: Any) -> Figure:
    return calibration_figure([dataclasses.asdict(b) for b in calibration_bins(logits, labels)])


def test_the_diagram_shows_each_bin_s_accuracy_interval_and_gap() -> None:
    # Confidences 0.9, 0.9 and 0.6; the first and the last are right.
    logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    above, below = figure_of(logits, [0, 1, 1]).axes
    dots = [line for line in above.lines if line.get_marker() == "o"]
    assert [(d.get_xdata(), d.get_ydata()) for d in dots] == [  # type: ignore[comparison-overlap]
        ([pytest.approx(0.6)], [1.0]),
        ([pytest.approx(0.9)], [0.5]),
    ]
    ends = [list(map(float, line.get_ydata())) for line in above.lines]  # type: ignore[arg-type]
    assert [pytest.approx(0.9), 0.5] in ends  # the gap
    assert list(evaluate(logits[:2], [0, 1], "ab").accuracy_ci95) in ends
    assert [patch.get_height() for patch in below.patches] == [1, 1, 0, 1]  # type: ignore
    assert {"1", "2", "right", "wrong"} <= set(texts(below))


def test_the_title_has_the_error_of_the_evaluation() -> None:
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(5_000, 4)), random.integers(0, 4, 5_000)
    error = evaluate(logits, labels, "abcd").ece
    figure = figure_of(logits, labels)
    assert f"Expected calibration error {error:.3f}, 5,000 images" in texts(figure.axes[0])
    low, high = figure.axes[0].get_xlim()
    assert low == pytest.approx(0.25, abs=0.07) and high > 1


@pytest.mark.parametrize("logits", [[[0.0]], [[0.0, 0.0]], [[900.0, 0.0]], [[0.0] * 1000]])
def test_one_image_is_drawn(logits: list[list[float]]) -> None:
    drawn(figure_of(logits, [0]))


def test_no_bin_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        calibration_figure([])
    assert str(caught.value) == (
        "bins: expected at least one with images, found none; evaluate some images first"
    )
