"""How a classifier is wrong: what it confuses, and how sure it is of what is right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tlcache.figures.style import (
    BLUE,
    DASHED,
    INK,
    RED,
    SOFT,
    check,
    finish,
    fit,
    label,
    name_cells,
    new_figure,
    note,
    rule_cells,
    text_width,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_KEY: dict[str, Any] = {"xycoords": "axes fraction", "fontsize": 8, "va": "bottom"}


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
    cell = _inches_a_cell(c)
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


def _inches_a_cell(classes: int) -> float:
    if classes <= 4:
        return max(0.9, 2.2 / classes)
    if classes <= 20:
        return 0.5
    return max(0.12, 10 / classes) if classes <= 100 else 12 / classes


def _write_counts(axes: Axes, counts: NDArray[Any], shares: NDArray[np.float64]) -> None:
    few = len(counts) <= 4
    for (row, column), count in np.ndenumerate(counts):
        share = shares[row, column]
        text = f"{count:,}\n{share:.1%}" if few and shares[row].any() else f"{count:,}"
        ink = "white" if share > 0.5 else INK if count else "#a0a0a0"
        if few or count:
            style: dict[str, Any] = {"color": ink, "fontsize": 10 if few else 8}
            axes.text(column, row, text, ha="center", va="center", **style)
    rule_cells(axes, counts.shape, "white", 2)


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
    name_cells(axes, names, names, size, turn, step)
    label(axes, "predicted", "true", 8.5)
    return widest / 72 + 0.45, widest / 72 * math.sin(math.radians(turn)) + 0.5


def calibration_figure(bins: Sequence[Mapping[str, Any]]) -> Figure:
    """Accuracy by confidence with its intervals, over how many images are so sure.

    The gaps between the dots and the diagonal, weighted by the images, are the expected
    calibration error: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.

    Args:
        bins: Of each ``low``, ``high``, ``count``, ``right``, mean ``confidence``, ``accuracy`` and
            ``accuracy_ci95`` (low, high), by rising confidence; none without images.

    Raises:
        DataError: If there is no bin.
    """
    check(len(bins) > 0, "bins", "at least one with images", "none", "evaluate some images first")
    counts = np.array([each["count"] for each in bins])
    gaps = np.array([each["accuracy"] - each["confidence"] for each in bins])
    error = float(counts @ np.abs(gaps) / counts.sum())
    figure = new_figure(5.6, 5.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1))
    tidy(above, f"Expected calibration error {error:.3f}, {counts.sum():,} images", "both", pad=20)
    _draw_reliability(above, bins)
    tidy(below, "", None, pad=0)
    _draw_counts(below, bins)
    low = bins[0]["low"]
    above.set_xlim(low - 0.02 * (1 - low), 1 + 0.02 * (1 - low))
    return finish(figure)


def _draw_reliability(axes: Axes, bins: Sequence[Mapping[str, Any]]) -> None:
    axes.plot([0, 1], [0, 1], **DASHED)
    for each in bins:
        x, y = each["confidence"], each["accuracy"]
        axes.plot([x, x], [x, y], color=RED, lw=4, alpha=0.35, solid_capstyle="butt")
        axes.plot([x, x], each["accuracy_ci95"], color=BLUE, lw=1.4, solid_capstyle="butt")
        axes.plot([x], [y], "o", color=BLUE, ms=6, mec="white", mew=0.8, clip_on=False)
    axes.set_ylim(0, 1.02)
    label(axes, y="accuracy")
    note(axes, "accuracy and its 95% interval", (0, 1), (0, 5), color=BLUE, **_KEY)
    note(axes, "gap to what was claimed", (0, 1), (165, 5), color=RED, **_KEY)


def _draw_counts(axes: Axes, bins: Sequence[Mapping[str, Any]]) -> None:
    right = np.array([each["right"] for each in bins])
    counts = np.array([each["count"] for each in bins])
    middles = np.array([(each["low"] + each["high"]) / 2 for each in bins])
    width = 0.86 * (bins[0]["high"] - bins[0]["low"])
    axes.bar(middles, right, width, color=BLUE, alpha=0.75)
    axes.bar(middles, counts - right, width, bottom=right, color=RED)
    for x, count in zip(middles, counts, strict=True):
        note(axes, f"{count:,}", (x, count), (0, 2), ha="center", color=INK, fontsize=7)
    axes.set_ylim(0, counts.max() * 1.2)
    axes.locator_params(axis="y", nbins=4, integer=True)
    label(axes, "confidence: probability of the prediction", "images")
    note(axes, "right", (0, 1), (0, 1), color=BLUE, **_KEY)
    note(axes, "wrong", (0, 1), (30, 1), color=RED, **_KEY)
