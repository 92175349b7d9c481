"""The tutorial's two pictures, from image files: augmented training images, and predictions.

Covers no drawing (``figures``).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tlcache.data.folders import ImageDataset
from tlcache.data.images import decode
from tlcache.data.transforms import Transform, apply
from tlcache.evaluation.metrics import softmax
from tlcache.figures.grids import image_grid, prediction_grid
from tlcache.heads.model import Model
from tlcache.networks.scoring import Scored

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    pictures = [_seen(dataset.path(i), train, view=0) for i in chosen]
    titles = [dataset.classes[dataset.labels[i]] for i in chosen]
    return image_grid(pictures, titles, title="Training images as an epoch sees them")


def prediction_picture(
    model: Model, scored: Scored, root: Path, count: int = 12, seed: int = 0
) -> Figure | None:
    """Some images as the trunk sees them, beside what the model takes them for.

    Args:
        scored: The images to choose from.
        root: Folder that their paths are relative to.
        count: How many; chosen at random by ``seed``.

    Returns:
        None where no image file is there any more.
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


def _seen(path: Path, transform: Transform, view: int = 0) -> NDArray[np.uint8]:
    data = path.read_bytes()
    pixels = apply(decode(data, path), transform, hashlib.sha256(data).digest(), view)
    return denormalise(pixels, transform)


def denormalise(pixels: NDArray[np.float32], transform: Transform) -> NDArray[np.uint8]:
    """A network input (3, H, W) as an image to look at, (H, W, 3) uint8."""
    mean, std = np.array([transform.mean, transform.std], np.float32)[:, :, None, None]
    values = np.clip(np.rint((pixels * std + mean) * 255), 0, 255)
    return values.astype(np.uint8).transpose(1, 2, 0)
