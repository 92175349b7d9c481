"""Compiled resampling makes Pillow's bits, or is not used."""

from __future__ import annotations

import concurrent.futures
import importlib.util
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms as tv

import tlcache
import tlcache.data.resampling
import tlcache.data.transforms
from tlcache.data.resampling import can_resample, resampled
from tlcache.data.transforms import Transform, apply

needs_numba = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="needs the optional package numba"
)
TABLE = np.arange(3 * 256, dtype=np.float32).reshape(3, 256)  # no two entries alike
CODES = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
FILTERS = tuple(CODES)


def whole(pixels: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """The image resized by Pillow, its values looked up: (height, width, 3)."""
    resized = np.asarray(Image.fromarray(pixels).resize(size, CODES[interpolation]))
    return TABLE[np.arange(3), resized]


def differ(
    pixels: np.ndarray, size: tuple[int, int], corner: tuple[int, int], side: int, by: str
) -> int:
    """How many of the numbers in a square are not those of Pillow."""
    left, top = corner
    expected = whole(pixels, size, by)[top : top + side, left : left + side]
    assert expected.shape == (side, side, 3)
    return int((resampled(pixels, size, corner, TABLE, by, side) != expected).sum())


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def extremes(height: int, width: int) -> np.ndarray:
    """Black and white at random: the largest sums that bicubic's negative weights can make."""
    return noise(height, width) // 128 * np.uint8(255)


@needs_numba
@pytest.mark.parametrize("by", FILTERS)
def test_any_square_of_any_shape_is_pillows(by: str) -> None:
    random, tried = np.random.default_rng(1), 0
    for case in range(600):
        largest = (6, 60, 200)[case % 3]
        width, height, *size = (int(n) for n in random.integers(1, largest, 4))
        if not can_resample((width, height), (size[0], size[1]), by):
            continue
        side = int(random.integers(1, min(size) + 1))
        corner = tuple(int(random.integers(0, length - side + 1)) for length in size)
        pixels = (noise, extremes)[case % 2](height, width)
        where = f"{width} x {height} to {size}, {side} at {corner}"
        assert differ(pixels, (size[0], size[1]), (corner[0], corner[1]), side, by) == 0, where
        tried += 1
    assert tried > 300


@needs_numba
@pytest.mark.parametrize("by", FILTERS)
@pytest.mark.parametrize(
    ("width", "height", "size", "corner", "side"),
    [
        (4000, 3000, (341, 256), (58, 16), 224),
        (3000, 4000, (2250, 3000), (1125, 1400), 64),
        (1, 1, (40, 40), (0, 0), 40),
        (1, 300, (1, 300), (0, 150), 1),
        (300, 1, (20, 20), (0, 0), 20),
        (1, 20, (64, 64), (0, 0), 64),
        (4000, 2, (64, 64), (0, 0), 64),
        (2, 40, (3, 2000), (0, 1997), 3),
        (5000, 7, (9000, 12), (8988, 0), 12),
        (257, 255, (256, 256), (0, 0), 256),
        (64, 64, (64, 64), (0, 0), 64),
        (64, 50, (64, 99), (0, 35), 64),
        (50, 64, (99, 64), (35, 0), 64),
    ],
)
def test_extreme_shapes_are_pillows(
    width: int, height: int, size: tuple[int, int], corner: tuple[int, int], side: int, by: str
) -> None:
    assert can_resample((width, height), size, by)
    for pixels in (noise(height, width), extremes(height, width)):
        assert differ(pixels, size, corner, side, by) == 0


@needs_numba
@pytest.mark.parametrize("by", FILTERS)
def test_pixels_may_lie_in_memory_as_they_like(by: str) -> None:
    pixels = noise(90, 120)
    kept, read_only = pixels.copy(), pixels[:]
    read_only.flags.writeable = False
    for seen in (
        pixels[7:77, 11:100],
        pixels[:, ::-1],
        pixels[::2, ::3],
        pixels[..., ::-1],
        pixels.transpose(1, 0, 2)[:80],
        np.asfortranarray(pixels),
        read_only,
    ):
        assert can_resample((seen.shape[1], seen.shape[0]), (30, 30), by)
        assert differ(seen, (30, 30), (3, 2), 25, by) == 0
    np.testing.assert_array_equal(pixels, kept)


def by_torchvision(pixels: np.ndarray, t: Transform) -> np.ndarray:
    """(3, crop, crop) of the eval transform."""
    mode = tv.InterpolationMode(t.interpolation)
    steps = [tv.Resize(t.resize, mode), tv.CenterCrop(t.crop), tv.ToTensor()]
    view: np.ndarray = tv.Compose([*steps, tv.Normalize(t.mean, t.std)])(
        Image.fromarray(pixels)
    ).numpy()
    return view


APPLIED: dict[str, tuple[int, int, dict[str, Any]]] = {
    "lanczos": (90, 120, {"interpolation": "lanczos"}),
    "nearest": (90, 120, {"interpolation": "nearest"}),
    "padding": (90, 120, {"crop": 70}),
    "padding on two sides": (90, 220, {"crop": 61}),
    "bilinear": (90, 120, {}),
    "bicubic": (120, 90, {"interpolation": "bicubic"}),
    "much higher than wide": (900, 60, {}),
    "much wider than high": (60, 900, {}),
}


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("name", APPLIED)
def test_a_view_is_torchvisions_whoever_resamples(
    name: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    height, width, changes = APPLIED[name]
    if not compiled:
        monkeypatch.setattr(tlcache.data.transforms, "can_resample", lambda *_: False)
    transform = Transform(**({"resize": 50, "crop": 44} | changes))
    pixels = noise(height, width)
    np.testing.assert_array_equal(apply(pixels, transform), by_torchvision(pixels, transform))


@needs_numba
def test_what_pillow_does_in_another_order_is_left_to_it() -> None:
    assert not can_resample((90, 120), (45, 60), "lanczos")
    assert not can_resample((90, 120), (45, 60), "nearest")
    assert can_resample((90, 120), (80, 100), "bilinear")
    assert not can_resample((90, 121), (80, 100), "bilinear")


@needs_numba
def test_a_train_view_is_the_same_whoever_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, transform = noise(150, 220), Transform(crop=40, interpolation="bicubic").as_train()
    ours = [apply(pixels, transform, bytes(32), view) for view in range(40)]
    monkeypatch.setattr(tlcache.data.transforms, "can_resample", lambda *_: False)
    for view, seen in enumerate(ours):
        np.testing.assert_array_equal(seen, apply(pixels, transform, bytes(32), view))


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Nobody knows yet whether numba is there and agrees with Pillow; nor afterwards."""
    caches = tlcache.data.resampling._agrees_with_pillow, tlcache.data.resampling._kernel
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@needs_numba
def test_a_pillow_that_rounds_otherwise_is_left_to_itself(
    forgotten: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    resize = Image.Image.resize

    def brighter(image: Image.Image, *arguments: Any) -> Image.Image:
        pixels = np.array(resize(image, *arguments))
        pixels[20, 20, 1] ^= 1
        return Image.fromarray(pixels)

    assert can_resample((9, 9), (8, 8), "bilinear")
    tlcache.data.resampling._agrees_with_pillow.cache_clear()
    monkeypatch.setattr(Image.Image, "resize", brighter)
    assert not can_resample((9, 9), (8, 8), "bilinear")


def test_without_numba_pillow_does_it(forgotten: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    assert not can_resample((9, 9), (8, 8), "bilinear")
    pixels, transform = noise(90, 120), Transform(resize=50, crop=44)
    np.testing.assert_array_equal(apply(pixels, transform), by_torchvision(pixels, transform))


@needs_numba
def test_threads_make_the_same_from_the_start(forgotten: None) -> None:
    pixels, transform = noise(150, 220), Transform(resize=60, crop=50)
    expected = by_torchvision(pixels, transform)
    train = transform.as_train()

    def work(view: int) -> tuple[np.ndarray, np.ndarray]:
        return apply(pixels, transform), apply(pixels, train, bytes(32), view)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        made = list(pool.map(work, range(40)))
    for view, (one, other) in enumerate(made):
        np.testing.assert_array_equal(one, expected)
        np.testing.assert_array_equal(other, apply(pixels, train, bytes(32), view))
