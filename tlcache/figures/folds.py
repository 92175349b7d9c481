"""The spread of a cross-validation: over folds, over repeats, and what the whole says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from tlcache.figures.checks import check
from tlcache.figures.style import BLUE, INK, RED, finish, integer_ticks, new_figure, note, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    size = 5.5 if values.size <= 100 else 3
    left.plot(
        (at[:, None] + aside).ravel(), values.ravel(), "o", color=BLUE, ms=size, alpha=0.75, mew=0
    )
    left.hlines(values.mean(axis=1), at - 0.34, at + 0.34, color=RED, lw=1.8)
    integer_ticks(left, [1, repeats], "repeat")
    left.set_xlim(0.5, repeats + 0.5)
    for x, (mean, interval) in enumerate(means.values()):
        right.plot([x, x], interval, color=BLUE, lw=1.8, solid_capstyle="butt")
        right.plot([x], [mean], "o", color=BLUE, ms=6)
        note(right, f"{mean:.3f}", (x, mean), (8, 0), va="center", color=INK)
    right.set_xlim(-0.5, len(means) - 0.2)
    right.set_xticks(range(len(means)), labels=list(means), color=INK)
    right.tick_params(axis="y", left=False)
    right.spines["left"].set_visible(False)
    return finish(figure)
