"""Rows by their names: those that a folder's shards hold, and those that snapshots name.

A snapshot names view 0 of each of its images that has a digest; and of the augmented views that
belong to its identity, every view of such an image, as it may be wanted again. It need not be
readable: that a read failed, or one view has no feature, costs no row. Shards are read and checked,
and none is set aside. Covers no features: of each row only the name is kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tlcache.cache.contents import IdentityFolder, open_folder, train_sibling
from tlcache.cache.identity import Identity, identities, read_identity
from tlcache.cache.shards import read_shard
from tlcache.cache.snapshots import Snapshot, load_snapshot
from tlcache.core.errors import CacheError
from tlcache.core.files import Rounds, is_gone, list_folder
from tlcache.data.folders import SPLITS

NAME_BYTES = 36
Names = NDArray[np.bytes_]
"""(n,) of 36 bytes each: the digest of an image and, big-endian, the view. numpy sorts texts of
bytes fast, and all of their bytes count, as they are equally long."""
Images = NDArray[np.bytes_]
"""(n,) of 32 bytes each: digests of images."""

_MOST_VIEWS = (1 << 31) - 1  # the largest number of a view


def row_names(images: NDArray[np.uint8], views: NDArray[np.int32]) -> Names:
    """Names of rows in order: (n, 32) digests and (n,) views."""
    names = np.empty((len(images), NAME_BYTES), np.uint8)
    names[:, :32] = images
    names[:, 32:] = views.astype(">i4").view(np.uint8).reshape(-1, 4)
    return names.reshape(-1).view(f"S{NAME_BYTES}")


def _parts(names: Names) -> tuple[Images, NDArray[np.int32]]:
    """Image and view of each row."""
    table = np.ascontiguousarray(names).view(np.uint8).reshape(-1, NAME_BYTES)
    return _images(table[:, :32]), np.ascontiguousarray(table[:, 32:]).view(">i4")[:, 0]


def _images(digests: NDArray[np.uint8]) -> Images:
    """(n, 32) digests as texts."""
    return np.ascontiguousarray(digests).view("S32")[:, 0]


def _places(
    wanted: NDArray[np.bytes_], known: NDArray[np.bytes_]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where each wanted text is among the known ones, which are sorted; and whether it is there."""
    if not len(known):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    at = np.searchsorted(known, wanted)
    at[at == len(known)] = 0
    return at, known[at] == wanted


@dataclasses.dataclass(frozen=True)
class Held:
    """The names of one identity's rows.

    Attributes:
        names: Sorted, each once.
        rows: How many rows there are, equal names included.
        shards: How many files were read, damaged ones included.
        faults: What is wrong with the shards that were left out.
    """

    names: Names
    rows: int
    shards: int
    faults: list[CacheError]

    def images(self) -> int:
        """How many distinct images have a row."""
        images, _ = _parts(self.names)
        return int((images[1:] != images[:-1]).sum()) + min(1, len(images))


def read_names(
    folder: IdentityFolder, identity: Identity, tick: Callable[[], None] = lambda: None
) -> Held:
    """The names of all sound rows of a folder of that identity: every shard is read and checked.

    Memory: one shard, and 36 bytes for each row. ``tick`` is called after each shard.
    """
    names, faults = [np.empty(0, f"S{NAME_BYTES}")], list[CacheError]()
    # A shard can vanish when another process compacts, and its heir is new.
    shards, rounds = 0, Rounds(lambda: open_folder(folder.path).shards)
    for paths in rounds:
        for path in paths:
            try:
                rows = read_shard(path, identity)
                names.append(row_names(rows.images, rows.views))
            except CacheError as error:
                if is_gone(error) and not path.is_symlink():
                    rounds.missed(path)
                    continue
                faults.append(error)
            shards += 1
            tick()
    every = np.concatenate(names)
    return Held(np.unique(every), len(every), shards, faults)


def named_images(snapshots: Iterable[Snapshot]) -> Images:
    """The images that have a digest, sorted, each once."""
    digests = [snapshot.digests[snapshot.digests.any(axis=1)] for snapshot in snapshots]
    return np.unique(_images(np.concatenate([np.empty((0, 32), np.uint8), *digests])))


def named_rows(names: Names, images: Images, *, augmented: bool) -> NDArray[np.bool_]:
    """(n,): which rows are named by snapshots of their identity, with these :func:`named_images`.

    If the rows are augmented views, the snapshots are of the identity of the plain images.
    """
    of, views = _parts(names)
    _, found = _places(of, images)
    return found if augmented else found & (views == 0)


class NamedRows:
    """Which rows of an identity the snapshots of its cache name, read anew at each call.

    Attributes:
        unknown: Why the last call could not tell, and took every row for named; else empty.
    """

    def __init__(self, cache: Path, identity: Identity) -> None:
        self._cache, self._identity = cache, identity
        self._augmented = identity.transform.kind == "train"
        self.unknown = ""

    def __call__(self, names: Names) -> NDArray[np.bool_]:
        """(n,): which of the rows are named."""
        try:
            paths = [p for f in self._folders() for p in list_folder(f / "snapshots", ".h5")]
            images = named_images(map(load_snapshot, paths))
            self.unknown = "" if len(images) else "no snapshot names a row of it"
        except CacheError as error:
            self.unknown = str(error)
        if self.unknown:
            return np.ones(len(names), bool)
        return named_rows(names, images, augmented=self._augmented)

    def _folders(self) -> list[Path]:
        """Those whose snapshots name rows of this identity.

        Raises:
            CacheError: If it cannot be known which these are.
        """
        known = dict(identities(self._cache))
        if not self._augmented:
            return [folder for folder, other in known.items() if other == self._identity]
        for folder in list_folder(self._cache):
            if folder not in known and (folder / "snapshots").exists():
                known[folder] = read_identity(folder)  # or says what is wrong with it
        return [
            folder
            for folder, other in known.items()
            if other.transform.kind == "eval" and other.as_train() == self._identity
        ]


@dataclasses.dataclass(frozen=True)
class Asked:
    """The rows that a snapshot names, equal names once.

    Attributes:
        rows: How many it names, of its own identity or of its augmented views.
        missing: How many of them are not in the cache.
        example: Path of an image with a missing row; empty where none is missing.
    """

    rows: int
    missing: int
    example: str = ""


@dataclasses.dataclass(frozen=True)
class SnapshotSummary:
    """A snapshot in a few values.

    Attributes:
        file: Its path.
        dataset, root: Name and folder of the data set.
        images: How many there are, by split.
        classes: Their names.
        unreadable: How many images cannot be read.
        views: How many augmented views of each training image it asks for.
        taken_ns: When it was taken, in nanoseconds since 1970.
        asked: Its rows.
    """

    file: Path
    dataset: str
    root: Path
    images: dict[str, int]
    classes: tuple[str, ...]
    unreadable: int
    views: int
    taken_ns: int
    asked: Asked


def look_up(snapshot: Snapshot, own: Held, augmented: Held | None) -> Asked:
    """How many rows a snapshot asks for, and how many of them are missing.

    ``own`` is of its identity, ``augmented`` of the same with the train transform, if there is one.
    """
    readable = snapshot.readable()
    images, first = _distinct(snapshot, readable)
    names = row_names(images.view(np.uint8).reshape(-1, 32), np.zeros(len(images), np.int32))
    lost = first[~_places(names, own.names)[1]]
    missing, rows = len(lost), len(images)
    if snapshot.views:
        train = readable & (snapshot.dataset.splits == SPLITS.index("train"))
        images, first = _distinct(snapshot, train)
        counts = np.zeros(len(images), np.int64)
        if augmented is not None:
            of, views = _parts(augmented.names)
            at, found = _places(of, images)
            found &= (views >= 0) & (views < min(snapshot.views, _MOST_VIEWS))
            counts = np.bincount(at[found], minlength=len(images))
        rows += len(images) * snapshot.views
        missing += len(images) * snapshot.views - int(counts.sum())
        lost = np.concatenate([lost, first[counts < min(snapshot.views, _MOST_VIEWS)]])
    return Asked(rows, missing, snapshot.dataset.paths[lost.min()] if len(lost) else "")


def _distinct(snapshot: Snapshot, chosen: NDArray[np.bool_]) -> tuple[Images, NDArray[np.int64]]:
    """The chosen images, sorted, each once; and where in the snapshot each comes first."""
    at = np.flatnonzero(chosen)
    images, first = np.unique(_images(snapshot.digests[at]), return_index=True)
    return images, at[first]


def inspect(
    folder: IdentityFolder, identity: Identity, tick: Callable[[], None] = lambda: None
) -> tuple[Held, list[SnapshotSummary], list[CacheError]]:
    """The rows and the snapshots of a folder of that identity, and what is wrong with them."""
    own, augmented = read_names(folder, identity, tick), None
    summaries, faults = [], list(own.faults)
    for path in folder.snapshots:
        try:
            snapshot = load_snapshot(path)
        except CacheError as error:
            faults.append(error)
            continue
        if snapshot.views and augmented is None and (sibling := train_sibling(folder, identity)):
            augmented = read_names(sibling, identity.as_train(), tick)
        summaries.append(_summary(path, snapshot, look_up(snapshot, own, augmented)))
    return own, summaries, faults


def _summary(path: Path, snapshot: Snapshot, asked: Asked) -> SnapshotSummary:
    dataset = snapshot.dataset
    return SnapshotSummary(
        file=path,
        dataset=dataset.name,
        root=dataset.root,
        images={split: len(dataset.indices(split)) for split in dataset.present_splits()},
        classes=dataset.classes,
        unreadable=int((~snapshot.readable()).sum()),
        views=snapshot.views,
        taken_ns=snapshot.taken_ns,
        asked=asked,
    )
