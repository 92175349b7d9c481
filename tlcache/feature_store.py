"""The cache of one identity: shards of rows, committed whole, checked before they are trusted.

A row is one feature vector, named by (SHA-256 of the image file's bytes, view). A shard is an HDF5
file named by the SHA-256 of its own bytes; it is built in memory, written under a temporary name
and renamed. There is no index and no lock: any number of writers may commit at once, and readers
take the first of equal rows in the order of shard names. ``docs/cache-format.md`` has the bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tlcache.errors import CacheError, DamageError
from tlcache.files import read_capped, write_atomically
from tlcache.hdf5 import Layout, pack, unpack
from tlcache.identity import Identity, differences, folder_name

MAX_SHARD_BYTES = 1 << 30
BAD = ".bad"

_LAYOUT: Layout = {
    "identity": (("|u1",), 1),
    "features": (("<f4",), 2),
    "images": (("|u1",), 2),
    "views": (("<i4",), 1),
}


@dataclasses.dataclass(frozen=True)
class Rows:
    """Cached features and their names, (n, D) float32, (n, 32) uint8 and (n,) int32."""

    features: NDArray[np.float32]
    images: NDArray[np.uint8]
    views: NDArray[np.int32]


class FeatureStore:
    """The rows of one identity, in one folder.

    Args:
        folder: Of this identity; see :func:`open_store`.
        identity: That every row belongs to.
        report: Is told, in one line, of each file that was found damaged and set aside.
    """

    def __init__(
        self, folder: Path, identity: Identity, report: Callable[[str], None] | None = None
    ) -> None:
        self.folder = folder
        self.identity = identity
        self.snapshots = folder / "snapshots"
        self._shards = folder / "shards"
        self._report = report or (lambda line: None)

    def commit(self, rows: Rows) -> Path:
        """Add rows, in one atomic and durable step.

        Returns:
            The new shard.

        Raises:
            CacheError: If it cannot be written, or a value is not finite.
        """
        if not np.isfinite(rows.features).all():
            raise CacheError(
                self.folder,
                expected="finite features",
                found="a feature with NaN or Inf",
                remedy="check the weights; nothing of this batch was kept",
            )
        self._prepare()
        data = pack(
            {
                "identity": np.frombuffer(self.identity.digest, np.uint8),
                "features": rows.features.astype("<f4", copy=False),
                "images": rows.images,
                "views": rows.views.astype("<i4", copy=False),
            }
        )
        path = self._shards / f"{hashlib.sha256(data).hexdigest()}.h5"
        write_atomically(path, data)
        return path

    def has(self, images: NDArray[np.uint8], views: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which of the named rows are cached.

        Args:
            images: (n, 32) digests.
            views: (n,) view numbers.

        Returns:
            (n,).
        """
        found = np.zeros(len(images), bool)
        wanted = _Wanted(images, views)
        for rows in self.rows():
            found[wanted.match(rows)[0]] = True
        return found

    def gather(
        self, images: NDArray[np.uint8], views: NDArray[np.int32]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The named rows, and which of them are cached.

        Args:
            images: (n, 32) digests.
            views: (n,) view numbers.

        Returns:
            (n, D) features, zero where there is no such row; and (n,).
        """
        features = np.zeros((len(images), self.identity.dim), np.float32)
        found = np.zeros(len(images), bool)
        wanted = _Wanted(images, views)
        for rows in self.rows():
            into, source = wanted.match(rows)
            first = ~found[into]
            into, source = into[first], source[first]
            features[into] = rows.features[source]
            found[into] = True
        return features, found

    def rows(self) -> Iterator[Rows]:
        """Every sound shard's rows, in the order of shard names; damaged ones are set aside."""
        seen: set[str] = set()
        vanished = True
        while vanished:  # a shard can vanish when another process compacts; its heir is new
            vanished = False
            for path in self._listed():
                if path.name in seen:
                    continue
                seen.add(path.name)
                try:
                    yield self.read_shard(path)
                except DamageError as error:
                    self._set_aside(path, error)
                except CacheError:
                    if path.exists():
                        raise
                    vanished = True

    def read_shard(self, path: Path) -> Rows:
        """One shard's rows, after every check.

        Raises:
            CacheError: If the file cannot be read.
            DamageError: If it is not whole, not of this identity, or not what a shard is.
        """
        data = read_capped(path, MAX_SHARD_BYTES)
        if hashlib.sha256(data).hexdigest() != path.stem:
            raise _damaged(path, "bytes whose SHA-256 is its name", "other bytes")
        columns = unpack(data, _LAYOUT, path)
        if columns["identity"].tobytes() != self.identity.digest:
            raise _damaged(path, f"rows of identity {self.identity.key[:8]}", "another's")
        features, images, views = (columns[name] for name in ("features", "images", "views"))
        n = len(views)
        if features.shape != (n, self.identity.dim) or images.shape != (n, 32):
            raise _damaged(
                path, f"{n} rows of {self.identity.dim}", f"{features.shape} and {images.shape}"
            )
        if not np.isfinite(features).all():
            raise _damaged(path, "finite features", "NaN or Inf")
        return Rows(
            features.astype(np.float32, copy=False),
            images.astype(np.uint8, copy=False),
            views.astype(np.int32, copy=False),
        )

    def snapshot_path(self, dataset: str) -> Path:
        """Where the snapshot of a data set lies, whether it is there or not."""
        return self.snapshots / f"{dataset}.h5"

    def prepare_snapshot(self, dataset: str) -> Path:
        """Where to write the snapshot of a data set; the folder is there.

        Raises:
            CacheError: If the cache cannot be written.
        """
        self._prepare()
        return self.snapshot_path(dataset)

    def _prepare(self) -> None:
        """Make the folder and ``identity.json`` if they are not there."""
        try:
            for folder in (self._shards, self.snapshots):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(
                self.folder,
                expected="a cache folder that can be written",
                found=error.strerror or type(error).__name__,
                remedy="choose another --cache-dir",
            ) from error
        about = self.folder / "identity.json"
        try:
            if about.exists() and read_identity(self.folder) != self.identity:
                raise CacheError(
                    self.folder,
                    expected=f"the cache of identity {self.identity.key}",
                    found="another identity's",
                    remedy="use another --cache-dir",
                )
        except DamageError as error:
            self._set_aside(about, error)
        if not about.exists():
            write_atomically(about, self.identity.to_json())

    def _listed(self) -> list[Path]:
        if not self._shards.is_dir():
            return []
        return sorted(p for p in self._shards.glob("*.h5") if not p.name.startswith("."))

    def _set_aside(self, path: Path, error: DamageError) -> None:
        try:
            path.rename(path.with_name(path.name + BAD))
            self._report(f"set aside as {path.name}{BAD}: {error}")
        except OSError:  # a cache that is only to be read; the shard is passed over all the same
            self._report(f"passed over: {error}")


def open_store(
    cache: Path, identity: Identity, label: str, report: Callable[[str], None] | None = None
) -> FeatureStore:
    """The store of an identity; nothing is written until the first commit.

    Args:
        cache: The cache folder.
        identity: Of the features.
        label: A readable word for the weights, for the name of a new folder.
        report: Is told of damaged files.
    """
    for folder, known in identities(cache, report):
        if known == identity:
            return FeatureStore(folder, identity, report)
    return FeatureStore(cache / folder_name(identity, label), identity, report)


def identities(
    cache: Path, report: Callable[[str], None] | None = None
) -> Iterator[tuple[Path, Identity]]:
    """Every identity folder of a cache, in the order of names."""
    folders = sorted(cache.iterdir()) if cache.is_dir() else []
    for folder in folders:
        about = folder / "identity.json"
        if not about.is_file():
            continue
        try:
            yield folder, read_identity(folder)
        except DamageError as error:
            if report is not None:
                report(f"passed over: {error}")


def read_identity(folder: Path) -> Identity:
    """The identity of a folder.

    Raises:
        CacheError: If ``identity.json`` cannot be read.
        DamageError: If it is damaged, or not the folder's own.
    """
    about = folder / "identity.json"
    identity = Identity.from_json(read_capped(about, 1 << 20), about)
    if not folder.name.endswith(identity.key[:8]):
        raise _damaged(about, "an identity whose key ends the folder's name", identity.key[:8])
    return identity


def what_is_new(cache: Path, identity: Identity) -> list[str]:
    """How an identity differs from the nearest one in the cache; empty where there is none."""
    known = [differences(other, identity) for _, other in identities(cache)]
    return min(known, key=len, default=[])


class _Wanted:
    """Rows that are looked for, sorted so that each shard is matched in one go."""

    def __init__(self, images: NDArray[np.uint8], views: NDArray[np.int32]) -> None:
        self._images, self._views = np.ascontiguousarray(images), views
        self._keys = _keys(self._images, views)
        self._order = np.argsort(self._keys, kind="stable")
        self._sorted = self._keys[self._order]

    def match(self, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs (index of a wanted row, index into ``rows``) of equal names."""
        keys = _keys(rows.images, rows.views)
        low = np.searchsorted(self._sorted, keys, "left")
        high = np.searchsorted(self._sorted, keys, "right")
        counts = high - low
        source = np.repeat(np.arange(len(keys)), counts)
        offsets = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts)
        into = self._order[np.repeat(low, counts) + offsets]
        same = (self._images[into] == rows.images[source]).all(axis=1)
        same &= self._views[into] == rows.views[source]
        return into[same], source[same]


def _keys(images: NDArray[np.uint8], views: NDArray[np.int32]) -> NDArray[np.uint64]:
    """64 bits of each row's name: enough to find it, and the whole name is compared afterwards."""
    heads = np.ascontiguousarray(images[:, :8]).view("<u8")[:, 0]
    return heads + views.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def _damaged(path: Path, expected: str, found: str) -> DamageError:
    return DamageError(
        path, expected=expected, found=found, remedy="`tlcache embed` makes its rows again"
    )
