from __future__ import annotations

import pytest

from tlcache.evaluation.roles import final_split, selection_note, split_role


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
