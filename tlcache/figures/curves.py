"""Curves: losses and accuracies over epochs; accuracy over shots, neighbours, and confidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tlcache.figures.style import (
    BLUE,
    DASHED,
    INK,
    OVER,
    RED,
    SOFT,
    check,
    check_counts,
    finish,
    fit,
    integer_ticks,
    label,
    legend,
    mark,
    new_figure,
    note,
    tidy,
)
from tlcache.heads.recipe import EpochRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = (SOFT, RED, BLUE, "#CC79A7")  # of the splits whose neighbours vote
_KEY: dict[str, Any] = {"xycoords": "axes fraction", "fontsize": 8, "va": "bottom"}


def learning_curves(history: Sequence[EpochRecord], best_epoch: int | None = None) -> Figure:
    """Loss and accuracy by epoch, of training and validation; the best epoch is marked.

    Raises:
        DataError: If there is no epoch, or the best one is not among them.
    """
    epochs = [record.epoch for record in history]
    check(len(epochs) > 0, "history", "at least one epoch", "none", "train for an epoch or more")
    known = best_epoch is None or best_epoch in epochs
    check(known, "best epoch", "one of the history", str(best_epoch), "pass the same run's")
    figure = new_figure(8, 3.1)
    panels = zip(figure.subplots(1, 2), ("loss", "accuracy"), (", nats", ""), strict=True)
    edge: dict[str, Any] = {"mec": "white", "mew": 1.2, "clip_on": False}
    for axes, name, unit in panels:
        tidy(axes, f"{name.capitalize()}{unit}", "y", pad=20)
        _draw_parts(axes, history, name)
        integer_ticks(axes, epochs)
        if best_epoch is not None:
            value = getattr(history[epochs.index(best_epoch)], f"val_{name}")
            if math.isfinite(value):
                axes.plot([best_epoch], [value], "o", color=RED, ms=7.5, **edge)
            text = f"best: epoch {best_epoch}, val {value:.3f}"
            mark(axes, best_epoch, text, best_epoch > sum(axes.get_xlim()) / 2, SOFT)
    return finish(figure)


def _draw_parts(axes: Axes, history: Sequence[EpochRecord], name: str) -> None:
    ends = []
    for part, colour in (("train", BLUE), ("val", RED)):
        values = [(record.epoch, getattr(record, f"{part}_{name}")) for record in history]
        points = [point for point in values if math.isfinite(point[1])]
        style: dict[str, Any] = {"marker": "o" if len(points) == 1 else None, "clip_on": False}
        if points:  # a run that diverged has epochs, or nothing but epochs, without a number
            axes.plot(*zip(*points, strict=True), color=colour, lw=1.6, **style)
            ends.append((points[-1][1], points[-1][0], part, colour))
    low, high = axes.get_ylim()
    close = len(ends) == 2 and abs(ends[0][0] - ends[1][0]) < 0.08 * (high - low)
    for i, (value, epoch, part, colour) in enumerate(sorted(ends)):
        shift = 10 * i - 5 if close else 0  # points, so that the two names stay apart
        note(axes, part, (epoch, value), (7, shift), va="center", color=colour)


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
    style: dict[str, Any] = {"color": BLUE, "marker": "o", "ms": 5.5, "lw": 1.6, "elinewidth": 1.2}
    style["label"] = "mean, and its 95% interval for other shots and images"
    axes.errorbar(shots, means, np.abs(intervals - means), capsize=3, **style)
    named = _apart(shots)
    if len(named) == len(shots):
        for count, mean in zip(shots, means, strict=True):
            note(axes, f"{mean:.3f}", (count, mean), (6, -11), color=INK, fontsize=8)
    axes.set_xlim(shots[0] / 1.25, shots[-1] * 1.35)
    _log_ticks(axes, named, [f"{count:,}" for count in named], "labelled images of each class")
    legend(axes, **OVER, ncols=2, columnspacing=1.6)
    return finish(figure)


def _apart(shots: Sequence[int]) -> list[int]:
    """Those whose numbers do not touch on a logarithmic scale."""
    kept = [shots[0]]
    for count in shots[1:]:
        kept += [count] if count / kept[-1] > (shots[-1] / shots[0]) ** 0.08 else []
    return kept


def neighbours_figure(
    ks: Sequence[int],
    accuracies: Mapping[str, Sequence[float]],
    intervals: Mapping[str, Sequence[tuple[float, float]]],
    chosen: int,
    chosen_on: str,
) -> Figure:
    """Accuracy over k, a line and a band of 95% intervals for each split; the chosen k is marked.

    Args:
        ks: Numbers of neighbours, rising.
        accuracies, intervals: Of each split, a number and a (low, high) a k.
        chosen, chosen_on: The k that was chosen, and what chose it.

    Raises:
        DataError: If there is no k, counts differ, or the chosen one is not among them.
    """
    check_counts("ks", len(ks), **accuracies, **{f"{n} intervals": v for n, v in intervals.items()})
    check(chosen in ks, "k", f"one of {', '.join(map(str, ks))}", str(chosen), "pass a tried one")
    figure = new_figure(6.4, 3.6)
    axes = figure.subplots()
    tidy(axes, "Accuracy by the number of neighbours, with 95% intervals", "y", pad=20)
    ends = []
    for colour, (name, values) in zip(_COLOURS, accuracies.items(), strict=False):
        lows, highs = zip(*intervals[name], strict=True)
        axes.fill_between(ks, lows, highs, color=colour, alpha=0.13, lw=0)
        axes.plot(ks, values, color=colour, lw=1.6, marker="o", ms=4)
        ends.append((values[-1], name, colour))
    axes.margins(x=0.03)
    _name_ends(axes, ks[-1], sorted(ends))
    _log_ticks(axes, ks, list(map(str, ks)), "k, the number of neighbours (logarithmic)")
    text = f"k = {chosen}, chosen on {fit(chosen_on, 150, 8.5)}"
    mark(axes, chosen, text, leftwards=ks.index(chosen) > len(ks) / 2, colour=INK)
    return finish(figure)


def _name_ends(axes: Axes, x: float, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names of the lines beside their ends, from the lowest, never one over the other."""
    low, high = axes.get_ylim()
    points = 190 / (high - low)  # of the axes' height, about
    last = float("-inf")
    for value, name, colour in ends:
        place = max(value * points, last + 11)
        shift, last = place - value * points, place
        note(axes, fit(name, 110, 8.5), (x, value), (8, shift), va="center", color=colour)


def _log_ticks(axes: Axes, counts: Sequence[int], names: Sequence[str], what: str) -> None:
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(counts, labels=names)
    label(axes, what)


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
    _draw_bins(below, bins, counts)
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


def _draw_bins(axes: Axes, bins: Sequence[Mapping[str, Any]], counts: NDArray[Any]) -> None:
    right = np.array([each["right"] for each in bins])
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
