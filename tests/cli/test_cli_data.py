"""What a user of ``check`` and ``export-features`` meets, and the line that points to ``check``."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from called import SMALL, Call, failed
from PIL import Image
from small_cache import DIM, IDENTITY, IMAGES, TRAINED

import tlcache.trunks.engines
from tlcache.features.read import open_snapshot
from tlcache.trunks.torch_engine import Run, cpu_run


def copied(data: Path, source: str, *targets: str) -> None:
    for target in targets:
        shutil.copy(data / source, data / target)


def test_digests_alone_find_nothing_in_sound_data_and_need_no_network(
    call: Call, tiny_data: Path
) -> None:
    result = call("check", tiny_data, "--no-features", "--crop", "32")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "24 images (train 16, val 8), 2 classes",
        "images in two splits: none",
        "images in two classes: none",
        "copies in one split: none",
        "classes: the largest is 1 times the smallest in train",
        "classes without an image: none",
        "unreadable files: none",
        "images smaller than the crop of 32: none",
        "files that load oddly: none",
        "nothing makes results wrong",
    ]
    assert not Path("cache").exists()
    said = json.loads(call("check", tiny_data, "--no-features", "--crop", "41", "--json").stdout)
    assert said["sound"] is True and said["near_duplicates"] is None
    assert len(said["tiny"]) == 24 and said["tiny"][0]["height"] == 40


def test_files_that_cannot_be_read_are_no_all_clear(call: Call, tiny_data: Path) -> None:
    (tiny_data / "val" / "bees" / "text.png").write_text("no image")
    (tiny_data / "val" / "bees" / "gone.png").symlink_to("nowhere")
    for words in (("--no-features",), SMALL):
        result = call("check", tiny_data, *words)
        failed(
            result,
            "expected readable images, each in one split and one class, "
            "found 2 files that cannot be read; "
            "replace or remove what cannot be read, or pass --skip-unreadable",
        )
        assert "nothing makes" not in result.stdout
        left_out = call("check", tiny_data, *words, "--skip-unreadable")
        assert left_out.exit_code == 0, left_out.output
        last = "nothing makes results wrong; 2 files that cannot be read not looked at"
        assert left_out.stdout.splitlines()[-1] == last
    copied(tiny_data, "train/ants/0.jpg", "val/ants/leak.jpg")
    both = call("check", tiny_data, "--no-features")
    failed(both, "found 2 files that cannot be read, 1 image in two splits; replace", "; keep one")
    both = call("check", tiny_data, "--no-features", "--skip-unreadable")
    failed(both, "found 1 image in two splits; keep one of each pair")


def test_a_threshold_that_does_not_suit_the_images_is_said_and_is_no_fault(
    call: Call, tiny_data: Path
) -> None:
    # To a random network noise is like noise.
    result = call("check", tiny_data, *SMALL, "--threshold", "0.5")
    assert result.exit_code == 0, result.output
    line = "--threshold 0.5 does not suit these images: chains of near pairs connect 24 of 24, "
    assert line in result.stderr
    last = "nothing makes results wrong; near duplicates cannot be told at this threshold"
    assert result.stdout.splitlines()[-1] == last


def test_everything_that_is_amiss_is_listed_and_leaks_exit_with_1(
    call: Call, tiny_data: Path
) -> None:
    copied(tiny_data, "train/ants/0.jpg", "val/ants/leak.jpg", "train/bees/wrong.jpg")
    copied(tiny_data, "train/ants/1.jpg", "train/ants/again.jpg")
    (tiny_data / "val" / "bees" / "text.png").write_text("no image")
    image = Image.open(tiny_data / "train" / "ants" / "4.png")
    image.putalpha(255)
    image.save(tiny_data / "train" / "ants" / "alpha.png")
    amiss = ("--imbalance", "1", "--threshold", "0.5", "--figure", "pairs.png")
    command = ("check", tiny_data, *SMALL, *amiss)
    result = call(*command)
    failed(
        result,
        "expected readable images, each in one split and one class",
        "found 1 file that cannot be read, 1 image in two splits, ",
        ", 1 image in two classes;",
    )
    for text in (
        "images in two splits: 1\n    train/ants/0.jpg = train/bees/wrong.jpg = val/ants/leak.jpg",
        "images in two classes: 1\n    train/ants/0.jpg",
        "copies in one split: 1\n    train/ants/1.jpg = train/ants/again.jpg",
        "classes: out of balance: the largest is 1.11 times the smallest in train",
        "unreadable files: 1\n    val/bees/text.png (",
        "files that load oddly: 1\n    train/ants/alpha.png (transparency, which is dropped)",
        "picture: pairs.png",
    ):
        assert text in result.stdout, text
    assert "nothing makes results wrong" not in result.stdout
    assert "warning" not in result.stderr
    with Image.open("pairs.png") as picture:
        assert picture.format == "PNG"
    said = json.loads(call(*command, "--json").stdout)
    assert said["sound"] is False and said["out_of_balance"] is True
    # To a random network noise is like noise; a file and its copy are no near duplicates.
    near = said["near_duplicates"]["in_two_splits"]
    assert near["count"] >= len(near["pairs"]) > 0
    for pair in near["pairs"]:
        assert {image["split"] for image in pair["images"]} == {"train", "val"}
        assert {image["path"] for image in pair["images"]} != {
            "train/ants/0.jpg",
            "val/ants/leak.jpg",
        }


def test_a_near_duplicate_across_splits_alone_exits_with_1(call: Call, tiny_data: Path) -> None:
    image = Image.open(tiny_data / "train" / "ants" / "4.png")
    image.save(tiny_data / "val" / "ants" / "saved again.bmp")  # the same pixels
    result = call("check", tiny_data, *SMALL, "--threshold", "1")
    failed(result, "found 1 near duplicate in two splits; keep one of each pair")
    assert call("check", tiny_data, "--no-features").exit_code == 0


def test_the_picture_of_sound_data_is_of_the_most_similar_pairs(
    call: Call, tiny_data: Path
) -> None:
    command = ("check", tiny_data, *SMALL, "--threshold", "1", "--figure", "pairs.png")
    result = call(*command)
    assert result.exit_code == 0, result.output
    with Image.open("pairs.png") as picture:
        assert min(picture.size) > 300
    Path("pairs.png").unlink()
    result = call("check", tiny_data, "--no-features", "--figure", "pairs.png")
    assert result.exit_code == 0
    assert "no picture: there is no pair to show" in result.stderr
    assert not Path("pairs.png").exists()


def test_a_folder_of_classes_is_checked_as_it_is(call: Call, tiny_data: Path) -> None:
    copied(tiny_data, "train/ants/0.jpg", "train/bees/copy.jpg")
    for words in (("--no-features",), SMALL):
        result = call("check", tiny_data / "train", *words)
        failed(result, "found 1 image in two classes;")
        assert result.stdout.startswith("17 images (train 17), 2 classes\n")


def test_names_that_would_break_a_line_are_escaped(call: Call, tiny_data: Path) -> None:
    copied(tiny_data, "train/ants/0.jpg", "val/ants/two\nlines.jpg")
    result = call("check", tiny_data, "--no-features")
    assert "    train/ants/0.jpg = val/ants/two\\nlines.jpg\n" in result.stdout
    (line,) = [x for x in call("embed", tiny_data, *SMALL).stderr.splitlines() if "image is" in x]
    assert "val/ants/two\\nlines.jpg): what is measured there flatters" in line


def test_a_picture_that_cannot_be_written_costs_no_result(call: Call, tiny_data: Path) -> None:
    command = ("check", tiny_data, *SMALL, "--threshold", "1", "--figure", "nowhere/pairs.png")
    result = call(*command, "--json")
    failed(result, "pairs.png: expected a file that can be written")
    assert json.loads(result.stdout)["sound"] is True


def test_a_snapshot_is_checked_without_its_images(call: Call, pets: Path) -> None:
    for words in ((), ("--no-features",), ("--stream",)):
        result = call("check", pets, *words)
        assert result.exit_code == 0, result.output
        assert "no images at /data/pets: their sizes and kinds were not looked at" in result.stderr
        assert "smaller" not in result.stdout
    split = call("check", pets, "--no-features", "--split", "0.8,0.2")
    failed(split, "--split: expected none beside a snapshot, which has its own, found 0.8,0.2")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("--threshold", "0"), "--threshold: expected a cosine similarity over 0 and up to 1"),
        (("--threshold", "-0.5"), "up to 1, found -0.5"),
        (("--threshold", "1.01"), "up to 1, found 1.01"),
        (("--threshold", "nan"), "up to 1, found nan"),
        (("--imbalance", "0.5"), "--imbalance: expected a number from 1 on"),
        (("--imbalance", "nan"), "largest class over the smallest, found nan"),
        (("--no-features", "--crop", "0"), "transform crop: expected 1 to 4096 pixels, found 0"),
        (("--no-features", "--split", "0.5,0.5"), "which are a split already"),
    ],
)
def test_values_that_make_no_sense_are_refused_before_anything_is_embedded(
    call: Call, tiny_data: Path, words: tuple[str, ...], found: str
) -> None:
    result = call("check", tiny_data, *SMALL[:4], *words)
    failed(result, found)
    assert result.stdout == "" and not Path("cache").exists()


def test_embed_says_how_many_views_it_made_and_how_fast(call: Call, tiny_data: Path) -> None:
    plain, more = (call("embed", tiny_data, *SMALL, *x).stdout for x in ((), ("--views", "2")))
    assert re.match(r"24 images: 24 embedded at \d+ images/s, 0 were in the cache", plain)
    expected = r"24 images: 16 embedded, 32 rows with their views at \d+ rows/s, 8 were in "
    assert re.match(expected, more), more


def test_embed_takes_as_many_crops_at_once_as_it_is_told(
    call: Call, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = list[int]()

    def watched(*of: Any) -> Run:
        run = cpu_run(*of)

        def seen(pixels: np.ndarray) -> np.ndarray:
            sizes.append(len(pixels))
            return run(pixels)

        return seen

    monkeypatch.setattr(tlcache.trunks.engines, "cpu_run", watched)
    told = ("--batch-size", "5", "--workers", "1", "--device", "cpu")
    assert call("embed", tiny_data, *SMALL, *told).exit_code == 0
    assert sizes == [5, 5, 5, 5, 4]
    failed(call("embed", tiny_data, *SMALL, "--batch-size", "0"), "--batch-size", code=2)


def test_other_commands_warn_of_a_leak_in_one_line(call: Call, tiny_data: Path) -> None:
    sound = call("train", tiny_data, *SMALL, "--no-figures", "--epochs", "1")
    assert sound.exit_code == 0 and "warning" not in sound.output
    copied(tiny_data, "train/ants/0.jpg", "val/ants/leak.jpg", "val/ants/leak 2.jpg")
    copied(tiny_data, "train/bees/1.jpg", "val/bees/other.jpg")
    expected = (
        "warning: 2 images are in both train and val (first: train/ants/0.jpg = "
        "val/ants/leak 2.jpg): what is measured there flatters; "
        "`tlcache check DATA` lists them"
    )
    for command in ("embed", "train", "knn"):
        more = ("--no-figures", "--epochs", "1") if command == "train" else ()
        result = call(command, tiny_data, *SMALL, *more, "--json")
        assert result.exit_code == 0, result.output
        assert result.stderr.splitlines().count(expected) == 1, command
        json.loads(result.stdout)
        quiet = call(command, tiny_data, *SMALL, *more, "--quiet")
        assert quiet.output == ""


@pytest.fixture(scope="module")
def real_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real") / "cache"


def test_the_real_photos_have_no_leak_and_one_ant_is_nearly_twice(
    call: Call, photos: Path, mobilenet_weights: Path, real_cache: Path
) -> None:
    network = ("--trunk", "mobilenet_v2", "--weights", mobilenet_weights, "--cache-dir", real_cache)
    result = call("check", photos, *network, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["identical"] == {
        "in_two_splits": [],
        "in_two_classes": [],
        "within_a_split": [],
    }
    assert said["near_duplicates"]["in_two_splits"]["count"] == 0
    assert said["near_duplicates"]["in_train"]["count"] == 0
    assert (len(said["tiny"]), said["unreadable"], said["odd"]) == (8, [], [])
    lower = call("check", photos, *network, "--threshold", "0.885", "--json")
    assert lower.exit_code == 1
    (pair,) = json.loads(lower.stdout)["near_duplicates"]["in_two_splits"]["pairs"]
    assert pair["similarity"] == pytest.approx(0.8856, abs=1e-3)
    assert [image["path"] for image in pair["images"]] == [
        "train/ants/470127037_513711fd21.jpg",
        "val/ants/470127071_8b8ee2bd74.jpg",
    ]

    knn = json.loads(call("knn", photos, *network, "--json").stdout)
    assert (knn["embedded"], knn["k"]) == (0, 5)
    assert knn["evaluation"]["val"]["accuracy"] == pytest.approx(0.948, abs=0.01)


@pytest.mark.parametrize("spooled", [False, True])
def test_a_snapshot_s_features_are_written_without_its_images(
    call: Call, pets: Path, spooled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if spooled:
        monkeypatch.setattr("tlcache.features.files.physical_memory", lambda: 4 * IMAGES * DIM)
    result = call("export-features", pets, "f.npz", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["file"], told["images"], told["dim"]) == ("f.npz", IMAGES, DIM)
    assert told["splits"] == {"train": TRAINED, "val": IMAGES - TRAINED}
    assert told["bytes"] == Path("f.npz").stat().st_size
    assert told["identity"] == IDENTITY.key
    features = open_snapshot(pets).read()
    with np.load("f.npz") as file:
        np.testing.assert_array_equal(file["features"], features.features)
        assert file["paths"].tolist() == features.paths
        assert file["identity"].item() == IDENTITY.to_json().decode()
    assert sorted(p.name for p in Path().iterdir()) == ["cache", "f.npz"]


def test_one_split_is_written_and_what_stands_in_the_way_is_refused(call: Call, pets: Path) -> None:
    done = call("export-features", pets, "val.npz", "--on", "val")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1].startswith(
        f"val.npz: {IMAGES - TRAINED} rows of {DIM} numbers ({IMAGES - TRAINED} of val), "
    )
    with np.load("val.npz") as file:
        assert set(file["splits"].tolist()) == {"val"}
    assert call("export-features", pets, "val.npz", "--force", "--quiet").exit_code == 0
    for words, found in (
        ((pets, "val.npz"), "val.npz: expected a new file, found one that is there"),
        ((pets, "f.npz", "--on", "test"), "expected images in test/, found only train"),
        ((pets, "f.npz", "--on", "tset"), "--on: expected train, val, test or all"),
        ((pets, "f.csv"), "f.csv: expected a file's name that ends in one of .npz"),
        (("nowhere", "f.npz"), "nowhere: expected"),
    ):
        failed(call("export-features", *words), found)
    assert not Path("f.npz").exists()


def test_photos_are_embedded_first_and_a_folder_of_classes_is_all_train(
    call: Call, tiny_data: Path
) -> None:
    small = (*SMALL, "--json")
    told = json.loads(call("export-features", tiny_data, "all.h5", *small).stdout)
    assert (told["embedded"], told["images"], told["splits"]) == (24, 24, {"train": 16, "val": 8})
    flat = json.loads(call("export-features", tiny_data / "train", "flat.h5", *small).stdout)
    assert (flat["embedded"], flat["splits"]) == (0, {"train": 16})
    (tiny_data / "val" / "ants" / "0.jpg").write_bytes(b"")
    unread = "expected images that can be read, found 1 that cannot"
    assert unread in call("export-features", tiny_data, "bad.h5", *small).stderr
    assert not Path("bad.h5").exists()
    skipped = json.loads(
        call("export-features", tiny_data, "bad.h5", *small, "--skip-unreadable").stdout
    )
    assert (skipped["images"], skipped["unreadable"][0]["path"]) == (23, "val/ants/0.jpg")
