from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tlcache.core.errors import DataError
from tlcache.data.examples import extract_zip

BODY = np.random.default_rng(0).bytes(1000)
LIMITS = {"max_files": 10, "max_bytes": 1_000_000}


def _zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return path


def test_a_zip_is_unpacked_without_what_macos_adds(tmp_path: Path) -> None:
    members = {"a/b.txt": b"1", "c.txt": b"2", "__MACOSX/a/._b.txt": b"", "a/.DS_Store": b""}
    extract_zip(_zip(tmp_path / "x.zip", members), tmp_path / "out", **LIMITS)
    found = {p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.glob("out/**/*.*")}
    assert found == {"a/b.txt", "c.txt"}
    assert (tmp_path / "out/a/b.txt").read_bytes() == b"1"


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/x", "C:/x", "..\\x", "a/C:x", "a\\..\\..\\x"]
)
def test_a_path_that_leads_out_is_refused_before_anything_is_written(
    tmp_path: Path, name: str
) -> None:
    archive = _zip(tmp_path / "x.zip", {"good.txt": b"1", name: b"2"})
    with pytest.raises(DataError) as caught:
        extract_zip(archive, tmp_path / "out", **LIMITS)
    assert "in it with a path that leads out of the folder; fetch it again" in str(caught.value)
    assert str(archive) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.writestr(link, "/etc")
    with pytest.raises(DataError, match="'link' in it with a link or another special file behind"):
        extract_zip(tmp_path / "x.zip", tmp_path / "out", **LIMITS)


def test_too_many_files_or_bytes_are_refused(tmp_path: Path) -> None:
    many = _zip(tmp_path / "many.zip", {f"{i}.txt": b"" for i in range(11)})
    with pytest.raises(DataError, match=r"found 11 files of 0 bytes \(10 files and 1000000 bytes"):
        extract_zip(many, tmp_path / "out", **LIMITS)
    bomb = _zip(tmp_path / "bomb.zip", {"zeros": bytes(1_000_001)})
    assert bomb.stat().st_size < 10_000
    with pytest.raises(DataError, match="found 1 files of 1000001 bytes"):
        extract_zip(bomb, tmp_path / "out", **LIMITS)


def test_a_bomb_that_lies_about_its_size_does_not_unpack(tmp_path: Path) -> None:
    bomb = _zip(tmp_path / "bomb.zip", {"zeros": bytes(1_000_001)})
    raw = bomb.read_bytes()
    true, told = (n.to_bytes(4, "little") for n in (1_000_001, 5))
    assert raw.count(true) == 2
    bomb.write_bytes(raw.replace(true, told))
    with pytest.raises(DataError, match=r"a broken one \(Bad CRC"):
        extract_zip(bomb, tmp_path / "out", **LIMITS)
    assert (tmp_path / "out" / "zeros").stat().st_size <= 5


def test_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.writestr("a/b", "1")
        packed.writestr("a//b", "2")
    with pytest.raises(DataError, match="'a//b' in it with its name twice"):
        extract_zip(tmp_path / "x.zip", tmp_path / "out", **LIMITS)


def test_an_unusual_compression_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_BZIP2) as packed:
        packed.writestr("a", "1")
    with pytest.raises(DataError, match="'a' in it with a compression other than deflate"):
        extract_zip(tmp_path / "x.zip", tmp_path / "out", **LIMITS)


@pytest.mark.parametrize("keep", [0, 10, 400])
def test_a_file_that_is_no_whole_zip_is_an_error(tmp_path: Path, keep: int) -> None:
    archive = _zip(tmp_path / "x.zip", {"a": BODY})
    archive.write_bytes(archive.read_bytes()[:keep])
    with pytest.raises(DataError, match="expected a safe and whole zip archive, found a broken"):
        extract_zip(archive, tmp_path / "out", **LIMITS)


def test_one_flipped_bit_in_a_zip_is_an_error(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "x.zip", {"a": BODY})
    raw = bytearray(archive.read_bytes())
    raw[500] ^= 1
    archive.write_bytes(raw)
    with pytest.raises(DataError, match="found a broken one"):
        extract_zip(archive, tmp_path / "out", **LIMITS)


def test_a_missing_zip_is_an_error(tmp_path: Path) -> None:
    archive = tmp_path / "x.zip"
    with pytest.raises(DataError) as caught:
        extract_zip(archive, tmp_path / "out", **LIMITS)
    assert str(caught.value) == (
        f"{archive}: expected to unpack {archive}, found No such file or directory; "
        "see to the path, its permissions and the room on its disk"
    )
