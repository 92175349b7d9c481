"""The figure of a benchmark: seconds by stage and accuracies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tlcache.figures.style import (
    INK,
    OVER,
    STAGES,
    check,
    finish,
    fit,
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
    names = [fit(contender["name"], 130, 9) for contender in contenders]
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
