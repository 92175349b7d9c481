"""Pictures of image files and features: as an epoch sees them, judged, in pairs, as a map, small.

Covers no drawing (``figures``).
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tlcache.core.errors import ImageError
from tlcache.data.folders import SPLITS, ImageDataset
from tlcache.data.images import decode
from tlcache.data.splits import sample
from tlcache.data.transforms import Transform, apply
from tlcache.evaluation.metrics import softmax
from tlcache.features.projection import project
from tlcache.figures.feature_map import feature_map_figure
from tlcache.figures.grids import PicturedPair, image_grid, pair_grid, prediction_grid
from tlcache.heads.model import Model
from tlcache.networks.scoring import Scored

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE, _PAIR_SIDE = 96, 320  # pixels of a page's thumbnail, and of an image beside another
_LARGEST = 2000  # classes whose confusions are drawn: beyond it a cell is no dot on a screen
_METHODS = {"pca": "principal components", "tsne": "t-SNE (distances between groups mean little)"}


def augmented_picture(
    dataset: ImageDataset, transform: Transform, count: int = 12, seed: int = 0
) -> Figure:
    """Some training images as an epoch sees them, under their labels.

    Args:
        transform: The network's; its train kind is drawn.
        count: How many images; chosen at random by ``seed``.

    Raises:
        ImageError: If a chosen image cannot be read.
    """
    chosen = np.random.default_rng(seed).permutation(dataset.indices("train"))[:count]
    train = transform.as_train()
    pictures = [_seen(dataset.path(i), train) for i in chosen]
    titles = [dataset.classes[dataset.labels[i]] for i in chosen]
    return image_grid(pictures, titles, title="Training images as an epoch sees them")


def prediction_picture(
    model: Model, scored: Scored, root: Path, count: int = 12, seed: int = 0
) -> Figure | None:
    """Some images as the trunk sees them, and what the model takes them for; None if all are gone.

    Args:
        scored: The images to choose from.
        root: Folder that their paths are relative to.
        count: How many; chosen at random by ``seed``.
    """
    chosen = np.random.default_rng(seed).permutation(len(scored.paths))
    there = [i for i in chosen if (root / scored.paths[i]).is_file()][:count]
    if not there:
        return None
    pictures = [_seen(root / scored.paths[i], model.transform) for i in there]
    probabilities = softmax(scored.logits[there])
    return prediction_grid(
        pictures,
        [model.classes[scored.labels[i]] for i in there],
        [model.classes[k] for k in probabilities.argmax(axis=1)],
        probabilities.max(axis=1),
    )


def map_picture(
    model: Model, features: Scored, most: int, method: str, on: str, seed: int = 0
) -> tuple[Figure, dict[str, Any]]:
    """A split's features in the plane, coloured by class, with the model's errors ringed.

    Args:
        features: What the model says with a head that hands them on,
            :func:`tlcache.networks.scoring.bare`.
        most: Of more images, about so many are drawn, with each class's share of them.
        method: See :func:`tlcache.features.projection.project`.
        on: The name of the split.
        seed: Of the choice and of the method.

    Returns:
        The figure, and what it shows as plain JSON values.
    """
    rows = sample(features.paths, features.labels, most, seed)
    shown = features.logits[rows]
    places, shares = project(shown, method, seed)
    listed = None if shares is None else shares.tolist()
    names = [f"component {i} ({x:.1%} of the variance)" for i, x in enumerate(listed or (), 1)]
    figure = feature_map_figure(
        places,
        features.labels[rows],
        model.head.logits(features.logits)[rows].argmax(axis=1),
        model.classes,
        title=f"{model.trunk} features of {len(rows):,} images of {on}: {_METHODS[method]}",
        axis_names=(names[0], names[1]) if names else None,
    )
    return figure, {"method": method, "shown": len(rows), "shares_of_variance": listed}


def _seen(path: Path, transform: Transform) -> NDArray[np.uint8]:
    data = path.read_bytes()
    pixels = apply(decode(data, path), transform, hashlib.sha256(data).digest(), 0)
    return denormalise(pixels, transform)


def denormalise(pixels: NDArray[np.float32], transform: Transform) -> NDArray[np.uint8]:
    """A network input (3, H, W) as an image to look at, (H, W, 3) uint8."""
    mean, std = np.array([transform.mean, transform.std], np.float32)[:, :, None, None]
    values = np.clip(np.rint((pixels * std + mean) * 255), 0, 255)
    return values.astype(np.uint8).transpose(1, 2, 0)


def pair_picture(
    dataset: ImageDataset, pairs: Sequence[tuple[tuple[int, int], str, bool]], title: str
) -> Figure:
    """Pairs of images side by side, with their paths, splits and classes.

    Args:
        pairs: Of each, its rows, what they are to each other, and whether that falsifies a result.

    Raises:
        DataError: If there is no pair.
    """
    shown = []
    for (a, b), verdict, bad in pairs:
        images, paths, places = zip(_half(dataset, a), _half(dataset, b), strict=True)
        shown.append(PicturedPair(images, paths, places, verdict, bad))
    return pair_grid(shown, title)


def _half(dataset: ImageDataset, row: int) -> tuple[Any, Any, Any]:
    """An image's pixels or None, its path below split and class, and these, which go beside it."""
    split, name = SPLITS[dataset.splits[row]], dataset.classes[dataset.labels[row]]
    image = _small(dataset.path(row), _PAIR_SIDE)
    inside = dataset.paths[row].removeprefix(f"{split}/").removeprefix(f"{name}/")
    return None if image is None else np.asarray(image), inside, f"{split} · {name}"


@functools.lru_cache(maxsize=4096)
def thumbnail(path: Path) -> str | None:
    """An image file as a small JPEG in a ``data:`` address; None where it is gone or no image."""
    image = _small(path, SIDE, resample=Image.Resampling.BOX, reducing_gap=None)
    if image is None:
        return None
    file = io.BytesIO()
    image.save(file, "JPEG", quality=75, optimize=True)
    return _address(file, "jpeg")


def _small(path: Path, side: int, **how: Any) -> Image.Image | None:
    """An image of at most so many pixels to a side; None where the file is gone or is none."""
    with contextlib.suppress(OSError, ValueError, ImageError):  # ValueError: a name with a NUL
        image = Image.fromarray(decode(path.read_bytes(), path))
        image.thumbnail((side, side), **how)
        return image
    return None


def confusion_picture(confusion: Sequence[Sequence[int]]) -> str | None:
    """A matrix of many classes as a PNG: the darker, the larger the share of the true class.

    The root of the share is drawn, so that a few confused images show. None for so many classes
    that no cell could be seen.
    """
    counts = np.array(confusion)
    if len(counts) > _LARGEST:
        return None
    shares = np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))[..., None]
    ink = np.array([0, 68, 120])
    pixels = (255 - shares * (255 - ink)).round().astype(np.uint8)
    times = max(1, 600 // len(counts))
    file = io.BytesIO()
    Image.fromarray(pixels.repeat(times, axis=0).repeat(times, axis=1)).save(file, "PNG")
    return _address(file, "png")


def _address(file: io.BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
