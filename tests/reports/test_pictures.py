"""Pictures that are made of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from drawn_figures import drawn, texts
from PIL import Image
from small_cache import Listed, snapshot_of

from tlcache.reports.pictures import pair_picture


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
