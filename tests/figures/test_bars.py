from __future__ import annotations

import numpy as np
import pytest
from drawn_figures import contender, drawn, texts
from matplotlib.patches import Rectangle

from tlcache.figures.bars import benchmark_figure


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
