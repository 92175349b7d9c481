"""Rows that the pass has made, on their way into the cache: committed every few seconds.

Covers no pass (``forward_pass``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tlcache.cache.shards import Rows
from tlcache.cache.store import FeatureStore
from tlcache.trunks.forward_pass import Made

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
