"""Data sets that are split by ``--split``, and parts of a data set."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tlcache.core.errors import DataError
from tlcache.data.folders import SPLITS, ImageDataset, scan, subset

BY_CLASS = ("ants/1.jpg", "ants/2.jpg", "bees/1.jpg", "bees/2.jpg")


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


def test_a_subset_may_cut_test_too(tmp_path: Path) -> None:
    names = [f"{split}/{cls}/{i}.jpg" for split in SPLITS for cls in "ab" for i in range(6)]
    dataset = scan(_make(tmp_path, *names))
    counts = [len(subset(dataset, 6, 4, test=2).indices(split)) for split in SPLITS]
    assert counts == [6, 4, 2]


def test_unsplit_classes_are_all_in_train(tmp_path: Path) -> None:
    names = ["ants/1.jpg", "ants/deep/2.jpg", "bees/1.jpg"]
    found = scan(_make(tmp_path, *names), unsplit=True)
    assert _listing(found) == [("train", name.split("/")[0], name) for name in names]


def test_a_split_is_kept_where_unsplit_classes_would_do(tmp_path: Path) -> None:
    folder = _make(tmp_path, *(f"{s}/{c}/1.jpg" for s in ("train", "val") for c in ("a", "b")))
    assert _listing(scan(folder, unsplit=True)) == _listing(scan(folder))


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (("train/a/1.jpg", "train/b/1.jpg"), "call the folder of held-out images val"),
        (("photos/train/a/1.jpg", "more/a/1.jpg"), "did you mean"),
    ],
    ids=["half a split", "the folder above"],
)
def test_what_is_no_folder_of_unsplit_classes_is_refused(
    tmp_path: Path, paths: tuple[str, ...], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        scan(_make(tmp_path, *paths), unsplit=True)
