"""Images as programs hand them over: paths and pixels, in lists, arrays and tables.

Covers no reading of them (``images``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tlcache.core.errors import InputError
from tlcache.data.images import ImageInMemory


def as_images(X: Any) -> list[Path | ImageInMemory]:
    """The N images that X holds; none is read.

    Args:
        X: Paths, Pillow's images or (H, W, 3) uint8 arrays, mixed at will, in a list or tuple, a
            one-dimensional array or series, or a table with one column; or (N, H, W, 3) uint8.

    Raises:
        InputError: If X is nothing of the kind, or empty.
    """
    if hasattr(X, "to_numpy"):  # a series or a table
        X = X.to_numpy()
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.shape[1] == 1:
        X = X[:, 0]
    known = isinstance(X, np.ndarray) and (X.ndim == 1 or (X.ndim == 4 and X.dtype == np.uint8))
    if not (known or isinstance(X, list | tuple)):
        shape = f"{X.dtype} of shape {X.shape}" if isinstance(X, np.ndarray) else type(X).__name__
        raise _wrong("X", "a list of paths or images", shape, "put them into a list")
    if not len(X):
        raise _wrong("X", "at least one image", "none", "pass some")
    return [_image(i, item) for i, item in enumerate(X)]


def _image(i: int, item: Any) -> Path | ImageInMemory:
    if isinstance(item, str | os.PathLike) and "\0" not in (path := str(os.fspath(item))) != "":
        return Path(path)
    pixels = isinstance(item, np.ndarray) and item.dtype == np.uint8 and item.size > 0
    if isinstance(item, Image.Image) or (pixels and item.ndim == 3 and item.shape[2] == 3):
        return ImageInMemory(f"X[{i}]", item)
    array = isinstance(item, np.ndarray)
    found = f"{item.dtype} of shape {item.shape}" if array else repr(item)[:60]
    expected = "a path, a Pillow image, or (H, W, 3) uint8"
    raise _wrong(f"X[{i}]", expected, found, "correct it or leave it out")


def _wrong(where: str, expected: str, found: str, remedy: str) -> InputError:
    return InputError(where, expected=expected, found=found, remedy=remedy)
