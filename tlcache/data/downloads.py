"""One file from the web: resumable, checked, and there whole or not at all.

Standard library only, HTTP and HTTPS only. It does not retry, run downloads in parallel, or log
in: what fails says so in one line, and the same call again goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from tlcache.core.errors import DownloadError

Progress = Callable[[int, int | None], None]

_CHUNK = 1 << 16
_TIMEOUT_SECONDS = 30
_GO_ON = "run the same again: it goes on where it stopped"


def download(
    url: str,
    destination: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Fetch ``url`` to the file ``destination``, which appears whole or not at all.

    The bytes gather in ``<destination>.part``. A call that stops, by Ctrl-C too, leaves that file,
    and the next call asks for the rest, provided that the server still has the same file (its
    ``ETag`` or ``Last-Modified``, kept in ``<destination>.part.from``); otherwise it starts over.
    An existing ``destination`` is replaced.

    Args:
        url: An ``http:`` or ``https:`` address.
        destination: The file to write; its folder is made if need be.
        sha256: The hex SHA-256 that the whole file must have.
        size: The number of bytes that the whole file must have.
        progress: Called with (bytes at hand, bytes in all or None) at the start and as they come.

    Raises:
        DownloadError: The address, the server, the connection, the disk or the content is at fault.
    """
    part = destination.with_name(destination.name + ".part")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, part, size, progress)
        _check(url, part, sha256, size)
        part.replace(destination)
        _origin(part).unlink(missing_ok=True)
    except OSError as error:
        raise DownloadError(
            url,
            expected=f"to write {destination}",
            found=error.strerror or repr(error),
            remedy=f"make room or choose another place, then {_GO_ON}",
        ) from error
    return destination


def _fetch(url: str, part: Path, size: int | None, progress: Progress | None) -> None:
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
    headers = {"User-Agent": "tlcache", "Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    try:
        response = _request(url, headers)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
                return _open(url, 0, "")
            raise _failure(url, f"HTTP {error.code} {error.reason}", "check the address") from error
    if response.status == http.HTTPStatus.OK:
        return response, 0
    content_range = response.headers.get("Content-Range", "")
    if response.status == http.HTTPStatus.PARTIAL_CONTENT and offset:
        if content_range.startswith(f"bytes {offset}-"):
            return response, offset
        response.close()
        return _open(url, 0, "")
    response.close()
    raise _failure(url, f"HTTP {response.status} {response.reason}", "check the address")


def _request(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    if not url.startswith(("http://", "https://")):
        raise _failure(url, "another kind of address", "give one with http:// or https://")
    try:
        request = urllib.request.Request(url, headers=headers)
        response: http.client.HTTPResponse = urllib.request.urlopen(
            request, timeout=_TIMEOUT_SECONDS
        )
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise _failure(url, str(reason) or repr(reason), "check the connection") from error
    return response


def _chunks(
    url: str,
    response: http.client.HTTPResponse,
    done: int,
    total: int | None,
    progress: Progress | None,
) -> Iterator[bytes]:
    while True:
        if progress is not None:
            progress(done, total)
        try:
            chunk = response.read(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            reason = f"{error or repr(error)} after {done} bytes"
            raise _failure(url, reason, _GO_ON) from error
        if not chunk:
            break
        done += len(chunk)
        yield chunk
    if total is not None and done != total:
        raise _failure(url, f"a connection that ended after {done} of {total} bytes", _GO_ON)


def _check(url: str, part: Path, sha256: str | None, size: int | None) -> None:
    """What is whole but wrong cannot be resumed: it is removed."""
    found_size = part.stat().st_size
    if size is not None and found_size != size:
        part.unlink()
        raise _mismatch(url, f"{size} bytes", f"{found_size} bytes (removed)")
    if sha256 is None:
        return
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        part.unlink()
        raise _mismatch(url, f"SHA-256 {sha256}", f"{found} in {found_size} bytes (removed)")


def _mismatch(url: str, expected: str, found: str) -> DownloadError:
    remedy = "try again; if it stays so, the file at this address has changed"
    return DownloadError(url, expected=expected, found=found, remedy=remedy)


def _failure(url: str, found: str, remedy: str) -> DownloadError:
    return DownloadError(url, expected="a file", found=found, remedy=remedy)
