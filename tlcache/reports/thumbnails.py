"""Small pictures of image files, and of a large confusion matrix, inside the page's own text."""

from __future__ import annotations

import base64
import contextlib
import functools
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tlcache.core.errors import ImageError
from tlcache.data.images import decode

SIDE = 96
_LARGEST = 2000  # classes whose confusions are drawn: beyond it a cell is no dot on a screen


@functools.lru_cache(maxsize=4096)
def thumbnail(path: Path) -> str | None:
    """An image file as a JPEG of at most 96 by 96 pixels in a ``data:`` address.

    Returns:
        None where the file is gone or is no image.
    """
    with contextlib.suppress(OSError, ValueError, ImageError):  # ValueError: a name with a NUL
        image = Image.fromarray(decode(path.read_bytes(), path))
        image.thumbnail((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=None)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=75, optimize=True)
        return _address(file, "jpeg")
    return None


def confusion_picture(confusion: Sequence[Sequence[int]]) -> str | None:
    """A matrix of many classes as a PNG: the darker, the larger the share of the true class.

    The root of the share is drawn, so that a few confused images show.

    Returns:
        None for so many classes that no cell could be seen.
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
