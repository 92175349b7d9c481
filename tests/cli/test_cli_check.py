"""What a user of `tlcache check` meets, and the line with which other commands point to it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from small_cache import small_cache
from typer.testing import CliRunner, Result

from tlcache.cli import app

RANDOM = ("--trunk", "mobilenet_v3_small", "--weights", "random", "--resize", "36", "--crop", "32")
Call = Callable[..., Result]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run tlcache in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, [*map(str, words)])


def copied(data: Path, source: str, *targets: str) -> None:
    for target in targets:
        shutil.copy(data / source, data / target)


def error_of(result: Result) -> str:
    assert result.exit_code == 1, result.output
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


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
    command = ("check", tiny_data, *RANDOM, *amiss)
    result = call(*command)
    line = error_of(result)
    assert "expected each image in one split and one class" in line
    assert "1 image in two splits, " in line and ", 1 image in two classes;" in line
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
    line = error_of(call("check", tiny_data, *RANDOM, "--threshold", "1"))
    assert "found 1 near duplicate in two splits; keep one of each pair" in line
    assert call("check", tiny_data, "--no-features").exit_code == 0


def test_the_picture_of_sound_data_is_of_the_most_similar_pairs(
    call: Call, tiny_data: Path
) -> None:
    command = ("check", tiny_data, *RANDOM, "--threshold", "1", "--figure", "pairs.png")
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
    for words in (("--no-features",), RANDOM):
        result = call("check", tiny_data / "train", *words)
        assert "found 1 image in two classes;" in error_of(result)
        assert result.stdout.startswith("17 images (train 17), 2 classes\n")


def test_names_that_would_break_a_line_are_escaped(call: Call, tiny_data: Path) -> None:
    copied(tiny_data, "train/ants/0.jpg", "val/ants/two\nlines.jpg")
    result = call("check", tiny_data, "--no-features")
    assert "    train/ants/0.jpg = val/ants/two\\nlines.jpg\n" in result.stdout
    (line,) = [x for x in call("embed", tiny_data, *RANDOM).stderr.splitlines() if "image is" in x]
    assert "val/ants/two\\nlines.jpg): what is measured there flatters" in line


def test_a_picture_that_cannot_be_written_costs_no_result(call: Call, tiny_data: Path) -> None:
    command = ("check", tiny_data, *RANDOM, "--threshold", "1", "--figure", "nowhere/pairs.png")
    result = call(*command, "--json")
    assert "pairs.png: expected a file that can be written" in error_of(result)
    assert json.loads(result.stdout)["sound"] is True


def test_a_snapshot_is_checked_without_its_images(call: Call) -> None:
    small_cache(Path("cache"))
    (path,) = Path("cache").glob("*/snapshots/*.h5")
    for words in ((), ("--no-features",), ("--stream",)):
        result = call("check", path, *words)
        assert result.exit_code == 0, result.output
        assert "no images at /data/pets: their sizes and kinds were not looked at" in result.stderr
        assert "smaller" not in result.stdout
    line = error_of(call("check", path, "--no-features", "--split", "0.8,0.2"))
    assert "--split: expected none beside a snapshot" in line


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
    result = call("check", tiny_data, *RANDOM[:4], *words)
    assert found in error_of(result)
    assert result.stdout == "" and not Path("cache").exists()


def test_other_commands_warn_of_a_leak_in_one_line(call: Call, tiny_data: Path) -> None:
    sound = call("train", tiny_data, *RANDOM, "--no-figures", "--epochs", "1")
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
        result = call(command, tiny_data, *RANDOM, *more, "--json")
        assert result.exit_code == 0, result.output
        assert result.stderr.splitlines().count(expected) == 1, command
        json.loads(result.stdout)
        quiet = call(command, tiny_data, *RANDOM, *more, "--quiet")
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


def test_help_says_when_the_exit_code_is_1_and_ends_with_a_real_command(call: Call) -> None:
    result = call("check", "--help")
    assert result.exit_code == 0
    assert "Exits with 1 if" in result.stdout
    assert "tlcache check hymenoptera_data" in result.stdout
