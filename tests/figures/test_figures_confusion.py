from __future__ import annotations

import numpy as np
import pytest
from drawn_figures import drawn, texts
from matplotlib.text import Text

from tlcache.figures.confusion import confusion_figure


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
