"""Heat maps: what a classifier confuses, and a sweep's best accuracy for each pair of values."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tlcache.figures.style import (
    FAINT,
    INK,
    RED,
    SOFT,
    check,
    check_counts,
    finish,
    fit,
    label,
    new_figure,
    text_width,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_CELLS = 12
_BINS = 8
_CELL = 0.62  # inches

Value = float | str


def confusion_figure(confusion: ArrayLike, classes: Sequence[str]) -> Figure:
    """A confusion matrix: counts written, shares of the true class coloured.

    Args:
        confusion: (C, C) counts; rows are truths, columns predictions.
        classes: C names. Over 20 classes no count is written, over 100 not every name.

    Raises:
        DataError: If the matrix is not (C, C).
    """
    counts, c = np.asarray(confusion), len(classes)
    expected = f"shape ({c}, {c}), one row and one column a class, and at least one class"
    remedy = "pass the confusion and the classes of one evaluation"
    check(c > 0 and counts.shape == (c, c), "confusion", expected, str(counts.shape), remedy)
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
        bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02, shrink=0.4, aspect=25)
        bar.set_ticks([0, 0.01**0.5, 0.1**0.5, 0.5, 1], labels=["0%", "1%", "10%", "25%", "100%"])
        bar.ax.tick_params(colors=SOFT, labelsize=8, length=3, width=0.6)
        bar.outline.set_visible(False)
        bar.set_label("share of the true class", fontsize=8, color=SOFT)
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
    _rule_cells(axes, counts.shape, "white", 2)


def _name_classes(axes: Axes, classes: Sequence[str], cell: float) -> tuple[float, float]:
    """Name rows and columns; returns the inches that the names take to the left and below."""
    step = math.ceil(0.1 / cell - 1e-9)
    size = min(9.0, max(5.5, 72 * cell * step * 0.7))
    names = [fit(name, 110, size) for name in classes[::step]]
    widest = max(text_width(name, size) for name in names)
    turn = 0 if widest < 68 * cell else 40 if cell > 0.4 else 90
    _name_cells(axes, names, names, size, turn, step)
    label(axes, "predicted", "true", 8.5)
    return widest / 72 + 0.45, widest / 72 * math.sin(math.radians(turn)) + 0.5


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """(n,) accuracies, NaN where training failed, by two values: numbers from 0 on, or words.

    ``across`` and ``down`` are the names of the values; ``chosen`` of the n is framed.
    """

    title: str
    across: str
    down: str
    columns: Sequence[Value]
    rows: Sequence[Value]
    accuracies: Sequence[float]
    chosen: int | None = None


def heat_maps(maps: Sequence[HeatMap], title: str) -> Figure:
    """Maps side by side on one scale: each cell the best accuracy there, the chosen one framed.

    Over 12 numbers along a side are gathered into 8 ranges, even on a logarithmic scale; 0 stays
    by itself.

    Args:
        title: What the numbers are.

    Raises:
        DataError: If there is no map, one is empty, or its counts differ.
    """
    check_counts("maps", len(maps))
    tables = [_table(one) for one in maps]
    widths = [len(table.across) for table in tables]
    tallest = max(len(table.down) for table in tables)
    figure = new_figure(_CELL * sum(widths) + 1.4 * len(maps) + 0.3, _CELL * tallest + 1.2)
    figure.suptitle(fit(title, 400, 9.5), x=0.01, ha="left", fontsize=9.5, color=INK)
    row = figure.subplots(1, len(maps), squeeze=False, width_ratios=widths)[0]
    known = np.concatenate([table.best[np.isfinite(table.best)] for table in tables])
    check(len(known) > 0, "accuracies", "at least one", "none", "sweep over lower learning rates")
    # A few that learned nothing must not make all the others look alike.
    top, middle = float(known.max()), float(np.median(known))
    scale = max(float(known.min()), top - 4 * max(top - middle, 0.005)), top
    for axes, one, table in zip(row, maps, tables, strict=True):
        _draw(axes, one, table, scale)
    return finish(figure)


@dataclasses.dataclass(frozen=True)
class _Table:
    """(R, C) best accuracies, -inf where all training failed, NaN where nothing was tried."""

    best: NDArray[np.float64]
    across: list[str]
    down: list[str]
    framed: tuple[int, int] | None


def _table(one: HeatMap) -> _Table:
    check_counts(one.across, len(one.columns), rows=one.rows, accuracies=one.accuracies)
    (columns, across), (rows, down) = _cells(one.columns), _cells(one.rows)
    best = np.full((len(down), len(across)), np.nan)
    for row, column, accuracy in zip(rows, columns, one.accuracies, strict=True):
        found = -math.inf if math.isnan(accuracy) else accuracy
        best[row, column] = np.fmax(best[row, column], found)
    chosen = one.chosen
    return _Table(best, across, down, None if chosen is None else (rows[chosen], columns[chosen]))


def _cells(values: Sequence[Value]) -> tuple[list[int], list[str]]:
    """The cell of each value, and the cells' names."""
    numbers = [value for value in values if not isinstance(value, str)]
    if len(numbers) < len(values):
        words = list(dict.fromkeys(map(str, values)))
        return [words.index(str(value)) for value in values], words
    distinct = sorted(set(numbers))
    if len(distinct) <= _MOST_CELLS:
        return [distinct.index(value) for value in numbers], [f"{value:.3g}" for value in distinct]
    logs = np.log([value for value in distinct if value > 0])
    edges = np.linspace(logs[0], logs[-1], _BINS + 1)
    zero = int(distinct[0] == 0)
    names = [f"{math.exp(a):.1g}–{math.exp(b):.1g}" for a, b in itertools.pairwise(edges)]
    cells = [
        0 if value == 0 else zero + int(np.searchsorted(edges[1:-1], math.log(value), "right"))
        for value in numbers
    ]
    return cells, ["0"] * zero + names


def _draw(axes: Axes, one: HeatMap, table: _Table, scale: tuple[float, float]) -> None:
    from matplotlib.patches import Rectangle

    best = table.best
    tidy(axes, one.title, None)
    low, high = scale[0] - 0.25 * max(scale[1] - scale[0], 0.01), scale[1]
    axes.imshow(np.where(np.isfinite(best), best, np.nan), cmap="Blues", vmin=low, vmax=high)
    for (row, column), value in np.ndenumerate(best):
        if not np.isnan(value):
            ink = "white" if value > low + 0.6 * (high - low) else INK
            text = f"{value:.3f}" if math.isfinite(value) else "failed"
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)
    if table.framed is not None:
        row, column = table.framed
        place = column - 0.48, row - 0.48
        axes.add_patch(Rectangle(place, 0.96, 0.96, fill=False, ec=RED, lw=1.8, zorder=3))
    long = max(map(len, table.across)) > 6
    _name_cells(axes, table.across, table.down, 8, turn=40 if long else 0)
    _rule_cells(axes, best.shape, FAINT, 0.8)
    label(axes, one.across, one.down, 8.5)


def _name_cells(
    axes: Axes, across: Sequence[str], down: Sequence[str], size: float, turn: int, step: int = 1
) -> None:
    """Names of every ``step``-th column and row of a table, the columns' turned by some degrees."""
    how: dict[str, Any] = {"rotation": turn, "ha": "right", "rotation_mode": "anchor"}
    how["va"] = "center" if turn == 90 else "top"
    axes.set_xticks(range(0, step * len(across), step), labels=across, **(how if turn else {}))
    axes.set_yticks(range(0, step * len(down), step), labels=down)
    axes.tick_params(which="both", length=0, labelsize=size, labelcolor=INK)
    axes.spines[:].set_visible(False)


def _rule_cells(axes: Axes, shape: tuple[int, ...], colour: str, width: float) -> None:
    """Lines between the cells of a table of (rows, columns)."""
    axes.set_xticks(np.arange(shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=colour, lw=width)
