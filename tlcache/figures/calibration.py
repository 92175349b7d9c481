"""The reliability diagram: whether a model is right as often as it is sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tlcache.figures.checks import check
from tlcache.figures.style import BLUE, INK, RED, SOFT, finish, new_figure, note, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    axes.plot([0, 1], [0, 1], color=SOFT, lw=0.8, ls=(0, (3, 3)), zorder=1)
    for each in bins:
        x, y = each["confidence"], each["accuracy"]
        axes.plot([x, x], [x, y], color=RED, lw=4, alpha=0.35, solid_capstyle="butt")
        axes.plot([x, x], each["accuracy_ci95"], color=BLUE, lw=1.4, solid_capstyle="butt")
        axes.plot([x], [y], "o", color=BLUE, ms=6, mec="white", mew=0.8, clip_on=False)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("accuracy", fontsize=8, color=SOFT)
    key: dict[str, Any] = {"xycoords": "axes fraction", "fontsize": 8, "va": "bottom"}
    note(axes, "accuracy and its 95% interval", (0, 1), (0, 5), color=BLUE, **key)
    note(axes, "gap to what was claimed", (0, 1), (165, 5), color=RED, **key)


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
    axes.set_ylabel("images", fontsize=8, color=SOFT)
    axes.set_xlabel("confidence: probability of the prediction", fontsize=8, color=SOFT)
    key: dict[str, Any] = {"xycoords": "axes fraction", "fontsize": 8, "va": "bottom"}
    note(axes, "right", (0, 1), (0, 1), color=BLUE, **key)
    note(axes, "wrong", (0, 1), (30, 1), color=RED, **key)
