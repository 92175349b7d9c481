"""Files that appear whole or not at all, and bounded reading.

A file is written under a temporary name in its own folder, fsynced and renamed, and the folder is
fsynced: whoever finds the final name finds all of its bytes, whatever was killed when. Covers no
format: what the bytes mean is the caller's business.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from tlcache.errors import CacheError, DamageError

TEMPORARY = ".tmp"


def write_atomically(path: Path, data: bytes) -> None:
    """Make ``path`` hold ``data``, in one step; its folder must exist.

    Raises:
        CacheError: If the file cannot be written (no space, no permission, no folder). A file
            that stood there before is untouched and no temporary file stays behind.
    """
    temporary = path.with_name(f".{path.name[:80]}.{secrets.token_hex(8)}{TEMPORARY}")
    try:
        _write(temporary, data)
        _rename(temporary, path)
        _fsync_folder(path.parent)
    except OSError as error:
        raise CacheError(
            path,
            expected="a file that can be written",
            found=error.strerror or type(error).__name__,
            remedy="free some space or choose another folder; "
            "what was written before is intact, and the same command goes on from there",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_capped(path: Path, cap: int) -> bytes:
    """The bytes of a regular file of at most ``cap`` bytes.

    Raises:
        CacheError: If it cannot be read.
        DamageError: If it is larger than ``cap``.
    """
    try:
        # O_NONBLOCK: opening a named pipe that somebody put there must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(cap + 1) if size <= cap else b""
    except OSError as error:
        raise CacheError(
            path,
            expected="a readable file",
            found=error.strerror or type(error).__name__,
            remedy="check its path and permissions",
        ) from error
    if size > cap or len(data) > cap:
        raise DamageError(
            path,
            expected=f"at most {cap:,} bytes",
            found=f"{size:,} bytes",
            remedy="this is not a file that tlcache wrote; remove it",
        )
    return data


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with open(descriptor, "wb", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        _fsync(file.fileno())


def _rename(source: Path, target: Path) -> None:
    os.replace(source, target)


def _fsync(descriptor: int) -> None:
    os.fsync(descriptor)


def _fsync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there; NTFS journals the rename itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _fsync(descriptor)
    finally:
        os.close(descriptor)
