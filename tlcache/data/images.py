"""An image file's bytes to pixels: RGB, (H, W, 3), uint8, as torchvision's own loader makes them.

That is by Pillow. Where simplejpeg is installed, plain JPEG files go straight to libjpeg-turbo, to
the same bits: anything out of the ordinary goes to Pillow, and so does everything if the two do not
agree. Covers no resizing and no normalisation (``transforms``), and, like torchvision, no EXIF
rotation.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tlcache.core.errors import ImageError, InputError, strerror
from tlcache.core.machine import once

MAX_PIXELS = 178_956_970
"""Larger images are refused before a pixel is decoded: Pillow's limit for decompression bombs."""

# Between half of MAX_PIXELS and MAX_PIXELS, Pillow decodes and warns; those images are fine here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclasses.dataclass(frozen=True)
class ImageInMemory:
    """An image that is in no file; it stands for the PPM file that its RGB pixels make."""

    name: str  # for errors
    image: Image.Image | NDArray[np.uint8]  # of any mode; or (H, W, 3)

    def __str__(self) -> str:
        return self.name

    def read_bytes(self) -> bytes:
        """The whole PPM file; an ImageError says why the pixels cannot be had."""
        pixels = self.image
        if isinstance(pixels, Image.Image):
            try:
                pixels = np.asarray(_rgb(pixels, self.name))
            except (ImageError, MemoryError):
                raise
            except Exception as error:  # a file that was opened and is damaged, or closed by now
                raise _unreadable(self.name, strerror(error)) from error
        height, width, _ = pixels.shape
        return b"P6\n%d %d\n255\n" % (width, height) + pixels.tobytes()


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
        raise InputError("X", "a list of paths or images", shape, "put them into a list")
    if not len(X):
        raise InputError("X", "at least one image", "none", "pass some")
    return [_image(i, item) for i, item in enumerate(X)]


def _image(i: int, item: Any) -> Path | ImageInMemory:
    if isinstance(item, str | os.PathLike) and "\0" not in (path := str(os.fspath(item))) != "":
        return Path(path)
    array = isinstance(item, np.ndarray)
    pixels = array and item.dtype == np.uint8 and item.size > 0
    if isinstance(item, Image.Image) or (pixels and item.ndim == 3 and item.shape[2] == 3):
        return ImageInMemory(f"X[{i}]", item)
    found = f"{item.dtype} of shape {item.shape}" if array else repr(item)[:60]
    expected = "a path, a Pillow image, or (H, W, 3) uint8"
    raise InputError(f"X[{i}]", expected, found, "correct it or leave it out")


def decode(data: bytes, where: object) -> NDArray[np.uint8]:
    """Decode an image file to (H, W, 3) RGB, the way ``Image.open(path).convert("RGB")`` does.

    Args:
        data: The whole file.
        where: The file's name, for the error.

    Raises:
        ImageError: If the file is empty, truncated, no image, or larger than ``MAX_PIXELS``.
    """
    if not data:
        raise _unreadable(where, "an empty file (0 bytes)")
    if data.startswith(b"\xff\xd8\xff") and _turbo_agrees():
        pixels = _decoded_by_turbo(data)
        if pixels is not None:
            return pixels
    return np.asarray(_decoded_by_pillow(data, where))


def _decoded_by_turbo(data: bytes) -> NDArray[np.uint8] | None:
    """The pixels of a JPEG file that is in order and of the common kind, else None."""
    import simplejpeg

    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data, strict=True)
        if space != "YCbCr" or height * width > MAX_PIXELS:
            return None
        return np.asarray(simplejpeg.decode_jpeg(data, "RGB", strict=True))
    except ValueError:  # truncated or damaged: Pillow says how, or repairs it in its own way
        return None


@once
def _turbo_agrees() -> bool:
    """Whether simplejpeg is there and makes Pillow's very pixels, whatever the subsampling."""
    try:
        import simplejpeg  # noqa: F401
    except ImportError:  # not there, or at odds with this numpy
        return False
    noise = np.random.default_rng(0).integers(0, 256, (45, 77, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(noise).resize((301, 203), Image.Resampling.BICUBIC))
    for pixels, subsampling, progressive in itertools.product((noise, smooth), range(3), (0, 1)):
        file = io.BytesIO()
        how = {"quality": 80, "subsampling": subsampling, "progressive": progressive}
        Image.fromarray(pixels).save(file, "JPEG", **how)
        expected = np.asarray(_decoded_by_pillow(file.getvalue(), "a trial"))
        found = _decoded_by_turbo(file.getvalue())
        if found is None or not np.array_equal(found, expected):
            return False
    return True


def _decoded_by_pillow(data: bytes, where: object) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _rgb(image, where)
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        found = f"{int(pixels[0]):,} pixels" if pixels else "more"
        raise _too_large(where, found) from error
    except UnidentifiedImageError as error:
        raise _unreadable(where, "bytes that are no image") from error
    except Exception as error:  # a decoder given damaged bytes raises whatever it likes
        raise _unreadable(where, strerror(error)) from error


def _rgb(image: Image.Image, where: object) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(where, f"{image.width} x {image.height}")
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        # The same pixels as from P straight to RGB, without Pillow's warning.
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _unreadable(where: object, found: str) -> ImageError:
    remedy = "replace or remove the file, or pass --skip-unreadable"
    return ImageError(where, "an image", found, remedy)


def _too_large(where: object, found: str) -> ImageError:
    expected = f"an image of at most {MAX_PIXELS:,} pixels"
    return ImageError(where, expected, found, "make it smaller, or pass --skip-unreadable")
