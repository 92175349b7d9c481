"""A cache that needs a clean-up, and what must hold after one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small_rows import DIM, IDENTITY, rows

import tlcache.cache.compaction
import tlcache.core.files
from tlcache.cache.gc import Sweep, collect_garbage
from tlcache.cache.identity import Identity
from tlcache.cache.shards import Rows, read_shard
from tlcache.cache.snapshots import Snapshot, save_snapshot
from tlcache.cache.store import FeatureStore, open_store
from tlcache.data.folders import ImageDataset

PER_SHARD = 16
NAMED = rows(20)


def small_shards(patch: pytest.MonkeyPatch) -> None:
    """A new shard holds 16 rows, so that one of 3 rows is small and one of 4 is not."""
    patch.setattr(tlcache.cache.compaction, "TARGET_BYTES", PER_SHARD * (DIM * 4 + 36))
    patch.setattr(tlcache.core.files, "_fsync", lambda descriptor: None)  # no power cut here


def store_in(cache: Path, identity: Identity = IDENTITY) -> FeatureStore:
    """The store of an identity."""
    return open_store(cache, identity, "imagenet1k")


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
    status = np.zeros((n, 4), np.uint64)
    save_snapshot(path, Snapshot(data, status, images, [""] * n, 10**18))
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
