"""Shards written anew without the rows that nobody needs, and many small ones as few.

There is no lock, and any number of compactions, embeds and readers may run at once:

- A shard is deleted only after every row that is kept of it was committed in this very run, never
  because the row was found elsewhere.
- Every new shard ends in random bytes, so its name is new, and no shard comes back that another
  run counts on deleting. Of the new shards that hold a row, the youngest is never deleted: whoever
  did would have committed a younger one. A reader that meets a vanished shard lists the folder
  again until nothing is new, and so finds that youngest one.
- Rows that no snapshot names go in a way that lets ``embed`` name them meanwhile: their shards are
  hidden, it is asked again what is named, and only then are they deleted or shown again.

Whatever is killed leaves extra copies or hidden shards: the next run shows these again, and
finishes. Covers neither which rows are named (``rows``) nor other files (``gc``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tlcache.cache.identity import Identity
from tlcache.cache.rows import NAME_BYTES, Names, row_names
from tlcache.cache.shards import Rows, pack_shard, read_shard
from tlcache.core.errors import CacheError, DamageError, faults_as
from tlcache.core.files import is_gone, list_folder, write_atomically
from tlcache.core.progress import Report, no_report

TARGET_BYTES = 64 << 20
"""Of features and names in a new shard."""
HIDDEN = ".hidden"

_NONCE_BYTES = 16

Named = Callable[[Names], NDArray[np.bool_]]
"""Which rows the snapshots name, as they are when it is called."""


@dataclasses.dataclass(frozen=True)
class Compacted:
    """What was done to the shards of an identity, or would be.

    Attributes:
        rows: In sound shards, before.
        unnamed, duplicate: Rows that were dropped: named by no snapshot, or there twice.
        shards_before, shards_after: Their numbers, damaged ones included.
        bytes_before, bytes_after: Of all shards.
    """

    rows: int
    unnamed: int
    duplicate: int
    shards_before: int
    shards_after: int
    bytes_before: int
    bytes_after: int


def compact(
    folder: Path,
    identity: Identity,
    named: Named,
    *,
    dry_run: bool = False,
    report: Report | None = None,
) -> Compacted:
    """Drop the rows of one identity that no snapshot names, and all but the first of equal ones.

    Shards below a quarter of ``TARGET_BYTES`` are merged where there are two or more.

    Args:
        named: Says which rows the snapshots name; is asked again before anything is deleted.
        report: Is told, in one line, of each damaged shard; they are left alone.

    Raises:
        CacheError: If the cache cannot be read or written. No named row is lost.
    """
    if not dry_run:
        show_hidden(folder / "shards")
    before = _sizes(folder)
    survey = take_survey(list(before), identity, named, report or no_report)
    packer = _Packer(folder / "shards", identity)
    chosen = to_rewrite(survey, packer.per_shard)
    total, unnamed, kept = survey.counts(chosen)
    dropped = unnamed, total - unnamed - kept
    if dry_run:
        rewritten = {shard.path for shard in chosen}
        left = [size for path, size in before.items() if path not in rewritten]
        sizes = left + packer.sizes_of_new(kept)
    else:
        dropped = _rewrite(chosen, survey, packer, named)
        sizes = list(_sizes(folder).values())
    rows = survey.counts(survey.shards)[0]
    return Compacted(rows, *dropped, len(before), len(sizes), sum(before.values()), sum(sizes))


def _sizes(folder: Path) -> dict[Path, int]:
    """Of the shards, in the order of names."""
    paths = list_folder(folder / "shards", ".h5")
    return {path: path.lstat().st_size for path in paths if path.exists()}


@dataclasses.dataclass(frozen=True, eq=False)
class Shard:
    """A sound shard, and which of the survey's names its rows have, (n,)."""

    path: Path
    ids: NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Survey:
    """What the shards hold.

    Attributes:
        shards: All that are sound, in the order of names.
        names: (m,): the different names of their rows.
        named: (m,): which of them a snapshot names.
    """

    shards: list[Shard]
    names: Names
    named: NDArray[np.bool_]

    def counts(self, shards: Sequence[Shard]) -> tuple[int, int, int]:
        """Rows in the shards: all, those that no snapshot names, and different named ones."""
        ids = _ids(shards)
        named = self.named[ids]
        return len(ids), int((~named).sum()), len(np.unique(ids[named]))


def take_survey(
    paths: Sequence[Path], identity: Identity, named: Named, note: Report = no_report
) -> Survey:
    """Read all shards, in the order of names, for the names of their rows.

    ``named`` is asked after they were read, so that a row that was named before it was committed is
    seen as named; ``note`` is told, in one line, of each damaged shard.

    Raises:
        CacheError: If a shard cannot be read.
    """
    names, found = [np.empty(0, f"S{NAME_BYTES}")], []
    for path in paths:
        try:
            rows = _read_if_there(path, identity)
        except DamageError as error:
            note(f"left alone: {error}")
            continue
        if rows is not None:
            names.append(row_names(rows.images, rows.views))
            found.append(path)
    different, ids = np.unique(np.concatenate(names), return_inverse=True)
    parts = np.split(ids, np.cumsum([len(part) for part in names]))[1:-1]
    shards = [Shard(path, part) for path, part in zip(found, parts, strict=True)]
    return Survey(shards, different, named(different))


def _read_if_there(path: Path, identity: Identity) -> Rows | None:
    """A shard's rows; None if it has vanished: whoever deleted it has them elsewhere."""
    try:
        return read_shard(path, identity)
    except CacheError as error:
        if not is_gone(error):
            raise
    return None


def to_rewrite(survey: Survey, per_shard: int) -> list[Shard]:
    """The shards with a row to drop, every shard with a copy of a row, and the small ones.

    A shard of less than a quarter of ``per_shard`` rows is small. Two of them fit into one, so
    there are always fewer shards or rows afterwards.
    """
    copies = np.bincount(_ids(survey.shards), minlength=len(survey.named))
    spare = (copies > 1) | ~survey.named
    spoilt = {shard for shard in survey.shards if spare[shard.ids].any()}
    small = {shard for shard in survey.shards if 4 * len(shard.ids) < per_shard}
    chosen = spoilt | small if spoilt or len(small) > 1 else set()
    return [shard for shard in survey.shards if shard in chosen]


def _ids(shards: Sequence[Shard]) -> NDArray[np.int64]:
    """The ids of all rows of the shards, one after the other."""
    return np.concatenate([np.zeros(0, np.int64), *(shard.ids for shard in shards)])


def _rewrite(
    chosen: Sequence[Shard], survey: Survey, packer: _Packer, named: Named
) -> tuple[int, int]:
    """Pack what is kept, then delete the old shards; how many unnamed and duplicate rows went."""
    packed = np.zeros(len(survey.named), bool)
    kept: dict[Shard, int] = {}
    ends: dict[Shard, int] = {}
    try:
        for shard in chosen:
            rows = _read_if_there(shard.path, packer.identity)
            if rows is None:
                continue
            keep = np.zeros(len(shard.ids), bool)
            keep[np.unique(shard.ids, return_index=True)[1]] = True
            # What is packed counts, not what was found: a shard may have vanished since.
            keep &= survey.named[shard.ids] & ~packed[shard.ids]
            packed[shard.ids[keep]] = True
            packer.add(Rows(rows.features[keep], rows.images[keep], rows.views[keep]))
            kept[shard], ends[shard] = int(keep.sum()), packer.taken
        packer.finish()
    except CacheError:  # a full disk, say: what is safe in new shards makes room for the next try
        safe = [shard for shard, end in ends.items() if end <= packer.committed]
        retire(safe, packer.made, survey, named)
        raise
    gone = retire(list(kept), packer.made, survey, named)
    total, unnamed, _ = survey.counts(gone)
    return unnamed, total - unnamed - sum(kept[shard] for shard in gone)


class _Packer:
    """Makes new shards of rows that come in parts; holds no more than one new shard and a part.

    Attributes:
        per_shard: Rows of a new shard.
        made: The new shards.
        taken, committed: Rows that came, and that are in new shards.
    """

    def __init__(self, shards: Path, identity: Identity) -> None:
        row = identity.dim * np.dtype(identity.dtype).itemsize + NAME_BYTES
        self.identity, self.per_shard = identity, max(1, TARGET_BYTES // row)
        self.made: list[Path] = []
        self.taken = self.committed = 0
        self._shards = shards
        self._waiting: list[Rows] = []

    def add(self, rows: Rows) -> None:
        self._waiting.append(rows)
        self.taken += len(rows.views)
        while self.taken - self.committed >= self.per_shard:
            self._commit(self.per_shard)

    def finish(self) -> None:
        if self.taken > self.committed:
            self._commit(self.taken - self.committed)

    def sizes_of_new(self, count: int) -> list[int]:
        """Sizes of the shards that ``count`` rows make. HDF5's own share varies: one is packed."""
        full, rest = divmod(count, self.per_shard)
        sizes = [self._size(self.per_shard)] * full if full else []
        return [*sizes, self._size(rest)] if rest else sizes

    def _size(self, count: int) -> int:
        features = np.zeros((count, self.identity.dim), np.float32)
        blank = Rows(features, np.zeros((count, 32), np.uint8), np.zeros(count, np.int32))
        return len(pack_shard(blank, self.identity)[1]) + _NONCE_BYTES

    def _commit(self, count: int) -> None:
        rows = _joined(self._waiting)
        new = Rows(rows.features[:count], rows.images[:count], rows.views[:count])
        _, data = pack_shard(new, self.identity)
        data += secrets.token_bytes(_NONCE_BYTES)  # behind the end of what HDF5 reads
        path = self._shards / f"{hashlib.sha256(data).hexdigest()}.h5"
        write_atomically(path, data)
        self.made.append(path)
        self.committed += count
        self._waiting = [Rows(rows.features[count:], rows.images[count:], rows.views[count:])]


def _joined(parts: Sequence[Rows]) -> Rows:
    columns = ([getattr(part, name) for part in parts] for name in ("features", "images", "views"))
    return parts[0] if len(parts) == 1 else Rows(*map(np.concatenate, columns))


def retire(
    shards: Sequence[Shard], made: Sequence[Path], survey: Survey, named: Named
) -> list[Shard]:
    """Delete shards of which every row that is kept is in new ones; those that went.

    Args:
        shards: Of the survey, in the order of names.
        made: The new shards, committed in this very run.
        named: Is asked again.

    Raises:
        CacheError: If the cache cannot be changed. Hidden shards are shown again.
    """
    hidden: dict[Shard, Path] = {}
    # Asked before as well: that spares the reader of a new snapshot from missing a hidden row.
    shards = _superfluous(shards, made, survey, named)
    try:
        for shard in reversed(shards):  # so that of equal rows the first goes on being taken
            target = shard.path.with_name(f".{shard.path.stem}.{secrets.token_hex(4)}{HIDDEN}")
            if _move(shard.path, target):
                hidden[shard] = target
        gone = _superfluous(list(hidden), made, survey, named)
    except BaseException:
        for shard, at in hidden.items():
            _move(at, shard.path)
        raise
    for shard in hidden.keys() - set(gone):
        _move(hidden[shard], shard.path)
    for shard in gone:
        delete(hidden[shard])
    return gone


def _superfluous(
    shards: Sequence[Shard], made: Sequence[Path], survey: Survey, named: Named
) -> list[Shard]:
    """Those of the shards that may go: what is kept of them is there, the rest is unnamed still.

    Where a new shard is gone, another run has taken over, and may have judged otherwise.
    """
    if not all(path.exists() for path in made):
        return []
    ids = np.unique(_ids(shards))
    dropped = ids[~survey.named[ids]]
    if not len(dropped):
        return list(shards)
    wanted = np.zeros(len(survey.named), bool)
    wanted[dropped] = named(survey.names[dropped])
    return [shard for shard in shards if not wanted[shard.ids].any()]


def show_hidden(folder: Path) -> None:
    """Give the shards their names back that a killed run has hidden; a live one copes with it.

    Raises:
        CacheError: If the folder cannot be listed or changed.
    """
    for path in list_folder(folder):
        if path.suffix == HIDDEN and path.name[0] == ".":
            _move(path, path.with_name(f"{path.name.split('.')[1]}.h5"))


def delete(path: Path) -> None:
    """Delete a file of a cache; one that is gone is as good.

    Raises:
        CacheError: If it cannot be deleted.
    """
    with _changing(path):
        path.unlink(missing_ok=True)


def _move(path: Path, target: Path) -> bool:
    """Rename a file; False if it is gone, as another run was faster."""
    with _changing(path), contextlib.suppress(FileNotFoundError):
        path.rename(target)
        return True
    return False


def _changing(path: Path) -> contextlib.AbstractContextManager[None]:
    remedy = "check its permissions; every row that a snapshot names is kept"
    return faults_as(CacheError, path, "a cache that can be written", remedy)
