"""Numbers to places, and to words."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tlcache.reports.charts import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Scale,
    curves,
    scatter,
    stacked,
    whiskers,
)
from tlcache.reports.page import interval, percent, seconds, share, shortened, shown, times


def test_ticks_are_round_and_inside() -> None:
    assert [t.label for t in Scale(0.013, 0.31, 0, 100).ticks()] == ["0.1", "0.2", "0.3"]
    assert [t.label for t in Scale(0, 25, 0, 100).ticks(6)] == ["0", "5", "10", "15", "20", "25"]
    assert [t.label for t in Scale(0.9, 1.6, 0, 10).ticks(6, whole=True)] == ["1"]
    assert [t.label for t in Scale(0, 4e9, 0, 10).ticks(4)] == [
        "0",
        "1e+09",
        "2e+09",
        "3e+09",
        "4e+09",
    ]
    assert Scale(0, 2000, 0, 100).ticks()[1].label == "500"
    assert all(0 <= t.at <= 100 for t in Scale(-3.7, 8.1, 0, 100).ticks())


def test_curves_end_where_their_values_end() -> None:
    chart = curves("Loss", [1, 2, 3], {"train": [3, 2, 1], "val": [3, 1, 2]}, best=2)
    train, val = chart.lines
    assert [x for x, _ in train.places] == [LEFT, (LEFT + RIGHT) / 2, RIGHT]
    assert train.places[0] == val.places[0] and train.places[2][1] > val.places[2][1]
    assert chart.best == val.places[1]
    assert all(TOP < y < BOTTOM for line in chart.lines for _, y in line.places)
    assert chart.words == "train from 3.000 to 1.000; val from 3.000 to 2.000, over 3 epochs."


def test_names_at_the_ends_of_curves_do_not_overlap() -> None:
    chart = curves("Loss", [1, 2], {"train": [2, 1], "val": [3, 1]}, best=None)
    heights = [line.label[1] for line in chart.lines]
    assert abs(heights[0] - heights[1]) >= 14 and chart.best is None


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-9, 1e30])
def test_one_epoch_and_flat_curves_have_a_place(value: float) -> None:
    chart = curves("Loss", [7], {"train": [value], "val": [value]}, best=7, most=math.inf)
    assert chart.lines[0].places[0][0] == (LEFT + RIGHT) / 2
    assert [tick.label for tick in chart.x if tick.label == "7"] == ["7"]
    assert len(chart.y) >= 2 and TOP <= chart.lines[0].places[0][1] <= BOTTOM


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    many = list(range(1, 5001))
    chart = curves("Loss", many, {"val": [1 / i for i in many]}, best=1)
    places = chart.lines[0].places
    assert len(places) <= 400 and (places[0][0], places[-1][0]) == (LEFT, RIGHT)


def test_a_map_fills_its_box_with_one_scale() -> None:
    places = scatter(np.array([[0, 0], [4, 2], [2, 1]]), 220, 220, 10)
    assert places == [(10, 160), (210, 60), (110, 110)]
    assert scatter(np.zeros((2, 2)), 220, 220, 10) == [(110, 110)] * 2
    line = scatter(np.array([[0, 0], [1, 0]]), 220, 120, 10)
    assert line == [(10, 60), (210, 60)]


def test_the_scale_of_accuracies_goes_from_tenth_to_tenth() -> None:
    scale = whiskers([(0.917, 0.982), (0.83, 0.93)])
    assert (scale.low, scale.high) == (0.8, 1.0)
    assert 4 < scale(0.83) < scale(0.982) < 96
    assert (whiskers([(0, 0)]).low, whiskers([(0, 0)]).high) == (0.0, 0.1)
    assert (whiskers([(0.3, 0.7)]).low, whiskers([(1.0, 1.0)]).low) == (0.3, 0.9)


def test_bars_stack_their_stages() -> None:
    one = {"name": "cached", "seconds": 4.0, "seconds_by_stage": {"embed": 3.0, "train": 1.0}}
    two = {"name": "frozen", "seconds": 8.0, "seconds_by_stage": {"train": 8.0}}
    stages, (cached, frozen) = stacked([one, two])
    assert stages == ["embed", "train"]
    (x, width, colour), (next_x, next_width, next_colour) = cached.parts
    assert (colour, next_colour) == (0, 1) and next_x == x + width
    assert frozen.parts[0][1] == pytest.approx(2 * (width + next_width), abs=0.2)
    assert (cached.times, frozen.times) == (2, 1)
    nothing = {"name": "a", "seconds": 0.0, "seconds_by_stage": {"train": 0.0}}
    assert stacked([nothing])[1][0].parts == []


def test_names_lose_what_no_page_may_hold_and_keep_their_letters() -> None:
    assert shown("꿀벌 «b» <i> ❤️‍🔥") == "꿀벌 «b» <i> ❤️‍🔥"
    assert shown("a\nb\x00\x1b[31m\udcff\u202egnp") == "a\\nb\\x00\\x1b[31m\\udcff\\u202egnp"
    assert shortened("x" * 100, 10) == "xxxxx…xxxxx"
    assert shortened("short", 10) == "short"


def test_numbers_are_said_with_the_figures_that_matter() -> None:
    assert [seconds(v) for v in (0, 0.0421, 6.28, 84.32, 1234.5)] == [
        "<0.01 s", "0.042 s", "6.3 s", "84.3 s", "1,234 s",
    ]  # fmt: skip
    assert [percent(v) for v in (0, 0.004, 0.5, 0.9949, 0.9951, 0.99999, 1)] == [
        "0%", "<1%", "50%", "99%", "99.51%", "99.99%", "100%",
    ]  # fmt: skip
    assert (share(0.96078), share(2e30)) == ("0.961", "2.00e+30")
    assert interval((0.9, 1)) == "0.900–1.000"
    assert [times(v) for v in (1.62, 83.7)] == ["1.6×", "84×"]
