"""Learning curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tlcache.figures.checks import check
from tlcache.figures.style import BLUE, RED, SOFT, finish, integer_ticks, new_figure, note, tidy
from tlcache.heads.recipe import EpochRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    for axes, name, unit in zip(
        figure.subplots(1, 2), ("loss", "accuracy"), (", nats", ""), strict=True
    ):
        tidy(axes, f"{name.capitalize()}{unit}", "y", pad=20)
        _draw_parts(axes, history, name)
        integer_ticks(axes, epochs)
        if best_epoch is not None:
            value = getattr(history[epochs.index(best_epoch)], f"val_{name}")
            _mark_best(axes, best_epoch, value)
    return finish(figure)


def _draw_parts(axes: Axes, history: Sequence[EpochRecord], name: str) -> None:
    ends = []
    for part, colour in (("train", BLUE), ("val", RED)):
        points = [(record.epoch, getattr(record, f"{part}_{name}")) for record in history]
        points = [(epoch, value) for epoch, value in points if math.isfinite(value)]
        style: dict[str, Any] = {"marker": "o" if len(points) == 1 else None, "clip_on": False}
        if points:  # a run that diverged has epochs, or nothing but epochs, without a number
            axes.plot(*zip(*points, strict=True), color=colour, lw=1.6, **style)
            ends.append((points[-1][1], points[-1][0], part, colour))
    low, high = axes.get_ylim()
    close = len(ends) == 2 and abs(ends[0][0] - ends[1][0]) < 0.08 * (high - low)
    for i, (value, epoch, part, colour) in enumerate(sorted(ends)):
        shift = 10 * i - 5 if close else 0  # points, so that the two names stay apart
        note(axes, part, (epoch, value), (7, shift), va="center", color=colour)


def _mark_best(axes: Axes, epoch: int, value: float) -> None:
    axes.axvline(epoch, color=SOFT, lw=0.8, ls=(0, (3, 3)), zorder=1)
    if math.isfinite(value):
        axes.plot([epoch], [value], "o", color=RED, ms=7.5, mec="white", mew=1.2, clip_on=False)
    low, high = axes.get_xlim()
    side = "right" if epoch > (low + high) / 2 else "left"
    text = f"best: epoch {epoch}, val {value:.3f}"
    note(axes, text, (epoch, 1), (0, 4), xycoords=axes.get_xaxis_transform(), ha=side, color=SOFT)
