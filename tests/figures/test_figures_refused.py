from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from drawn_figures import photos_of, record
from matplotlib.figure import Figure

from tlcache.core.errors import DataError
from tlcache.figures.bars import benchmark_figure
from tlcache.figures.confusion import confusion_figure
from tlcache.figures.curves import learning_curves
from tlcache.figures.grids import image_grid, prediction_grid
from tlcache.figures.spreads import accuracy_spread

BAD: list[tuple[Callable[[], Figure], str]] = [
    (lambda: image_grid([], []), "images: expected at least one, found none; pass some"),
    (
        lambda: image_grid(photos_of(2), ["a"]),
        "titles: expected 2, as many as images, found 1; pass one for each",
    ),
    (
        lambda: image_grid(photos_of(1), ["a"], colours=["red", "blue"]),
        "colours: expected 1, as many as images, found 2; pass one for each",
    ),
    (
        lambda: image_grid(photos_of(1).astype(np.float32), ["a"]),
        "image: expected uint8 of shape (H, W, 3), found float32 (12, 16, 3); "
        "decode or denormalise it first",
    ),
    (
        lambda: image_grid([np.zeros((3, 8, 8), np.uint8)], ["a"]),
        "image: expected uint8 of shape (H, W, 3), found uint8 (3, 8, 8); "
        "decode or denormalise it first",
    ),
    (
        lambda: prediction_grid(photos_of(1), ["a"], ["a"], [0.5, 0.5]),
        "probabilities: expected 1, as many as images, found 2; pass one for each",
    ),
    (
        lambda: learning_curves([]),
        "history: expected at least one epoch, found none; train for an epoch or more",
    ),
    (
        lambda: learning_curves([record(1)], best_epoch=2),
        "best epoch: expected one of the history, found 2; pass the same run's",
    ),
    (
        lambda: confusion_figure([[1, 2, 3], [4, 5, 6]], ["a", "b"]),
        "confusion: expected shape (2, 2), one row and one column a class, and at least one "
        "class, found (2, 3); pass the confusion and the classes of one evaluation",
    ),
    (
        lambda: benchmark_figure([]),
        "contenders: expected at least one, found none; benchmark something first",
    ),
    (
        lambda: accuracy_spread([], []),
        "accuracies: expected at least one, found none; pass some",
    ),
    (
        lambda: accuracy_spread([0.9], [1.0, 2.0]),
        "seconds: expected 1, as many as accuracies, found 2; pass one for each",
    ),
]


@pytest.mark.parametrize(("draw", "words"), BAD)
def test_what_cannot_be_drawn_is_said_in_one_line(draw: Callable[[], Figure], words: str) -> None:
    with pytest.raises(DataError) as caught:
        draw()
    assert str(caught.value) == words
