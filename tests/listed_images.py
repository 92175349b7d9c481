"""Snapshots of images that need no files: what each is called, where it is and what it holds."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tlcache.cache.snapshots import Snapshot
from tlcache.data.folders import SPLITS, ImageDataset

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
    digests = [hashlib.sha256(repr(image.content).encode()).digest() for image in images]
    rows = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
    status = np.ones((len(images), 4), np.uint64)
    return Snapshot(dataset, status, rows, [image.reason for image in images], 10**18)
