from __future__ import annotations

import dataclasses

import pytest

from tlcache.errors import DamageError
from tlcache.identity import Identity, differences, folder_name, library_versions
from tlcache.transforms import Transform

PLAIN = Identity(
    trunk="resnet18",
    weights="ab" * 32,
    dim=512,
    transform=Transform(),
    versions=(("libjpeg-turbo", "3.1.0"), ("pillow", "12.0"), ("torch", "2.9")),
)
CHANGES: dict[str, dict[str, object]] = {
    "trunk": {"trunk": "resnet34"},
    "weights": {"weights": "ac" + "ab" * 31},
    "dim": {"dim": 513},
    "precision": {"precision": "bf16"},
    "dtype": {"dtype": "float16"},
    "pillow": {"versions": (*PLAIN.versions[:1], ("pillow", "13.0"), *PLAIN.versions[2:])},
    "libjpeg-turbo": {"versions": (("libjpeg-turbo", "3.2.0"), *PLAIN.versions[1:])},
    "torch": {"versions": (*PLAIN.versions[:2], ("torch", "2.10"))},
    "resize": {"transform": Transform(resize=255)},
    "crop": {"transform": Transform(crop=223)},
    "interpolation": {"transform": Transform(interpolation="bicubic")},
    "mean": {"transform": Transform(mean=(0.5, 0.456, 0.406))},
}


def test_the_canonical_json_and_the_key_are_what_the_format_says() -> None:
    assert PLAIN.to_json() == (
        b'{"cut":"head-input","dim":512,"dtype":"float32","format":1,"precision":"fp32",'
        b'"transform":{"crop":224,"interpolation":"bilinear","kind":"eval",'
        b'"mean":[0.485,0.456,0.406],"resize":256,"std":[0.229,0.224,0.225]},'
        b'"trunk":"resnet18",'
        b'"versions":{"libjpeg-turbo":"3.1.0","pillow":"12.0","torch":"2.9"},'
        b'"weights":"' + b"ab" * 32 + b'"}'
    )
    assert PLAIN.key[:8] == "7baa4df3"
    assert folder_name(PLAIN, "imagenet1k") == "resnet18-imagenet1k-eval-7baa4df3"


@pytest.mark.parametrize(("word", "change"), CHANGES.items())
def test_each_thing_a_feature_depends_on_changes_the_key(
    word: str, change: dict[str, object]
) -> None:
    other = dataclasses.replace(PLAIN, **change)  # type: ignore[arg-type]
    assert other.key != PLAIN.key
    (said,) = differences(PLAIN, other)
    assert said.startswith(f"{word} ")


def test_a_difference_is_said_in_a_few_words() -> None:
    newer = dataclasses.replace(PLAIN, **CHANGES["pillow"])  # type: ignore[arg-type]
    assert differences(PLAIN, newer) == ["pillow 12.0 → 13.0"]
    other = dataclasses.replace(PLAIN, weights="cd" * 32)
    assert differences(PLAIN, other) == ["weights abababab… → cdcdcdcd…"]


def test_json_comes_back_for_both_kinds_of_transform() -> None:
    for transform in (Transform(), Transform(kind="train")):
        identity = dataclasses.replace(PLAIN, transform=transform)
        assert Identity.from_json(identity.to_json(), "here") == identity


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[1]",
        PLAIN.to_json() + b" ",
        PLAIN.to_json().replace(b'"format":1', b'"format":2'),
        PLAIN.to_json().replace(b"256", b"256.0"),
    ],
)
def test_anything_but_the_canonical_json_is_refused(data: bytes) -> None:
    with pytest.raises(DamageError, match="expected the identity of a cache of format 1"):
        Identity.from_json(data, "here")


def test_timm_counts_only_where_it_makes_the_network() -> None:
    assert "timm" not in dict(library_versions("resnet18"))
    assert "timm" in dict(library_versions("efficientnet_lite0"))
