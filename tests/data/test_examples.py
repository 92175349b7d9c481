"""The example data sets, and the zip that one of them comes in."""

from __future__ import annotations

import hashlib
import io
import shutil
import stat
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlcache.core.errors import DataError, DownloadError
from tlcache.data import examples as datasets
from tlcache.data.examples import (
    HYMENOPTERA_URL,
    extract_zip,
    fetch_hymenoptera,
    tree_digest,
    write_digits,
)

BODY = np.random.default_rng(0).bytes(1000)
LIMITS = {"max_files": 10, "max_bytes": 1_000_000}


def _zipped(folder: Path, archive: Path, top: str = "hymenoptera_data/") -> Path:
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                packed.write(path, top + path.relative_to(folder).as_posix())
    return archive


@pytest.fixture(scope="module")
def archive(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tutorial's zip, as far as its contents go."""
    return _zipped(photos, tmp_path_factory.mktemp("zip") / "hymenoptera_data.zip")


@pytest.fixture
def miniature(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small data set in the place of the photos, so that a test needs neither them nor time."""
    monkeypatch.setattr(datasets, "HYMENOPTERA_DIGEST", tree_digest(tiny_data))
    return tiny_data


def _no_download(*args: object, **options: object) -> None:
    pytest.fail("downloaded")


def test_the_digest_of_a_tree_is_as_documented(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "é.txt").write_bytes(b"one")
    (tmp_path / "b.txt").write_bytes(b"two")
    (tmp_path / "b" / ".DS_Store").write_bytes(b"macOS was here")
    (tmp_path / "empty").mkdir()
    one, two = (hashlib.sha256(content).hexdigest() for content in (b"one", b"two"))
    lines = f"b.txt\0{two}\nb/é.txt\0{one}\n"
    assert tree_digest(tmp_path) == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize("change", ["content", "name", "extra file"])
def test_the_digest_of_a_tree_changes_with(tmp_path: Path, tiny_data: Path, change: str) -> None:
    before = tree_digest(tiny_data)
    file = tiny_data / "val" / "ants" / "0.jpg"
    if change == "content":
        file.write_bytes(file.read_bytes()[:-1])
    elif change == "name":
        file.rename(file.with_name("9.jpg"))
    else:
        (tiny_data / "note.txt").touch()
    assert tree_digest(tiny_data) != before


def test_the_real_photos_come_out_of_their_zip_whole(
    archive: Path, photos: Path, tmp_path: Path
) -> None:
    target = tmp_path / "photos"
    assert fetch_hymenoptera(target, archive=archive) is True
    assert tree_digest(target) == tree_digest(photos) == datasets.HYMENOPTERA_DIGEST
    counts = Counter(path.parent.relative_to(target).as_posix() for path in target.rglob("*.*"))
    assert counts == {"train/ants": 124, "train/bees": 121, "val/ants": 70, "val/bees": 83}
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    assert archive.exists()


def test_photos_that_are_there_are_not_fetched_again(
    miniature: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "download", _no_download)
    (miniature / ".DS_Store").touch()
    assert fetch_hymenoptera(miniature) is False
    assert fetch_hymenoptera(miniature, archive=Path("not/looked/at.zip")) is False


@pytest.mark.parametrize("top", ["", "hymenoptera_data/"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_zip_with_or_without_a_top_folder_fills_an_absent_or_empty_folder(
    miniature: Path, tmp_path: Path, top: str, exists: bool
) -> None:
    target = tmp_path / "there" / "photos"
    if exists:
        target.mkdir(parents=True)
    assert fetch_hymenoptera(target, archive=_zipped(miniature, tmp_path / "x.zip", top)) is True
    assert tree_digest(target) == tree_digest(miniature)
    assert [path.name for path in target.parent.iterdir()] == ["photos"]


def test_a_tampered_zip_is_an_error_and_leaves_nothing(miniature: Path, tmp_path: Path) -> None:
    wanted = tree_digest(miniature)
    file = miniature / "val" / "bees" / "3.png"
    file.write_bytes(file.read_bytes() + b"!")
    archive = _zipped(miniature, tmp_path / "x.zip")
    with pytest.raises(DataError) as caught:
        fetch_hymenoptera(tmp_path / "photos", archive=archive)
    assert str(caught.value) == (
        f"{archive}: expected the tutorial's photos (a tree of digest {wanted}), found a tree of "
        f"digest {tree_digest(miniature)}; fetch {HYMENOPTERA_URL} again"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"data", "x.zip"}


def test_a_zip_that_leads_out_of_the_folder_writes_nothing(miniature: Path, tmp_path: Path) -> None:
    archive = _zipped(miniature, tmp_path / "x.zip")
    with zipfile.ZipFile(archive, "a") as packed:
        packed.writestr("../../evil.txt", "gotcha")
    with pytest.raises(DataError, match=r"'../../evil.txt' in it with a path that leads out"):
        fetch_hymenoptera(tmp_path / "deep" / "photos", archive=archive)
    assert list(tmp_path.rglob("evil.txt")) == []
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_folder_with_anything_else_is_left_alone(
    miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "download", _no_download)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError) as caught:
        fetch_hymenoptera(mine)
    assert str(caught.value) == (
        f"{mine}: expected no folder, an empty one, or the whole data set (a tree of digest "
        f"{tree_digest(miniature)}), found a tree of digest {tree_digest(mine)}; "
        "name another folder: nothing in this one was touched"
    )
    assert (mine / "thesis.tex").read_text() == "years of work"


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "photos").touch()
    with pytest.raises(DataError, match="found a file; name another folder"):
        fetch_hymenoptera(tmp_path / "photos")


def test_the_folder_one_is_in_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="found the folder you are in; name another folder"):
        write_digits(Path())


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="see to the path, its permissions and the room"):
        write_digits(tmp_path / "file" / "digits")


def test_without_a_network_the_error_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(url: str, *args: object, **options: object) -> None:
        raise DownloadError(url, expected="a file", found="no network", remedy="check it")

    monkeypatch.setattr(datasets, "download", fail)
    with pytest.raises(DownloadError) as caught:
        fetch_hymenoptera(tmp_path / "photos")
    assert str(caught.value) == (
        f"{HYMENOPTERA_URL}: expected a file, found no network; "
        "check it; or fetch it elsewhere and name the file with --from"
    )


def test_a_download_is_unpacked_and_removed(
    miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "download", lambda url, to, progress: _zipped(miniature, to))
    assert fetch_hymenoptera(tmp_path / "photos") is True
    assert tree_digest(tmp_path / "photos") == tree_digest(miniature)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "photos"}


def test_a_download_that_is_something_else_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "download", lambda url, to, progress: to.write_text("<html>"))
    with pytest.raises(DataError, match="expected a safe and whole zip archive, found a broken"):
        fetch_hymenoptera(tmp_path / "photos")
    assert list(tmp_path.iterdir()) == []


def test_stopped_while_unpacking_the_next_call_downloads_nothing(
    miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as first:
        first.setattr(datasets, "download", lambda url, to, progress: _zipped(miniature, to))
        first.setattr(datasets, "extract_zip", stop)
        with pytest.raises(KeyboardInterrupt):
            fetch_hymenoptera(tmp_path / "photos")
    assert {path.name for path in tmp_path.iterdir()} == {"data", ".photos.zip"}
    monkeypatch.setattr(datasets, "download", _no_download)
    assert fetch_hymenoptera(tmp_path / "photos") is True
    assert {path.name for path in tmp_path.iterdir()} == {"data", "photos"}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "digits"
    assert write_digits(folder) is True
    return folder


def test_the_digits_are_the_same_bytes_everywhere(digits: Path) -> None:
    assert tree_digest(digits) == "186910d7acbc6acd3fef3634214c23435b8040582b34c5488f1eecc7af2efa46"


def test_the_digits_show_what_scikit_learn_has(digits: Path) -> None:
    from sklearn.datasets import load_digits

    original = load_digits()
    paths = sorted(digits.glob("*/*/*.png"), key=lambda path: path.stem)
    assert [int(path.stem) for path in paths] == list(range(1797))
    assert [int(path.parent.name) for path in paths] == original.target.tolist()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(path.read_bytes()))) for path in paths])
    assert pixels.shape == (1797, 32, 32)
    assert (np.rint(pixels[:, ::4, ::4] / 255 * 16) == original.images).all()
    assert (pixels == pixels[:, ::4, ::4].repeat(4, axis=1).repeat(4, axis=2)).all()


def test_the_digits_are_split_within_each_class(digits: Path) -> None:
    for label in "0123456789":
        counts = {s: len(list((digits / s / label).iterdir())) for s in ("train", "val", "test")}
        total = sum(counts.values())
        assert counts["val"] == counts["test"]
        assert abs(counts["val"] - 0.15 * total) <= 0.5


def test_digits_that_are_there_are_not_written_again(digits: Path) -> None:
    assert write_digits(digits) is False


def test_another_seed_splits_otherwise_and_overwrites_nothing(digits: Path) -> None:
    before = tree_digest(digits)
    with pytest.raises(DataError, match="nothing in this one was touched"):
        write_digits(digits, seed=1)
    assert tree_digest(digits) == before


def test_digits_appear_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = Path.write_bytes, []

    def fill_the_disk(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) > 100:
            raise OSError(28, "No space left on device")
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", fill_the_disk)
    with pytest.raises(DataError, match="No space left on device"):
        write_digits(tmp_path / "digits")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_digit_is_an_error(digits: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(digits, mine)
    (mine / "val" / "3" / "extra.png").touch()
    with pytest.raises(DataError, match="expected no folder, an empty one, or the whole data set"):
        write_digits(mine)


# --- zip archives


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
