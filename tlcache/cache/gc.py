"""What a cache no longer needs: rows that no snapshot names, copies, and left-over files.

Covers which rows are named and which files are left over; ``compaction`` does the shards.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tlcache.cache.compaction import Compacted, compact, delete
from tlcache.cache.identity import Identity, identities, read_identity
from tlcache.cache.rows import NamedRows
from tlcache.cache.store import BAD
from tlcache.core.files import TEMPORARY, StrPath, as_path, as_paths, list_folder
from tlcache.core.progress import Report

ABANDONED_SECONDS = 3600.0
"""A temporary file that is older has no writer any more."""


@dataclasses.dataclass(frozen=True)
class LeftOver:
    """Files that were removed: set aside as damaged, and temporary ones of dead writers."""

    set_aside: int
    temporary: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What was done to one identity, or would be.

    Attributes:
        folder: Of the identity.
        shards: What became of its shards.
        files: That were removed.
        kept_because: Why no row was dropped for want of a name; empty where that was known.
    """

    folder: Path
    shards: Compacted
    files: LeftOver
    kept_because: str

    def describe(self) -> dict[str, Any]:
        """As plain JSON values; the bytes are of shards and of removed files."""
        shards, files = dataclasses.asdict(self.shards), dataclasses.asdict(self.files)
        shards["bytes_before"] += files.pop("bytes")
        return {"folder": str(self.folder), **shards, **files, "kept_because": self.kept_because}


@dataclasses.dataclass(frozen=True)
class Garbage:
    """What was done to a cache, or would be.

    Attributes:
        dry_run: Whether nothing was changed.
        identities: One for each.
        weights: Files that were removed beside the memos of weights.
    """

    dry_run: bool
    identities: list[Sweep]
    weights: LeftOver

    def describe(self) -> dict[str, Any]:
        """As plain JSON values."""
        sweeps, weights = [s.describe() for s in self.identities], dataclasses.asdict(self.weights)
        return {"dry_run": self.dry_run, "identities": sweeps, "weights": weights}


def collect_garbage(
    cache: StrPath,
    folders: Sequence[StrPath] | None = None,
    *,
    dry_run: bool = False,
    report: Report | None = None,
) -> Garbage:
    """Drop rows that no snapshot names, copies of rows and left-over files; merge small shards.

    Others may read and fill the cache meanwhile.

    Args:
        folders: Of the identities to look after; all of them by default, and the memos of weights.
        dry_run: Change nothing; say what would be done.
        report: Is told, a line at a time, of what is damaged; that is left alone.

    Raises:
        CacheError: If the cache cannot be read or written. No row that a snapshot names is lost.
    """
    cache = as_path("cache", cache)
    if folders is None:
        chosen = list(identities(cache, report))
        weights = _tidy([cache / "weights"], dry_run)
    else:
        chosen = [(folder, read_identity(folder)) for folder in as_paths("folders", folders)]
        weights = LeftOver(0, 0, 0)
    sweeps = [_sweep(*each, dry_run=dry_run, report=report) for each in chosen]
    return Garbage(dry_run, sweeps, weights)


def _sweep(folder: Path, identity: Identity, *, dry_run: bool, report: Report | None) -> Sweep:
    files = _tidy([folder, folder / "shards", folder / "snapshots"], dry_run)
    named = NamedRows(folder.parent, identity)
    shards = compact(folder, identity, named, dry_run=dry_run, report=report)
    return Sweep(folder, shards, files, named.unknown if shards.rows else "")


def _tidy(folders: Sequence[Path], dry_run: bool) -> LeftOver:
    now, counts, size = time.time(), {BAD: 0, TEMPORARY: 0}, 0
    for path in (path for folder in folders for path in list_folder(folder)):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        abandoned = path.name[0] == "." and status.st_mtime < now - ABANDONED_SECONDS
        left_over = path.suffix == BAD or (path.suffix == TEMPORARY and abandoned)
        if left_over and not path.is_dir():  # a folder is not ours, and may hold anything
            counts[path.suffix] += 1
            size += status.st_size
            if not dry_run:
                delete(path)
    return LeftOver(counts[BAD], counts[TEMPORARY], size)
