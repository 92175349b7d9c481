"""Grids of images, of predictions and of pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from drawn_figures import drawn, photos_of, texts
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from tlcache.core.errors import DataError
from tlcache.figures.grids import PicturedPair, image_grid, pair_grid, prediction_grid


def test_image_grid_shows_every_image_under_its_title() -> None:
    images = photos_of(3)
    figure = image_grid(images, ["ants", "bees", "ants"], title="augmented")
    assert [texts(axes) for axes in figure.axes] == [["ants"], ["bees"], ["ants"]]
    assert "augmented" in texts(figure)
    for axes, image in zip(figure.axes, images, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), image)
        assert not axes.spines["top"].get_visible()


@pytest.mark.parametrize(
    ("n", "columns", "expected"),
    [(1, None, 1), (4, None, 4), (16, None, 4), (12, None, 4), (7, None, 4), (7, 2, 2), (3, 9, 3)],
)
def test_image_grid_chooses_or_takes_its_columns(
    n: int, columns: int | None, expected: int
) -> None:
    figure = image_grid(photos_of(n), ["x"] * n, columns)
    assert len({round(axes.get_position().x0, 4) for axes in figure.axes}) == expected
    assert len({round(axes.get_position().y0, 4) for axes in figure.axes}) == -(-n // expected)


def test_image_grid_frames_images_in_their_colours() -> None:
    figure = image_grid(photos_of(2), ["a", "b"], colours=["#0072B2", "#D55E00"])
    frames = [to_hex(axes.spines["left"].get_edgecolor()) for axes in figure.axes]
    assert frames == ["#0072b2", "#d55e00"]


def test_images_of_a_grid_do_not_overlap() -> None:
    boxes = [axes.get_position() for axes in image_grid(photos_of(8), ["x"] * 8).axes]
    for i, box in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_prediction_grid_marks_right_and_wrong_by_colour_and_by_sign() -> None:
    figure = prediction_grid(photos_of(2), ["ants", "bees"], ["ants", "ants"], [0.981, 0.62])
    right, wrong = figure.axes
    assert set(texts(right)) == {"✓ ants 98%", "true: ants"}
    assert set(texts(wrong)) == {"✗ ants 62%", "true: bees"}
    assert to_hex(right.spines["top"].get_edgecolor()) == "#007a5a"
    assert to_hex(wrong.spines["top"].get_edgecolor()) == "#d55e00"
    assert "1 of 2 right" in texts(figure)


def test_names_cut_alike_are_still_told_apart() -> None:
    truth, prediction = "a" * 300 + "b" * 300, "a" * 300 + "c" + "b" * 299
    assert any(
        "✗" in text for text in texts(prediction_grid(photos_of(1), [truth], [prediction], [1]))
    )


HOSTILE = ("개미.jpg", "$x_1$.jpg", "\u202eevil\x1b[31m.jpg", "W" * 5000, "lone \ud800", "")


def pair(a: NDArray[np.uint8] | None = None, bad: bool = True, name: str = "a.jpg") -> PicturedPair:
    first, second = photos_of(2)
    images = first if a is None else a, second
    return PicturedPair(images, (name, "b.jpg"), ("train · ants", "val · ants"), "0.981", bad)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 12])
def test_each_pair_is_drawn_side_by_side_under_its_words(count: int) -> None:
    figure = pair_grid([pair()] * count, "The worst")
    assert len(figure.axes) == 2 * count
    said = texts(figure)
    for word in ("a.jpg", "b.jpg", "train · ants", "val · ants", "0.981"):
        assert said.count(word) == count, word
    left, right = (axes.get_position() for axes in figure.axes[:2])
    assert left.x1 < right.x0 and abs(left.y0 - right.y0) < 1e-9
    assert all(a.get_position().y0 >= 0 and a.get_position().y1 <= 1 for a in figure.axes)
    drawn(figure)


def test_rows_are_as_high_as_their_images() -> None:
    low = np.zeros((10, 100, 3), np.uint8)
    flat = PicturedPair((low, low), ("a", "b"), ("c", "d"), "e", False)
    high = pair_grid([pair()] * 3 + [flat], "t").get_size_inches()[1]
    assert pair_grid([flat] * 4, "t").get_size_inches()[1] < high


def test_only_a_pair_that_makes_results_wrong_is_framed_in_red() -> None:
    figure = pair_grid([pair(bad=True), pair(bad=False)], "t")
    frames = [to_hex(axes.spines["left"].get_edgecolor()) for axes in figure.axes]
    assert frames[0] == frames[1] == "#d55e00" and frames[2] == frames[3] == "#dddddd"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_drawn_in_their_place(name: str) -> None:
    figure = pair_grid([pair(name=name)], name)
    drawn(figure)


def test_no_pair_and_no_image_are_refused() -> None:
    with pytest.raises(DataError, match="pairs: expected at least one"):
        pair_grid([], "t")
    wrongs: list[Any] = [np.zeros((3, 4), np.uint8), np.zeros(3, np.uint8), np.zeros((3, 4, 3))]
    for wrong in wrongs:
        with pytest.raises(DataError, match=r"expected uint8 of shape \(H, W, 3\)"):
            pair_grid([pair(wrong)], "t")
