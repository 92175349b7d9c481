from __future__ import annotations

import concurrent.futures
import hashlib
import io
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

import tlcache.data.images
from tlcache.core.errors import ImageError
from tlcache.data.images import ImageInMemory, decode, image_digest, undisturbed

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


RAMP = np.linspace(0, 65535, 23 * 37).astype(np.uint16).reshape(23, 37)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _tiff_of_12_bits() -> bytes:
    """Two pixels in three bytes; one strip, as Pillow writes none such."""
    twelve = (RAMP >> 4)[:, :36]
    pairs = twelve.reshape(-1, 2).astype(np.uint32)
    packed = pairs[:, 0] << 12 | pairs[:, 1]
    strip = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], 1).astype(np.uint8).tobytes()
    tags = {256: 36, 257: 23, 258: 12, 259: 1, 262: 1, 273: 8 + 2 + 9 * 12 + 4, 277: 1, 278: 23}
    tags[279] = len(strip)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + strip


@pytest.mark.parametrize(
    ("data", "eight"),
    [
        (_saved(Image.fromarray(RAMP), "PNG"), RAMP >> 8),
        (_saved(Image.fromarray(RAMP), "TIFF"), RAMP >> 8),
        (_saved(Image.fromarray(RAMP.astype(">u2")), "TIFF"), RAMP >> 8),
        (_saved(Image.fromarray(RAMP), "JPEG2000"), RAMP >> 8),
        (b"P5 37 23 65535\n" + RAMP.astype(">u2").tobytes(), RAMP >> 8),
        (b"P5 37 23 4095\n" + (RAMP >> 4).astype(">u2").tobytes(), RAMP >> 8),
        (_tiff_of_12_bits(), RAMP[:, :36] >> 8),
    ],
    ids=["PNG", "TIFF", "TIFF big-endian", "JPEG 2000", "PGM", "PGM of 12 bits", "TIFF of 12 bits"],
)
def test_greys_of_16_bits_are_scaled(data: bytes, eight: np.ndarray) -> None:
    pixels = decode(data, "deep")
    assert (pixels == pixels[..., :1]).all()
    assert np.abs(pixels[..., 0].astype(int) - eight).max() <= (1 if data[:2] == b"P5" else 0)
    in_memory = ImageInMemory("X[0]", Image.open(io.BytesIO(data)))
    if in_memory.image.mode.startswith("I;16"):  # type: ignore[union-attr]
        assert in_memory.read_bytes().endswith(pixels.tobytes())


def test_greys_of_16_bits_are_what_colours_of_16_bits_are() -> None:
    """Pillow takes the upper 8 bits of those, and gives out no more."""
    body = np.repeat(RAMP.astype(">u2")[..., None], 3, 2).tobytes()
    lines = b"".join(b"\0" + body[at : at + 37 * 6] for at in range(0, len(body), 37 * 6))
    header = struct.pack(">IIBBBBB", 37, 23, 16, 2, 0, 0, 0)
    parts = {b"IHDR": header, b"IDAT": zlib.compress(lines), b"IEND": b""}
    colour = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts.items()
    )
    grey = decode(_saved(Image.fromarray(RAMP), "PNG"), "grey")
    assert np.array_equal(decode(colour, "colour"), grey)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_numbers_without_a_range_are_refused(mode: str) -> None:
    image = Image.fromarray(RAMP.astype(np.float32 if mode == "F" else np.int32))
    words = (
        f"expected an image of 8 or 16 bits, found numbers without a range ({mode}); "
        "save it with 8 or 16 bits, or pass --skip-unreadable"
    )
    with pytest.raises(ImageError) as refused:
        decode(_saved(image, "TIFF"), "heights.tif")
    assert str(refused.value) == f"heights.tif: {words}"
    with pytest.raises(ImageError) as refused:
        ImageInMemory("X[3]", image).read_bytes()
    assert str(refused.value) == f"X[3]: {words}"


def test_only_greys_of_more_than_8_bits_have_a_name_of_their_own() -> None:
    for name, file in FILES.items():
        data = _bytes(*file)
        assert image_digest(io.BytesIO(data)) == hashlib.sha256(data).digest(), name
    for image, kind in ((RAMP, "PNG"), (RAMP, "TIFF"), (RAMP.astype(np.float32), "TIFF")):
        data = _saved(Image.fromarray(image), kind)
        inverted = bytes(255 - byte for byte in hashlib.sha256(data).digest())
        assert image_digest(io.BytesIO(data)) == inverted
    for data in (b"", b"II", b"P5 broken", b"\x89PNG\r\n\x1a\n"):
        assert image_digest(io.BytesIO(data)) == hashlib.sha256(data).digest()


# --- switches of the process


@pytest.mark.parametrize("name", ["colour JPEG", "grey JPEG", "colour PNG", "TIFF", "GIF"])
@pytest.mark.parametrize("by_turbo", [True, False])
def test_a_truncated_image_is_refused_whatever_another_library_wants(
    name: str, by_turbo: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    if not by_turbo:
        monkeypatch.setattr(tlcache.data.images, "_turbo_agrees", lambda: False)
    data = _bytes(*FILES[name])
    half = data[: len(data) * 2 // 3]
    with pytest.raises(ImageError):
        decode(half, "half.jpg")
    with pytest.raises(ImageError):
        ImageInMemory("X[0]", Image.open(io.BytesIO(half))).read_bytes()
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert decode(data, "whole.jpg").shape == (23, 37, 3)


def test_a_switch_that_is_set_while_an_image_is_decoded_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
    data = _bytes(*FILES["colour PNG"])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    convert, calls = Image.Image.convert, 0

    def other_library(*arguments: Any, **options: Any) -> Image.Image:
        nonlocal calls
        if not (calls := calls + 1) > 1:
            ImageFile.LOAD_TRUNCATED_IMAGES = True
            Image.MAX_IMAGE_PIXELS = 5
            raise OSError("as if by the switch")
        return convert(*arguments, **options)

    monkeypatch.setattr(Image.Image, "convert", other_library)
    assert decode(data, "photo.png").shape == (23, 37, 3)
    assert calls == 2
    assert (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS) == (True, 5)


def test_switches_are_put_back_when_the_last_thread_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    inside, go = threading.Barrier(3), threading.Event()

    def look() -> bool:
        inside.wait(10)
        assert go.wait(10)
        return bool(ImageFile.LOAD_TRUNCATED_IMAGES)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        looks = [pool.submit(undisturbed, look) for _ in range(2)]
        inside.wait(10)
        assert undisturbed(lambda: not ImageFile.LOAD_TRUNCATED_IMAGES)
        assert not ImageFile.LOAD_TRUNCATED_IMAGES
        go.set()
        assert [look.result() for look in looks] == [False, False]
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_switches_that_nobody_has_set_are_left_alone() -> None:
    before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    assert undisturbed(lambda: (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)) == before


def test_a_lower_limit_of_another_library_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = _bytes(*FILES["colour PNG"])
    assert decode(data, "photo.png").shape == (23, 37, 3)
    assert image_digest(io.BytesIO(data)) == hashlib.sha256(data).digest()
    assert Image.MAX_IMAGE_PIXELS == 100


def test_no_format_is_read_for_which_a_program_is_started() -> None:
    with pytest.raises(ImageError, match="bytes that are no image"):
        decode(_saved(Image.new("RGB", (9, 9)), "EPS"), "photo.jpg")


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
        (b"\0\0\0\x18ftypheic" + bytes(99), "heic, which this Pillow does not read"),
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
