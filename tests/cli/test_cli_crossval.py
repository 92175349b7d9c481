"""What a user of `tlcache crossval` meets, on a cache that needs no network."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from small_cache import small_cache, snapshot
from typer.testing import CliRunner, Result

from tlcache.cache.snapshots import save_snapshot
from tlcache.cli import app

Call = Callable[..., Result]
PATHS = snapshot().dataset.paths


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Cross-validate the ten images of the small cache in two folds, unless told otherwise."""
    monkeypatch.chdir(tmp_path)
    store, _ = small_cache(Path("cache"))
    data = store.snapshot_path("pets")

    def run(*arguments: object) -> Result:
        given = ["crossval", str(data), "--folds", "2", *(str(a) for a in arguments)]
        return CliRunner().invoke(app, given)

    return run


def failed(result: Result, *words: str) -> None:
    """Exit code 1, nothing on stdout but what was there, and one line that holds the words."""
    assert result.exit_code == 1, result.output
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    for word in words:
        assert word in line, line


def test_a_table_of_the_folds_and_what_they_say(call: Call) -> None:
    result = call("--repeats", 2)
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


def test_one_json_object_says_what_was_done(call: Call) -> None:
    result = call("--repeats", 2, "--seed", 5, "--json")
    values = json.loads(result.stdout)
    assert values["selected_on"] == "none"
    assert (values["images"], values["groups"]) == (10, None)
    assert len(values["folds"]) == 4 and len(values["repeats"]) == 2
    low, high = values["accuracy_ci95"]
    assert low <= values["accuracy"] <= high
    assert values["recipe"]["seed"] == 5
    assert set(values["seconds"]) == {"embed", "crossval"}
    again = json.loads(call("--repeats", 2, "--seed", 5, "--json").stdout)
    assert {**again, "seconds": 0} == {**values, "seconds": 0}


def test_groups_from_a_table_and_from_a_pattern_are_the_same(call: Call, tmp_path: Path) -> None:
    rows = [f"{path},{int(Path(path).stem) // 2}" for path in PATHS]
    Path("groups.csv").write_text("\n".join(["path,group", *rows]))
    table = json.loads(call("--groups", "groups.csv", "--json").stdout)
    pattern = json.loads(call("--group-pattern", "^(0|1|2|3|4|5|6|7|8|9)", "--json").stdout)
    assert table["groups"] == 5
    assert pattern["groups"] == 10
    shown = call("--groups", "groups.csv").stdout
    assert "10 images in 5 groups" in shown


def test_a_figure_is_drawn_where_it_is_wanted(call: Call) -> None:
    assert call("--figure", "folds.png").exit_code == 0
    with Image.open("folds.png") as picture:
        assert picture.format == "PNG"


def test_a_figure_that_cannot_be_written_costs_no_result(call: Call) -> None:
    result = call("--figure", "nowhere/folds.png", "--json")
    failed(result, "folds.png", "a file that can be written")
    assert json.loads(result.stdout)["images"] == 10


def test_images_of_test_are_left_alone(call: Call, tmp_path: Path) -> None:
    known = snapshot()
    splits = known.dataset.splits.copy()
    splits[-2:] = 2
    object.__setattr__(known.dataset, "splits", splits)
    (data,) = Path("cache").glob("*/snapshots/pets.h5")
    save_snapshot(data, known)
    result = call("--json")
    assert json.loads(result.stdout)["images"] == 8
    assert "test: 2 images were left alone" in result.stderr


def test_copies_that_may_come_into_two_folds_are_told_of(call: Call) -> None:
    known = snapshot()
    digests = known.digests.copy()
    digests[9] = digests[2]
    object.__setattr__(known, "digests", digests)
    (data,) = Path("cache").glob("*/snapshots/pets.h5")
    save_snapshot(data, known)
    assert "2 images have copies that may come into another fold" in call().stderr
    rows = [f"{path},{'9' if path.endswith('/2.jpg') else Path(path).stem}" for path in PATHS]
    Path("groups.csv").write_text("\n".join(["path,group", *rows]))
    assert "copies" not in call("--groups", "groups.csv").stderr


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
def test_what_makes_no_sense_is_one_error(
    call: Call, arguments: tuple[object, ...], words: tuple[str, ...]
) -> None:
    failed(call(*arguments), *words)


def test_a_table_that_misses_images_is_one_error(call: Call) -> None:
    Path("groups.csv").write_text("path,group\n" + "\n".join(f"{p},a" for p in PATHS[:7]))
    failed(
        call("--groups", "groups.csv"), "groups.csv", "each of 10 images", "none for 3", PATHS[8]
    )


def test_classes_need_no_split(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["crossval", str(tiny_data / "train"), "--trunk", "mobilenet_v3_small"]
    given += ["--weights", "random", "--folds", "4", "--repeats", "1", "--json"]
    values = json.loads(CliRunner().invoke(app, given).stdout)
    assert values["images"] == 16
    assert [fold["held_out"] for fold in values["folds"]] == [4] * 4


@pytest.mark.parametrize("command", [["crossval", "--folds=2"], ["fewshot", "--shots=2"]])
def test_a_full_cache_needs_no_torch(command: list[str], tmp_path: Path) -> None:
    store, _ = small_cache(tmp_path / "cache")
    code = (
        "import sys, tlcache.cli\n"
        "try: tlcache.cli.app(sys.argv[1:])\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    given = [*command, str(store.snapshot_path("pets")), "--json"]
    subprocess.run([sys.executable, "-W", "error", "-c", code, *given], check=True)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((), ("1 of bees", "one image cannot be both trained on and held out", "add images")),
        (("--group-pattern", r"(\d)$"), ("a group in each of 5 file names", "none in 5")),
        (("--groups", "groups.csv"), ("a group for each of 5 images", "bees/0.png")),
    ],
    ids=["a class of one image", "a pattern", "a table"],
)
def test_what_the_folder_lacks_is_one_error_before_anything_is_embedded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("ants/0.png", "ants/1.png", "ants/2.png", "ants/3.png", "bees/0.png"):
        Path("data", path).parent.mkdir(parents=True, exist_ok=True)
        Path("data", path).write_bytes(b"no image")
    Path("groups.csv").write_text("path,group\nants/0.png,a\n")
    failed(CliRunner().invoke(app, ["crossval", "data", "--folds", "2", *given]), *words)
    assert not Path("cache").exists()
