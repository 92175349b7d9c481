"""What results show of themselves in a notebook: the words, and that names stay names."""

from __future__ import annotations

import pickle
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_cache import small_cache

from tlcache.core.notebook import MOST_CLASSES
from tlcache.data.folders import scan
from tlcache.evaluation.comparison import compare
from tlcache.evaluation.metrics import evaluate
from tlcache.features.read import open_snapshot
from tlcache.heads.recipe import Recipe
from tlcache.heads.train import train_head

EVIL = "<script>alert('ants & \"bees\"')</script>\n\u202e\udcff"


class _Page(HTMLParser):
    """The tags of some HTML, and the cells of its table."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.rows: list[list[str]] = []
        self.words = ""
        self.feed(html)
        assert html.encode("utf-8")  # can be sent

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.words += data
        if self.rows and self.lasttag in ("td", "th"):
            self.rows[-1][-1] += data


def page(shown: Any) -> _Page:
    """What a notebook makes of a result."""
    made = _Page(shown._repr_html_())
    assert made.tags <= {"p", "table", "thead", "tbody", "tr", "th", "td", "caption"}
    assert len({len(row) for row in made.rows}) == 1
    return made


def logits(count: int, classes: int, seed: int = 0) -> Any:
    return (
        np.random.default_rng(seed).normal(size=(count, classes))
        + 2 * np.eye(classes)[np.arange(count) % classes]
    )


def test_an_evaluation_shows_its_accuracy_with_the_interval_and_its_classes() -> None:
    judged = evaluate(logits(30, 3), np.arange(30) % 3, ["ants", EVIL, "wasps"])
    shown = page(judged)
    assert shown.words.startswith(judged.summary()) and "95% " in shown.words
    assert shown.rows[0] == ["class", "precision", "recall", "F1", "images"]
    assert [row[0] for row in shown.rows[1:]] == [
        "ants",
        "<script>alert('ants & \"bees\"')</script>\\n\\u202e\\udcff",
        "wasps",
    ]
    of = judged.per_class["ants"]
    assert shown.rows[1][1:] == [*(f"{of[m]:.3f}" for m in ("precision", "recall", "f1")), "10"]


def test_of_many_classes_the_worst_are_shown() -> None:
    names = [f"class {i}" for i in range(100)]
    judged = evaluate(logits(1000, 100), np.arange(1000) % 100, names)
    shown = page(judged)
    assert f"{MOST_CLASSES} of 100 classes, those of the lowest F1" in shown.words
    f1 = [float(row[3]) for row in shown.rows[1:]]
    assert len(f1) == MOST_CLASSES and f1 == sorted(f1)
    assert max(f1) <= float(np.quantile([c["f1"] for c in judged.per_class.values()], 0.25))


def test_a_comparison_shows_who_is_right_where() -> None:
    compared = compare(logits(50, 2), logits(50, 2, seed=1), np.arange(50) % 2)
    shown = page(compared)
    assert compared.sentence() in shown.words
    assert shown.rows == [
        ["images", "B right", "B wrong"],
        ["A right", str(compared.both), str(compared.only_a)],
        ["A wrong", str(compared.only_b), str(compared.neither)],
    ]


def test_a_trained_head_shows_its_first_best_and_last_epoch() -> None:
    rows, labels = logits(40, 2), np.arange(40) % 2
    trained = train_head(rows, labels, rows[:9], labels[:9], Recipe(epochs=6), classes=2)
    shown = page(trained)
    assert len(repr(trained)) < 200  # of arrays, nobody reads the numbers
    assert f"epochs: 6, in {trained.seconds:.2f} s; the best is" in shown.words
    assert "chosen on val" in shown.words
    epochs = [row[0] for row in shown.rows[1:]]
    assert epochs == sorted(
        {"1", "6"} - {str(trained.best_epoch)} | {f"{trained.best_epoch} (best)"}
    )
    last = trained.history[-1]
    assert shown.rows[-1][2:] == [
        f"{value:.4f}"
        for value in (last.train_loss, last.train_accuracy, last.val_loss, last.val_accuracy)
    ]


def test_a_head_that_diverged_at_once_shows_no_best_epoch() -> None:
    from tlcache.heads.train import train_heads

    rows, labels = 1e15 * logits(40, 2), np.arange(40) % 2
    recipe = Recipe(epochs=3, lr=1e30)
    (trained,) = train_heads(rows, labels, rows, labels, [recipe], classes=2)
    assert trained.diverged and trained.best_epoch == 0
    shown = page(trained)
    assert "none is any good" in shown.words and len(shown.rows) == 2


def test_features_and_data_sets_show_their_images_by_class_and_split(
    tiny_data: Path, tmp_path: Path
) -> None:
    (tiny_data / "train" / "ants").rename(tiny_data / "train" / "<b>ants")
    (tiny_data / "val" / "ants").rename(tiny_data / "val" / "<b>ants")
    (tiny_data / "val" / "bees" / "0.jpg").unlink()
    shown = page(scan(tiny_data))
    assert "23 images in data/" in shown.words
    assert shown.rows == [
        ["images", "train", "val"],
        ["<b>ants", "8", "4"],
        ["bees", "8", "3"],
        ["all", "16", "7"],
    ]
    store, _ = small_cache(tmp_path / "cache")
    shown = page(open_snapshot(store.snapshot_path("pets")).read())
    assert "5 features of each image" in shown.words
    assert shown.rows[1:] == [["cats", "3", "2"], ["dogs", "3", "2"], ["all", "6", "4"]]


def test_classes_beyond_the_first_are_summed_up(tmp_path: Path) -> None:
    for split, name in ((s, f"{i:02d}") for s in ("train", "val") for i in range(MOST_CLASSES + 3)):
        (tmp_path / split / name).mkdir(parents=True)
        (tmp_path / split / name / "x.png").touch()
    rows = page(scan(tmp_path)).rows
    assert len(rows) == MOST_CLASSES + 3
    assert rows[-2:] == [["… and 3 more", "3", "3"], ["all", "23", "23"]]


def test_figures_show_themselves_without_pyplot() -> None:
    from tlcache.figures.heatmap import confusion_figure

    figure = confusion_figure([[3, 1], [0, 4]], ["ants", "bees"])
    png, size = figure._repr_png_()  # type: ignore[attr-defined]
    assert png.startswith(b"\x89PNG")
    pixels = [int.from_bytes(png[at : at + 4], "big") for at in (16, 20)]
    shown = [120 / 96 * size[side] for side in ("width", "height")]  # sharp on any screen
    assert pixels == pytest.approx(shown, abs=2)
    assert type(pickle.loads(pickle.dumps(figure))) is type(figure)
