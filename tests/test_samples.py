from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tlcache import samples
from tlcache.samples import SPLITS, ImageDataset, images_below, scan, subset

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


@pytest.mark.parametrize("count", [5, 10])
def test_fractions_split_each_class(tmp_path: Path, count: int) -> None:
    names = [f"{cls}/{i}.jpg" for cls in ("ants", "bees") for i in range(count)]
    dataset = scan(_make(tmp_path, *names), (0.8, 0.2))
    assert sorted(dataset.paths) == names
    for split, share in (("train", 0.8), ("val", 0.2)):
        counts = np.bincount(dataset.labels[dataset.indices(split)])
        assert counts.tolist() == [count * share] * 2
    assert [dataset.classes[label] for label in dataset.labels] == [
        path.split("/")[0] for path in dataset.paths
    ]


def test_a_split_by_fractions_never_changes(tmp_path: Path) -> None:
    names = [f"{cls}/{i}.jpg" for cls in ("ants", "벌") for i in range(5)]
    folder = _make(tmp_path / "here", *names)
    assert _listing(scan(folder, (0.6, 0.2, 0.2))) == [
        ("train", "ants", "ants/2.jpg"),
        ("train", "ants", "ants/3.jpg"),
        ("train", "ants", "ants/4.jpg"),
        ("train", "벌", "벌/1.jpg"),
        ("train", "벌", "벌/2.jpg"),
        ("train", "벌", "벌/4.jpg"),
        ("val", "ants", "ants/0.jpg"),
        ("val", "벌", "벌/3.jpg"),
        ("test", "ants", "ants/1.jpg"),
        ("test", "벌", "벌/0.jpg"),
    ]
    elsewhere = _make(tmp_path / "there" / "too", *reversed(names))
    assert _listing(scan(elsewhere, (0.6, 0.2, 0.2))) == _listing(scan(folder, (0.6, 0.2, 0.2)))


def test_seeds_split_differently(tmp_path: Path) -> None:
    folder = _make(tmp_path, *(f"{cls}/{i}.jpg" for cls in "ab" for i in range(20)))
    val = [
        set(np.array(d.paths)[d.indices("val")])
        for d in (scan(folder, (0.5, 0.5), s) for s in (0, 1, 0))
    ]
    assert val[0] != val[1]
    assert val[0] == val[2]


def test_fractions_split_names_that_are_not_utf8(tmp_path: Path) -> None:
    names = [os.fsdecode(b"%c/\xff%d.jpg" % (cls, i)) for cls in b"ab" for i in range(3)]
    assert sorted(scan(_make(tmp_path, *names), (0.5, 0.5)).paths) == names


def test_fractions_ignore_and_count_too(tmp_path: Path) -> None:
    folder = _make(tmp_path, *BY_CLASS, "LICENSE", ".DS_Store", "ants/x.gif", "bees/._1.jpg")
    assert scan(folder, (0.5, 0.5)).ignored == 4


def test_images_anywhere_below_a_folder(tmp_path: Path) -> None:
    folder = _make(
        tmp_path, "b.jpg", "a/z.png", "a/b/c.WEBP", "a/x.gif", ".hidden/1.jpg", "a/._z.png"
    )
    (folder / "a" / "up").symlink_to("..")
    assert images_below(folder) == ["a/b/c.WEBP", "a/z.png", "b.jpg"]


def test_a_subset_keeps_classes_and_splits(tmp_path: Path) -> None:
    names = [
        f"train/{cls}/{i}.jpg" for cls, n in (("a", 60), ("b", 30), ("c", 10)) for i in range(n)
    ]
    names += [
        f"{split}/{cls}/{i}.jpg" for split in ("val", "test") for cls in "ab" for i in range(9)
    ]
    dataset = scan(_make(tmp_path, *names))

    part = subset(dataset, 20, 6, seed=0)

    assert part.classes == dataset.classes
    assert part.root == dataset.root
    assert part.name == f"{dataset.name}-part"
    counts = {split: np.bincount(part.labels[part.indices(split)]).tolist() for split in SPLITS}
    assert counts == {"train": [12, 6, 2], "val": [3, 3], "test": [9, 9]}
    where = {row[2]: row for row in _listing(dataset)}
    assert _listing(part) == [where[path] for path in part.paths]
    assert [path for path in dataset.paths if path in set(part.paths)] == part.paths
    assert part.labels.dtype == np.int32
    assert part.splits.dtype == np.int8


def test_a_subset_is_seeded_and_never_changes(tmp_path: Path) -> None:
    names = [
        f"{split}/{cls}/{i}.jpg" for split in ("train", "val") for cls in "ab" for i in range(6)
    ]
    dataset = scan(_make(tmp_path, *names))
    assert subset(dataset, 4, 2, seed=0).paths == [
        "train/a/4.jpg",
        "train/a/5.jpg",
        "train/b/1.jpg",
        "train/b/2.jpg",
        "val/a/5.jpg",
        "val/b/3.jpg",
    ]
    assert subset(dataset, 4, 2, seed=1).paths != subset(dataset, 4, 2, seed=0).paths


def test_a_subset_has_every_class(tiny_data: Path) -> None:
    part = subset(scan(tiny_data), 1, 1)
    assert part.labels.tolist() == [0, 1, 0, 1]
    assert part.splits.tolist() == [0, 0, 1, 1]


def test_a_subset_may_keep_all(tiny_data: Path) -> None:
    dataset = scan(tiny_data)
    assert subset(dataset, 1000, None).paths == dataset.paths
    assert subset(dataset, 2, None).indices("val").tolist() == list(range(2, 10))
