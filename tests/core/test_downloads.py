from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from one_file_site import BODY, Site, serving

from tlcache.core import downloads
from tlcache.core.downloads import download
from tlcache.core.errors import DownloadError

DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


def _interrupted(site: Site, destination: Path, after: int = 100_000) -> None:
    site.cut = after
    with pytest.raises(DownloadError):
        download(site.url, destination)
    site.cut = None
    site.asked.clear()


def test_a_download_is_whole_and_leaves_nothing_beside_it(site: Site, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / "new" / "photos.zip"
    digest = hashlib.sha256(BODY).hexdigest().upper()
    made = download(
        site.url, target, sha256=digest, size=len(BODY), progress=lambda *at: seen.append(at)
    )
    assert made == target
    assert target.read_bytes() == BODY
    assert [path.name for path in target.parent.iterdir()] == ["photos.zip"]
    assert seen[0] == (0, len(BODY))
    assert seen[-1] == (len(BODY), len(BODY))
    assert site.asked == [(None, None)]


def test_a_dropped_connection_says_so_and_the_next_call_fetches_only_the_rest(
    site: Site, tmp_path: Path
) -> None:
    target = tmp_path / "photos.zip"
    site.cut = 100_000
    with pytest.raises(DownloadError) as caught:
        download(site.url, target)
    assert str(caught.value) == (
        f"{site.url}: expected a file, found a connection that ended after 100000 of 300000 bytes; "
        "run the same again: it goes on where it stopped"
    )
    assert not target.exists()
    site.cut = None
    site.asked.clear()
    seen: list[tuple[int, int | None]] = []
    download(site.url, target, progress=lambda *at: seen.append(at))
    assert target.read_bytes() == BODY
    assert site.asked == [("bytes=100000-", '"one"')]
    assert seen[0] == (100_000, 300_000)


def test_ctrl_c_leaves_a_part_that_resumes(site: Site, tmp_path: Path) -> None:
    def stop(done: int, total: int | None) -> None:
        if done >= 100_000:
            raise KeyboardInterrupt

    target = tmp_path / "photos.zip"
    with pytest.raises(KeyboardInterrupt):
        download(site.url, target, progress=stop)
    size = (tmp_path / "photos.zip.part").stat().st_size
    assert size > 0
    download(site.url, target)
    assert target.read_bytes() == BODY
    assert site.asked[-1] == (f"bytes={size}-", '"one"')


def test_last_modified_serves_where_there_is_no_strong_etag(site: Site, tmp_path: Path) -> None:
    site.headers = {"ETag": 'W/"one"', "Last-Modified": "Tue, 24 Nov 2020 04:06:00 GMT"}
    _interrupted(site, tmp_path / "photos.zip")
    download(site.url, tmp_path / "photos.zip")
    assert (tmp_path / "photos.zip").read_bytes() == BODY
    assert site.asked == [("bytes=100000-", "Tue, 24 Nov 2020 04:06:00 GMT")]


@pytest.mark.parametrize("change", ["new version", "no ranges", "wrong range", "no validator"])
def test_a_part_that_cannot_be_continued_is_started_over(
    site: Site, tmp_path: Path, change: str
) -> None:
    if change == "no validator":
        site.headers = {}
    _interrupted(site, tmp_path / "photos.zip")
    if change == "new version":
        site.body, site.headers = BODY[::-1], {"ETag": '"two"'}
    site.ranges = change != "no ranges"
    site.range_start = 7 if change == "wrong range" else None
    download(site.url, tmp_path / "photos.zip")
    assert (tmp_path / "photos.zip").read_bytes() == site.body


def test_a_part_of_another_address_is_not_continued(site: Site, tmp_path: Path) -> None:
    _interrupted(site, tmp_path / "photos.zip")
    download(site.url + "?other", tmp_path / "photos.zip")
    assert site.asked == [(None, None)]


def test_a_part_with_a_damaged_origin_is_started_over(site: Site, tmp_path: Path) -> None:
    _interrupted(site, tmp_path / "photos.zip")
    (tmp_path / "photos.zip.part.from").write_bytes(b"\xff")
    download(site.url, tmp_path / "photos.zip")
    assert site.asked == [(None, None)]


def test_a_part_that_is_already_whole_is_fetched_anew(site: Site, tmp_path: Path) -> None:
    _interrupted(site, tmp_path / "photos.zip")
    (tmp_path / "photos.zip.part").write_bytes(BODY)
    download(site.url, tmp_path / "photos.zip")
    assert (tmp_path / "photos.zip").read_bytes() == BODY
    assert [wanted for wanted, _ in site.asked] == ["bytes=300000-", None]


def test_a_wrong_checksum_is_an_error_and_nothing_is_kept(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        download(site.url, tmp_path / "photos.zip", sha256="0" * 64)
    found = hashlib.sha256(BODY).hexdigest()
    assert str(caught.value) == (
        f"{site.url}: expected SHA-256 {'0' * 64}, found {found} in 300000 bytes (removed); "
        "try again; if it stays so, the file at this address has changed"
    )
    assert not (tmp_path / "photos.zip.part").exists()
    assert not (tmp_path / "photos.zip").exists()


@pytest.mark.parametrize("tell_length", [True, False])
def test_a_wrong_size_is_an_error(site: Site, tmp_path: Path, tell_length: bool) -> None:
    site.tell_length = tell_length
    with pytest.raises(DownloadError, match="expected 5 bytes, found 300000 bytes"):
        download(site.url, tmp_path / "photos.zip", size=5)
    assert not (tmp_path / "photos.zip").exists()


def test_an_unknown_length_is_no_fault(site: Site, tmp_path: Path) -> None:
    site.tell_length = False
    seen: list[tuple[int, int | None]] = []
    download(site.url, tmp_path / "photos.zip", progress=lambda *at: seen.append(at))
    assert (tmp_path / "photos.zip").read_bytes() == BODY
    assert seen[-1] == (300_000, None)


@pytest.mark.parametrize(
    ("status", "found"), [(404, "HTTP 404 Not Found"), (206, "HTTP 206 Partial Content")]
)
def test_an_answer_that_is_no_file_is_an_error(
    site: Site, tmp_path: Path, status: int, found: str
) -> None:
    site.status = status
    with pytest.raises(DownloadError) as caught:
        download(site.url, tmp_path / "photos.zip")
    assert str(caught.value) == f"{site.url}: expected a file, found {found}; check the address"
    assert list(tmp_path.iterdir()) == []


def test_a_refused_connection_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as unheard:  # bound, so that no one else gets the port; not listening
        unheard.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unheard.getsockname()[1]}/photos.zip"
        with pytest.raises(DownloadError, match=r"Connection refused; check the connection$"):
            download(url, tmp_path / "photos.zip")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("file:///etc/hostname", "found another kind of address; give one with http://"),
        ("photos.zip", "found another kind of address; give one with http://"),
        ("http://[half/photos.zip", "check the connection"),
    ],
)
def test_an_address_that_makes_no_sense_is_an_error(tmp_path: Path, url: str, words: str) -> None:
    with pytest.raises(DownloadError) as caught:
        download(url, tmp_path / "photos.zip")
    assert words in str(caught.value)


def test_a_place_that_cannot_be_written_is_an_error(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    target = tmp_path / "file" / "photos.zip"
    with pytest.raises(DownloadError, match=f"expected to write {target}, found .*; make room or"):
        download(site.url, target)


def test_two_at_once_do_not_write_into_each_others_part(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "photos.zip"

    def meanwhile(done: int, total: int | None) -> None:
        if done == 65536 and not target.exists():
            download(site.url, target, sha256=DIGEST)

    download(site.url, target, sha256=DIGEST, progress=meanwhile)
    assert site.asked == [(None, None)] * 2
    assert target.read_bytes() == BODY
    assert [path.name for path in tmp_path.iterdir()] == ["photos.zip"]


def test_what_cannot_be_gone_on_with_is_not_left(site: Site, tmp_path: Path) -> None:
    site.headers = {}
    _interrupted(site, tmp_path / "photos.zip")
    assert list(tmp_path.iterdir()) == []


def test_a_silent_server_does_not_hold_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "TIMEOUT_SECONDS", 0.05)
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/photos.zip"
        with pytest.raises(DownloadError, match=r"found (read operation )?timed out; check the"):
            download(url, tmp_path / "photos.zip")
