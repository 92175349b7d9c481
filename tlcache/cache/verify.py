"""Whether all of a cache is sound: every file is read and checked, and nothing is changed.

Each fault is a ``DamageError`` or another ``CacheError`` with its file, what was expected, what was
found and what to do. Covers no repair: ``tlcache embed`` makes lost rows again, and
``tlcache cache gc`` removes what nobody needs.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tlcache.cache.contents import (
    WEIGHTS,
    IdentityFolder,
    describe_fault,
    find_folder,
    list_cache,
    list_files,
)
from tlcache.cache.identity import Identity
from tlcache.cache.rows import Held, look_up, named_images, named_rows, read_names
from tlcache.cache.shards import MAX_BYTES
from tlcache.cache.snapshots import Snapshot, load_snapshot, named_after
from tlcache.core.errors import CacheError, DamageError
from tlcache.core.files import TEMPORARY, StrPath, as_path, as_paths, is_gone, read_capped
from tlcache.core.progress import Tick
from tlcache.trunks.info import read_memo

_AGAIN = "run `tlcache embed` again: it sets the file aside, and makes its rows anew"
_EMBED_OR_REMOVE = (
    "run `tlcache embed` again on that data set; or, if nobody needs the rows, remove the folder"
)


@dataclasses.dataclass
class Verification:
    """What was found in a cache.

    Attributes:
        findings: Each fault, in the order of folders.
        shards, snapshots: How many files were read.
        rows: How many rows sound shards hold.
        notes: How many there are of what is no fault: files that were ``set_aside``, ``temporary``
            files, ``other_files``, ``duplicate_rows`` of an identity, and ``unnamed_rows``, which
            no snapshot asks for.
    """

    findings: list[CacheError] = dataclasses.field(default_factory=list)
    shards: int = 0
    rows: int = 0
    snapshots: int = 0
    notes: dict[str, int] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(
            ("set_aside", "temporary", "other_files", "duplicate_rows", "unnamed_rows"), 0
        )
    )

    @property
    def sound(self) -> bool:
        """Whether there is no fault."""
        return not self.findings

    def describe(self) -> dict[str, Any]:
        """What programs may rely on, as plain JSON values."""
        return {
            "sound": self.sound,
            "findings": [describe_fault(fault) for fault in self.findings],
            **{name: getattr(self, name) for name in ("shards", "rows", "snapshots", "notes")},
        }


def verify_cache(
    cache: StrPath, identities: Sequence[StrPath] = (), progress: Tick | None = None
) -> Verification:
    """Read and check all of a cache; change nothing.

    Checked are: of each shard its checksum, structure, identity and numbers; ``identity.json``;
    each snapshot, and that each row it asks for is there, augmented views included; and the weights
    memos. Memory: one shard or snapshot, and 36 bytes for each row of an identity.

    Args:
        cache: The cache folder.
        identities: Only these (see :func:`tlcache.cache.contents.find_folder`), each with its
            sibling of the other kind of transform, as the one's snapshots ask for the other's
            rows; and not the weights memos.
        progress: Called after each file.

    Raises:
        CacheError: If there is no cache, or no such identity.
    """
    cache, named = as_path("cache", cache), as_paths("identities", identities)
    families, found = _families(cache, list(map(str, named))), Verification()
    memos = [] if identities else list_files(cache / WEIGHTS, found.findings)
    total = len(memos) + sum(len(f.shards) + len(f.snapshots) for fs in families for f in fs)
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, max(done, total))

    for family in families:
        for folder in family:
            found.findings += folder.faults
            found.notes["set_aside"] += len(folder.set_aside)
            found.notes["temporary"] += len(folder.temporary)
            found.notes["other_files"] += len(folder.others)
        if _believed(family[0]) is None:
            _verify_undescribed(family[0], found, tick)
        else:
            _verify_family(family, found, tick)
    for memo in memos:
        _verify_memo(memo, found)
        tick()
    return found


def _families(cache: Path, identities: Sequence[str]) -> list[list[IdentityFolder]]:
    """Folders whose identities differ in the kind of transform only; others by themselves."""
    named = [find_folder(cache, text) for text in identities]
    caches = dict.fromkeys(folder.path.parent for folder in named) if named else [cache]
    wanted = {_family(folder) for folder in named}
    families = collections.defaultdict(list)
    for parent in caches:
        for folder in list_cache(parent):
            if not named or _family(folder) in wanted:
                families[parent, _family(folder)].append(folder)
    return list(families.values())


def _family(folder: IdentityFolder) -> Identity | Path:
    identity = _believed(folder)
    return identity.as_train() if identity else folder.path


def _believed(folder: IdentityFolder) -> Identity | None:
    """The identity, unless it may be another's: then the shards are not held against it."""
    identity = folder.identity
    return identity if identity and folder.path.name.endswith(identity.key[:8]) else None


def _verify_undescribed(
    folder: IdentityFolder, found: Verification, tick: Callable[[], None]
) -> None:
    """A folder that does not say whose rows it holds: only whether its files are whole."""
    for path in folder.shards:
        found.shards += 1
        try:
            _check_bytes(path)
        except CacheError as error:
            if not _went(path, error):
                found.findings.append(_with_remedy(error))
        tick()
    for path in folder.snapshots:
        _load(path, found)
        tick()


def _verify_family(
    family: Sequence[IdentityFolder], found: Verification, tick: Callable[[], None]
) -> None:
    held: list[tuple[IdentityFolder, Identity, Held]] = []
    for folder in family:
        if folder.identity is None:
            continue
        rows = read_names(folder, folder.identity, tick)
        found.shards, found.rows = found.shards + rows.shards, found.rows + rows.rows
        found.findings += [_with_remedy(fault) for fault in rows.faults]
        held.append((folder, folder.identity, rows))
    # The first folder by name is the one that is used, should there be two of one identity.
    train = (h for f, i, h in held if i.transform.kind == "train" and not f.faults)
    augmented, named = next(train, None), [named_images([])]
    for folder, identity, rows in held:
        for path in folder.snapshots:
            snapshot = _load(path, found)
            if snapshot is not None:
                _verify_rows(path, snapshot, rows, augmented, found)
                if identity.transform.kind == "eval":
                    named.append(named_images([snapshot]))
            tick()
        if identity.transform.kind == "eval" and rows.rows and not folder.snapshots:
            expected = f"a snapshot of the data set whose {rows.rows} rows are beside it"
            at = folder.path / "snapshots"
            found.findings.append(CacheError(at, expected, "none", _EMBED_OR_REMOVE))
    images = np.unique(np.concatenate(named))
    for _, identity, rows in held:
        by_snapshots = named_rows(rows.names, images, augmented=identity.transform.kind == "train")
        found.notes["duplicate_rows"] += rows.rows - len(rows.names)
        found.notes["unnamed_rows"] += int((~by_snapshots).sum())


def _check_bytes(path: Path) -> None:
    """What can be told of a shard without its identity: whether its bytes are those of its name."""
    if hashlib.sha256(read_capped(path, MAX_BYTES)).hexdigest() != path.stem:
        raise DamageError(path, "bytes whose SHA-256 is its name", "other bytes", _AGAIN)


def _load(path: Path, found: Verification) -> Snapshot | None:
    """A snapshot that is sound in itself."""
    try:
        snapshot = load_snapshot(path)
    except CacheError as error:
        if not _went(path, error):
            found.snapshots += 1
            found.findings.append(error)
        return None
    found.snapshots += 1
    if not named_after(path, snapshot.dataset.name):
        expected, own = f"the snapshot of the data set {path.stem}", snapshot.dataset.name
        remedy = "give the file its own name back, or embed the folder of images again"
        found.findings.append(DamageError(path, expected, f"that of {own}", remedy))
    return snapshot


def _verify_rows(
    path: Path, snapshot: Snapshot, own: Held, augmented: Held | None, found: Verification
) -> None:
    asked = look_up(snapshot, own, augmented)
    if asked.missing:
        expected = f"each of the {asked.rows} rows that it names in the cache"
        missing = f"{asked.missing} missing (of {asked.example} for one)"
        command = f"tlcache embed {snapshot.dataset.root}"
        command += f" --views {snapshot.views}" if snapshot.views else ""
        remedy = f"run `{command}` again, with the same trunk and transform: it makes them"
        found.findings.append(CacheError(path, expected, missing, remedy))


def _verify_memo(path: Path, found: Verification) -> None:
    if path.name.startswith(".") and path.name.endswith(TEMPORARY):
        found.notes["temporary"] += 1
    elif path.suffix != ".json":
        found.notes["other_files"] += 1
    else:
        try:
            read_memo(path)
        except CacheError as error:
            if not _went(path, error):
                found.findings.append(error)


def _went(path: Path, error: CacheError) -> bool:
    """Whether a file was taken away meanwhile by somebody's clean-up, and is no fault."""
    return is_gone(error) and not path.is_symlink()


def _with_remedy(fault: CacheError) -> CacheError:
    """A shard's fault, with what to do about it."""
    if not isinstance(fault, DamageError):
        return fault
    return DamageError(fault.where, fault.expected, fault.found, _AGAIN)
