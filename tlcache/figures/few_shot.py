"""The few-shot curve: accuracy by labelled images of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tlcache.figures.checks import check
from tlcache.figures.style import BLUE, INK, SOFT, finish, new_figure, note, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def few_shot_figure(points: Sequence[Mapping[str, Any]], judged: str) -> Figure:
    """Mean accuracy by shots with its interval, over the band of the episodes.

    Args:
        points: Of each ``shots``, ``accuracy``, ``accuracy_ci95`` (low, high) and ``episodes95``
            (low, high), by rising shots.
        judged: In a few words, which images the heads were judged on.

    Raises:
        DataError: If there is no point.
    """
    check(len(points) > 0, "points", "at least one", "none", "pass those of a curve")
    shots = [point["shots"] for point in points]
    means = np.array([point["accuracy"] for point in points])
    bands = np.array([point["episodes95"] for point in points]).T
    intervals = np.array([point["accuracy_ci95"] for point in points]).T
    figure = new_figure(7, 3.8)
    axes = figure.subplots()
    tidy(axes, f"Accuracy on {judged}", "y", pad=22)
    band: dict[str, Any] = {"color": BLUE, "alpha": 0.16, "lw": 0, "label": "95% of the episodes"}
    if len(points) > 1:
        axes.fill_between(shots, *bands, **band)
    else:  # a band of one point has no width
        axes.vlines(shots, *bands, **band | {"lw": 12})
    bars = np.abs(intervals - means)
    style: dict[str, Any] = {"color": BLUE, "marker": "o", "ms": 5.5, "lw": 1.6, "elinewidth": 1.2}
    label = "mean, and its 95% interval for other shots and images"
    axes.errorbar(shots, means, bars, capsize=3, label=label, **style)
    named = _apart(shots)
    for count, mean in zip(shots, means, strict=True):
        if len(named) == len(shots):
            note(axes, f"{mean:.3f}", (count, mean), (6, -11), color=INK, fontsize=8)
    _scale(axes, shots, named)
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderpad": 0}
    axes.legend(**place, ncols=2, frameon=False, fontsize=8, labelcolor=INK, columnspacing=1.6)
    return finish(figure)


def _apart(shots: Sequence[int]) -> list[int]:
    """Those whose numbers do not touch on a logarithmic scale."""
    kept = [shots[0]]
    for count in shots[1:]:
        kept += [count] if count / kept[-1] > (shots[-1] / shots[0]) ** 0.08 else []
    return kept


def _scale(axes: Axes, shots: Sequence[int], named: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(shots[0] / 1.25, shots[-1] * 1.35)
    axes.minorticks_off()
    axes.set_xticks(named, labels=[f"{count:,}" for count in named])
    axes.set_xlabel("labelled images of each class", fontsize=8, color=SOFT)
