"""A cache of ten images: features, two augmented views of the training images, a snapshot."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
from small_rows import DIM, IDENTITY, rows

from tlcache.cache.shards import Rows
from tlcache.cache.snapshots import Snapshot, save_snapshot
from tlcache.cache.store import FeatureStore, open_store
from tlcache.data.folders import ImageDataset

TRAIN = dataclasses.replace(IDENTITY, transform=IDENTITY.transform.as_train())
IMAGES, TRAINED, VIEWS = 10, 6, 2


def digests(count: int = IMAGES) -> np.ndarray:
    """(n, 32): of images that nobody needs to see."""
    texts = [hashlib.sha256(f"image {i}".encode()).digest() for i in range(count)]
    return np.frombuffer(b"".join(texts), np.uint8).reshape(-1, 32)


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
    status = np.ones((count, 4), np.uint64)
    return Snapshot(dataset, status, digests(count), [""] * count, 10**18, views)


def named(images: np.ndarray, view: int = 0, seed: int = 0) -> Rows:
    """Rows of the given images."""
    made = rows(len(images), seed, DIM)
    return Rows(made.features, images, np.full(len(images), view, np.int32))


def small_cache(cache: Path) -> tuple[FeatureStore, FeatureStore]:
    """Make the cache; the stores of the eval and of the train transform."""
    store, augmented = (open_store(cache, i, "imagenet1k") for i in (IDENTITY, TRAIN))
    store.commit(named(digests()[:4]))
    store.commit(named(digests()[4:], seed=1))
    for view in range(VIEWS):
        augmented.commit(named(digests()[:TRAINED], view, seed=2 + view))
    save_snapshot(store.prepare_snapshot("pets"), snapshot())
    return store, augmented
