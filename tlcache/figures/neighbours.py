"""Accuracy by the number of neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tlcache.figures.checks import check, check_counts
from tlcache.figures.style import BLUE, INK, RED, SOFT, finish, new_figure, note, tidy
from tlcache.figures.text import fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = (SOFT, RED, BLUE, "#CC79A7")


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
        accuracies: Of each split, one a k.
        intervals: Of each split, (low, high) a k.
        chosen: The k that was chosen.
        chosen_on: What chose it.

    Raises:
        DataError: If there is no k, counts differ, or the chosen one is not among them.
    """
    check_counts("ks", len(ks), **accuracies, **{f"{n} intervals": v for n, v in intervals.items()})
    check(chosen in ks, "k", f"one of {', '.join(map(str, ks))}", str(chosen), "pass a tried one")
    figure = new_figure(6.4, 3.6)
    axes = figure.subplots()
    tidy(axes, "Accuracy by the number of neighbours, with 95% intervals", "y", pad=20)
    axes.set_xscale("log")
    single: dict[str, Any] = {"marker": "o", "ms": 4}
    ends = []
    for colour, (name, values) in zip(_COLOURS, accuracies.items(), strict=False):
        lows, highs = zip(*intervals[name], strict=True)
        axes.fill_between(ks, lows, highs, color=colour, alpha=0.13, lw=0)
        axes.plot(ks, values, color=colour, lw=1.6, **single)
        ends.append((values[-1], name, colour))
    axes.margins(x=0.03)
    _name_ends(axes, ks[-1], sorted(ends))
    axes.set_xticks(ks, labels=[str(k) for k in ks])
    axes.minorticks_off()
    axes.set_xlabel("k, the number of neighbours (logarithmic)", fontsize=8, color=SOFT)
    axes.axvline(chosen, color=SOFT, lw=0.8, ls=(0, (3, 3)), zorder=1)
    side = "right" if ks.index(chosen) > len(ks) / 2 else "left"
    where: dict[str, Any] = {"xycoords": axes.get_xaxis_transform(), "ha": side}
    text = f"k = {chosen}, chosen on {fit(chosen_on, 150, 8.5)}"
    note(axes, text, (chosen, 1), (0, 4), color=INK, **where)
    return finish(figure)


def _name_ends(axes: Any, x: float, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names of the lines beside their ends, from the lowest, never one over the other."""
    low, high = axes.get_ylim()
    points = 190 / (high - low)  # of the axes' height, about
    last = float("-inf")
    for value, name, colour in ends:
        place = max(value * points, last + 11)
        shift, last = place - value * points, place
        note(axes, fit(name, 110, 8.5), (x, value), (8, shift), va="center", color=colour)
