from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_figures import drawn, photos_of, texts
from matplotlib.colors import to_hex
from numpy.typing import NDArray
from PIL import Image
from small_cache import Listed, snapshot_of

from tlcache.core.errors import DataError
from tlcache.figures.grids import PicturedPair, pair_grid
from tlcache.reports.pictures import pair_picture

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


def test_the_picture_shows_files_with_their_places_and_what_is_gone_as_such(tmp_path: Path) -> None:
    snapshot = snapshot_of(
        Listed("train/ants/here.png", 1), Listed("val/bees/gone.png", 2), root=tmp_path
    )
    (tmp_path / "train" / "ants").mkdir(parents=True)
    Image.new("RGB", (900, 300), (200, 0, 0)).save(tmp_path / "train" / "ants" / "here.png")
    figure = pair_picture(snapshot.dataset, [((0, 1), "similarity 0.99", True)], "Worst")
    shown, gone = figure.axes
    pixels = np.asarray(shown.images[0].get_array())
    assert pixels.shape[1] <= 320 and tuple(pixels[0, 0]) == (200, 0, 0)
    assert not gone.images and "cannot be shown" in texts(gone)
    said = texts(figure)
    assert {"here.png", "gone.png", "train · ants", "val · bees", "similarity 0.99"} <= set(said)
    drawn(figure)
