"""Files that appear whole or not at all, bounded reading, and locks that die with their process.

A file is written under a temporary name in its own folder, fsynced and renamed, and the folder is
fsynced: whoever finds the final name finds all of its bytes, whatever was killed when. Covers no
format: what the bytes mean is the caller's business.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import glob
import hashlib
import os
import platform
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

from tlcache.core.errors import CacheError, DamageError, InputError, faults_as, strerror

TEMPORARY = ".tmp"

_LOOKS, _LOOK_SECONDS = 5, 0.02
_LOCKED_BYTE = 1 << 30  # beyond the words, which others are to read: Windows locks bytes
PAUSES = (0.1, 0.4)
"""Seconds before a read that failed is tried again: a network's disk stumbles, and goes on."""

_LOOK_AGAIN = (0.0, 0.1, 1.0, 4.0, 15.0, 40.0)
"""Seconds before each further look for a file that is listed and not there. Another process may
have hidden it for a moment; and a network's disk may show a folder as it was up to a minute ago."""

_LASTING = FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError
_LASTING_CODES = errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENXIO

Read = TypeVar("Read")

StrPath = str | os.PathLike[str]
"""What a public function takes for a path; :func:`as_path` makes one of it, at its first line."""


def as_path(name: str, value: object, expected: str = "a path") -> Path:
    """The path that the caller of a public function hands over as its parameter ``name``.

    Raises:
        InputError: If it is nothing of the kind.
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if isinstance(text, str) and text and "\0" not in text:
        return Path(text)
    raise InputError(name, expected, repr(value)[:200], "pass a str or an os.PathLike")


def as_paths(name: str, values: Iterable[StrPath]) -> list[Path]:
    """The same of several.

    Raises:
        InputError: If one is no path, or they are one path or no list.
    """
    if isinstance(values, str | bytes | os.PathLike) or not isinstance(values, Iterable):
        raise InputError(name, "a list of paths", repr(values)[:200], "put it into a list")
    return [as_path(f"{name}[{i}]", value) for i, value in enumerate(values)]


def write_atomically(path: Path, *parts: bytes) -> None:
    """Make ``path`` hold ``parts``, in one durable step; its folder must exist.

    Raises:
        CacheError: If the file cannot be written (no space, no permission, no folder). ``path``
            then holds what it held before or, where the very last step failed, all of ``parts``:
            never a part. No temporary file stays behind.
    """
    with _in_one_step(path) as temporary:
        _write(temporary, parts)


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """A new file to write, which is at ``path`` when the block has ended without an error.

    Raises:
        CacheError: As :func:`write_atomically`.
    """
    with _in_one_step(path) as temporary, temporary.open("x+b") as file:
        yield file
        file.flush()
        _fsync(file.fileno())


def replace_if(path: Path, rivals: str, due: Callable[[], bool], *parts: bytes) -> bool:
    """As :func:`write_atomically`, where others may be replacing the same file without a lock.

    Nobody replaces what it has not seen. Each first writes its bytes under a temporary name, then
    looks at what is there, and then renames; and whoever has renamed takes the temporary files of
    its rivals away. Who had looked before that finds its own gone when it comes to rename, and has
    to look again; who looks later sees the new file.

    Args:
        rivals: A word that those have in common who may replace each other's files.
        due: Asked, when the bytes are written, whether ``path`` should still become them.

    Returns:
        Whether ``path`` holds ``parts`` now. If not, look again.
    """
    with _temporary(path, f"{rivals}.") as temporary:
        _write(temporary, parts)
        if not due():
            return False
        try:
            _rename(temporary, path)
        except FileNotFoundError:
            return False
        _fsync_folder(path.parent)
        for other in path.parent.glob(f".{glob.escape(rivals)}.{'[0-9a-f]' * 16}{TEMPORARY}"):
            with contextlib.suppress(PermissionError):  # Windows: still being written, so not due
                other.unlink(missing_ok=True)
        with path.open("rb") as file:  # another's that was renamed before it could be taken away?
            return file.read(len(parts[0])) == parts[0]


@contextlib.contextmanager
def _in_one_step(path: Path) -> Iterator[Path]:
    """A name to write under; what is there in the end becomes ``path``."""
    with _temporary(path) as temporary:
        yield temporary
        _rename(temporary, path)
        _fsync_folder(path.parent)


@contextlib.contextmanager
def _temporary(path: Path, prefix: str = "") -> Iterator[Path]:
    """A name to write what is to be ``path`` under; it is not there any more in the end."""
    # Short, and without the final name: that may be as long as the file system allows.
    temporary = path.with_name(f".{prefix}{secrets.token_hex(8)}{TEMPORARY}")
    remedy = (
        "free some space or choose another folder; "
        "what was written before is intact, and the same command goes on from there"
    )
    try:
        with faults_as(CacheError, path, "a file that can be written", remedy):
            yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably; one that is there stays as it is.

    Raises:
        CacheError: If it cannot be made.
    """
    with faults_as(CacheError, folder, "a folder that can be written", "choose another folder"):
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for path in made:
            _fsync_folder(path.parent)


def read_capped(path: Path, cap: int, *, anew: bool = False) -> bytes:
    """The bytes of a regular file of at most ``cap`` bytes.

    Args:
        anew: From the disk, and not from the memory that the system keeps of it (on Linux).

    Raises:
        CacheError: If it cannot be read.
        DamageError: If it is larger than ``cap``, or not a regular file.
    """

    def read() -> tuple[bool, int, bytes]:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            regular, size = stat.S_ISREG(status.st_mode), status.st_size
            if anew and regular and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            # Not cap + 1: a read sets aside all that it is asked for, and a cap may be gigabytes.
            return regular, size, file.read(size + 1) if regular and size <= cap else b""

    try:
        # Anew where the handle is stale (ESTALE): a server's word for a file that was deleted or
        # replaced since it was opened. Opened again, it is there or it is not.
        regular, size, data = persistently(read)
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.ENXIO):  # a folder; a socket
            raise CacheError(
                path, "a readable file", strerror(error), "check its path and permissions"
            ) from error
        regular, size, data = False, 0, b""
    if not regular:
        raise _not_ours(path, "a regular file", "a folder or a special file")
    if size > cap or len(data) > cap:
        raise _not_ours(path, f"at most {cap:,} bytes", f"{max(size, len(data)):,} bytes")
    return data


def read_parts(path: Path, starts: Sequence[int], size: int) -> list[bytes]:
    """So many bytes from each place of a file; fewer where it ends.

    Raises:
        CacheError: If it cannot be read.
    """

    def read() -> list[bytes]:
        with open(path, "rb", opener=_open_at_once) as file:
            return [file.read(size) for start in starts if file.seek(start) >= 0]

    with faults_as(CacheError, path, "a readable file", "check its path and permissions"):
        return persistently(read)


def persistently(read: Callable[[], Read]) -> Read:
    """What ``read`` gives, which is called again after a pause where it fails as a disk does.

    Raises:
        OSError: If it fails each time, or in a way that will not pass, as where no file is.
    """
    for pause in PAUSES:
        try:
            return read()
        except OSError as error:
            if isinstance(error, _LASTING) or error.errno in _LASTING_CODES:
                raise
        time.sleep(pause)
    return read()


def take_lock(path: Path) -> int | None:
    """Lock a file, which is made, until its descriptor is closed or the process dies, by whatever.

    The file says who holds it since when. A process that is forked holds it too.

    Returns:
        The descriptor; None where another holds the lock.

    Raises:
        OSError: If the file cannot be written, or its disk has no locks.
    """
    words = f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
    for _ in range(_LOOKS):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            # One that was removed in between, by who held it, is nobody's any more.
            if _lock(descriptor) and os.path.samestat(os.fstat(descriptor), path.stat()):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, words.encode("utf-8", "replace"))
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        time.sleep(_LOOK_SECONDS)  # :func:`lock_holder` has it for as long as it looks
    return None


def lock_holder(path: Path) -> str:
    """Who holds the lock that is this file, and since when, in a few words; empty if nobody."""
    try:
        descriptor = _open_at_once(str(path), os.O_RDONLY)
    except OSError:
        return ""
    try:
        if _lock(descriptor, shared=True):
            return ""
        os.lseek(descriptor, 0, os.SEEK_SET)
        return os.read(descriptor, 200).decode("utf-8", "replace") or "another process"
    except OSError:  # of a disk without locks nobody can tell
        return ""
    finally:
        os.close(descriptor)


def _lock(descriptor: int, *, shared: bool = False) -> bool:
    """Whether the lock of an open file could be had, at once."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_folder(folder: Path, suffix: str = "") -> list[Path]:
    """What is in a folder, in the order of names; nothing if it is not there.

    Args:
        suffix: Only what ends so, hidden files aside.

    Raises:
        CacheError: If it cannot be listed.
    """
    remedy = "check its permissions or choose another --cache-dir"
    with faults_as(CacheError, folder, "a folder that can be read", remedy):
        try:
            paths = sorted(persistently(lambda: list(folder.iterdir())))
        except FileNotFoundError:
            return []
    return [p for p in paths if not suffix or (p.suffix == suffix and p.name[0] != ".")]


class Rounds:
    """Files of a folder that others change meanwhile, in rounds until nothing is new.

    Each comes once, but for those that are :meth:`missed`.

    Args:
        list_files: What there is, now.
        known: Files to leave out.
    """

    def __init__(
        self, list_files: Callable[[], Iterable[Path]], known: Iterable[Path] = ()
    ) -> None:
        self._list_files, self._seen = list_files, set(known)
        self._missed, self._pause = collections.Counter[Path](), 0.0

    def __iter__(self) -> Iterator[list[Path]]:
        while paths := [path for path in self._list_files() if path not in self._seen]:
            self._seen.update(paths)
            yield paths
            time.sleep(self._pause)
            self._pause = 0.0

    def missed(self, path: Path) -> None:
        """A file was listed and is not there: look for it again, if it is listed once more."""
        if (times := self._missed[path]) < len(_LOOK_AGAIN) and not path.is_symlink():
            self._seen.discard(path)
            self._pause = max(self._pause, _LOOK_AGAIN[times])
        self._missed[path] += 1


def is_gone(error: CacheError) -> bool:
    """Whether a file could not be read because it was not there; by now it may be there again."""
    return isinstance(error.__cause__, FileNotFoundError | NotADirectoryError)


def _open_at_once(path: str, flags: int) -> int:
    # Opening a named pipe that somebody put there must not wait for a writer.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _write(path: Path, parts: Sequence[bytes]) -> None:
    with path.open("xb", buffering=0) as file:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[file.write(view) :]
        _fsync(file.fileno())


def _rename(source: Path, target: Path) -> None:
    source.replace(target)


def _fsync(descriptor: int) -> None:
    os.fsync(descriptor)


def _fsync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there; NTFS journals the rename itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot, and say so like this
            raise
    finally:
        os.close(descriptor)


def _not_ours(path: Path, expected: str, found: str) -> DamageError:
    return DamageError(path, expected, found, "this is not a file that tlcache wrote; remove it")
