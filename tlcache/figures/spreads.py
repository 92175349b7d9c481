"""What runs took and came to: a benchmark's contenders, repeated heads, and folds of repeats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tlcache.figures.style import (
    BLUE,
    INK,
    OVER,
    RED,
    STAGES,
    check,
    check_counts,
    finish,
    fit,
    integer_ticks,
    interval_dot,
    label,
    legend,
    new_figure,
    note,
    seconds_text,
    short_number,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def benchmark_figure(
    contenders: Sequence[Mapping[str, Any]], accuracy_title: str = "Accuracy and 95% interval"
) -> Figure:
    """Seconds by stage as stacked bars, accuracies with their intervals beside.

    Args:
        contenders: Of each ``name``, ``seconds_by_stage`` {stage: seconds}, ``accuracy`` and
            ``accuracy_ci95`` (low, high); drawn from the top.
        accuracy_title: What the accuracies are of.

    Raises:
        DataError: If there is none.
    """
    count = len(contenders)
    check(count > 0, "contenders", "at least one", "none", "benchmark something first")
    figure = new_figure(9, 1.3 + 0.52 * count)
    times, accuracies = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1.3))
    faster = " (×: times faster than the slowest)" if count > 1 else ""
    tidy(times, f"Seconds by stage{faster}", "x", pad=20)
    tidy(accuracies, accuracy_title, "x", pad=20)
    _stack_seconds(times, contenders)
    for row, contender in enumerate(contenders):
        accuracy, interval = contender["accuracy"], contender["accuracy_ci95"]
        interval_dot(accuracies, interval, [row, row], (accuracy, row), 1.6)
        note(accuracies, f"{accuracy:.3f}", (accuracy, row), (0, 7), ha="center", color=INK)
    accuracies.margins(x=0.2)
    accuracies.locator_params(axis="x", nbins=4)
    accuracies.spines["left"].set_visible(False)
    accuracies.tick_params(axis="y", left=False, labelleft=False)
    times.set_ylim(count - 0.4, -0.6)
    names = [fit(each["name"], 130, 9) for each in contenders]
    times.set_yticks(range(count), labels=names, fontsize=9, color=INK)
    times.tick_params(axis="y", length=0)
    return finish(figure)


def _stack_seconds(axes: Axes, contenders: Sequence[Mapping[str, Any]]) -> None:
    stages = list(dict.fromkeys(stage for c in contenders for stage in c["seconds_by_stage"]))
    totals = np.zeros(len(contenders))
    for i, stage in enumerate(stages):
        part = np.array([c["seconds_by_stage"].get(stage, 0.0) for c in contenders])
        style: dict[str, Any] = {"color": STAGES[i % len(STAGES)], "label": fit(stage, 90, 8)}
        axes.barh(range(len(part)), part, 0.55, left=totals, edgecolor="white", lw=0.6, **style)
        totals += part
    for row, total in enumerate(totals):
        ratio = totals.max() / total if total else 1.0
        text = seconds_text(total) + (f"   {short_number(ratio)}×" if ratio >= 1.05 else "")
        note(axes, text, (total, row), (5, 0), va="center", color=INK)
    axes.set_xlim(0, (totals.max() or 1) * 1.14)
    label(axes, "seconds")
    legend(axes, **OVER, ncols=6, handlelength=0.9, handleheight=0.9, columnspacing=1.4)


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
    piled = counts.max() <= 12
    if piled:
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
    axes.ticklabel_format(axis="x", useOffset=False, style="plain")
    axes.locator_params(axis="x", nbins=6)
    label(axes, "accuracy", "" if piled else "heads")


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
