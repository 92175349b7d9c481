"""What chose a model, and what its accuracies may therefore be taken for: words, no numbers.

A split that chose an epoch or a setting flatters what it chose, so its accuracy is no result.
"""

from __future__ import annotations

from collections.abc import Collection

ELSEWHERE = (
    "`tlcache crossval` judges on images that chose nothing, "
    "as do a test/ folder or --split 0.7,0.15,0.15"
)


def final_split(splits: Collection[str]) -> str:
    """The split that has the last word: test where there is one, else val."""
    return "test" if "test" in splits else "val"


def split_role(
    split: str,
    selected_on: str | None,
    fitted_on: Collection[str] = ("train",),
    chose: str = "the epoch",
) -> str:
    """What a split was to a model, in a few words.

    Args:
        selected_on: What chose; None where that is not known.
        fitted_on: The splits that the model was trained on.
        chose: What was chosen.
    """
    if split in fitted_on:
        return "trained on"
    if selected_on is None:
        return ""
    if split == selected_on:
        return f"chose {chose}"
    return "the result" if split == "test" else "chose nothing"


def selection_note(
    splits: Collection[str], selected_on: str = "val", chose: str = "the epoch"
) -> str | None:
    """The line to print where no split is left to judge a model; None where one is."""
    if "test" in splits or selected_on not in splits:
        return None
    return (
        f"no test split: {selected_on} chose {chose}, so its accuracy flatters and is no result; "
        f"{ELSEWHERE}"
    )
