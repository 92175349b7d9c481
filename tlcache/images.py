"""An image file's bytes to pixels: RGB, (H, W, 3), uint8, as torchvision's own loader makes them.

Covers no resizing and no normalisation (``transforms``), and, like torchvision, no EXIF rotation.
"""

from __future__ import annotations

import io
import re
import warnings

from PIL import Image, UnidentifiedImageError

from tlcache.errors import ImageError

MAX_PIXELS = 178_956_970
"""Larger images are refused before a pixel is decoded: Pillow's limit for decompression bombs."""

# Between half of MAX_PIXELS and MAX_PIXELS, Pillow decodes and warns; those images are fine here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode(data: bytes, where: object) -> Image.Image:
    """Decode an image file to RGB, the way ``Image.open(path).convert("RGB")`` does.

    Args:
        data: The whole file.
        where: The file's name, for the error.

    Raises:
        ImageError: If the file is empty, truncated, no image, or larger than ``MAX_PIXELS``.
    """
    if not data:
        raise _unreadable(where, "an empty file (0 bytes)")
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(where, f"{image.width} x {image.height}")
            if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
                # The same pixels as from P straight to RGB, without Pillow's warning.
                return image.convert("RGBA").convert("RGB")
            return image.convert("RGB")
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        found = f"{int(pixels[0]):,} pixels" if pixels else "more"
        raise _too_large(where, found) from error
    except UnidentifiedImageError as error:
        raise _unreadable(where, "bytes that are no image") from error
    except Exception as error:  # a decoder given damaged bytes raises whatever it likes
        raise _unreadable(where, str(error) or type(error).__name__) from error


def _unreadable(where: object, found: str) -> ImageError:
    return ImageError(
        where,
        expected="an image",
        found=found,
        remedy="replace or remove the file, or pass --skip-unreadable",
    )


def _too_large(where: object, found: str) -> ImageError:
    return ImageError(
        where,
        expected=f"an image of at most {MAX_PIXELS:,} pixels",
        found=found,
        remedy="make it smaller, or pass --skip-unreadable",
    )
