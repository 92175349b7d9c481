"""The figure of a confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tlcache.figures.checks import check
from tlcache.figures.style import INK, SOFT, finish, new_figure, tidy
from tlcache.figures.text import fit, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage


def confusion_figure(confusion: ArrayLike, classes: Sequence[str]) -> Figure:
    """A confusion matrix: counts written, shares of the true class coloured.

    Args:
        confusion: (C, C) counts; rows are truths, columns predictions.
        classes: C names. Over 20 classes no count is written, over 100 not every name.

    Raises:
        DataError: If the matrix is not (C, C).
    """
    counts, c = np.asarray(confusion), len(classes)
    check(
        c > 0 and counts.shape == (c, c),
        "confusion",
        f"shape ({c}, {c}), one row and one column a class, and at least one class",
        str(counts.shape),
        "pass the confusion and the classes of one evaluation",
    )
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cell = (
        max(0.9, 2.2 / c)
        if c <= 4
        else 0.5
        if c <= 20
        else max(0.12, 10 / c)
        if c <= 100
        else 12 / c
    )
    figure = new_figure(1, 1)
    axes = figure.subplots()
    tidy(axes, f"{int(np.trace(counts)):,} of {int(counts.sum()):,} right", None)
    numbers = c <= 20
    # Where no number is written the root of a share is coloured: a few confused images must show.
    image = axes.imshow(shares if numbers else shares**0.5, cmap="Blues", vmin=0, vmax=1)
    left, bottom = _name_classes(axes, classes, cell)
    if numbers:
        _write_counts(axes, counts, shares)
    else:
        _root_bar(figure, axes, image)
    figure.set_size_inches(cell * c + left + (0.3 if numbers else 1.1), cell * c + bottom + 0.5)
    return finish(figure)


def _write_counts(axes: Axes, counts: NDArray[Any], shares: NDArray[np.float64]) -> None:
    few = len(counts) <= 4
    for (row, column), count in np.ndenumerate(counts):
        share = shares[row, column]
        text = f"{count:,}\n{share:.1%}" if few and shares[row].any() else f"{count:,}"
        ink = "white" if share > 0.5 else INK if count else "#a0a0a0"
        if few or count:
            style: dict[str, Any] = {"color": ink, "fontsize": 10 if few else 8}
            axes.text(column, row, text, ha="center", va="center", **style)
    edges = np.arange(len(counts) + 1) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="white", lw=2)


def _root_bar(figure: Figure, axes: Axes, image: AxesImage) -> None:
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02, shrink=0.4, aspect=25)
    bar.set_ticks([0, 0.01**0.5, 0.1**0.5, 0.5, 1], labels=["0%", "1%", "10%", "25%", "100%"])
    bar.ax.tick_params(colors=SOFT, labelsize=8, length=3, width=0.6)
    bar.outline.set_visible(False)
    bar.set_label("share of the true class", fontsize=8, color=SOFT)


def _name_classes(axes: Axes, classes: Sequence[str], cell: float) -> tuple[float, float]:
    """Name rows and columns; returns the inches that the names take to the left and below."""
    step = math.ceil(0.1 / cell - 1e-9)
    size = min(9.0, max(5.5, 72 * cell * step * 0.7))
    names = [fit(name, 110, size) for name in classes[::step]]
    widest = max(text_width(name, size) for name in names)
    turn = 0 if widest < 68 * cell else 40 if cell > 0.4 else 90
    how: dict[str, Any] = {"rotation": turn, "ha": "right", "rotation_mode": "anchor"}
    how["va"] = "center" if turn == 90 else "top"
    ticks = range(0, len(classes), step)
    axes.set_xticks(ticks, labels=names, **(how if turn else {}))
    axes.set_yticks(ticks, labels=names)
    axes.tick_params(which="both", length=0, labelsize=size, labelcolor=INK)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted", fontsize=8.5, color=SOFT)
    axes.set_ylabel("true", fontsize=8.5, color=SOFT)
    return widest / 72 + 0.45, widest / 72 * math.sin(math.radians(turn)) + 0.5
