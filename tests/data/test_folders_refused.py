"""Folders that are no data set, and the words in which they are refused."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tlcache.core.errors import DataError, OptionError
from tlcache.data.folders import images_below, scan

IMAGES = "images (.jpg .jpeg .png .ppm .bmp .pgm .tif .tiff .webp)"
BY_CLASS = ("ants/1.jpg", "ants/2.jpg", "bees/1.jpg", "bees/2.jpg")
SPLIT = ("train/ants/1.jpg", "train/bees/2.jpg", "val/ants/3.jpg", "val/bees/4.jpg")


def _make(folder: Path, *paths: str) -> Path:
    """Files with nothing in them: a scan looks at names only. A path that ends in / is a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            (folder / path).mkdir(exist_ok=True)
        else:
            (folder / path).touch()
    return folder


def _refusal(folder: Path, *fractions: float) -> str:
    with pytest.raises(DataError) as caught:
        scan(folder, fractions or None)
    return str(caught.value)


def test_bad_fractions(tmp_path: Path) -> None:
    with pytest.raises(OptionError) as caught:
        scan(_make(tmp_path, *BY_CLASS), (0.8, 0.3))
    assert str(caught.value) == (
        "--split: expected two or three shares over 0 that sum to 1, found 0.8,0.3; "
        "pass for example --split 0.8,0.2 or --split 0.7,0.15,0.15"
    )


def test_a_class_too_small_to_split(tmp_path: Path) -> None:
    folder = _make(tmp_path, *BY_CLASS)
    assert _refusal(folder, 0.6, 0.2, 0.2) == (
        f"{folder / 'ants'}: expected at least 3 images, one for each part of --split, found 2; "
        "add images to this class, or split into fewer parts"
    )


def test_a_folder_that_is_split_already(tmp_path: Path) -> None:
    assert _refusal(_make(tmp_path, *SPLIT), 0.8, 0.2) == (
        f"{tmp_path}: expected class folders to be split, "
        "found train and val folders, which are a split already; "
        "leave out --split, or name a folder that holds the classes themselves"
    )


def test_a_missing_folder_names_the_nearest_that_exists_and_what_it_holds(tmp_path: Path) -> None:
    _make(tmp_path, "hymenoptera_data/", "digits/", "a.zip")
    assert _refusal(tmp_path / "hymenoptera" / "data") == (
        f"{tmp_path / 'hymenoptera' / 'data'}: expected a folder of images, "
        f"found no such folder; the nearest that exists is {tmp_path}, "
        "which holds a.zip, digits, hymenoptera_data; "
        "correct the path (`tlcache data` fetches an example)"
    )


def test_a_missing_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"nearest that exists is {tmp_path}, which holds an empty folder; " in _refusal(
        Path("x")
    )


def test_long_listings_are_cut(tmp_path: Path) -> None:
    _make(tmp_path, *(f"{i}/" for i in range(9)))
    assert "which holds 0, 1, 2, 3, 4, 5 and 3 more; " in _refusal(tmp_path / "nowhere")


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    path = _make(tmp_path, "photos.zip") / "photos.zip"
    assert _refusal(path) == (
        f"{path}: expected a folder of images, found a file; "
        "name the folder that holds train/ and val/"
    )


@pytest.mark.parametrize(
    ("held", "found", "remedy"),
    [
        ((), "an empty folder", "name the folder that holds the images"),
        (("1.jpg", "2.jpg"), "1.jpg, 2.jpg", "name the folder that holds the images"),
        (BY_CLASS, "ants, bees", "pass --split 0.8,0.2 if these are the classes"),
        (
            ("train/a/1.jpg", "train/b/1.jpg", "valid/a/1.jpg"),
            "train, valid",
            "call the folder of held-out images val",
        ),
    ],
)
def test_another_layout(tmp_path: Path, held: tuple[str, ...], found: str, remedy: str) -> None:
    assert _refusal(_make(tmp_path, *held)) == (
        f"{tmp_path}: expected folders train/ and val/, found {found}; {remedy}"
    )


def test_a_folder_around_the_data_set(tmp_path: Path) -> None:
    _make(tmp_path / "hymenoptera_data", *SPLIT)
    _make(tmp_path, "__MACOSX/")
    assert _refusal(tmp_path).endswith(
        f"found __MACOSX, hymenoptera_data; did you mean {tmp_path / 'hymenoptera_data'}?"
    )


@pytest.mark.parametrize(
    ("held", "found"),
    [
        (("train/ants/1.jpg", "val/ants/1.jpg"), "one class only (ants)"),
        (("train/1.jpg", "train/2.jpg", "val/3.jpg"), "1.jpg, 2.jpg"),
        (("train/", "val/"), "an empty folder"),
    ],
)
def test_fewer_than_two_classes(tmp_path: Path, held: tuple[str, ...], found: str) -> None:
    assert _refusal(_make(tmp_path, *held)) == (
        f"{tmp_path / 'train'}: expected a folder for each of at least two classes, found {found}; "
        "put the images of each class into a folder of its own"
    )


def test_one_class_cannot_be_split_either(tmp_path: Path) -> None:
    assert "found one class only (ants); " in _refusal(_make(tmp_path, *BY_CLASS[:2]), 0.5, 0.5)


def test_a_class_that_train_lacks(tmp_path: Path) -> None:
    folder = _make(tmp_path, *SPLIT, "val/wasps/1.jpg", "val/Bees/1.jpg")
    assert _refusal(folder) == (
        f"{tmp_path / 'val'}: expected the classes of train (ants, bees), "
        "found Bees, wasps, which train lacks; "
        "remove the folder, rename it, or add the class to train"
    )


@pytest.mark.parametrize(
    ("held", "where", "found"),
    [
        (("train/wasps/",), "train/wasps", "an empty folder"),
        (("train/wasps/1.gif", "train/wasps/2.txt"), "train/wasps", "1.gif, 2.txt"),
        (("train/wasps/.1.jpg",), "train/wasps", ".1.jpg"),
        (("test/",), "test", "an empty folder"),
        (("test/1.jpg",), "test", "1.jpg"),
        (("test/ants/",), "test/ants", "an empty folder"),
    ],
)
def test_no_images(tmp_path: Path, held: tuple[str, ...], where: str, found: str) -> None:
    assert _refusal(_make(tmp_path, *SPLIT, *held)) == (
        f"{tmp_path / where}: expected {IMAGES}, found {found}; "
        "put images there, or remove the folder"
    )


def test_no_images_in_a_class_to_be_split(tmp_path: Path) -> None:
    folder = _make(tmp_path, *BY_CLASS, "wasps/")
    assert _refusal(folder, 0.5, 0.5).startswith(f"{folder / 'wasps'}: expected {IMAGES}, found an")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is denied to root")
@pytest.mark.parametrize("inside", ["", "train", "train/ants"])
def test_a_folder_without_permission(tmp_path: Path, inside: str) -> None:
    denied = _make(tmp_path / "d", *SPLIT) / inside
    denied.chmod(0)
    try:
        words = _refusal(tmp_path / "d")
    finally:
        denied.chmod(0o755)
    assert words == (
        f"{denied}: expected a folder that can be read, found Permission denied; "
        "check its permissions"
    )


@pytest.mark.parametrize("inside", ["", "train", "train/ants"])
def test_a_folder_that_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    denied = _make(tmp_path, *SPLIT) / inside
    list_folder = os.scandir

    def scandir(path: Path) -> object:
        if Path(path) == denied:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert _refusal(tmp_path) == (
        f"{denied}: expected a folder that can be read, found Permission denied; "
        "check its permissions"
    )


def test_a_name_too_long_to_be_one(tmp_path: Path) -> None:
    assert "expected a folder" in _refusal(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    ("held", "found"), [((), "an empty folder"), (("x.gif", "y/"), "x.gif, y")]
)
def test_no_images_below_a_folder(tmp_path: Path, held: tuple[str, ...], found: str) -> None:
    with pytest.raises(DataError) as caught:
        images_below(_make(tmp_path, *held))
    assert str(caught.value) == (
        f"{tmp_path}: expected {IMAGES}, found {found}; put images there, or remove the folder"
    )


def test_images_below_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a folder of images, found no such folder"):
        images_below(tmp_path / "nowhere")
