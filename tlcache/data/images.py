"""An image file's bytes to pixels: RGB, (H, W, 3), uint8, as torchvision's own loader makes them.

That is by Pillow. Where simplejpeg is installed, plain JPEG files go straight to libjpeg-turbo, to
the same bits: anything out of the ordinary goes to Pillow, and so does everything if the two do not
agree. Greys of 16 bits are scaled to 8, as Pillow itself scales colours of 16 bits. Covers no
resizing and no normalisation (``transforms``), and, like torchvision, no EXIF rotation.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import os
import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from tlcache.core.errors import ImageError, InputError, strerror
from tlcache.core.machine import once

MAX_PIXELS = 178_956_970
"""Larger images are refused before a pixel is decoded: Pillow's limit for decompression bombs."""

MAY_BE_DEEP = (".png", ".apng", ".tif", ".tiff", ".ppm", ".pgm", ".pnm", ".jp2", ".j2k", ".jpx")
"""How files end whose greys may have more than 8 bits."""
# What is read, the common ones first: no format for which Pillow starts a program (EPS), that a
# plugin of another library adds, or that has no signature (TGA).
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000", "DIB")
_DEEP_SIGNS = (b"II", b"MM", b"P2", b"P5", b"Pf", b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51")

T = TypeVar("T")

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
        image = self.image
        if not isinstance(image, Image.Image):
            pixels = image
        else:
            try:
                pixels = undisturbed(lambda: np.asarray(_rgb(image, self.name)))
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


_SAMPLINGS = ("444", "422", "420")  # that the trial below tries, and almost all files have


def _decoded_by_turbo(data: bytes) -> NDArray[np.uint8] | None:
    """The pixels of a JPEG file that is in order and of the common kind, else None."""
    import simplejpeg

    try:
        height, width, space, sampling = simplejpeg.decode_jpeg_header(data, strict=True)
        if space != "YCbCr" or sampling not in _SAMPLINGS or height * width > MAX_PIXELS:
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
        whole = file.getvalue()
        # Without its last refinement too: what then is smoothed over is the decoder's own choice.
        for data in (whole, whole[: whole.rfind(b"\xff\xda")] + b"\xff\xd9")[: 1 + progressive]:
            expected = np.asarray(_decoded_by_pillow(data, "a trial"))
            found = _decoded_by_turbo(data)
            if found is None or not np.array_equal(found, expected):
                return False
    return True


def _decoded_by_pillow(data: bytes, where: object) -> Image.Image:
    def make() -> Image.Image:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            return _rgb(image, where)

    try:
        return undisturbed(make)
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        found = f"{int(pixels[0]):,} pixels" if pixels else "more"
        raise _too_large(where, found) from error
    except UnidentifiedImageError as error:
        # A phone's HEIC under another name, say.
        kind = ascii(data[8:12].decode("latin-1"))[1:-1] if data[4:8] == b"ftyp" else ""
        found = f"{kind}, which this Pillow does not read" if kind else "bytes that are no image"
        raise _unreadable(where, found) from error
    except Exception as error:  # a decoder given damaged bytes raises whatever it likes
        raise _unreadable(where, strerror(error)) from error


def _rgb(image: Image.Image, where: object) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(where, f"{image.width} x {image.height}")
    if bits := deep_bits(image, where):
        values = np.asarray(image.convert("I")) >> (bits - 8)
        return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        # The same pixels as from P straight to RGB, without Pillow's warning.
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def open_header(file: BinaryIO | Path) -> Image.Image:
    """An image of which no pixel is decoded yet."""
    return undisturbed(lambda: Image.open(file, formats=_formats()))


@once
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)  # AVIF since Pillow 11.3


def deep_bits(image: Image.Image, where: object) -> int:
    """How many bits a grey has, if that is more than 8 and its range is known; else 0.

    Raises:
        ImageError: If numbers stand for greys of which nobody says what is white.
    """
    if image.mode.startswith("I;16"):
        return int(getattr(image, "tag_v2", {}).get(258, (16,))[0])  # a TIFF may say 12
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        return 16
    if image.mode in ("I", "F"):
        expected, found = "an image of 8 or 16 bits", f"numbers without a range ({image.mode})"
        remedy = "save it with 8 or 16 bits, or pass --skip-unreadable"
        raise ImageError(where, expected, found, remedy)
    return 0


def is_deep(file: BinaryIO) -> bool:
    """Whether an image file has greys of more than 8 bits, by its header."""
    file.seek(0)
    head = file.read(26)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return head[24:] == b"\x10\0"  # 16 bits, grey
    if not head.startswith(_DEEP_SIGNS):
        return False
    try:
        return open_header(file).mode.startswith(("I", "F"))
    except Exception:  # no image after all, which whoever decodes it says
        return False


def image_digest(file: BinaryIO) -> bytes:
    """What names an image file in a cache, 32 bytes: SHA-256 of its bytes.

    Of greys of more than 8 bits each bit of it is inverted: rows of the other name are of a time
    when such images were clipped to 255.
    """
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").digest()  # type: ignore[arg-type]
    return bytes(255 - byte for byte in digest) if is_deep(file) else digest


_switches = threading.Lock()
_threads: list[int] = []  # that are in ``undisturbed``
_theirs: dict[str, Any] = {}
_STRICT: Any = ()  # falsy, and no one else's: it can be seen whether it is still there
_WARNED_OF = MAX_PIXELS // 2  # Pillow refuses what has twice as many pixels


def undisturbed(make: Callable[[], T]) -> T:
    """What ``make`` makes by Pillow's own switches, whatever another library has set them to.

    They are the process's: ``LOAD_TRUNCATED_IMAGES`` makes up what a file lacks, and a lower
    ``MAX_IMAGE_PIXELS`` refuses images. What is set otherwise is put back when the last thread is
    done; if it is set in the meantime, ``make`` is called again.
    """
    thread = threading.get_ident()
    with _switches:
        _threads.append(thread)
        _switch()
    try:
        while True:
            try:
                made = make()
            except Exception:
                with _switches:
                    if not _switch():
                        raise
            else:
                with _switches:
                    if not _switch():
                        return made
    finally:
        with _switches:
            _threads.remove(thread)
            if not _threads:
                _switch_back()


def _switch() -> bool:
    """Set what others have set otherwise; whether there was anything."""
    disturbed = False
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        disturbed, _theirs["truncated"] = True, ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = _STRICT
    if Image.MAX_IMAGE_PIXELS is not None and Image.MAX_IMAGE_PIXELS < _WARNED_OF:
        disturbed, _theirs["most"] = True, Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = _WARNED_OF
    return disturbed


def _switch_back() -> None:
    if ImageFile.LOAD_TRUNCATED_IMAGES is _STRICT:
        ImageFile.LOAD_TRUNCATED_IMAGES = _theirs.pop("truncated")
    if "most" in _theirs and Image.MAX_IMAGE_PIXELS is _WARNED_OF:
        Image.MAX_IMAGE_PIXELS = _theirs["most"]
    _theirs.clear()


def _unreadable(where: object, found: str) -> ImageError:
    remedy = "replace or remove the file, or pass --skip-unreadable"
    return ImageError(where, "an image", found, remedy)


def _too_large(where: object, found: str) -> ImageError:
    expected = f"an image of at most {MAX_PIXELS:,} pixels"
    return ImageError(where, expected, found, "make it smaller, or pass --skip-unreadable")
