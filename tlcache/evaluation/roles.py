"""What chose a model, and what its accuracies may therefore be taken for: words, no numbers.

A split that chose an epoch or a setting flatters what it chose, so its accuracy is no result. What
a split was to a run is told from the values of its ``run.json``; reading that is ``reports``'.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlcache.data.folders import DataSource

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
    """What a split was to a model, in a few words; none where ``selected_on`` is not known."""
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


@dataclasses.dataclass(frozen=True)
class Standing:
    """What a split was to a model that is judged on it.

    Attributes:
        on: The split.
        selected_on: What chose the model; None where it stands without its run.
        role: In a few words; empty where it is not known.
        note: What its user should know, following "this model"; empty where all is well.
    """

    on: str
    selected_on: str | None
    role: str = ""
    note: str = ""

    @property
    def label(self) -> str:
        """The split, with what it was."""
        return f"{self.on} ({self.role})" if self.role else self.on

    def describe(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"on": self.on, "selected_on": self.selected_on}


def standing_of(
    about: dict[str, Any], own: DataSource | None, source: DataSource, on: str
) -> Standing:
    """What a split of ``source`` was to the run of which ``about`` is the ``run.json``.

    ``own`` are the run's images, split as they were.
    """
    if own is None or not about.keys() >= {"data", "dataset", "options"}:
        return Standing(on, None)
    selected_on = about.get("selected_on", "val")
    if not _is_its_data(about, source.path):
        return Standing(on, selected_on)
    fitted_on = about.get("fitted_on", ["train"])
    other = _other_split(own, source)
    chose = "the setting" if about.get("command") == "sweep" else "the epoch"
    role = "" if other else split_role(on, selected_on, fitted_on, chose)
    note = ""
    if other:
        note = (
            f"was trained with {other}, so perhaps on some of these images: leave --split and "
            "--seed out, and they are split as they were"
        )
    elif on in fitted_on and on != "train":
        note = "was trained on these images too, so this is no score of it"
    elif on == selected_on:
        note = (
            f"had {chose} chosen by these images, which flatters it, so this is no result; --on "
            f"test gives one where there is a test split, and where there is none, {ELSEWHERE}"
        )
    return Standing(on, selected_on, role, note)


def seen_of_val(about: dict[str, Any], own: DataSource | None, source: DataSource) -> Iterator[str]:
    """Why a run has perhaps learned images of the val split of ``source``; follows its name.

    ``about`` and ``own`` are those of :func:`standing_of`.
    """
    other = _other_split(own, source) if own and _is_its_data(about, source.path) else ""
    if other:
        yield f"was trained on another split of these images ({other}), so it knows some of val"
    if "val" in about.get("fitted_on", ()):
        yield "was trained on val too, so val says nothing good or bad of it"


def _is_its_data(about: dict[str, Any], data: Path) -> bool:
    """Whether these are the run's images, as far as can be told: it may have been elsewhere."""
    root = Path(about["data"])
    if data.is_dir() and root.is_dir():
        return data.resolve() == root.resolve()
    return bool((data.stem if data.is_file() else data.resolve().name) == about["dataset"])


def _other_split(own: DataSource, source: DataSource) -> str:
    """How the run split its images, if that was not as they are split now."""
    if source.path.is_file() or own.path.is_file():  # a snapshot keeps its splits
        return ""
    then, now = own.fractions, source.fractions
    if (then and tuple(then)) == (now and tuple(now)) and (not then or own.seed == source.seed):
        return ""
    shares = ",".join(f"{share:g}" for share in then or ())
    return f"--split {shares} --seed {own.seed}" if then else "no --split"
