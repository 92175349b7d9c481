"""An identity with short features, and random rows of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tlcache.cache.identity import Identity
from tlcache.cache.shards import Rows
from tlcache.cache.store import FeatureStore
from tlcache.data.transforms import Transform

DIM = 5
IDENTITY = Identity("resnet18", "ab" * 32, DIM, Transform(), (("torch", "2.9"),))


def rows(count: int, seed: int = 0, dim: int = DIM) -> Rows:
    """Rows of distinct images, all of view 0."""
    random = np.random.default_rng(seed)
    return Rows(
        random.normal(size=(count, dim)).astype(np.float32),
        random.integers(0, 256, (count, 32), dtype=np.uint8),
        np.zeros(count, np.int32),
    )


def files(store: FeatureStore) -> list[str]:
    """Names in the folder of shards."""
    return sorted(path.name for path in (store.folder / "shards").iterdir())


def flip(path: Path) -> None:
    """Damage a file by one bit."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
