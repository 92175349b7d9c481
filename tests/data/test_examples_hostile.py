"""``tlcache data ... --from FILE`` with an archive that is made to harm.

Nothing is written outside of the folder that is asked for, which does not appear; nothing is left
behind; and one line says what is wrong. Each in a process of its own, in ten seconds.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from isolated import isolated
from whole_cache import called

MIB = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the user is, with a neighbour that is worth something."""
    (tmp_path / "neighbour").mkdir()
    (tmp_path / "neighbour/photo.jpg").write_bytes(b"precious")
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def refused(archive: Path, folder: Path) -> str:
    """The one line on an archive, after what must hold of any."""
    before = tree(folder.parent)
    ended = isolated(called, "data", "hymenoptera", folder / "photos", "--from", archive)
    assert ended.code == 0, ended
    code, out, line = ended.value
    assert (code, out) == (1, "") and line.count("\n") == 1, line
    assert line.startswith("error: ") and ": expected " in line and "; " in line
    assert tree(folder.parent) == before
    return str(line)


def packed(folder: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return folder / "x.zip"


@pytest.mark.parametrize(
    "name",
    [
        "../neighbour/photo.jpg",
        "../../evil",
        "train/../../evil",
        "train/ants/../../../evil",
        "/evil",
        "//evil",
        "..",
        "..\\evil",
        "train\\..\\..\\evil",
        "C:\\evil",
        "C:evil",
        "C:/evil",
        "train/ants/C:evil",
        "\\\\server\\share\\evil",
        "train/ants/photo.jpg:stream",
    ],
)
def test_a_name_that_leads_out_is_refused_before_anything_is_written(
    name: str, folder: Path
) -> None:
    line = refused(packed(folder, ("train/ants/1.jpg", b"1"), (name, b"evil")), folder)
    assert f"{name!r} in it with a path that leads out of the folder" in line


def test_the_absolute_name_of_a_file_that_is_there_is_refused(folder: Path) -> None:
    target = folder.parent / "neighbour/photo.jpg"
    line = refused(packed(folder, (str(target), b"evil")), folder)
    assert f"{str(target)!r} in it with a path that leads out of the folder" in line


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_a_link_or_another_special_file_is_refused(kind: int, folder: Path) -> None:
    link = zipfile.ZipInfo("train")
    link.external_attr = (kind | 0o777) << 16
    archive = packed(folder, (link, b"../../neighbour"), ("train/photo.jpg", b"evil"))
    assert "'train' in it with a link or another special file behind it" in refused(archive, folder)


def test_a_name_that_comes_twice_is_refused(folder: Path) -> None:
    archive = packed(folder, ("train/a.jpg", b"1"), ("train//a.jpg", b"2"))
    assert "'train//a.jpg' in it with its name twice" in refused(archive, folder)


def test_a_file_in_the_place_of_a_folder_is_an_error(folder: Path) -> None:
    archive = packed(folder, ("train", b"1"), ("train/a.jpg", b"2"))
    assert "found File exists" in refused(archive, folder)


def test_a_name_that_no_disk_takes_is_an_error(folder: Path) -> None:
    assert "File name too long" in refused(packed(folder, ("n" * 300, b"1")), folder)


# --- bombs


def test_too_many_files_are_refused(folder: Path) -> None:
    archive = packed(folder, *((f"{i}.jpg", b"") for i in range(1001)))
    assert "found 1001 files of 0 bytes (1000 files and 200000000 bytes are" in refused(
        archive, folder
    )


def claiming(size: int, archive: Path) -> None:
    """Replace the sizes that an archive states of its content, wherever it does."""
    data, true = archive.read_bytes(), 0
    with zipfile.ZipFile(archive) as whole:
        true = whole.infolist()[0].file_size
    stated = struct.pack("<L", true)
    assert data.count(stated) == 2
    archive.write_bytes(data.replace(stated, struct.pack("<L", size)))


def test_a_gigabyte_in_a_megabyte_is_refused_before_it_is_unpacked(folder: Path) -> None:
    archive = packed(folder, ("zeros", bytes(MIB)))
    claiming(1 << 30, archive)
    assert archive.stat().st_size < 2000
    assert "found 1 files of 1073741824 bytes" in refused(archive, folder)


def test_many_names_of_the_same_bytes_count_each(folder: Path) -> None:
    """Overlapping members: a directory of 400 names for the one megabyte that is packed."""
    archive = packed(folder, ("000", bytes(MIB)))
    data = archive.read_bytes()
    at = data.index(b"PK\1\2")
    entry, end = data[at : at + 49], bytearray(data[at + 49 :])
    names = [entry[:46] + b"%03d" % i for i in range(400)]
    struct.pack_into("<HHL", end, 8, 400, 400, sum(map(len, names)))
    archive.write_bytes(data[:at] + b"".join(names) + end)
    assert "found 400 files of 419430400 bytes" in refused(archive, folder)


def test_what_is_more_than_it_claims_to_be_is_not_unpacked_further(folder: Path) -> None:
    archive = packed(folder, ("zeros", bytes(64 * MIB)))
    claiming(5, archive)
    assert "found a broken one (Bad CRC-32" in refused(archive, folder)


def test_what_is_small_enough_but_something_else_is_taken_away_again(folder: Path) -> None:
    archive = packed(folder, ("zeros", bytes(100 * MIB)))
    assert archive.stat().st_size < MIB // 4
    assert "expected the tutorial's photos (a tree of digest " in refused(archive, folder)


# --- what is no archive


def of_zeros(path: Path) -> None:
    path.write_bytes(bytes(1000))


def empty(path: Path) -> None:
    path.touch()


def huge_and_sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [of_zeros, empty, huge_and_sparse, a_folder, a_pipe, a_device])
def test_what_is_no_archive_is_refused(make: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "user/here").mkdir(parents=True)
    make(tmp_path / "x.zip")
    assert str(tmp_path / "x.zip") in refused(tmp_path / "x.zip", tmp_path / "user/here")


def test_a_password_is_not_asked_for(folder: Path) -> None:
    archive = packed(folder, ("secret", b"1"))
    data = bytearray(archive.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    archive.write_bytes(data)
    assert "'secret' in it with a password" in refused(archive, folder)
