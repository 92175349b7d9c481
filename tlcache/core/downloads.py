"""Fetching a file over HTTP: whole or not at all, going on where it stopped, its bytes checked.

One mechanism for data sets and for weights. Covers no archive and no Hugging Face hub, whose own
client keeps its own cache.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tlcache.core.errors import DownloadError, faults_as
from tlcache.core.files import sha256_of
from tlcache.core.progress import OpenTick, no_tick

if sys.platform != "win32":
    import fcntl

TIMEOUT_SECONDS = 30.0
"""How long a server may be silent."""

_CHUNK = 1 << 16
_GO_ON = "run the same again: it goes on where it stopped"


def download(
    url: str,
    destination: Path,
    *,
    sha256: str = "",
    size: int | None = None,
    progress: OpenTick = no_tick,
) -> Path:
    """Fetch ``url`` to the file ``destination``, which appears whole or not at all.

    The bytes gather in ``<destination>.part``. A call that stops, by Ctrl-C too, leaves that file,
    and the next call asks for the rest, provided that the server still has the same file (its
    ``ETag`` or ``Last-Modified``, kept in ``<destination>.part.from``); otherwise it starts over.
    Two processes may fetch the same at once. An existing ``destination`` is replaced.

    Args:
        url: An ``http:`` or ``https:`` address.
        destination: The file to write; its folder is made if need be.
        sha256: What the whole file's SHA-256 must begin with, in hex.
        size: The number of bytes that the whole file must have.
        progress: Called with (bytes at hand, bytes in all or None) at the start and as they come.

    Raises:
        DownloadError: The address, the server, the connection, the disk or the content is at fault.
    """
    remedy = f"make room or choose another place, then {_GO_ON}"
    with faults_as(DownloadError, url, f"to write {destination}", remedy):
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _own_part(destination.with_name(destination.name + ".part")) as part:
            _fetch(url, part, size, progress)
            _check(url, part, sha256, size)
            part.replace(destination)
    return destination


@contextlib.contextmanager
def _own_part(part: Path) -> Iterator[Path]:
    """A file for the bytes to gather in: another name while another process is at ``part``.

    It stays behind only where a later call can go on with it.
    """
    with contextlib.ExitStack() as held:
        claimed = _claim(part, held)
        if not claimed:
            part = part.with_name(f"{part.name}.{secrets.token_hex(4)}")
        try:
            yield part
        finally:
            if not (claimed and part.exists() and _origin(part).exists()):
                part.unlink(missing_ok=True)
                _origin(part).unlink(missing_ok=True)


def _claim(part: Path, held: contextlib.ExitStack) -> bool:
    """Whether nobody else is at this file; the system forgets a claim when its process ends."""
    if sys.platform == "win32":  # no such lock there, and no file is replaced while it is open
        return True
    file = held.enter_context(part.open("ab"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), part.stat())
    except (BlockingIOError, FileNotFoundError):  # at it, or done with it in between
        return False
    except OSError:  # a file system without locks
        return True


def _fetch(url: str, part: Path, size: int | None, progress: OpenTick) -> None:
    response, offset = _open(url, *_resume_point(url, part))
    with response:
        total = None if response.length is None else offset + response.length
        if size is not None and total not in (None, size):
            raise _mismatch(url, f"{size} bytes", f"{total} bytes")
        with part.open("ab" if offset else "wb") as file:
            if not offset:
                _note_origin(url, part, response)
            for chunk in _chunks(url, response, offset, total, progress):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())


def _resume_point(url: str, part: Path) -> tuple[int, str]:
    """How much of ``url`` is there already, and the validator of the version that it is of."""
    try:
        origin, validator = _origin(part).read_text(encoding="utf-8").splitlines()
        return (part.stat().st_size, validator) if origin == url else (0, "")
    except (FileNotFoundError, ValueError):
        return 0, ""


def _origin(part: Path) -> Path:
    return part.with_name(part.name + ".from")


def _note_origin(url: str, part: Path, response: http.client.HTTPResponse) -> None:
    """Called once ``part`` is empty: an origin must never stand beside another version's bytes."""
    etag = response.headers.get("ETag", "")
    weak = etag.startswith("W/")  # the same meaning, not the same bytes: no use for a range
    validator = response.headers.get("Last-Modified", "") if weak or not etag else etag
    if validator:
        _origin(part).write_text(f"{url}\n{validator}\n", encoding="utf-8")
    else:
        _origin(part).unlink(missing_ok=True)


def _open(url: str, offset: int, validator: str) -> tuple[http.client.HTTPResponse, int]:
    """The response, and the offset of its first byte: 0 where the server starts over."""
    if not url.startswith(("http://", "https://")):
        raise _failure(url, "another kind of address", "give one with http:// or https://")
    headers = {"User-Agent": "tlcache", "Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    response: http.client.HTTPResponse
    try:
        request = urllib.request.Request(url, headers=headers)
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
                return _open(url, 0, "")
            raise _failure(url, f"HTTP {error.code} {error.reason}", "check the address") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise _failure(url, str(reason) or repr(reason), "check the connection") from error
    if response.status == http.HTTPStatus.OK:
        return response, 0
    partial = response.status == http.HTTPStatus.PARTIAL_CONTENT and offset
    if partial and response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
        return response, offset
    response.close()
    if partial:
        return _open(url, 0, "")
    raise _failure(url, f"HTTP {response.status} {response.reason}", "check the address")


def _chunks(
    url: str, response: http.client.HTTPResponse, done: int, total: int | None, progress: OpenTick
) -> Iterator[bytes]:
    while True:
        progress(done, total)
        try:
            chunk = response.read(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _failure(url, f"{error or repr(error)} after {done} bytes", _GO_ON) from error
        if not chunk:
            break
        done += len(chunk)
        yield chunk
    if total is not None and done != total:
        raise _failure(url, f"a connection that ended after {done} of {total} bytes", _GO_ON)


def _check(url: str, part: Path, sha256: str, size: int | None) -> None:
    """What is whole but wrong cannot be gone on with: it is removed."""
    found_size, found = part.stat().st_size, sha256_of(part) if sha256 else ""
    if size is not None and found_size != size:
        part.unlink()
        raise _mismatch(url, f"{size} bytes", f"{found_size} bytes (removed)")
    if not found.startswith(sha256.lower()):
        part.unlink()
        raise _mismatch(url, f"SHA-256 {sha256}", f"{found} in {found_size} bytes (removed)")


def _mismatch(url: str, expected: str, found: str) -> DownloadError:
    remedy = "try again; if it stays so, the file at this address has changed"
    return DownloadError(url, expected, found, remedy)


def _failure(url: str, found: str, remedy: str) -> DownloadError:
    return DownloadError(url, "a file", found, remedy)
