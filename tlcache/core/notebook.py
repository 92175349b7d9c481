"""What results show of themselves in a notebook: HTML of plain values, whose names are hostile.

No colours and no style but the place of a cell, so that it fits a notebook's own look, dark or
light. Knows no result; each hands in what is to be shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import one_line

MOST_CLASSES = 20
"""That a table has rows for."""


class Labelled(Protocol):
    """Images with their labels, indices into ``classes``, and the numbers of their splits: (n,).

    ``present_splits`` are the names of the splits that hold any image, by rising number.
    """

    @property
    def labels(self) -> NDArray[Any]: ...
    @property
    def splits(self) -> NDArray[Any]: ...
    @property
    def classes(self) -> Sequence[str]: ...
    def present_splits(self) -> list[str]: ...


def evaluation_html(values: Mapping[str, Any], summary: str) -> str:
    """An evaluation, from the values of ``Evaluation.to_dict``; the classes under its summary."""
    per_class, measures = values["per_class"], ("precision", "recall", "f1")
    names = sorted(per_class, key=lambda name: float(per_class[name]["f1"]))
    few = len(names) <= MOST_CLASSES
    shown = values["classes"] if few else names[:MOST_CLASSES]
    heading = f"{MOST_CLASSES} of {len(names)} classes, those of the lowest F1"
    rows = [
        [name, *(f"{per_class[name][m]:.3f}" for m in measures), str(per_class[name]["support"])]
        for name in shown
    ]
    titles = ["class", "precision", "recall", "F1", "images"]
    return _paragraph(summary) + table(titles, rows, "" if few else heading)


def comparison_html(values: Mapping[str, Any], sentence: str) -> str:
    """Who of two models got how many of the same images right, of ``Comparison.to_dict``."""
    rows = [
        ["A right", str(values["both"]), str(values["only_a"])],
        ["A wrong", str(values["only_b"]), str(values["neither"])],
    ]
    return _paragraph(sentence) + table(["images", "B right", "B wrong"], rows)


def training_html(history: Sequence[Any], best: int, seconds: float) -> str:
    """How a training went: its first epoch, the best (counted from 1; 0 for none) and the last."""
    columns = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    rows = [
        [
            f"{record.epoch}{' (best)' if record.epoch == best else ''}",
            f"{record.learning_rate:g}",
            *(f"{getattr(record, name):.4f}" for name in columns),
        ]
        for record in (history[at - 1] for at in sorted({1, best or 1, len(history)}))
    ]
    chosen = f"the best is {best}, chosen on val" if best else "none is any good"
    summary = f"epochs: {len(history)}, in {seconds:.2f} s; {chosen}"
    titles = ["epoch", "learning rate", *(name.replace("_", " ") for name in columns)]
    return _paragraph(summary) + table(titles, rows)


def counts_html(summary: str, images: Labelled) -> str:
    """How many images each class has in each split that holds any."""
    of, most = len(images.classes), MOST_CLASSES
    counts = [
        np.bincount(images.labels[images.splits == split], minlength=of)
        for split in np.unique(images.splits)
    ]
    rows = [[name, *(str(n[k]) for n in counts)] for k, name in enumerate(images.classes[:most])]
    if of > most:
        rows.append([f"… and {of - most} more", *(str(n[most:].sum()) for n in counts)])
    rows.append(["all", *(str(n.sum()) for n in counts)])
    return _paragraph(summary) + table(["images", *images.present_splits()], rows)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """A table whose first column holds names, and all others numbers."""
    head = _row("th", titles)
    body = "".join(_row("td", row) for row in rows)
    over = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{over}<thead>{head}</thead><tbody>{body}</tbody></table>"


def _row(tag: str, cells: Sequence[str]) -> str:
    sides = ["left", *["right"] * (len(cells) - 1)]
    parts = (
        f'<{tag} style="text-align:{side}">{escape(one_line(cell))}</{tag}>'
        for side, cell in zip(sides, cells, strict=True)
    )
    return f"<tr>{''.join(parts)}</tr>"


def _paragraph(text: str) -> str:
    return f"<p>{escape(one_line(text))}</p>"
