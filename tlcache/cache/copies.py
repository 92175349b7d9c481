"""Equal images by their digests: copies of a file, and copies where they must not be.

An image that is in train and in val makes val's accuracy flatter. Copies are found from a snapshot
alone, without reading an image. Covers no images that are merely alike.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlcache.cache.snapshots import Snapshot
from tlcache.core.errors import one_line
from tlcache.data.folders import SPLITS, ImageDataset


def copies(snapshot: Snapshot) -> list[NDArray[np.int64]]:
    """Groups of files with the same bytes: rows of a snapshot, rising; unreadable ones aside."""
    rows = np.flatnonzero(snapshot.readable())
    ids = copy_ids(snapshot.digests[rows])
    several = np.flatnonzero(np.bincount(ids, minlength=len(ids))[ids] > 1)
    order = several[np.argsort(ids[several], kind="stable")]
    starts = np.flatnonzero(np.diff(ids[order], prepend=-1))
    groups = np.split(rows[order], starts[1:]) if len(order) else []
    return sorted(groups, key=lambda group: int(group[0]))


def copy_ids(digests: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(n,): for each digest of (n, 32), where an equal one comes first."""
    ids = np.arange(len(digests))
    # Numbers sort many times faster than texts, and nearly all digests part by their beginning.
    starts = np.ascontiguousarray(digests[:, :8]).view(np.uint64)[:, 0]
    order = np.argsort(starts, kind="stable")
    same = starts[order][1:] == starts[order][:-1]
    doubtful = order[np.unique(np.flatnonzero(same)[:, None] + [0, 1])]
    if len(doubtful):
        names = np.ascontiguousarray(digests[doubtful]).view("V32")[:, 0]
        _, first, inverse = np.unique(names, return_index=True, return_inverse=True)
        ids[doubtful] = doubtful[first[inverse]]
    return ids


def first_of_each(digests: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Where each distinct digest of (n, 32) comes first, rising."""
    return np.flatnonzero(copy_ids(digests) == np.arange(len(digests)))


def across_splits(dataset: ImageDataset, group: NDArray[np.int64]) -> bool:
    """Whether images are in different splits."""
    return len(set(dataset.splits[group].tolist())) > 1


def in_two_classes(dataset: ImageDataset, group: NDArray[np.int64]) -> bool:
    """Whether images have different labels."""
    return len(set(dataset.labels[group].tolist())) > 1


def leak_warning(snapshot: Snapshot) -> str | None:
    """One line on images that are in two splits, where there are any."""
    dataset = snapshot.dataset
    leaks = [group for group in copies(snapshot) if across_splits(dataset, group)]
    if not leaks:
        return None
    present = [set(dataset.splits[group].tolist()) for group in leaks]
    counts = {
        f"both {SPLITS[a]} and {SPLITS[b]}": sum({a, b} <= splits for splits in present)
        for a, b in itertools.combinations(range(len(SPLITS)), 2)
    }
    (first, count), *more = [(where, count) for where, count in counts.items() if count]
    said = f"{count} {'image is' if count == 1 else 'images are'} in {first}"
    said += "".join(f", {count} in {where}" for where, count in more)
    a, b = leaks[0][0], leaks[0][dataset.splits[leaks[0]] != dataset.splits[leaks[0][0]]][0]
    return (
        f"{said} (first: {one_line(dataset.paths[a])} = {one_line(dataset.paths[b])}): what is "
        "measured there flatters; `tlcache check DATA` lists them"
    )


def rows_of_features(snapshot: Snapshot) -> NDArray[np.int64]:
    """Which image of a snapshot each row of its ``Features`` belongs to: (n,)."""
    rows = np.flatnonzero(snapshot.readable())
    return rows[np.argsort(snapshot.dataset.splits[rows], kind="stable")]


def class_counts(dataset: ImageDataset) -> dict[str, dict[str, int]]:
    """How many images each class has in each split that holds any."""
    counts = {
        split: np.bincount(dataset.labels[dataset.indices(split)], minlength=len(dataset.classes))
        for split in dataset.present_splits()
    }
    return {s: dict(zip(dataset.classes, c.tolist(), strict=True)) for s, c in counts.items()}


def describe_image(dataset: ImageDataset, row: int) -> dict[str, Any]:
    """Path, split and class of an image, as plain JSON values."""
    return {
        "path": dataset.paths[row],
        "split": SPLITS[dataset.splits[row]],
        "class": dataset.classes[dataset.labels[row]],
    }
