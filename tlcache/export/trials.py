"""Images to run an exported file on, and what tlcache's own network says of them.

Covers no files (``export``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import DataError, ImageError
from tlcache.data.folders import DataSource, images_below
from tlcache.data.images import decode
from tlcache.data.transforms import apply
from tlcache.evaluation.metrics import softmax
from tlcache.heads.model import Model

if TYPE_CHECKING:
    import torch

IMAGES = 32
BATCHES = (1, 8)
"""A file is run on images one by one and by eights: a network may be fixed to one of them."""

_MOST_PIXELS = 640  # to a side, of images that are cut to one size to share a batch


def trial_images(source: DataSource) -> list[Path]:
    """At most ``IMAGES`` of a folder, spread over it: of ``val``, where it has one.

    Raises:
        DataError: If there is no image.
    """
    folder = source.path
    if source.fractions:
        dataset = source.scan()
        paths = [dataset.path(i) for i in dataset.indices("val")]
    else:
        held_out = folder / "val" if (folder / "val").is_dir() else folder
        paths = [held_out / name for name in images_below(held_out)]
    chosen = np.linspace(0, len(paths) - 1, min(IMAGES, len(paths))).astype(int)
    return [paths[i] for i in chosen]


class Trial(NamedTuple):
    """A batch to run a file on, and the (n, C) probabilities that tlcache finds for it."""

    batch: NDArray[Any]
    expected: NDArray[np.float64]


def usable_pixels(images: Sequence[Path], preprocess: bool) -> list[NDArray[np.uint8]]:
    """(H, W, 3) of each image that can be read, and prepared to the same bits.

    Raises:
        DataError: If there is none.
    """
    pixels = []
    for path in images:
        with contextlib.suppress(ImageError, OSError):
            made = decode(path.read_bytes(), path)
            # Pillow takes the passes of very tall ones in another order (`preprocess`).
            if not preprocess or made.shape[0] <= 2 * made.shape[1]:
                pixels.append(made)
    if not pixels:
        raise DataError(
            "--data",
            expected="images to run the file on",
            found=f"{len(images)} of which none can be used",
            remedy="name a folder of images that the model is for",
        )
    return pixels


def trials_of(
    model: Model, network: torch.nn.Module, pixels: list[NDArray[np.uint8]], preprocess: bool
) -> Iterator[Trial]:
    """The images one by one; and by eights, cut to one size where their sizes matter."""
    import torch

    from tlcache.trunks.engines import make_engine

    compute = make_engine(network, model.transform, device=torch.device("cpu")).new_run()

    def trial(images: Sequence[NDArray[np.uint8]]) -> Trial:
        crops = np.stack([apply(image, model.transform) for image in images])
        features = compute(np.ascontiguousarray(crops.transpose(0, 2, 3, 1)))
        batch = np.stack(images) if preprocess else np.ascontiguousarray(crops)
        return Trial(batch, softmax(model.head.logits(features)))

    for image in pixels:
        yield trial([image])
    eight = max(BATCHES)
    for at in range(0, len(pixels), eight):
        group = [pixels[(at + k) % len(pixels)] for k in range(eight)]
        height, width = (min(_MOST_PIXELS, *(p.shape[d] for p in group)) for d in (0, 1))
        yield trial([p[:height, :width] for p in group] if preprocess else group)


def largest_difference(
    run: Callable[[NDArray[Any]], NDArray[np.float32]], trials: Sequence[Trial]
) -> float:
    """The largest between a probability that ``run`` finds and its own; NaN where one is."""
    largest = [float(np.abs(run(batch) - expected).max()) for batch, expected in trials]
    return float(np.max(largest))
