from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from drawn_figures import drawn, texts
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from tlcache.core.errors import DataError
from tlcache.figures.curves import few_shot_figure
from tlcache.figures.spreads import fold_spread

MEANS = {"mean of the folds": (0.95, (0.91, 0.99)), "out of fold": (0.96, (0.94, 0.97))}


def point(shots: int, accuracy: float = 0.9) -> dict[str, Any]:
    return {
        "shots": shots,
        "accuracy": accuracy,
        "accuracy_ci95": [accuracy - 0.05, min(1.0, accuracy + 0.04)],
        "episodes95": [accuracy - 0.1, min(1.0, accuracy + 0.1)],
    }


def ends(axes: Axes) -> np.ndarray:
    """(n, 2, 2): both ends of each line of the first collection."""
    (lines,) = [part for part in axes.collections[:1] if isinstance(part, LineCollection)]
    return np.array(lines.get_segments())


def test_each_fold_is_a_dot_and_each_repeat_has_its_mean() -> None:
    values = np.array([[0.9, 1.0, 0.95], [0.8, 0.9, 1.0]])
    figure = fold_spread(values, MEANS)
    assert drawn(figure).size[0] > 100
    left, right = figure.axes
    assert sorted(np.asarray(left.lines[0].get_ydata())) == sorted(values.ravel())
    assert ends(left)[:, 0, 1] == pytest.approx([0.95, 0.9])
    assert np.asarray(right.lines[0].get_ydata()).tolist() == [0.91, 0.99]
    assert {"0.950", "0.960", *MEANS} <= set(texts(right))


@pytest.mark.parametrize("shape", [(1, 2), (1, 400), (1000, 2)])
def test_one_repeat_and_very_many_are_drawn(shape: tuple[int, int]) -> None:
    assert drawn(fold_spread(np.full(shape, 1.0), MEANS)).size[0] > 100


def test_no_fold_is_refused() -> None:
    with pytest.raises(DataError, match="accuracies"):
        fold_spread(np.empty((0, 3)), MEANS)


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
