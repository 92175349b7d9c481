from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from drawn_figures import drawn, texts
from matplotlib.figure import Figure

from tlcache.core.errors import DataError
from tlcache.evaluation.metrics import calibration_bins, evaluate
from tlcache.figures.confusion import calibration_figure


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
