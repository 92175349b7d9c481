from __future__ import annotations

import numpy as np
import pytest
from drawn_figures import drawn, texts

from tlcache.core.errors import DataError
from tlcache.figures.feature_map import feature_map_figure

PLACES = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])


def test_dots_lie_where_they_are_and_errors_are_ringed() -> None:
    figure = feature_map_figure(
        PLACES, [0, 0, 1, 1], [0, 1, 1, 0], ["ants", "bees"], title="Here", axis_names=("x1", "x2")
    )
    (axes,) = figure.axes
    lines = {str(line.get_label()): np.c_[line.get_data()].tolist() for line in axes.lines}
    assert lines == {
        "ants (2)": [[0, 0], [1, 0]],
        "bees (2)": [[0, 1], [2, 2]],
        "ringed: wrong (2)": [[1, 0], [2, 2]],
    }
    assert len({line.get_color() for line in axes.lines[:2]}) == 2
    assert {"Here", "x1", "x2", *lines} <= set(texts(figure))


def test_directions_that_mean_nothing_have_no_scale() -> None:
    axes = feature_map_figure(PLACES, [0] * 4, [0] * 4, ["ants"]).axes[0]
    assert len(axes.get_xticks()) == len(axes.get_yticks()) == 0
    assert "ringed: wrong (0)" in texts(axes)


def test_twenty_classes_are_told_apart_and_of_more_the_largest_are_named() -> None:
    names = [f"class {i}" for i in range(25)]
    for there in (20, 25):
        labels = np.r_[np.arange(there), np.arange(5, there)]  # 0 to 4 have one image each
        at = np.random.default_rng(0).normal(size=(len(labels), 2))
        axes = feature_map_figure(at, labels, labels, names).axes[0]
        looks = {(line.get_color(), line.get_marker()) for line in axes.lines[:-1]}
        assert len(looks) == len(axes.lines) - 1 == 20
        shown = texts(axes)
        assert ("class 0 (1)" in shown) == (there == 20)
        assert "class 18 (2)" in shown
        assert ("6 other classes (7)" in shown) == (there == 25)
    drawn(axes.figure)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 3000])
def test_one_image_and_many_are_drawn(count: int) -> None:
    at = np.random.default_rng(0).normal(size=(count, 2))
    drawn(feature_map_figure(at, [0] * count, [0] * count, ["$x_1$ " + "W" * 300]))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match=r"places: expected \(N, 2\), found \(4,\)"):
        feature_map_figure(PLACES[:, 0], [0] * 4, [0] * 4, ["a"])
    with pytest.raises(DataError, match="predictions: expected 4, as many as places, found 3"):
        feature_map_figure(PLACES, [0] * 4, [0] * 3, ["a"])
    with pytest.raises(DataError, match="places: expected at least one, found none"):
        feature_map_figure(np.zeros((0, 2)), [], [], ["a"])
