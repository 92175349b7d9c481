"""A transform as a value: what it is described by, what it equals, what it refuses."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from tlcache.core.errors import OptionError
from tlcache.data.transforms import Transform

TRAIN = Transform().as_train()


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
