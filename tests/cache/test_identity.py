from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tlcache.cache.identity import Identity, differences, folder_name, series
from tlcache.core.errors import DamageError, OptionError
from tlcache.core.machine import library_versions
from tlcache.data.transforms import Transform

PLAIN = Identity(
    trunk="resnet18",
    weights="ab" * 32,
    dim=512,
    transform=Transform(),
    versions=(("libjpeg-turbo", "3.1.0"), ("pillow", "12.0"), ("torch", "2.9")),
)
JSON = (
    b'{"cut":"head-input","dim":512,"dtype":"float32","format":1,"precision":"fp32",'
    b'"transform":{"crop":224,"interpolation":"bilinear","kind":"eval",'
    b'"mean":[0.485,0.456,0.406],"resize":256,"std":[0.229,0.224,0.225]},'
    b'"trunk":"resnet18",'
    b'"versions":{"libjpeg-turbo":"3.1.0","pillow":"12.0","torch":"2.9"},'
    b'"weights":"abababababababababababababababababababababababababababababababab"}'
)
KEY = "7baa4df3f468c2f19ea88317e3b59babd0a9eec87c6bb810c1525d085b31a3ec"
DOCUMENT = Path(__file__).parents[2] / "docs" / "cache-format.md"

CHANGES: dict[str, dict[str, Any]] = {
    "cut": {"cut": "layer4"},
    "trunk": {"trunk": "resnet34"},
    "weights": {"weights": "ac" + "ab" * 31},
    "dim": {"dim": 513},
    "precision": {"precision": "bf16"},
    "format": {"format": 2},
    "pillow": {"versions": (*PLAIN.versions[:1], ("pillow", "13.0"), *PLAIN.versions[2:])},
    "libjpeg-turbo": {"versions": (("libjpeg-turbo", "3.2.0"), *PLAIN.versions[1:])},
    "torch": {"versions": PLAIN.versions[:2]},
    "timm": {"versions": (*PLAIN.versions, ("timm", "1.0"))},
    "resize": {"transform": Transform(resize=255)},
    "crop": {"transform": Transform(crop=223)},
    "interpolation": {"transform": Transform(interpolation="bicubic")},
    "mean": {"transform": Transform(mean=(0.5, 0.456, 0.406))},
    "std": {"transform": Transform(std=(0.5, 0.224, 0.225))},
}


def test_the_canonical_json_and_the_key_are_what_the_format_says() -> None:
    assert PLAIN.to_json() == JSON
    assert PLAIN.key == KEY == hashlib.sha256(JSON).hexdigest()
    assert PLAIN.digest == bytes.fromhex(KEY)
    assert folder_name(PLAIN, "imagenet1k") == "resnet18-imagenet1k-eval-7baa4df3"


def test_the_example_in_the_documentation_is_true() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    (example,) = re.findall(r"^\{.*\}$", text, re.MULTILINE)
    identity = Identity.from_json(example.encode("ascii"), DOCUMENT)
    assert f"`{identity.key}`" in text
    assert f"`{folder_name(identity, 'imagenet1k')}`" in text


@pytest.mark.parametrize("seed", ["1", "2"])
def test_the_key_is_the_same_in_every_process(seed: str) -> None:
    code = (
        "import sys; from tlcache.cache.identity import Identity\n"
        "print(Identity.from_json(sys.stdin.buffer.read(), 'here').key)"
    )
    environment = os.environ | {"PYTHONHASHSEED": seed}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, input=JSON, capture_output=True, env=environment)
    assert result.stdout.decode().strip() == KEY


@pytest.mark.parametrize(("word", "change"), CHANGES.items())
def test_each_thing_a_feature_depends_on_changes_the_key(word: str, change: dict[str, Any]) -> None:
    other = dataclasses.replace(PLAIN, **change)
    assert other.key != PLAIN.key
    (said,) = differences(PLAIN, other)
    assert said.startswith(f"{word} ")


def test_nothing_is_left_out_of_the_key() -> None:
    described = PLAIN.describe()
    assert described.keys() == {field.name for field in dataclasses.fields(Identity)}
    train = dataclasses.replace(PLAIN, transform=Transform(kind="train"))
    assert train.key != PLAIN.key
    for field, value in (("scale", (0.1, 1.0)), ("ratio", (0.5, 2.0)), ("hflip", 0.25)):
        changed = Transform(**{"kind": "train", field: value})  # type: ignore[arg-type]
        assert dataclasses.replace(PLAIN, transform=changed).key != train.key


def test_the_order_of_versions_does_not_matter() -> None:
    shuffled = dataclasses.replace(PLAIN, versions=PLAIN.versions[::-1])
    assert shuffled == PLAIN and shuffled.key == PLAIN.key


def test_json_comes_back_for_both_kinds_of_transform() -> None:
    for transform in (Transform(), Transform(kind="train", scale=(0.2, 0.9))):
        identity = dataclasses.replace(PLAIN, transform=transform)
        assert Identity.from_json(identity.to_json(), "here") == identity


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trunk": ""}, "identity: trunk: expected a word, found ''; correct it"),
        ({"trunk": object}, "identity: trunk: expected a word, found <class 'object'>"),
        ({"cut": None}, "identity: cut: expected a word, found None"),
        ({"precision": 32}, "identity: precision: expected a word, found 32"),
        ({"weights": "AB" * 32}, "identity: weights: expected a SHA-256 in lower-case hex"),
        ({"weights": "ab" * 33}, "identity: weights: expected a SHA-256 in lower-case hex"),
        ({"weights": b"ab" * 32}, "identity: weights: expected a SHA-256 in lower-case hex"),
        ({"dim": 0}, "identity: dim: expected a whole number from 1 to 1,048,576, found 0"),
        ({"dim": 2**20 + 1}, "identity: dim: expected a whole number from 1 to 1,048,576"),
        ({"dim": 512.0}, "identity: dim: expected a whole number from 1 to 1,048,576"),
        ({"dim": np.int64(512)}, "identity: dim: expected a whole number from 1 to 1,048,576"),
        ({"dim": True}, "identity: dim: expected a whole number from 1 to 1,048,576"),
        ({"dtype": "f2"}, "identity: dtype: expected float32 or float16, found 'f2'"),
        ({"format": 1.0}, "identity: format: expected a whole number, found 1.0"),
        ({"transform": {"kind": "eval"}}, "identity: transform: expected a Transform, found {"),
        ({"versions": (("torch", 2),)}, "identity: versions: expected pairs of words, found (("),
        ({"versions": ((1, "2"),)}, "identity: versions: expected pairs of words, found (("),
    ],
)
def test_what_cannot_be_described_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=f"^{re.escape(words)}"):
        dataclasses.replace(PLAIN, **change)


def edited(**changes: Any) -> bytes:
    values = {k: v for k, v in (json.loads(JSON) | changes).items() if v is not None}
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode("ascii")


def test_editing_nothing_is_no_edit() -> None:
    assert edited() == JSON


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[1]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        JSON + b" ",
        JSON + b"\n",
        JSON[:-1],
        b"\xef\xbb\xbf" + JSON,
        JSON.decode().encode("utf-16"),
        JSON.replace(b'"dim":512', b'"dim":512,"dim":512'),
        JSON.replace(b"256", b"256.0"),
        JSON.replace(b"0.485", b"0.4850"),
        JSON.replace(b"0.485", b"NaN"),
        JSON.replace(b"resnet18", "resnet18é".encode()),
        edited(format=2),
        edited(dim="512"),
        edited(dim=None),
        edited(extra=1),
        edited(transform=None),
        edited(transform={"kind": "eval"}),
        edited(versions=[["torch", "2.9"]]),
        edited(versions={"torch": 2}),
        edited(weights="short"),
    ],
)
def test_anything_but_the_canonical_json_is_refused(data: bytes) -> None:
    with pytest.raises(DamageError) as refused:
        Identity.from_json(data, "here")
    words = "here: expected the identity of a cache of format 1, found "
    assert str(refused.value).startswith(words)
    remedy = "; run `tlcache embed` again, with the same trunk and transform: it writes it anew"
    assert str(refused.value).endswith(remedy)


def test_another_format_is_named() -> None:
    with pytest.raises(DamageError, match="found another format, or an edited file"):
        Identity.from_json(edited(format=2), "here")


def test_a_difference_is_said_in_a_few_words() -> None:
    newer = dataclasses.replace(PLAIN, **CHANGES["pillow"])
    assert differences(PLAIN, newer) == ["pillow 12.0 → 13.0"]
    other = dataclasses.replace(PLAIN, weights="cd" * 32, **CHANGES["timm"])
    assert differences(PLAIN, other) == ["timm none → 1.0", "weights abababab… → cdcdcdcd…"]
    assert differences(other, PLAIN) == ["timm 1.0 → none", "weights cdcdcdcd… → abababab…"]
    train = dataclasses.replace(PLAIN, transform=Transform(kind="train"))
    assert "kind eval → train" in differences(PLAIN, train)
    assert differences(PLAIN, PLAIN) == []


@pytest.mark.parametrize(
    ("library", "version", "said"),
    [
        ("torch", "2.14.1", "2.14"),
        ("torch", "2.14.1+cpu", "2.14"),
        ("torch", "2.14.1+cu130", "2.14"),
        ("torch", "2.14.1.post2", "2.14"),
        ("pillow", "13", "13"),
        ("timm", "1.0.31", "1.0.31"),
        ("timm", "1.0.31.post1+here", "1.0.31"),
        ("torch", "2.15.0.dev20260101+cu130", "2.15.0.dev20260101+cu130"),
        ("torch", "2.6.0a0+ecf3bae40a.nv25.01", "2.6.0a0+ecf3bae40a.nv25.01"),
        ("torch", "2.15.0rc1", "2.15.0rc1"),
        ("libjpeg-turbo", "none", "none"),
    ],
)
def test_a_release_is_named_by_its_series_and_what_is_none_in_full(
    library: str, version: str, said: str
) -> None:
    assert series(library, version) == said == series(library, said)


def test_other_words_for_the_same_versions_are_no_difference() -> None:
    words = {"libjpeg-turbo": "3.1.4", "pillow": "12.0.0", "torch": "2.9.1+cu130"}
    other = dataclasses.replace(PLAIN, versions=tuple(words.items()))
    assert other.key != PLAIN.key and differences(PLAIN, other) == []
    named = dataclasses.replace(PLAIN, versions=(*PLAIN.versions, ("libwebp", "1.5")))
    newer = dataclasses.replace(PLAIN, versions=(*PLAIN.versions, ("libwebp", "1.6")))
    assert differences(PLAIN, named) == differences(named, PLAIN) == []
    assert differences(named, newer) == ["libwebp 1.5 → 1.6"]


def test_a_folders_name_is_one_safe_word() -> None:
    identity = dataclasses.replace(PLAIN, trunk="timm/../convnext nano")
    name = folder_name(identity, "my weights")
    assert name == f"timm_.._convnext_nano-my_weights-eval-{identity.key[:8]}"


def test_timm_counts_only_where_it_makes_the_network() -> None:
    always = dict(library_versions("resnet18")).keys()
    assert {"libjpeg-turbo", "libwebp", "pillow", "torch", "torchvision"} <= always
    for trunk in ("timm/resnet18", "efficientnet_lite0"):
        assert dict(library_versions(trunk)).keys() == always | {"timm"}
    assert all(text for pair in library_versions("resnet18") for text in pair)
