"""The cache of one identity: shards that are committed whole and read with suspicion.

There is no index and no lock: any number of writers may commit at once, and readers take the first
of equal rows in the order of shard names. Beside the rows stand the snapshots of the data sets that
name them. Covers no bytes of a shard (``shards``); ``docs/cache-format.md`` has the protocol.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tlcache.cache.copies import first_of_each
from tlcache.cache.identity import (
    FILE,
    Identity,
    differences,
    folder_name,
    identities,
    read_description,
    what_is_new,
)
from tlcache.cache.shards import (
    Located,
    Rows,
    is_as_named,
    locate_rows,
    pack_shard,
    read_rows,
    read_shard,
)
from tlcache.cache.snapshots import (
    Snapshot,
    load_snapshot,
    named_after,
    pack_snapshot,
    save_snapshot,
)
from tlcache.core.errors import CacheError, DamageError
from tlcache.core.files import (
    TEMPORARY,
    Rounds,
    is_gone,
    list_folder,
    make_folder,
    replace_if,
    write_atomically,
)
from tlcache.core.machine import place_of
from tlcache.core.progress import Report, no_report
from tlcache.data.folders import ImageDataset

BAD = ".bad"
MANY_SHARDS, SMALL_BYTES = 1000, 1 << 20
"""So many shards of less than this on average take longer to open than to read."""

_SHARDS_AHEAD = 2
_LOOKS = 5  # for rows whose shards come and go
_ROWS_AT_ONCE = 256  # copied at a time: what was just read is still in the processor's cache

Read = TypeVar("Read")
_Reading = tuple[Path, concurrent.futures.Future[Rows]]
_Due = tuple[Path, tuple[bytes, bytes]]  # a snapshot's file, and what is to be in it


class FeatureStore:
    """The rows of one identity, in one folder.

    Args:
        folder: Of this identity; see :func:`open_store`.
        identity: That every row belongs to.
        report: Is told, in one line, of each file that was found damaged and set aside.
        others: Stores of the same features. A row that only they have is copied from there.
    """

    def __init__(
        self,
        folder: Path,
        identity: Identity,
        report: Report | None = None,
        others: Sequence[FeatureStore] = (),
    ) -> None:
        self.folder = folder
        self.identity = identity
        self._others = others
        self.snapshots = folder / "snapshots"
        self._shards = folder / "shards"
        self.note = report or no_report
        self._passed_over: set[Path] = set()

    def commit(self, rows: Rows) -> Path:
        """Add rows, in one atomic and durable step.

        Returns:
            The new shard.

        Raises:
            CacheError: If it cannot be written, or the rows are not what a shard may hold.
        """
        name, data = pack_shard(rows, self.identity)
        self.prepare()
        write_atomically(self._shards / name, data)
        return self._shards / name

    def has(self, images: NDArray[np.uint8], views: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which of the rows of (n, 32) digests and (n,) views are cached: (n,)."""
        found = np.zeros(len(images), bool)
        for _, into, _ in self._matches(images, views):
            found[into] = True
        return found

    def has_views(self, images: NDArray[np.uint8], views: int) -> NDArray[np.bool_]:
        """Which of the first so many views of distinct images, (n, 32), are cached: (n, views)."""
        found = np.zeros((len(images), views), bool)
        wanted = _Wanted(images, np.zeros(len(images), np.int32))
        for rows, is_own in self._rows_of_all(found):
            at, source = wanted.pairs(rows.images, np.zeros_like(rows.views))
            inside = (rows.views[source] >= 0) & (rows.views[source] < views)
            at, source = at[inside], source[inside]
            if not is_own:
                self._take_over(rows, source[~found[at, rows.views[source]]])
            found[at, rows.views[source]] = True
        return found

    def gather(
        self,
        images: NDArray[np.uint8],
        views: NDArray[np.int32],
        out: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The rows of (n, 32) digests and (n,) views; and which of them are cached, (n,).

        Returns:
            (n, D) features, zero where there is no such row: ``out``, if given, which holds zeros.
        """
        features = np.zeros((len(images), self.identity.dim), np.float32) if out is None else out
        found = np.zeros(len(images), bool)
        for rows, into, source in self._matches(images, views):
            for start in range(0, len(into), _ROWS_AT_ONCE):
                block = slice(start, start + _ROWS_AT_ONCE)
                features[into[block]] = rows.features[source[block]]
            found[into] = True
        return features, found

    def _matches(
        self, images: NDArray[np.uint8], views: NDArray[np.int32]
    ) -> Iterator[tuple[Rows, NDArray[np.int64], NDArray[np.int64]]]:
        """The first of each wanted row: the shard's, which are wanted, and where they lie in it."""
        wanted, found = _Wanted(images, views), np.zeros(len(images), bool)
        for rows, is_own in self._rows_of_all(found):
            into, source = wanted.match(rows)
            new = ~found[into]
            into, source = into[new], source[new]
            found[into] = True
            if not is_own:
                self._take_over(rows, source)
            yield rows, into, source

    def _rows_of_all(self, found: NDArray[np.bool_]) -> Iterator[tuple[Rows, bool]]:
        """This store's shards, and the others' while not all is found; whether each is its own."""
        for store in (self, *self._others):
            if store is self or not found.all():
                yield from ((rows, store is self) for rows in store.rows())

    def _take_over(self, rows: Rows, at: NDArray[np.int64]) -> None:
        """Commit rows of another store, so that this one has by itself all that is read of it."""
        if len(at := np.unique(at)):
            with contextlib.suppress(CacheError):  # a cache that is only to be read
                self.commit(Rows(rows.features[at], rows.images[at], rows.views[at]))

    def rows(self) -> Iterator[Rows]:
        """Every sound shard's rows, in the order of shard names; errors as of :meth:`each`.

        Where the shards are many and small, a line says what would merge them.
        """
        shards = total = size = 0
        for _, rows in self.each(read_shard):
            shards, total, size = shards + 1, total + len(rows.views), size + rows.features.nbytes
            yield rows
        if shards >= MANY_SHARDS and size < shards * SMALL_BYTES:
            self.note(
                f"{shards:,} small shards of {total:,} rows are slow to read: "
                f"`tlcache cache gc --cache-dir {self.folder.parent}` merges them"
            )

    def each(
        self, read: Callable[[Path, Identity], Read], known: Iterable[Path] = ()
    ) -> Iterator[tuple[Path, Read]]:
        """What is read of each sound shard, in the order of names; damaged ones are set aside.

        Args:
            known: Shards to leave out.

        Raises:
            CacheError: If the folder or a shard cannot be read, or it is another identity's.
        """
        with contextlib.suppress(DamageError):  # the rows say themselves whose they are
            self._is_described()

        def ready(path: Path) -> Read:
            return read(path, self.identity)

        # A shard can vanish when another process compacts, and its heir is new.
        rounds = Rounds(lambda: list_folder(self._shards, ".h5"), known)
        for paths in rounds:
            for path, reading in _read_ahead(paths, ready):
                try:
                    found = reading.result()
                except DamageError as error:
                    self._set_aside(path, error)
                except CacheError as error:
                    if not is_gone(error):
                        raise
                    rounds.missed(path)
                else:
                    yield path, found

    def snapshot_path(self, dataset: str) -> Path:
        """Where the snapshot of a data set lies, whether it is there or not."""
        return self.snapshots / f"{dataset}.h5"

    def snapshots_of(self, dataset: str) -> list[Path]:
        """The snapshots of data sets of that name, in the order of names: see ``named_after``."""
        return [p for p in list_folder(self.snapshots, ".h5") if named_after(p, dataset)]

    def draft_path(self, dataset: str) -> Path:
        """Where the digests of a data set lie while its files are being read."""
        return self.snapshots / f".{dataset}{TEMPORARY}"

    def prepare_snapshot(self, dataset: str) -> Path:
        """Where to write the snapshot of a data set, in a folder that :meth:`prepare` made."""
        self.prepare()
        return self.snapshot_path(dataset)

    def prepare(self) -> None:
        """Make the folder and ``identity.json`` if they are not there, or not sound.

        Raises:
            CacheError: If the cache cannot be written, or the folder is another identity's.
        """
        try:
            described = self._is_described()
        except DamageError as error:
            self._set_aside(self.folder / FILE, error)
            described = False
        for folder in (self._shards, self.snapshots):
            make_folder(folder)
        if not described:
            write_atomically(self.folder / FILE, self.identity.to_json())

    def _is_described(self) -> bool:
        """Whether ``identity.json`` is there.

        Raises:
            CacheError: If it is another identity's.
            DamageError: If it is damaged.
        """
        file, key = self.folder / FILE, self.identity.key[:8]
        if not file.exists():
            return False
        if (other := read_description(self.folder)) == self.identity:
            return True
        if self._has_own_rows():  # one changed byte can make another identity that makes sense
            expected = f"identity {key}, as the folder's name and rows say"
            raise DamageError(file, expected, other.key[:8], "`tlcache embed` writes it anew")
        expected, found = f"the cache of identity {key}", f"that of {other.key[:8]}"
        remedy = f"give the folder back its own name and {FILE}, or use another --cache-dir"
        raise CacheError(self.folder, expected, found, remedy)

    def _has_own_rows(self) -> bool:
        for path in list_folder(self._shards, ".h5"):
            with contextlib.suppress(CacheError):
                read_shard(path, self.identity)
                return True
        return False

    def _set_aside(self, path: Path, error: DamageError) -> None:
        """Rename what is damaged; but no file whose bytes are those that its name stands for.

        That one is as it was written, and may be read by others, if not by this process.
        """
        with contextlib.suppress(OSError, CacheError):  # a cache that is only to be read
            if not is_as_named(path):
                path.rename(path.with_name(path.name + BAD))
                self.note(f"set aside as {path.name}{BAD}: {error}")
                return
        if path not in self._passed_over:
            self.note(f"passed over: {error}")
        self._passed_over.add(path)


def open_store(
    cache: Path,
    identity: Identity,
    label: str,
    report: Report | None = None,
    known: Identity | None = None,
) -> FeatureStore:
    """The store of an identity; nothing is written until the first commit.

    Args:
        label: A readable word for the weights, for the name of a new folder.
        report: Is told of damaged files.
        known: The same features in the words that the store is to have them in. By default those
            of the first folder, unless one has the very words of ``identity``.
    """
    same = [each for each in identities(cache, report) if not differences(each[1], identity)]
    if known is None:
        words = [other for _, other in same]
        known = identity if identity in words or not words else words[0]
    own = next((folder for folder, other in same if other == known), None)
    others = [FeatureStore(*each, report) for each in same if each[0] != own]
    return FeatureStore(own or cache / folder_name(known, label), known, report, others)


class _Wanted:
    """Rows that are looked for, sorted so that each shard is matched in one go."""

    def __init__(self, images: NDArray[np.uint8], views: NDArray[np.int32]) -> None:
        self._images, self._views = np.ascontiguousarray(images), views
        keys = _keys(self._images, views)
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]

    def match(self, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Index of each wanted row that ``rows`` has, ascending, and of the first such row."""
        into, source = self.pairs(rows.images, rows.views)
        into, first = np.unique(into, return_index=True)
        return into, source[first]

    def pairs(
        self, images: NDArray[np.uint8], views: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Index of a wanted row, and of one of the given rows with its name: of each such pair."""
        keys = _keys(images, views)
        by_key = np.argsort(keys, kind="stable")  # a search in order stays in the cache
        low = np.searchsorted(self._sorted, keys[by_key], "left")
        high = np.searchsorted(self._sorted, keys[by_key], "right")
        counts = high - low
        source = np.repeat(by_key, counts)
        offsets = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts)
        into = self._order[np.repeat(low, counts) + offsets]
        same = (self._images[into] == images[source]).all(axis=1)
        same &= self._views[into] == views[source]
        return into[same], source[same]


class RowIndex:
    """A store's plain rows, to be gathered in many blocks: each shard is read whole only once.

    Of a row its name and its place stay in memory, 60 bytes, and its numbers are read when they are
    wanted. Shards that come and go meanwhile are found and forgotten.
    """

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._others = [RowIndex(other) for other in store._others]
        self._shards: dict[Path, Located] = {}
        self._index()

    def gather(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(n, D) features of (n, 32) digests, zero where there is no row; and where there is, (n,).

        Raises:
            CacheError: If the folder or a shard cannot be read, or it is another identity's.
        """
        features = np.zeros((len(images), self._store.identity.dim), np.float32)
        found = np.zeros(len(images), bool)
        for _ in range(_LOOKS):
            if new := dict(self._store.each(locate_rows, self._shards)):
                self._shards |= new
                self._index()
            lacking = np.flatnonzero(~found)
            if not (gone := self._read(images[lacking], lacking, features, found)):
                break
            for path in gone:
                del self._shards[path]
            self._index()
        for other in self._others:
            if len(lacking := np.flatnonzero(~found)):
                features[lacking], found[lacking] = other.gather(images[lacking])
                more = lacking[found[lacking]]
                rows = Rows(features[more], images[more], np.zeros(len(more), np.int32))
                self._store._take_over(rows, first_of_each(rows.images))
        return features, found

    def _read(
        self,
        images: NDArray[np.uint8],
        into: NDArray[np.int64],
        features: NDArray[np.float32],
        found: NDArray[np.bool_],
    ) -> list[Path]:
        """Fill in what the shards have of the images; those that are not what they were."""
        at, of = self._wanted.pairs(images, np.zeros(len(images), np.int32))
        order = np.lexsort((at, of))  # of equal rows the first
        of, first = np.unique(of[order], return_index=True)
        at = at[order][first]
        shards = np.searchsorted(self._starts, at, "right") - 1
        paths, gone = list(self._shards), list[Path]()
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            here = here[np.argsort(at[here])]  # as they lie in the file
            path, rows = paths[shard], at[here] - self._starts[shard]
            try:
                read = read_rows(path, self._store.identity, self._shards[path], rows)
            except CacheError as error:
                if not (isinstance(error, DamageError) or is_gone(error)):
                    raise
                gone.append(path)
            else:
                features[into[of[here]]], found[into[of[here]]] = read, True
        return gone

    def _index(self) -> None:
        """Sort the rows anew, with one copy of the images, in the order of shard names."""
        shards = sorted(self._shards.items())
        images = np.concatenate([np.empty((0, 32), np.uint8), *(s.images for _, s in shards)])
        counts = np.array([len(located.images) for _, located in shards], np.int64)
        self._starts = np.cumsum(counts) - counts
        self._shards = {
            path: dataclasses.replace(located, images=images[start : start + count])
            for (path, located), start, count in zip(shards, self._starts, counts, strict=True)
        }
        self._wanted = _Wanted(images, np.zeros(len(images), np.int32))


def _keys(images: NDArray[np.uint8], views: NDArray[np.int32]) -> NDArray[np.uint64]:
    """64 bits of each row's name: enough to find it, and the whole name is compared afterwards."""
    heads = np.ascontiguousarray(images[:, :8]).view("<u8")[:, 0]
    return heads + views.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def _read_ahead(
    paths: Iterable[Path], read: Callable[[Path], Read]
) -> Iterator[tuple[Path, concurrent.futures.Future[Read]]]:
    """Shards in order, the next few being read in threads while the caller has one in hand."""
    waiting: collections.deque[tuple[Path, concurrent.futures.Future[Read]]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(_SHARDS_AHEAD) as pool:
        for path in paths:
            waiting.append((path, pool.submit(read, path)))
            if len(waiting) > _SHARDS_AHEAD:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()


def announce(store: FeatureStore) -> None:
    """One line on what makes this identity new, where the cache holds another."""
    if not store.folder.exists() and (changed := what_is_new(store.folder.parent, store.identity)):
        store.note(f"new identity {store.identity.key[:8]}: {', '.join(changed)}")


def keep_description(store: FeatureStore) -> None:
    """Write ``identity.json`` anew where the rows have lost it; those who only read need it."""
    try:
        if store.folder.exists():  # else the first commit makes it
            store.prepare()
    except CacheError as error:
        store.note(f"{FILE} was not kept: {error}")


def known_snapshots(store: FeatureStore, dataset: ImageDataset) -> Iterator[Snapshot]:
    """Snapshots to take digests from, each loaded when it is asked for: this identity's first.

    An interrupted run may have left a draft that knows more. And as digests do not depend on the
    identity, others' serve where this one has none of this very folder.
    """
    name, folders, ours = glob.escape(dataset.name), store.folder.parent, False
    drafts = sorted(folders.glob(f"*/snapshots/.{name}{TEMPORARY}"))
    for path in (*store.snapshots_of(dataset.name), *drafts):
        for snapshot in _loaded(path, store.note):
            ours |= snapshot.place in ("", place_of(dataset.root))
            yield snapshot
            del snapshot  # before the next is loaded
    for path in () if ours else sorted(folders.glob(f"*/snapshots/{name}*.h5")):
        if path.parent != store.snapshots and named_after(path, dataset.name):
            for snapshot in _loaded(path, store.note):
                # Why an image is unreadable may depend on the identity.
                yield dataclasses.replace(snapshot, reasons=[""] * len(snapshot.reasons))
                del snapshot


def draft_of(store: FeatureStore, dataset: str) -> Callable[[Snapshot], None]:
    """Keeps what is known of a data set's files while they are being read."""

    def keep(snapshot: Snapshot) -> None:
        with contextlib.suppress(CacheError):  # whoever goes on then reads the files again
            store.prepare_snapshot(dataset)
            save_snapshot(store.draft_path(dataset), snapshot)

    return keep


def keep_snapshot(snapshot: Snapshot, store: FeatureStore) -> None:
    """Save a snapshot, unless the store's own says as much or is a later one of this folder."""
    name = snapshot.dataset.name
    first = store.snapshot_path(name)
    try:
        while (due := _due(snapshot, store)) is not None:
            path, parts = due
            store.prepare()
            apart = path != first and not path.exists()
            if replace_if(path, name, lambda: _due(snapshot, store) == due, *parts):
                if apart:
                    store.note(f"the snapshot is {path}: {first} is of other images at that path")
                break
    except CacheError as error:
        # Without it everything still works, but the next run digests the files again.
        store.note(f"the snapshot was not kept: {error}")
        return
    with contextlib.suppress(OSError):  # a draft that stays is passed over for a newer snapshot
        store.draft_path(name).unlink(missing_ok=True)


def _due(snapshot: Snapshot, store: FeatureStore) -> _Due | None:
    """Where a snapshot is to be saved and as what, as things are now; None if it need not be.

    It takes the place of an earlier one of the same folder, or of one that names no row besides.
    Next to any other it gets a name of its own, and both are kept: the other's images may be as
    they were, on another machine, and a clean-up drops the rows that no snapshot names.
    """
    name, taken, instead = snapshot.dataset.name, set[Path](), list[_Due | None]()
    first, second = (store.snapshot_path(n) for n in (name, f"{name}-{snapshot.place}"))
    for path in store.snapshots_of(name):
        for old in _loaded(path, no_report):  # one that is damaged is replaced
            later = old.taken_ns > snapshot.taken_ns
            newest, other = (old, snapshot) if later else (snapshot, old)
            if np.array_equal(old.digests, snapshot.digests):
                # To ask for fewer views takes none away.
                newest = dataclasses.replace(newest, views=max(old.views, snapshot.views))
            taken.add(path)
            same_folder = other.is_of_the_folder_of(newest)
            if same_folder or (not instead and newest.names_all_of(other)):
                due = None if old.says_the_same(newest) else (path, pack_snapshot(newest))
                if same_folder:
                    return due
                instead.append(due)
    if instead:
        return instead[0]
    return second if first in taken else first, pack_snapshot(snapshot)


def _loaded(path: Path, report: Report) -> Iterator[Snapshot]:
    """A snapshot, unless it is damaged, or gone: another run has just been done with its draft."""
    try:
        yield load_snapshot(path)
    except DamageError as error:
        report(f"passed over: {error}")
    except CacheError as error:
        if not is_gone(error):
            raise
