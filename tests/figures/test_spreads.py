"""A benchmark's contenders, repeated heads, and folds of repeats."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_figures import contender, drawn, ends, texts
from matplotlib.patches import Rectangle

from tlcache.core.errors import DataError
from tlcache.figures.spreads import accuracy_spread, benchmark_figure, fold_spread


def test_benchmark_stacks_the_seconds_of_stages() -> None:
    figure = benchmark_figure(
        [contender("cached", embed=4.0, train=0.2), contender("finetune", train=300.0, test=57.0)]
    )
    times, accuracies = figure.axes
    bars = [patch for patch in times.patches if isinstance(patch, Rectangle)]
    assert [(bar.get_x(), bar.get_width()) for bar in bars] == [
        *((0, 4.0), (0, 0)),  # embed
        *((4.0, pytest.approx(0.2)), (0, 300.0)),  # train
        *((4.2, 0), (300.0, 57.0)),  # test
    ]
    assert {"cached", "finetune", "4.2 s   85×", "357 s", "seconds"} <= set(texts(times))
    legend = times.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["embed", "train", "test"]
    assert texts(accuracies).count("0.961") == 2
    assert np.asarray(accuracies.lines[0].get_xdata()).tolist() == [0.918, 0.982]


def test_the_first_contender_stands_on_top() -> None:
    times = benchmark_figure([contender("a", x=1.0), contender("b", x=2.0)]).axes[0]
    bottom, top = times.get_ylim()
    assert bottom > top


def test_a_benchmark_that_took_no_time_is_drawn() -> None:
    drawn(benchmark_figure([contender("a", x=0.0), contender("b", x=0.0)]))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0123, "0.012 s"), (4.26, "4.3 s"), (63.44, "63.4 s"), (12345.6, "12,346 s"), (0.0, "0 s")],
)
def test_seconds_are_said_with_figures_that_matter(seconds: float, words: str) -> None:
    assert words in texts(benchmark_figure([contender("a", x=seconds)]))


def test_spread_of_a_few_heads_shows_a_dot_for_each() -> None:
    figure = accuracy_spread([0.95, 0.96, 0.96, 0.97], [0.01, 0.02, 0.03, 0.06])
    left, right = figure.axes
    assert left.lines[0].get_xdata() == pytest.approx([0.95, 0.96, 0.96, 0.97])
    assert np.asarray(left.lines[0].get_ydata()).tolist() == [1, 1, 2, 1]
    assert "Accuracy of 4 heads: mean 0.9600, sd 0.0082" in texts(left)
    assert "Seconds a head: median 0.025 s" in texts(right)
    assert np.asarray(right.lines[0].get_xdata()).tolist() == [1, 2, 3, 4]


def test_spread_of_many_heads_shows_how_often_each_accuracy_came_out() -> None:
    figure = accuracy_spread(np.repeat([0.95, 0.96], [30, 70]), np.ones(100))
    heights = [patch.get_height() for patch in figure.axes[0].patches]  # type: ignore
    assert heights == [30, 70]


def test_spread_of_very_many_different_accuracies_is_binned() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.01, 1000)
    axes = accuracy_spread(values, np.ones(1000)).axes[0]
    assert len(axes.patches) == 30
    assert sum(patch.get_height() for patch in axes.patches) == 1000  # type: ignore


@pytest.mark.parametrize("n", [1, 5])
def test_spread_of_equal_heads_is_drawn(n: int) -> None:
    figure = accuracy_spread([0.9] * n, [0.0] * n)
    assert f"Accuracy of {n} head{'s' * (n > 1)}: mean 0.9000, sd 0.0000" in texts(figure)
    drawn(figure)


MEANS = {"mean of the folds": (0.95, (0.91, 0.99)), "out of fold": (0.96, (0.94, 0.97))}


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
