"""The digest of each image's file, and how the file looked when it was read.

Covers no snapshot of many (``snapshots``).
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from tlcache.data.folders import ImageDataset

Status = tuple[int, int, int, int]
"""Size in bytes, mtime_ns, ctime_ns and inode."""

_FILES_AT_ONCE = 256


def digested(dataset: ImageDataset, rows: list[int]) -> Iterator[tuple[Status, bytes, str]]:
    """Status, digest and reason of each file, in order; a few are read at once."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for start in range(0, len(rows), _FILES_AT_ONCE):  # not all: a million futures take 1 GB
            paths = [dataset.path(i) for i in rows[start : start + _FILES_AT_ONCE]]
            yield from pool.map(digest_file, paths)


def digest_file(path: Path) -> tuple[Status, bytes, str]:
    """A file's status and SHA-256, or why it has none."""
    try:
        with path.open("rb") as file:
            before = _columns(os.fstat(file.fileno()))
            digest = hashlib.file_digest(file, "sha256").digest()
            after = _columns(os.fstat(file.fileno()))
    except OSError as error:
        return (0, 0, 0, 0), bytes(32), error.strerror or type(error).__name__
    if before != after:
        return after, bytes(32), "it changes while it is read"
    return after, digest, ""


def look(path: str) -> tuple[Status, str]:
    """A file's status, and why it cannot be an image's."""
    try:
        status = os.stat(path)  # noqa: PTH116 -- speed
    except OSError as error:
        return (0, 0, 0, 0), error.strerror or type(error).__name__
    # To open a pipe would wait for a writer, for ever.
    return _columns(status), "" if stat.S_ISREG(status.st_mode) else "it is no regular file"


def _columns(status: os.stat_result) -> Status:
    mtime, ctime = status.st_mtime_ns % 2**64, status.st_ctime_ns % 2**64  # before 1970: wrap
    return status.st_size, mtime, ctime, status.st_ino % 2**64
