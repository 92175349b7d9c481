"""Folders of images: what is read from them, how they are split, and those that are no data set."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlcache.core.errors import DataError, OptionError
from tlcache.data import folders as samples
from tlcache.data.folders import (
    IMAGE_EXTENSIONS,
    SPLITS,
    DataSource,
    ImageDataset,
    images_below,
    scan,
    subset,
)
from tlcache.data.images import decode

SPLIT = ("train/ants/1.jpg", "train/bees/2.jpg", "val/ants/3.jpg", "val/bees/4.jpg")
BY_CLASS = ("ants/1.jpg", "ants/2.jpg", "bees/1.jpg", "bees/2.jpg")
IMAGES = f"images ({' '.join(IMAGE_EXTENSIONS)})"


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
    assert dataset.remarks == (
        "ignored 9 files: 3 hidden, 1 .db, 1 .gif, 1 .md, 1 .mp4, 1 .txt and 1 more",
    )


def test_the_kinds_that_are_left_out_are_named(tmp_path: Path) -> None:
    held = ("train/ants/1.HEIC", "train/bees/2.heic", "val/bees/x.txt", "train/lost.jpg")
    folder = _make(tmp_path, *SPLIT, *held)
    said: list[str] = []
    assert DataSource(folder).scan(said.append).ignored == 4
    assert said == ["ignored 4 files: 2 .heic, 1 .jpg in no class, 1 .txt"]


def test_what_pillow_reads_is_taken_by_its_name(tmp_path: Path) -> None:
    for i, ending in enumerate(IMAGE_EXTENSIONS):
        path = _make(tmp_path, *SPLIT) / "train" / "ants" / f"a{i}{ending.upper()}"
        Image.init()
        if Image.EXTENSION.get(ending) in Image.SAVE:  # .avif since Pillow 11.3
            Image.new("RGB" if ending != ".pbm" else "1", (9, 7)).save(path)
            assert decode(path.read_bytes(), path).shape == (7, 9, 3)
        else:
            path.touch()
    dataset = scan(tmp_path)
    assert len(dataset) == len(SPLIT) + len(IMAGE_EXTENSIONS) and dataset.ignored == 0
    assert set(images_below(tmp_path)) == set(dataset.paths)


def test_folders_inside_a_class_are_named_where_they_are_merged(tmp_path: Path) -> None:
    inside = ("shoes/trainers/1.jpg", "shoes/heels/2.jpg", "hats/all/1.jpg", "bags/1.jpg")
    folder = _make(tmp_path, *inside, "bags/old/2.jpg")
    assert scan(folder, unsplit=True).remarks == (
        "folders inside a class belong to it: bags (old), shoes (heels, trainers)",
    )
    apart = _make(tmp_path / "apart", *SPLIT, "train/ants/a/1.jpg", "val/ants/b/c/1.jpg")
    (line,) = scan(apart).remarks
    assert line == "folders inside a class belong to it: ants (a, b)"


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


# --- split by --split, and parts


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


# --- what is no data set


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
