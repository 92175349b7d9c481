"""What image files say of themselves in their headers; no pixel is decoded.

Sizes, and what loading does that may surprise: it takes the first of several frames, leaves a
photo as it is stored whatever its EXIF rotation, drops transparency, and keeps 8 bits of 16.
Whether the pixels can be read is told by ``images``.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import stat
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from tlcache.core.errors import strerror
from tlcache.data import images  # which also quiets Pillow's warning of large images

# Of a damaged header Pillow also warns, in lines of its own; what matters is in the reason.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")
logging.getLogger("PIL").addHandler(logging.NullHandler())

_FILES_AT_ONCE = 256
_ORIENTATION = 0x0112
_SEVERAL_BY_DESIGN = {"MPO"}  # a phone's JPEG with a second picture for depth or preview


class Header(NamedTuple):
    """Of one image file.

    Attributes:
        width, height: In pixels; 0 where there is no header.
        odd: What loading does that may surprise, in words; none for most files.
        reason: Why there is no header; empty where there is one.
    """

    width: int
    height: int
    odd: tuple[str, ...] = ()
    reason: str = ""


def read_header(path: Path) -> Header:
    """The header of an image file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # to open a pipe would wait for ever
            return Header(0, 0, reason="it is no regular file")
        with images.open_header(path) as image:
            if image.width * image.height > images.MAX_PIXELS:
                return Header(0, 0, reason=f"more than {images.MAX_PIXELS:,} pixels")
            return Header(image.width, image.height, tuple(_odd(image, path)))
    except UnidentifiedImageError:
        empty = path.stat().st_size == 0
        return Header(0, 0, reason="an empty file (0 bytes)" if empty else "no image")
    except Exception as error:  # a parser given damaged bytes raises whatever it likes
        return Header(0, 0, reason=strerror(error))


def read_headers(paths: Sequence[Path]) -> Iterator[Header]:
    """The headers of image files, in their order; a few are read at once."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), _FILES_AT_ONCE):
            yield from pool.map(read_header, paths[start : start + _FILES_AT_ONCE])


def _odd(image: Image.Image, path: Path) -> Iterator[str]:
    frames = 1
    with contextlib.suppress(Exception):  # a damaged later frame does not keep the first from us
        frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in _SEVERAL_BY_DESIGN:
        yield f"{frames} frames, of which the first is used"
    orientation = _orientation(image)
    if orientation not in (0, 1):
        yield f"EXIF orientation {orientation}, which is not applied"
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        yield "transparency, which is dropped"
    if bits := images.deep_bits(image, path):
        yield f"greys of {bits} bits, of which the upper 8 are used"


def _orientation(image: Image.Image) -> int:
    exif, data = Image.Exif(), image.info.get("exif")
    if isinstance(data, bytes):
        with contextlib.suppress(Exception):  # damaged metadata does not keep pixels from loading
            exif.load(data)
            return int(exif.get(_ORIENTATION, 1))
    return 1
