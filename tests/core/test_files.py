from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import tlcache.core.files
from tlcache.core.errors import CacheError, DamageError
from tlcache.core.files import (
    lock_holder,
    make_folder,
    open_atomically,
    read_capped,
    take_lock,
    write_atomically,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"one")
    write_atomically(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert names(tmp_path) == ["a"]


def test_the_name_appears_only_when_every_byte_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def fsync(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        steps.append(f"{'folder' if folder else 'file'} with {names(tmp_path)[-1] == 'a'}")
        if not folder:
            assert os.fstat(descriptor).st_size == 3

    monkeypatch.setattr(tlcache.core.files, "_fsync", fsync)
    write_atomically(tmp_path / "a", b"one")
    assert steps == ["file with False", "folder with True"]


@pytest.mark.parametrize("step", ["_write", "_fsync", "_rename", "_fsync_folder"])
@pytest.mark.parametrize("old", [b"old", None])
def test_a_full_disk_leaves_the_old_file_or_the_new_one_and_no_temporary(
    step: str, old: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    if old is not None:
        write_atomically(path, old)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tlcache.core.files, step, full)
    with pytest.raises(CacheError) as refused:
        write_atomically(path, b"new")
    assert str(refused.value) == (
        f"{path}: expected a file that can be written, found No space left on device; "
        "free some space or choose another folder; "
        "what was written before is intact, and the same command goes on from there"
    )
    content = b"new" if step == "_fsync_folder" else old
    assert names(tmp_path) == ([] if content is None else ["a"])
    assert content is None or path.read_bytes() == content


def test_a_file_that_is_open_appears_when_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with open_atomically(tmp_path / "a") as file:
        file.write(b"new, ")
        file.write(b"and whole")
        assert (tmp_path / "a").read_bytes() == b"old"
    assert (tmp_path / "a").read_bytes() == b"new, and whole"
    with pytest.raises(KeyboardInterrupt), open_atomically(tmp_path / "a") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert (tmp_path / "a").read_bytes() == b"new, and whole"
    assert names(tmp_path) == ["a"]


def test_a_file_that_is_open_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        steps.append("folder" if stat.S_ISDIR(status.st_mode) else f"{status.st_size} bytes")
        assert (tmp_path / "a").exists() == stat.S_ISDIR(status.st_mode)

    monkeypatch.setattr(tlcache.core.files, "_fsync", fsync)
    with open_atomically(tmp_path / "a") as file:
        file.write(b"one")
    assert steps == ["3 bytes", "folder"]


@pytest.mark.parametrize("step", ["_fsync", "_rename", "_fsync_folder"])
def test_a_full_disk_is_one_error_for_an_open_file_too(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tlcache.core.files, step, full)
    with pytest.raises(CacheError, match="No space left on device; free some space"):  # noqa: SIM117
        with open_atomically(tmp_path / "a") as file:
            file.write(b"new")
    assert names(tmp_path) == (["a"] if step == "_fsync_folder" else [])


def test_a_write_that_stops_half_way_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(path: Path, parts: Sequence[bytes]) -> None:
        path.write_bytes(parts[0][: len(parts[0]) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(tlcache.core.files, "_write", half)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", b"12345678")
    assert names(tmp_path) == []


def test_writing_where_there_is_no_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="found No such file or directory"):
        write_atomically(tmp_path / "nowhere" / "a", b"")


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("蟻" * 85)  # 255 bytes
    write_atomically(path, b"data")
    assert path.read_bytes() == b"data"


def test_a_file_system_that_cannot_sync_folders_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(tlcache.core.files, "_fsync", fsync)
    write_atomically(tmp_path / "a", b"data")
    assert (tmp_path / "a").read_bytes() == b"data"


def test_new_folders_are_synced_into_those_above_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(tlcache.core.files, "_fsync_folder", synced.append)
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert sorted(synced) == [tmp_path, tmp_path / "a"]
    make_folder(tmp_path / "a" / "b")
    assert len(synced) == 2


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(CacheError, match="expected a folder that can be written, found ") as no:
            make_folder(folder)
        assert str(folder) in str(no.value) and "choose another folder" in str(no.value)


def test_a_file_over_the_cap_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_capped(tmp_path / "a", 5) == b"12345"
    with pytest.raises(DamageError) as refused:
        read_capped(tmp_path / "a", 4)
    assert str(refused.value) == (
        f"{tmp_path / 'a'}: expected at most 4 bytes, found 5 bytes; "
        "this is not a file that tlcache wrote; remove it"
    )


def test_a_large_cap_sets_no_memory_aside(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_capped(tmp_path / "a", 1 << 60) == b"12345"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CacheError) as refused:
        read_capped(tmp_path / "a", 4)
    assert not isinstance(refused.value, DamageError)
    assert str(refused.value) == (
        f"{tmp_path / 'a'}: expected a readable file, found No such file or directory; "
        "check its path and permissions"
    )


def test_a_folder_in_a_files_place_is_refused_and_nothing_stays_open(tmp_path: Path) -> None:
    for _ in range(3):
        before = os.open(tmp_path, os.O_RDONLY)
        os.close(before)
        with pytest.raises(DamageError, match="a regular file, found a folder or a special file"):
            read_capped(tmp_path, 4)
        after = os.open(tmp_path, os.O_RDONLY)
        os.close(after)
        assert after == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    code = (
        "import sys; from pathlib import Path; from tlcache.core.files import read_capped\n"
        "read_capped(Path(sys.argv[1]), 4)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "pipe")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "expected a regular file, found a folder or a special file" in result.stderr


def test_an_endless_device_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(DamageError, match="a regular file"):
        read_capped(tmp_path / "zero", 1 << 60)


def test_a_socket_is_no_file_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        with pytest.raises(DamageError, match="a regular file, found a folder or a special file"):
            read_capped(tmp_path / "socket", 4)


def test_a_lock_is_held_by_one_and_freed_by_closing_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert lock_holder(path) == ""
    held = take_lock(path)
    assert held is not None
    assert lock_holder(path).startswith(f"process {os.getpid()} on ")
    assert take_lock(path) is None
    os.close(held)
    assert lock_holder(path) == ""
    again = take_lock(path)
    assert again is not None
    os.close(again)


def test_a_lock_whose_file_was_removed_is_not_taken_for_the_file_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lock = tmp_path / "lock", tlcache.core.files._lock
    removed: list[Path] = []

    def removed_meanwhile(descriptor: int) -> bool:
        if not removed:
            removed.append(path)
            path.unlink()
        return lock(descriptor)

    monkeypatch.setattr(tlcache.core.files, "_lock", removed_meanwhile)
    held = take_lock(path)
    assert held is not None and os.path.samestat(os.fstat(held), path.stat())
    os.close(held)
