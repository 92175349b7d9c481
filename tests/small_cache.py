"""Caches that nobody embedded: random rows of short features, snapshots, and one to clean up."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.features
import pytest
from numpy.typing import NDArray

import tlcache.cache.compaction
import tlcache.core.files
from tlcache.cache.gc import Sweep, collect_garbage
from tlcache.cache.identity import Identity
from tlcache.cache.shards import Rows, read_shard
from tlcache.cache.snapshots import Snapshot, save_snapshot
from tlcache.cache.store import FeatureStore, open_store
from tlcache.data.folders import SPLITS, ImageDataset
from tlcache.data.transforms import Transform

DIM = 5
IDENTITY = Identity("resnet18", "ab" * 32, DIM, Transform(), (("torch", "2.9"),))
TRAIN = dataclasses.replace(IDENTITY, transform=IDENTITY.transform.as_train())


def rows(count: int, seed: int = 0, dim: int = DIM) -> Rows:
    """Rows of distinct images, all of view 0."""
    random = np.random.default_rng(seed)
    return Rows(
        random.normal(size=(count, dim)).astype(np.float32),
        random.integers(0, 256, (count, 32), dtype=np.uint8),
        np.zeros(count, np.int32),
    )


def part(rows: Rows, chosen: NDArray[np.integer] | slice) -> Rows:
    """Some of the rows."""
    return Rows(rows.features[chosen], rows.images[chosen], rows.views[chosen])


def joined(*parts: Rows) -> Rows:
    """Rows one after the other."""
    return Rows(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.views for part in parts]),
    )


def store_in(cache: Path, identity: Identity = IDENTITY) -> FeatureStore:
    """The store of an identity."""
    return open_store(cache, identity, "imagenet1k")


def files(store: FeatureStore) -> list[str]:
    """Names in the folder of shards."""
    return sorted(path.name for path in (store.folder / "shards").iterdir())


def flip(path: Path) -> None:
    """Damage a file by one bit."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# A cache of ten images: features, two augmented views of the training images, a snapshot.

IMAGES, TRAINED, VIEWS = 10, 6, 2


def digests(count: int = IMAGES) -> NDArray[np.uint8]:
    """(n, 32): of images that nobody needs to see."""
    return _digests([f"image {i}" for i in range(count)])


def snapshot(name: str = "pets", views: int = VIEWS, count: int = IMAGES) -> Snapshot:
    """Of the images, the first ``TRAINED`` in train and the rest in val; two classes."""
    train = np.arange(count) < TRAINED
    dataset = ImageDataset(
        name=name,
        root=Path("/data") / name,
        classes=("cats", "dogs"),
        paths=[f"{'train' if t else 'val'}/cats/{i}.jpg" for i, t in enumerate(train)],
        labels=(np.arange(count) % 2).astype(np.int32),
        splits=np.where(train, 0, 1).astype(np.int8),
        ignored=0,
    )
    return _snapshot(dataset, digests(count), views=views)


def named(images: np.ndarray, view: int = 0, seed: int = 0) -> Rows:
    """Rows of the given images."""
    made = rows(len(images), seed, DIM)
    return Rows(made.features, images, np.full(len(images), view, np.int32))


def small_cache(cache: Path) -> tuple[FeatureStore, FeatureStore]:
    """Make the cache; the stores of the eval and of the train transform."""
    store, augmented = (store_in(cache, identity) for identity in (IDENTITY, TRAIN))
    store.commit(named(digests()[:4]))
    store.commit(named(digests()[4:], seed=1))
    for view in range(VIEWS):
        augmented.commit(named(digests()[:TRAINED], view, seed=2 + view))
    save_snapshot(store.prepare_snapshot("pets"), snapshot())
    return store, augmented


# Snapshots of images that need no files: what each is called, where it is and what it holds.

CLASSES = ("ants", "bees")


class Listed(NamedTuple):
    """One image: ``train/ants/1.jpg`` and what stands for its bytes."""

    path: str
    content: object
    reason: str = ""


def snapshot_of(*images: Listed, root: Path = Path("/nowhere")) -> Snapshot:
    """In the given order; split and class are the path's."""
    parts = [image.path.split("/") for image in images]
    dataset = ImageDataset(
        name="pets",
        root=root,
        classes=CLASSES,
        paths=[image.path for image in images],
        labels=np.array([CLASSES.index(part[1]) for part in parts], np.int32),
        splits=np.array([SPLITS.index(part[0]) for part in parts], np.int8),
    )
    contents = _digests([repr(image.content) for image in images])
    return _snapshot(dataset, contents, [image.reason for image in images])


def _digests(contents: list[str]) -> NDArray[np.uint8]:
    hashed = b"".join(hashlib.sha256(text.encode()).digest() for text in contents)
    return np.frombuffer(hashed, np.uint8).reshape(-1, 32)


def _snapshot(
    dataset: ImageDataset,
    images: NDArray[np.uint8],
    reasons: list[str] | None = None,
    views: int = 0,
) -> Snapshot:
    status = np.ones((len(images), 4), np.uint64)
    return Snapshot(dataset, status, images, reasons or [""] * len(images), 10**18, views)


# A cache that needs a clean-up, and what must hold after one.

PER_SHARD = 16
NAMED = rows(20)


def small_shards(patch: pytest.MonkeyPatch) -> None:
    """A new shard holds 16 rows, so that one of 3 rows is small and one of 4 is not."""
    patch.setattr(tlcache.cache.compaction, "TARGET_BYTES", PER_SHARD * (DIM * 4 + 36))
    patch.setattr(tlcache.core.files, "_fsync", lambda descriptor: None)  # no power cut here


def messy(store: FeatureStore) -> Rows:
    """Seven shards with 5 copies among them and 3 rows that nobody names; the 20 that are named."""
    for start in range(0, 20, 8):
        store.commit(part(NAMED, slice(start, start + 8)))
    store.commit(part(NAMED, np.array([0, 0, 9])))
    store.commit(part(NAMED, np.array([18])))
    store.commit(rows(2, 7))
    store.commit(joined(rows(1, 8), part(NAMED, slice(19, 20))))
    name_rows(store, NAMED.images)
    return NAMED


def name_rows(store: FeatureStore, images: NDArray[np.uint8], dataset: str = "photos") -> Path:
    """Save a snapshot that names images."""
    n = len(images)
    data = ImageDataset(
        name=dataset,
        root=Path("/data"),
        classes=("ants",),
        paths=[f"train/ants/{i}.jpg" for i in range(n)],
        labels=np.zeros(n, np.int32),
        splits=np.zeros(n, np.int8),
    )
    path = store.prepare_snapshot(dataset)
    save_snapshot(path, _snapshot(data, images))
    return path


def sweep(store: FeatureStore, *, dry_run: bool = False) -> Sweep:
    """Collect the garbage of the only identity."""
    return collect_garbage(store.folder.parent, dry_run=dry_run).identities[0]


def check_held(store: FeatureStore, wanted: Rows) -> None:
    """All of the rows are there, to the bit."""
    features, found = store.gather(wanted.images, wanted.views)
    assert found.all()
    np.testing.assert_array_equal(features, wanted.features)


def check_clean(store: FeatureStore, rows: int) -> None:
    """So many rows, each once, in few shards, and nothing else."""
    shards = [read_shard(path, IDENTITY) for path in (store.folder / "shards").iterdir()]
    assert sum(len(shard.views) for shard in shards) == rows
    assert sum(len(shard.views) < PER_SHARD / 4 for shard in shards) <= 1


# Libraries of other versions.

CODECS = {"libjpeg-turbo": "libjpeg_turbo", "libwebp": "webp"}


def pretend(monkeypatch: pytest.MonkeyPatch, library: str, version: str) -> None:
    """Have a library of another version than the one that is installed."""
    if name := CODECS.get(library):
        codec = PIL.features.version
        monkeypatch.setattr(PIL.features, "version", lambda f: version if f == name else codec(f))
    else:
        package = importlib.metadata.version
        monkeypatch.setattr(
            importlib.metadata, "version", lambda p: version if p == library else package(p)
        )
