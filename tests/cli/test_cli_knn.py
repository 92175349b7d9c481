"""What a user of `tlcache knn` meets."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_cache import small_cache, snapshot
from typer.testing import CliRunner, Result

from tlcache.cache.snapshots import save_snapshot
from tlcache.cli import app
from tlcache.features.read import open_snapshot
from tlcache.studies.knn import knn_accuracy

RANDOM = ("--trunk", "mobilenet_v3_small", "--weights", "random", "--resize", "36", "--crop", "32")
Call = Callable[..., Result]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run `tlcache knn` in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, ["knn", *map(str, words)])


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 1, result.output
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ") and all(word in line for word in words), line


def cached(path: Path = Path("cache")) -> Path:
    """The snapshot of a small cache."""
    small_cache(path)
    (found,) = path.glob("*/snapshots/*.h5")
    return found


def test_val_is_judged_by_the_k_that_train_chose(call: Call, tiny_data: Path) -> None:
    result = call(tiny_data, *RANDOM, "--figure", "k.png")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[1].split() == ["k", "train,", "left", "out", "val"]
    assert [line.split()[0] for line in lines[2:7]] == ["1", "2", "5", "10", "16"]
    assert sum("<- chosen" in line for line in lines) == 1
    assert "chosen on train (leave-one-out): no other split had a say in it" in result.stdout
    assert "k ends at 16: there are 16 training images" in result.stderr
    with Image.open("k.png") as picture:
        assert picture.format == "PNG"

    said = json.loads(call(tiny_data, *RANDOM, "--json").stdout)
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
    said = json.loads(call(tiny_data, *RANDOM, "--k", "3,1", "--json").stdout)
    assert [row["k"] for row in said["by_k"]] == [1, 3]
    assert said["evaluation"]["test"] == said["evaluation"]["val"]


def test_a_snapshot_alone_is_enough(call: Call) -> None:
    path = cached()
    features = open_snapshot(path).read()
    expected = knn_accuracy(
        features.split("train"), {"val": features.split("val")}, 2, ks=[1, 3], temperature=0.5
    )
    for more in ((), ("--stream",)):
        result = call(path, "--k", "1,3", "--temperature", "0.5", "--json", *more)
        said = json.loads(result.stdout)
        assert {name: said[name] for name in expected.describe()} == expected.describe()


def test_copies_in_train_are_left_out_together(call: Call) -> None:
    path = cached()
    whole = open_snapshot(path)
    digests = whole.snapshot.digests.copy()
    digests[3] = digests[0]  # a copy of an image, in the other class
    save_snapshot(path, dataclasses.replace(whole.snapshot, digests=digests))
    features = open_snapshot(path).read()
    assert np.array_equal(features.features[0], features.features[3])
    said = json.loads(call(path, "--k", "1", "--json").stdout)
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
    result = call(tiny_data, *RANDOM, *words)
    refused(result, *found)
    assert result.stdout == ""
    assert not Path("cache").exists()


def _moved(path: Path, split: int, label: int | None = None) -> None:
    """Put every image into one split, or those of train into one class."""
    old = snapshot()
    labels, splits = old.dataset.labels.copy(), old.dataset.splits.copy()
    if label is None:
        splits[:] = split
    else:
        labels[splits == split] = label
    dataset = dataclasses.replace(old.dataset, labels=labels, splits=splits)
    save_snapshot(path, dataclasses.replace(old, dataset=dataset))


def test_an_empty_split_and_a_single_class_are_refused(call: Call) -> None:
    path = cached()
    _moved(path, split=0)
    refused(call(path), "and in val or test, which are judged, found images in train only")
    _moved(path, split=1)
    refused(call(path), "expected images in train, which vote", "found images in val only")
    _moved(path, split=0, label=1)
    refused(call(path), "train: expected images of at least two classes, found one class only")


def test_a_figure_that_cannot_be_written_is_one_clear_error(call: Call) -> None:
    result = call(cached(), "--figure", "cache/nowhere/k.png")
    assert result.exit_code == 1
    assert "error: " in result.stderr and "k.png" in result.stderr
    assert "k = " in result.stdout  # the result is not lost by it


def test_help_ends_with_a_real_command(call: Call) -> None:
    result = call("--help")
    assert result.exit_code == 0
    assert "tlcache knn hymenoptera_data" in result.stdout
