"""What a user of `tlcache fewshot` meets, on a cache that needs no network."""

from __future__ import annotations

import json
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
from tlcache.heads.recipe import Recipe
from tlcache.studies.fewshot import few_shot_curve

Call = Callable[..., Result]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Few shots of the small cache: three training images a class, and four of val."""
    monkeypatch.chdir(tmp_path)
    store, _ = small_cache(Path("cache"))
    data = store.snapshot_path("pets")

    def run(*arguments: object) -> Result:
        given = ["fewshot", str(data), "--shots", "1,3", "--episodes", "4"]
        return CliRunner().invoke(app, [*given, *(str(a) for a in arguments)])

    return run


def failed(result: Result, *words: str) -> None:
    """Exit code 1, and one line that holds the words."""
    assert result.exit_code == 1, result.output
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    for word in words:
        assert word in line, line


def data() -> Path:
    (found,) = Path("cache").glob("*/snapshots/pets.h5")
    return found


@pytest.mark.parametrize("views", [0, 2])
def test_shots_come_from_train_and_are_judged_on_all_of_val(call: Call, views: int) -> None:
    values = json.loads(call("--json", "--seed", 2, "--views", views).stdout)
    assert (values["judged_on"], values["selected_on"]) == ("val", "none")
    assert (values["images"], values["episodes"], values["least_steps"]) == (4, 4, 10)
    features = open_snapshot(data(), views).read()
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


def test_a_table_says_what_its_numbers_mean(call: Call) -> None:
    result = call()
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    at = lines.index("shots  accuracy (95%)        95% of episodes  sd")
    assert [line.split()[0] for line in lines[at + 1 : at + 3]] == ["1", "3"]
    assert "mean of 4 episodes on the 4 images of val" in lines[at + 3]
    assert "other shots and other images" in lines[at + 3]
    assert "one draw of shots" in lines[at + 4]
    assert "nothing was chosen on val" in lines[at + 5]
    assert "no test split" in result.stderr and "--on test" in result.stderr


def test_test_can_judge_where_there_is_one(call: Call) -> None:
    failed(call("--on", "test"), "test", "pets")
    known = snapshot()
    splits = known.dataset.splits.copy()
    splits[-3:] = 2
    object.__setattr__(known.dataset, "splits", splits)
    save_snapshot(data(), known)
    values = json.loads(call("--on", "test", "--json").stdout)
    assert (values["judged_on"], values["images"]) == ("test", 3)
    assert json.loads(call("--json").stdout)["images"] == 1
    assert "--on test does not" in call().stderr


def test_a_figure_is_drawn_where_it_is_wanted(call: Call) -> None:
    assert call("--figure", "curve.png").exit_code == 0
    with Image.open("curve.png") as picture:
        assert picture.format == "PNG"


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
def test_what_makes_no_sense_is_one_error(
    call: Call, arguments: tuple[object, ...], words: tuple[str, ...]
) -> None:
    result = call(*arguments)
    failed(result, *words)
    assert np.all(["Traceback" not in part for part in (result.output, result.stderr)])


def test_what_the_folder_lacks_is_one_error_before_anything_is_embedded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("train/ants/0.png", "train/ants/1.png", "train/bees/0.png", "val/ants/2.png"):
        Path("data", path).parent.mkdir(parents=True, exist_ok=True)
        Path("data", path).write_bytes(b"no image")
    few = CliRunner().invoke(app, ["fewshot", "data", "--shots", "2"])
    failed(few, "--shots 2", "1 of bees", "--shots of 1 or less")
    failed(CliRunner().invoke(app, ["fewshot", "data", "--shots", "1", "--on", "test"]), "test")
    assert not Path("cache").exists()
