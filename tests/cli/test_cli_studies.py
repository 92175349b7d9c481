"""What a user of ``tlcache crossval``, ``fewshot`` and ``knn`` meets, mostly on a cache that needs
no network."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from called import SMALL, Call, alone, failed, tlcache
from PIL import Image
from small_cache import snapshot

from tlcache.cache.snapshots import save_snapshot
from tlcache.features.read import open_snapshot
from tlcache.heads.recipe import Recipe
from tlcache.studies.fewshot import few_shot_curve
from tlcache.studies.knn import knn_accuracy

PATHS = snapshot().dataset.paths


@pytest.fixture
def crossval(pets: Path) -> Call:
    """Cross-validate the pets in two folds, unless told otherwise."""
    return lambda *words: tlcache("crossval", pets, "--folds", 2, *words)


@pytest.fixture
def fewshot(pets: Path) -> Call:
    """Few shots of the pets: three training images a class, and four of val."""
    return lambda *words: tlcache("fewshot", pets, "--shots", "1,3", "--episodes", 4, *words)


def changed(path: Path, digests: Any = None, **columns: Any) -> None:
    """Put other columns into the data set of the pets' snapshot, or other digests."""
    old = snapshot()
    dataset = dataclasses.replace(old.dataset, **columns)
    digests = old.digests if digests is None else digests
    save_snapshot(path, dataclasses.replace(old, dataset=dataset, digests=digests))


def with_test(images: int) -> Any:
    """The pets' splits with the last images in test."""
    splits = snapshot().dataset.splits.copy()
    splits[-images:] = 2
    return splits


def folder(*paths: str) -> None:
    """Files in ``./data`` that are no images."""
    for path in paths:
        Path("data", path).parent.mkdir(parents=True, exist_ok=True)
        Path("data", path).write_bytes(b"no image")


@pytest.mark.parametrize("command", [["crossval", "--folds=2"], ["fewshot", "--shots=2"]])
def test_a_full_cache_needs_no_torch(command: list[str], pets: Path) -> None:
    _, loaded = alone(*command, pets, "--json")
    assert not loaded & {"torch", "matplotlib"}


@pytest.mark.parametrize("command", ["crossval", "fewshot"])
def test_a_figure_is_drawn_where_it_is_wanted(command: str, request: pytest.FixtureRequest) -> None:
    assert request.getfixturevalue(command)("--figure", "drawn.png").exit_code == 0
    with Image.open("drawn.png") as picture:
        assert picture.format == "PNG"


def test_a_table_of_the_folds_and_what_they_say(crossval: Call) -> None:
    result = crossval("--repeats", 2)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    at = lines.index("repeat  fold  trained on  held out  accuracy (95%)")
    assert [line.split()[:4] for line in lines[at + 1 : at + 5]] == [
        ["1", "1", "5", "5"],
        ["1", "2", "5", "5"],
        ["2", "1", "5", "5"],
        ["2", "2", "5", "5"],
    ]
    assert "mean of 4 heads" in lines[at + 5] and "Nadeau and Bengio" in lines[at + 5]
    assert "between the folds of a repeat" in lines[at + 6] and "repeats" in lines[at + 6]
    assert "of 10 images right" in lines[at + 7] and "Wilson" in lines[at + 7]
    assert "nothing was chosen on a held-out image" in lines[at + 8]
    assert "no test split" in result.stderr and "--split 0.7,0.15,0.15" in result.stderr


def test_one_json_object_says_what_was_done(crossval: Call) -> None:
    result = crossval("--repeats", 2, "--seed", 5, "--json")
    values = json.loads(result.stdout)
    assert values["selected_on"] == "none"
    assert (values["images"], values["groups"]) == (10, None)
    assert len(values["folds"]) == 4 and len(values["repeats"]) == 2
    low, high = values["accuracy_ci95"]
    assert low <= values["accuracy"] <= high
    assert values["recipe"]["seed"] == 5
    assert set(values["seconds"]) == {"embed", "crossval"}
    again = json.loads(crossval("--repeats", 2, "--seed", 5, "--json").stdout)
    assert {**again, "seconds": 0} == {**values, "seconds": 0}


def test_groups_from_a_table_and_from_a_pattern_are_the_same(
    crossval: Call, tmp_path: Path
) -> None:
    rows = [f"{path},{int(Path(path).stem) // 2}" for path in PATHS]
    Path("groups.csv").write_text("\n".join(["path,group", *rows]))
    table = json.loads(crossval("--groups", "groups.csv", "--json").stdout)
    pattern = json.loads(crossval("--group-pattern", "^(0|1|2|3|4|5|6|7|8|9)", "--json").stdout)
    assert table["groups"] == 5
    assert pattern["groups"] == 10
    shown = crossval("--groups", "groups.csv").stdout
    assert "10 images in 5 groups" in shown


def test_a_figure_that_cannot_be_written_costs_no_result(crossval: Call) -> None:
    result = crossval("--figure", "nowhere/folds.png", "--json")
    failed(result, "folds.png", "a file that can be written")
    assert json.loads(result.stdout)["images"] == 10


def test_images_of_test_are_left_alone(crossval: Call, pets: Path) -> None:
    changed(pets, splits=with_test(2))
    result = crossval("--json")
    assert json.loads(result.stdout)["images"] == 8
    assert "test: 2 images were left alone" in result.stderr


def test_copies_that_may_come_into_two_folds_are_told_of(crossval: Call, pets: Path) -> None:
    digests = snapshot().digests.copy()
    digests[9] = digests[2]
    changed(pets, digests)
    assert "2 images have copies that may come into another fold" in crossval().stderr
    rows = [f"{path},{'9' if path.endswith('/2.jpg') else Path(path).stem}" for path in PATHS]
    Path("groups.csv").write_text("\n".join(["path,group", *rows]))
    assert "copies" not in crossval("--groups", "groups.csv").stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--folds", 1), ("--folds", "at least 2", "found 1")),
        (("--folds", 6), ("at least 6 images of each class", "5 of cats, 5 of dogs")),
        (("--folds", 10**12), ("images of each class",)),
        (("--repeats", 0), ("--repeats", "from 1 to 1000", "found 0")),
        (("--groups", "nowhere.csv"), ("--groups nowhere.csv", "correct the path")),
        (("--groups", "a.csv", "--group-pattern", "(a)"), ("one of them, found both",)),
        (("--group-pattern", "x"), ("--group-pattern 'x'", "a part in parentheses")),
        (("--group-pattern", "(0|1)"), ("a group in each of 10 file names", "none in 8: 2.jpg")),
        (("--group-pattern", "(jpg)"), ("at least 2 groups", "found 1")),
        (("--lr", "nan"), ("--lr", "found nan")),
        (("--lr", 1e38), ("a finite loss", "lower the learning rate")),
        (("--split", "0.8,0.2"), ("--split", "none beside a snapshot")),
    ],
)
def test_folds_that_make_no_sense_are_one_error(
    crossval: Call, arguments: tuple[object, ...], words: tuple[str, ...]
) -> None:
    failed(crossval(*arguments), *words)


def test_a_table_that_misses_images_is_one_error(crossval: Call) -> None:
    Path("groups.csv").write_text("path,group\n" + "\n".join(f"{p},a" for p in PATHS[:7]))
    failed(
        crossval("--groups", "groups.csv"),
        "groups.csv",
        "each of 10 images",
        "none for 3",
        PATHS[8],
    )


def test_classes_need_no_split(call: Call, tiny_data: Path) -> None:
    given = (tiny_data / "train", *SMALL, "--folds", 4, "--repeats", 1, "--json")
    values = json.loads(call("crossval", *given).stdout)
    assert values["images"] == 16
    assert [fold["held_out"] for fold in values["folds"]] == [4] * 4


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((), ("1 of bees", "one image cannot be both trained on and held out", "add images")),
        (("--group-pattern", r"(\d)$"), ("a group in each of 5 file names", "none in 5")),
        (("--groups", "groups.csv"), ("a group for each of 5 images", "bees/0.png")),
    ],
    ids=["a class of one image", "a pattern", "a table"],
)
def test_what_a_folder_lacks_for_folds_is_one_error_before_anything_is_embedded(
    call: Call, given: tuple[str, ...], words: tuple[str, ...]
) -> None:
    folder("ants/0.png", "ants/1.png", "ants/2.png", "ants/3.png", "bees/0.png")
    Path("groups.csv").write_text("path,group\nants/0.png,a\n")
    failed(call("crossval", "data", "--folds", "2", *given), *words)
    assert not Path("cache").exists()


@pytest.mark.parametrize("views", [0, 2])
def test_shots_come_from_train_and_are_judged_on_all_of_val(
    fewshot: Call, pets: Path, views: int
) -> None:
    values = json.loads(fewshot("--json", "--seed", 2, "--views", views).stdout)
    assert (values["judged_on"], values["selected_on"]) == ("val", "none")
    assert (values["images"], values["episodes"], values["least_steps"]) == (4, 4, 10)
    features = open_snapshot(pets, views).read()
    curve = few_shot_curve(
        features.to_train_on(),
        features.split("train")[1],
        *features.split("val"),
        classes=features.classes,
        shots=(1, 3),
        episodes=4,
        recipe=Recipe(seed=2),
    )
    assert values["curve"] == [point.describe() for point in curve.points]


def test_a_table_says_what_its_numbers_mean(fewshot: Call) -> None:
    result = fewshot()
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    at = lines.index("shots  accuracy (95%)        95% of episodes  sd")
    assert [line.split()[0] for line in lines[at + 1 : at + 3]] == ["1", "3"]
    assert "mean of 4 episodes on the 4 images of val" in lines[at + 3]
    assert "other shots and other images" in lines[at + 3]
    assert "one draw of shots" in lines[at + 4]
    assert "nothing was chosen on val" in lines[at + 5]
    assert "no test split" in result.stderr and "--on test" in result.stderr


def test_test_can_judge_where_there_is_one(fewshot: Call, pets: Path) -> None:
    failed(fewshot("--on", "test"), "test", "pets")
    changed(pets, splits=with_test(3))
    values = json.loads(fewshot("--on", "test", "--json").stdout)
    assert (values["judged_on"], values["images"]) == ("test", 3)
    assert json.loads(fewshot("--json").stdout)["images"] == 1
    assert "--on test does not" in fewshot().stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--shots", "1,4"), ("--shots 4", "at least 4 training images", "3 of cats, 3 of dogs")),
        (("--shots", "1,a"), ("--shots", "numbers with commas", "found 1,a")),
        (("--shots", ""), ("--shots", "found nothing")),
        (("--shots", "1,,2"), ("--shots", "found 1,,2")),
        (("--shots", "1.5"), ("--shots", "whole numbers", "1,2,5,10,20")),
        (("--shots", "nan"), ("--shots", "whole numbers")),
        (("--shots", "inf"), ("--shots", "whole numbers")),
        (("--shots", "0,1"), ("--shots", "over 0")),
        (("--shots", "-2"), ("--shots", "over 0")),
        (("--shots", "1e30"), ("training images of each class",)),
        (("--episodes", 0), ("--episodes", "from 2 to 10000", "found 0")),
        (("--episodes", 1), ("one draw has no spread",)),
        (("--episodes", 10**9), ("--episodes",)),
        (("--least-steps", 0), ("--least-steps", "found 0")),
        (("--on", "train"), ("--on", "val or test", "found train")),
        (("--seed", -1), ("--seed", "found -1")),
        (("--lr", 1e38), ("a finite loss", "lower the learning rate")),
    ],
)
def test_shots_that_make_no_sense_are_one_error(
    fewshot: Call, arguments: tuple[object, ...], words: tuple[str, ...]
) -> None:
    failed(fewshot(*arguments), *words)


def test_what_a_folder_lacks_for_shots_is_one_error_before_anything_is_embedded(call: Call) -> None:
    folder("train/ants/0.png", "train/ants/1.png", "train/bees/0.png", "val/ants/2.png")
    few = call("fewshot", "data", "--shots", "2")
    failed(few, "--shots 2", "1 of bees", "--shots of 1 or less")
    failed(call("fewshot", "data", "--shots", "1", "--on", "test"), "test")
    assert not Path("cache").exists()


def test_val_is_judged_by_the_k_that_train_chose(call: Call, tiny_data: Path) -> None:
    result = call("knn", tiny_data, *SMALL, "--figure", "k.png")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[1].split() == ["k", "train,", "left", "out", "val"]
    assert [line.split()[0] for line in lines[2:7]] == ["1", "2", "5", "10", "16"]
    assert sum("<- chosen" in line for line in lines) == 1
    assert "chosen on train (leave-one-out): no other split had a say in it" in result.stdout
    assert "k ends at 16: there are 16 training images" in result.stderr
    with Image.open("k.png") as picture:
        assert picture.format == "PNG"

    said = json.loads(call("knn", tiny_data, *SMALL, "--json").stdout)
    assert said["selected_on"] == "train (leave-one-out)"
    (chosen,) = [row for row in said["by_k"] if row["k"] == said["k"]]
    assert said["evaluation"] == {"val": chosen["val"]}
    assert chosen["val"]["n"] == 8 and chosen["left_out"]["n"] == 16
    low, high = chosen["val"]["accuracy_ci95"]
    assert low <= chosen["val"]["accuracy"] <= high
    assert (said["embedded"], said["reused"], said["temperature"]) == (0, 24, 0.07)
    assert (
        f"val (chose nothing): accuracy {chosen['val']['accuracy']:.3f} (95% {low:.3f}-"
        in result.stdout
    )


def test_a_test_split_is_judged_too(call: Call, tiny_data: Path) -> None:
    shutil.copytree(tiny_data / "val", tiny_data / "test")
    said = json.loads(call("knn", tiny_data, *SMALL, "--k", "3,1", "--json").stdout)
    assert [row["k"] for row in said["by_k"]] == [1, 3]
    assert said["evaluation"]["test"] == said["evaluation"]["val"]


def test_a_snapshot_alone_is_enough(call: Call, pets: Path) -> None:
    features = open_snapshot(pets).read()
    expected = knn_accuracy(
        features.split("train"), {"val": features.split("val")}, 2, ks=[1, 3], temperature=0.5
    )
    for more in ((), ("--stream",)):
        result = call("knn", pets, "--k", "1,3", "--temperature", "0.5", "--json", *more)
        said = json.loads(result.stdout)
        assert {name: said[name] for name in expected.describe()} == expected.describe()


def test_copies_in_train_are_left_out_together(call: Call, pets: Path) -> None:
    digests = snapshot().digests.copy()
    digests[3] = digests[0]  # a copy of an image, in the other class
    changed(pets, digests)
    features = open_snapshot(pets).read()
    assert np.array_equal(features.features[0], features.features[3])
    said = json.loads(call("knn", pets, "--k", "1", "--json").stdout)
    copies = np.array([0, 1, 2, 0, 4, 5])
    (expected,) = knn_accuracy(features.split("train"), {}, 2, ks=[1], copies=copies).left_out
    (given_away,) = knn_accuracy(features.split("train"), {}, 2, ks=[1]).left_out
    assert said["by_k"][0]["left_out"] == expected.to_dict()
    assert expected != given_away


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("--k", ""), ("--k: expected whole numbers", "found nothing")),
        (("--k", "few"), ("--k: expected whole numbers", "found few", "1,5,20")),
        (("--k", "1,2.5"), ("--k", "found 1,2.5")),
        (("--k", "1,,2"), ("--k", "found 1,,2")),
        (("--k", "0"), ("--k: expected whole numbers from 1 to 1000, found 0",)),
        (("--k", "-3"), ("from 1 to 1000, found -3",)),
        (("--k", "5,9999999999999999999999"), ("found 9999999999999999999999",)),
        (("--temperature", "0"), ("--temperature: expected a finite number over 0, found 0.0",)),
        (("--temperature", "-0.1"), ("over 0, found -0.1",)),
        (("--temperature", "nan"), ("over 0, found nan",)),
        (("--temperature", "inf"), ("over 0, found inf",)),
        (("--seed", "-1"), ("--seed", "found -1")),
    ],
)
def test_values_that_make_no_sense_are_refused_before_anything_is_embedded(
    call: Call, tiny_data: Path, words: tuple[str, ...], found: tuple[str, ...]
) -> None:
    result = call("knn", tiny_data, *SMALL, *words)
    failed(result, *found)
    assert result.stdout == ""
    assert not Path("cache").exists()


def test_an_empty_split_and_a_single_class_are_refused(call: Call, pets: Path) -> None:
    labels, splits = snapshot().dataset.labels, snapshot().dataset.splits
    changed(pets, splits=splits * 0)
    failed(call("knn", pets), "and in val or test, which are judged, found images in train only")
    changed(pets, splits=splits * 0 + 1)
    failed(call("knn", pets), "expected images in train, which vote", "found images in val only")
    changed(pets, labels=np.where(splits == 0, 1, labels).astype(labels.dtype))
    failed(
        call("knn", pets), "train: expected images of at least two classes, found one class only"
    )


def test_a_figure_that_cannot_be_written_is_one_clear_error(call: Call, pets: Path) -> None:
    result = call("knn", pets, "--figure", "cache/nowhere/k.png")
    assert result.exit_code == 1
    assert "error: " in result.stderr and "k.png" in result.stderr
    assert "k = " in result.stdout  # the result is not lost by it
