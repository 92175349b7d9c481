"""Headers of image files: sizes and oddities, without decoding."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from tlcache.core.errors import ImageError, strerror
from tlcache.data.headers import read_header, read_headers
from tlcache.data.images import decode


def noise(mode: str = "RGB", size: tuple[int, int] = (30, 20), seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def test_a_plain_photo_has_a_size_and_nothing_odd(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "a.bmp", "a.webp", "a.tif", "a.ppm"):
        noise().save(tmp_path / name)
        assert read_header(tmp_path / name) == (30, 20, (), ""), name
    noise("L").save(tmp_path / "grey.png")
    noise("P").save(tmp_path / "palette.png")
    noise("CMYK").save(tmp_path / "print.jpg")
    for name in ("grey.png", "palette.png", "print.jpg"):
        assert read_header(tmp_path / name).odd == (), name


def test_no_pixel_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: object) -> None:
        raise AssertionError("decoded")

    kinds = ("a.jpg", "a.png", "a.bmp", "a.tif", "a.ppm", "a.webp")
    for name in kinds:
        noise(size=(300, 200)).save(tmp_path / name)
    noise().save(tmp_path / "anim.png", save_all=True, append_images=[noise(seed=1)])
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    for name in (*kinds, "anim.png"):
        assert read_header(tmp_path / name).reason == "", name


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "a.gif"])
def test_several_frames_are_odd_because_the_first_is_used(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    noise().save(path, save_all=True, append_images=[noise(seed=1), noise(seed=2)])
    assert read_header(path).odd == ("3 frames, of which the first is used",)
    with Image.open(path) as image:
        assert np.array_equal(decode(path.read_bytes(), path), np.asarray(image.convert("RGB")))


def test_a_phone_s_second_picture_is_not_odd(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[noise(seed=1)])
    assert read_header(tmp_path / "a.jpg") == (30, 20, (), "")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_a_photo_that_exif_would_turn_is_odd_because_it_is_not_turned(
    tmp_path: Path, name: str
) -> None:
    for orientation, odd in ((6, ("EXIF orientation 6, which is not applied",)), (1, ())):
        exif = Image.Exif()
        exif[0x0112] = orientation
        noise().save(tmp_path / name, exif=exif)
        assert read_header(tmp_path / name).odd == odd
        assert decode((tmp_path / name).read_bytes(), name).shape == (20, 30, 3)


def _transparent_palette(path: Path) -> None:
    noise("P").save(path, transparency=0)


@pytest.mark.parametrize(
    "save",
    [
        lambda path: noise("RGBA").save(path),
        lambda path: noise("LA").save(path),
        lambda path: noise("RGB").save(path, transparency=(0, 0, 0)),
        _transparent_palette,
    ],
    ids=["RGBA", "LA", "RGB", "P"],
)
def test_transparency_is_odd_because_it_is_dropped(
    tmp_path: Path, save: Callable[[Path], None]
) -> None:
    save(tmp_path / "a.png")
    assert read_header(tmp_path / "a.png").odd == ("transparency, which is dropped",)


def test_sixteen_bits_are_odd_because_eight_of_them_are_used(tmp_path: Path) -> None:
    deep = np.full((20, 30), 30_000, np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    odd = read_header(tmp_path / "a.png").odd
    assert odd == ("greys of 16 bits, of which the upper 8 are used",)
    assert (decode((tmp_path / "a.png").read_bytes(), "a.png") == 30_000 >> 8).all()


def test_numbers_without_a_range_are_no_image_as_they_are_for_decoding(tmp_path: Path) -> None:
    Image.new("F", (30, 20)).save(tmp_path / "a.tif")
    reason = read_header(tmp_path / "a.tif").reason
    assert reason == "expected an image of 8 or 16 bits, found numbers without a range (F)"
    with pytest.raises(ImageError) as refused:
        decode((tmp_path / "a.tif").read_bytes(), "a.tif")
    assert strerror(refused.value) == reason


def test_files_without_a_header_say_why(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image at all")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    reasons = {
        path.name: (path_header.width, path_header.reason)
        for path in [*tmp_path.iterdir(), tmp_path / "gone.jpg"]
        for path_header in [read_header(path)]
    }
    assert reasons == {
        "empty.jpg": (0, "an empty file (0 bytes)"),
        "text.jpg": (0, "no image"),
        "folder.jpg": (0, "it is no regular file"),
        "pipe.jpg": (0, "it is no regular file"),
        "gone.jpg": (0, "No such file or directory"),
    }


def test_an_image_that_would_not_be_decoded_for_its_size_says_so(tmp_path: Path) -> None:
    for name, size in (("large.ppm", 14_000), ("huge.ppm", 30_000)):
        (tmp_path / name).write_bytes(b"P6 %d %d 255\n" % (size, size))
        header = read_header(tmp_path / name)
        assert (header.width, header.height) == (0, 0) and "pixels" in header.reason


def test_damaged_headers_never_end_the_reading(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    random = np.random.default_rng(0)
    paths = []
    for kind in ("jpg", "png", "webp", "tif", "bmp", "gif"):
        noise().save(tmp_path / f"good.{kind}", exif=exif)
        good = (tmp_path / f"good.{kind}").read_bytes()
        for i in range(40):
            data = bytearray(good[: random.integers(8, len(good))])
            for at in random.integers(0, min(len(data), 300), 4):
                data[at] = random.integers(0, 256)
            paths.append(tmp_path / f"{i}.{kind}")
            paths[-1].write_bytes(data)
    headers = list(read_headers(paths))
    assert len(headers) == len(paths)
    assert all(bool(header.reason) == (header.width == 0) for header in headers)
    assert 0 < sum(bool(header.reason) for header in headers) < len(headers)


def test_headers_come_in_the_order_of_the_files(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(300)]
    for i, path in enumerate(paths):
        Image.new("L", (i + 1, 1)).save(path)
    assert [header.width for header in read_headers(paths)] == list(range(1, 301))
