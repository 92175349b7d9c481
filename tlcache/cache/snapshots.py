"""A data set at one moment: every image's digest, and how its file looked when it was digested.

A file whose size, times and inode are still the same is not read again. A snapshot is one HDF5
file behind a 512-byte header with its checksum (``docs/cache-format.md``), and stands for its data
set where the images themselves are not at hand.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import errno
import functools
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import DamageError, strerror
from tlcache.core.files import persistently, read_capped, write_atomically
from tlcache.core.hdf5 import Layout, pack, unpack
from tlcache.core.machine import place_of
from tlcache.core.progress import Tick
from tlcache.data.folders import SPLITS, ImageDataset
from tlcache.data.images import MAY_BE_DEEP, image_digest, is_deep

MAGIC = b"tlcache snapshot 1\n"
HEADER = 512
MAX_BYTES = 8 << 30
SETTLED_NS = 2_000_000_000
"""A file younger than this at the time of a snapshot may still change within its timestamp."""
KEEP_SECONDS = 5.0
"""How often, at most, :func:`take_snapshot` hands out what it knows so far."""

OF_FEATURE = "expected a feature"
"""How a reason begins that tells of what the network made of an image."""

_OF_OTHER_BYTES = "expected the bytes that were digested"  # of a read, as it was once worded
_FILES_AT_ONCE = 256
_MAX_ABOUT = 16 << 20  # JSON can take thirty times the memory of its bytes
_LEADING_OUT = (b"\0\0", b"\0/", b"\0../", b"/../", b"/..\0", b"\0..\0")  # path after path

_ON_WINDOWS = os.name == "nt"

_LAYOUT: Layout = {
    "about": (("|u1",), 1),
    "paths": (("|u1",), 1),
    "reasons": (("|u1",), 1),
    "labels": (("<i4",), 1),
    "splits": (("|i1",), 1),
    "status": (("<u8",), 2),
    "digests": (("|u1",), 2),
}

Status = tuple[int, int, int, int]
"""Size in bytes, mtime_ns, ctime_ns and inode of a file."""


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A data set and the content of its files.

    Attributes:
        dataset: The n images.
        status: (n, 4) uint64: size in bytes, mtime_ns, ctime_ns and inode of each file.
        digests: (n, 32) uint8: SHA-256 of each file's bytes; zeros where it could not be read.
        reasons: Why an image cannot be read; empty where it can.
        taken_ns: When, in nanoseconds since 1970.
        views: How many augmented views of each training image belong to it.
        deep: Whether images of more than 8 bits have the digests of :func:`image_digest`; they
            had not in earlier versions, which clipped them.
        place: Of the folder, by :func:`tlcache.core.machine.place_of`: paths alone tell no folder
            of one machine from that of another. Earlier versions kept none.
    """

    dataset: ImageDataset
    status: NDArray[np.uint64]
    digests: NDArray[np.uint8]
    reasons: list[str]
    taken_ns: int
    views: int = 0
    deep: bool = True
    place: str = ""

    def readable(self) -> NDArray[np.bool_]:
        """(n,): which images can be read."""
        return np.fromiter((not reason for reason in self.reasons), bool, len(self.reasons))

    def says_the_same(self, other: Snapshot) -> bool:
        """Whether the other snapshot has nothing to add to this one, a later time aside."""
        a, b = self.dataset, other.dataset
        return (
            (a.root, a.classes, a.paths, self.reasons)
            == (b.root, b.classes, b.paths, other.reasons)
            and np.array_equal(a.labels, b.labels)
            and np.array_equal(a.splits, b.splits)
            and np.array_equal(self.status, other.status)
            and np.array_equal(self.digests, other.digests)
            and self.views == other.views
            and (self.deep or not any(path.lower().endswith(MAY_BE_DEEP) for path in a.paths))
            and (self.taken_ns == other.taken_ns or bool(_settled(self).all()))
        )

    def is_of_the_folder_of(self, later: Snapshot) -> bool:
        """Whether it is an earlier state of the very folder of which the other is a later one."""
        if self.dataset.root != later.dataset.root or self.place:
            return (self.dataset.root, self.place) == (later.dataset.root, later.place)
        return bool(_unchanged(later, self)[1].any())  # no two files share a status by chance

    def names_all_of(self, other: Snapshot) -> bool:
        """Whether each image of which the other knows the bytes is here, with the same."""
        rows, there = _rows_in(self, other), other.digests.any(axis=1)
        held = (rows >= 0) & (self.digests[rows] == other.digests).all(axis=1)
        return self.dataset.root == other.dataset.root and bool(held[there].all())

    def with_reasons(self, reasons: dict[bytes, str]) -> Snapshot:
        """The same, with why more images cannot be read, by their digests."""
        rows = zip(self.reasons, self.digests, strict=True)
        return dataclasses.replace(
            self, reasons=[old or reasons.get(digest.tobytes(), "") for old, digest in rows]
        )


def take_snapshot(
    dataset: ImageDataset,
    known: Iterable[Snapshot] = (),
    *,
    views: int = 0,
    rehash: bool = False,
    progress: Tick | None = None,
    keep: Callable[[Snapshot], None] | None = None,
) -> Snapshot:
    """Digest every image's file, but for those that ``known`` have and that look unchanged.

    Args:
        known: Earlier snapshots of the same folder. The next is asked for, when the one before is
            done with, as long as there are files that none knew: each may take much memory.
        views: How many augmented views of each training image belong to it.
        rehash: Read every file even so.
        progress: Called as files are digested.
        keep: Is given what is known so far every now and then, and when digesting is interrupted.
            Fit to be ``known`` next time, and for nothing else: files to come are blank in it.

    A file that cannot be read keeps a digest of zeros and the reason.
    """
    taken_ns = time.time_ns()
    n, reasons = len(dataset), [""] * len(dataset)
    status, digests = np.zeros((n, 4), np.uint64), np.zeros((n, 32), np.uint8)
    for i, path in enumerate(dataset.paths):
        status[i], reasons[i] = look(os.path.join(dataset.root, path))  # noqa: PTH118 -- speed
    place = place_of(dataset.root)
    snapshot = Snapshot(dataset, status, digests, reasons, taken_ns, views, place=place)
    for earlier in () if rehash else known:
        _recall(snapshot, earlier)
        del earlier
        if not len(_unknown(snapshot)):
            break
    unknown = _unknown(snapshot).tolist()
    read = zip(unknown, _digested(dataset, unknown), strict=True)
    due = time.monotonic() + KEEP_SECONDS
    try:
        for done, (i, (row, digest, reason)) in enumerate(read, 1):
            status[i], digests[i], reasons[i] = row, np.frombuffer(digest, np.uint8), reason
            if progress is not None:
                progress(done, len(unknown))
            if keep is not None and time.monotonic() > due:
                started = time.monotonic()
                keep(_so_far(snapshot))
                seconds = time.monotonic() - started
                due = time.monotonic() + max(KEEP_SECONDS, 20 * seconds)  # 5 % of the time at most
    except BaseException:
        if keep is not None:
            keep(_so_far(snapshot))
        raise
    return snapshot


def _recall(new: Snapshot, known: Snapshot) -> None:
    """Fill in what ``new`` lacks of the files that look as they did in ``known``.

    A reason that is none of the bytes is forgotten: that a read failed says nothing of the next
    one. Nor need the feature of a view be bad where fewer views are wanted.
    """
    rows, same = _unchanged(new, known)
    lacking = _unknown(new)
    lacking = lacking[same[lacking] & _settled(known)[rows[lacking]]]
    if not known.deep:
        again = deep_rows(new.dataset, lacking.tolist())
        lacking = lacking[~np.isin(lacking, again)]
    new.digests[lacking] = known.digests[rows[lacking]]
    no_view_less = new.views >= known.views
    for i in lacking:
        reason = known.reasons[rows[i]]
        if (reason.startswith(OF_FEATURE) and no_view_less) or _is_of_bytes(reason):
            new.reasons[i] = reason


def _is_of_bytes(reason: str) -> bool:
    """Whether it holds of a file as long as its bytes do: then it is an ``ImageError``'s words."""
    return reason.startswith("expected ") and not reason.startswith((OF_FEATURE, _OF_OTHER_BYTES))


def deep_rows(dataset: ImageDataset, rows: Sequence[int]) -> list[int]:
    """Those of these images with greys of more than 8 bits; no file called a JPEG is opened."""
    maybe = [i for i in rows if dataset.paths[i].lower().endswith(MAY_BE_DEEP)]
    deep = list[bool]()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for start in range(0, len(maybe), _FILES_AT_ONCE):
            paths = [dataset.path(i) for i in maybe[start : start + _FILES_AT_ONCE]]
            deep += pool.map(_looks_deep, paths)
    return [i for i, is_so in zip(maybe, deep, strict=True) if is_so]


def _looks_deep(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return is_deep(file)
    return False


def _unknown(snapshot: Snapshot) -> NDArray[np.int64]:
    """Files that are still to be read: those without a digest, and without a reason for that."""
    return np.flatnonzero(~snapshot.digests.any(axis=1) & snapshot.readable())


def _unchanged(new: Snapshot, known: Snapshot) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(n,) twice: each file's row in ``known``, and whether it looks as it did there."""
    rows = _rows_in(known, new)
    same = (rows >= 0) & (known.status[rows] == new.status).all(axis=1)
    return rows, same & new.status.any(axis=1)  # zeros: there is no such file


def _rows_in(known: Snapshot, new: Snapshot) -> NDArray[np.int64]:
    """(n,): in which row of ``known`` each path of ``new`` is; -1 if it is not there."""
    at = {path: row for row, path in enumerate(known.dataset.paths)}
    return np.fromiter((at.get(p, -1) for p in new.dataset.paths), np.int64, len(new.reasons))


def _settled(snapshot: Snapshot) -> NDArray[np.bool_]:
    """(n,): which files were so old at the time that a later change must show in their times."""
    times = snapshot.status[:, 1:3].view(np.int64)  # before 1970: below 0 again
    return times.max(axis=1) < snapshot.taken_ns - SETTLED_NS


def _digested(dataset: ImageDataset, rows: list[int]) -> Iterator[tuple[Status, bytes, str]]:
    """Status, digest and reason of each file, in order; a few are read at once."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for start in range(0, len(rows), _FILES_AT_ONCE):  # not all: a million futures take 1 GB
            paths = [dataset.path(i) for i in rows[start : start + _FILES_AT_ONCE]]
            yield from pool.map(digest_file, paths)


def digest_file(path: Path) -> tuple[Status, bytes, str]:
    """A file's status and :func:`image_digest`, or why it has none."""
    try:
        return *persistently(functools.partial(_digest_at_rest, path)), ""
    except OSError as error:
        return (0, 0, 0, 0), bytes(32), strerror(error)


def _digest_at_rest(path: Path) -> tuple[Status, bytes]:
    with path.open("rb") as file:
        before = _columns(os.fstat(file.fileno()))
        digest = image_digest(file)
        after = _columns(os.fstat(file.fileno()))
    if before != after:
        raise OSError(errno.EAGAIN, "it changes while it is read")
    return after, digest


def look(path: str) -> tuple[Status, str]:
    """A file's status, and why it cannot be an image's."""
    try:
        status = os.stat(path)  # noqa: PTH116 -- speed
    except OSError as error:
        return (0, 0, 0, 0), strerror(error)
    # To open a pipe would wait for a writer, for ever.
    return _columns(status), "" if stat.S_ISREG(status.st_mode) else "it is no regular file"


def _columns(status: os.stat_result) -> Status:
    mtime, ctime = status.st_mtime_ns % 2**64, status.st_ctime_ns % 2**64  # before 1970: wrap
    return status.st_size, mtime, ctime, status.st_ino % 2**64


def _so_far(snapshot: Snapshot) -> Snapshot:
    """A snapshot that admits to no file without a digest: no file has a status of zeros."""
    known = snapshot.digests.any(axis=1, keepdims=True)
    return dataclasses.replace(
        snapshot,
        status=np.where(known, snapshot.status, np.uint64(0)),
        reasons=[""] * len(snapshot.reasons),
    )


def save_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot, whole or not at all: see :func:`write_atomically`."""
    write_atomically(path, *pack_snapshot(snapshot))


def pack_snapshot(snapshot: Snapshot) -> tuple[bytes, bytes]:
    """Header and body of a snapshot's file; the header has the checksum of the body."""
    dataset = snapshot.dataset
    about = {
        "name": dataset.name,
        "root": str(dataset.root),
        "classes": list(dataset.classes),
        "ignored": dataset.ignored,
        "taken_ns": snapshot.taken_ns,
        "deep": snapshot.deep,
        "views": snapshot.views,
        "place": snapshot.place,
    }
    body = pack(
        {
            "about": np.frombuffer(json.dumps(about, sort_keys=True).encode("ascii"), np.uint8),
            "paths": _joined(dataset.paths),
            "reasons": _joined([reason.replace("\0", " ") for reason in snapshot.reasons]),
            "labels": dataset.labels,
            "splits": dataset.splits,
            "status": snapshot.status,
            "digests": snapshot.digests,
        }
    )
    header = MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n"
    return header.ljust(HEADER, b"\0"), body


def _joined(texts: Sequence[str]) -> NDArray[np.uint8]:
    return np.frombuffer(("\0".join(texts) + "\0").encode("utf-8", "surrogateescape"), np.uint8)


def named_after(path: Path, dataset: str) -> bool:
    """Whether a file may be a snapshot of a data set by its name: that, or that and a place."""
    return re.fullmatch(re.escape(dataset) + r"(-[0-9a-f]{16})?\.h5", path.name) is not None


def load_snapshot(path: Path) -> Snapshot:
    """Read a snapshot.

    Raises:
        CacheError: If it cannot be read.
        DamageError: If it is damaged, or holds what no snapshot may hold, when read anew as well.
    """
    with contextlib.suppress(DamageError):
        return _read_once(path)
    return _read_once(path, anew=True)


def _read_once(path: Path, *, anew: bool = False) -> Snapshot:
    data = memoryview(read_capped(path, MAX_BYTES, anew=anew))
    header, body = bytes(data[:HEADER]), data[HEADER:]
    expected = MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n"
    if header != expected.ljust(HEADER, b"\0"):
        own = header.startswith(MAGIC)
        raise _refused(path, "other bytes than were written" if own else "another kind of file")
    columns = unpack(body, _LAYOUT, path)
    try:
        return _assembled(columns)
    except ValueError as error:
        raise _refused(path, str(error)) from error


def _assembled(columns: dict[str, NDArray[np.generic]]) -> Snapshot:
    about = _about(columns["about"].tobytes())
    n = len(columns["labels"])
    paths, reasons = _split(columns["paths"], n), _split(columns["reasons"], n)
    labels, splits = columns["labels"].astype(np.int32), columns["splits"].astype(np.int8)
    status = columns["status"].astype(np.uint64, copy=False)  # read-only, as they lie in the file
    digests = columns["digests"].astype(np.uint8, copy=False)
    if not len(splits) == len(status) == len(digests) == n:
        raise ValueError("columns of different lengths")
    if status.shape != (n, 4) or digests.shape != (n, 32):
        raise ValueError("columns of another width")
    if labels.min() < 0 or labels.max() >= len(about["classes"]):
        raise ValueError("a label without a class")
    if splits.min() < 0 or splits.max() >= len(SPLITS):
        raise ValueError("an unknown split")
    _check_inside(b"\0" + columns["paths"].tobytes())
    name, root, classes = about["name"], Path(about["root"]), tuple(about["classes"])
    dataset = ImageDataset(name, root, classes, paths, labels, splits, about["ignored"])
    deep, place = about.get("deep") is True, about.get("place", "")
    taken_ns, views = about["taken_ns"], about["views"]
    return Snapshot(dataset, status, digests, reasons, taken_ns, views, deep, place)


def _about(data: bytes) -> dict[str, Any]:
    """What a snapshot says of its data set as a whole."""
    if len(data) > _MAX_ABOUT:
        raise ValueError(f"a description of {len(data):,} bytes")
    try:
        about = json.loads(data)
        name, classes = about["name"], about["classes"]
        listed = isinstance(classes, list)
        some = name, about["root"], about.get("place", "")
        texts = listed and all(isinstance(t, str) for t in (*some, *classes))
        counts = all(type(about[key]) is int for key in ("ignored", "taken_ns", "views"))
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError("no description of a data set") from error
    if not (texts and counts and 0 <= about["taken_ns"] < 2**63 and about["views"] >= 0):
        raise ValueError("a description with values of other kinds")
    if "/" in name or name.startswith(".") or not name:
        raise ValueError(f"a name that is no file name: {name}")
    return dict(about)


def _check_inside(paths: bytes) -> None:
    """Refuse paths that lead out of the data set; a ``\\0`` stands before and after each."""
    normal = paths.replace(b"\\", b"/") if _ON_WINDOWS else paths
    for leading_out in (*_LEADING_OUT, *([b":"] if _ON_WINDOWS else [])):  # after a drive's name
        if (at := normal.find(leading_out)) >= 0:
            start = paths.rfind(b"\0", 0, at + 1) + 1
            path = os.fsdecode(paths[start : paths.index(b"\0", start)])
            raise ValueError(f"a path that leads out of the data set: {path}")


def _split(column: NDArray[np.generic], n: int) -> list[str]:
    data = column.tobytes()
    if not data.endswith(b"\0"):
        raise ValueError("a column of texts without its end")
    if data.count(b"\0") != n:  # first: short texts take twenty times the memory of their bytes
        raise ValueError("columns of different lengths")
    return data.decode("utf-8", "surrogateescape")[:-1].split("\0")


def _refused(path: Path, found: str) -> DamageError:
    remedy = "embed the folder of images again; its cached rows are kept"
    return DamageError(path, "a snapshot that tlcache wrote", found, remedy)
