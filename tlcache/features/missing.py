"""Which rows a data set still lacks in the cache, and the jobs that make them.

Covers no making of them (``embedding``).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tlcache.cache.shards import Rows
from tlcache.cache.snapshots import Snapshot
from tlcache.cache.store import FeatureStore
from tlcache.data.folders import SPLITS
from tlcache.trunks.forward_pass import Job, Made


@dataclasses.dataclass(frozen=True)
class MissingRows:
    """Rows to make.

    Attributes:
        images: (m,) indices of distinct images that lack a row.
        plain: (m,) whether the row of the eval transform is among those.
        views: (m, V) which views are.
        reused: How many distinct images lack none.
    """

    images: NDArray[np.int64]
    plain: NDArray[np.bool_]
    views: NDArray[np.bool_]
    reused: int

    def jobs(self, snapshot: Snapshot) -> Iterator[Job]:
        for image, plain, views in zip(self.images, self.plain, self.views, strict=True):
            crops = [(0, 0)] * bool(plain) + [(1, int(view)) for view in np.flatnonzero(views)]
            path, digest = snapshot.dataset.path(int(image)), snapshot.digests[image].tobytes()
            yield Job(path, digest, crops)


def missing_rows(snapshot: Snapshot, stores: Sequence[FeatureStore], views: int) -> MissingRows:
    """Which rows of the readable images are not in the cache."""
    readable = np.flatnonzero(snapshot.readable())
    images = readable[first_of_each(snapshot.digests[readable])]
    digests = snapshot.digests[images]
    plain = ~stores[0].has(digests, np.zeros(len(images), np.int32))
    lacking = np.zeros((len(images), views), bool)
    if views:
        train = readable[snapshot.dataset.splits[readable] == SPLITS.index("train")]
        augmented = np.isin(_names(digests), _names(snapshot.digests[train]))
        wanted = np.repeat(digests[augmented], views, axis=0)
        numbers = np.tile(np.arange(views, dtype=np.int32), int(augmented.sum()))
        lacking[augmented] = ~stores[1].has(wanted, numbers).reshape(-1, views)
    some = plain | lacking.any(axis=1)
    return MissingRows(images[some], plain[some], lacking[some], int((~some).sum()))


def first_of_each(digests: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Where each distinct digest of (n, 32) comes first, rising; in a third of np.unique's room."""
    names = _names(digests)
    order = np.argsort(names, kind="stable")
    ordered = names[order]
    new = np.ones(len(order), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return np.sort(order[new])


def _names(digests: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """(n, 32) digests as n texts, which can be sorted."""
    return np.ascontiguousarray(digests).view("S32")[:, 0]


COMMIT_SECONDS = 5.0
"""Rows are committed at least this often: about the most work that a killed process loses."""
COMMIT_BYTES = 16 << 20


class RowBuffer:
    """Rows that wait to be committed, for each store."""

    def __init__(self, stores: Sequence[FeatureStore]) -> None:
        self._stores = stores
        self._clear()

    def add(self, made: Made) -> None:
        self.keep(made)
        self.commit_if_due()

    def keep(self, made: Made) -> None:
        for (which, view), feature in zip(made.job.crops, made.features, strict=True):
            self._rows[which].append((feature, made.job.digest, view))
            self._bytes += feature.nbytes

    def commit_if_due(self) -> None:
        if self._bytes > COMMIT_BYTES or time.monotonic() - self._since > COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        for store, rows in zip(self._stores, self._rows, strict=True):
            if rows:
                features, digests, views = zip(*rows, strict=True)
                images = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
                store.commit(Rows(np.stack(features), images, np.array(views, np.int32)))
        self._clear()

    def _clear(self) -> None:
        self._rows: list[list[tuple[NDArray[np.float32], bytes, int]]] = [[] for _ in self._stores]
        self._bytes, self._since = 0, time.monotonic()
