"""Which rows an identity folder holds, by name, and which of them its snapshots ask for.

Every shard is read and checked, and none is set aside. Covers no features: of each row only the
name is kept.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tlcache.cache.contents import IdentityFolder, open_folder, train_sibling
from tlcache.cache.identity import Identity
from tlcache.cache.shards import Rows, read_shard
from tlcache.cache.snapshots import Snapshot, load_snapshot
from tlcache.core.errors import CacheError, DamageError
from tlcache.core.files import is_gone
from tlcache.core.progress import Report
from tlcache.data.folders import SPLITS

Names = NDArray[np.bytes_]
"""(n,) of 36 bytes each: the digest of an image and, big-endian, the view."""


_MOST_VIEWS = (1 << 31) - 1  # the largest number of a view


@dataclasses.dataclass
class Held:
    """The names of one identity's rows.

    Attributes:
        names: Sorted, each once.
        rows: How many rows there are, equal names included.
        shards: How many files were read, damaged ones included.
        faults: What is wrong with the shards that were left out.
        asked_for: (names,): set by :func:`look_up` for each row that a snapshot names.
    """

    names: Names
    rows: int
    shards: int
    faults: list[CacheError]
    asked_for: NDArray[np.bool_]

    def images(self) -> int:
        """How many distinct images have a row."""
        heads = self.names.view(np.uint8).reshape(-1, 36)[:, :32]
        return int((heads[1:] != heads[:-1]).any(axis=1).sum()) + min(1, len(heads))

    def find(self, names: Names) -> NDArray[np.bool_]:
        """(n,): which of the names are there; those are marked as asked for."""
        if not len(self.names):
            return np.zeros(len(names), bool)
        at = np.searchsorted(self.names, names)
        at[at == len(self.names)] = 0
        found = self.names[at] == names
        self.asked_for[at[found]] = True
        return np.asarray(found)


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


def inspect(
    folder: IdentityFolder, identity: Identity, tick: Callable[[], None] = lambda: None
) -> tuple[Held, list[SnapshotSummary], list[CacheError]]:
    """The rows and the snapshots of a folder, and what is wrong with them.

    Args:
        identity: The folder's own.
        tick: Called after each shard.
    """
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


def read_names(
    folder: IdentityFolder, identity: Identity, tick: Callable[[], None] = lambda: None
) -> Held:
    """The names of all sound rows of a folder: every shard is read and checked.

    Args:
        identity: The folder's own.
        tick: Called after each shard.

    Memory: one shard, and 36 bytes for each row.
    """
    names, faults, seen = [np.empty(0, "S36")], list[CacheError](), set[Path]()
    shards, pending = 0, list(folder.shards)
    while pending:  # a shard can vanish when another process compacts, and its heir is new
        for path in pending:
            try:
                rows = read_shard(path, identity)
                names.append(row_names(rows.images, rows.views))
            except CacheError as error:
                if not os.path.lexists(path):
                    continue
                faults.append(error)
            shards += 1
            tick()
        seen.update(pending)
        pending = [path for path in open_folder(folder.path).shards if path not in seen]
    every = np.concatenate(names)
    distinct = np.unique(every)
    return Held(distinct, len(every), shards, faults, np.zeros(len(distinct), bool))


def look_up(snapshot: Snapshot, own: Held, augmented: Held | None) -> Asked:
    """Which rows a snapshot names, and how many of them are missing; marks those that are there.

    Args:
        own: Of the snapshot's own identity.
        augmented: Of the same identity with the train transform; None where there is none.
    """
    readable = snapshot.readable()
    names, images = _distinct(snapshot, readable)
    lost = images[~own.find(names)]
    missing, rows = len(lost), len(images)
    if augmented is not None and len(augmented.names) and len(names):
        # Any view of an image is named with it, as for a clean-up: it may be wanted again.
        augmented.asked_for |= _images_of(augmented, names)[1]
    if snapshot.views:
        train = readable & (snapshot.dataset.splits == SPLITS.index("train"))
        names, images = _distinct(snapshot, train)
        counts = _views_of(names, snapshot.views, augmented)
        rows += len(images) * snapshot.views
        missing += len(images) * snapshot.views - int(counts.sum())
        lost = np.concatenate([lost, images[counts < min(snapshot.views, _MOST_VIEWS)]])
    return Asked(rows, missing, snapshot.dataset.paths[lost.min()] if len(lost) else "")


def _summary(path: Path, snapshot: Snapshot, asked: Asked) -> SnapshotSummary:
    dataset = snapshot.dataset
    splits = {name: int((dataset.splits == i).sum()) for i, name in enumerate(SPLITS)}
    return SnapshotSummary(
        file=path,
        dataset=dataset.name,
        root=dataset.root,
        images={name: count for name, count in splits.items() if count},
        classes=dataset.classes,
        unreadable=int((~snapshot.readable()).sum()),
        views=snapshot.views,
        taken_ns=snapshot.taken_ns,
        asked=asked,
    )


def row_names(images: NDArray[np.uint8], views: NDArray[np.int32]) -> Names:
    """Names of rows in order: (n, 32) digests and (n,) views."""
    names = np.empty((len(images), 36), np.uint8)
    names[:, :32] = images
    names[:, 32:] = views.astype(">i4").view(np.uint8).reshape(-1, 4)
    return names.reshape(-1).view("S36")


def _distinct(snapshot: Snapshot, chosen: NDArray[np.bool_]) -> tuple[Names, NDArray[np.int64]]:
    """Names of the chosen images' rows of view 0, each once, and an image of each."""
    at = np.flatnonzero(chosen)
    names = row_names(snapshot.digests[at], np.zeros(len(at), np.int32))
    names, first = np.unique(names, return_index=True)
    return names, at[first]


def _views_of(names: Names, views: int, augmented: Held | None) -> NDArray[np.int64]:
    """(n,): how many of the first views each image has.

    Args:
        names: Of the images' rows of view 0, sorted, each once.
    """
    if augmented is None or not len(augmented.names) or not len(names):
        return np.zeros(len(names), np.int64)
    at, found, numbers = _images_of(augmented, names)
    found &= (numbers >= 0) & (numbers < min(views, _MOST_VIEWS))
    return np.bincount(at[found], minlength=len(names))


def _images_of(
    augmented: Held, names: Names
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int32]]:
    """Of each augmented row: which of the images it is of, whether of any, and its view."""
    table = augmented.names.view(np.uint8).reshape(-1, 36)
    numbers = np.ascontiguousarray(table[:, 32:]).view(">i4")[:, 0]
    heads = row_names(table[:, :32], np.zeros(len(table), np.int32))
    at = np.searchsorted(names, heads)
    at[at == len(names)] = 0
    return at, names[at] == heads, numbers


NAME_BYTES = 36
"""Of a row's name: the image's digest and the view."""

Named = Callable[[NDArray[np.uint8], NDArray[np.int32]], NDArray[np.bool_]]
"""Which rows the snapshots name, as they are when it is called: (n, 32) and (n,) to (n,)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Shard:
    """A sound shard, and which of the survey's names its rows have, (n,)."""

    path: Path
    ids: NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Survey:
    """The sound shards in the order of names, and the m different names of their rows.

    Attributes:
        shards: All that are sound.
        images, views: (m, 32) and (m,): the names.
        named: (m,): which of them a snapshot names.
    """

    shards: list[Shard]
    images: NDArray[np.uint8]
    views: NDArray[np.int32]
    named: NDArray[np.bool_]

    def counts(self, shards: Sequence[Shard]) -> tuple[int, int, int]:
        """Rows in the shards: all, those that no snapshot names, and different named ones."""
        ids = joined_ids(shards)
        named = self.named[ids]
        return len(ids), int((~named).sum()), len(np.unique(ids[named]))


def take_survey(paths: Sequence[Path], identity: Identity, named: Named, report: Report) -> Survey:
    """Read all shards, for the names of their rows.

    Args:
        paths: The shards, in the order of names.
        identity: That the rows belong to.
        named: Says which rows the snapshots name; asked after the shards were read, so that a row
            that was named before it was committed is seen as named.
        report: Is told, in one line, of each damaged shard.

    Raises:
        CacheError: If a shard cannot be read.
    """
    names, found = [np.zeros((0, NAME_BYTES), np.uint8)], []
    for path in paths:
        try:
            rows = read_if_there(path, identity)
        except DamageError as error:
            report(f"left alone: {error}")
            continue
        if rows is not None:
            view_bytes = rows.views.astype("<i4", copy=False)[:, None].view(np.uint8)
            names.append(np.concatenate([rows.images, view_bytes], axis=1))
            found.append(path)
    # As texts of bytes they sort fast, and all of their bytes count, as they are equally long.
    texts = np.concatenate(names).view(f"S{NAME_BYTES}")[:, 0]
    different, ids = np.unique(texts, return_inverse=True)
    table = different.view(np.uint8).reshape(-1, NAME_BYTES)
    images, views = table[:, :32].copy(), table[:, 32:].copy().view("<i4")[:, 0]
    parts = np.split(ids, np.cumsum([len(part) for part in names]))[1:-1]
    shards = [Shard(path, part) for path, part in zip(found, parts, strict=True)]
    return Survey(shards, images, views, named(images, views))


def read_if_there(path: Path, identity: Identity) -> Rows | None:
    """A shard's rows; None if it has vanished: whoever deleted it has them elsewhere.

    Raises:
        CacheError: If it cannot be read.
        DamageError: If it is damaged.
    """
    try:
        return read_shard(path, identity)
    except DamageError:
        raise
    except CacheError as error:
        if not is_gone(error):
            raise
    return None


def to_rewrite(survey: Survey, per_shard: int) -> list[Shard]:
    """The shards with a row to drop, every shard with a copy of a row, and the small ones.

    A shard of less than a quarter of ``per_shard`` rows is small. Two of them fit into one, so
    there are always fewer shards or rows afterwards.
    """
    copies = np.bincount(joined_ids(survey.shards), minlength=len(survey.named))
    spare = (copies > 1) | ~survey.named
    spoilt = {shard for shard in survey.shards if spare[shard.ids].any()}
    small = {shard for shard in survey.shards if 4 * len(shard.ids) < per_shard}
    chosen = spoilt | small if spoilt or len(small) > 1 else set()
    return [shard for shard in survey.shards if shard in chosen]


def joined_ids(shards: Sequence[Shard]) -> NDArray[np.int64]:
    """The ids of all rows of the shards, one after the other."""
    return np.concatenate([np.zeros(0, np.int64), *(shard.ids for shard in shards)])
