"""Images to network inputs: RGB pixels to normalised float32 (3, crop, crop).

Two transforms, each a plain value: ``eval`` (resize, centre crop, normalise) and ``train`` (random
resized crop, horizontal flip, normalise). Both make the very numbers of torchvision's transforms on
PIL images. The random numbers of a train view come from the image's digest, the view's number and
the transform, so a view does not depend on order, workers or machine. Needs no torch. Where numba
is installed, only the wanted part of an image is resized (``resampling``), to the same bits.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tlcache.core.errors import ImageError, OptionError
from tlcache.data.images import MAX_PIXELS
from tlcache.data.resampling import can_resample, resampled

INTERPOLATIONS = {
    name: Image.Resampling[name.upper()] for name in ("nearest", "bilinear", "bicubic", "lanczos")
}
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_AS_THEY_ARE = np.tile(np.arange(256, dtype=np.float32), (3, 1))


@dataclasses.dataclass(frozen=True, eq=False)
class Transform:
    """What happens to an image before the trunk sees it. The defaults are the tutorial's.

    Two transforms are equal when their descriptions are: what one does not use does not matter.

    Attributes:
        kind: ``eval`` or ``train``.
        resize: Length of the shorter side before the centre crop, in pixels (eval only).
        crop: Side of the square that the trunk sees, in pixels.
        interpolation: One of ``INTERPOLATIONS``; antialiased, as Pillow always does.
        mean, std: Per RGB channel, of pixel values in [0, 1].
        scale, ratio: Bounds of a random crop's share of the area, and of its width / height
            (train only).
        hflip: Probability of a horizontal flip (train only).

    Raises:
        OptionError: If a value makes no sense.
    """

    kind: Literal["eval", "train"] = "eval"
    resize: int = 256
    crop: int = 224
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5

    def __post_init__(self) -> None:
        _check(self.kind in ("eval", "train"), "kind", "eval or train", self.kind)
        known = " or ".join(INTERPOLATIONS)
        _check(self.interpolation in INTERPOLATIONS, "interpolation", known, self.interpolation)
        for name, side in (("crop", self.crop), ("resize", self.resize)):
            _check(isinstance(side, int) and 1 <= side <= 4096, name, "1 to 4096 pixels", side)
        _check(_finite(self.mean, 3), "mean", "three numbers", self.mean)
        _check(_finite(self.std, 3) and min(self.std) > 0, "std", "three numbers over 0", self.std)
        shares = _rising(self.scale) and self.scale[1] <= 1
        _check(shares, "scale", "0 < low <= high <= 1", self.scale)
        _check(_rising(self.ratio), "ratio", "0 < low <= high", self.ratio)
        _check(0 <= self.hflip <= 1, "hflip", "a probability", self.hflip)
        # 1 and 1.0 are one transform, so they are described alike.
        for name in ("mean", "std", "scale", "ratio"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        object.__setattr__(self, "hflip", float(self.hflip))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Transform) and self.describe() == other.describe()

    def __hash__(self) -> int:
        return hash(json.dumps(self.describe(), sort_keys=True))

    def as_train(self) -> Transform:
        """The augmenting transform for the same network: same crop, interpolation, mean and std."""
        return dataclasses.replace(self, kind="train")

    def as_eval(self) -> Transform:
        """The deterministic transform for the same network."""
        return dataclasses.replace(self, kind="eval")

    def describe(self) -> dict[str, Any]:
        """Everything the pixels depend on, as plain JSON values; nothing they do not depend on."""
        skip = ("scale", "ratio", "hflip") if self.kind == "eval" else ("resize",)
        values = {k: v for k, v in dataclasses.asdict(self).items() if k not in skip}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def in_words(self) -> str:
        """What happens to a plain image, in a line for people."""
        mean, std = (" ".join(f"{part:g}" for part in of) for of in (self.mean, self.std))
        sides = f"resize {self.resize}, crop {self.crop}, {self.interpolation}"
        return f"{sides}, mean {mean}, std {std}"

    @classmethod
    def from_description(cls, values: dict[str, Any]) -> Transform:
        """The inverse of :meth:`describe`.

        Raises:
            OptionError: If ``values`` does not describe a transform, neither more nor less.
        """
        try:
            fields: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
            }
            transform = cls(**fields)
            if amiss := sorted(transform.describe().keys() ^ values.keys()):
                raise TypeError(f"{', '.join(amiss)} missing, or where it does not belong")
        except (TypeError, AttributeError) as error:
            expected = "the values of a transform"
            remedy = "the file was written by another version; make it again"
            raise OptionError("transform", expected, str(error), remedy) from error
        return transform


def apply(
    pixels: NDArray[np.uint8], transform: Transform, digest: bytes = b"", view: int = 0
) -> NDArray[np.float32]:
    """One view of an image, as float32 (3, crop, crop); channels last in memory.

    Args:
        pixels: (H, W, 3), RGB.
        digest: SHA-256 of the image file's bytes (32 bytes); a train view is seeded by it and
            needs it, an eval view does not.
        view: Number of the view, from 0; the eval transform has only view 0.

    Raises:
        ImageError: If the image is so thin that resizing would blow it up.
    """
    return _view(pixels, transform, normalisation(transform), digest, view).transpose(2, 0, 1)


def cropped(
    pixels: NDArray[np.uint8], transform: Transform, digest: bytes = b"", view: int = 0
) -> NDArray[np.uint8]:
    """As :func:`apply`, but not normalised: (crop, crop, 3), to be normalised where it goes."""
    return _view(pixels, transform, _AS_THEY_ARE, digest, view).astype(np.uint8)


def normalisation(transform: Transform) -> NDArray[np.float32]:
    """(3, 256): what each 8-bit value of each channel becomes, by torchvision's operations."""
    return _table(transform.mean, transform.std)


def _view(
    pixels: NDArray[np.uint8], t: Transform, table: NDArray[np.float32], digest: bytes, view: int
) -> NDArray[np.float32]:
    """(crop, crop, 3), each channel's values looked up in the (3, 256) table."""
    if t.kind == "eval":
        return _eval_view(pixels, t, table)
    _check(len(digest) == 32, "digest", "32 bytes of SHA-256", f"{len(digest)} bytes")
    numbers = _uniform(digest, view, t)
    left, top, width, height = _random_box(pixels.shape[1], pixels.shape[0], t, numbers)
    box = pixels[top : top + height, left : left + width]
    made = _resized(box, (t.crop, t.crop), (0, 0), t, table)
    return np.ascontiguousarray(made[:, ::-1]) if next(numbers) < t.hflip else made


def _eval_view(
    pixels: NDArray[np.uint8], t: Transform, table: NDArray[np.float32]
) -> NDArray[np.float32]:
    height, width = pixels.shape[:2]
    stretched = int(t.resize * max(width, height) / min(width, height))
    size = (t.resize, stretched) if width <= height else (stretched, t.resize)
    if size[0] * size[1] > MAX_PIXELS:
        expected = f"a shape that resizes to at most {MAX_PIXELS:,} pixels"
        remedy = "crop it, or pass --skip-unreadable"
        raise ImageError(f"image of {width} x {height}", expected, f"{size[0]} x {size[1]}", remedy)
    return _resized(pixels, size, (_centre(size[0], t.crop), _centre(size[1], t.crop)), t, table)


def _resized(
    pixels: NDArray[np.uint8],
    size: tuple[int, int],
    corner: tuple[int, int],
    t: Transform,
    table: NDArray[np.float32],
) -> NDArray[np.float32]:
    """The crop at (left, top) of the image resized to (width, height): (crop, crop, 3)."""
    left, top = corner
    source = pixels.shape[1], pixels.shape[0]
    if min(left, top) >= 0 and can_resample(source, size, t.interpolation):
        return resampled(pixels, size, corner, table, t.interpolation, t.crop)
    image = Image.fromarray(pixels)
    if size != image.size:
        image = image.resize(size, INTERPOLATIONS[t.interpolation])
    # Beyond the image's edge, PIL's crop fills with black: torchvision's zero padding.
    cropped = np.asarray(image.crop((left, top, left + t.crop, top + t.crop)))
    view = np.empty(cropped.shape, np.float32)
    for channel, values in enumerate(table):
        view[..., channel] = values[cropped[..., channel]]
    return view


def _centre(length: int, crop: int) -> int:
    """Where a centred crop begins; torchvision rounds a margin one way and padding the other."""
    return round((length - crop) / 2.0) if length >= crop else -((crop - length) // 2)


def _random_box(
    width: int, height: int, t: Transform, numbers: Iterator[float]
) -> tuple[int, int, int, int]:
    """Left, top, width, height of a random resized crop (Szegedy et al. 2015), as torchvision's."""
    log_low, log_high = math.log(t.ratio[0]), math.log(t.ratio[1])
    for _ in range(10):
        area = width * height * (t.scale[0] + (t.scale[1] - t.scale[0]) * next(numbers))
        ratio = math.exp(log_low + (log_high - log_low) * next(numbers))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(next(numbers) * (height - h + 1))
            return int(next(numbers) * (width - w + 1)), top, w, h
    if width / height < t.ratio[0]:
        w, h = width, min(height, round(width / t.ratio[0]))
    elif width / height > t.ratio[1]:
        w, h = min(width, round(height * t.ratio[1])), height
    else:
        w, h = width, height
    return (width - w) // 2, (height - h) // 2, max(w, 1), max(h, 1)


def _uniform(digest: bytes, view: int, t: Transform) -> Iterator[float]:
    """Endless numbers in [0, 1): 53 bits each of SHA-256(digest | view | transform | counter)."""
    seed = hashlib.sha256(digest + view.to_bytes(8, "little"))
    seed.update(json.dumps(t.describe(), sort_keys=True).encode())
    counter = 0
    while True:
        block = hashlib.sha256(seed.digest() + counter.to_bytes(8, "little")).digest()
        for start in range(0, 32, 8):
            yield (int.from_bytes(block[start : start + 8], "little") >> 11) * 2.0**-53
        counter += 1


@functools.lru_cache(maxsize=16)
def _table(mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    values = np.arange(256, dtype=np.float32) / np.float32(255)
    return (values - np.asarray(mean, np.float32)[:, None]) / np.asarray(std, np.float32)[:, None]


def _check(good: bool, name: str, expected: str, found: object) -> None:
    if not good:
        remedy = "correct it, or leave it out for the default"
        raise OptionError(f"transform {name}", expected, str(found), remedy)


def _finite(values: tuple[float, ...], count: int) -> bool:
    return len(values) == count and all(math.isfinite(v) for v in values)


def _rising(pair: tuple[float, float]) -> bool:
    return _finite(pair, 2) and 0 < pair[0] <= pair[1]
