from __future__ import annotations

from pathlib import Path

import pytest

import tlcache.files
from tlcache.errors import CacheError, DamageError
from tlcache.files import read_capped, write_atomically


def test_a_file_appears_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"one")
    write_atomically(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("step", ["_write", "_rename", "_fsync_folder"])
def test_a_full_disk_leaves_the_old_file_and_no_temporary(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomically(tmp_path / "a", b"old")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tlcache.files, step, full)
    with pytest.raises(CacheError, match="No space left on device; free some space"):
        write_atomically(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == (b"new" if step == "_fsync_folder" else b"old")


def test_a_file_over_the_cap_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_capped(tmp_path / "a", 5) == b"12345"
    with pytest.raises(DamageError, match="at most 4 bytes, found 5 bytes"):
        read_capped(tmp_path / "a", 4)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="a readable file, found No such file"):
        read_capped(tmp_path / "a", 4)
