"""Heat maps of a sweep: the best accuracy for each pair of values."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tlcache.figures.style import (
    FAINT,
    INK,
    RED,
    check,
    check_counts,
    finish,
    fit,
    label,
    name_cells,
    new_figure,
    rule_cells,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_CELLS = 12
_BINS = 8
_CELL = 0.62  # inches

Value = float | str


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """Accuracies by two values.

    Attributes:
        title: Over the map.
        across, down: Names of the two values.
        columns, rows: (n,) values, numbers from 0 on or words.
        accuracies: (n,), NaN where training failed.
        chosen: Which of the n is framed.
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
        maps: One or more.
        title: What the numbers are.

    Raises:
        DataError: If there is no map, one is empty, or its counts differ.
    """
    check_counts("maps", len(maps))
    tables = []
    for one in maps:
        check_counts(one.across, len(one.columns), rows=one.rows, accuracies=one.accuracies)
        tables.append(_table(one))
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
            dark = value > low + 0.6 * (high - low)
            text = f"{value:.3f}" if math.isfinite(value) else "failed"
            style: dict[str, Any] = {"color": "white" if dark else INK, "fontsize": 8}
            axes.text(column, row, text, ha="center", va="center", **style)
    if table.framed is not None:
        row, column = table.framed
        place = column - 0.48, row - 0.48
        axes.add_patch(Rectangle(place, 0.96, 0.96, fill=False, ec=RED, lw=1.8, zorder=3))
    turn = 40 if max(map(len, table.across)) > 6 else 0
    name_cells(axes, table.across, table.down, 8, turn)
    rule_cells(axes, best.shape, FAINT, 0.8)
    label(axes, one.across, one.down, 8.5)
