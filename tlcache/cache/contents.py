"""What a cache holds: its identity folders, and the files in them.

Nothing here changes a cache: what is damaged is told, not set aside. Covers no judgement of the
whole (``verify``).
"""

from __future__ import annotations

import collections
import dataclasses
import os
import stat
from pathlib import Path

import h5py
import numpy as np

from tlcache.cache.identity import ANEW, FILE, Identity, read_description, read_identity
from tlcache.cache.store import BAD
from tlcache.core.errors import CacheError, TlcacheError, nearest, strerror
from tlcache.core.files import TEMPORARY, StrPath, as_path, list_folder

WEIGHTS = "weights"

_SHORTEST_KEY = 4
_KINDS = ("shards", "snapshots", "set_aside", "temporary", "others")


@dataclasses.dataclass(frozen=True)
class IdentityFolder:
    """A folder of a cache, and its files by kind.

    Attributes:
        path: Of the folder.
        identity: As ``identity.json`` describes it; None where that is damaged or not there.
        faults: Why the folder, or a part of it, cannot be used; empty where it can.
        shards, snapshots: Files by name, in the order of names; not looked into.
        set_aside: Files that were found damaged (``.bad``).
        temporary: What killed writers left behind, or running ones are at (``.tmp``).
        others: Files that tlcache does not know.
        size: Bytes of all of these files.
        changed_ns: When the newest of them changed, in nanoseconds since 1970; 0 without any.
    """

    path: Path
    identity: Identity | None
    faults: tuple[CacheError, ...]
    shards: tuple[Path, ...]
    snapshots: tuple[Path, ...]
    set_aside: tuple[Path, ...]
    temporary: tuple[Path, ...]
    others: tuple[Path, ...]
    size: int
    changed_ns: int


def list_cache(cache: StrPath) -> list[IdentityFolder]:
    """The identity folders of a cache, in the order of names, with those that cannot be used.

    Reads each ``identity.json`` and the folders' lists of files; looks into no other file, so it
    does not know whether shards and snapshots are sound.

    Raises:
        CacheError: If there is no cache, or it cannot be read.
    """
    cache = as_path("cache", cache)
    if os.path.isfile(cache / FILE):  # noqa: PTH113 -- never raises
        remedy = f"pass --cache-dir {cache.absolute().parent}"
        raise CacheError(cache, "the folder of a whole cache", "that of one identity", remedy)
    try:
        paths = sorted(cache.iterdir())
    except OSError as error:
        found = "nothing there" if isinstance(error, FileNotFoundError) else strerror(error)
        remedy = "run `tlcache embed` first, or correct --cache-dir"
        raise CacheError(cache, "a cache folder that can be read", found, remedy) from error
    return [open_folder(path) for path in paths if path.name != WEIGHTS and _looks_like_one(path)]


def find_folder(cache: Path, text: str) -> IdentityFolder:
    """The identity folder that is meant: by its path, its name, or the beginning of its key.

    Args:
        cache: Where a name or a key is looked for; a path may lead anywhere.
        text: A key's beginning has at least four hex digits.

    Raises:
        CacheError: If there is none such, or more than one.
    """
    path = Path(text)
    if path.name in ("", ".."):
        path = path.resolve()
    if os.path.isdir(path) and _looks_like_one(path):  # noqa: PTH112 -- never raises
        return open_folder(path)
    folders = list_cache(cache)
    for folder in folders:
        if folder.path.name == text:
            return folder
    start = text.lower()
    meant = [f for f in folders if len(start) >= _SHORTEST_KEY and _key(f).startswith(start)]
    if len(meant) == 1:
        return meant[0]
    if meant:
        found = f"that of {len(meant)}: {', '.join(folder.path.name for folder in meant)}"
        remedy = "give more digits, or a folder's name"
        raise CacheError(text, "the beginning of one key", found, remedy)
    close = nearest(text, (n for f in folders for n in (f.path.name, _key(f)[:8])))
    hint = f"did you mean {close}? " if close else ""
    expected = f"the name, the path or the key of an identity in {cache}"
    raise CacheError(text, expected, "none such", f"{hint}`tlcache cache ls` lists them")


def open_folder(path: Path) -> IdentityFolder:
    """One identity folder; never raises, as ``faults`` says what is wrong with it."""
    faults: list[CacheError] = []
    kinds: dict[str, list[Path]] = collections.defaultdict(list)
    size = changed_ns = 0
    for kind in ("", "shards", "snapshots"):
        for file in list_files(path / kind, faults):
            if not kind and file.name in ("shards", "snapshots"):
                continue
            _, file_size, file_changed_ns = _status(file)
            size, changed_ns = size + file_size, max(changed_ns, file_changed_ns)
            kinds[_kind(file, kind)].append(file)
    identity = _identity(path, any(kinds.values()), faults)
    files = {kind: tuple(kinds[kind]) for kind in _KINDS}
    return IdentityFolder(path, identity, tuple(faults), **files, size=size, changed_ns=changed_ns)


def own_identity(folder: IdentityFolder) -> Identity:
    """The identity of a folder that is to be used.

    Raises:
        CacheError: If the folder does not tell.
    """
    if folder.identity is not None:
        return folder.identity
    if folder.faults:
        raise folder.faults[0]
    found, remedy = "one that nothing was put into yet", "run `tlcache embed`, or name another"
    raise CacheError(folder.path, "the folder of an identity", found, remedy)


def train_sibling(folder: IdentityFolder, identity: Identity) -> IdentityFolder | None:
    """The folder of the augmented views that belong to a folder's features; None without any."""
    wanted = identity.as_train()
    beside = list_cache(folder.path.parent)
    return next((f for f in beside if f.identity == wanted and not f.faults), None)


def describe_fault(fault: TlcacheError) -> dict[str, str]:
    """A fault as plain JSON values."""
    parts = ("expected", "found", "remedy")
    return {"file": fault.where} | {part: getattr(fault, part) for part in parts}


def list_files(folder: Path, faults: list[CacheError]) -> list[Path]:
    """What is in a folder, in the order of names; a folder that cannot be read adds a fault."""
    try:
        return list_folder(folder)
    except CacheError as error:
        faults.append(error)
        return []


def count_rows(folder: IdentityFolder) -> tuple[int, int]:
    """How many rows the shards say they have, and how many shards say nothing sensible.

    Quick: of each shard, HDF5 parses the few blocks that describe its data sets. Neither the
    checksum nor a single feature is read, so the rows need not be sound, nor distinct.
    """
    if folder.identity is None:
        return 0, len(folder.shards)
    row_bytes = folder.identity.dim * np.dtype(folder.identity.dtype).itemsize + 36
    counts = [_rows_said(path, row_bytes) for path in folder.shards]
    return sum(count or 0 for count in counts), sum(count is None for count in counts)


def _kind(file: Path, folder: str) -> str:
    if file.name.startswith(".") and file.name.endswith(TEMPORARY):
        return "temporary"
    if file.name.endswith(BAD):
        return "set_aside"
    if folder and file.suffix == ".h5" and not file.name.startswith("."):
        return folder
    return "identity" if not folder and file.name == FILE else "others"


def _looks_like_one(path: Path) -> bool:
    names = (FILE, f"{FILE}{BAD}", "shards", "snapshots")
    return any(os.path.lexists(path / name) for name in names)


def _key(folder: IdentityFolder) -> str:
    """The whole key; of a folder that does not tell, what its name says of it."""
    return folder.identity.key if folder.identity else folder.path.name[-8:]


def _identity(path: Path, filled: bool, faults: list[CacheError]) -> Identity | None:
    if not os.path.lexists(path / FILE):
        if filled:  # an empty folder is one that a writer had only begun
            expected = "the identity of the rows beside it"
            faults.append(CacheError(path / FILE, expected, "no such file", ANEW))
        return None
    try:
        identity = read_description(path)
    except CacheError as error:
        faults.append(error)
        return None
    try:
        read_identity(path.absolute())
    except CacheError as error:
        faults.append(error)
    return identity


def _status(file: Path) -> tuple[int, int, int]:
    """Mode, bytes and time of change; zeros where a link leads nowhere, or the file is gone."""
    try:
        status = file.stat()
    except OSError:
        return 0, 0, 0
    return status.st_mode, status.st_size, status.st_mtime_ns


def _rows_said(path: Path, row_bytes: int) -> int | None:
    mode, size, _ = _status(path)
    if not stat.S_ISREG(mode):
        return None
    try:
        with path.open("rb") as file, h5py.File(file, "r") as shard:
            root = h5py.h5g.open(shard.id, b"/")
            if root.links.get_info(b"views").type != h5py.h5l.TYPE_HARD:
                return None
            views = h5py.h5d.open(root, b"views")
            # Asking a virtual data set for its shape would open its sources.
            if views.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS:
                return None
            (count,) = views.shape
    except Exception:  # whatever h5py makes of a malformed file
        return None
    return int(count) if count * row_bytes <= size else None
