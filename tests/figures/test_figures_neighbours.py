from __future__ import annotations

import itertools
from typing import Any

import pytest
from drawn_figures import drawn, texts

from tlcache.core.errors import DataError
from tlcache.figures.curves import neighbours_figure


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
