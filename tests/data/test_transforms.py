"""Transforms: torchvision's very numbers; as values, what they are described by and refuse."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import transforms as tv
from torchvision.transforms import functional as tvf

from tlcache.core.errors import ImageError, OptionError
from tlcache.data import transforms
from tlcache.data.transforms import Transform, apply
from tlcache.reports.pictures import denormalise

DIGEST = hashlib.sha256(b"an image").digest()
TRAIN = Transform().as_train()


INTERPOLATIONS = {
    "nearest": tv.InterpolationMode.NEAREST,
    "bilinear": tv.InterpolationMode.BILINEAR,
    "bicubic": tv.InterpolationMode.BICUBIC,
    "lanczos": tv.InterpolationMode.LANCZOS,
}


def _picture(width: int, height: int) -> Image.Image:
    random = np.random.default_rng([width, height])
    return Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))


def _applied(
    image: Image.Image, t: Transform, digest: bytes = b"", view: int = 0
) -> NDArray[np.float32]:
    return apply(np.asarray(image), t, digest, view)


def _torchvisions_eval(image: Image.Image, t: Transform) -> NDArray[np.float32]:
    compose = tv.Compose(
        [
            tv.Resize(t.resize, INTERPOLATIONS[t.interpolation]),
            tv.CenterCrop(t.crop),
            tv.ToTensor(),
            tv.Normalize(t.mean, t.std),
        ]
    )
    tensor: torch.Tensor = compose(image)
    return tensor.numpy()


def _view(image: Image.Image, t: Transform, view: int) -> tuple[tuple[int, ...], bool]:
    """Box (left, top, width, height) and flip of a view."""
    numbers = transforms._uniform(DIGEST, view, t)
    box = transforms._random_box(image.width, image.height, t, numbers)
    return box, next(numbers) < t.hflip


@pytest.mark.parametrize(
    ("width", "height"),
    [
        (500, 375),
        (375, 500),
        (256, 256),
        (224, 224),
        (225, 257),
        (257, 225),
        (333, 500),
        (1023, 767),
        (100, 60),
        (31, 223),
        (3, 2),
        (1, 1),
        (1, 40),
        (40, 1),
        (7, 1000),
    ],
)
def test_eval_makes_the_very_numbers_of_torchvision(width: int, height: int) -> None:
    image = _picture(width, height)
    pixels = _applied(image, Transform())
    assert pixels.dtype == np.float32
    assert pixels.shape == (3, 224, 224)
    assert pixels.transpose(1, 2, 0).flags.c_contiguous
    assert np.array_equal(pixels, _torchvisions_eval(image, Transform()))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("resize", "crop"), [(64, 48), (48, 48), (37, 48), (48, 37), (30, 61)])
def test_eval_follows_torchvision_whatever_the_sizes(
    resize: int, crop: int, interpolation: str
) -> None:
    t = Transform(
        resize=resize,
        crop=crop,
        interpolation=interpolation,
        mean=(0.5, 0.4, 0.3),
        std=(0.25, 0.2, 1 / 3),
    )
    for width, height in ((91, 50), (50, 91), (64, 64), (20, 33), (33, 20), (1, 9)):
        image = _picture(width, height)
        assert np.array_equal(_applied(image, t), _torchvisions_eval(image, t)), (
            width,
            height,
        )


def test_eval_makes_the_very_numbers_of_torchvision_on_photos(photos: Path) -> None:
    paths = sorted((photos / "val").glob("*/*.jpg"))[::15]
    assert len(paths) > 8
    for path in paths:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        assert np.array_equal(_applied(image, Transform()), _torchvisions_eval(image, Transform()))


def test_an_image_too_thin_to_resize_is_refused() -> None:
    with pytest.raises(ImageError) as caught:
        apply(np.zeros((1, 60_000, 3), np.uint8), Transform(resize=4096))
    assert str(caught.value) == (
        "image of 60000 x 1: expected a shape that resizes to at most 178,956,970 pixels, "
        "found 245760000 x 4096; crop it, or pass --skip-unreadable"
    )


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_train_makes_the_very_numbers_of_torchvision_given_the_box(interpolation: str) -> None:
    t = Transform(interpolation=interpolation, crop=48).as_train()
    flips = set()
    for width, height in ((91, 50), (50, 91), (48, 48), (20, 33), (400, 300)):
        image = _picture(width, height)
        for view in range(4):
            (left, top, w, h), flip = _view(image, t, view)
            flips.add(flip)
            cut = tvf.resized_crop(image, top, left, h, w, [48, 48], INTERPOLATIONS[interpolation])
            tensor = tvf.to_tensor(tvf.hflip(cut) if flip else cut)
            expected = tvf.normalize(tensor, list(t.mean), list(t.std)).numpy()
            assert np.array_equal(_applied(image, t, DIGEST, view), expected), (
                width,
                height,
                view,
            )
    assert flips == {False, True}


def test_train_takes_a_crop_of_the_right_size_as_it_is() -> None:
    t = Transform("train", crop=32, scale=(1, 1), ratio=(1, 1), hflip=0)
    image = _picture(32, 32)
    assert np.array_equal(denormalise(_applied(image, t, DIGEST), t), np.asarray(image))
    mirrored = Transform("train", crop=32, scale=(1, 1), ratio=(1, 1), hflip=1)
    seen = denormalise(_applied(image, mirrored, DIGEST), mirrored)
    assert np.array_equal(seen, np.asarray(image)[:, ::-1])


@pytest.mark.parametrize(("width", "height"), [(500, 375), (120, 400)])
def test_random_boxes_are_distributed_as_torchvisions(width: int, height: int) -> None:
    count = 6000
    image = Image.new("RGB", (width, height))
    ours = np.array([_view(image, TRAIN, view)[0] for view in range(count)], float)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [
            tv.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3])
            for _ in range(count)
        ]
    theirs = np.array([(left, top, w, h) for top, left, h, w in drawn], float)

    for name, measure in {
        "area": lambda b: b[:, 2] * b[:, 3] / (width * height),
        "log ratio": lambda b: np.log(b[:, 2] / b[:, 3]),
        "centre x": lambda b: (b[:, 0] + b[:, 2] / 2) / width,
        "centre y": lambda b: (b[:, 1] + b[:, 3] / 2) / height,
    }.items():
        a, b = np.sort(measure(ours)), np.sort(measure(theirs))
        at = np.concatenate([a, b])
        gap = np.abs(np.searchsorted(a, at, "right") - np.searchsorted(b, at, "right")).max()
        # The Kolmogorov-Smirnov bound at a chance of 1 in a million.
        assert gap / count < 2.69 * math.sqrt(2 / count), name
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= width).all()
    assert (ours[:, 1] + ours[:, 3] <= height).all()


def test_half_of_the_views_are_flipped() -> None:
    image = Image.new("RGB", (500, 375))
    flips = sum(_view(image, TRAIN, view)[1] for view in range(2000))
    assert abs(flips - 1000) < 4 * math.sqrt(500)


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [
        (1000, 10, (493, 0, 13, 10)),
        (10, 1000, (0, 493, 10, 13)),
        (1, 1, (0, 0, 1, 1)),
        (1, 50, (0, 24, 1, 1)),
        (64, 48, (0, 0, 64, 48)),
    ],
)
def test_an_image_that_no_box_fits_is_cut_in_its_middle(
    width: int, height: int, box: tuple[int, int, int, int]
) -> None:
    t = Transform("train", scale=(1.0, 1.0))
    numbers = transforms._uniform(DIGEST, 0, t)
    assert transforms._random_box(width, height, t, numbers) == box
    assert _applied(_picture(width, height), t, DIGEST).shape == (3, 224, 224)


def test_the_fallback_is_torchvisions() -> None:
    t = Transform("train", scale=(1.0, 1.0))
    for width, height in ((1000, 10), (10, 1000), (501, 17), (17, 501)):
        image = Image.new("RGB", (width, height))
        top, left, h, w = tv.RandomResizedCrop.get_params(image, [1.0, 1.0], [3 / 4, 4 / 3])
        assert _view(image, t, 0)[0] == (left, top, w, h)


def test_a_ratio_that_no_row_of_pixels_can_have_still_gives_a_box() -> None:
    t = Transform("train", scale=(1.0, 1.0), ratio=(0.1, 0.2))
    assert _applied(_picture(9, 1), t, DIGEST).shape == (3, 224, 224)


def test_seeding_never_changes() -> None:
    image = Image.new("RGB", (500, 375))
    assert [_view(image, TRAIN, view) for view in range(3)] == [
        ((129, 44, 362, 310), True),
        ((172, 41, 130, 160), True),
        ((119, 6, 227, 258), False),
    ]
    numbers = transforms._uniform(bytes(32), 0, TRAIN)
    assert [next(numbers) for _ in range(5)] == [
        0.6651408907299801,
        0.3288558296157348,
        0.9097192736945602,
        0.9707960797130282,
        0.9269977498101865,
    ]


def test_a_view_is_the_same_in_another_process_and_order() -> None:
    image = _picture(90, 60)
    t = Transform(crop=32).as_train()
    here = {view: _applied(image, t, DIGEST, view) for view in (5, 0, 2)}
    code = f"""
import sys, numpy as np
from PIL import Image
from tlcache.data.transforms import Transform, apply
pixels = np.random.default_rng([90, 60]).integers(0, 256, (60, 90, 3), np.uint8)
for view in (0, 2, 5):
    t = Transform(crop=32).as_train()
    sys.stdout.buffer.write(apply(pixels, t, {DIGEST!r}, view).tobytes())
"""
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", code]
        there = subprocess.run(command, env=environment, capture_output=True, check=True).stdout
        assert there == b"".join(here[view].tobytes() for view in (0, 2, 5))


def test_views_differ_between_numbers_images_and_transforms() -> None:
    image = _picture(90, 60)
    other = hashlib.sha256(b"another image").digest()
    small, jittery = Transform(crop=32).as_train(), Transform("train", crop=32, scale=(0.5, 1.0))
    views = [
        _applied(image, small, DIGEST, 0),
        _applied(image, small, DIGEST, 1),
        _applied(image, small, other, 0),
        _applied(image, jittery, DIGEST, 0),
    ]
    assert len({view.tobytes() for view in views}) == 4
    assert np.array_equal(views[0], _applied(image, small, DIGEST, 0))


def test_a_train_view_needs_the_images_digest() -> None:
    with pytest.raises(OptionError, match="transform digest: expected 32 bytes of SHA-256, found"):
        _applied(_picture(9, 9), TRAIN)


def test_denormalise_inverts() -> None:
    image = _picture(64, 48)
    for t in (Transform(resize=48, crop=48), Transform(resize=48, crop=48, mean=(0, 0, 0))):
        expected = np.asarray(image.crop((8, 0, 56, 48)))
        seen = denormalise(_applied(image, t), t)
        assert seen.dtype == np.uint8
        assert np.array_equal(seen, expected)


def test_denormalise_clips() -> None:
    pixels = np.array([-100, 100, 0], np.float32).reshape(3, 1, 1)
    assert denormalise(pixels, Transform()).tolist() == [[[0, 255, 104]]]


def test_eval_is_described_by_what_it_uses() -> None:
    assert Transform().describe() == {
        "kind": "eval",
        "resize": 256,
        "crop": 224,
        "interpolation": "bilinear",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }


def test_train_is_described_by_what_it_uses() -> None:
    assert TRAIN.describe() == {
        "kind": "train",
        "crop": 224,
        "interpolation": "bilinear",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "scale": [0.08, 1.0],
        "ratio": [3 / 4, 4 / 3],
        "hflip": 0.5,
    }


@pytest.mark.parametrize(
    "t",
    [
        Transform(),
        TRAIN,
        Transform(resize=232, crop=200, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1)),
        Transform("train", crop=96, scale=(0.2, 0.9), ratio=(0.5, 2), hflip=0),
    ],
)
def test_a_description_makes_the_transform_again(t: Transform) -> None:
    again = Transform.from_description(json.loads(json.dumps(t.describe())))
    assert again == t
    assert hash(again) == hash(t)
    assert dict(vars(again)) == dict(vars(t))


def test_equal_is_what_makes_the_same_pixels() -> None:
    assert Transform(resize=232).as_train() == Transform().as_train()
    assert Transform(hflip=0.1) == Transform()
    assert Transform(resize=232) != Transform()
    assert Transform() != Transform().as_train()
    assert Transform() != "eval"
    assert len({Transform(resize=232).as_train(), TRAIN, Transform()}) == 2


def test_whole_numbers_describe_as_the_same_floats() -> None:
    whole = Transform("train", mean=(0, 0, 0), scale=(1, 1), hflip=1)
    floats = Transform("train", mean=(0.0, 0.0, 0.0), scale=(1.0, 1.0), hflip=1.0)
    assert json.dumps(whole.describe()) == json.dumps(floats.describe())


def test_there_and_back_keeps_the_resize() -> None:
    assert Transform(resize=232).as_train().as_eval() == Transform(resize=232)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "other"}, "transform kind: expected eval or train, found other"),
        (
            {"interpolation": "cubic"},
            "transform interpolation: expected nearest or bilinear or bicubic or lanczos, "
            "found cubic",
        ),
        ({"crop": 0}, "transform crop: expected 1 to 4096 pixels, found 0"),
        ({"crop": 4097}, "transform crop: expected 1 to 4096 pixels, found 4097"),
        ({"crop": 224.0}, "transform crop: expected 1 to 4096 pixels, found 224.0"),
        ({"resize": -1}, "transform resize: expected 1 to 4096 pixels, found -1"),
        ({"mean": (0.5,)}, "transform mean: expected three numbers, found (0.5,)"),
        (
            {"mean": (0.5, math.nan, 0)},
            "transform mean: expected three numbers, found (0.5, nan, 0)",
        ),
        ({"std": (1, 0, 1)}, "transform std: expected three numbers over 0, found (1, 0, 1)"),
        (
            {"std": (1, math.inf, 1)},
            "transform std: expected three numbers over 0, found (1, inf, 1)",
        ),
        ({"scale": (0.5, 0.1)}, "transform scale: expected 0 < low <= high <= 1, found (0.5, 0.1)"),
        ({"scale": (0, 1)}, "transform scale: expected 0 < low <= high <= 1, found (0, 1)"),
        ({"scale": (0.5, 1.5)}, "transform scale: expected 0 < low <= high <= 1, found (0.5, 1.5)"),
        ({"ratio": (2, 1)}, "transform ratio: expected 0 < low <= high, found (2, 1)"),
        ({"hflip": 1.1}, "transform hflip: expected a probability, found 1.1"),
        ({"hflip": math.nan}, "transform hflip: expected a probability, found nan"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as caught:
        Transform(**values)
    assert str(caught.value) == f"{words}; correct it, or leave it out for the default"


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (Transform().describe() | {"zoom": 2}, "unexpected keyword argument 'zoom'"),
        (Transform().describe() | {"scale": 3}, "object of type 'int' has no len"),
        (Transform().describe() | {"hflip": 0.5}, "hflip missing, or where it does not belong"),
        ({"kind": "eval"}, "crop, interpolation, mean, resize, std missing, or where"),
    ],
)
def test_what_describes_no_transform_is_refused(values: dict[str, Any], found: str) -> None:
    with pytest.raises(OptionError) as caught:
        Transform.from_description(values)
    assert str(caught.value).startswith("transform: expected the values of a transform, found ")
    assert found in str(caught.value)
    assert str(caught.value).endswith("the file was written by another version; make it again")


def test_a_description_is_a_mapping() -> None:
    with pytest.raises(OptionError, match="'list' object has no attribute 'items'"):
        Transform.from_description([])  # type: ignore[arg-type]
