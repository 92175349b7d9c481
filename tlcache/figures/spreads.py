"""Accuracies that came out more than once: of repeated heads, and of the folds of repeats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tlcache.figures.style import (
    BLUE,
    INK,
    RED,
    check,
    check_counts,
    finish,
    integer_ticks,
    interval_dot,
    label,
    new_figure,
    note,
    seconds_text,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def accuracy_spread(accuracies: ArrayLike, seconds: ArrayLike) -> Figure:
    """Repeated heads: how often each accuracy came out, and the seconds of each run.

    Args:
        accuracies, seconds: (n,) each, one a head, in the order of the runs.

    Raises:
        DataError: If there is no head, or the two differ in length.
    """
    values, times = np.asarray(accuracies, float).ravel(), np.asarray(seconds, float).ravel()
    check_counts("accuracies", len(values), seconds=times)
    figure = new_figure(8, 3.1)
    left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
    spread = f"mean {values.mean():.4f}, sd {values.std(ddof=len(values) > 1):.4f}"
    tidy(left, f"Accuracy of {len(values):,} head{'s' * (len(values) > 1)}: {spread}", None)
    _draw_counts(left, values)
    tidy(right, f"Seconds a head: median {seconds_text(float(np.median(times)))}", "y")
    size = 6 if len(times) <= 60 else 3.5
    runs = np.arange(1, len(times) + 1)
    right.plot(runs, times, "o", color=BLUE, ms=size, alpha=0.8, mew=0, clip_on=False)
    right.axhline(float(np.median(times)), color=INK, lw=0.8, zorder=1)
    right.set_ylim(0, (times.max() or 1) * 1.1)
    integer_ticks(right, [1, len(times)], "run")
    return finish(figure)


def _draw_counts(axes: Axes, values: NDArray[np.float64]) -> None:
    marks, counts = np.unique(values.round(9), return_counts=True)
    if len(marks) > 40:
        counts, edges = np.histogram(values, 30)
        marks = (edges[:-1] + edges[1:]) / 2
    gap = np.diff(marks).min() if len(marks) > 1 else 0.01
    margin = max(gap, 0.002)
    axes.set_xlim(marks[0] - margin, marks[-1] + margin)
    if counts.max() <= 12:
        heights = [k + 1 for count in counts for k in range(count)]
        top = max(6, counts.max()) + 1
        # In points: as large as its place in the pile and the distance to the next pile allow.
        size = max(3.0, min(120 / top, 250 * gap / (marks[-1] - marks[0] + 2 * margin)))
        axes.plot(np.repeat(marks, counts), heights, "o", color=BLUE, ms=size, mew=0)
        axes.set_ylim(0.3, top)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
    else:
        axes.bar(marks, counts, 0.8 * gap, color=BLUE)
        label(axes, y="heads")
    axes.ticklabel_format(axis="x", useOffset=False, style="plain")
    axes.locator_params(axis="x", nbins=6)
    label(axes, "accuracy")


def fold_spread(
    accuracies: ArrayLike, means: Mapping[str, tuple[float, tuple[float, float]]]
) -> Figure:
    """A dot for each fold, a line for each repeat's mean, and intervals of the whole beside.

    Args:
        accuracies: (R, K), a row a repeat.
        means: By name, an accuracy and its 95% interval (low, high).

    Raises:
        DataError: If there is no fold.
    """
    values = np.asarray(accuracies, float)
    good = values.ndim == 2 and values.size > 0
    check(good, "accuracies", "(repeats, folds)", str(values.shape), "pass one a fold")
    repeats, folds = values.shape
    figure = new_figure(8, 3.4)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.6, 1))
    tidy(left, f"Accuracy of {folds} folds a repeat, and the repeat's mean", "y")
    tidy(right, "Mean and 95% interval", "y")
    at = np.arange(1, repeats + 1)
    # Equal accuracies lie on each other: they are spread to the sides, in the order of the folds.
    aside = np.linspace(-0.22, 0.22, folds) if folds > 1 else np.zeros(1)
    places, size = (at[:, None] + aside).ravel(), 5.5 if values.size <= 100 else 3
    left.plot(places, values.ravel(), "o", color=BLUE, ms=size, alpha=0.75, mew=0)
    left.hlines(values.mean(axis=1), at - 0.34, at + 0.34, color=RED, lw=1.8)
    integer_ticks(left, [1, repeats], "repeat")
    left.set_xlim(0.5, repeats + 0.5)
    for x, (mean, interval) in enumerate(means.values()):
        interval_dot(right, [x, x], interval, (x, mean), 1.8)
        note(right, f"{mean:.3f}", (x, mean), (8, 0), va="center", color=INK)
    right.set_xlim(-0.5, len(means) - 0.2)
    right.set_xticks(range(len(means)), labels=list(means), color=INK)
    right.tick_params(axis="y", left=False)
    right.spines["left"].set_visible(False)
    return finish(figure)
