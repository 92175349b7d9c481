"""The confusion matrix, and the maps of a sweep."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from drawn_figures import drawn, texts
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from tlcache.core.errors import DataError
from tlcache.figures.heatmap import HeatMap, confusion_figure, heat_maps


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


MAP = HeatMap(
    "SGD",
    "learning rate",
    "weight decay",
    columns=[0.1, 0.01, 0.1, 0.01, 0.1],
    rows=[0.0, 0.0, 0.5, 0.5, 0.0],
    accuracies=[0.7, 0.8, math.nan, 0.9, 0.75],
    chosen=3,
)


def cells(figure: Figure, at: int = 0) -> dict[tuple[str, str], str]:
    """What is written in each cell, by the names of its column and row."""
    axes = figure.axes[at]
    across = [text.get_text() for text in axes.get_xticklabels()]
    down = [text.get_text() for text in axes.get_yticklabels()]
    return {
        (across[int(text.get_position()[0])], down[int(text.get_position()[1])]): text.get_text()
        for text in axes.texts
    }


def framed(figure: Figure, at: int = 0) -> list[tuple[int, int]]:
    boxes = [patch for patch in figure.axes[at].patches if isinstance(patch, Rectangle)]
    return [(round(box.get_x() + 0.48), round(box.get_y() + 0.48)) for box in boxes]


def test_each_cell_is_the_best_of_its_pair_and_the_chosen_one_is_framed() -> None:
    figure = heat_maps([MAP], "val")
    assert cells(figure) == {
        ("0.01", "0"): "0.800",
        ("0.1", "0"): "0.750",
        ("0.01", "0.5"): "0.900",
        ("0.1", "0.5"): "failed",
    }
    assert framed(figure) == [(0, 1)]
    image = figure.axes[0].images[0].get_array()
    assert image is not None
    np.testing.assert_allclose(np.ma.filled(image, np.nan), [[0.8, 0.75], [0.9, np.nan]])


def test_words_stand_beside_numbers_on_one_scale() -> None:
    words = HeatMap("L-BFGS", "C", "features", [1.0, 1.0], ["raw", "$l_2$"], [0.95, 0.85])
    figure = heat_maps([MAP, words], "val")
    assert cells(figure, 1) == {("1", "raw"): "0.950", ("1", "$l_2$"): "0.850"}
    assert framed(figure, 1) == []
    limits = {axes.images[0].get_clim() for axes in figure.axes}
    assert len(limits) == 1


def test_many_numbers_are_gathered_into_ranges_and_zero_stays_by_itself() -> None:
    random = np.random.default_rng(0)
    rates = np.exp(random.uniform(math.log(1e-5), 0, 60))
    decays = np.where(np.arange(60) % 3 == 0, 0, rates[::-1])
    accuracies = random.uniform(0.5, 1, 60)
    many = HeatMap("", "lr", "decay", rates.tolist(), decays.tolist(), accuracies.tolist(), 7)
    figure = heat_maps([many], "val")
    axes = figure.axes[0]
    assert len(axes.get_xticklabels()) == 8
    down = [text.get_text() for text in axes.get_yticklabels()]
    assert len(down) == 9 and down[0] == "0"
    written = [float(text) for text in cells(figure).values()]
    assert max(written) == pytest.approx(accuracies.max(), abs=5e-4)
    zeros = [float(text) for (_, row), text in cells(figure).items() if row == "0"]
    assert max(zeros) == pytest.approx(accuracies[::3].max(), abs=5e-4)
    assert len(framed(figure)) == 1


@pytest.mark.parametrize(
    ("maps", "words"),
    [
        ([], "maps: expected at least one, found none"),
        ([dataclasses.replace(MAP, rows=[0.0])], "rows: expected 5, as many as learning rate"),
        (
            [dataclasses.replace(MAP, accuracies=[math.nan] * 5)],
            "accuracies: expected at least one",
        ),
        (
            [dataclasses.replace(MAP, columns=[], rows=[], accuracies=[])],
            "learning rate: expected at least one",
        ),
    ],
)
def test_nothing_to_draw_is_refused(maps: list[Any], words: str) -> None:
    with pytest.raises(DataError) as refused:
        heat_maps(maps, "val")
    assert words in str(refused.value)
