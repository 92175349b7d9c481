from __future__ import annotations

import numpy as np
import pytest
from drawn_figures import photos_of, texts
from matplotlib.colors import to_hex

from tlcache.figures.grids import image_grid, prediction_grid


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
