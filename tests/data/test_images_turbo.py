"""JPEG files by simplejpeg: the very pixels and errors of Pillow, or none of its business."""

from __future__ import annotations

import importlib.util
import io
import struct
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tlcache.data.images
from tlcache.core.errors import ImageError
from tlcache.data.images import MAX_PIXELS, decode

needs_simplejpeg = pytest.mark.skipif(
    importlib.util.find_spec("simplejpeg") is None, reason="needs the optional package simplejpeg"
)
ALONE, TOGETHER = True, False  # simplejpeg decodes it alone, or Pillow is asked as well


def picture(width: int = 67, height: int = 45, seed: int = 0) -> Image.Image:
    """Smooth colours under noise, so that the chroma's own sampling shows."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (9, 11, 3), np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noisy = smooth + random.integers(-20, 21, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image | None = None, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    (image or picture()).save(file, kind, **options)
    return file.getvalue()


def by_simplejpeg(subsampling: str, **options: Any) -> bytes:
    import simplejpeg

    data: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(picture()), colorsubsampling=subsampling, **options
    )
    return data


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def without(data: bytes, marker: int) -> bytes:
    """The file less its first segment of a kind."""
    at = data.index(bytes([0xFF, marker]))
    (length,) = struct.unpack(">H", data[at + 2 : at + 4])
    return data[:at] + data[at + 2 + length :]


def sized(data: bytes, width: int, height: int) -> bytes:
    """The file with another size in its header."""
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def as_ycck() -> bytes:
    data = bytearray(jpeg(picture().convert("CMYK")))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def as_rgb_by_its_letters() -> bytes:
    """No marker says what the channels are: their ids do."""
    data = bytearray(without(jpeg(subsampling=0), 0xE0))
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    for channel, letter in enumerate(b"RGB"):
        data[frame + 10 + 3 * channel] = data[scan + 5 + 2 * channel] = letter
    return bytes(data)


KINDS: dict[str, tuple[Callable[[], bytes], bool]] = {
    "4:4:4": (lambda: jpeg(subsampling=0), ALONE),
    "4:2:2": (lambda: jpeg(subsampling=1), ALONE),
    "4:2:0": (lambda: jpeg(subsampling=2), ALONE),
    "4:1:1": (lambda: by_simplejpeg("411"), TOGETHER),
    "4:4:0": (lambda: by_simplejpeg("440"), TOGETHER),
    "progressive": (lambda: jpeg(progressive=True), ALONE),
    "restart markers": (lambda: jpeg(restart_marker_blocks=3), ALONE),
    "its own Huffman tables": (lambda: jpeg(optimize=True), ALONE),
    "the lowest quality": (lambda: jpeg(quality=1), ALONE),
    "the highest quality": (lambda: jpeg(quality=100), ALONE),
    "turned by EXIF": (lambda: jpeg(exif=turned()), ALONE),
    "a colour profile": (lambda: jpeg(icc_profile=bytes(range(256)) * 300), ALONE),
    "a comment": (lambda: jpeg(comment=b"\xff\xd9 no end"), ALONE),
    "no JFIF marker": (lambda: without(jpeg(), 0xE0), ALONE),
    "several pictures": (
        lambda: jpeg(kind="MPO", save_all=True, append_images=[picture(seed=1)]),
        ALONE,
    ),
    "garbage behind its end": (lambda: jpeg() + b"\xff\xd8\xff garbage" * 9, ALONE),
    "grey": (lambda: jpeg(picture().convert("L")), TOGETHER),
    "CMYK": (lambda: jpeg(picture().convert("CMYK")), TOGETHER),
    "YCCK": (as_ycck, TOGETHER),
    "RGB": (lambda: jpeg(keep_rgb=True), TOGETHER),
    "RGB by its letters": (as_rgb_by_its_letters, TOGETHER),
    "truncated": (lambda: jpeg()[:-200], TOGETHER),
    "truncated by its last byte": (lambda: jpeg()[:-1], TOGETHER),
    "truncated in its header": (lambda: jpeg()[:300], TOGETHER),
    "three bytes": (lambda: jpeg()[:3], TOGETHER),
    "more rows than it has": (lambda: sized(jpeg(), 67, 80), TOGETHER),
}


def outcome(make: Callable[[], Any]) -> tuple[Any, ...]:
    """(shape, bytes) of pixels, or the words of an error."""
    try:
        pixels = np.asarray(make())
    except ImageError as error:
        return error.expected, error.found, error.remedy
    return pixels.shape, pixels.tobytes()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Files that Pillow was asked for."""
    if importlib.util.find_spec("simplejpeg") is not None:
        assert tlcache.data.images._turbo_agrees()
    files: list[bytes] = []
    by_pillow = tlcache.data.images._decoded_by_pillow

    def spied(data: bytes, where: object) -> Image.Image:
        files.append(data)
        return by_pillow(data, where)

    monkeypatch.setattr(tlcache.data.images, "_decoded_by_pillow", spied)
    return files


@needs_simplejpeg
@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_jpeg_is_pillows(name: str, asked: list[bytes]) -> None:
    make, alone = KINDS[name]
    data = make()
    ours = outcome(lambda: decode(data, "x.jpg"))
    assert asked == ([] if alone else [data])
    assert ours == outcome(lambda: tlcache.data.images._decoded_by_pillow(data, "x.jpg"))


@needs_simplejpeg
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_each_size_is_pillows(subsampling: int, asked: list[bytes]) -> None:
    random = np.random.default_rng(subsampling)
    sizes = [(1, 1), (1, 40), (40, 1), (2, 3), (8, 8), (16, 16), (17, 15), (500, 3)]
    for width, height in [*sizes, *random.integers(1, 70, (30, 2)).tolist()]:
        data = jpeg(picture(width, height), subsampling=subsampling)
        pixels = decode(data, "x.jpg")
        assert asked == [] and pixels.shape == (height, width, 3)
        expected = np.asarray(tlcache.data.images._decoded_by_pillow(data, "x.jpg"))
        assert np.array_equal(pixels, expected), (width, height)
        asked.clear()


@needs_simplejpeg
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged EXIF
def test_damaged_files_end_as_by_pillow_alone(asked: list[bytes]) -> None:
    random = np.random.default_rng(0)
    makes = [jpeg(), jpeg(progressive=True), jpeg(restart_marker_blocks=2, exif=turned())]
    decoded, refused = 0, 0
    for case in range(300):
        data = bytearray(makes[case % 3])
        header = data.index(b"\xff\xda") + 14
        at = int(random.integers(2, header) if case % 2 else random.integers(header, len(data)))
        data[at] ^= 1 << int(random.integers(8))
        damaged = bytes(data)
        asked.clear()
        ours = outcome(lambda damaged=damaged: decode(damaged, "x.jpg"))  # type: ignore[misc]
        alone = not asked
        theirs = outcome(
            lambda damaged=damaged: tlcache.data.images._decoded_by_pillow(damaged, "x.jpg")  # type: ignore[misc]
        )
        assert ours == theirs, f"case {case}: byte {at}"
        decoded, refused = decoded + alone, refused + (len(theirs) == 3)
    assert decoded > 50 and refused > 30


@needs_simplejpeg
def test_real_photos_are_pillows(photos: Path, asked: list[bytes]) -> None:
    paths = sorted((photos / "train" / "bees").glob("*.jpg"))[:30]
    for path in paths:
        data = path.read_bytes()
        pixels = decode(data, path)
        expected = np.asarray(tlcache.data.images._decoded_by_pillow(data, path))
        assert np.array_equal(pixels, expected), path
        assert pixels.flags.c_contiguous
    assert len(asked) < 2 * len(paths), "some at least are of the common kind"


@needs_simplejpeg
@pytest.mark.parametrize(
    ("width", "height", "found"),
    [(65500, 65500, "4,290,250,000 pixels"), (20000, 9000, "180,000,000 pixels")],
)
def test_huge_dimensions_are_refused_before_memory_is_taken(
    width: int, height: int, found: str
) -> None:
    assert width * height > MAX_PIXELS
    data = sized(jpeg(), width, height)
    assert tlcache.data.images._turbo_agrees()
    tracemalloc.start()
    try:
        with pytest.raises(ImageError) as refused:
            decode(data, "huge.jpg")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(refused.value) == (
        f"huge.jpg: expected an image of at most 178,956,970 pixels, found {found}; "
        "make it smaller, or pass --skip-unreadable"
    )
    assert peak < 10 << 20


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Nobody knows yet whether simplejpeg is there and agrees with Pillow; nor afterwards."""
    tlcache.data.images._turbo_agrees.cache_clear()
    yield
    tlcache.data.images._turbo_agrees.cache_clear()


@needs_simplejpeg
def test_a_decoder_that_disagrees_is_not_used(
    forgotten: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import simplejpeg

    truly = simplejpeg.decode_jpeg

    def nearly(*arguments: Any, **options: Any) -> np.ndarray:
        pixels: np.ndarray = truly(*arguments, **options)
        pixels[30, 40, 1] ^= 1
        return pixels

    monkeypatch.setattr(simplejpeg, "decode_jpeg", nearly)
    assert not tlcache.data.images._turbo_agrees()
    data = jpeg()
    expected = np.asarray(tlcache.data.images._decoded_by_pillow(data, "x.jpg"))
    assert np.array_equal(decode(data, "x.jpg"), expected)


def test_without_simplejpeg_pillow_decodes(
    forgotten: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    data = jpeg()
    expected = np.asarray(tlcache.data.images._decoded_by_pillow(data, "x.jpg"))
    assert np.array_equal(decode(data, "x.jpg"), expected)
    assert not tlcache.data.images._turbo_agrees()
