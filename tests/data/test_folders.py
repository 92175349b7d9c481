from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tlcache.data import folders as samples
from tlcache.data.folders import SPLITS, ImageDataset, images_below, scan

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


def _listing(dataset: ImageDataset) -> list[tuple[str, str, str]]:
    rows = zip(dataset.splits, dataset.labels, dataset.paths, strict=True)
    return [(SPLITS[split], dataset.classes[label], path) for split, label, path in rows]


def test_a_split_folder(tiny_data: Path) -> None:
    dataset = scan(tiny_data)
    assert dataset.classes == ("ants", "bees")
    assert len(dataset) == len(dataset.paths) == 24
    assert dataset.root == tiny_data
    assert dataset.ignored == 0
    assert dataset.present_splits() == ["train", "val"]
    assert dataset.labels.dtype == np.int32
    assert dataset.splits.dtype == np.int8
    assert dataset.labels.tolist() == [0] * 8 + [1] * 8 + [0] * 4 + [1] * 4
    assert dataset.splits.tolist() == [0] * 16 + [1] * 8
    assert dataset.paths[:5] == [
        f"train/ants/{i}" for i in ("0.jpg", "1.jpg", "2.jpg", "3.jpg")
    ] + ["train/ants/4.png"]
    assert dataset.indices("val").dtype == np.int64
    assert dataset.indices("val").tolist() == list(range(16, 24))
    assert dataset.indices("test").tolist() == []
    assert dataset.path(16) == tiny_data / "val" / "ants" / "0.jpg"


def test_the_real_photos(photos: Path) -> None:
    dataset = scan(photos)
    counts = {
        split: np.bincount(dataset.labels[dataset.indices(split)]).tolist() for split in SPLITS
    }
    assert counts == {"train": [123, 121], "val": [70, 83], "test": []}
    assert dataset.classes == ("ants", "bees")
    assert dataset.ignored == 1  # train/ants/imageNotFound.gif
    assert all(dataset.path(i).is_file() for i in range(len(dataset)))


def test_a_test_split_and_sorting(tmp_path: Path) -> None:
    folder = _make(
        tmp_path / "d",
        "val/b/1.jpg",
        "val/a/1.jpg",
        "test/b/1.jpg",
        "train/b/10.jpg",
        "train/b/2.JPG",
        "train/a/x.Tiff",
        "train/B/x.webp",
    )
    assert _listing(scan(folder)) == [
        ("train", "B", "train/B/x.webp"),
        ("train", "a", "train/a/x.Tiff"),
        ("train", "b", "train/b/10.jpg"),
        ("train", "b", "train/b/2.JPG"),
        ("val", "a", "val/a/1.jpg"),
        ("val", "b", "val/b/1.jpg"),
        ("test", "b", "test/b/1.jpg"),
    ]


def test_labels_are_those_of_train_where_val_lacks_a_class(tmp_path: Path) -> None:
    folder = _make(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "train/c/1.jpg", "val/c/1.jpg")
    dataset = scan(folder)
    assert dataset.classes == ("a", "b", "c")
    assert dataset.labels[dataset.indices("val")].tolist() == [2]


def test_what_is_hidden_or_no_image_is_ignored_and_counted(tmp_path: Path) -> None:
    folder = _make(
        tmp_path,
        *SPLIT,
        "README.md",
        ".DS_Store",
        "train/.DS_Store",
        "train/notes.txt",
        "train/ants/._1.jpg",
        "train/ants/imageNotFound.gif",
        "train/ants/more/clip.mp4",
        "val/bees/Thumbs.db",
        "val/ants/jpg",
        "train/.hidden/1.jpg",
        "train/ants/.cache/2.jpg",
        "extra/ants/1.jpg",
    )
    dataset = scan(folder)
    assert dataset.paths == list(SPLIT)
    assert dataset.ignored == 9


def test_a_folder_of_images_is_a_folder_whatever_its_name(tmp_path: Path) -> None:
    folder = _make(tmp_path, *SPLIT, "train/ants/album.jpg/5.jpg")
    assert scan(folder).paths[:2] == ["train/ants/1.jpg", "train/ants/album.jpg/5.jpg"]
    assert scan(folder).ignored == 0


def test_nested_folders(tmp_path: Path) -> None:
    folder = _make(tmp_path, *SPLIT, "train/ants/a/b/c/9.png", "train/ants/a/0.png")
    assert scan(folder).paths[:3] == [
        "train/ants/1.jpg",
        "train/ants/a/0.png",
        "train/ants/a/b/c/9.png",
    ]


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    folder = _make(tmp_path / "d", "train/ants/1.jpg", "val/ants/1.jpg", "val/bees/1.jpg")
    _make(tmp_path / "store" / "bees", "7.jpg")
    (folder / "train" / "bees").symlink_to(tmp_path / "store" / "bees")
    (folder / "train" / "ants" / "2.jpg").symlink_to(tmp_path / "store" / "bees" / "7.jpg")
    assert scan(folder).paths[:3] == ["train/ants/1.jpg", "train/ants/2.jpg", "train/bees/7.jpg"]


def test_links_to_a_folder_above_end(tmp_path: Path) -> None:
    folder = _make(tmp_path, *SPLIT, "train/ants/deep/5.jpg")
    ants = folder / "train" / "ants"
    for name, target in {"self": ".", "up": "..", "top": "../..", "deep/back": ".."}.items():
        (ants / name).symlink_to(target)
    (ants / "round.jpg").symlink_to("round.jpg")
    # A link that leads to itself has an image's name: reading it says what is wrong with it.
    expected = ["train/ants/1.jpg", "train/ants/deep/5.jpg", "train/ants/round.jpg"]
    assert scan(folder).paths == [*expected, *SPLIT[1:]]


def test_two_ways_to_one_folder_are_both_taken_whatever_the_order_of_listing(
    tmp_path: Path,
) -> None:
    folder = _make(tmp_path, *SPLIT, "train/ants/m/5.jpg")
    for name in ("a", "z"):
        (folder / "train" / "ants" / name).symlink_to("m")
    assert scan(folder).paths[1:4] == [f"train/ants/{name}/5.jpg" for name in "amz"]


def test_names_of_any_kind(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9.jpg")
    folder = _make(
        tmp_path / "꿀벌 data",
        "train/fire ants/a b.jpg",
        f"train/꿀벌/{odd}",
        "val/꿀벌/two\nlines.jpg",
        "val/꿀벌/벌.jpg",
    )
    dataset = scan(folder)
    assert dataset.classes == ("fire ants", "꿀벌")
    assert dataset.paths == [
        "train/fire ants/a b.jpg",
        f"train/꿀벌/{odd}",
        "val/꿀벌/two\nlines.jpg",
        "val/꿀벌/벌.jpg",
    ]
    assert all(dataset.path(i).is_file() for i in range(4))
    assert dataset.name.startswith("꿀벌_data-")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("photos", "photos"),
        (".photos", "photos"),
        ("a b\n*c", "a_b_c"),
        ("...", "root"),
        ("꿀" * 80, "꿀" * 48),
        (os.fsdecode(b"x\xff"), "x_"),
    ],
)
def test_the_name_is_fit_for_a_file(tmp_path: Path, folder: str, name: str) -> None:
    dataset = scan(_make(tmp_path / folder, *SPLIT))
    words, _, tag = dataset.name.rpartition("-")
    assert words == name
    assert len(tag) == 8
    assert int(tag, 16) >= 0
    assert len(os.fsencode(dataset.name)) < 200


def test_the_name_tells_folders_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (_make(tmp_path / where / "data", *SPLIT) for where in ("one", "two"))
    assert scan(one).name != scan(two).name
    monkeypatch.chdir(one)
    assert scan(Path()).name == scan(one).name == scan(two / ".." / ".." / "one" / "data").name
    assert scan(Path()).root == one


def test_the_name_never_changes() -> None:
    assert samples._file_name(Path("/data/hymenoptera_data")) == "hymenoptera_data-ca1e9cd8"


def test_images_anywhere_below_a_folder(tmp_path: Path) -> None:
    folder = _make(
        tmp_path, "b.jpg", "a/z.png", "a/b/c.WEBP", "a/x.gif", ".hidden/1.jpg", "a/._z.png"
    )
    (folder / "a" / "up").symlink_to("..")
    assert images_below(folder) == ["a/b/c.WEBP", "a/z.png", "b.jpg"]
