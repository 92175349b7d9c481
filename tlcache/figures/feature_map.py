"""A map of features in the plane: a dot an image, coloured by class, the errors ringed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tlcache.figures.style import (
    FAINT,
    INK,
    SOFT,
    STAGES,
    check,
    check_counts,
    finish,
    fit,
    new_figure,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED = 20
_COLOURS, _REST = (STAGES[0], STAGES[5], *STAGES[1:5]), STAGES[6]
_MARKS = ("o", "s", "^", "D")


def feature_map_figure(
    places: ArrayLike,
    labels: ArrayLike,
    predictions: ArrayLike,
    classes: Sequence[str],
    *,
    title: str = "",
    axis_names: tuple[str, str] | None = None,
) -> Figure:
    """Images as dots in the plane.

    Args:
        places: (N, 2).
        labels, predictions: (N,) each, indices into ``classes``.
        classes: Names. Of more than 20, those with the most images are named, and the others grey.
        title: What is shown.
        axis_names: Of the two directions; None where they mean nothing, and no scale is drawn.

    Raises:
        DataError: If there is no image, or the arrays do not fit each other.
    """
    at, truths, found = np.asarray(places), np.asarray(labels), np.asarray(predictions)
    check(at.ndim == 2 and at.shape[1] == 2, "places", "(N, 2)", str(at.shape), "pass two a row")
    check_counts("places", len(at), labels=truths, predictions=found)
    shown = _named(truths, len(classes))
    longest = [fit(classes[k], 130, 8) for k in shown]
    figure = new_figure(7.6, 5.4)
    axes = figure.subplots()
    tidy(axes, fit(title, 430, 9.5), None)
    _draw_dots(axes, at, truths, shown, longest, len(classes))
    wrong = found != truths
    ring: dict[str, Any] = {"ms": 9, "mec": INK, "mew": 1.1, "fillstyle": "none", "zorder": 4}
    axes.plot(*at[wrong].T, "o", label=f"ringed: wrong ({wrong.sum():,})", **ring)
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
    axes.legend(**place, frameon=False, fontsize=8, labelcolor=INK, handletextpad=0.3)
    _scale(axes, axis_names)
    return finish(figure)


def _named(labels: NDArray[Any], classes: int) -> list[int]:
    """The classes that have a colour of their own, in their order."""
    counts = np.bincount(labels, minlength=classes)
    there = np.flatnonzero(counts)
    if len(there) <= NAMED:
        return there.tolist()
    most = there[np.argsort(-counts[there], kind="stable")][: NAMED - 1]
    return np.sort(most).tolist()


def _draw_dots(
    axes: Axes,
    at: NDArray[Any],
    labels: NDArray[Any],
    shown: Sequence[int],
    names: Sequence[str],
    classes: int,
) -> None:
    size = 6.0 if len(at) <= 500 else 4.5 if len(at) <= 2000 else 3.2
    style: dict[str, Any] = {"ls": "", "ms": size, "alpha": 0.75, "mew": 0}
    rest = ~np.isin(labels, shown)
    for i, (k, name) in enumerate(zip(shown, names, strict=True)):
        mine = labels == k
        look: dict[str, Any] = {
            "color": _COLOURS[i % len(_COLOURS)],
            "marker": _MARKS[i // len(_COLOURS)],
        }
        axes.plot(*at[mine].T, label=f"{name} ({mine.sum():,})", **look, **style)
    if rest.any():
        others = len(np.unique(labels[rest]))
        label = f"{others} other classes ({rest.sum():,})"
        axes.plot(*at[rest].T, marker="o", color=_REST, label=label, zorder=1, **style)


def _scale(axes: Axes, names: tuple[str, str] | None) -> None:
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.06)
    if names is None:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set(visible=True, color=FAINT)
        return
    axes.set_xlabel(names[0], fontsize=8, color=SOFT)
    axes.set_ylabel(names[1], fontsize=8, color=SOFT)
