"""Whatever a feature depends on makes a miss when it changes, and is named in one line.

Edits of images are in ``test_staleness_images``, and what makes a hit in ``test_staleness_hits``.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path
from time import time_ns
from typing import Any

import numpy as np
import pytest
import torch
from small_cache import pretend
from small_trunk import small_trunk

from tlcache.cache.identity import series, what_is_new
from tlcache.cache.store import open_store
from tlcache.data.folders import scan
from tlcache.data.transforms import Transform
from tlcache.features.embed import embed
from tlcache.features.read import Embedding
from tlcache.trunks import info as trunk_memo
from tlcache.trunks.load import Trunk, load_trunk

IMAGES = 24  # of tiny_data
SMALL = {"resize": 40, "crop": 32}  # for a network of published size
TRUNK = dataclasses.replace(small_trunk(), transform=Transform())


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def but_the_transform(said: list[str]) -> Callable[[str], None]:
    """Keeps lines, save for the one that every weights file has."""
    return lambda line: None if line.startswith("transform: ") else said.append(line)


def missed(changed: str, data: Path, cache: Path, trunk: str | Trunk, **how: Any) -> Embedding:
    """Embed what is in the cache under a near identity: all is made again, and one line says why.

    What was there stays as it was. ``{new}`` in ``changed`` stands for the weights' digest.
    """
    kept = {path: path.read_bytes() for path in cache.glob("*eval*/**/*") if path.is_file()}
    said: list[str] = []
    made = embed(scan(data), trunk, cache=cache, report=but_the_transform(said), **how)
    assert (made.embedded, made.reused) == (IMAGES, 0)
    changed = changed.format(new=made.trunk.digest[:8])
    assert said == [f"new identity {made.stores[0].identity.key[:8]}: {changed}"]
    assert {path: path.read_bytes() for path in kept} == kept
    again = embed(scan(data), trunk, cache=cache, report=but_the_transform(said), **how)
    assert (again.embedded, len(said)) == (0, 1)
    return made


def differing_bits(one: Embedding, other: Embedding) -> int:
    """How many of the features of two passes are not the same to the last bit."""
    return int((one.read().features != other.read().features).any(axis=1).sum())


# --- weights


def nudge(file: Path, name: str) -> None:
    """Change one number in a weights file by one ulp; size, mtime and path stay as they are."""
    before, state = file.stat(), torch.load(file, weights_only=True)
    numbers = state[name].view(-1)
    old = np.float32(numbers[len(numbers) // 2])
    numbers[len(numbers) // 2] = float(np.nextafter(old, np.float32(np.inf)))
    assert 0 < abs(np.float32(numbers[len(numbers) // 2]) - old) <= np.spacing(np.abs(old))
    torch.save(state, file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.fixture
def _memo(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute later: the memo of digests believes that a file has come to rest."""
    monkeypatch.setattr(trunk_memo, "time_ns", lambda: time_ns() + 60 * 10**9)


def missed_after_a_nudge(data: Path, cache: Path, network: str, file: Path, name: str) -> None:
    weights = str(file)
    old = embed(scan(data), network, weights, cache=cache, transform=SMALL).trunk.digest
    assert trunk_memo.recall(cache / "weights", network, weights)
    nudge(file, name)
    words = f"weights {old[:8]}… → {{new}}…"
    missed(words, data, cache, network, weights=weights, transform=SMALL)


@pytest.mark.usefixtures("_memo")
@pytest.mark.parametrize("name", ["features.4.block.0.0.weight", "features.0.1.running_mean"])
def test_one_weight_or_buffer_changed_by_one_ulp_in_the_same_file(
    tiny_data: Path, cache: Path, tmp_path: Path, name: str
) -> None:
    file = tmp_path / "mine.pth"
    torch.save(load_trunk("mobilenet_v3_small", "random").module.state_dict(), file)
    missed_after_a_nudge(tiny_data, cache, "mobilenet_v3_small", file, name)


@pytest.mark.usefixtures("_memo")
def test_one_ulp_in_one_of_two_million_real_weights(
    tiny_data: Path, cache: Path, mobilenet_weights: Path, tmp_path: Path
) -> None:
    file = tmp_path / "real.pth"
    torch.save(torch.load(mobilenet_weights, weights_only=True), file)
    missed_after_a_nudge(tiny_data, cache, "mobilenet_v2", file, "features.17.conv.1.0.weight")


def test_another_network_with_other_weights(tiny_data: Path, cache: Path) -> None:
    other = dataclasses.replace(TRUNK, name="other")
    embed(scan(tiny_data), TRUNK, cache=cache)
    missed("trunk small → other", tiny_data, cache, other)


# --- transform


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"resize": 255}, "resize 256 → 255"),
        ({"interpolation": "bicubic"}, "interpolation bilinear → bicubic"),
        ({"crop": 192}, "crop 224 → 192"),
        (
            {"mean": (0.485, 0.456, 0.407)},
            "mean [0.485, 0.456, 0.406] → [0.485, 0.456, 0.407]",
        ),
        ({"std": (0.229, 0.224, 0.3)}, "std [0.229, 0.224, 0.225] → [0.229, 0.224, 0.3]"),
        ({"resize": 255, "crop": 192}, "crop 224 → 192, resize 256 → 255"),
    ],
)
def test_another_transform(
    tiny_data: Path, cache: Path, change: dict[str, Any], words: str
) -> None:
    before = embed(scan(tiny_data), TRUNK, cache=cache)
    made = missed(words, tiny_data, cache, TRUNK, transform=change)
    assert differing_bits(before, made) == IMAGES


def test_another_transform_makes_the_augmented_views_again_too(
    tiny_data: Path, cache: Path
) -> None:
    before = embed(scan(tiny_data), TRUNK, cache=cache, views=2).read().train_views
    how = {"views": 2, "transform": {"interpolation": "nearest"}}
    made = missed("interpolation bilinear → nearest", tiny_data, cache, TRUNK, **how)
    after = made.read().train_views
    assert before is not None and after is not None
    assert (before != after).any(axis=2).all()


# --- libraries


@pytest.mark.parametrize(
    ("library", "old", "new", "words"),
    [
        ("pillow", "12.0.1", "12.1.0", "12.0 → 12.1"),
        ("libjpeg-turbo", "3.0.4", "3.1.0", "3.0 → 3.1"),
        ("libwebp", "1.5.0", "1.6.0", "1.5 → 1.6"),
        ("torch", "2.14.1+cpu", "2.15.0+cu130", "2.14 → 2.15"),
        ("torch", "2.15.0.dev20260101+cpu", "2.15.0", "2.15.0.dev20260101+cpu → 2.15"),
        ("torchvision", "0.29.1", "0.30.0", "0.29 → 0.30"),
        ("timm", "1.0.30", "1.0.31", "1.0.30 → 1.0.31"),
    ],
)
def test_another_version_of_a_library(
    tiny_data: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    library: str,
    old: str,
    new: str,
    words: str,
) -> None:
    trunk = dataclasses.replace(TRUNK, name="timm/small")
    pretend(monkeypatch, library, old)
    embed(scan(tiny_data), trunk, cache=cache)
    pretend(monkeypatch, library, new)
    missed(f"{library} {words}", tiny_data, cache, trunk)


# --- what is stored


def test_another_stored_dtype(tiny_data: Path, cache: Path) -> None:
    embed(scan(tiny_data), TRUNK, cache=cache)
    missed("dtype float32 → float16", tiny_data, cache, TRUNK, dtype="float16")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"precision": "bf16"}, "precision fp32 → bf16"),
        ({"cut": "layer3"}, "cut head-input → layer3"),
    ],
)
def test_another_precision_or_cut(
    tiny_data: Path, cache: Path, change: dict[str, Any], words: str
) -> None:
    made = embed(scan(tiny_data), TRUNK, cache=cache)
    identity = dataclasses.replace(made.stores[0].identity, **change)
    assert what_is_new(cache, identity) == [words]
    digests = made.snapshot.digests
    assert not open_store(cache, identity, "x").has(digests, np.zeros(IMAGES, np.int32)).any()


# --- the nearest of several


def test_the_nearest_identity_is_the_one_that_is_compared_with(
    tiny_data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = {"resize": 300, "crop": 200, "interpolation": "bicubic"}
    embed(scan(tiny_data), TRUNK, cache=cache)
    embed(scan(tiny_data), TRUNK, cache=cache, transform=far)
    missed("resize 300 → 299", tiny_data, cache, TRUNK, transform=far | {"resize": 299})
    missed("resize 256 → 255", tiny_data, cache, TRUNK, transform={"resize": 255})
    real = series("pillow", importlib.metadata.version("pillow"))
    pretend(monkeypatch, "pillow", "99.0")
    missed(f"pillow {real} → 99.0", tiny_data, cache, TRUNK, transform=far)
