from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tlcache.data.folders import DataSource
from tlcache.evaluation.roles import final_split, selection_note, split_role, standing_of


def test_test_has_the_last_word_where_there_is_one() -> None:
    assert final_split(["train", "val", "test"]) == "test"
    assert final_split(["train", "val"]) == "val"


@pytest.mark.parametrize(
    ("split", "selected_on", "fitted_on", "role"),
    [
        ("train", "val", ["train"], "trained on"),
        ("val", "val", ["train"], "chose the epoch"),
        ("test", "val", ["train"], "the result"),
        ("val", "val", ["train", "val"], "trained on"),
        ("val", "5-fold cross-validation on train", ["train"], "chose nothing"),
        ("val", None, [], ""),
    ],
)
def test_a_split_that_chose_or_trained_is_never_called_the_result(
    split: str, selected_on: str | None, fitted_on: list[str], role: str
) -> None:
    assert split_role(split, selected_on, fitted_on) == role


def test_what_chose_is_named() -> None:
    assert split_role("val", "val", chose="among 16") == "chose among 16"


def test_the_note_says_what_to_do_and_comes_only_where_nothing_else_judges() -> None:
    assert selection_note(["train", "val"]) == (
        "no test split: val chose the epoch, so its accuracy flatters and is no result; `tlcache "
        "crossval` judges on images that chose nothing, as do a test/ folder or --split "
        "0.7,0.15,0.15"
    )
    assert selection_note(["train", "val", "test"]) is None
    assert selection_note(["train", "val"], "5-fold cross-validation on train") is None


ABOUT: dict[str, Any] = {
    "command": "train",
    "data": "photos",
    "dataset": "photos",
    "selected_on": "val",
    "fitted_on": ["train"],
    "options": {},
}
OWN = DataSource(Path("photos"), (0.8, 0.2), 3)


@pytest.mark.parametrize(
    ("changes", "on", "label", "words"),
    [
        ({}, "train", "train (trained on)", ""),
        ({}, "val", "val (chose the epoch)", "had the epoch chosen by these images, which"),
        ({}, "test", "test (the result)", ""),
        ({"command": "sweep"}, "val", "val (chose the setting)", "had the setting chosen by"),
        ({"fitted_on": ["train", "val"]}, "val", "val (trained on)", "was trained on these images"),
        ({"selected_on": "5-fold cross-validation"}, "val", "val (chose nothing)", ""),
        ({"dataset": "others", "data": "others"}, "val", "val", ""),
    ],
)
def test_a_split_is_called_what_it_was_to_the_run(
    changes: dict[str, Any], on: str, label: str, words: str
) -> None:
    standing = standing_of(ABOUT | changes, OWN, OWN, on)
    assert standing.label == label
    assert bool(standing.note) == bool(words) and words in standing.note


@pytest.mark.parametrize(("split", "seed"), [((0.8, 0.2), 0), ((0.5, 0.5), 3), (None, 3)])
def test_images_split_otherwise_may_have_been_trained_on(
    split: tuple[float, ...] | None, seed: int
) -> None:
    for on in ("train", "val", "test"):
        standing = standing_of(ABOUT, OWN, DataSource(Path("photos"), split, seed), on)
        assert standing.label == on
        assert standing.note == (
            "was trained with --split 0.8,0.2 --seed 3, so perhaps on some of these images: "
            "leave --split and --seed out, and they are split as they were"
        )


def test_the_seed_is_nothing_where_nothing_is_split() -> None:
    whole = DataSource(Path("photos"), None, 3)
    assert "chosen by" in standing_of(ABOUT, whole, DataSource(Path("photos")), "val").note
    assert "with no --split" in standing_of(ABOUT, whole, OWN, "val").note


def test_a_folder_of_the_same_name_elsewhere_is_another_one(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "a" / "photos", tmp_path / "b" / "photos"
    ours.mkdir(parents=True)
    theirs.mkdir(parents=True)
    about = ABOUT | {"data": str(ours)}

    def at(folder: Path) -> DataSource:
        return DataSource(folder, OWN.fractions, OWN.seed)

    assert standing_of(about, OWN, at(theirs), "val").label == "val"
    assert standing_of(about, OWN, at(ours), "val").label == "val (chose the epoch)"
    ours.rmdir()  # moved, or on another machine
    assert standing_of(about, OWN, at(theirs), "val").label == "val (chose the epoch)"


def test_of_a_model_without_its_run_nothing_is_said() -> None:
    standing = standing_of({}, None, OWN, "val")
    assert (standing.label, standing.note, standing.selected_on) == ("val", "", None)
    assert standing_of({"command": "train"}, None, OWN, "val") == standing
