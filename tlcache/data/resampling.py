"""Pillow's resampling of the part of an image that is wanted, compiled: the same bits in less time.

Pillow resizes a whole image and crops it afterwards. Here only the crop is made: the same two
passes, horizontal then vertical, with Pillow's own fixed-point weights, and the normalisation
looked up at the end. Needs the optional package numba; ``transforms`` does without where it is not
installed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tlcache.core.machine import once

_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}  # how far each filter reaches, in source pixels
_BITS = 22  # of the fraction of Pillow's 8-bit resampling: 32 - 8 - 2

_Taps = tuple[NDArray[np.int32], NDArray[np.int32]]  # where each pixel's sources begin; weights


def can_resample(source: tuple[int, int], target: tuple[int, int], interpolation: str) -> bool:
    """Whether :func:`resampled` is there, and makes Pillow's bits of an image of this shape.

    Args:
        source, target: (width, height) before and after.
    """
    # Where an image loses more than twice as much height as width, Pillow 13 takes the vertical
    # pass first, and rounds otherwise. What is left is horizontal first in every Pillow.
    lost_width, lost_height = source[0] - target[0], source[1] - target[1]
    horizontal_first = lost_height <= 0 or lost_height <= 2 * lost_width
    return interpolation in _SUPPORT and horizontal_first and _agrees_with_pillow()


@once
def _agrees_with_pillow() -> bool:
    """Whether numba is there, and makes of a few shapes what this Pillow makes of them."""
    try:
        _kernel()
    except ImportError:  # not there, or at odds with this numpy
        return False
    table = np.tile(np.arange(256, dtype=np.float32), (3, 1))
    random = np.random.default_rng(0)
    codes = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    for height, width, target_height, target_width in ((90, 120, 33, 44), (31, 40, 62, 60)):
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        size = (target_width, target_height)
        for name, code in codes.items():
            expected = np.asarray(Image.fromarray(pixels).resize(size, code))[2:32, 3:33]
            if not np.array_equal(resampled(pixels, size, (3, 2), table, name, 30), expected):
                return False
    return True


def resampled(
    pixels: NDArray[np.uint8],
    size: tuple[int, int],
    corner: tuple[int, int],
    table: NDArray[np.float32],
    interpolation: str,
    side: int,
) -> NDArray[np.float32]:
    """A square out of a resized image.

    Args:
        pixels: (H, W, 3).
        size: (width, height) that the whole image would be resized to.
        corner: (left, top) of the square in the resized image.
        table: (3, 256): what becomes of each channel's values.
        interpolation: ``bilinear`` or ``bicubic``.
        side: Of the square, which lies inside the resized image.

    Returns:
        (side, side, 3).
    """
    across = _taps(pixels.shape[1], size[0], corner[0], side, interpolation)
    down = _taps(pixels.shape[0], size[1], corner[1], side, interpolation)
    out = np.empty((side, side, 3), np.float32)
    _kernel()(pixels, *across, *down, table, out)
    return out


@functools.lru_cache(maxsize=256)
def _taps(source: int, target: int, first: int, count: int, interpolation: str) -> _Taps:
    """Sources of ``count`` pixels of ``target``, by the arithmetic of Pillow's own resampling."""
    scale = source / target
    stretch = max(scale, 1.0)
    support = _SUPPORT[interpolation] * stretch
    centres = (first + np.arange(count) + 0.5) * scale
    starts = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    ends = np.minimum((centres + support + 0.5).astype(np.int64), source)
    x = starts[:, None] + np.arange((ends - starts).max())
    values = _FILTERS[interpolation]((x - centres[:, None] + 0.5) * (1.0 / stretch))
    values[x >= ends[:, None]] = 0
    totals = values.cumsum(axis=1)[:, -1:]  # one by one: sum() rounds otherwise
    exact = np.divide(values, totals, out=values, where=totals != 0)
    weights = (np.copysign(0.5, exact) + exact * (1 << _BITS)).astype(np.int32)
    used = int(np.flatnonzero(weights.any(axis=0)).max()) + 1
    return starts.astype(np.int32), np.ascontiguousarray(weights[:, :used])


def _bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:  # a = -0.5, in Pillow's order
    x = np.abs(x)
    near = ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


_FILTERS = {"bilinear": _bilinear, "bicubic": _bicubic}


@once
def _kernel() -> Callable[..., None]:
    """Compiled for any layout of the pixels at once."""
    import numba
    from numba import types

    pixels = types.Array(types.uint8, 3, "A", readonly=True)
    taps = types.int32[::1], types.int32[:, ::1]
    table, out = types.Array(types.float32, 2, "C", readonly=True), types.float32[:, :, ::1]
    jit = functools.partial(numba.njit, types.void(pixels, *taps, *taps, table, out), nogil=True)
    compiled: Callable[..., None]
    try:
        compiled = jit(cache=True)(_resample)
    except Exception:  # no folder to keep it in, a full disk, a damaged file there
        compiled = jit()(_resample)
    return compiled


def _resample(  # type: ignore[no-untyped-def]
    pixels, x_starts, x_weights, y_starts, y_weights, table, out
):
    """Pillow's two passes over the rows and columns that ``out`` needs; numba compiles it."""
    first = y_starts[0]
    rows = min(y_starts[-1] + y_weights.shape[1], pixels.shape[0]) - first
    columns, taps = x_weights.shape
    band = np.empty((rows, columns * 3), np.uint8)
    half = np.int32(1 << (_BITS - 1))
    for y in range(rows):
        row, line = pixels[first + y], band[y]
        for x in range(columns):
            start = x_starts[x]
            red, green, blue = half, half, half
            for j in range(min(taps, len(row) - start)):
                weight = x_weights[x, j]
                red += np.int32(row[start + j, 0]) * weight
                green += np.int32(row[start + j, 1]) * weight
                blue += np.int32(row[start + j, 2]) * weight
            line[3 * x] = min(max(red >> _BITS, 0), 255)
            line[3 * x + 1] = min(max(green >> _BITS, 0), 255)
            line[3 * x + 2] = min(max(blue >> _BITS, 0), 255)
    sums = np.empty(columns * 3, np.int32)
    for y in range(len(y_starts)):
        sums[:] = half
        start = y_starts[y] - first
        for j in range(min(y_weights.shape[1], rows - start)):
            line, weight = band[start + j], y_weights[y, j]
            for x in range(columns * 3):
                sums[x] += np.int32(line[x]) * weight
        for x in range(columns):
            for c in range(3):
                out[y, x, c] = table[c, min(max(sums[3 * x + c] >> _BITS, 0), 255)]
