"""The picture of the worst pairs that a check found, from their image files.

Covers no finding (``leakage``) and no drawing (``figures``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tlcache.core.errors import ImageError
from tlcache.data.folders import SPLITS, ImageDataset
from tlcache.data.images import decode
from tlcache.figures.pairs import PicturedPair, pair_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIDE = 320


class FoundPair(NamedTuple):
    """Two images of a data set.

    Attributes:
        rows: Of both.
        verdict: What they are to each other.
        bad: Whether that falsifies a result.
    """

    rows: tuple[int, int]
    verdict: str
    bad: bool


def pair_picture(dataset: ImageDataset, pairs: Sequence[FoundPair], title: str) -> Figure:
    """Pairs of images side by side, with their paths, splits and classes.

    Raises:
        DataError: If there is no pair.
    """
    shown = [
        PicturedPair(
            images=(_thumbnail(dataset.path(a)), _thumbnail(dataset.path(b))),
            paths=(_inside(dataset, a), _inside(dataset, b)),
            places=(_place(dataset, a), _place(dataset, b)),
            verdict=verdict,
            bad=bad,
        )
        for (a, b), verdict, bad in pairs
    ]
    return pair_grid(shown, title)


def _thumbnail(path: Path) -> NDArray[np.uint8] | None:
    """A small image, or None where the file is gone or cannot be read any more."""
    with contextlib.suppress(OSError, ImageError):
        image = Image.fromarray(decode(path.read_bytes(), path))
        image.thumbnail((_SIDE, _SIDE))
        return np.asarray(image)
    return None


def _place(dataset: ImageDataset, row: int) -> str:
    return f"{SPLITS[dataset.splits[row]]} · {dataset.classes[dataset.labels[row]]}"


def _inside(dataset: ImageDataset, row: int) -> str:
    """The path below split and class, which stand beside it."""
    path, split = dataset.paths[row], SPLITS[dataset.splits[row]]
    name = dataset.classes[dataset.labels[row]]
    return path.removeprefix(f"{split}/").removeprefix(f"{name}/")
