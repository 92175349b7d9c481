from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tlcache.core.errors import ImageError
from tlcache.data.images import decode

REMEDY = "replace or remove the file, or pass --skip-unreadable"
FILES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "colour JPEG": ("JPEG", "RGB", {}),
    "grey JPEG": ("JPEG", "L", {}),
    "CMYK JPEG": ("JPEG", "CMYK", {}),
    "progressive JPEG": ("JPEG", "RGB", {"progressive": True}),
    "colour PNG": ("PNG", "RGB", {}),
    "1-bit PNG": ("PNG", "1", {}),
    "grey PNG": ("PNG", "L", {}),
    "grey PNG, one grey transparent": ("PNG", "L", {"transparency": 128}),
    "grey PNG with alpha": ("PNG", "LA", {}),
    "palette PNG": ("PNG", "P", {}),
    "palette PNG, one entry transparent": ("PNG", "P", {"transparency": 3}),
    "palette PNG, all entries translucent": ("PNG", "P", {"transparency": bytes(range(256))}),
    "PNG with alpha": ("PNG", "RGBA", {}),
    "16-bit PNG": ("PNG", "I;16", {}),
    "WebP": ("WEBP", "RGB", {}),
    "WebP with alpha": ("WEBP", "RGBA", {"lossless": True}),
    "TIFF": ("TIFF", "RGB", {}),
    "CMYK TIFF": ("TIFF", "CMYK", {"compression": "tiff_lzw"}),
    "BMP": ("BMP", "RGB", {}),
    "palette BMP": ("BMP", "P", {}),
    "GIF": ("GIF", "P", {}),
}


def _picture(mode: str) -> Image.Image:
    """Noise over a gradient, 37 wide and 23 high, with every value of alpha where there is one."""
    random = np.random.default_rng(1)
    ramp = np.linspace(0, 255, 37 * 23).reshape(23, 37, 1)
    pixels = (ramp / 2 + random.integers(0, 128, (23, 37, 4))).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 2)
    colour = Image.fromarray(pixels[..., :3])
    if mode == "P":
        return colour.quantize(256)
    picture = colour.convert(mode)
    if mode in ("RGBA", "LA"):
        picture.putalpha(Image.fromarray(pixels[..., 3]))
    return picture


def _bytes(kind: str, mode: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    _picture(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_of_pillow_converted_to_rgb(name: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"  # the name's ending is not what counts
    path.write_bytes(_bytes(*FILES[name]))
    with Image.open(path) as opened:
        if isinstance(opened.info.get("transparency"), bytes):
            with pytest.warns(UserWarning, match="Transparency expressed in bytes"):
                expected = np.asarray(opened.convert("RGB"))
        else:
            expected = np.asarray(opened.convert("RGB"))

    image = decode(path.read_bytes(), path)

    assert image.shape == (23, 37, 3) and image.dtype == np.uint8
    assert len(np.unique(expected)) > 1
    assert np.array_equal(image, expected)


def test_16_bit_png_is_16_bit() -> None:
    with Image.open(io.BytesIO(_bytes(*FILES["16-bit PNG"]))) as opened:
        assert opened.mode.startswith("I")


def test_pixels_of_real_photos_are_those_of_pillow(photos: Path) -> None:
    paths = sorted((photos / "val" / "bees").glob("*.jpg"))[:20]
    assert len(paths) == 20
    for path in paths:
        with Image.open(path) as opened:
            expected = np.asarray(opened.convert("RGB"))
        assert np.array_equal(decode(path.read_bytes(), path), expected)


def test_exif_rotation_is_left_alone_as_torchvision_does() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    image = decode(_bytes("JPEG", "RGB", {"exif": exif}), "turned.jpg")
    assert image.shape == (23, 37, 3)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "an empty file (0 bytes)"),
        (b"Dear diary, this is no picture.\n" * 40, "bytes that are no image"),
        (b"\x89PNG\r\n\x1a\n", "bytes that are no image"),
        (b"\xff\xd8\xff" + bytes(300), "bytes that are no image"),
    ],
)
def test_what_is_no_image_is_refused(data: bytes, found: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode(data, "ants/photo.jpg")
    assert str(caught.value) == f"ants/photo.jpg: expected an image, found {found}; {REMEDY}"


@pytest.mark.parametrize("name", ["colour JPEG", "colour PNG", "WebP", "TIFF", "BMP"])
def test_a_truncated_image_is_refused(name: str) -> None:
    data = _bytes(*FILES[name])
    with pytest.raises(ImageError) as caught:
        decode(data[: len(data) * 2 // 3], "half.jpg")
    assert caught.value.where == "half.jpg"
    assert caught.value.remedy == REMEDY


def test_a_truncated_jpeg_says_so() -> None:
    data = _bytes(*FILES["colour JPEG"])
    with pytest.raises(ImageError, match="found image file is truncated"):
        decode(data[: len(data) * 2 // 3], "half.jpg")


def test_a_huge_image_is_refused_before_it_is_decoded() -> None:
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    with pytest.raises(ImageError) as caught:
        decode(buffer.getvalue(), "huge.png")
    assert str(caught.value) == (
        "huge.png: expected an image of at most 178,956,970 pixels, found 400,000,000 pixels; "
        "make it smaller, or pass --skip-unreadable"
    )


def test_pillows_own_limit_may_be_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    buffer = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(buffer, "PNG")
    with pytest.raises(ImageError, match="178,956,970 pixels, found 20000 x 10000; make it"):
        decode(buffer.getvalue(), "huge.png")


def test_an_image_that_pillow_would_warn_of_is_decoded_without_a_word() -> None:
    code = """
import io
from PIL import Image
from tlcache.data.images import decode
Image.MAX_IMAGE_PIXELS = 100
buffer = io.BytesIO()
Image.new("RGB", (15, 10)).save(buffer, "PNG")
print(decode(buffer.getvalue(), "large.png").shape)
"""
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("(10, 15, 3)\n", "")


def test_running_out_of_memory_is_no_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    data = _bytes(*FILES["colour PNG"])
    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(MemoryError):
        decode(data, "photo.png")


def test_whatever_a_decoder_raises_is_an_image_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise IndexError

    data = _bytes(*FILES["colour PNG"])
    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(ImageError, match="expected an image, found IndexError;"):
        decode(data, "photo.png")
