"""What a user of `tlcache compare` meets, and what a model's own images are to it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_cache import small_cache
from typer.testing import CliRunner, Result

import tlcache
from tlcache.cli import app
from tlcache.core.errors import DataError
from tlcache.heads.model import load_model, save_model
from tlcache.networks.scoring import Scored, aligned

Call = Callable[..., Result]
SMALL = ("--trunk", "mobilenet_v3_small", "--weights", "random", "--crop", "32", "--resize", "32")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments])

    return run


@pytest.fixture
def pets(call: Call) -> Path:
    """A snapshot of ten images, six in train and four in val, and two heads: runs a and b."""
    store, _ = small_cache(Path("cache"))
    data = store.snapshot_path("pets")
    for name, seed in (("a", 0), ("b", 3)):
        options = ("--seed", seed, "--epochs", 2, "--no-figures", "--run-dir", name)
        assert call("train", data, *options).exit_code == 0
    return data


def failed(result: Result, *words: str) -> None:
    assert result.exit_code == 1, result.output
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    for word in words:
        assert word in line, line


def test_two_heads_are_compared_as_evaluate_and_the_library_have_them(
    call: Call, pets: Path
) -> None:
    result = call("compare", "a", "b", pets, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    rows, labels = tlcache.open_snapshot(pets).read().split("val")
    heads = [load_model(Path(name)).head for name in "ab"]
    expected = tlcache.compare(heads[0].logits(rows), heads[1].logits(rows), labels)
    assert found["comparison"] == expected.to_dict() | {"sentence": expected.sentence()}
    assert expected.only_a + expected.only_b > 0  # else a and b might be mixed up unseen
    for name in "ab":
        alone = json.loads(call("evaluate", name, pets, "--json").stdout)
        for key in ("accuracy", "accuracy_ci95", "n", "selected_on"):
            assert found[name][key] == alone[key]
        assert (found[name]["model"], found[name]["finetuned"]) == (name, False)


def test_people_read_two_accuracies_a_table_and_a_sentence(call: Call, pets: Path) -> None:
    result = call("compare", "a", "b", pets)
    lines = result.stdout.splitlines()
    for name, line in zip("AB", lines, strict=False):
        assert line.startswith(f"{name}: {name.lower()}: val (chose the epoch): accuracy 0.")
        assert "(95% 0." in line and line.endswith("n=4)")
    found = json.loads(call("compare", "a", "b", pets, "--json").stdout)["comparison"]
    cells = [line.split()[2:] for line in lines[3:5]]
    assert cells == [
        [str(found["both"]), str(found["only_a"])],
        [str(found["only_b"]), str(found["neither"])],
    ]
    assert lines[2].split() == ["B", "right", "B", "wrong"]
    assert lines[5:] == [found["sentence"]]


def test_one_line_says_that_val_chose(call: Call, pets: Path) -> None:
    both = call("compare", "a", "b", pets)
    (line,) = [line for line in both.stderr.splitlines() if "flatters" in line]
    assert line.startswith("val: each of A and B had the epoch chosen by these images")
    for words in ("--on test", "`tlcache crossval`", "--split 0.7,0.15,0.15"):
        assert words in line
    Path("b/run.json").unlink()
    (line,) = [x for x in call("compare", "a", "b", pets).stderr.splitlines() if "flatters" in x]
    assert line.startswith("val: A had the epoch chosen by these images")
    assert "flatters" not in call("compare", "a", "b", pets, "--on", "train").stderr


def test_a_head_and_a_finetuned_network_of_another_trunk_are_compared(
    call: Call, tiny_data: Path
) -> None:
    short = ("--epochs", "1", "--no-figures")
    fast = ("--precision", "fast", "--engine", "torch")
    assert call("train", tiny_data, *SMALL, *fast, *short, "--run-dir", "a").exit_code == 0
    other = ("--trunk", "squeezenet1_1", *SMALL[2:])
    assert call("finetune", tiny_data, *other, *short, "--run-dir", "b").exit_code == 0
    result = call("compare", "a", "b", tiny_data, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["a"]["finetuned"], found["b"]["finetuned"]) == (False, True)
    assert (found["a"]["precision"], found["b"]["precision"]) == ("fast", "fp32")
    for name in "ab":
        kept = json.loads(Path(name, "metrics.json").read_text())["evaluation"]["val"]
        assert found[name]["accuracy"] == kept["accuracy"]
    assert "A: a head on mobilenet_v3_small in fast" in result.stderr
    assert "B: squeezenet1_1, finetuned" in result.stderr


def test_models_of_other_classes_are_refused(call: Call, pets: Path) -> None:
    model = load_model(Path("b"))
    save_model(Path("b/model.safetensors"), dataclasses.replace(model, classes=("cats", "newts")))
    failed(
        call("compare", "a", "b", pets),
        "B's classes: expected A's cats, dogs (2 in all), found cats, newts (2 in all); ",
    )


def test_what_cannot_be_compared_is_said_in_one_line(call: Call, pets: Path) -> None:
    failed(call("compare", "a", "nowhere", pets), "nowhere", "no such file")
    failed(call("compare", "a", "b", pets, "--on", "test"), "images in test/", "train and val")
    failed(call("compare", "a", "b", pets, "--on", "all"), "--on: expected train or val or test")


def scored(paths: list[str], labels: list[int], logits: list[float]) -> Scored:
    return Scored(
        np.array(logits, np.float32)[:, None], np.array(labels, np.int32), [*map(str, paths)]
    )


def test_images_are_aligned_by_their_paths() -> None:
    a = scored(["x", "y", "z"], [0, 1, 0], [1, 2, 3])
    b = scored(["z", "x", "y"], [0, 0, 1], [30, 10, 20])
    assert aligned(a, b)[:, 0].tolist() == [10, 20, 30]


def test_other_images_or_labels_are_refused() -> None:
    a = scored(["x", "y"], [0, 1], [1, 2])
    with pytest.raises(DataError) as caught:
        aligned(a, scored(["x"], [0], [1]))
    assert str(caught.value) == (
        "the images of A and B: expected the same ones, found 1 that only one was judged on, y the "
        "first; compare again, when no other program changes the images"
    )
    with pytest.raises(DataError, match=r"the label of y: expected the same one .* found 1 and 0"):
        aligned(a, scored(["y", "x"], [0, 0], [1, 2]))
