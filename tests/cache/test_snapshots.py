from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tlcache.core.files
from tlcache.cache import snapshots as digests
from tlcache.cache.snapshots import Snapshot, load_snapshot, save_snapshot, take_snapshot
from tlcache.data.folders import ImageDataset, scan

NO_IMAGE = "expected an image, found bytes that are no image"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that fails is tried again without a pause."""
    monkeypatch.setattr(tlcache.core.files, "PAUSES", (0, 0))


@pytest.fixture
def digested(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the files that were read."""
    read: list[str] = []
    digest = digests.digest_file

    def noting(path: Path) -> Any:
        read.append(path.name)
        return digest(path)

    monkeypatch.setattr(digests, "digest_file", noting)
    yield read
    assert len(read) == len(set(read)), "a file was read twice"


def _old(folder: Path, *names: str) -> ImageDataset:
    """Small files in train/a, train/b, val/a and val/b; each of the given ones in train/a."""
    for path in ("train/b/b.jpg", "val/a/c.jpg", "val/b/d.jpg", *(f"train/a/{n}" for n in names)):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(os.fsencode(path))
    return scan(folder)


def _later(snapshot: Snapshot, seconds: float = 10) -> Snapshot:
    """The snapshot as if it had been taken when its files were so much older."""
    return dataclasses.replace(snapshot, taken_ns=snapshot.taken_ns + int(seconds * 1e9))


def test_digests_are_those_of_the_files(tiny_data: Path) -> None:
    (tiny_data / "train" / "ants" / "link.png").symlink_to("7.png")
    before = time.time_ns()
    snapshot = take_snapshot(scan(tiny_data))
    assert before <= snapshot.taken_ns <= time.time_ns()
    assert snapshot.readable().all()
    for i, path in enumerate(snapshot.dataset.paths):
        data, seen = (tiny_data / path).read_bytes(), (tiny_data / path).stat()
        assert snapshot.digests[i].tobytes() == hashlib.sha256(data).digest()
        times = [seen.st_mtime_ns, seen.st_ctime_ns]
        assert snapshot.status[i].tolist() == [len(data), *times, seen.st_ino]


def test_a_large_file_is_digested_whole(tmp_path: Path) -> None:
    dataset = _old(tmp_path, "a.jpg")
    data = os.urandom(3_000_001)
    dataset.path(0).write_bytes(data)
    assert take_snapshot(dataset).digests[0].tobytes() == hashlib.sha256(data).digest()


def test_more_files_than_are_read_at_once(tmp_path: Path, digested: list[str]) -> None:
    names = [f"{i:03}.jpg" for i in range(2 * digests._FILES_AT_ONCE + 1)]
    dataset = _old(tmp_path, *names)
    ticks: list[tuple[int, int]] = []
    snapshot = take_snapshot(dataset, progress=lambda done, total: ticks.append((done, total)))
    assert len(digested) == len(dataset) == len(names) + 3
    assert ticks == [(i, len(dataset)) for i in range(1, len(dataset) + 1)]
    for i, path in enumerate(dataset.paths):
        assert snapshot.digests[i].tobytes() == hashlib.sha256(os.fsencode(path)).digest()


def test_stopping_stops(tmp_path: Path, digested: list[str]) -> None:
    dataset = _old(tmp_path, *(f"{i}.jpg" for i in range(5 * digests._FILES_AT_ONCE)))

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take_snapshot(dataset, progress=stop)
    assert len(digested) <= digests._FILES_AT_ONCE


def test_a_folder_with_a_hidden_name_has_a_snapshot_too(tmp_path: Path) -> None:
    snapshot = take_snapshot(_old(tmp_path / ".data", "a.jpg"))
    save_snapshot(tmp_path / "s.h5", snapshot)
    assert load_snapshot(tmp_path / "s.h5").dataset.name == snapshot.dataset.name


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, digested: list[str]) -> None:
    dataset = _old(tmp_path, "a.jpg")
    known = _later(take_snapshot(dataset))
    assert sorted(digested) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    digested.clear()
    ticks: list[int] = []
    again = take_snapshot(dataset, [known], progress=lambda done, total: ticks.append(total))
    assert digested == []
    assert ticks == []
    assert np.array_equal(again.digests, known.digests)
    assert np.array_equal(again.status, known.status)
    assert known.says_the_same(again)


def test_only_what_is_new_is_read(tmp_path: Path, digested: list[str]) -> None:
    known = _later(take_snapshot(_old(tmp_path, "b1.jpg")))
    digested.clear()
    (tmp_path / "train" / "a" / "b0.jpg").write_bytes(b"new")
    again = take_snapshot(scan(tmp_path), [known])
    assert digested == ["b0.jpg"]
    assert again.digests[1:].tolist() == known.digests.tolist()
    assert not known.says_the_same(again)


def test_rehash_reads_all(tmp_path: Path, digested: list[str]) -> None:
    dataset = _old(tmp_path, "a.jpg")
    known = _later(take_snapshot(dataset))
    digested.clear()
    take_snapshot(dataset, [known], rehash=True)
    assert sorted(digested) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


@pytest.mark.parametrize("change", ["size", "mtime", "ctime", "inode"])
def test_a_file_that_looks_otherwise_is_read_again(
    tmp_path: Path, digested: list[str], change: str
) -> None:
    dataset = _old(tmp_path, "a.jpg")
    known = _later(take_snapshot(dataset))
    status = known.status.copy()  # it is changed here, since a file's ctime cannot be
    status[0, ["size", "mtime", "ctime", "inode"].index(change)] -= np.uint64(1)
    digested.clear()
    again = take_snapshot(dataset, [dataclasses.replace(known, status=status)])
    assert digested == ["a.jpg"]
    assert again.status[0].tolist() == known.status[0].tolist()
    assert np.array_equal(again.digests, known.digests)


def test_an_edit_that_keeps_size_and_mtime_is_noticed(tmp_path: Path) -> None:
    dataset = _old(tmp_path, "a.jpg")
    path = dataset.path(0)
    known = _later(take_snapshot(dataset))
    before = path.stat()
    edited = b"!" * before.st_size
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # a clock that ticks coarsely
        path.write_bytes(edited)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    again = take_snapshot(dataset, [known])
    assert again.digests[0].tobytes() == hashlib.sha256(edited).digest()
    assert not known.says_the_same(again)


def test_a_file_put_in_place_of_another_is_noticed(tmp_path: Path) -> None:
    dataset = _old(tmp_path, "a.jpg")
    path, other = dataset.path(0), tmp_path / "other"
    known = _later(take_snapshot(dataset))
    other.write_bytes(b"?" * path.stat().st_size)
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    data = other.read_bytes()
    other.rename(path)
    assert take_snapshot(dataset, [known]).digests[0].tobytes() == hashlib.sha256(data).digest()


@pytest.mark.parametrize(("age", "read"), [(1.9, True), (2.1, False)])
def test_a_file_younger_than_two_seconds_at_the_snapshot_is_read_again(
    tmp_path: Path, digested: list[str], age: float, read: bool
) -> None:
    dataset = _old(tmp_path, "a.jpg")
    snapshot = take_snapshot(dataset)
    youngest = int(snapshot.status[:, 1:3].max())
    known = dataclasses.replace(snapshot, taken_ns=youngest + int(age * 1e9))
    digested.clear()
    again = take_snapshot(dataset, [known])
    assert ("a.jpg" in digested) == (len(digested) > 0) == read
    assert known.says_the_same(again) != read  # and is kept anew, so that it can settle


def test_a_file_from_before_1970(tmp_path: Path, digested: list[str]) -> None:
    dataset = _old(tmp_path, "a.jpg")
    for seconds in (-1, -(10**9)):
        os.utime(dataset.path(0), (seconds, seconds))
        known = _later(take_snapshot(dataset))
        assert int(known.status[0, 1]) == 2**64 + seconds * 10**9
        save_snapshot(tmp_path / "s.h5", known)
        digested.clear()
        take_snapshot(dataset, [load_snapshot(tmp_path / "s.h5")])
        assert digested == []
        young = dataclasses.replace(known, taken_ns=int(known.status[0, 2]))
        take_snapshot(dataset, [young])
        assert "a.jpg" in digested
        digested.clear()


def test_a_file_that_is_gone_says_so_and_may_come_back(tmp_path: Path) -> None:
    dataset = _old(tmp_path, "a.jpg")
    data = dataset.path(0).read_bytes()
    dataset.path(0).unlink()
    gone = _later(take_snapshot(dataset))
    assert gone.reasons == ["No such file or directory", "", "", ""]
    assert gone.readable().tolist() == [False, True, True, True]
    assert not gone.digests[0].any() and not gone.status[0].any()
    assert take_snapshot(dataset, [gone]).reasons == gone.reasons
    dataset.path(0).write_bytes(data)
    back = take_snapshot(dataset, [gone])
    assert back.reasons == [""] * 4
    assert back.digests[0].tobytes() == hashlib.sha256(data).digest()


def test_a_file_that_goes_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = _old(tmp_path, "a.jpg")
    digest = digests.digest_file

    def going(path: Path) -> Any:
        if path == dataset.path(0):
            path.unlink()
        return digest(path)

    monkeypatch.setattr(digests, "digest_file", going)
    assert take_snapshot(dataset).reasons == ["No such file or directory", "", "", ""]


def test_a_file_that_changes_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = _old(tmp_path, "a.jpg")
    file_digest = hashlib.file_digest

    def disturbed(file: Any, kind: str) -> Any:
        digest = file_digest(file, kind)
        if Path(file.name) == dataset.path(0):
            with Path(file.name).open("ab") as other:
                other.write(b"more")
        return digest

    monkeypatch.setattr(hashlib, "file_digest", disturbed)
    snapshot = take_snapshot(dataset)
    assert snapshot.reasons == ["it changes while it is read", "", "", ""]
    assert not snapshot.digests[0].any()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    dataset = _old(tmp_path, "a.jpg")
    dataset.path(0).unlink()
    os.mkfifo(dataset.path(0))
    assert take_snapshot(dataset).reasons == ["it is no regular file", "", "", ""]


def test_why_an_image_cannot_be_decoded_is_remembered(tmp_path: Path, digested: list[str]) -> None:
    dataset = _old(tmp_path, "a.jpg")
    snapshot = _later(take_snapshot(dataset))
    known = dataclasses.replace(snapshot, reasons=[NO_IMAGE, "", "", ""])
    digested.clear()
    assert take_snapshot(dataset, [known]).reasons == known.reasons
    assert digested == []
    assert take_snapshot(dataset, [known], rehash=True).reasons == [""] * 4


@pytest.mark.parametrize(
    "reason",
    [
        "Input/output error",
        "Stale file handle",
        "it changes while it is read",
        "other bytes than were digested before the pass",
        "expected the bytes that were digested before the pass, found other bytes",
    ],
)
@pytest.mark.parametrize("digest", [True, False])
def test_that_a_read_once_failed_is_forgotten(tmp_path: Path, reason: str, digest: bool) -> None:
    dataset = _old(tmp_path, "a.jpg")
    known = _later(take_snapshot(dataset))
    digests = known.digests * np.array([[digest], [1], [1], [1]], np.uint8)
    failed = dataclasses.replace(known, digests=digests, reasons=[reason, "", "", ""])
    again = take_snapshot(dataset, [failed])
    assert again.reasons == [""] * 4
    assert np.array_equal(again.digests, known.digests)


def test_why_there_is_no_feature_is_remembered_for_as_many_views_or_more(tmp_path: Path) -> None:
    dataset = _old(tmp_path, "a.jpg")
    reason = "expected a feature of finite numbers, found NaN or Inf"
    known = _later(take_snapshot(dataset, views=2))
    known = dataclasses.replace(known, reasons=[reason, NO_IMAGE, "", ""])
    for views, kept in ((2, reason), (3, reason), (1, ""), (0, "")):
        again = take_snapshot(dataset, [known], views=views)
        assert again.reasons == [kept, NO_IMAGE, "", ""]


def test_a_file_that_could_not_be_opened_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = _old(tmp_path, "a.jpg")
    open_file = Path.open

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if path == dataset.path(0):
            raise OSError(24, "Too many open files")
        return open_file(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        known = _later(take_snapshot(dataset))
    assert known.reasons == ["Too many open files", "", "", ""]
    assert take_snapshot(dataset, [known]).reasons == [""] * 4


@pytest.mark.parametrize("what", ["labels", "splits", "reasons", "digests", "classes", "views"])
def test_what_says_something_else(tmp_path: Path, what: str) -> None:
    known = _later(take_snapshot(_old(tmp_path, "a.jpg")))
    assert known.says_the_same(dataclasses.replace(known, taken_ns=0))
    if what == "reasons":
        other = dataclasses.replace(known, reasons=["x", "", "", ""])
    elif what == "views":
        other = dataclasses.replace(known, views=1)
    elif what == "digests":
        other = dataclasses.replace(known, digests=known.digests + 1)
    else:
        changed: dict[str, Any] = {
            what: ("a", "c") if what == "classes" else 1 - getattr(known.dataset, what)
        }
        dataset = dataclasses.replace(known.dataset, **changed)
        other = dataclasses.replace(known, dataset=dataset)
    assert not known.says_the_same(other)
